package peertest_test

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// A forwarder is a stream.Server in front of programs.
type forwarder struct {
	addr    string
	pool    *balancer.Pool
	server  *stream.Server
	mu      sync.Mutex
	records []stream.Record
}

// newForwarder serves until the test ends. Targets have few connections each in the mean, whoever was quick.
func newForwarder(t *testing.T, addrs map[string]string) *forwarder {
	t.Helper()
	f := &forwarder{}
	var conf balancer.Config
	for id, addr := range addrs {
		conf.Targets = append(conf.Targets, balancer.Target{ID: id, URL: &url.URL{Scheme: "tcp", Host: addr}})
	}
	var err error
	f.pool, err = balancer.New(conf)
	require.NoError(t, err)
	f.server = &stream.Server{
		Pool:   f.pool,
		Limits: stream.Limits{Connect: patience}, // a target that is gone refuses at once
		Logger: slog.New(slog.DiscardHandler),
		Trace: &stream.Trace{Done: func(rec stream.Record) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.records = append(f.records, rec)
		}},
	}
	l := newListener(t)
	f.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(l) }()
	t.Cleanup(func() {
		f.server.Close()
		require.ErrorIs(t, <-served, stream.ErrServerClosed)
	})
	return f
}

func (f *forwarder) member(t *testing.T, id string) *balancer.Member {
	t.Helper()
	m, ok := f.pool.Member(id)
	require.True(t, ok)
	return m
}

// drain begins to take a target out of service, without a grace. It waits until no new connection comes there.
func (f *forwarder) drain(t *testing.T, id string) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	registry := &health.Registry{Pool: f.pool}
	go func() { done <- registry.Drain(t.Context(), id, health.Drain{Grace: -1}) }()
	until(t, "no new connection comes", func() bool { return f.member(t, id).State().Admin != balancer.Ready })
	return done
}

// close waits for all connections to end by themselves, and checks that nothing is left of them. It returns their
// records.
func (f *forwarder) close(t *testing.T) []stream.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, f.server.Shutdown(ctx))
	for _, m := range f.pool.Members() {
		require.Zero(t, m.Load(), m.ID())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records
}

// split returns the two parts of an address.
func split(t *testing.T, addr string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return host, port
}

// A moment is something that happens while clients work.
type moment struct{ begun, over chan struct{} }

func newMoment() moment { return moment{make(chan struct{}), make(chan struct{})} }

func (m moment) happen(what func()) {
	close(m.begun)
	what()
	close(m.over)
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// busy waits until so many things more have been done.
func busy(t *testing.T, count func() int64, more int64) {
	t.Helper()
	want := count() + more
	until(t, "the work goes on", func() bool { return count() >= want })
}

// soon is a context for programs that must not hang.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
