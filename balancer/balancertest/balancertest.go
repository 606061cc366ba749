// Package balancertest checks that pickers keep their contract, and makes snapshots for their
// benchmarks.
//
// It does not judge how well a picker spreads requests. A picker's own tests do that.
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

// patience is how long a single pick may take. It is long, because on a busy machine a goroutine
// may not run for seconds.
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
		c.await(done)
		if c.failed.Load() {
			return
		}
	}
}

// TestWrapper checks that the pickers which wrap makes do what a picker has to do that delegates to
// others: they are an [balancer.Indexer] and give each of the wrapped pickers, which come from
// newWrapped, the snapshots that it picks from in Rebuild, and the loads of their members in
// Loaded. wrap must call newWrapped anew for each picker that it wraps, and at least once. The
// contract of Pick holds for a wrapping picker as for any other: see [TestPicker].
//
// Violations are reported with t.Errorf.
func TestWrapper(t testing.TB, wrap func(newWrapped func() balancer.Picker) balancer.Picker) {
	t.Helper()
	c := &checker{t: t}
	var wrapped []*witness
	wrapper := wrap(func() balancer.Picker {
		w := &witness{c: c, number: len(wrapped), loads: map[*balancer.Member]int64{}}
		wrapped = append(wrapped, w)
		return w
	})
	if _, ok := wrapper.(balancer.Indexer); !ok {
		c.errorf("the wrapping picker is no Indexer: the wrapped pickers miss Rebuild and Loaded")
		return
	}
	c.delegation(wrapper)
	if !slices.ContainsFunc(wrapped, func(w *witness) bool { return w.asked }) {
		c.errorf("the wrapping picker asks none of its wrapped pickers")
	}
}

// delegation has the wrapped pickers look at what they are given, while the set and loads change.
func (c *checker) delegation(wrapper balancer.Picker) {
	pool, err := balancer.New(balancer.Config{Picker: wrapper, Zone: "b", OneZone: true})
	if err != nil {
		c.errorf("New: %v", err)
		return
	}
	var leases []balancer.Lease
	for i := range 200 {
		if i%20 == 0 {
			ts := targets(8 + i/20)
			for j := range ts {
				ts[j].Zone = []string{"a", "b"}[j%2]
			}
			if err := pool.Update(ts...); err != nil {
				c.errorf("Update: %v", err)
			}
		}
		q := request(i)
		q.Tunnel = i%3 == 0
		if l, err := pool.Acquire(context.Background(), q); err == nil {
			leases = append(leases, l)
		}
		if l, err := pool.AcquireBound(context.Background(), fmt.Sprintf("t%d", i%8), request(i)); err == nil {
			leases = append(leases, l)
		}
		if i%2 == 1 {
			leases[0].Release(balancer.Outcome{})
			leases = leases[1:]
		}
		if c.failed.Load() {
			return
		}
	}
}

// A witness is a wrapped picker that checks what it is given. It is called by one goroutine.
type witness struct {
	c      *checker
	number int
	asked  bool
	last   *balancer.Snapshot // of Rebuild
	loads  map[*balancer.Member]int64
}

// Rebuild implements [balancer.Indexer].
func (w *witness) Rebuild(s *balancer.Snapshot) {
	w.last = s
	clear(w.loads)
	for _, m := range s.Members() {
		w.loads[m] = m.Load()
	}
}

// Loaded implements [balancer.Indexer].
func (w *witness) Loaded(m *balancer.Member, load int64) {
	if _, ok := w.loads[m]; ok {
		w.loads[m] = load
	}
}

// Pick implements [balancer.Picker].
func (w *witness) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	w.asked = true
	switch {
	case w.last == nil:
		w.c.errorf("wrapped picker %d picks and has never been given a snapshot: pass Rebuild on", w.number)
	case s != w.last && s != w.last.Local():
		w.c.errorf("wrapped picker %d picks from a snapshot that it was not given before: "+
			"pass Rebuild on with the snapshot or the part of it that Pick uses", w.number)
	}
	for m, load := range w.loads {
		if load != m.Load() {
			w.c.errorf("wrapped picker %d thinks that the load of %q is %d, not %d: pass Loaded on",
				w.number, m.ID(), load, m.Load())
			break
		}
	}
	for _, m := range s.Members() {
		if !q.Skip(m) {
			return m
		}
	}
	return nil
}

// A checker reports violations.
type checker struct {
	t       testing.TB
	failed  atomic.Bool
	changes atomic.Uint64 // begun and made: odd while one is being made
	ended   atomic.Uint64 // picks and changes that have come to their end
}

// await waits until done is closed. It gives up when nothing has come to an end for longer than a
// pick may take.
func (c *checker) await(done <-chan struct{}) {
	for {
		before := c.ended.Load()
		select {
		case <-done:
			return
		case <-time.After(patience):
		}
		if c.ended.Load() == before {
			c.errorf("Pick does not end")
			return
		}
	}
}

// change makes changes while others pick. What is picked meanwhile is not judged by who may serve.
func (c *checker) change(f func()) {
	c.changes.Add(1)
	f()
	c.changes.Add(1)
	c.ended.Add(1)
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

// otherSnapshots picks from snapshots that the picker was not rebuilt for, or not last.
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
				runtime.Gosched() // or each change waits for all time slices, where processors are few
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
		c.ended.Add(1)
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
	p.c.ended.Add(1)
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
