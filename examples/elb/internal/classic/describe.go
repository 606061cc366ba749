package classic

import (
	"encoding/base64"
	"slices"
	"strconv"
)

const (
	pageSize     = 400
	hostedZone   = "Z0000000STICKYLB"
	vpc          = "vpc-00000001"
	groupOwner   = "amazon-elb"
	defaultGroup = "amazon-elb-sg"
)

// page returns where a page of a sorted list begins and ends, and the marker of the next one. A
// marker holds the name before the page, so that a page is right even if that was deleted.
func page(names []string, marker *string, size *int) (from, to int, next *string, err *Fault) {
	limit := pageSize
	if size != nil {
		if limit = *size; limit < 1 || limit > pageSize {
			return 0, 0, nil, NewFault(ValidationError, "PageSize is not between 1 and %d.", pageSize)
		}
	}
	if marker != nil && *marker != "" {
		after, bad := base64.RawURLEncoding.DecodeString(*marker)
		if bad != nil || len(after) > 64 {
			return 0, 0, nil, NewFault(ValidationError, "The Marker is not one of this service.")
		}
		at, found := slices.BinarySearch(names, string(after))
		if from = at; found {
			from++
		}
	}
	if to = min(from+limit, len(names)); to < len(names) {
		text := base64.RawURLEncoding.EncodeToString([]byte(names[to-1]))
		next = &text
	}
	return from, to, next, nil
}

type describeLoadBalancersInput struct {
	LoadBalancerNames []string
	Marker            *string
	PageSize          *int
}

type describeLoadBalancersOutput struct {
	LoadBalancerDescriptions []LoadBalancerDescription
	NextMarker               *string
}

func describeLoadBalancers(c *call, in *describeLoadBalancersInput) (any, *Fault) {
	names := sorted(unique(in.LoadBalancerNames))
	if len(names) == 0 {
		for _, b := range c.doc.LoadBalancers {
			names = append(names, b.Name)
		}
	}
	for _, name := range names {
		if _, err := c.find(name); err != nil {
			return nil, err
		}
	}
	from, to, next, err := page(names, in.Marker, in.PageSize)
	if err != nil {
		return nil, err
	}
	out := describeLoadBalancersOutput{LoadBalancerDescriptions: []LoadBalancerDescription{}, NextMarker: next}
	for _, name := range names[from:to] {
		out.LoadBalancerDescriptions = append(out.LoadBalancerDescriptions, c.doc.LoadBalancer(name).describe())
	}
	return out, nil
}

func (b *LoadBalancer) describe() LoadBalancerDescription {
	d := LoadBalancerDescription{
		LoadBalancerName: b.Name, DNSName: b.DNSName, CanonicalHostedZoneName: b.DNSName, CanonicalHostedZoneNameID: hostedZone,
		ListenerDescriptions: b.Listeners, BackendServerDescriptions: b.Backends, AvailabilityZones: b.Zones, Subnets: b.Subnets,
		Instances: instancesOf(b.Instances), HealthCheck: b.HealthCheck, SecurityGroups: b.SecurityGroups,
		SourceSecurityGroup: SourceSecurityGroup{groupOwner, defaultGroup}, CreatedTime: b.CreatedTime, Scheme: b.Scheme,
		Policies: Policies{[]AppCookieStickinessPolicy{}, []LBCookieStickinessPolicy{}, []string{}},
	}
	if len(b.Subnets) > 0 {
		name := vpc
		d.VPCId = &name
	}
	for _, p := range b.Policies {
		switch p.Type {
		case AppCookiePolicyType:
			d.Policies.AppCookieStickinessPolicies = append(d.Policies.AppCookieStickinessPolicies,
				AppCookieStickinessPolicy{p.Name, p.Value("CookieName")})
		case LBCookiePolicyType:
			d.Policies.LBCookieStickinessPolicies = append(d.Policies.LBCookieStickinessPolicies,
				LBCookieStickinessPolicy{p.Name, int(p.Period())})
		default:
			d.Policies.OtherPolicies = append(d.Policies.OtherPolicies, p.Name)
		}
	}
	return d
}

// Period returns the expiration period of an LBCookieStickinessPolicyType in seconds.
func (p *Policy) Period() int64 {
	n, _ := strconv.ParseInt(p.Value("CookieExpirationPeriod"), 10, 64) // newPolicy has checked it
	return n
}

type describePoliciesInput struct {
	LoadBalancerName string
	PolicyNames      []string
}

type describePoliciesOutput struct{ PolicyDescriptions []PolicyDescription }

func describePolicies(c *call, in *describePoliciesInput) (any, *Fault) {
	policies := samples
	if in.LoadBalancerName != "" {
		b, err := c.find(in.LoadBalancerName)
		if err != nil {
			return nil, err
		}
		policies = b.Policies
	}
	out := describePoliciesOutput{PolicyDescriptions: []PolicyDescription{}}
	for _, p := range policies {
		if len(in.PolicyNames) == 0 || slices.Contains(in.PolicyNames, p.Name) {
			out.PolicyDescriptions = append(out.PolicyDescriptions, PolicyDescription{p.Name, p.Type, p.Attributes})
		}
	}
	if missing := len(unique(in.PolicyNames)) - len(out.PolicyDescriptions); missing > 0 {
		return nil, NewFault(PolicyNotFound, "%d of the policies do not exist.", missing)
	}
	return out, nil
}

type describePolicyTypesInput struct{ PolicyTypeNames []string }

type describePolicyTypesOutput struct{ PolicyTypeDescriptions []PolicyTypeDescription }

func describePolicyTypes(_ *call, in *describePolicyTypesInput) (any, *Fault) {
	out := describePolicyTypesOutput{PolicyTypeDescriptions: []PolicyTypeDescription{}}
	for _, name := range in.PolicyTypeNames {
		if policyTypeOf(name) == nil {
			return nil, NewFault("PolicyTypeNotFound", "There is no policy type %q.", name)
		}
	}
	for _, t := range policyTypes {
		if len(in.PolicyTypeNames) == 0 || slices.Contains(in.PolicyTypeNames, t.PolicyTypeName) {
			out.PolicyTypeDescriptions = append(out.PolicyTypeDescriptions, t.PolicyTypeDescription)
		}
	}
	return out, nil
}

type describeAccountLimitsInput struct {
	Marker   *string
	PageSize *int
}

type describeAccountLimitsOutput struct {
	Limits     []Limit
	NextMarker *string
}

func describeAccountLimits(_ *call, in *describeAccountLimitsInput) (any, *Fault) {
	limits := []Limit{
		{"classic-listeners", strconv.Itoa(MaxListeners)},
		{"classic-load-balancers", strconv.Itoa(MaxLoadBalancers)},
		{"classic-registered-instances", strconv.Itoa(MaxInstances)},
	}
	from, to, next, err := page([]string{limits[0].Name, limits[1].Name, limits[2].Name}, in.Marker, in.PageSize)
	if err != nil {
		return nil, err
	}
	return describeAccountLimitsOutput{limits[from:to], next}, nil
}
