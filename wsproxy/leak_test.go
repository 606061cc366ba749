package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// leavesNothing runs each kind so many times, in turn with the others, and checks that descriptors
// and goroutines are as before. Under .ci/soak it does so ten times as often. One run of each kind
// comes first: it may leave an idle connection to its backend.
func leavesNothing(t *testing.T, times int, kinds map[string]func(t testing.TB)) {
	t.Helper()
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		kinds[name](t)
	}
	before := leaktest.Settled(t)
	for range soaktest.Times(times, 10*times) {
		for _, name := range names {
			kinds[name](t)
		}
	}
	leaktest.RequireNoMore(t, before)
}

// exchange sends bytes and reads the response, which must have that status.
func exchange(srv *httptest.Server, request string, status int) func(testing.TB) {
	return func(t testing.TB) {
		t.Helper()
		c := dialOnce(t, srv)
		defer c.Close()
		c.send(request)
		require.Equal(t, status, c.response().StatusCode)
	}
}

// dialOnce is dial without the cleanup, which a thousand connections would pile up.
func dialOnce(t testing.TB, srv *httptest.Server) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return &wire{conn, bufio.NewReader(conn), t}
}

// repeating is a play that answers each request with the same text, until the proxy closes the
// connection.
func repeating(text string) play {
	return func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		for {
			io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
			var err error
			if req, err = http.ReadRequest(r); err != nil {
				return
			}
		}
	}
}

func TestProxy_W5_BrokenUpgradesLeaveNothing(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain"
	kinds := make(map[string]func(testing.TB))
	var pools []*balancer.Pool
	proxy := func(p play, change func(*wsproxy.Proxy)) *wsproxy.Proxy {
		proxy, _ := tunnelled(t, rawBackend(t, "a", p))
		proxy.Retry.Max, proxy.Logger = -1, noLog
		if change != nil {
			change(proxy)
		}
		pools = append(pools, proxy.Pool)
		return proxy
	}
	for name, tt := range brokenHandshakes {
		p := proxy(tt.play, func(p *wsproxy.Proxy) {
			if tt.status == http.StatusGatewayTimeout {
				p.Tunnels.Handshake = 5 * time.Millisecond
			}
		})
		kinds[name] = exchange(serve(t, p), upgrade(), tt.status)
	}

	plain := serve(t, proxy(repeating(ok), nil))
	kinds["body"] = exchange(plain, upgrade("Content-Length: 1")+"x", 400)
	kinds["chunked body"] = exchange(plain, upgrade("Transfer-Encoding: chunked")+"0\r\n\r\n", 400)
	kinds["h2c"] = exchange(plain, strings.Replace(upgrade("HTTP2-Settings: AAMAAABkAAQAAP__"), "websocket", "h2c", 1), 200)
	kinds["two tokens"] = exchange(plain, strings.Replace(upgrade(), "websocket", "websocket, h2c", 1), 200)
	kinds["CONNECT"] = exchange(plain, "CONNECT a.example:1 HTTP/1.1\r\nHost: a.example:1\r\n\r\n", 405)
	kinds["refused with a body"] = exchange(serve(t, proxy(repeating(strings.Replace(ok, "200 OK", "403 No", 1)), nil)), upgrade(), 403)
	kinds["unasked"] = exchange(serve(t, proxy(answering(switching()+"more"), nil)), "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 502)
	kinds["not hijackable"] = exchange(serve(t, wrapped(proxy(echoing, nil),
		func(w http.ResponseWriter) http.ResponseWriter { return bare{w} })), upgrade(), 501)
	kinds["hijack fails"] = exchange(serve(t, wrapped(proxy(echoing, nil),
		func(w http.ResponseWriter) http.ResponseWriter { return refusingWriter{w} })), upgrade(), 501)

	gone := newBackend(t, "a", nil)
	gone.stop()
	pool, _ := newPool(t, gone.target())
	kinds["dead target"] = exchange(serve(t, &wsproxy.Proxy{Pool: pool}), upgrade(), 502)
	shut := proxy(echoing, nil)
	require.NoError(t, shut.Shutdown(t.Context()))
	kinds["shut down"] = exchange(serve(t, shut), upgrade(), 503)

	asked := make(chan struct{})
	silent := serve(t, proxy(func(_ net.Conn, r *bufio.Reader, _ *http.Request) {
		asked <- struct{}{}
		io.Copy(io.Discard, r)
	}, nil))
	kinds["client leaves"] = func(t testing.TB) {
		c := dialOnce(t, silent)
		c.send(upgrade())
		wait(t, asked, "request at the backend")
		c.Close()
	}
	leavesNothing(t, 10, kinds)
	for _, p := range pools {
		idleMember(t, p, "a")
	}
}

func TestProxy_W5_TunnelsLeaveNothing(t *testing.T) {
	kinds := make(map[string]func(testing.TB))
	add := func(name string, p play, use func(c *wire)) {
		proxy, ends := tunnelled(t, rawBackend(t, "a", p))
		srv := serve(t, proxy)
		m := member(t, proxy.Pool, "a")
		kinds[name] = func(t testing.TB) {
			c := dialOnce(t, srv)
			c.send(upgrade() + "early")
			require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
			use(c)
			c.Close()
			wait(t, ends, "the end")
			require.Zero(t, m.Load())
		}
	}
	add("client closes", echoing, func(c *wire) { c.expect("early") })
	add("client closes at once", echoing, func(*wire) {})
	add("client breaks", echoing, func(c *wire) { c.Conn.(*net.TCPConn).SetLinger(0) })
	add("client ends first", echoing, func(c *wire) {
		c.closeWrite()
		c.expect("early")
		c.expectEnd()
	})
	add("backend closes", closing(switching()+"bye"), func(c *wire) { c.expect("bye") })
	add("backend breaks", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		io.WriteString(conn, switching())
		io.ReadFull(r, make([]byte, 5))
		resetting(conn, r, req)
	}, func(c *wire) { c.expectClosed() })

	proxy, ends := tunnelled(t, rawBackend(t, "a", echoing))
	srv, m := serve(t, proxy), member(t, proxy.Pool, "a")
	kinds["target goes down"] = func(t testing.TB) {
		c := dialOnce(t, srv)
		defer c.Close()
		chat(t, c)
		m.SetAdmin(balancer.Down)
		c.expectClosed()
		wait(t, ends, "the end")
		m.SetAdmin(balancer.Ready)
	}
	leavesNothing(t, 10, kinds)
}

func TestProxy_W11_AbortedRequestsLeaveNothing(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		defer func() { gone <- struct{}{} }()
		switch r.URL.Path {
		case "/header":
		case "/body":
			io.ReadFull(r.Body, make([]byte, 4))
		case "/response":
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
		case "/known":
			w.Header().Set("Content-Length", "8")
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
		case "/endless":
			asked <- struct{}{}
			for {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}
		asked <- struct{}{}
		if r.ContentLength != 0 {
			io.Copy(io.Discard, r.Body)
		} else {
			<-r.Context().Done()
		}
	})
	pool, _ := newPool(t, b.target())
	srv := serve(t, &wsproxy.Proxy{Pool: pool})
	kinds := map[string]func(testing.TB){"half a header": func(t testing.TB) {
		c := dialOnce(t, srv)
		defer c.Close()
		c.send("GET / HTTP/1.1\r\nHost: a")
	}}
	add := func(name, request string, read string) {
		for _, broken := range []bool{false, true} {
			kinds[fmt.Sprint(name, broken)] = func(t testing.TB) {
				c := dialOnce(t, srv)
				c.send(request)
				wait(t, asked, "request at the backend")
				if read != "" {
					c.head()
					c.expect(read)
				}
				if broken {
					c.Conn.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
				wait(t, gone, "the end at the backend")
			}
		}
	}
	add("before the header", "GET /header HTTP/1.1\r\nHost: a\r\n\r\n", "")
	add("within the body", "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\npart", "")
	add("within a chunked body", "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", "")
	add("within a response", "GET /response HTTP/1.1\r\nHost: a\r\n\r\n", "4\r\npart\r\n")
	add("within a response of known length", "GET /known HTTP/1.1\r\nHost: a\r\n\r\n", "part")
	add("with a response that nobody reads", "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n", "")
	long := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
		io.Copy(io.Discard, r)
	})
	retried, _ := newPool(t, long, rawBackend(t, "b", repeating("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")))
	kinds["a response that is not used"] = exchange(serve(t, &wsproxy.Proxy{Pool: retried, Retry: wsproxy.Retry{On: []int{503}}}),
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200)
	leavesNothing(t, 10, kinds)
	idleMember(t, pool, "a")
	idleMember(t, retried, "a")
}
