package fleettest_test

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// A Cluster: slots move, nodes do not know their own addresses, and a primary is killed.
func TestFleet_Cluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	r := redisSettings{Addrs: c.Addrs()}
	f := newFleet(t, r, r, r)

	// Messages about changes come from the node that has the slot now. The balancers' copies come
	// from the node that had it before.
	moving := f.movers()
	a := f.suffer("all slots with sessions move from one primary to another", func(func(int)) {
		moveSessions(c, c.Primaries()[0], c.Primaries()[1])
		f.move(moving, f.balancers[1])
		f.follow(moving)
	})
	require.Zero(t, a.Lost)
	require.LessOrEqual(t, a.Missed, int(a.StoreFailed))
	require.Zero(t, a.LostStored)

	// One new balancer asks by CLUSTER SLOTS, and the other one by CLUSTER SHARDS.
	a = f.suffer("new balancers, and no node knows its own endpoint", func(rounds func(int)) {
		configure(c.Nodes, "cluster-preferred-endpoint-type", "unknown-endpoint")
		f.balancers[1].kill()
		f.balancers[1].start()
		f.balancers[2].settings.Redis.Shards = true
		f.balancers[2].kill()
		f.balancers[2].start()
		rounds(1)
	})
	require.Zero(t, a.Lost)
	require.LessOrEqual(t, a.Missed, int(a.StoreFailed))
	require.Zero(t, a.LostStored)

	f.known(f.visitors)
	a = f.suffer("the endpoint of one node is a question mark for a while", func(rounds func(int)) {
		host, _, err := net.SplitHostPort(c.Nodes[0].Addr)
		require.NoError(t, err)
		unknown := c.Primaries()[0]
		for _, s := range c.Nodes {
			if s != unknown {
				s.Do("CONFIG", "SET", "cluster-announce-hostname", host)
			}
		}
		configure(c.Nodes, "cluster-preferred-endpoint-type", "hostname")
		rounds(3)
		configure(c.Nodes, "cluster-announce-hostname", host)
	})
	require.Zero(t, a.Lost)
	require.Zero(t, a.Missed)
	require.Zero(t, a.LostStored)

	f.known(f.visitors)
	dead := c.Primaries()[1]
	a = f.suffer("a primary is killed, and comes back as a replica", func(func(int)) {
		dead.Kill()
		c.Settle()
		dead.Restart()
		c.Settle()
	})
	require.Zero(t, a.Lost)
	require.Zero(t, a.Missed)
	f.close()
}

func configure(all []*redistest.Server, name, value string) {
	for _, s := range all {
		s.Do("CONFIG", "SET", name, value)
	}
}

// moveSessions moves all slots that have sessions.
func moveSessions(c *redistest.Cluster, from, to *redistest.Server) {
	moved := make(map[string]bool)
	for key := range strings.SplitSeq(from.Do("KEYS", "*"), "\n") {
		text := from.Do("CLUSTER", "KEYSLOT", key)
		if slot, err := strconv.Atoi(text); err == nil && !moved[text] {
			c.MoveSlot(slot, from, to)
			moved[text] = true
		}
	}
}
