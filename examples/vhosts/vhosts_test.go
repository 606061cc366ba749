package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newTest returns vhosts that are never asked to follow Redis, and that find what find says.
func newTest(t *testing.T, log slog.Handler, find func(*vhosts, string) (*vhost, error)) *vhosts {
	t.Helper()
	o, err := parseFlags(nil, io.Discard)
	require.NoError(t, err)
	o.log, o.transport = slog.New(log), newTransport()
	all := newVhosts(o, nil)
	all.hosts.find = func(_ context.Context, host string) (*vhost, error) { return find(all, host) }
	t.Cleanup(all.close)
	return all
}

// A gate is the log of a process that stops where it logs its first line, until the gate opens.
type gate struct {
	slog.Handler
	once          sync.Once
	reached, open chan struct{}
}

func (g *gate) Enabled(context.Context, slog.Level) bool { return true }

func (g *gate) Handle(context.Context, slog.Record) error {
	g.once.Do(func() {
		close(g.reached)
		<-g.open
	})
	return nil
}

func (g *gate) WithAttrs([]slog.Attr) slog.Handler { return g }

// A request that comes while another one makes the vhost gets one with backends.
func TestVhosts_NobodyFindsOneWithoutItsBackends(t *testing.T) {
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	list := []string{"id", "nonsense", "http://a"} // the first URL is logged
	all := newTest(t, g, func(all *vhosts, host string) (*vhost, error) { return all.make(frontend{name: host, list: list}) })
	members := make(chan int, 2)
	use := func() {
		v, release, err := all.acquire(t.Context(), "site")
		if err != nil {
			members <- -1
			return
		}
		members <- len(v.registry.Pool.Members())
		release()
	}
	go use()
	<-g.reached
	go use()
	time.AfterFunc(50*time.Millisecond, func() { close(g.open) })
	require.Equal(t, 1, <-members)
	require.Equal(t, 1, <-members)
}

// A vhost that ends again and again as a request finds it is given up on, and keeps no users.
func TestVhosts_EndAsTheyAreFound(t *testing.T) {
	looks := 0
	var last *vhost
	all := newTest(t, slog.DiscardHandler, func(all *vhosts, host string) (*vhost, error) {
		v, err := all.make(frontend{name: host, list: []string{"id", "http://a"}})
		if looks++; looks < 3 {
			all.retire(v)
		}
		last = v
		return v, err
	})
	v, release, err := all.acquire(t.Context(), "site")
	require.NoError(t, err, "the third one stays")
	require.Same(t, last, v)
	require.Equal(t, 1, v.users)
	release()
	require.Zero(t, v.users)
}
