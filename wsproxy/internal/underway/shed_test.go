package underway_test

import (
	"context"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// startFor runs a tunnel of a session at a member, and counts its end.
func startFor(s *underway.Set, of underway.Session, m *balancer.Member, ended *atomic.Int64) (client net.Conn) {
	outer, near := net.Pipe()
	far, _ := net.Pipe()
	s.StartFor(of, m, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{Done: func(e tunnel.End) {
		if e.By == tunnel.Moved {
			ended.Add(1)
		}
	}})
	return outer
}

func TestSet_S25_ShedTunnelsAreSpread(t *testing.T) {
	tests := map[string]struct {
		tunnels, rate int
		window        time.Duration
	}{
		"few: over five seconds":  {10, 1000, 5 * time.Second},
		"many: at the rate":       {80, 10, 8 * time.Second},
		"one":                     {1, 10, 5 * time.Second},
		"a rate that nobody sees": {30, math.MaxInt, 5 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, "a", "b", "c")
				a, _ := pool.Member("a")
				b, _ := pool.Member("b")
				s := &underway.Set{Farewell: &tunnel.Farewell{By: tunnel.Moved}, Rebalance: tt.rate}
				defer pool.Observe(s)()
				var ended, others atomic.Int64
				issued := time.Now()
				for i := range tt.tunnels {
					m := a
					if i%2 == 1 {
						m = b
					}
					startFor(s, underway.Session{ID: uint64(i + 1), Issued: issued}, m, &ended)
				}
				startFor(s, underway.Session{}, a, &others)
				startFor(s, underway.Session{ID: 1, Issued: issued.Add(time.Hour)}, a, &others)

				require.NoError(t, a.SetShare(0))
				require.NoError(t, b.SetShare(0))
				step := tt.window / time.Duration(tt.tunnels)
				var before int64
				for range tt.tunnels + 1 {
					time.Sleep(step)
					synctest.Wait()
					now := ended.Load()
					require.LessOrEqual(t, now-before, int64(2), "no burst")
					before = now
				}
				time.Sleep(2 * step)
				synctest.Wait()
				require.EqualValues(t, tt.tunnels, ended.Load())
				require.Zero(t, others.Load(), "of no session, or of a later one")
				require.Error(t, s.Shutdown(cancelled(t)))
			})
		})
	}
}

func TestSet_S25_WhoIsShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, "a", "b")
		a, _ := pool.Member("a")
		b, _ := pool.Member("b")
		s := &underway.Set{Farewell: &tunnel.Farewell{By: tunnel.Moved}, Rebalance: 1000}
		defer pool.Observe(s)()
		var ended atomic.Int64
		want := 0
		for i := range uint64(100) {
			startFor(s, underway.Session{ID: i + 1}, a, &ended)
		}
		require.NoError(t, b.SetShare(0.5)) // nobody else takes sessions
		require.NoError(t, a.SetShare(0.5))
		for i := range uint64(100) {
			if !a.Keeps(i+1, time.Time{}) {
				want++
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, ended.Load(), "they would come back")

		require.NoError(t, b.SetShare(1))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, want, ended.Load())

		startFor(s, underway.Session{ID: 1 << 40}, a, &ended) // comes late
		require.NoError(t, a.SetShare(0))
		require.NoError(t, a.SetShare(1)) // and back, before anybody was asked
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, want, ended.Load())

		require.NoError(t, a.SetShare(0))
		startFor(s, underway.Session{ID: 1 << 41}, a, &ended)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 102, ended.Load(), "all, the one that began since, too")
		require.NoError(t, s.Shutdown(t.Context()))
	})
}

// A tunnel is not asked to end while its client would come back to the same member, because the
// others are full.
func TestSet_S25_NoneWithoutAPlaceElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, "a", "b")
		a, _ := pool.Member("a")
		b := pool.Members()[1].Target()
		b.MaxTunnels = 1
		require.NoError(t, pool.Update(a.Target(), b))
		s := &underway.Set{Farewell: &tunnel.Farewell{By: tunnel.Moved}, Rebalance: 1000}
		defer pool.Observe(s)()
		var ended atomic.Int64
		for i := range uint64(3) {
			startFor(s, underway.Session{ID: i + 1}, a, &ended)
		}
		lease, err := pool.AcquireBound(t.Context(), "b", &balancer.Request{Tunnel: true})
		require.NoError(t, err)
		require.NoError(t, a.SetShare(0))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, ended.Load())
		lease.Release(balancer.Outcome{})
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 3, ended.Load())
		require.NoError(t, s.Shutdown(t.Context()))
	})
}

func TestSet_S25_NoneUnlessAskedFor(t *testing.T) {
	for name, s := range map[string]*underway.Set{
		"no rate":       {Farewell: &tunnel.Farewell{By: tunnel.Moved}},
		"negative rate": {Farewell: &tunnel.Farewell{By: tunnel.Moved}, Rebalance: -1},
		"no farewell":   {Rebalance: 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, "a", "b")
			a, _ := pool.Member("a")
			defer pool.Observe(s)()
			var ended atomic.Int64
			startFor(s, underway.Session{ID: 1}, a, &ended)
			require.NoError(t, a.SetShare(0))
			time.Sleep(time.Hour)
			synctest.Wait()
			require.Zero(t, ended.Load(), name)
			require.Error(t, s.Shutdown(cancelled(t)))
		})
	}
}

// Drain and Shutdown do not wait for tunnels in the queue.
func TestSet_S25_ShutdownWhileShedding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, "a", "b")
		a, _ := pool.Member("a")
		s := &underway.Set{Farewell: &tunnel.Farewell{By: tunnel.Moved}, Rebalance: 1}
		defer pool.Observe(s)()
		var ended atomic.Int64
		for i := range uint64(100) {
			startFor(s, underway.Session{ID: i + 1}, a, &ended)
		}
		require.NoError(t, a.SetShare(0))
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 10, ended.Load())
		began := time.Now()
		require.Error(t, s.Shutdown(cancelled(t)))
		require.Zero(t, time.Since(began))
		require.EqualValues(t, 10, ended.Load())
		require.NoError(t, a.SetShare(0.5))
	})
}

// cancelled returns a context that has ended.
func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
