package wsproxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// echoed passes a frame there and back: the tunnel runs.
func echoed(t testing.TB, c *wire) {
	t.Helper()
	c.send(maskedFrame(0x81, "hello"))
	require.Equal(t, "hello", string(readFrame(t, c).payload))
}

// Tunnels end at once, whatever the window, and nobody gets a close frame.
func TestProxy_W6_CloseEndsTunnelsAtOnce(t *testing.T) {
	for name, window := range map[string]time.Duration{"long window": farAway, "no window": -1} {
		t.Run(name, func(t *testing.T) {
			p, ends := tunnelled(t, chatter(t, "a"))
			p.Tunnels.Window = window
			srv := serve(t, p)
			const tunnels = 5
			var clients []*wire
			for range tunnels {
				c := dial(t, srv)
				c.open()
				echoed(t, c)
				clients = append(clients, c)
			}
			require.NoError(t, p.Close())
			require.Len(t, ends, tunnels, "all are told before Close returns")
			require.Zero(t, member(t, p.Pool, "a").Load())
			for _, c := range clients {
				left, _ := io.ReadAll(c)
				require.Empty(t, left, "a close frame")
				end := <-ends
				require.Equal(t, "shutdown", end.EndedBy)
				require.Zero(t, end.ClientCode)
				require.Zero(t, end.BackendCode)
			}
		})
	}
}

func TestProxy_W6_CloseEndsExtendedConnects(t *testing.T) {
	if !inExtended(t) {
		return
	}
	p, ends := tunnelled(t, chatter(t, "a"))
	c := h2Front(t, p).open(t, nil).wire(t)
	echoed(t, c)
	require.NoError(t, p.Close())
	require.Equal(t, "shutdown", wait(t, ends, "the end").EndedBy)
	_, err := c.ReadByte()
	require.Error(t, err)
}

// A Shutdown that has asked nobody yet returns when Close is called.
func TestProxy_W6_CloseEndsShutdown(t *testing.T) {
	p, _ := tunnelled(t, chatter(t, "a"))
	p.Tunnels.Window = farAway
	c := dial(t, serve(t, p))
	c.open()
	echoed(t, c)
	ended := make(chan error, 1)
	go func() { ended <- p.Shutdown(context.Background()) }()
	require.Eventually(t, func() bool { // Shutdown has begun when upgrades are refused
		other := dial(t, serve(t, p))
		defer other.Close()
		other.send(upgrade())
		status := other.head().StatusCode
		return status == http.StatusServiceUnavailable
	}, patience, time.Millisecond)
	require.NoError(t, p.Close())
	require.NoError(t, wait(t, ended, "Shutdown's end"))
}

// What Shutdown refuses, Close refuses in the same way, an upgrade that waits for its target
// included; plain requests go on.
func TestProxy_W6_RequestsAfterCloseAndShutdown(t *testing.T) {
	for name, end := range map[string]func(p *wsproxy.Proxy) error{
		"Close":    (*wsproxy.Proxy).Close,
		"Shutdown": func(p *wsproxy.Proxy) error { return p.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				if req.Header.Get("Upgrade") == "" {
					repeating("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")(conn, r, req)
					return
				}
				close(asked)
				<-answer
				echoing(conn, r, req)
			}))
			errs := make(chan error, 4)
			p := &wsproxy.Proxy{Pool: pool, Logger: noLog,
				Trace: &wsproxy.Trace{Done: func(_ *http.Request, rec wsproxy.Record) { errs <- rec.Err }}}
			srv := serve(t, p)
			refused := func(c *wire) {
				t.Helper()
				res := c.response()
				require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
				require.NotEmpty(t, res.Header.Get("Retry-After"))
				var e *wsproxy.Error
				require.ErrorAs(t, wait(t, errs, "the record"), &e)
				require.Equal(t, wsproxy.ClassShutdown, e.Class)
			}
			waiting := dial(t, srv)
			waiting.send(upgrade())
			wait(t, asked, "the upgrade at the target")
			require.NoError(t, end(p))
			close(answer)
			refused(waiting)

			late := dial(t, srv)
			late.send(upgrade())
			refused(late)
			require.Equal(t, http.StatusOK, newClient(t, srv).get("/").StatusCode)
			require.NoError(t, wait(t, errs, "the record"))
			require.NoError(t, end(p), "once more")
		})
	}
}

// Kept connections end with Close, and those of requests that are under way, or come later, with
// them.
func TestProxy_W6_CloseEndsKeptConnections(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			ended := make(chan struct{}, 8)
			b := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(asked)
					<-answer
				}
			}))
			b.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					ended <- struct{}{}
				}
			}
			p := &wsproxy.Proxy{}
			if scheme == "https" {
				b.StartTLS()
				p.BackendTLS = b.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
				p.BackendTLS.ServerName = "example.com"
			} else {
				b.Start()
			}
			t.Cleanup(b.Close)
			p.Pool, _ = newPool(t, target("a", b.URL))
			srv := serve(t, p)
			slow := make(chan int)
			go func() { slow <- newClient(t, srv).get("/slow").StatusCode }()
			wait(t, asked, "the request at the target")
			c := newClient(t, srv)
			require.Equal(t, http.StatusOK, c.get("/").StatusCode)
			require.NoError(t, p.Close())
			wait(t, ended, "the end of the idle connection")
			close(answer)
			require.Equal(t, http.StatusOK, wait(t, slow, "the answer"))
			wait(t, ended, "the end of the connection that was in use")
			require.Equal(t, http.StatusOK, c.get("/").StatusCode)
			wait(t, ended, "the end of one that was made after Close")
		})
	}
}

func TestProxy_W6_CloseIsIdempotentAndConcurrent(t *testing.T) {
	require.NoError(t, (&wsproxy.Proxy{Pool: emptyPool(t)}).Close(), "before the first request")
	p, ends := tunnelled(t, chatter(t, "a"))
	srv := serve(t, p)
	const tunnels = 20
	var clients []*wire
	for range tunnels {
		c := dialOnce(t, srv)
		c.open()
		clients = append(clients, c)
	}
	var closing sync.WaitGroup
	for i := range 8 {
		closing.Go(func() {
			if i%2 == 0 {
				p.Close()
				return
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			p.Shutdown(ctx)
		})
	}
	closing.Wait()
	for _, c := range clients {
		io.Copy(io.Discard, c)
		c.Close()
	}
	for range tunnels {
		require.Equal(t, "shutdown", wait(t, ends, "an end").EndedBy)
	}
	srv.Close()
	require.Zero(t, member(t, p.Pool, "a").Load())
}

func emptyPool(t testing.TB) *balancer.Pool {
	pool, _ := newPool(t)
	return pool
}
