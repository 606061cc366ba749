package classic

import "slices"

const (
	desyncMode  = "elb.http.desyncmitigationmode"
	idleTimeout = 60  // seconds
	drainTime   = 300 // seconds
)

func defaultAttributes() LoadBalancerAttributes {
	timeout := drainTime
	return LoadBalancerAttributes{
		CrossZoneLoadBalancing: &CrossZoneLoadBalancing{},
		AccessLog:              &AccessLog{},
		ConnectionDraining:     &ConnectionDraining{Timeout: &timeout},
		ConnectionSettings:     &ConnectionSettings{IdleTimeout: idleTimeout},
		AdditionalAttributes:   []AdditionalAttribute{{desyncMode, "defensive"}},
	}
}

// incomplete reports whether an attribute is missing. Those of a load balancer never are.
func (a *LoadBalancerAttributes) incomplete() bool {
	return a.CrossZoneLoadBalancing == nil || a.AccessLog == nil || a.ConnectionDraining == nil ||
		a.ConnectionDraining.Timeout == nil || a.ConnectionSettings == nil
}

// check returns an error if a value is not allowed.
func (a *LoadBalancerAttributes) check() *Fault {
	if d := a.ConnectionDraining; d != nil && d.Timeout != nil && (*d.Timeout < 1 || *d.Timeout > 3600) {
		return NewFault(ValidationError, "ConnectionDraining.Timeout is not between 1 and 3600 seconds.")
	}
	if s := a.ConnectionSettings; s != nil && (s.IdleTimeout < 1 || s.IdleTimeout > 4000) {
		return NewFault(ValidationError, "ConnectionSettings.IdleTimeout is not between 1 and 4000 seconds.")
	}
	if l := a.AccessLog; l != nil {
		if l.EmitInterval != nil && *l.EmitInterval != 5 && *l.EmitInterval != 60 {
			return NewFault(InvalidConfigurationRequest, "AccessLog.EmitInterval is neither 5 nor 60 minutes.")
		}
		if l.Enabled && l.S3BucketName == nil {
			return NewFault(InvalidConfigurationRequest, "AccessLog needs an S3BucketName.")
		}
	}
	for _, more := range a.AdditionalAttributes {
		if more.Key != desyncMode {
			return NewFault("LoadBalancerAttributeNotFound", "There is no attribute %q.", more.Key)
		}
		if !slices.Contains([]string{"monitor", "defensive", "strictest"}, more.Value) {
			return NewFault(InvalidConfigurationRequest, "%s is none of monitor, defensive and strictest.", desyncMode)
		}
	}
	return nil
}

type modifyAttributesInput struct {
	LoadBalancerName       string                 `query:"required"`
	LoadBalancerAttributes LoadBalancerAttributes `query:"required"`
}

type modifyAttributesOutput struct {
	LoadBalancerName       string
	LoadBalancerAttributes LoadBalancerAttributes
}

// modifyAttributes changes the attributes that are named, and answers with them.
func modifyAttributes(c *call, in *modifyAttributesInput) (any, *Fault) {
	set := &in.LoadBalancerAttributes
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		if d := set.ConnectionDraining; d != nil && d.Timeout == nil {
			d.Timeout = b.Attributes.ConnectionDraining.Timeout
		}
		if err := set.check(); err != nil {
			return err
		}
		if set.CrossZoneLoadBalancing != nil {
			b.Attributes.CrossZoneLoadBalancing = set.CrossZoneLoadBalancing
		}
		if set.AccessLog != nil {
			b.Attributes.AccessLog = set.AccessLog
		}
		if set.ConnectionDraining != nil {
			b.Attributes.ConnectionDraining = set.ConnectionDraining
		}
		if set.ConnectionSettings != nil {
			b.Attributes.ConnectionSettings = set.ConnectionSettings
		}
		if n := len(set.AdditionalAttributes); n > 0 {
			b.Attributes.AdditionalAttributes = set.AdditionalAttributes[n-1:]
		}
		return nil
	})
	return modifyAttributesOutput{in.LoadBalancerName, *set}, err
}

type describeAttributesOutput struct{ LoadBalancerAttributes LoadBalancerAttributes }

func describeAttributes(c *call, in *nameInput) (any, *Fault) {
	b, err := c.find(in.LoadBalancerName)
	if err != nil {
		return nil, err
	}
	return describeAttributesOutput{b.Attributes}, nil
}
