package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

func backend(id string) balancer.Target {
	return balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id + ".internal:8080"}}
}

// A fourth target joins three. Each of these keeps three quarters of its sessions, and the others
// move to the new one as they come back.
func ExampleMember_SetShare() {
	pool, err := balancer.New(balancer.Config{
		Targets: []balancer.Target{backend("app-1"), backend("app-2"), backend("app-3"), backend("app-4")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	before, after := map[string]int{}, map[string]int{}
	for _, id := range []string{"app-1", "app-2", "app-3"} {
		m, _ := pool.Member(id)
		if err := m.SetShare(0.75); err != nil {
			fmt.Println(err)
		}
	}
	for session := range uint64(1200) {
		target := fmt.Sprintf("app-%d", 1+session%3)
		before[target]++
		q := &balancer.Request{Session: 1 + session} // from a package such as stickiness
		lease, err := pool.AcquireBound(context.Background(), target, q)
		if errors.Is(err, balancer.ErrShare) {
			lease, err = pool.Acquire(context.Background(), q)
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		after[lease.Member().ID()]++
		lease.Release(balancer.Outcome{})
	}
	fmt.Println(before)
	fmt.Println(after)
	// Output:
	// map[app-1:400 app-2:400 app-3:400]
	// map[app-1:292 app-2:302 app-3:281 app-4:325]
}

func Example() {
	pool, err := balancer.New(balancer.Config{
		Targets: []balancer.Target{backend("app-1"), backend("app-2")},
		Picker:  &balancer.RoundRobin{}, // the default is least connections
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		lease, err := pool.Acquire(context.Background(), &balancer.Request{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(lease.Member().Target().URL)
		lease.Release(balancer.Outcome{Status: 200, Latency: 12 * time.Millisecond})
	}
	// Output:
	// http://app-1.internal:8080
	// http://app-2.internal:8080
	// http://app-1.internal:8080
}

// A session that is bound to a target returns to it, and gets another one if that cannot serve it.
func ExamplePool_AcquireBound() {
	pool, _ := balancer.New(balancer.Config{Targets: []balancer.Target{backend("app-1"), backend("app-2")}})
	serve := func(id string) {
		q := &balancer.Request{}
		lease, err := pool.AcquireBound(context.Background(), id, q)
		if err != nil {
			fmt.Println(err)
			lease, _ = pool.Acquire(context.Background(), q)
		}
		defer lease.Release(balancer.Outcome{})
		fmt.Println("served by", lease.Member().ID())
	}
	app1, _ := pool.Member("app-1")
	app1.SetAdmin(balancer.Draining) // no new sessions, but those that are bound
	serve("app-1")
	app1.SetAdmin(balancer.Down)
	serve("app-1")
	// Output:
	// served by app-1
	// balancer: target is down
	// served by app-2
}

// A request that failed on one target is tried on another.
func ExampleRequest_Exclude() {
	pool, _ := balancer.New(balancer.Config{Targets: []balancer.Target{backend("app-1"), backend("app-2")}})
	q := &balancer.Request{}
	for range 3 {
		lease, err := pool.Acquire(context.Background(), q)
		if errors.Is(err, balancer.ErrExcluded) {
			fmt.Println("nobody is left")
			break
		}
		q.Exclude(lease.Member())
		lease.Release(balancer.Outcome{Class: balancer.ConnectFailed})
	}
	// Output: nobody is left
}

func ExamplePool_Update() {
	pool, _ := balancer.New(balancer.Config{Targets: []balancer.Target{backend("app-1")}})
	tunnel, _ := pool.Acquire(context.Background(), &balancer.Request{Tunnel: true})

	heavy := backend("app-1")
	heavy.Weight = 3
	pool.Update(heavy, backend("app-2"))

	for _, m := range pool.Members() {
		fmt.Println(m.ID(), "weight", m.Target().Weight, "tunnels", m.Tunnels())
	}
	tunnel.Release(balancer.Outcome{})
	// Output:
	// app-1 weight 3 tunnels 1
	// app-2 weight 1 tunnels 0
}

// printer is an observer that prints.
type printer struct{}

func (printer) Released(m *balancer.Member, o balancer.Outcome) {
	fmt.Println(m.ID(), "released:", o.Class)
}

func (printer) Changed(m *balancer.Member, s balancer.State) {
	fmt.Println(m.ID(), "is", s.Health, "and", s.Admin)
}

func ExamplePool_Observe() {
	pool, _ := balancer.New(balancer.Config{Targets: []balancer.Target{backend("app-1")}})
	stop := pool.Observe(printer{})
	defer stop()
	lease, _ := pool.Acquire(context.Background(), &balancer.Request{})
	lease.Release(balancer.Outcome{Class: balancer.HeaderFailed, Err: errors.New("timeout")})
	pool.Members()[0].SetHealth(balancer.Unhealthy)
	// Output:
	// app-1 released: header failed
	// app-1 is unhealthy and ready
}

// 5% of the new sessions go to the canary, the rest as before.
func ExampleSplit() {
	canary := backend("app-3")
	canary.Labels = map[string]string{"track": "canary"}
	var n atomic.Int64 // When is called concurrently
	pool, _ := balancer.New(balancer.Config{
		Targets: []balancer.Target{backend("app-1"), backend("app-2"), canary},
		Picker: &balancer.Split{
			When:  func(*balancer.Request) bool { return n.Add(1)%20 == 0 }, // or rand.IntN(100) < 5
			Where: func(m *balancer.Member) bool { return m.Label("track") == "canary" },
		},
	})
	served := map[string]int{}
	for range 1000 {
		lease, _ := pool.Acquire(context.Background(), &balancer.Request{})
		served[lease.Member().ID()]++
		lease.Release(balancer.Outcome{})
	}
	fmt.Println(served)
	// Output: map[app-1:475 app-2:475 app-3:50]
}

// A byVersion picks among the members of the version that the client asks for, and does without a
// Split: it passes Rebuild and Loaded on to the pickers that it delegates to.
type byVersion struct {
	next  balancer.LeastConnections
	all   balancer.LeastConnections
	parts atomic.Pointer[nextVersion]
}

type nextVersion struct{ of, part *balancer.Snapshot }

func (p *byVersion) Rebuild(s *balancer.Snapshot) {
	part := s.Where(func(m *balancer.Member) bool { return m.Label("version") == "2" })
	p.next.Rebuild(part)
	p.all.Rebuild(s)
	p.parts.Store(&nextVersion{s, part})
}

func (p *byVersion) Loaded(m *balancer.Member, load int64) {
	p.next.Loaded(m, load)
	p.all.Loaded(m, load)
}

func (p *byVersion) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	// While the next Rebuild runs, and in lower tiers, s is another snapshot: any member will do.
	if parts := p.parts.Load(); q.Key == "2" && parts.of == s {
		if m := p.next.Pick(q, parts.part); m != nil {
			return m
		}
	}
	return p.all.Pick(q, s)
}

// A picker that delegates to others computes the parts in Rebuild.
func ExampleSnapshot_Where() {
	next := backend("app-3")
	next.Labels = map[string]string{"version": "2"}
	pool, _ := balancer.New(balancer.Config{
		Targets: []balancer.Target{backend("app-1"), backend("app-2"), next},
		Picker:  &byVersion{},
	})
	lease, _ := pool.Acquire(context.Background(), &balancer.Request{Key: "2"})
	fmt.Println(lease.Member().ID())
	// Output: app-3
}

// Requests of one key come to one target, as long as that serves.
func ExampleMaglev() {
	pool, _ := balancer.New(balancer.Config{
		Picker:  &balancer.Maglev{},
		Targets: []balancer.Target{backend("app-1"), backend("app-2"), backend("app-3")},
	})
	serve := func(user string) {
		lease, _ := pool.Acquire(context.Background(), &balancer.Request{Key: user})
		defer lease.Release(balancer.Outcome{})
		fmt.Println(user, "to", lease.Member().ID())
	}
	serve("alice")
	serve("bob")
	serve("alice")
	// Output:
	// alice to app-3
	// bob to app-2
	// alice to app-3
}

// The text may come from a flag, an environment variable or a file.
func ExampleParseTargets() {
	targets, err := balancer.ParseTargets(`
		app-1=http://10.0.0.1:3000
		app-2=https://app.internal;addr=10.0.0.2:443;weight=2
		spare=http://10.0.0.3:3000;backup`)
	fmt.Println(err)
	for _, t := range targets {
		fmt.Println(t.ID, t.URL, t.Addr, t.Weight, t.Backup)
	}
	_, err = balancer.ParseTargets("app-1=localhost:3000")
	fmt.Println(err)
	// Output:
	// <nil>
	// app-1 http://10.0.0.1:3000  1 false
	// app-2 https://app.internal 10.0.0.2:443 2 false
	// spare http://10.0.0.3:3000  1 true
	// balancer: target 0 ("app-1"): the URL has no scheme: write "http://localhost:3000"
}

// A target may listen elsewhere than its URL says: a pod, or a Unix socket.
func ExampleTarget() {
	u, _ := url.Parse("https://app.internal")
	for _, target := range []balancer.Target{
		{ID: "pod-7", URL: u, Addr: "10.0.3.7:8443", ServerName: "app.internal"},
		{ID: "local", URL: u, Addr: "unix:/run/app.sock"},
	} {
		network, address := target.Endpoint()
		fmt.Println(target.ID, network, address)
	}
	// Output:
	// pod-7 tcp 10.0.3.7:8443
	// local unix /run/app.sock
}
