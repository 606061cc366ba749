package redistest

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	slots       = 16384
	primaries   = 3
	nodeTimeout = "1500" // in milliseconds; a killed primary is replaced in about twice this time
)

// A Cluster has three primaries and three replicas, unless they change roles.
type Cluster struct {
	// Nodes are the servers. At the start, the first three are the primaries, each with a third of
	// the slots, and the last three are their replicas in the same order.
	Nodes []*Server

	t testing.TB
}

// StartCluster starts a Cluster and waits until all nodes agree on it. The nodes differ in their
// ports alone, so that clients also find them where no node knows its host. The arguments are
// those of [Start], for every node.
func StartCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	c, ip := &Cluster{t: t}, newIP()
	buses := make(map[*Server]string)
	for range 2 * primaries {
		s := newServer(t, ip)
		host, _ := s.hostPort()
		_, bus, err := net.SplitHostPort(newAddr(ip))
		require.NoError(t, err)
		buses[s] = bus
		s.args = append(append(baseArgs(s), "--cluster-enabled", "yes", "--cluster-port", bus,
			"--cluster-announce-ip", host, "--cluster-node-timeout", nodeTimeout), args...)
		s.Restart()
		c.Nodes = append(c.Nodes, s)
	}
	for i, s := range c.Nodes {
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i < primaries {
			s.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/primaries), strconv.Itoa((i+1)*slots/primaries-1))
		}
		for _, other := range c.Nodes[:i] {
			host, port := other.hostPort()
			s.Do("CLUSTER", "MEET", host, port, buses[other])
		}
	}
	c.until("all nodes have met", func(s *Server) bool {
		return strings.Count(s.nodes(), " connected") == len(c.Nodes) && !strings.Contains(s.nodes(), "handshake")
	})
	for i, s := range c.Nodes[primaries:] {
		s.Do("CLUSTER", "REPLICATE", c.Nodes[i].Do("CLUSTER", "MYID"))
	}
	c.Settle()
	return c
}

// until waits until something is true of each running node.
func (c *Cluster) until(what string, is func(s *Server) bool) {
	c.t.Helper()
	for _, s := range c.Nodes {
		if s.Running() {
			Until(c.t, fmt.Sprintf("%s, as %s sees it", what, s.Addr), func() bool { return is(s) })
		}
	}
}

// nodes returns the answer to CLUSTER NODES, or "".
func (s *Server) nodes() string {
	text, _ := s.Try("CLUSTER", "NODES")
	return text
}

// Settle waits until every running node finds that the Cluster serves all slots, until they agree
// on three primaries that run, and until every other running node is a replica that is connected
// to its primary. In the view of a node that is frozen nothing changes, so none may be.
func (c *Cluster) Settle() {
	c.t.Helper()
	var agreed []*Server
	c.until("the Cluster serves", func(s *Server) bool {
		info, err := s.Try("CLUSTER", "INFO")
		agreed = c.Primaries()
		return err == nil && field(info, "cluster_state") == "ok" && len(agreed) == primaries &&
			field(info, "cluster_slots_ok") == strconv.Itoa(slots) && sameServers(c.primaries(s), agreed)
	})
	for _, s := range c.Nodes {
		if s.Running() && !slices.Contains(agreed, s) {
			s.awaitLink()
		}
	}
}

func sameServers(a, b []*Server) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(s *Server) bool { return !slices.Contains(b, s) })
}

// primaries returns the running servers that have slots and are in good health, as s sees it.
func (c *Cluster) primaries(s *Server) (all []*Server) {
	for line := range strings.Lines(s.nodes()) {
		f := strings.Fields(line)
		if len(f) < 9 || !strings.Contains(f[2], "master") || strings.Contains(f[2], "fail") {
			continue
		}
		addr, _, _ := strings.Cut(f[1], "@")
		if i := slices.IndexFunc(c.Nodes, func(n *Server) bool { return n.Addr == addr && n.Running() }); i >= 0 {
			all = append(all, c.Nodes[i])
		}
	}
	return all
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() (all []string) {
	for _, s := range c.Nodes {
		all = append(all, s.Addr)
	}
	return all
}

// Primaries returns the nodes that are primaries now, by the word of the first running node that
// knows any. None may be frozen.
func (c *Cluster) Primaries() []*Server {
	for _, s := range c.Nodes {
		if s.Running() {
			if all := c.primaries(s); len(all) > 0 {
				return all
			}
		}
	}
	return nil
}

// PrimaryOf returns the primary that has the slot of a key.
func (c *Cluster) PrimaryOf(key string) *Server {
	c.t.Helper()
	for _, s := range c.Primaries() {
		if _, err := s.Try("EXISTS", key); err == nil { // others answer with MOVED
			return s
		}
	}
	require.FailNow(c.t, "no primary has the key "+key)
	return nil
}

// MoveSlot moves a slot with its keys to another primary, as redis-cli --cluster reshard does.
func (c *Cluster) MoveSlot(slot int, from, to *Server) {
	c.t.Helper()
	n := strconv.Itoa(slot)
	to.Do("CLUSTER", "SETSLOT", n, "IMPORTING", from.Do("CLUSTER", "MYID"))
	from.Do("CLUSTER", "SETSLOT", n, "MIGRATING", to.Do("CLUSTER", "MYID"))
	host, port := to.hostPort()
	for {
		keys := from.Do("CLUSTER", "GETKEYSINSLOT", n, "100")
		if keys == "" {
			break
		}
		from.Do(append([]string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}, strings.Split(keys, "\n")...)...)
	}
	id := to.Do("CLUSTER", "MYID")
	to.Do("CLUSTER", "SETSLOT", n, "NODE", id)
	from.Do("CLUSTER", "SETSLOT", n, "NODE", id)
}
