// Package classic is the configuration of Classic Load Balancers and the actions of their API,
// version 2012-06-01. A [Document] is the whole configuration. An action is a function of a
// document and the parameters of a call; it returns another document and the answer, and changes
// nothing itself. So whoever runs actions, the API or a page, does the same, and a document can be
// written to a file or thrown away as a whole.
//
// The package opens no sockets and moves no traffic. What only the running program knows, such as
// the health of an instance, it asks a [World].
//
// Some things have no meaning outside of AWS: subnets, security groups, the scheme, access logs to
// S3, the desync mitigation mode and tags. They are checked, kept and described, and nothing else.
package classic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Limits of an account and of a load balancer.
const (
	MaxLoadBalancers = 20
	MaxListeners     = 100
	MaxInstances     = 1000
	maxPolicies      = 100
	maxTags          = 10
)

// A Document is the whole configuration. It must not be changed.
type Document struct {
	Format        int             `json:"format"`
	Keys          [][]byte        `json:"keys"` // seal the cookies of all policies
	LoadBalancers []*LoadBalancer `json:"load_balancers"`
}

const format = 1

// NewDocument returns an empty document with the key that seals cookies.
func NewDocument(key []byte) *Document { return &Document{Format: format, Keys: [][]byte{key}} }

// A LoadBalancer is the configuration of one load balancer.
type LoadBalancer struct {
	Name           string
	DNSName        string
	Scheme         string
	CreatedTime    time.Time
	Listeners      []ListenerDescription
	Policies       []Policy
	Backends       []BackendServerDescription // those with policies
	Zones          []string
	Subnets        []string
	SecurityGroups []string
	Instances      []string
	HealthCheck    HealthCheck
	Attributes     LoadBalancerAttributes
	Tags           []Tag
}

// A Policy is a policy of a load balancer. Attributes has all attributes, also those with their
// default.
type Policy struct {
	Name       string
	Type       string
	Attributes []PolicyAttribute
}

// Values returns the values of an attribute.
func (p *Policy) Values(attribute string) (values []string) {
	for _, a := range p.Attributes {
		if a.AttributeName == attribute {
			values = append(values, a.AttributeValue)
		}
	}
	return values
}

// Value returns the value of an attribute, or "".
func (p *Policy) Value(attribute string) string {
	if values := p.Values(attribute); len(values) > 0 {
		return values[0]
	}
	return ""
}

// LoadBalancer returns the load balancer of that name, or nil.
func (d *Document) LoadBalancer(name string) *LoadBalancer {
	if i, ok := d.find(name); ok {
		return d.LoadBalancers[i]
	}
	return nil
}

// find searches the load balancers, which are sorted by name.
func (d *Document) find(name string) (int, bool) {
	return slices.BinarySearchFunc(d.LoadBalancers, name, func(b *LoadBalancer, name string) int {
		return strings.Compare(b.Name, name)
	})
}

// with returns the document with b in place of the load balancer of that name.
func (d *Document) with(b *LoadBalancer) *Document {
	next := *d
	next.LoadBalancers = slices.Clone(d.LoadBalancers)
	if i, ok := d.find(b.Name); ok {
		next.LoadBalancers[i] = b
	} else {
		next.LoadBalancers = slices.Insert(next.LoadBalancers, i, b)
	}
	return &next
}

// without returns the document without the load balancer of that name.
func (d *Document) without(name string) *Document {
	i, ok := d.find(name)
	if !ok {
		return d
	}
	next := *d
	next.LoadBalancers = slices.Delete(slices.Clone(d.LoadBalancers), i, i+1)
	return &next
}

// Listener returns the listener at a port of the load balancer, or nil.
func (b *LoadBalancer) Listener(port int) *ListenerDescription {
	for i := range b.Listeners {
		if b.Listeners[i].Listener.LoadBalancerPort == port {
			return &b.Listeners[i]
		}
	}
	return nil
}

// Policy returns the policy of that name, or nil.
func (b *LoadBalancer) Policy(name string) *Policy {
	for i := range b.Policies {
		if b.Policies[i].Name == name {
			return &b.Policies[i]
		}
	}
	return nil
}

// BackendPolicies returns the policies of an instance port.
func (b *LoadBalancer) BackendPolicies(port int) (policies []*Policy) {
	for _, s := range b.Backends {
		if s.InstancePort == port {
			for _, name := range s.PolicyNames {
				policies = append(policies, b.Policy(name))
			}
		}
	}
	return policies
}

// ListenerPolicies returns the policies of a listener.
func (b *LoadBalancer) ListenerPolicies(l *ListenerDescription) (policies []*Policy) {
	for _, name := range l.PolicyNames {
		policies = append(policies, b.Policy(name))
	}
	return policies
}

// clone returns a copy of which every field may be replaced, and the elements of Listeners and
// Backends as well.
func (b *LoadBalancer) clone() *LoadBalancer {
	c := *b
	c.Listeners, c.Backends = slices.Clone(b.Listeners), slices.Clone(b.Backends)
	return &c
}

// MarshalIndent returns the document as JSON.
func (d *Document) MarshalIndent() ([]byte, error) { return json.MarshalIndent(d, "", "\t") }

// Parse reads a document that MarshalIndent has written. It returns an error if anything in it is
// not as the actions leave it.
func Parse(text []byte) (*Document, error) {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	d := &Document{}
	if err := decoder.Decode(d); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("something follows the document")
	}
	return d, d.validate()
}

func (d *Document) validate() error {
	if d.Format != format {
		return fmt.Errorf("the format is %d, not %d", d.Format, format)
	}
	if len(d.Keys) == 0 || slices.ContainsFunc(d.Keys, func(key []byte) bool { return len(key) != 32 }) {
		return errors.New("a key that seals cookies is missing or has not 32 octets")
	}
	for i, b := range d.LoadBalancers {
		if b == nil || i > 0 && d.LoadBalancers[i-1].Name >= b.Name {
			return errors.New("the load balancers are not in order")
		}
		if err := b.validate(); err != nil {
			return fmt.Errorf("load balancer %q: %w", b.Name, err)
		}
	}
	return nil
}

// validate checks the load balancer as the actions do that have made it.
func (b *LoadBalancer) validate() error {
	if f := checkName("LoadBalancerName", b.Name, loadBalancerName); f != nil {
		return f
	}
	if f := b.HealthCheck.check(); f != nil {
		return f
	}
	if f := b.Attributes.check(); f != nil {
		return f
	}
	if b.Attributes.incomplete() {
		return errors.New("attributes are missing")
	}
	policies := make(map[string]bool)
	for _, p := range b.Policies {
		if policies[p.Name] {
			return fmt.Errorf("policy %q is there twice", p.Name)
		}
		if _, f := b.newPolicy(p.Name, p.Type, p.Attributes); f != nil {
			return fmt.Errorf("policy %q: %w", p.Name, f)
		}
		policies[p.Name] = true
	}
	ports := make(map[int]bool)
	for i := range b.Listeners {
		l := b.Listeners[i].Listener
		if ports[l.LoadBalancerPort] {
			return fmt.Errorf("port %d has two listeners", l.LoadBalancerPort)
		}
		ports[l.LoadBalancerPort] = true
		if checked, f := l.normal(); f != nil || checked != l {
			return fmt.Errorf("the listener at port %d is not valid", l.LoadBalancerPort)
		}
		if f := b.checkListenerPolicies(l, b.Listeners[i].PolicyNames); f != nil {
			return f
		}
	}
	for _, s := range b.Backends {
		if f := b.checkBackendPolicies(s.InstancePort, s.PolicyNames); f != nil {
			return f
		}
	}
	return nil
}
