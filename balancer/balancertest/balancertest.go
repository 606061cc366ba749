// Package balancertest holds pickers to their contract and gives their benchmarks
// something to pick from.
//
// It does not judge how well a picker spreads requests: that is what it is for, and for
// its own tests.
package balancertest

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Snapshot returns a snapshot of n members of equal weight, named "t0" and so on, whose
// health is unknown. It panics if n is negative.
func Snapshot(n int) *balancer.Snapshot {
	var p probe
	pool, err := balancer.New(balancer.Config{Targets: targets(n), Picker: &p})
	if err != nil {
		panic(err)
	}
	pool.Acquire(context.Background(), &balancer.Request{}) // no target: p picks none
	return p.last.Load()
}

func targets(n int) []balancer.Target {
	ts := make([]balancer.Target, n)
	for i := range ts {
		id := fmt.Sprintf("t%d", i)
		ts[i] = balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id}}
	}
	return ts
}

// patience is how long a picker may take for everything that is asked of it at a time, which
// is less than a second on an idle machine.
const patience = time.Minute

// TestPicker checks that the pickers which newPicker makes keep the contract of
// [balancer.Picker] in a pool: that Pick ends, returns a member of the snapshot that the
// request does not skip whenever there is one, and nil otherwise; that it leaves the
// snapshot alone; that it allocates nothing once it is warm; and that it may be called
// concurrently while the set, states and loads change, for which the test should run under
// the race detector. A picker that is a [balancer.Indexer] is told what a pool tells
// it. newPicker must return a new picker each time.
//
// Violations are reported with t.Errorf. After a check that failed the next are left out.
func TestPicker(t testing.TB, newPicker func() balancer.Picker) {
	t.Helper()
	checks := []func(*checker, balancer.Picker){
		(*checker).choice, (*checker).otherSnapshots, (*checker).concurrency, (*checker).allocations,
	}
	c := &checker{t: t}
	for _, check := range checks {
		done := make(chan struct{})
		go func() {
			defer close(done)
			check(c, newPicker())
		}()
		select {
		case <-done:
		case <-time.After(patience):
			c.errorf("Pick does not end")
		}
		if c.failed.Load() {
			return
		}
	}
}

// A checker reports violations.
type checker struct {
	t       testing.TB
	failed  atomic.Bool
	changes atomic.Uint64 // begun and made: odd while one is being made
}

// change makes changes while others pick. What is picked meanwhile is not judged by who may serve.
func (c *checker) change(f func()) {
	c.changes.Add(1)
	f()
	c.changes.Add(1)
}

func (c *checker) errorf(format string, args ...any) {
	c.failed.Store(true)
	c.t.Errorf(format, args...)
}

// request returns a request that hash pickers tell from others.
func request(i int) *balancer.Request {
	return &balancer.Request{Key: strconv.Itoa(i), Client: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
}

// choice has the picker choose among up to four members, each of which is free, full
// or excluded, in all combinations.
func (c *checker) choice(picker balancer.Picker) {
	for n := range 5 {
		for combination := range 1 << (2 * n) {
			ts := targets(n)
			for i := range ts {
				ts[i].Weight, ts[i].MaxRequests = 1+i%3, 1
			}
			pool := c.newPool(c.watch(picker), ts)
			q := request(combination)
			for i, m := range pool.Members() {
				switch combination >> (2 * i) & 3 {
				case 1:
					q.Exclude(m)
				case 2:
					pool.AcquireBound(context.Background(), m.ID(), &balancer.Request{})
				}
			}
			for range 4 {
				if l, err := pool.Acquire(context.Background(), q); err == nil {
					l.Release(balancer.Outcome{Latency: time.Millisecond})
				}
			}
		}
	}
}

// otherSnapshots picks from snapshots for which an index was never built, or is no longer.
func (c *checker) otherSnapshots(picker balancer.Picker) {
	p := &probe{c: c, picker: picker}
	p.Pick(request(1), Snapshot(20))
	pool := c.newPool(c.watch(picker), targets(20))
	pool.Acquire(context.Background(), request(2))
	p.Pick(request(3), Snapshot(30))
	if x, ok := picker.(balancer.Indexer); ok {
		x.Loaded(Snapshot(30).Members()[29], 1)
	}
	pool.Acquire(context.Background(), request(4))
}

// concurrency picks from several goroutines while everything changes.
func (c *checker) concurrency(picker balancer.Picker) {
	pool := c.newPool(c.watch(picker), targets(10))
	var stop atomic.Bool
	var rounds atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := i; !stop.Load(); n++ {
				q := request(n)
				q.Tunnel = n%2 == 0
				q.Exclude(pool.Members()[n%8])
				if l, err := pool.Acquire(context.Background(), q); err == nil {
					l.Release(balancer.Outcome{Latency: time.Duration(n%50) * time.Millisecond})
				}
				rounds.Add(1)
			}
		})
	}
	for i := range 200 {
		ts := targets(8 + i/8%20)
		ts[i/8%8].Weight = 1 + i%5
		c.change(func() {
			if i%8 == 0 { // for some pickers it takes long
				if err := pool.Update(ts...); err != nil {
					c.errorf("Update: %v", err)
				}
			}
			pool.Members()[i%8].SetAdmin(balancer.Admin(i / 8 % 4))
			pool.Members()[i%8].SetHealth(balancer.Health(i / 32 % 4))
		})
		for n := rounds.Load(); i%10 == 0 && rounds.Load() < n+8; {
			runtime.Gosched()
		}
	}
	stop.Store(true)
	wg.Wait()
}

// allocations counts what an acquire and a release allocate.
func (c *checker) allocations(picker balancer.Picker) {
	ts := targets(20)
	for i := range ts {
		ts[i].Weight = 1 + i%3
	}
	pool := c.newPool(picker, ts)
	q := request(0)
	q.Exclude(pool.Members()[3])
	n := testing.AllocsPerRun(100, func() {
		if l, err := pool.Acquire(context.Background(), q); err == nil {
			l.Release(balancer.Outcome{})
		}
	})
	if n > 0 {
		c.errorf("an acquire and release allocates %v times", n)
	}
}

func (c *checker) newPool(picker balancer.Picker, ts []balancer.Target) *balancer.Pool {
	pool, err := balancer.New(balancer.Config{Targets: ts, Picker: picker})
	if err != nil {
		c.errorf("New: %v", err)
	}
	return pool
}

// A probe looks at what a picker does. Without a picker it picks nothing.
type probe struct {
	c      *checker
	picker balancer.Picker
	last   atomic.Pointer[balancer.Snapshot]
}

// watch returns a probe of the picker that is an Indexer if the picker is one.
func (c *checker) watch(picker balancer.Picker) balancer.Picker {
	p := &probe{c: c, picker: picker}
	if x, ok := picker.(balancer.Indexer); ok {
		return &indexProbe{p, x}
	}
	return p
}

// Pick implements [balancer.Picker].
func (p *probe) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	p.last.Store(s)
	if p.picker == nil {
		return nil
	}
	members, weights := slices.Clone(s.Members()), slices.Clone(s.Weights())
	before := p.c.changes.Load()
	idle := slices.DeleteFunc(slices.Clone(members), q.Skip)
	m := p.picker.Pick(q, s)
	steady := before%2 == 0 && before == p.c.changes.Load()
	switch {
	case !slices.Equal(members, s.Members()) || !slices.Equal(weights, s.Weights()):
		p.c.errorf("Pick changes the snapshot")
	case m == nil && len(idle) > 0 && steady:
		p.c.errorf("Pick returns nil, though the request does not skip %d of %d members", len(idle), len(members))
	case m != nil && !slices.Contains(members, m):
		p.c.errorf("Pick returns %q, which is not in the snapshot", m.ID())
	case m != nil && !slices.Contains(idle, m) && steady:
		p.c.errorf("Pick returns %q, which the request skips", m.ID())
	}
	return m
}

// An indexProbe is a probe of an Indexer.
type indexProbe struct {
	*probe
	balancer.Indexer
}

// Pick implements [balancer.Picker].
func (p *indexProbe) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	return p.probe.Pick(q, s)
}
