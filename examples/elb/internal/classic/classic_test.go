package classic_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// A world has two instances, and all certificates.
type world struct{}

func (world) Instance(id string) bool {
	return slices.Contains([]string{"i-11111111", "i-22222222"}, id)
}
func (world) Certificate(string) bool                                            { return true }
func (world) States(*classic.LoadBalancer, []string) (s []classic.InstanceState) { return s }
func (world) Leaving(*classic.LoadBalancer) []string                             { return nil }
func (world) DNSName(name string) string                                         { return name + ".test" }

var base = []string{
	"Action=CreateLoadBalancer&LoadBalancerName=lb&AvailabilityZones.member.1=a&Listeners.member.1.Protocol=HTTPS&Listeners.member.1.LoadBalancerPort=443&Listeners.member.1.InstancePort=80&Listeners.member.1.InstanceProtocol=HTTPS&Listeners.member.1.SSLCertificateId=arn",
	"Action=CreateLoadBalancer&LoadBalancerName=net&Subnets.member.1=subnet-0a1b2c3d&Listeners.member.1.Protocol=TCP&Listeners.member.1.LoadBalancerPort=81&Listeners.member.1.InstancePort=81",
	"Action=RegisterInstancesWithLoadBalancer&LoadBalancerName=lb&Instances.member.1.InstanceId=i-11111111",
	"Action=CreateLBCookieStickinessPolicy&LoadBalancerName=lb&PolicyName=p",
	"Action=CreateLoadBalancerPolicy&LoadBalancerName=lb&PolicyName=q&PolicyTypeName=ProxyProtocolPolicyType&PolicyAttributes.member.1.AttributeName=ProxyProtocol&PolicyAttributes.member.1.AttributeValue=true",
	"Action=SetLoadBalancerPoliciesForBackendServer&LoadBalancerName=lb&InstancePort=80&PolicyNames.member.1=q",
	"Action=AddTags&LoadBalancerNames.member.1=lb&Tags.member.1.Key=k&Tags.member.1.Value=v",
}

func run(t testing.TB, d *classic.Document, call string) (*classic.Document, *classic.Fault) {
	form, err := url.ParseQuery(call)
	if err != nil {
		return d, nil
	}
	action, fault := classic.Prepare(form.Get("Action"), form)
	if fault != nil {
		return d, fault
	}
	next, _, fault := action(d, world{}, time.Unix(0, 0))
	return next, fault
}

func text(t testing.TB, d *classic.Document) string {
	t.Helper()
	b, err := d.MarshalIndent()
	require.NoError(t, err)
	return string(b)
}

// Whatever a call says, the document before it is not touched, and the one after it can be read
// again from a file.
func FuzzAction(f *testing.F) {
	d := classic.NewDocument(make([]byte, 32))
	for _, call := range base {
		f.Add(call)
		var fault *classic.Fault
		d, fault = run(f, d, call)
		require.Nil(f, fault, call)
	}
	for _, call := range []string{
		"Action=DeleteLoadBalancer&LoadBalancerName=lb",
		"Action=DeleteLoadBalancerListeners&LoadBalancerName=lb&LoadBalancerPorts.member.1=443",
		"Action=SetLoadBalancerPoliciesOfListener&LoadBalancerName=lb&LoadBalancerPort=443&PolicyNames=",
		"Action=SetLoadBalancerPoliciesOfListener&LoadBalancerName=lb&LoadBalancerPort=443&PolicyNames.member.1=p",
		"Action=DeleteLoadBalancerPolicy&LoadBalancerName=lb&PolicyName=p",
		"Action=ConfigureHealthCheck&LoadBalancerName=lb&HealthCheck.Target=HTTP:80/x&HealthCheck.Interval=10&HealthCheck.Timeout=5&HealthCheck.UnhealthyThreshold=2&HealthCheck.HealthyThreshold=2",
		"Action=ModifyLoadBalancerAttributes&LoadBalancerName=lb&LoadBalancerAttributes.ConnectionDraining.Enabled=true&LoadBalancerAttributes.ConnectionDraining.Timeout=5&LoadBalancerAttributes.AdditionalAttributes.member.1.Key=elb.http.desyncmitigationmode&LoadBalancerAttributes.AdditionalAttributes.member.1.Value=monitor",
		"Action=CreateLoadBalancerPolicy&LoadBalancerName=lb&PolicyName=r&PolicyTypeName=SSLNegotiationPolicyType&PolicyAttributes.member.1.AttributeName=Reference-Security-Policy&PolicyAttributes.member.1.AttributeValue=ELBSecurityPolicy-2015-05",
		"Action=DisableAvailabilityZonesForLoadBalancer&LoadBalancerName=lb&AvailabilityZones.member.1=a",
		"Action=DetachLoadBalancerFromSubnets&LoadBalancerName=net&Subnets.member.1=subnet-0a1b2c3d",
		"Action=DescribeLoadBalancers&PageSize=1&Marker=bGI",
		"Action=SetLoadBalancerListenerSSLCertificate&LoadBalancerName=lb&LoadBalancerPort=443&SSLCertificateId=",
	} {
		f.Add(call)
	}
	before := text(f, d)
	f.Fuzz(func(t *testing.T, call string) {
		next, fault := run(t, d, call)
		require.Equal(t, before, text(t, d))
		if fault != nil {
			require.Same(t, d, next)
			require.NotEmpty(t, fault.Code)
			require.GreaterOrEqual(t, fault.Status, 400)
		}
		written := text(t, next)
		again, err := classic.Parse([]byte(written))
		require.NoError(t, err, written)
		require.Equal(t, written, text(t, again))
	})
}

// Calls that may be repeated succeed again and change nothing.
func TestActions_Repeated(t *testing.T) {
	d := classic.NewDocument(make([]byte, 32))
	for _, call := range base {
		next, fault := run(t, d, call)
		require.Nil(t, fault)
		d = next
		if call == base[3] || call == base[4] { // names of policies are unique
			continue
		}
		again, fault := run(t, d, call)
		require.Nil(t, fault, call)
		require.Equal(t, text(t, d), text(t, again), call)
	}
}

// Whatever calls come together, the file that they leave can be read again.
func TestActions_LeaveWhatCanBeRead(t *testing.T) {
	policy := func(name, kind, attribute, value string) string {
		return "Action=CreateLoadBalancerPolicy&LoadBalancerName=lb&PolicyName=" + name + "&PolicyTypeName=" + kind +
			"&PolicyAttributes.member.1.AttributeName=" + attribute + "&PolicyAttributes.member.1.AttributeValue=" + url.QueryEscape(value)
	}
	create := func(protocol, port, instanceProtocol, certificate string) string {
		return "Action=CreateLoadBalancerListeners&LoadBalancerName=lb&Listeners.member.1.Protocol=" + protocol +
			"&Listeners.member.1.LoadBalancerPort=" + port + "&Listeners.member.1.InstancePort=80&Listeners.member.1.InstanceProtocol=" +
			instanceProtocol + certificate
	}
	const certificate = "&Listeners.member.1.SSLCertificateId=arn"
	tests := map[string]struct {
		calls []string
		want  string // the code of the last call's error
	}{
		"the last TLS listener of a port with authentication is deleted": {calls: []string{
			create("HTTP", "80", "HTTP", ""),
			policy("key", classic.PublicKeyPolicyType, "PublicKey", publicKey(t)),
			policy("keys", classic.BackendAuthenticationPolicyType, "PublicKeyPolicyName", "key"),
			"Action=SetLoadBalancerPoliciesForBackendServer&LoadBalancerName=lb&InstancePort=80&PolicyNames.member.1=keys",
			"Action=DeleteLoadBalancerListeners&LoadBalancerName=lb&LoadBalancerPorts.member.1=443",
		}},
		"another policy has the name of the default one": {calls: []string{
			"Action=DeleteLoadBalancerListeners&LoadBalancerName=lb&LoadBalancerPorts.member.1=443",
			"Action=DeleteLoadBalancerPolicy&LoadBalancerName=lb&PolicyName=" + classic.DefaultNegotiation,
			policy(classic.DefaultNegotiation, classic.LBCookiePolicyType, "CookieExpirationPeriod", "1"),
			create("HTTPS", "443", "HTTP", certificate),
		}, want: classic.InvalidConfigurationRequest},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := classic.NewDocument(make([]byte, 32))
			var fault *classic.Fault
			for _, call := range slices.Concat(base, tt.calls) {
				require.Nil(t, fault)
				d, fault = run(t, d, call)
			}
			if tt.want == "" {
				require.Nil(t, fault)
			} else {
				require.NotNil(t, fault)
				require.Equal(t, tt.want, fault.Code)
			}
			_, err := classic.Parse([]byte(text(t, d)))
			require.NoError(t, err)
		})
	}
}

func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

// The target of a health check has a protocol, a port as people write it, and with HTTP a path.
func TestActions_TargetOfAHealthCheck(t *testing.T) {
	d := classic.NewDocument(make([]byte, 32))
	for _, call := range base {
		var fault *classic.Fault
		d, fault = run(t, d, call)
		require.Nil(t, fault)
	}
	for target, ok := range map[string]bool{
		"TCP:80": true, "ssl:65535": true, "HTTP:80/": true, "HTTPS:443/a?b=c": true,
		"": false, "TCP": false, "TCP:": false, "TCP:0": false, "TCP:65536": false, "TCP:99999999999999999999": false,
		"TCP:+80": false, "TCP:-80": false, "TCP:080": false, "TCP: 80": false, "TCP:80/": false, "UDP:53": false,
		"HTTP:80": false, "HTTP:/": false, "HTTP:080/": false, "HTTP:80:81/": false,
	} {
		form := url.Values{
			"Action": {"ConfigureHealthCheck"}, "LoadBalancerName": {"lb"}, "HealthCheck.Target": {target},
			"HealthCheck.Interval": {"10"}, "HealthCheck.Timeout": {"5"},
			"HealthCheck.UnhealthyThreshold": {"2"}, "HealthCheck.HealthyThreshold": {"2"},
		}
		_, fault := run(t, d, form.Encode())
		require.Equal(t, ok, fault == nil, target)
	}
}
