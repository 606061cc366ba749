package stream_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// Every hook of a server may panic: its connection ends and is reported, and nothing else happens.
func TestServer_HooksThatPanicAreContained(t *testing.T) {
	boom := func() { panic("a hook of mine") }
	for name, set := range map[string]func(s *stream.Server, trace *stream.Trace){
		"Route": func(s *stream.Server, _ *stream.Trace) {
			s.Route = func(stream.Client) *balancer.Pool { boom(); return nil }
		},
		"Key": func(s *stream.Server, _ *stream.Trace) { s.Key = func(stream.Client) string { boom(); return "" } },
		"ProxyHeader": func(s *stream.Server, _ *stream.Trace) {
			s.SendProxy = 2
			s.ProxyHeader = func(*proxyproto.Header, stream.Client) { boom() }
		},
		"Dial": func(s *stream.Server, _ *stream.Trace) {
			s.Dial = func(context.Context, *balancer.Member) (net.Conn, error) { boom(); return nil, nil }
		},
		"Pick": func(_ *stream.Server, trace *stream.Trace) {
			trace.Pick = func(stream.Client, *balancer.Member, error) { boom() }
		},
		"Done": func(*stream.Server, *stream.Trace) {},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "a", nil, echoing)
			s := &stream.Server{Pool: newPool(t, balancer.Config{}, b.target()), Logger: noLog}
			done := make(chan struct{}, 10)
			s.Trace = &stream.Trace{Done: func(stream.Record) { done <- struct{}{}; boom() }} // whoever else has panicked
			set(s, s.Trace)
			l := listen(t)
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			for range 2 {
				c, err := net.Dial("tcp", l.Addr().String())
				require.NoError(t, err)
				if name == "Done" {
					chat(t, c)
					closeWrite(t, c)
				}
				io.Copy(io.Discard, c)
				c.Close()
				wait(t, done, "the account")
			}
			require.NoError(t, s.Close())
			require.ErrorIs(t, wait(t, served, "the end of Serve"), stream.ErrServerClosed)
			idle(t, s.Pool)
		})
	}
}
