package classic

import (
	"errors"
	"net/url"
	"slices"
	"time"

	"github.com/stickylb/stickylb/examples/elb/internal/query"
)

// A World knows what is not in a document.
type World interface {
	// Instance reports whether there is an instance with that ID, registered or not.
	Instance(id string) bool
	// Certificate reports whether there is a certificate with that ARN.
	Certificate(arn string) bool
	// States returns the states of instances, registered or not, for a load balancer.
	States(b *LoadBalancer, ids []string) []InstanceState
	// Leaving returns the instances that are no longer registered but still have requests in
	// flight.
	Leaving(b *LoadBalancer) []string
	// DNSName returns the name of a new load balancer.
	DNSName(name string) string
}

// A call is one call of an action under way. doc is replaced and never changed.
type call struct {
	world World
	now   time.Time
	doc   *Document
}

// An Action is a call that is ready to run: [Prepare] has read its parameters.
type Action func(d *Document, w World, now time.Time) (next *Document, result any, err *Fault)

// Prepare returns the action of that name with the parameters of a call. It returns an error if
// there is no such action, or if the parameters are not those of the action.
func Prepare(name string, form url.Values) (Action, *Fault) {
	prepare, ok := actions[name]
	if !ok {
		return nil, NewFault("InvalidAction", "There is no action %q in version %s.", name, Version)
	}
	return prepare(form)
}

// Names returns the names of all actions, sorted.
func Names() []string {
	var names []string
	for name := range actions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Version is the version of the API.
const Version = "2012-06-01"

var actions = map[string]func(url.Values) (Action, *Fault){
	"AddTags":                                 of(addTags),
	"ApplySecurityGroupsToLoadBalancer":       of(applySecurityGroups),
	"AttachLoadBalancerToSubnets":             of(attachSubnets),
	"ConfigureHealthCheck":                    of(configureHealthCheck),
	"CreateAppCookieStickinessPolicy":         of(createAppCookiePolicy),
	"CreateLBCookieStickinessPolicy":          of(createLBCookiePolicy),
	"CreateLoadBalancer":                      of(createLoadBalancer),
	"CreateLoadBalancerListeners":             of(createListeners),
	"CreateLoadBalancerPolicy":                of(createPolicy),
	"DeleteLoadBalancer":                      of(deleteLoadBalancer),
	"DeleteLoadBalancerListeners":             of(deleteListeners),
	"DeleteLoadBalancerPolicy":                of(deletePolicy),
	"DeregisterInstancesFromLoadBalancer":     of(deregisterInstances),
	"DescribeAccountLimits":                   of(describeAccountLimits),
	"DescribeInstanceHealth":                  of(describeInstanceHealth),
	"DescribeLoadBalancerAttributes":          of(describeAttributes),
	"DescribeLoadBalancerPolicies":            of(describePolicies),
	"DescribeLoadBalancerPolicyTypes":         of(describePolicyTypes),
	"DescribeLoadBalancers":                   of(describeLoadBalancers),
	"DescribeTags":                            of(describeTags),
	"DetachLoadBalancerFromSubnets":           of(detachSubnets),
	"DisableAvailabilityZonesForLoadBalancer": of(disableZones),
	"EnableAvailabilityZonesForLoadBalancer":  of(enableZones),
	"ModifyLoadBalancerAttributes":            of(modifyAttributes),
	"RegisterInstancesWithLoadBalancer":       of(registerInstances),
	"RemoveTags":                              of(removeTags),
	"SetLoadBalancerListenerSSLCertificate":   of(setListenerCertificate),
	"SetLoadBalancerPoliciesForBackendServer": of(setBackendPolicies),
	"SetLoadBalancerPoliciesOfListener":       of(setListenerPolicies),
}

// of makes an entry of actions from the function that runs the action.
func of[In any](run func(c *call, in *In) (any, *Fault)) func(url.Values) (Action, *Fault) {
	return func(form url.Values) (Action, *Fault) {
		in := new(In)
		if err := query.Decode(form, in); err != nil {
			if p, ok := errors.AsType[*query.ParameterError](err); ok && !p.Missing {
				return nil, NewFault("MalformedInput", "The %s.", err)
			}
			return nil, NewFault(ValidationError, "The call is not complete or too large: %s.", err)
		}
		return action(run, in), nil
	}
}

func action[In any](run func(c *call, in *In) (any, *Fault), in *In) Action {
	return func(d *Document, w World, now time.Time) (*Document, any, *Fault) {
		c := &call{world: w, now: now, doc: d}
		result, err := run(c, in)
		if err != nil {
			return d, nil, err
		}
		return c.doc, result, nil
	}
}

// find returns the load balancer of that name.
func (c *call) find(name string) (*LoadBalancer, *Fault) {
	if b := c.doc.LoadBalancer(name); b != nil {
		return b, nil
	}
	return nil, NewFault(LoadBalancerNotFound, "There is no load balancer named %q.", name)
}

// change replaces the load balancer of that name by a copy that edit has changed.
func (c *call) change(name string, edit func(b *LoadBalancer) *Fault) *Fault {
	b, err := c.find(name)
	if err != nil {
		return err
	}
	b = b.clone()
	if err := edit(b); err != nil {
		return err
	}
	c.doc = c.doc.with(b)
	return nil
}

// unique returns each of the names once, in their order. It is not nil.
func unique(names []string) []string {
	kept, seen := []string{}, make(map[string]bool, len(names))
	for _, name := range names {
		if !seen[name] {
			seen[name] = true
			kept = append(kept, name)
		}
	}
	return kept
}
