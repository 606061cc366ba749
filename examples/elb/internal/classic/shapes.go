package classic

import "time"

// The structures of the API that several actions have. The names are those of its service model.

// A Listener is a port of a load balancer and where its traffic goes.
type Listener struct {
	Protocol         string `query:"required"`
	LoadBalancerPort int    `query:"required"`
	InstanceProtocol string
	InstancePort     int     `query:"required"`
	SSLCertificateId *string `json:",omitempty"`
}

// A ListenerDescription is a listener with its policies.
type ListenerDescription struct {
	Listener    Listener
	PolicyNames []string
}

// A BackendServerDescription has the policies of an instance port.
type BackendServerDescription struct {
	InstancePort int
	PolicyNames  []string
}

// A HealthCheck says how instances are checked. Times are in seconds.
type HealthCheck struct {
	Target             string `query:"required"`
	Interval           int    `query:"required"`
	Timeout            int    `query:"required"`
	UnhealthyThreshold int    `query:"required"`
	HealthyThreshold   int    `query:"required"`
}

// A PolicyAttribute is an attribute of a policy that is created.
type PolicyAttribute struct {
	AttributeName  string
	AttributeValue string
}

// An Instance names a registered instance.
type Instance struct {
	InstanceId string `query:"required"`
}

// A Tag is a key and a value.
type Tag struct {
	Key   string `query:"required"`
	Value string
}

// LoadBalancerAttributes are the attributes of a load balancer, or some of them.
type LoadBalancerAttributes struct {
	CrossZoneLoadBalancing *CrossZoneLoadBalancing
	AccessLog              *AccessLog
	ConnectionDraining     *ConnectionDraining
	ConnectionSettings     *ConnectionSettings
	AdditionalAttributes   []AdditionalAttribute
}

// CrossZoneLoadBalancing says whether all zones share the traffic evenly.
type CrossZoneLoadBalancing struct {
	Enabled bool `query:"required"`
}

// An AccessLog is kept and described: nothing is written to S3.
type AccessLog struct {
	Enabled        bool    `query:"required"`
	S3BucketName   *string `json:",omitempty"`
	EmitInterval   *int    `json:",omitempty"`
	S3BucketPrefix *string `json:",omitempty"`
}

// ConnectionDraining says how long requests of an instance that leaves may take, in seconds.
type ConnectionDraining struct {
	Enabled bool `query:"required"`
	Timeout *int
}

// ConnectionSettings has the idle timeout in seconds.
type ConnectionSettings struct {
	IdleTimeout int `query:"required"`
}

// An AdditionalAttribute is an attribute that has no field.
type AdditionalAttribute struct {
	Key   string
	Value string
}

// LoadBalancerDescription is what DescribeLoadBalancers tells about a load balancer.
type LoadBalancerDescription struct {
	LoadBalancerName          string
	DNSName                   string
	CanonicalHostedZoneName   string
	CanonicalHostedZoneNameID string
	ListenerDescriptions      []ListenerDescription
	Policies                  Policies
	BackendServerDescriptions []BackendServerDescription
	AvailabilityZones         []string
	Subnets                   []string
	VPCId                     *string
	Instances                 []Instance
	HealthCheck               HealthCheck
	SourceSecurityGroup       SourceSecurityGroup
	SecurityGroups            []string
	CreatedTime               time.Time
	Scheme                    string
}

// Policies are the policies of a load balancer by their kinds.
type Policies struct {
	AppCookieStickinessPolicies []AppCookieStickinessPolicy
	LBCookieStickinessPolicies  []LBCookieStickinessPolicy
	OtherPolicies               []string
}

// An AppCookieStickinessPolicy follows a cookie of the application.
type AppCookieStickinessPolicy struct{ PolicyName, CookieName string }

// An LBCookieStickinessPolicy binds for a time.
type LBCookieStickinessPolicy struct {
	PolicyName             string
	CookieExpirationPeriod int // in seconds; zero: the browser's session
}

// A SourceSecurityGroup is the group that instances would let in.
type SourceSecurityGroup struct{ OwnerAlias, GroupName string }

// An InstanceState is the state of an instance for a load balancer.
type InstanceState struct {
	InstanceId  string
	State       string
	ReasonCode  string
	Description string
}

// A PolicyDescription is what DescribeLoadBalancerPolicies tells about a policy.
type PolicyDescription struct {
	PolicyName                  string
	PolicyTypeName              string
	PolicyAttributeDescriptions []PolicyAttribute
}

// A PolicyTypeDescription is what DescribeLoadBalancerPolicyTypes tells about a type.
type PolicyTypeDescription struct {
	PolicyTypeName                  string
	Description                     string
	PolicyAttributeTypeDescriptions []PolicyAttributeTypeDescription
}

// A PolicyAttributeTypeDescription says what an attribute may be.
type PolicyAttributeTypeDescription struct {
	AttributeName string
	AttributeType string
	Description   *string
	DefaultValue  *string
	Cardinality   string
}

// A Limit is a limit of the account.
type Limit struct{ Name, Max string }

// A TagDescription has the tags of a load balancer.
type TagDescription struct {
	LoadBalancerName string
	Tags             []Tag
}
