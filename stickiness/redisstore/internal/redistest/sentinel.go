package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Sentinel has a primary, its replica, and three sentinels that watch them.
type Sentinel struct {
	// Name is the primary's in the sentinels' configuration.
	Name string

	// Servers are the primary and the replica, in this order at the start.
	Servers []*Server

	// Sentinels are the processes that decide about a failover. Two of them have to agree.
	Sentinels []*Server

	t testing.TB
}

// StartSentinel starts all processes and waits until the sentinels could replace the primary. The
// arguments are those of [Start], for the primary and the replica.
func StartSentinel(t testing.TB, args ...string) *Sentinel {
	t.Helper()
	c := &Sentinel{Name: "sessions", t: t}
	primary := Start(t, args...)
	host, port := primary.hostPort()
	replica := Start(t, append([]string{"--replicaof", host + " " + port}, args...)...)
	c.Servers = []*Server{primary, replica}
	for range 3 {
		s := newServer(t, newIP())
		own, ownPort := s.hostPort()
		file := filepath.Join(s.dir, "sentinel.conf") // the process writes to it
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `bind %[1]s
port %[2]s
dir %[3]s
protected-mode no
sentinel monitor %[4]s %[5]s %[6]s 2
sentinel down-after-milliseconds %[4]s 1500
sentinel failover-timeout %[4]s 6000
sentinel announce-ip %[1]s
sentinel announce-port %[2]s
`, own, ownPort, s.dir, c.Name, host, port), 0o600))
		s.args = []string{file, "--sentinel"}
		s.Restart()
		c.Sentinels = append(c.Sentinels, s)
	}
	c.Settle()
	return c
}

// Settle waits until every running sentinel knows the others and every server, until they agree on
// a primary, and until the other server, if it runs, is a replica that is connected to it.
func (c *Sentinel) Settle() {
	c.t.Helper()
	primary := c.Primary()
	for _, s := range c.Sentinels {
		if !s.Running() {
			continue
		}
		Until(c.t, s.Addr+" could fail over", func() bool {
			said, err := s.Try("SENTINEL", "CKQUORUM", c.Name)
			known, _ := s.Try("SENTINEL", "REPLICAS", c.Name)
			return err == nil && strings.HasPrefix(said, "OK 3 usable") &&
				strings.Contains(known, "name\n") && s.primary(c.Name) == primary.Addr
		})
	}
	for _, s := range c.Servers {
		if s != primary && s.Running() {
			s.awaitLink()
		}
	}
}

// primary returns the address of the primary as a sentinel knows it.
func (s *Server) primary(name string) string {
	said, _ := s.Try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
	return strings.Replace(said, "\n", ":", 1)
}

// Addrs returns the addresses of the sentinels.
func (c *Sentinel) Addrs() (all []string) {
	for _, s := range c.Sentinels {
		all = append(all, s.Addr)
	}
	return all
}

// Primary returns the server that the first running sentinel names as the primary.
func (c *Sentinel) Primary() *Server {
	c.t.Helper()
	for _, s := range c.Sentinels {
		if !s.Running() {
			continue
		}
		addr := s.primary(c.Name)
		if i := slices.IndexFunc(c.Servers, func(n *Server) bool { return n.Addr == addr }); i >= 0 {
			return c.Servers[i]
		}
	}
	require.FailNow(c.t, "no sentinel knows the primary")
	return nil
}

// Failover has a sentinel replace the primary, as an operator does for maintenance, and waits until
// the replica is the primary.
func (c *Sentinel) Failover() {
	c.t.Helper()
	before := c.Primary()
	c.Sentinels[0].Do("SENTINEL", "FAILOVER", c.Name)
	Until(c.t, "the replica is the primary", func() bool { return c.Primary() != before })
}
