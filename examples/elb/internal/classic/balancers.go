package classic

import (
	"maps"
	"regexp"
	"slices"
)

var (
	loadBalancerName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?$`)
	policyName       = regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`)
	zoneName         = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,40}$`)
	subnetID         = regexp.MustCompile(`^subnet-[0-9a-f]{8,17}$`)
	groupID          = regexp.MustCompile(`^sg-[0-9a-f]{8,17}$`)
)

func checkName(parameter, name string, pattern *regexp.Regexp) *Fault {
	if !pattern.MatchString(name) {
		return NewFault(ValidationError, "%s %q may have letters, digits and hyphens, and not too many.", parameter, name)
	}
	return nil
}

type createLoadBalancerInput struct {
	LoadBalancerName  string     `query:"required"`
	Listeners         []Listener `query:"required"`
	AvailabilityZones []string
	Subnets           []string
	SecurityGroups    []string
	Scheme            string
	Tags              []Tag
}

type createLoadBalancerOutput struct{ DNSName string }

func createLoadBalancer(c *call, in *createLoadBalancerInput) (any, *Fault) {
	b, err := c.newLoadBalancer(in)
	if err != nil {
		return nil, err
	}
	if former := c.doc.LoadBalancer(b.Name); former != nil {
		if !former.sameAs(b) {
			return nil, NewFault("DuplicateLoadBalancerName", "There is a load balancer %q with another configuration.", b.Name)
		}
		return createLoadBalancerOutput{former.DNSName}, nil
	}
	if len(c.doc.LoadBalancers) >= MaxLoadBalancers {
		return nil, NewFault("TooManyLoadBalancers", "There are %d load balancers already.", MaxLoadBalancers)
	}
	c.doc = c.doc.with(b)
	return createLoadBalancerOutput{b.DNSName}, nil
}

// newLoadBalancer returns the load balancer that a call describes, with the defaults.
func (c *call) newLoadBalancer(in *createLoadBalancerInput) (*LoadBalancer, *Fault) {
	b := &LoadBalancer{
		Name: in.LoadBalancerName, Scheme: in.Scheme, CreatedTime: c.now.UTC(),
		Zones: unique(in.AvailabilityZones), Subnets: unique(in.Subnets), SecurityGroups: unique(in.SecurityGroups),
		Policies: []Policy{}, Backends: []BackendServerDescription{}, Instances: []string{}, Attributes: defaultAttributes(),
	}
	if err := checkName("LoadBalancerName", b.Name, loadBalancerName); err != nil {
		return nil, err
	}
	b.DNSName = c.world.DNSName(b.Name)
	if b.Scheme == "" {
		b.Scheme = "internet-facing"
	}
	switch {
	case b.Scheme != "internet-facing" && b.Scheme != "internal":
		return nil, NewFault("InvalidScheme", "The scheme %q is neither internet-facing nor internal.", b.Scheme)
	case len(in.Listeners) == 0:
		return nil, NewFault(ValidationError, "A load balancer needs a listener.")
	case (len(b.Zones) == 0) == (len(b.Subnets) == 0):
		return nil, NewFault(ValidationError, "A load balancer needs either AvailabilityZones or Subnets.")
	case len(b.Subnets) == 0 && len(b.SecurityGroups) > 0:
		return nil, NewFault(InvalidConfigurationRequest, "Security groups need Subnets.")
	}
	if err := checkZones(b.Zones); err != nil {
		return nil, err
	}
	if err := checkSubnets(in.Subnets); err != nil {
		return nil, err
	}
	if err := checkGroups(b.SecurityGroups); err != nil {
		return nil, err
	}
	var err *Fault
	if b.Tags, err = mergeTags(nil, in.Tags); err != nil {
		return nil, err
	}
	if err := c.addListeners(b, in.Listeners); err != nil {
		return nil, err
	}
	b.HealthCheck = defaultHealthCheck(b.Listeners[0].Listener.InstancePort)
	return b, nil
}

// sameAs reports whether creating b once more would make what the load balancer is.
func (b *LoadBalancer) sameAs(o *LoadBalancer) bool {
	listeners := func(b *LoadBalancer) map[int]string {
		all := make(map[int]string)
		for _, l := range b.Listeners {
			all[l.Listener.LoadBalancerPort] = l.Listener.String()
		}
		return all
	}
	return b.Scheme == o.Scheme && equalSets(b.Zones, o.Zones) && equalSets(b.Subnets, o.Subnets) &&
		equalSets(b.SecurityGroups, o.SecurityGroups) && maps.Equal(listeners(b), listeners(o))
}

func equalSets(a, b []string) bool { return slices.Equal(sorted(a), sorted(b)) }

func sorted(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return names
}

type nameInput struct {
	LoadBalancerName string `query:"required"`
}

func deleteLoadBalancer(c *call, in *nameInput) (any, *Fault) {
	c.doc = c.doc.without(in.LoadBalancerName)
	return nil, nil
}

type zonesInput struct {
	LoadBalancerName  string   `query:"required"`
	AvailabilityZones []string `query:"required"`
}

type zonesOutput struct{ AvailabilityZones []string }

func checkZones(zones []string) *Fault {
	for _, zone := range zones {
		if !zoneName.MatchString(zone) {
			return NewFault(ValidationError, "%q is not the name of an Availability Zone.", zone)
		}
	}
	return nil
}

// zoned returns an error if the load balancer has subnets, whose zones cannot be changed apart.
func (b *LoadBalancer) zoned() *Fault {
	if len(b.Subnets) > 0 {
		return NewFault(InvalidConfigurationRequest, "Load balancer %q has subnets, not Availability Zones.", b.Name)
	}
	return nil
}

func enableZones(c *call, in *zonesInput) (any, *Fault) {
	out := zonesOutput{}
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		if err := checkZones(in.AvailabilityZones); err != nil {
			return err
		}
		b.Zones = unique(slices.Concat(b.Zones, in.AvailabilityZones))
		out.AvailabilityZones = b.Zones
		return b.zoned()
	})
	return out, err
}

func disableZones(c *call, in *zonesInput) (any, *Fault) {
	out := zonesOutput{}
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		if err := b.zoned(); err != nil {
			return err
		}
		b.Zones = without(b.Zones, in.AvailabilityZones)
		if out.AvailabilityZones = b.Zones; len(b.Zones) == 0 {
			return NewFault(InvalidConfigurationRequest, "The last Availability Zone cannot be disabled.")
		}
		return nil
	})
	return out, err
}

// without returns the names that are not in gone.
func without(names, gone []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(gone, name) })
}

type subnetsInput struct {
	LoadBalancerName string   `query:"required"`
	Subnets          []string `query:"required"`
}

type subnetsOutput struct{ Subnets []string }

func checkSubnets(subnets []string) *Fault {
	for _, id := range subnets {
		if !subnetID.MatchString(id) {
			return NewFault("SubnetNotFound", "There is no subnet %q: IDs are like subnet-0a1b2c3d.", id)
		}
	}
	if len(unique(subnets)) < len(subnets) {
		return NewFault("InvalidSubnet", "A subnet is named twice.")
	}
	return nil
}

// subnetted returns an error if the load balancer has Availability Zones and so no subnets.
func (b *LoadBalancer) subnetted() *Fault {
	if len(b.Subnets) == 0 {
		return NewFault(InvalidConfigurationRequest, "Load balancer %q was created without subnets.", b.Name)
	}
	return nil
}

func attachSubnets(c *call, in *subnetsInput) (any, *Fault) {
	out := subnetsOutput{}
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		if err := b.subnetted(); err != nil {
			return err
		}
		b.Subnets = unique(slices.Concat(b.Subnets, in.Subnets))
		out.Subnets = b.Subnets
		return checkSubnets(in.Subnets)
	})
	return out, err
}

func detachSubnets(c *call, in *subnetsInput) (any, *Fault) {
	out := subnetsOutput{}
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		if err := b.subnetted(); err != nil {
			return err
		}
		b.Subnets = without(b.Subnets, in.Subnets)
		if out.Subnets = b.Subnets; len(b.Subnets) == 0 {
			return NewFault(InvalidConfigurationRequest, "The last subnet cannot be detached.")
		}
		return nil
	})
	return out, err
}

type groupsInput struct {
	LoadBalancerName string   `query:"required"`
	SecurityGroups   []string `query:"required"`
}

type groupsOutput struct{ SecurityGroups []string }

func checkGroups(groups []string) *Fault {
	for _, id := range groups {
		if !groupID.MatchString(id) {
			return NewFault("InvalidSecurityGroup", "There is no security group %q: IDs are like sg-0a1b2c3d.", id)
		}
	}
	return nil
}

func applySecurityGroups(c *call, in *groupsInput) (any, *Fault) {
	out := groupsOutput{}
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		if err := b.subnetted(); err != nil {
			return err
		}
		b.SecurityGroups = unique(in.SecurityGroups)
		out.SecurityGroups = b.SecurityGroups
		return checkGroups(in.SecurityGroups)
	})
	return out, err
}
