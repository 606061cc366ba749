package underway_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

func TestLimit(t *testing.T) {
	require.Equal(t, time.Second, underway.Limit(0, time.Second))
	require.Equal(t, 2*time.Second, underway.Limit(2*time.Second, time.Second))
	require.Equal(t, time.Duration(math.MaxInt64), underway.Limit(-1, time.Second))
}

// A shortened time is within its percentage, and no two are alike.
func TestShorten(t *testing.T) {
	for percent, least := range map[int]time.Duration{0: 54 * time.Minute, 25: 45 * time.Minute, 100: 0, 1000: 0, -1: time.Hour} {
		seen := make(map[time.Duration]bool)
		for range 100 {
			d := underway.Shorten(time.Hour, percent)
			require.True(t, least <= d && d <= time.Hour, "%d: %v", percent, d)
			seen[d] = true
		}
		require.Equal(t, percent < 0, len(seen) == 1, percent)
	}
	require.Zero(t, underway.Shorten(0, 10))
	require.Negative(t, underway.Shorten(-time.Hour, 10))
}

func TestBlame(t *testing.T) {
	broke := errors.New("broke")
	tests := map[string]struct {
		end  tunnel.End
		want balancer.Class
	}{
		"proper":          {tunnel.End{By: tunnel.BackendClosed}, balancer.OK},
		"broke":           {tunnel.End{By: tunnel.BackendReadFailed, Err: broke}, balancer.TunnelEarly},
		"broke writing":   {tunnel.End{By: tunnel.BackendWriteFailed, Err: broke}, balancer.TunnelEarly},
		"client broke":    {tunnel.End{By: tunnel.ClientReadFailed, Err: broke}, balancer.OK},
		"late":            {tunnel.End{By: tunnel.BackendReadFailed, Err: broke, Duration: 10 * time.Second}, balancer.OK},
		"client had said": {tunnel.End{By: tunnel.BackendReadFailed, Err: broke, FromClient: 1}, balancer.OK},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			class, err := underway.Blame(tt.end)
			require.Equal(t, tt.want, class)
			require.Equal(t, tt.want != balancer.OK, err == broke)
		})
	}
}

// A cutter counts how often it is cut.
type cutter struct{ cuts atomic.Int32 }

func (c *cutter) Cut() { c.cuts.Add(1) }

func newPool(t *testing.T, ids ...string) *balancer.Pool {
	t.Helper()
	var conf balancer.Config
	for _, id := range ids {
		conf.Targets = append(conf.Targets, balancer.Target{ID: id, URL: &url.URL{Scheme: "tcp", Host: id + ":1"}})
	}
	pool, err := balancer.New(conf)
	require.NoError(t, err)
	return pool
}

// start runs a tunnel at a member and returns its outer ends and its end.
func start(s *underway.Set, m *balancer.Member) (client net.Conn, end <-chan tunnel.End) {
	outer, near := net.Pipe()
	far, _ := net.Pipe()
	ended := make(chan tunnel.End, 1)
	s.Start(m, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{Done: func(e tunnel.End) { ended <- e }})
	return outer, ended
}

func TestSet_S22_Steps(t *testing.T) {
	for name, farewell := range map[string]*tunnel.Farewell{"asked": {By: tunnel.Moved, Window: time.Minute}, "left": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, "a", "b")
				a, _ := pool.Member("a")
				b, _ := pool.Member("b")
				s := &underway.Set{Farewell: farewell}
				defer pool.Observe(s)()
				_, endA := start(s, a)
				clientB, endB := start(s, b)
				var c, removed cutter
				require.True(t, s.Add(a, &c))
				require.True(t, s.Add(a, &removed))
				s.Remove(a, &removed)

				a.SetAdmin(balancer.Draining)
				time.Sleep(time.Hour)
				require.Empty(t, endA)
				a.SetAdmin(balancer.Moving)
				time.Sleep(time.Hour)
				synctest.Wait()
				if farewell != nil {
					require.Equal(t, tunnel.Moved, (<-endA).By) // no WebSocket, so to ask is to cut
				}
				_, late := start(s, a) // as if its lease had been taken before
				synctest.Wait()
				require.Equal(t, farewell != nil, len(late) == 1)
				require.Zero(t, c.cuts.Load())

				a.SetAdmin(balancer.Down)
				if farewell == nil {
					require.Equal(t, tunnel.Moved, (<-endA).By)
				}
				require.Equal(t, tunnel.Moved, (<-late).By)
				require.EqualValues(t, 1, c.cuts.Load())
				require.Zero(t, removed.cuts.Load())
				require.False(t, s.Add(a, &removed))
				_, late = start(s, a)
				require.Equal(t, tunnel.Moved, (<-late).By)
				require.Empty(t, endB, "another member's tunnel")

				require.False(t, s.Closing())
				clientB.Close()
				require.NoError(t, s.Shutdown(t.Context()))
				require.Equal(t, tunnel.ClientClosed, (<-endB).By)
				require.True(t, s.Closing())
				_, late = start(s, b)
				require.Equal(t, tunnel.Shutdown, (<-late).By)
			})
		})
	}
}

// Tunnels that have not been asked stay when the member is ready again.
func TestSet_S22_Back(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, "a")
		a, _ := pool.Member("a")
		s := &underway.Set{Farewell: &tunnel.Farewell{By: tunnel.Moved, Window: time.Hour}}
		defer pool.Observe(s)()
		var ends []<-chan tunnel.End
		var clients []net.Conn
		for range 100 {
			client, end := start(s, a)
			clients, ends = append(clients, client), append(ends, end)
		}
		a.SetAdmin(balancer.Moving)
		time.Sleep(30 * time.Minute)
		a.SetAdmin(balancer.Ready)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		left := 0
		for i, end := range ends {
			if len(end) == 0 {
				left++
				go io.Copy(io.Discard, clients[i])
			}
		}
		require.InDelta(t, 50, left, 2)
		require.NoError(t, s.Drain(t.Context(), tunnel.Farewell{By: tunnel.Shutdown}))
	})
}

// Tunnels may start while Drain asks others: each of them is asked as well.
func TestSet_W6_DrainsWhileOthersStart(t *testing.T) {
	pool := newPool(t, "a")
	a, _ := pool.Member("a")
	for range 50 {
		var s underway.Set
		var starting sync.WaitGroup
		for range 4 {
			starting.Go(func() {
				for range 20 {
					client, end := start(&s, a)
					go io.Copy(io.Discard, client)
					require.Equal(t, tunnel.Shutdown, (<-end).By)
				}
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nobody waits for those that are held
		require.True(t, s.Hold())
		s.Drain(ctx, tunnel.Farewell{By: tunnel.Shutdown})
		starting.Wait()
		s.Release()
	}
}
