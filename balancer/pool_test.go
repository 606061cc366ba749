package balancer_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// A log is an observer that records its calls.
type log struct {
	mu      sync.Mutex
	changed []string
	out     []balancer.Outcome
}

func (l *log) Changed(m *balancer.Member, s balancer.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := fmt.Sprint(m.ID(), " ", s.Health, " ", s.Admin)
	if !s.EjectedUntil.IsZero() {
		e += " ejected"
	}
	if m.Removed() {
		e += " removed"
	}
	l.changed = append(l.changed, e)
}

func (l *log) Released(_ *balancer.Member, o balancer.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = append(l.out, o)
}

// take returns what has been written since the last time.
func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.changed = nil }()
	return l.changed
}

// A spy is a picker that keeps the snapshots that are published. The pool's timer publishes, too.
type spy struct {
	balancer.LeastConnections
	mu   sync.Mutex
	kept []*balancer.Snapshot
}

func (s *spy) Rebuild(snap *balancer.Snapshot) {
	s.mu.Lock()
	s.kept = append(s.kept, snap)
	s.mu.Unlock()
	s.LeastConnections.Rebuild(snap)
}

// rebuilt returns the snapshots so far.
func (s *spy) rebuilt() []*balancer.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept)
}

func TestPool_B3_UpdateIsADiff(t *testing.T) {
	var events log
	var picker spy
	a, b, c := target("a"), target("b"), target("c")
	p := newPool(t, balancer.Config{Targets: []balancer.Target{a, b}, Picker: &picker})
	p.Observe(&events)
	ma, mb := member(t, p, "a"), member(t, p, "b")
	l := bound(t, p, "b")
	mb.SetHealth(balancer.Healthy)
	mb.SetAdmin(balancer.Draining)
	require.Equal(t, []string{"b healthy ready", "b healthy draining"}, events.take())

	t.Run("an equal set changes nothing and publishes nothing", func(t *testing.T) {
		pick(t, p, &balancer.Request{})
		n := len(picker.rebuilt())
		same := target("b")
		same.Weight = 1 // the default, written out
		require.NoError(t, p.Update(a, same))
		pick(t, p, &balancer.Request{})
		require.Len(t, picker.rebuilt(), n)
		require.Empty(t, events.take())
	})
	t.Run("weight, zone, backup and limits are taken over in the kept member", func(t *testing.T) {
		b.Weight, b.Zone, b.MaxRequests, b.MaxTunnels, b.Backup = 3, "z", 1, 7, true
		require.NoError(t, p.Update(a, b, c))
		require.Same(t, mb, member(t, p, "b"))
		require.Equal(t, b, mb.Target())
		require.Equal(t, balancer.State{Health: balancer.Healthy, Admin: balancer.Draining}, mb.State())
		require.EqualValues(t, 1, mb.Load())
		_, err := p.AcquireBound(t.Context(), "b", &balancer.Request{})
		require.Equal(t, balancer.ErrFull, err, "the new limit holds at once")
		require.Equal(t, []string{"c unknown ready"}, events.take())
	})
	t.Run("the order is taken over", func(t *testing.T) {
		require.NoError(t, p.Update(c, b, a))
		require.Equal(t, []*balancer.Member{member(t, p, "c"), mb, ma}, p.Members())
		require.Empty(t, events.take())
	})
	t.Run("another URL under the same ID is a new member", func(t *testing.T) {
		b.URL = parse(t, "http://elsewhere")
		require.NoError(t, p.Update(a, b, c))
		now := member(t, p, "b")
		require.NotSame(t, mb, now)
		require.Zero(t, now.Load())
		require.Equal(t, balancer.State{}, now.State())
		require.True(t, mb.Removed())
		require.False(t, now.Removed())
		require.EqualValues(t, 1, mb.Load(), "what runs goes on")
		require.Equal(t, []string{"b healthy draining removed", "b unknown ready"}, events.take())
		l.Release(balancer.Outcome{})
		require.Zero(t, mb.Load())
		require.Zero(t, now.Load())
	})
	t.Run("so are another scheme and another path", func(t *testing.T) {
		for _, u := range []string{"https://elsewhere", "http://elsewhere/v2", "http://elsewhere"} {
			old := member(t, p, "b")
			b.URL = parse(t, u)
			require.NoError(t, p.Update(a, b, c))
			require.NotSame(t, old, member(t, p, "b"))
		}
		events.take()
	})
	t.Run("a removed member is out of reach", func(t *testing.T) {
		require.NoError(t, p.Update(c))
		require.Equal(t, []string{"a unknown ready removed", "b unknown ready removed"}, events.take())
		require.True(t, ma.Removed())
		ma.SetHealth(balancer.Unhealthy)
		ma.SetAdmin(balancer.Down)
		ma.Eject(time.Now().Add(time.Hour))
		require.Equal(t, balancer.State{}, ma.State())
		require.Empty(t, events.take())
		_, ok := p.Member("a")
		require.False(t, ok)
		_, err := p.AcquireBound(t.Context(), "a", &balancer.Request{})
		require.Equal(t, balancer.ErrUnknown, err)
		require.Equal(t, "c", pick(t, p, &balancer.Request{}))
	})
	t.Run("none is a set", func(t *testing.T) {
		require.NoError(t, p.Update())
		require.Empty(t, p.Members())
		_, err := p.Acquire(t.Context(), &balancer.Request{})
		require.Equal(t, balancer.ErrNoTarget, err)
		require.NoError(t, p.Update(a))
		require.Equal(t, "a", pick(t, p, &balancer.Request{}))
	})
}

// A tunnel that lives long counts for its member through updates of everything else.
func TestPool_B3_TunnelKeepsItsLoadThroughUpdates(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(10)})
	l, err := p.AcquireBound(t.Context(), "t03", &balancer.Request{Tunnel: true})
	require.NoError(t, err)
	for i := range 100 {
		ts := targets(10 + i%3)
		slices.Reverse(ts)
		ts[0].Weight = 1 + i%5
		require.NoError(t, p.Update(ts...))
		require.EqualValues(t, 1, member(t, p, "t03").Load())
		require.EqualValues(t, 1, member(t, p, "t03").Tunnels())
		require.NotContains(t, keys(picks(t, p, 9)), "t03", "the others have less to do")
	}
	l.Release(balancer.Outcome{})
	require.Zero(t, member(t, p, "t03").Load())
}

func TestPool_MembersIsTheCallers(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(2)})
	clear(p.Members())
	require.Equal(t, "t00", p.Members()[0].ID())
}

func TestLease_ReleaseTwice(t *testing.T) {
	var events log
	p := newPool(t, balancer.Config{Targets: targets(1)})
	p.Observe(&events)
	l := acquire(t, p, &balancer.Request{})
	m := l.Member()
	l.Release(balancer.Outcome{Status: 200})
	require.Nil(t, l.Member())
	l.Release(balancer.Outcome{Status: 500})
	require.Zero(t, m.Load())
	require.Equal(t, []balancer.Outcome{{Status: 200}}, events.out)
	var zero balancer.Lease
	zero.Release(balancer.Outcome{})
	require.Nil(t, zero.Member())
}

// Observers are not told of a call that changes nothing.
func TestPool_ChangesThatAreNone(t *testing.T) {
	var events log
	p := newPool(t, balancer.Config{Targets: targets(1)})
	stop := p.Observe(&events)
	m := member(t, p, "t00")
	m.SetHealth(balancer.HealthUnknown)
	m.SetAdmin(balancer.Ready)
	m.Eject(time.Time{})
	m.Eject(time.Now().Add(-time.Second))
	require.Empty(t, events.take())
	until := time.Now().Add(time.Hour)
	m.Eject(until)
	m.Eject(until)
	require.Equal(t, []string{"t00 unknown ready ejected"}, events.take())
	stop()
	m.SetAdmin(balancer.Down)
	stop() // a second time does nothing
	require.Empty(t, events.take())
}

func TestPool_B6_EjectEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events log
		p := newPool(t, balancer.Config{Targets: targets(3)})
		p.Observe(&events)
		a, b := member(t, p, "t00"), member(t, p, "t01")
		a.Eject(time.Now().Add(time.Minute))
		b.Eject(time.Now().Add(time.Second))
		a.Eject(time.Now().Add(2 * time.Second)) // replaces the end by an earlier one
		require.Equal(t, []string{"t02"}, keys(picks(t, p, 200)))
		events.take()

		time.Sleep(time.Second - 1)
		synctest.Wait()
		require.Empty(t, events.take())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, []string{"t01 unknown ready"}, events.take())
		require.Equal(t, []string{"t01", "t02"}, keys(picks(t, p, 200)))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"t00 unknown ready"}, events.take())
		require.Equal(t, []string{"t00", "t01", "t02"}, keys(picks(t, p, 200)))

		a.Eject(time.Now().Add(time.Minute))
		b.Eject(time.Now().Add(time.Minute))
		events.take()
		a.Eject(time.Time{})
		require.Equal(t, []string{"t00 unknown ready"}, events.take(), "ended at once")
		require.NoError(t, p.Update(targets(1)...))
		events.take()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, events.take(), "the removed member's ejection has no end")
	})
}

// An observer may make changes. It is told of them in order, after its present call.
func TestObserver_MayChangeThings(t *testing.T) {
	var events log
	p := newPool(t, balancer.Config{Targets: targets(2)})
	p.Observe(react{func(m *balancer.Member, s balancer.State) {
		if s.Health == balancer.Unhealthy {
			m.SetAdmin(balancer.Down)
			require.NoError(t, p.Update(targets(1)...))
		}
	}})
	p.Observe(&events)
	member(t, p, "t01").SetHealth(balancer.Unhealthy)
	require.Equal(t, []string{
		"t01 unhealthy ready", "t01 unhealthy down", "t01 unhealthy down removed",
	}, events.take())
}

type react struct {
	f func(m *balancer.Member, s balancer.State)
}

func (r react) Changed(m *balancer.Member, s balancer.State) { r.f(m, s) }
func (react) Released(*balancer.Member, balancer.Outcome)    {}

// With concurrent changes, observers are told of each member's changes in the order in which they
// were made.
func TestObserver_OrderUnderConcurrency(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(4)})
	last := map[string]balancer.State{} // no lock: calls come one at a time
	var calls atomic.Int32
	p.Observe(react{func(m *balancer.Member, s balancer.State) {
		require.EqualValues(t, 1, calls.Add(1))
		require.NotEqual(t, last[m.ID()], s)
		last[m.ID()] = s
		calls.Add(-1)
	}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				m := p.Members()[(i+j)%4]
				m.SetHealth(balancer.Health(j % 4))
				m.SetAdmin(balancer.Admin((i + j) % 4))
			}
		})
	}
	wg.Wait()
	for _, m := range p.Members() {
		require.Equal(t, m.State(), last[m.ID()])
	}
}

// Eight goroutines acquire and release during updates; for the default picker there are 1,000
// updates. No count is lost and no request is refused.
func TestPool_B3_UpdatesUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		p := newPool(t, balancer.Config{Picker: picker, Targets: targets(20)})
		var done atomic.Bool
		var seen sync.Map
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				var leases []balancer.Lease
				for n := 0; !done.Load(); n++ {
					q := &balancer.Request{Key: fmt.Sprint(n), Client: client(n), Tunnel: n%3 == 0}
					l, err := p.Acquire(t.Context(), q)
					if n%4 == 0 {
						l.Release(balancer.Outcome{})
						l, err = p.AcquireBound(t.Context(), []string{"t00", "t19"}[n/4%2], q)
						if errors.Is(err, balancer.ErrUnknown) { // t19 comes and goes
							continue
						}
					}
					if err != nil {
						t.Errorf("%v", err)
						return
					}
					seen.Store(l.Member(), true)
					if leases = append(leases, l); len(leases) > i {
						leases[0].Release(balancer.Outcome{Latency: time.Millisecond})
						leases = leases[1:]
					}
					runtime.Gosched() // or each update waits for all time slices, where there is one processor
				}
				for _, l := range leases {
					l.Release(balancer.Outcome{})
				}
			})
		}
		updates := 100
		switch picker.(type) {
		case *balancer.LeastConnections:
			updates = 1000
		case *balancer.Maglev, *balancer.SourceAddress: // each update fills a table
			updates = 25
		}
		for i := range updates {
			ts := targets(10 + i%20)
			for j := range ts {
				ts[j].Weight = 1 + (i+j)%4
				ts[j].MaxRequests = 1000 * (j % 2)
			}
			if i%10 == 0 {
				ts[5].URL = parse(t, fmt.Sprint("http://v", i))
			}
			require.NoError(t, p.Update(ts...))
			p.Members()[1+i%9].SetAdmin(balancer.Admin(i / 6 % 4))
			runtime.Gosched()
		}
		done.Store(true)
		wg.Wait()
		for m := range seen.Range {
			require.Zero(t, m.(*balancer.Member).Load(), m.(*balancer.Member).ID())
		}
		for _, m := range p.Members() {
			require.Zero(t, m.Load())
			m.SetAdmin(balancer.Ready)
		}
		switch picker.(type) {
		case balancer.First, balancer.LatencyTwoChoices: // these need not pick all targets
		default:
			require.Len(t, picks(t, p, 3000), len(p.Members()), "the index has lost nobody")
		}
	})
}

// With any number of concurrent requests, limits hold, and all places can be used.
func TestPool_B4_LimitsUnderConcurrency(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		ts := targets(10)
		for i := range ts {
			ts[i].MaxRequests, ts[i].MaxTunnels = 3, 2
		}
		p := newPool(t, balancer.Config{Picker: picker, Targets: ts})
		for range 20 {
			var mu sync.Mutex
			var leases []balancer.Lease
			var wg sync.WaitGroup
			for i := range 80 {
				wg.Go(func() {
					l, err := p.Acquire(t.Context(), &balancer.Request{Tunnel: i%2 == 0, Client: client(i)})
					if err == nil {
						mu.Lock()
						defer mu.Unlock()
						leases = append(leases, l)
					}
				})
			}
			wg.Wait()
			require.Len(t, leases, 50)
			for _, m := range p.Members() {
				require.EqualValues(t, 5, m.Load())
				require.EqualValues(t, 2, m.Tunnels())
			}
			for i := range leases {
				wg.Go(func() { leases[i].Release(balancer.Outcome{}) })
			}
			wg.Wait()
		}
	})
}

// Requests and tunnels have limits of their own.
func TestPool_B4_RequestsAndTunnelsApart(t *testing.T) {
	ts := targets(1)
	ts[0].MaxRequests, ts[0].MaxTunnels = 1, 2
	p := newPool(t, balancer.Config{Targets: ts})
	request, tunnel := &balancer.Request{}, &balancer.Request{Tunnel: true}
	r := acquire(t, p, request)
	require.True(t, request.Skip(r.Member()))
	require.False(t, tunnel.Skip(r.Member()))
	acquire(t, p, tunnel)
	acquire(t, p, tunnel)
	for _, q := range []*balancer.Request{request, tunnel} {
		_, err := p.Acquire(t.Context(), q)
		require.ErrorIs(t, err, balancer.ErrFull)
		_, err = p.AcquireBound(t.Context(), "t00", q)
		require.Equal(t, balancer.ErrFull, err)
	}
	m := r.Member()
	require.EqualValues(t, 3, m.Load())
	require.EqualValues(t, 2, m.Tunnels())
	r.Release(balancer.Outcome{})
	acquire(t, p, request)
}

// If a limit is lowered below the load, requests under way continue, and no new one is admitted
// until there is room.
func TestPool_B4_LimitLowered(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(1), Queue: 1})
	var leases []balancer.Lease
	for range 3 {
		leases = append(leases, acquire(t, p, &balancer.Request{}))
	}
	ts := targets(1)
	ts[0].MaxRequests = 1
	require.NoError(t, p.Update(ts...))
	for i := range leases {
		require.True(t, (&balancer.Request{}).Skip(p.Members()[0]))
		leases[i].Release(balancer.Outcome{})
	}
	acquire(t, p, &balancer.Request{})
}

func TestRequest_Exclude(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(2)})
	var q balancer.Request
	q.Exclude(nil)
	q.Exclude(member(t, p, "t00"))
	q.Exclude(member(t, p, "t00"))
	require.True(t, q.Skip(member(t, p, "t00")))
	require.False(t, q.Skip(member(t, p, "t01")))
}

// Copies of a request exclude members apart from each other.
func TestRequest_ExcludeInACopy(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(20)})
	var q balancer.Request
	for i, m := range p.Members()[:18] {
		q.Exclude(m)
		a, b := q, q
		a.Exclude(p.Members()[i+1])
		b.Exclude(p.Members()[i+2])
		require.True(t, a.Skip(p.Members()[i+1]))
		require.False(t, a.Skip(p.Members()[i+2]))
		require.False(t, b.Skip(p.Members()[i+1]))
		require.True(t, b.Skip(p.Members()[i+2]))
	}
}

// A picker that breaks its contract does not break the pool's promises.
func TestPool_S18_AgainstABadPicker(t *testing.T) {
	ts := targets(3)
	ts[0].MaxRequests = 1
	p := newPool(t, balancer.Config{Targets: ts, Picker: always{}})
	acquire(t, p, &balancer.Request{})
	_, err := p.Acquire(t.Context(), &balancer.Request{})
	require.ErrorIs(t, err, balancer.ErrNoTarget, "always the full one")
	q := &balancer.Request{Tunnel: true}
	q.Exclude(member(t, p, "t00"))
	_, err = p.Acquire(t.Context(), q)
	require.ErrorIs(t, err, balancer.ErrNoTarget, "always the excluded one")
}

type always struct{}

func (always) Pick(_ *balancer.Request, s *balancer.Snapshot) *balancer.Member { return s.Members()[0] }

// Picking, acquiring and releasing allocate nothing with any picker.
func TestPool_Allocations(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		ts := weighted(1, 2, 3, 1, 2, 3, 1, 2, 3)
		ts[4].MaxRequests = 100
		p := newPool(t, balancer.Config{Picker: picker, Targets: ts})
		q := &balancer.Request{Key: "some key", Client: client(1)}
		excluding := &balancer.Request{Key: "some key", Client: client(1)}
		excluding.Exclude(member(t, p, "t02"))
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			for _, q := range []*balancer.Request{q, excluding} {
				l, _ := p.Acquire(t.Context(), q)
				l.Release(balancer.Outcome{Latency: time.Millisecond})
			}
			l, _ := p.AcquireBound(t.Context(), "t05", q)
			l.Release(balancer.Outcome{})
		}))
	})
}

// Memory does not grow with use: the index stays as large as it is, for all changes of loads.
func TestPool_AllocationsInTheLongRun(t *testing.T) {
	ts := weighted(1, 1, 1, 1, 1, 2, 2, 3)
	ts[0].MaxRequests = 3
	p := newPool(t, balancer.Config{Targets: ts})
	var q balancer.Request
	var held [40]balancer.Lease
	step := func(i int) {
		l := &held[(i*i+i/40)%len(held)]
		l.Release(balancer.Outcome{})
		*l, _ = p.Acquire(t.Context(), &q)
	}
	for i := range 1000 {
		step(i)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range 50_000 {
		step(i)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(100_000))
}

// A pool starts no goroutine: a bubble ends only when all that were started in it have.
func TestPool_NoGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(100), SlowStart: time.Hour, Queue: 10, QueueTimeout: time.Hour})
		picks(t, p, 10)
		require.NoError(t, p.Update(targets(200)...))
		member(t, p, "t00").Eject(time.Now().Add(time.Hour))
		picks(t, p, 10)
	})
}
