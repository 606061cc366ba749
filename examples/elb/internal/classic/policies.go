package classic

import (
	"slices"
	"strconv"
)

// newPolicy returns a policy with the defaults of its type. It returns an error if the attributes
// do not fit the type.
func (b *LoadBalancer) newPolicy(name, kind string, given []PolicyAttribute) (Policy, *Fault) {
	if err := checkName("PolicyName", name, policyName); err != nil {
		return Policy{}, err
	}
	t := policyTypeOf(kind)
	if t == nil {
		return Policy{}, NewFault("PolicyTypeNotFound", "There is no policy type %q.", kind)
	}
	p := Policy{Name: name, Type: kind}
	var err *Fault
	if p.Attributes, err = t.fill(given); err != nil {
		return p, err
	}
	for _, key := range p.Values("PublicKeyPolicyName") {
		if other := b.Policy(key); other == nil || other.Type != PublicKeyPolicyType {
			return p, NewFault(InvalidConfigurationRequest, "%q is not a policy of the type %s.", key, PublicKeyPolicyType)
		}
	}
	return p, nil
}

func (c *call) addPolicy(balancer, name, kind string, given []PolicyAttribute) *Fault {
	return c.change(balancer, func(b *LoadBalancer) *Fault {
		p, err := b.newPolicy(name, kind, given)
		switch {
		case err != nil:
			return err
		case b.Policy(name) != nil:
			return NewFault("DuplicatePolicyName", "Load balancer %q has a policy %q already.", b.Name, name)
		case len(b.Policies) >= maxPolicies:
			return NewFault("TooManyPolicies", "A load balancer has no more than %d policies.", maxPolicies)
		}
		b.Policies = append(slices.Clip(b.Policies), p)
		return nil
	})
}

type createPolicyInput struct {
	LoadBalancerName string `query:"required"`
	PolicyName       string `query:"required"`
	PolicyTypeName   string `query:"required"`
	PolicyAttributes []PolicyAttribute
}

func createPolicy(c *call, in *createPolicyInput) (any, *Fault) {
	return nil, c.addPolicy(in.LoadBalancerName, in.PolicyName, in.PolicyTypeName, in.PolicyAttributes)
}

type createLBCookiePolicyInput struct {
	LoadBalancerName       string `query:"required"`
	PolicyName             string `query:"required"`
	CookieExpirationPeriod int
}

func createLBCookiePolicy(c *call, in *createLBCookiePolicyInput) (any, *Fault) {
	return nil, c.addPolicy(in.LoadBalancerName, in.PolicyName, LBCookiePolicyType,
		[]PolicyAttribute{{"CookieExpirationPeriod", strconv.Itoa(in.CookieExpirationPeriod)}})
}

type createAppCookiePolicyInput struct {
	LoadBalancerName string `query:"required"`
	PolicyName       string `query:"required"`
	CookieName       string `query:"required"`
}

func createAppCookiePolicy(c *call, in *createAppCookiePolicyInput) (any, *Fault) {
	return nil, c.addPolicy(in.LoadBalancerName, in.PolicyName, AppCookiePolicyType,
		[]PolicyAttribute{{"CookieName", in.CookieName}})
}

type deletePolicyInput struct {
	LoadBalancerName string `query:"required"`
	PolicyName       string `query:"required"`
}

func deletePolicy(c *call, in *deletePolicyInput) (any, *Fault) {
	return nil, c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		if user := b.userOf(in.PolicyName); user != "" {
			return NewFault(InvalidConfigurationRequest, "The policy %q is in use by %s.", in.PolicyName, user)
		}
		b.Policies = slices.DeleteFunc(slices.Clone(b.Policies), func(p Policy) bool { return p.Name == in.PolicyName })
		return nil
	})
}

// userOf returns who uses a policy, or "".
func (b *LoadBalancer) userOf(policy string) string {
	for _, l := range b.Listeners {
		if slices.Contains(l.PolicyNames, policy) {
			return "the listener at port " + strconv.Itoa(l.Listener.LoadBalancerPort)
		}
	}
	for _, s := range b.Backends {
		if slices.Contains(s.PolicyNames, policy) {
			return "the instance port " + strconv.Itoa(s.InstancePort)
		}
	}
	for _, p := range b.Policies {
		if slices.Contains(p.Values("PublicKeyPolicyName"), policy) {
			return "the policy " + p.Name
		}
	}
	return ""
}

type setListenerPoliciesInput struct {
	LoadBalancerName string   `query:"required"`
	LoadBalancerPort int      `query:"required"`
	PolicyNames      []string `query:"required"`
}

func setListenerPolicies(c *call, in *setListenerPoliciesInput) (any, *Fault) {
	return nil, c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		l, err := b.findListener(in.LoadBalancerPort)
		if err != nil {
			return err
		}
		names := unique(in.PolicyNames)
		if err := b.checkPoliciesExist(names); err != nil {
			return err
		}
		if Secure(l.Listener.Protocol) && b.countOf(names, SSLNegotiationPolicyType) == 0 {
			names = append(names, b.defaultNegotiation())
		}
		l.PolicyNames = names
		return b.checkListenerPolicies(l.Listener, names)
	})
}

func (b *LoadBalancer) checkPoliciesExist(names []string) *Fault {
	for _, name := range names {
		if b.Policy(name) == nil {
			return NewFault(PolicyNotFound, "Load balancer %q has no policy %q.", b.Name, name)
		}
	}
	return nil
}

// countOf returns how many of the policies are of a type.
func (b *LoadBalancer) countOf(names []string, kinds ...string) (n int) {
	for _, name := range names {
		if p := b.Policy(name); p != nil && slices.Contains(kinds, p.Type) {
			n++
		}
	}
	return n
}

// checkListenerPolicies returns an error if a listener cannot have these policies together.
func (b *LoadBalancer) checkListenerPolicies(l Listener, names []string) *Fault {
	if err := b.checkPoliciesExist(names); err != nil {
		return err
	}
	sticky := b.countOf(names, LBCookiePolicyType, AppCookiePolicyType)
	negotiation := b.countOf(names, SSLNegotiationPolicyType)
	switch {
	case sticky+negotiation < len(names):
		return NewFault(InvalidConfigurationRequest, "One of the policies is not for listeners but for instance ports.")
	case sticky > 0 && !l.HTTP():
		return NewFault(InvalidConfigurationRequest, "A listener for %s cannot be sticky by cookies.", l.Protocol)
	case sticky > 1 || negotiation > 1:
		return NewFault(InvalidConfigurationRequest, "A listener has no two policies of one kind.")
	case negotiation > 0 && !Secure(l.Protocol):
		return NewFault(InvalidConfigurationRequest, "A listener for %s negotiates no TLS.", l.Protocol)
	case negotiation == 0 && Secure(l.Protocol):
		return NewFault(InvalidConfigurationRequest, "A listener for %s needs a policy of the type %s.", l.Protocol, SSLNegotiationPolicyType)
	}
	return nil
}

// defaultNegotiation returns the name of the policy that TLS listeners have if none is named. The
// load balancer has the policy afterwards.
func (b *LoadBalancer) defaultNegotiation() string {
	if b.Policy(DefaultNegotiation) == nil {
		p := *samplePolicy(DefaultNegotiation)
		b.Policies = append(slices.Clip(b.Policies), p)
	}
	return DefaultNegotiation
}

type setBackendPoliciesInput struct {
	LoadBalancerName string   `query:"required"`
	InstancePort     int      `query:"required"`
	PolicyNames      []string `query:"required"`
}

func setBackendPolicies(c *call, in *setBackendPoliciesInput) (any, *Fault) {
	return nil, c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		names := unique(in.PolicyNames)
		if err := b.checkBackendPolicies(in.InstancePort, names); err != nil {
			return err
		}
		if b.countOf(names, BackendAuthenticationPolicyType) > 0 && !b.usesTLS(in.InstancePort) {
			return NewFault(InvalidConfigurationRequest, "The instances speak no TLS at port %d.", in.InstancePort)
		}
		b.Backends = slices.DeleteFunc(b.Backends, func(s BackendServerDescription) bool { return s.InstancePort == in.InstancePort })
		if len(names) > 0 {
			b.Backends = append(b.Backends, BackendServerDescription{in.InstancePort, names})
		}
		return nil
	})
}

// checkBackendPolicies returns an error if an instance port cannot have these policies. It may keep
// policies of authentication after the last listener with TLS, where they have no effect.
func (b *LoadBalancer) checkBackendPolicies(port int, names []string) *Fault {
	if err := b.checkPoliciesExist(names); err != nil {
		return err
	}
	switch {
	case !b.usesPort(port):
		return NewFault(InvalidConfigurationRequest, "No listener of load balancer %q uses the instance port %d.", b.Name, port)
	case b.countOf(names, BackendAuthenticationPolicyType, ProxyProtocolPolicyType) < len(names):
		return NewFault(InvalidConfigurationRequest, "One of the policies is not for instance ports.")
	}
	return nil
}
