package wsproxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// Hooks that run outside of a request's handler end neither the program nor anything else.
func TestProxy_HooksThatPanicAreContained(t *testing.T) {
	t.Run("Trace.Tunnel", func(t *testing.T) {
		var log logtest.Buffer
		b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Write([]byte(switching()))
				conn.Close()
			}
		})
		p := &wsproxy.Proxy{Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Trace: &wsproxy.Trace{Tunnel: func(wsproxy.TunnelRecord) { panic("a hook of mine") }}}
		p.Pool, _ = newPool(t, b.target())
		c := dial(t, serve(t, p))
		c.send(upgrade())
		require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
		c.expectEnd()
		c.Close()
		require.NoError(t, p.Shutdown(t.Context()))
		require.Contains(t, log.String(), "Trace.Tunnel has panicked")
		require.Contains(t, log.String(), "hooks_test.go", "the stack")
		require.Zero(t, member(t, p.Pool, "a").Load())
	})
	t.Run("BackendTLS", func(t *testing.T) {
		b := newTLSBackend(t, "a", nil)
		conf := backendTLS(b)
		conf.VerifyConnection = func(tls.ConnectionState) error { panic("a hook of mine") }
		p := &wsproxy.Proxy{BackendTLS: conf}
		p.Pool, _ = newPool(t, b.target())
		require.Equal(t, http.StatusBadGateway, newClient(t, serve(t, p)).get("/").StatusCode)
	})
	t.Run("proxyproto.Listener.Refused", func(t *testing.T) {
		var log logtest.Buffer
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		l := &proxyproto.Listener{Listener: inner, Trusted: loopbackNet,
			Refused: func(net.Addr, error) { panic("a hook of mine") },
			Logger:  slog.New(slog.NewTextHandler(&log, nil))}
		srv := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: discardLog}
		go srv.Serve(l)
		defer srv.Close()
		conn, err := net.Dial("tcp", inner.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		require.True(t, leaktest.Polled(func() bool { return bytes.Contains([]byte(log.String()), []byte("Refused has panicked")) }))
	})
}

// A context of TunnelLimits ends a tunnel, over HTTP/1.1 and HTTP/2; that of the request does not.
func TestProxy_W5_TunnelContext(t *testing.T) {
	for _, when := range []string{"during", "before", "none"} {
		t.Run(when, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if when == "before" {
				cancel()
			}
			ends := make(chan wsproxy.TunnelRecord, 1)
			gone := make(chan struct{})
			b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer close(gone)
				defer conn.Close()
				conn.Write([]byte(switching()))
				rw.Reader.WriteTo(conn)
			})
			var paths []string
			p := &wsproxy.Proxy{
				Trace: &wsproxy.Trace{Tunnel: func(rec wsproxy.TunnelRecord) { ends <- rec }},
				Tunnels: wsproxy.TunnelLimits{Context: func(r *http.Request) context.Context {
					paths = append(paths, r.URL.Path)
					if when == "none" {
						return nil
					}
					return ctx
				}},
			}
			p.Pool, _ = newPool(t, b.target())
			canceled := make(chan struct{})
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				defer close(canceled)
				defer cancel() // of middleware: means nothing for the tunnel
				p.ServeHTTP(w, r.WithContext(ctx))
			})
			quiet(p)
			srv := serve(t, h)
			t.Cleanup(func() { p.Shutdown(ctx) })
			c := dial(t, srv)
			c.send(upgrade())
			require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
			wait(t, canceled, "the end of the handler")
			if when != "before" {
				c.send("frame")
				c.expect("frame")
			}
			cancel()
			if when == "none" {
				c.send("frame")
				c.expect("frame")
			} else {
				c.expectClosed()
				require.Equal(t, "context done", wait(t, ends, "the end").EndedBy)
				wait(t, gone, "the end at the backend")
			}
			require.Equal(t, []string{"/chat"}, paths)
		})
	}
}

// It ends the stream of an extended CONNECT as well, and with it the handler.
func TestProxy_W2_TunnelContextOverHTTP2(t *testing.T) {
	if !inExtended(t) {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ends := make(chan wsproxy.TunnelRecord, 1)
	p := &wsproxy.Proxy{
		Trace:   &wsproxy.Trace{Tunnel: func(rec wsproxy.TunnelRecord) { ends <- rec }},
		Tunnels: wsproxy.TunnelLimits{Context: func(*http.Request) context.Context { return ctx }},
	}
	b := newBackend(t, "a", sockets("a"))
	p.Pool, _ = newPool(t, b.target())
	c := h2Front(t, p).open(t, nil)
	cancel()
	io.Copy(io.Discard, c)
	require.Equal(t, "context done", wait(t, ends, "the end").EndedBy)
}

// Rewrite may take the header away.
func TestProxy_RewriteLeavesNoHeader(t *testing.T) {
	b := newBackend(t, "a", nil)
	p := &wsproxy.Proxy{Logger: noLog}
	p.Pool, _ = newPool(t, b.target())
	p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.Header = nil }
	require.Equal(t, http.StatusOK, newClient(t, serve(t, p)).get("/").StatusCode)
}
