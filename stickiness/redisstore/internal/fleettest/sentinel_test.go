package fleettest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// Sentinel replaces a primary that is killed.
func TestFleet_SentinelPrimaryKilled(t *testing.T) {
	t.Parallel()
	c := redistest.StartSentinel(t)
	r := redisSettings{Addrs: c.Addrs(), Master: c.Name}
	f := newFleet(t, r, r, r)
	a := f.suffer("the primary is killed", func(func(int)) {
		c.Servers[0].Kill()
		redistest.Until(t, "the replica is the primary", func() bool { return c.Primary() == c.Servers[1] })
	})
	require.Zero(t, a.Lost)
	require.Zero(t, a.Missed)
	f.close()
}

// An operator makes Sentinel replace the primary, and one balancer does not get the message. It
// continues to use the old primary, which still serves it, until it asks again. What it writes in
// that time is lost when the old primary becomes a replica.
func TestFleet_SentinelFailoverMissed(t *testing.T) {
	t.Parallel()
	c := redistest.StartSentinel(t)
	r := redisSettings{Addrs: c.Addrs(), Master: c.Name}
	deaf := redisSettings{Addrs: r.Addrs, Master: r.Master, Via: make(map[string]string)}
	var relays []*redistest.Relay
	for _, s := range c.Sentinels {
		relay := redistest.NewRelay(t, s.Addr)
		relays = append(relays, relay)
		deaf.Via[s.Addr] = relay.Addr
	}
	f := newFleet(t, deaf, r, r)
	a := f.suffer("a planned failover that one balancer is not told of", func(func(int)) {
		for _, relay := range relays {
			relay.Suppress("+switch-master")
		}
		c.Failover()
		redistest.Until(t, "the balancer misses the message", func() bool {
			missed := 0
			for _, relay := range relays {
				missed += relay.Suppressed()
			}
			return missed > 0
		})
	})
	require.Zero(t, a.Lost)
	require.Zero(t, a.Missed)
	require.Less(t, a.Recovery, 30*time.Second, "10 s where the machine is not busy")
	f.close()
}
