package wsproxy_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy"
)

// After a scale-out the old targets have all WebSockets. SetShare and Rebalance give the new ones
// theirs, and no others move. A rolling replacement of the old targets leaves the tunnels even.
func TestProxy_S25_ScaleOut(t *testing.T) {
	t.Parallel()
	const sockets, old, all = 100, 2, 5
	d := newDeployment(t, old, wsproxy.TunnelLimits{Window: 20 * time.Millisecond, Rebalance: 1000})
	pool := d.registry.Pool
	survivors := pool.Members()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	issued := time.Now().Add(-time.Hour)
	kept := map[string]int64{}
	sessions := map[string][]uint64{}
	for i := range sockets {
		id := survivors[i%old].ID()
		ticket := cookie.Ticket{Target: id, Session: uint32(i + 1), Issued: issued}
		sessions[id] = append(sessions[id], uint64(i+1))
		line := "AWSELB=" + seal(t, "", key, ticket)
		clients.Go(func() { d.chat(line, stop) })
	}
	leave := sync.OnceFunc(func() {
		close(stop)
		clients.Wait()
	})
	defer leave()
	tunnels := func() (all, most int64) {
		for _, m := range pool.Members() {
			all, most = all+m.Tunnels(), max(most, m.Tunnels())
		}
		return all, most
	}
	settled := func(test func() bool) {
		require.Eventually(t, func() bool {
			open, _ := tunnels()
			return open == sockets && len(pool.Leaving()) == 0 && test()
		}, patience, time.Millisecond)
	}
	settled(func() bool { return true })
	for len(d.list) < all {
		d.list = append(d.list, d.newBackend())
	}
	require.NoError(t, d.registry.Replace(d.targets(), health.Drain{}))
	_, most := tunnels()
	require.EqualValues(t, sockets/old, most, "a scale-out alone changes nothing")

	for _, m := range survivors {
		d.mu.Lock()
		d.yields[m.ID()] = true
		d.mu.Unlock()
		require.NoError(t, m.SetShare(float64(old)/all))
		for _, session := range sessions[m.ID()] {
			if m.Keeps(session, issued) {
				kept[m.ID()]++
			}
		}
	}
	settled(func() bool {
		for _, m := range survivors {
			if m.Tunnels() != kept[m.ID()] {
				return false
			}
		}
		return true
	})
	requireEven := func() {
		t.Helper()
		_, most := tunnels()
		require.LessOrEqual(t, most, int64(sockets/all*3/2))
	}
	requireEven()
	for range survivors {
		d.replace(0)
		settled(func() bool { return true })
		requireEven()
	}
	settled(func() bool { return d.tunnels.Load() == d.goodbyes.Load() })
	leave()
	require.Eventually(t, func() bool { // before the proxy is shut down
		open, _ := tunnels()
		return open == 0
	}, patience, time.Millisecond)
}
