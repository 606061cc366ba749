package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// traffic is what the load balancers of a document do. It implements classic.World.
type traffic struct {
	log          *slog.Logger
	instances    instances
	certificates *certificates
	names        func(name string) string // DNS names of load balancers
	host         string                   // where listeners listen
	offset       int                      // of their ports

	mu     sync.Mutex
	groups map[string]*group
	ending sync.WaitGroup // listeners that were deleted and still have connections
}

// A group is a load balancer that runs: its checks, and a front for each of its listeners.
type group struct {
	created time.Time
	checks  *checks

	mu     sync.Mutex
	conf   *classic.LoadBalancer // that the traffic obeys; nil before the first commit
	fronts map[int]*front        // by LoadBalancerPort
	told   map[string]bool       // instances of which all fronts know that they are healthy
}

// obeys reports whether nothing has changed since the last commit.
func (g *group) obeys(b *classic.LoadBalancer) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conf == b
}

func (t *traffic) group(name string) *group {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.groups[name]
}

// all returns the fronts in the order of their ports. g may be nil.
func (g *group) all() []*front {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var fronts []*front
	for _, port := range slices.Sorted(maps.Keys(g.fronts)) {
		fronts = append(fronts, g.fronts[port])
	}
	return fronts
}

// A plan makes the traffic obey a document. It has everything that can fail behind it: commit does
// not fail, and abort leaves everything as it was. One of them has to be called.
type plan struct {
	traffic *traffic
	next    *classic.Document
	opened  map[int]net.Listener // by LoadBalancerPort
	set     map[*classic.LoadBalancer]map[int]*frontSettings
}

// prepare makes a plan. Calls do not overlap.
func (t *traffic) prepare(next *classic.Document) (*plan, *classic.Fault) {
	p := &plan{traffic: t, next: next, opened: make(map[int]net.Listener), set: make(map[*classic.LoadBalancer]map[int]*frontSettings)}
	taken := make(map[int]string)
	for _, b := range next.LoadBalancers {
		p.set[b] = make(map[int]*frontSettings)
		same := t.group(b.Name).obeys(b)
		for i := range b.Listeners {
			port := b.Listeners[i].Listener.LoadBalancerPort
			if owner, ok := taken[port]; ok {
				p.abort()
				return nil, classic.NewFault(classic.InvalidConfigurationRequest,
					"Port %d belongs to the load balancer %q: here, all load balancers share the ports of one machine.", port, owner)
			}
			taken[port] = b.Name
			if same {
				continue
			}
			if err := p.prepareFront(b, &b.Listeners[i]); err != nil {
				p.abort()
				return nil, classic.NewFault(classic.InvalidConfigurationRequest, "The listener at port %d is not possible: %v.", port, err)
			}
		}
	}
	return p, nil
}

func (p *plan) prepareFront(b *classic.LoadBalancer, l *classic.ListenerDescription) error {
	port := l.Listener.LoadBalancerPort
	s, err := p.traffic.settings(p.next, b, l)
	if err != nil {
		return err
	}
	p.set[b][port] = s
	if p.traffic.running(b, l.Listener) != nil {
		return nil
	}
	if port+p.traffic.offset > 65535 {
		return fmt.Errorf("%d with the offset %d is no port", port, p.traffic.offset)
	}
	p.opened[port], err = net.Listen("tcp", net.JoinHostPort(p.traffic.host, strconv.Itoa(port+p.traffic.offset)))
	return err
}

// running returns the front of a listener, or nil if it has none yet.
func (t *traffic) running(b *classic.LoadBalancer, l classic.Listener) *front {
	g := t.group(b.Name)
	if g == nil || !g.created.Equal(b.CreatedTime) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.fronts[l.LoadBalancerPort]; f != nil && f.is(l) {
		return f
	}
	return nil
}

func (p *plan) abort() {
	for _, l := range p.opened {
		if l != nil {
			l.Close()
		}
	}
}

// commit makes the traffic obey. What is not mentioned any more ends first.
func (p *plan) commit() {
	t := p.traffic
	t.mu.Lock()
	if t.groups == nil {
		t.groups = make(map[string]*group)
	}
	var gone []*group
	for name, g := range t.groups {
		if b := p.next.LoadBalancer(name); b == nil || !g.created.Equal(b.CreatedTime) {
			gone = append(gone, g)
			delete(t.groups, name)
		}
	}
	for _, b := range p.next.LoadBalancers {
		if t.groups[b.Name] == nil {
			t.groups[b.Name] = &group{created: b.CreatedTime, checks: newChecks(b.Name, t.log), fronts: make(map[int]*front), told: make(map[string]bool)}
			g := t.groups[b.Name]
			g.checks.pool.Observe(checkObserver{g})
		}
	}
	t.mu.Unlock()
	for _, g := range gone {
		t.end(g.all()...)
		g.checks.close()
	}
	for _, b := range p.next.LoadBalancers {
		if g := t.group(b.Name); !g.obeys(b) {
			p.commitGroup(g, b)
		}
	}
}

func (p *plan) commitGroup(g *group, b *classic.LoadBalancer) {
	t := p.traffic
	var gone []*front
	g.mu.Lock()
	zonesChange := g.conf == nil || !slices.Equal(g.conf.Zones, b.Zones)
	g.conf = b
	for port, f := range g.fronts {
		if l := b.Listener(port); l == nil || !f.is(l.Listener) {
			gone = append(gone, f)
			delete(g.fronts, port)
		}
	}
	g.mu.Unlock()
	t.end(gone...)
	behind := t.instances.of(b.Instances)
	if err := g.checks.configure(b.HealthCheck, behind); err != nil {
		t.log.Error("the health check cannot be configured", "load balancer", b.Name, "error", err) // flags and actions have checked it
	}
	for i := range b.Listeners {
		l := b.Listeners[i].Listener
		f := t.running(b, l)
		if f == nil {
			f = t.newFront(g, b, l, p.opened[l.LoadBalancerPort])
			g.mu.Lock()
			g.fronts[l.LoadBalancerPort] = f
			g.mu.Unlock()
			f.configure(p.set[b][l.LoadBalancerPort], behind)
			f.start()
		} else {
			f.configure(p.set[b][l.LoadBalancerPort], behind)
		}
	}
	if zonesChange {
		for _, f := range g.all() {
			for _, m := range f.pool.Members() {
				g.align(m)
			}
		}
	}
}

// end closes fronts: their ports are free when it returns. Their connections get some time.
func (t *traffic) end(fronts ...*front) {
	for _, f := range fronts {
		f.listener.Close()
		t.ending.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), grace)
			defer cancel()
			f.shutdown(ctx)
		})
	}
}

// close ends everything and waits for it.
func (t *traffic) close() {
	t.mu.Lock()
	groups := slices.Collect(maps.Values(t.groups))
	t.groups = nil
	t.mu.Unlock()
	for _, g := range groups {
		t.end(g.all()...)
		g.checks.close()
	}
	t.ending.Wait()
}

// align gives a member of a front the health that the checks know. An instance without a successful
// check gets no traffic, and nor does one in a zone that the load balancer does not serve.
//
// The health may change meanwhile, and then another goroutine aligns the member, too. Whoever sets
// the health last sees whether it is still right.
func (g *group) align(m *balancer.Member) {
	for {
		want, known := g.healthOf(m)
		if !known {
			return // deregistered: it finishes what it has
		}
		m.SetHealth(want)
		if now, _ := g.healthOf(m); now == want {
			return
		}
	}
}

func (g *group) healthOf(m *balancer.Member) (h balancer.Health, known bool) {
	h, known = g.checks.health(m.ID())
	g.mu.Lock()
	defer g.mu.Unlock()
	if h != balancer.Healthy || g.conf == nil || !zoneServes(g.conf.Zones, m.Target().Zone) {
		h = balancer.Unhealthy
	}
	return h, known
}

// A checkObserver tells the fronts what the checks find.
type checkObserver struct{ group *group }

// Changed implements balancer.Observer.
func (o checkObserver) Changed(checked *balancer.Member, s balancer.State) {
	for _, f := range o.group.all() {
		if m, ok := f.pool.Member(checked.ID()); ok {
			o.group.align(m)
		}
	}
	o.group.mu.Lock()
	defer o.group.mu.Unlock()
	if s.Health == balancer.Healthy && !checked.Removed() {
		o.group.told[checked.ID()] = true
	} else {
		delete(o.group.told, checked.ID())
	}
}

// Released implements balancer.Observer.
func (checkObserver) Released(*balancer.Member, balancer.Outcome) {}

// A frontObserver gives members that are new in a front the health that the checks know already.
type frontObserver struct{ group *group }

// Changed implements balancer.Observer.
func (o frontObserver) Changed(m *balancer.Member, s balancer.State) {
	if s.Health == balancer.HealthUnknown && !m.Removed() {
		o.group.align(m)
	}
}

// Released implements balancer.Observer.
func (frontObserver) Released(*balancer.Member, balancer.Outcome) {}
