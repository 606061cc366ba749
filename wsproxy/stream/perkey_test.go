package stream_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// refused checks the record of a connection that was refused because of MaxPerKey.
func refused(t *testing.T, rec stream.Record) {
	t.Helper()
	failure, ok := errors.AsType[*stream.Error](rec.Err)
	require.True(t, ok)
	require.Equal(t, stream.ClassKeyLimit, failure.Class)
	require.Equal(t, "key limit", failure.Class.String())
	require.Empty(t, rec.Target)
	require.Zero(t, rec.Attempts)
	require.Equal(t, "127.0.0.1", rec.Client.String())
}

func TestServer_B4_MaxPerKey(t *testing.T) {
	b := newBackend(t, "a", nil, echoing)
	var log logtest.Buffer
	s := serve(t, &stream.Server{
		Pool:   newPool(t, balancer.Config{}, b.target()),
		Limits: stream.Limits{MaxPerKey: 2},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	first, second := s.dial(t), s.dial(t)
	chat(t, first)
	chat(t, second)
	for range 3 {
		expectEnd(t, s.dial(t))
		refused(t, s.ended(t))
	}
	require.Contains(t, log.String(), "key limit")
	other := s.dialFrom(t, "127.0.0.2")
	chat(t, other)

	first.Close() // counts until both ends are closed
	require.NoError(t, s.ended(t).Err)
	third := s.dial(t)
	chat(t, third)
	expectEnd(t, s.dial(t))
	refused(t, s.ended(t))
}

// A connection counts for its key before it has a target.
func TestServer_B4_MaxPerKeyCountsWhoWaits(t *testing.T) {
	dialing, dialed := make(chan struct{}, 1), make(chan struct{})
	b := newBackend(t, "a", nil, echoing)
	s := serve(t, &stream.Server{
		Pool:   newPool(t, balancer.Config{}, b.target()),
		Limits: stream.Limits{MaxPerKey: 1},
		Dial: func(ctx context.Context, m *balancer.Member) (net.Conn, error) {
			dialing <- struct{}{}
			<-dialed
			return new(net.Dialer).DialContext(ctx, "tcp", m.Target().URL.Host)
		},
	})
	first := s.dial(t)
	wait(t, dialing, "the dial")
	expectEnd(t, s.dial(t))
	refused(t, s.ended(t))
	close(dialed)
	chat(t, first)
}

func TestServer_B4_MaxPerKeyByServerName(t *testing.T) {
	b := newBackend(t, "a", nil, echoing)
	const secret = "one.example"
	var panics atomic.Bool
	var log logtest.Buffer
	s := serve(t, &stream.Server{
		Pool: newPool(t, balancer.Config{}, b.target()),
		TLS:  serverTLS(),
		Key: func(c stream.Client) string {
			if panics.Load() {
				panic("a hook of mine")
			}
			return "secret of " + c.ServerName
		},
		Limits: stream.Limits{MaxPerKey: 1},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	first := s.dialTLS(t, secret)
	chat(t, first)
	over := s.dialTLS(t, secret) // the name is known after the handshake
	_, err := io.ReadAll(over)
	require.False(t, isTimeout(err))
	refused(t, s.ended(t))
	chat(t, s.dialTLS(t, "two.example"))
	first.Close()
	require.NoError(t, s.ended(t).Err)

	panics.Store(true)
	again := s.dialTLS(t, secret)
	_, err = io.ReadAll(again)
	require.False(t, isTimeout(err))
	require.Error(t, s.ended(t).Err)
	panics.Store(false)
	chat(t, s.dialTLS(t, secret))
	require.NotContains(t, log.String(), "secret of ")
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// A client that gets no target, in whatever way, gives its place back. So does a tunnel that ends,
// in whatever way.
func TestServer_B4_MaxPerKeyIsGivenBack(t *testing.T) {
	greet := newBackend(t, "c", nil, func(c net.Conn) { c.Close() })
	ways := map[string]*stream.Server{
		"no target":        {Pool: newPool(t, balancer.Config{})},
		"no pool":          {Route: func(stream.Client) *balancer.Pool { return nil }},
		"refused":          {Pool: newPool(t, balancer.Config{}, dead(t, "a"))},
		"retried":          {Pool: newPool(t, balancer.Config{}, dead(t, "a"), dead(t, "b"), greet.target()), Retries: 2},
		"the target ends":  {Pool: newPool(t, balancer.Config{}, greet.target())},
		"Route panics":     {Route: func(stream.Client) *balancer.Pool { panic("a hook of mine") }},
		"no TLS handshake": {Pool: newPool(t, balancer.Config{}, greet.target()), TLS: serverTLS()},
		"no ClientHello":   {Pool: newPool(t, balancer.Config{}, greet.target()), ReadHello: true},
	}
	for name, server := range ways {
		t.Run(name, func(t *testing.T) {
			server.Limits.MaxPerKey = 1
			s := serve(t, server)
			for range 3 {
				c := s.dial(t)
				if server.TLS != nil || server.ReadHello {
					send(t, c, "this is no TLS at all\n")
				}
				io.Copy(io.Discard, c)
				c.Close()
				failure, _ := errors.AsType[*stream.Error](s.ended(t).Err)
				if failure != nil {
					require.NotEqual(t, stream.ClassKeyLimit, failure.Class)
				}
			}
		})
	}
}
