package balancer_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// A crowd is requests that wait in a bubble, each with a number.
type crowd struct {
	t    *testing.T
	pool *balancer.Pool

	mu     sync.Mutex
	served []int // in the order in which they got their lease
	leases map[int]balancer.Lease
	failed map[int]error
}

func newCrowd(t *testing.T, p *balancer.Pool) *crowd {
	return &crowd{t: t, pool: p, leases: map[int]balancer.Lease{}, failed: map[int]error{}}
}

// wait starts one more request that may wait. It is bound to id, or is for any target if id is
// empty. wait returns when the request is in the queue, or has its result.
func (c *crowd) wait(n int, ctx context.Context, id string, q *balancer.Request) {
	c.t.Helper()
	go func() {
		var l balancer.Lease
		var err error
		if id == "" {
			l, err = c.pool.Acquire(ctx, q)
		} else {
			l, err = c.pool.AcquireBound(ctx, id, q)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			c.failed[n] = err
			return
		}
		c.served = append(c.served, n)
		c.leases[n] = l
	}()
	synctest.Wait()
}

// release gives back the place that was served to n.
func (c *crowd) release(n int) {
	c.mu.Lock()
	l := c.leases[n]
	delete(c.leases, n)
	c.mu.Unlock()
	l.Release(balancer.Outcome{})
}

// on returns the target that n was served on.
func (c *crowd) on(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leases[n]
	return l.Member().ID()
}

func (c *crowd) anyone(n int) { c.wait(n, c.t.Context(), "", &balancer.Request{}) }

// news returns the requests that were served and those that failed since its last call.
func (c *crowd) news() (served []int, failed map[int]error) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	served, failed = c.served, c.failed
	c.served, c.failed = nil, map[int]error{}
	return served, failed
}

func (c *crowd) requireServed(want ...int) {
	c.t.Helper()
	served, failed := c.news()
	require.Empty(c.t, failed)
	require.Equal(c.t, want, served)
}

// limited returns n targets that take one request and one tunnel at a time.
func limited(n int) []balancer.Target {
	ts := targets(n)
	for i := range ts {
		ts[i].MaxRequests, ts[i].MaxTunnels = 1, 1
	}
	return ts
}

// fill takes all places for requests and returns the leases by target.
func fill(t *testing.T, p *balancer.Pool) map[string]*balancer.Lease {
	leases := map[string]*balancer.Lease{}
	for _, m := range p.Members() {
		l := bound(t, p, m.ID())
		leases[m.ID()] = &l
	}
	return leases
}

func TestQueue_B4_NoneByDefault(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: limited(1)})
	fill(t, p)
	_, err := p.Acquire(t.Context(), &balancer.Request{})
	require.ErrorIs(t, err, balancer.ErrFull)
	_, err = p.AcquireBound(t.Context(), "t00", &balancer.Request{})
	require.Equal(t, balancer.ErrFull, err)
}

func TestQueue_B4_FirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(1), Queue: 100})
		c := newCrowd(t, p)
		first := fill(t, p)["t00"]
		for i := range 100 {
			c.anyone(i)
		}
		c.requireServed()
		first.Release(balancer.Outcome{})
		for i := range 100 {
			c.requireServed(i) // this one and nobody else
			c.release(i)
		}
		require.Zero(t, p.Members()[0].Load())
	})
}

// 10,000 requests wait. A third of them give up at random while places become free one after the
// other. No request is lost or served twice, and the order is kept.
func TestQueue_B4_TenThousandWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		p := newPool(t, balancer.Config{Targets: limited(4), Queue: n})
		c := newCrowd(t, p)
		first := fill(t, p)
		cancels := make([]context.CancelFunc, n)
		for i := range n {
			ctx, cancel := context.WithCancel(t.Context())
			cancels[i] = cancel
			c.wait(i, ctx, "", &balancer.Request{})
		}
		c.requireServed()

		gone := rand.New(rand.NewPCG(1, 2)).Perm(n)[:n/3]
		for _, i := range gone[:n/6] { // before the first place comes free
			cancels[i]()
		}
		_, failed := c.news()
		require.ElementsMatch(t, gone[:n/6], slices.Collect(maps.Keys(failed)))

		var wg sync.WaitGroup
		wg.Go(func() { // the others meanwhile
			for _, i := range gone[n/6:] {
				cancels[i]()
			}
		})
		for _, l := range first {
			wg.Go(func() { l.Release(balancer.Outcome{}) })
		}
		wg.Wait()
		answers := make([]int, n)
		for i := range failed {
			answers[i]++
		}
		last := -1
		for {
			now, late := c.news()
			maps.Copy(failed, late)
			for i := range late {
				answers[i]++
			}
			if len(now) == 0 {
				break
			}
			slices.Sort(now) // those that were served at the same moment
			require.Greater(t, now[0], last, "the order is kept")
			require.LessOrEqual(t, len(now), 4, "as many as places came free")
			for _, i := range now {
				answers[i]++
				last = i
				c.release(i)
			}
		}
		require.Equal(t, slices.Repeat([]int{1}, n), answers, "none is lost, none served twice")
		require.LessOrEqual(t, len(failed), n/3)
		for _, err := range failed {
			require.ErrorIs(t, err, context.Canceled)
		}
		for _, m := range p.Members() {
			require.Zero(t, m.Load())
		}
		for _, cancel := range cancels {
			cancel()
		}
	})
}

// Everything happens at once: bound and unbound requests, tunnels, requests that give up or time
// out, targets that come and go. In the end each request has its result and no place is lost.
func TestQueue_B4_Chaos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(8), Queue: 1000, QueueTimeout: 50 * time.Millisecond})
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), 3))
				for range 300 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(100))*time.Millisecond)
					q := &balancer.Request{Tunnel: r.IntN(3) == 0}
					var excluded *balancer.Member
					if r.IntN(4) == 0 {
						excluded = p.Members()[r.IntN(4)]
						q.Exclude(excluded)
					}
					var l balancer.Lease
					var err error
					if r.IntN(2) == 0 {
						l, err = p.AcquireBound(ctx, fmt.Sprintf("t%02d", r.IntN(8)), q)
					} else {
						l, err = p.Acquire(ctx, q)
					}
					if err == nil {
						if l.Member() == excluded {
							t.Error("an excluded target")
						}
						time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
						l.Release(balancer.Outcome{})
					}
					cancel()
				}
			})
		}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(99, 3))
			for i := range 500 {
				ts := limited(4 + r.IntN(5))
				ts[r.IntN(4)].MaxRequests = r.IntN(3)
				if err := p.Update(ts...); err != nil {
					t.Error(err)
				}
				p.Members()[r.IntN(4)].SetAdmin(balancer.Admin(max(0, i%6-2)))
				time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
			}
		})
		wg.Wait()
		require.NoError(t, p.Update(limited(4)...))
		for _, m := range p.Members() {
			require.Zero(t, m.Load())
			m.SetAdmin(balancer.Ready)
		}
		for range 4 {
			acquire(t, p, &balancer.Request{})
			acquire(t, p, &balancer.Request{Tunnel: true})
		}
	})
}

func TestQueue_B4_BoundWaitersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(2), Queue: 100})
		c := newCrowd(t, p)
		places := fill(t, p)
		c.anyone(1)
		c.anyone(2)
		c.wait(3, t.Context(), "t01", &balancer.Request{})
		c.wait(4, t.Context(), "t01", &balancer.Request{})
		c.anyone(5)

		places["t00"].Release(balancer.Outcome{})
		c.requireServed(1) // nobody is bound to this one
		places["t01"].Release(balancer.Outcome{})
		c.requireServed(3)
		for _, step := range []struct{ release, served int }{{3, 4}, {4, 2}, {2, 5}} {
			require.Equal(t, "t01", c.on(step.release))
			c.release(step.release)
			c.requireServed(step.served)
		}
	})
}

func TestQueue_B4_RequestsAndTunnelsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(1), Queue: 100})
		c := newCrowd(t, p)
		request := acquire(t, p, &balancer.Request{})
		tunnel := acquire(t, p, &balancer.Request{Tunnel: true})
		c.wait(1, t.Context(), "", &balancer.Request{Tunnel: true})
		c.wait(2, t.Context(), "t00", &balancer.Request{Tunnel: true})
		c.wait(3, t.Context(), "", &balancer.Request{})
		c.wait(4, t.Context(), "t00", &balancer.Request{})
		request.Release(balancer.Outcome{})
		c.requireServed(4)
		tunnel.Release(balancer.Outcome{})
		c.requireServed(2)
		c.release(2)
		c.requireServed(1)
	})
}

func TestQueue_B4_Timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(1), Queue: 2, QueueTimeout: time.Second})
		c := newCrowd(t, p)
		last := fill(t, p)["t00"]
		c.anyone(1)
		time.Sleep(time.Second / 2)
		c.wait(2, t.Context(), "t00", &balancer.Request{})
		time.Sleep(time.Second/2 - 1)
		c.requireServed()
		time.Sleep(time.Nanosecond)
		served, failed := c.news()
		require.Empty(t, served)
		require.Len(t, failed, 1)
		require.ErrorIs(t, failed[1], balancer.ErrFull)
		require.ErrorIs(t, failed[1], balancer.ErrNoTarget)
		time.Sleep(time.Second / 2)
		_, failed = c.news()
		require.Equal(t, map[int]error{2: balancer.ErrFull}, failed)

		c.anyone(3) // the others are no longer in the queue
		last.Release(balancer.Outcome{})
		c.requireServed(3)
	})
}

func TestQueue_B4_BoundedForAllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(2), Queue: 2})
		c := newCrowd(t, p)
		fill(t, p)
		ctx, cancel := context.WithCancel(t.Context())
		c.wait(1, ctx, "t01", &balancer.Request{})
		c.anyone(2)
		c.anyone(3)
		c.wait(4, t.Context(), "t00", &balancer.Request{})
		_, failed := c.news()
		require.Len(t, failed, 2)
		require.ErrorIs(t, failed[3], balancer.ErrFull)
		require.ErrorIs(t, failed[3], balancer.ErrNoTarget)
		require.Equal(t, balancer.ErrFull, failed[4])

		cancel()
		_, failed = c.news()
		require.ErrorIs(t, failed[1], context.Canceled)
		require.ErrorContains(t, failed[1], "balancer: ")
		c.anyone(5) // there is room again
		c.requireServed()
	})
}

// A request waits only if a free place could serve it.
func TestQueue_B4_NoUseWaiting(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: limited(1), Queue: 10})
	m := p.Members()[0]
	var q balancer.Request
	q.Exclude(m)
	_, err := p.Acquire(t.Context(), &q)
	require.ErrorIs(t, err, balancer.ErrExcluded)
	_, err = p.AcquireBound(t.Context(), "t00", &q)
	require.Equal(t, balancer.ErrExcluded, err)
	fill(t, p)
	m.SetAdmin(balancer.Draining)
	_, err = p.Acquire(t.Context(), &balancer.Request{})
	require.Equal(t, balancer.ErrNoTarget, err)
	m.SetAdmin(balancer.Down)
	_, err = p.AcquireBound(t.Context(), "t00", &balancer.Request{})
	require.Equal(t, balancer.ErrDown, err)
}

// A place on a target that a request excludes goes to the next one in line.
func TestQueue_S18_ExcludedPlaceGoesToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(2), Queue: 10})
		c := newCrowd(t, p)
		places := fill(t, p)
		var q balancer.Request
		q.Exclude(member(t, p, "t00"))
		c.wait(1, t.Context(), "", &q)
		c.anyone(2)
		places["t00"].Release(balancer.Outcome{})
		c.requireServed(2)
		places["t01"].Release(balancer.Outcome{})
		c.requireServed(1)
		require.Equal(t, "t01", c.on(1))

		// If no waiting request can use the place, the next request that comes gets it.
		c.wait(3, t.Context(), "", &q)
		c.release(2)
		c.requireServed()
		require.Equal(t, "t00", pick(t, p, &balancer.Request{}))
	})
}

// Requests that exclude a whole tier wait for the next one.
func TestQueue_S18_NextTier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := limited(3)
		ts[1].Backup, ts[2].Backup = true, true
		p := newPool(t, balancer.Config{Targets: ts, Queue: 10})
		c := newCrowd(t, p)
		places := fill(t, p)
		c.anyone(1)
		var q balancer.Request
		q.Exclude(member(t, p, "t00"))
		c.wait(2, t.Context(), "", &q)
		places["t02"].Release(balancer.Outcome{})
		c.requireServed(2) // the backup is not for the first
		places["t00"].Release(balancer.Outcome{})
		c.requireServed(1)
	})
}

func TestQueue_S22_BoundWaitersHearOfTheirTarget(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(p *balancer.Pool, m *balancer.Member)
		want   error
	}{
		"down":      {func(_ *balancer.Pool, m *balancer.Member) { m.SetAdmin(balancer.Down) }, balancer.ErrDown},
		"moving":    {func(_ *balancer.Pool, m *balancer.Member) { m.SetAdmin(balancer.Moving) }, balancer.ErrMoving},
		"unhealthy": {func(_ *balancer.Pool, m *balancer.Member) { m.SetHealth(balancer.Unhealthy) }, balancer.ErrDown},
		"ejected":   {func(_ *balancer.Pool, m *balancer.Member) { m.Eject(time.Now().Add(time.Hour)) }, balancer.ErrEjected},
		"removed":   {func(p *balancer.Pool, _ *balancer.Member) { p.Update(limited(1)...) }, balancer.ErrUnknown},
		"draining":  {func(_ *balancer.Pool, m *balancer.Member) { m.SetAdmin(balancer.Draining) }, nil},
		"reserved":  {func(_ *balancer.Pool, m *balancer.Member) { m.SetHealth(balancer.Reserved) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, balancer.Config{Targets: limited(2), Queue: 10})
				c := newCrowd(t, p)
				places := fill(t, p)
				m := member(t, p, "t01")
				c.wait(1, t.Context(), "t01", &balancer.Request{})
				c.anyone(2)
				tt.change(p, m)
				served, failed := c.news()
				require.Empty(t, served)
				require.Equal(t, tt.want, failed[1])
				places["t01"].Release(balancer.Outcome{})
				if tt.want == nil {
					c.requireServed(1)
				} else {
					c.requireServed() // no new session on it
				}
				places["t00"].Release(balancer.Outcome{})
				c.requireServed(2)
			})
		})
	}
}

// Requests that wait for any target are served when a target joins, comes back or gets a higher
// limit: in order, and as many as there is room for. They fail when no target is left.
func TestQueue_B4_ChangesOfTheSet(t *testing.T) {
	changes := map[string]struct {
		before, change func(t *testing.T, p *balancer.Pool)
	}{
		"added": {
			func(*testing.T, *balancer.Pool) {},
			func(t *testing.T, p *balancer.Pool) {
				ts := limited(2)
				ts[1].MaxRequests = 3
				require.NoError(t, p.Update(ts...))
			},
		},
		"limit raised": {
			func(*testing.T, *balancer.Pool) {},
			func(t *testing.T, p *balancer.Pool) {
				ts := limited(1)
				ts[0].MaxRequests = 4
				require.NoError(t, p.Update(ts...))
			},
		},
		"back": {
			func(t *testing.T, p *balancer.Pool) {
				ts := limited(2)
				ts[1].MaxRequests = 3
				require.NoError(t, p.Update(ts...))
				member(t, p, "t01").SetHealth(balancer.Unhealthy)
			},
			func(t *testing.T, p *balancer.Pool) { member(t, p, "t01").SetHealth(balancer.HealthUnknown) },
		},
		"reserved no more": {
			func(t *testing.T, p *balancer.Pool) {
				ts := limited(2)
				ts[1].MaxRequests = 3
				require.NoError(t, p.Update(ts...))
				member(t, p, "t01").SetHealth(balancer.Reserved)
			},
			func(t *testing.T, p *balancer.Pool) { member(t, p, "t01").SetHealth(balancer.HealthUnknown) },
		},
		"ejection over": {
			func(t *testing.T, p *balancer.Pool) {
				ts := limited(2)
				ts[1].MaxRequests = 3
				require.NoError(t, p.Update(ts...))
				member(t, p, "t01").Eject(time.Now().Add(time.Minute))
			},
			func(*testing.T, *balancer.Pool) { time.Sleep(time.Minute) },
		},
	}
	for name, tt := range changes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, balancer.Config{Targets: limited(1), Queue: 100})
				c := newCrowd(t, p)
				fill(t, p)
				tt.before(t, p)
				var q balancer.Request
				q.Exclude(member(t, p, "t00"))
				for i := range 10 {
					c.anyone(i)
				}
				tt.change(t, p)
				served, failed := c.news()
				require.Empty(t, failed)
				slices.Sort(served)
				require.Equal(t, []int{0, 1, 2}, served)

				for _, m := range p.Members() {
					m.SetAdmin(balancer.Down)
				}
				_, failed = c.news()
				require.Len(t, failed, 7)
				for _, err := range failed {
					require.Equal(t, balancer.ErrNoTarget, err)
				}
			})
		})
	}
}

// A request that cannot use a new place does not keep it from the requests behind it.
func TestQueue_S18_ExcludedDoesNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: limited(2), Queue: 100})
		c := newCrowd(t, p)
		fill(t, p)
		m := member(t, p, "t01")
		var q balancer.Request
		q.Exclude(m)
		c.wait(1, t.Context(), "", &q)
		c.wait(2, t.Context(), "", &q)
		c.anyone(3)
		c.anyone(4)
		ts := limited(2)
		ts[1].MaxRequests = 3
		require.NoError(t, p.Update(ts...))
		served, failed := c.news()
		require.Empty(t, failed)
		slices.Sort(served)
		require.Equal(t, []int{3, 4}, served)
	})
}

// After a limit was lowered, no request is served until the load is below it.
func TestQueue_B4_LimitLowered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(1), Queue: 10})
		c := newCrowd(t, p)
		for i := range 3 {
			c.anyone(i)
		}
		c.requireServed(0, 1, 2)
		require.NoError(t, p.Update(limited(1)...))
		c.anyone(3)
		c.wait(4, t.Context(), "t00", &balancer.Request{})
		c.release(0)
		c.release(1)
		c.requireServed()
		c.release(2)
		c.requireServed(4)
		c.release(4)
		c.requireServed(3)
	})
}

// Requests that have waited hold no memory: a removed member can be collected.
func TestQueue_B4_NoTrace(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: limited(8), Queue: 10})
	gone := func() weak.Pointer[balancer.Member] {
		l := bound(t, p, "t07")
		defer l.Release(balancer.Outcome{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := p.AcquireBound(ctx, "t07", &balancer.Request{})
		require.ErrorIs(t, err, context.Canceled)
		return weak.Make(l.Member())
	}()
	runtime.GC()
	require.NotNil(t, gone.Value())
	require.NoError(t, p.Update(limited(7)...))
	pick(t, p, &balancer.Request{})
	runtime.GC()
	require.Nil(t, gone.Value())
	runtime.KeepAlive(p)
}

// A ledger is an Indexer that records the calls of Loaded.
type ledger struct {
	balancer.First
	mu   sync.Mutex
	load map[*balancer.Member]int64
}

func (*ledger) Rebuild(*balancer.Snapshot) {}

func (l *ledger) Loaded(m *balancer.Member, load int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load[m] = load
}

// An Indexer is told of each change of a load, for all its causes.
func TestIndexer_B2_HearsOfEveryLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{load: map[*balancer.Member]int64{}}
		p := newPool(t, balancer.Config{Picker: l, Targets: limited(2), Queue: 10})
		c := newCrowd(t, p)
		same := func() {
			t.Helper()
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, m := range p.Members() {
				require.Equal(t, m.Load(), l.load[m], m.ID())
			}
		}
		places := fill(t, p)
		same()
		c.anyone(1)
		c.wait(2, t.Context(), "t01", &balancer.Request{})
		c.wait(3, t.Context(), "t01", &balancer.Request{})
		places["t00"].Release(balancer.Outcome{}) // to 1
		same()
		places["t01"].Release(balancer.Outcome{}) // to 2
		same()
		ts := limited(2)
		ts[1].MaxRequests = 2
		require.NoError(t, p.Update(ts...)) // to 3
		same()
		for i := range 3 {
			c.release(1 + i)
			same()
		}
	})
}

// A place that comes free at the moment at which a request joins is not overlooked.
func TestQueue_B4_FreedWhileJoining(t *testing.T) {
	for _, id := range []string{"", "t00"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, balancer.Config{Targets: limited(1), Queue: 10})
			c := newCrowd(t, p)
			last := acquire(t, p, &balancer.Request{})
			for i := range 5000 {
				go last.Release(balancer.Outcome{})
				c.wait(i, t.Context(), id, &balancer.Request{})
				c.requireServed(i)
				last = c.leases[i]
			}
		})
	}
}

// A waiter is told to look again, but gets a place or gives up before it does. The waiters behind
// it still get the places that are left.
func TestQueue_B4_LookIsPassedOn(t *testing.T) {
	ends := map[string]func(place *balancer.Lease, cancel context.CancelFunc){
		"given":    func(place *balancer.Lease, _ context.CancelFunc) { place.Release(balancer.Outcome{}) },
		"gives up": func(_ *balancer.Lease, cancel context.CancelFunc) { cancel() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			for range 200 {
				synctest.Test(t, func(t *testing.T) {
					p := newPool(t, balancer.Config{Targets: limited(1), Queue: 10})
					c := newCrowd(t, p)
					place := fill(t, p)["t00"]
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					c.wait(0, ctx, "", &balancer.Request{})
					for i := range 5 {
						c.anyone(1 + i)
					}
					ts := limited(2)
					ts[1].MaxRequests = 3
					require.NoError(t, p.Update(ts...))
					end(place, cancel)
					served, failed := c.news()
					want := 3
					if name == "given" {
						want = 4
					}
					require.Len(t, served, want)
					require.LessOrEqual(t, len(failed), 1)
					require.EqualValues(t, 3, member(t, p, "t01").Load())
				})
			}
		})
	}
}

// A picker panics, or ends its goroutine, for a waiting request. The request leaves the queue
// without a place, and the requests behind it get theirs.
func TestQueue_B4_PickerPanicsForOneThatWaits(t *testing.T) {
	for how, end := range map[string]func(){
		"panic": func() { panic("no pick today") }, "goexit": runtime.Goexit,
	} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var broken atomic.Bool
				picker := pickFunc(func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
					if q.Key == "broken" && broken.Load() {
						end()
					}
					return balancer.First{}.Pick(q, s)
				})
				one := target("a")
				one.MaxRequests = 1
				p := newPool(t, balancer.Config{Picker: picker, Targets: []balancer.Target{one}, Queue: 10})
				l := bound(t, p, "a")
				go func() {
					defer func() { _ = recover() }()
					_, _ = p.Acquire(t.Context(), &balancer.Request{Key: "broken"})
				}()
				synctest.Wait()
				got := make(chan balancer.Lease, 2)
				go func() { got <- acquire(t, p, &balancer.Request{}) }()
				synctest.Wait()
				require.Equal(t, 2, p.Waiting())
				broken.Store(true)
				one.MaxRequests = 2
				require.NoError(t, p.Update(one)) // the first one looks, and the next one after it
				synctest.Wait()
				require.Zero(t, p.Waiting())
				second := <-got
				second.Release(balancer.Outcome{})
				l.Release(balancer.Outcome{})
				require.Zero(t, member(t, p, "a").Load())
			})
		})
	}
}
