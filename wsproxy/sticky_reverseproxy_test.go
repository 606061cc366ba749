package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
)

// bareAndWrapped runs a test with a ReverseProxy to a backend, as it is and in a Sticky. The
// answers of the latter are bound.
func bareAndWrapped(t *testing.T, handler http.HandlerFunc, test func(t *testing.T, h http.Handler, bound bool)) {
	t.Helper()
	b := newBackend(t, "a", handler)
	t.Run("bare", func(t *testing.T) {
		bare := balancedProxy(t, nil)
		bare.Rewrite = func(pr *httputil.ProxyRequest) {
			u, err := url.Parse("http://" + b.addr)
			require.NoError(t, err)
			pr.SetURL(u)
		}
		test(t, bare, false)
	})
	t.Run("sticky", func(t *testing.T) {
		pool, _ := newPool(t, b.target())
		test(t, sticky(t, pool).Handler(balancedProxy(t, nil)), true)
		require.Zero(t, settledLoad(t, pool, "a"))
	})
}

// settledLoad returns the load of a member once the handlers have returned.
func settledLoad(t testing.TB, pool *balancer.Pool, id string) int64 {
	t.Helper()
	m := member(t, pool, id)
	leaktest.Polled(func() bool { return m.Load() == 0 })
	return m.Load()
}

// Each part of a stream comes before the next one is made, and trailers come at its end, those that
// were announced and others.
func TestSticky_W11_StreamsAndTrailers(t *testing.T) {
	t.Parallel()
	for _, announced := range []bool{false, true} {
		turn := make(chan struct{})
		bareAndWrapped(t, func(w http.ResponseWriter, _ *http.Request) {
			if announced {
				w.Header().Set("Trailer", "Sum")
			}
			for i := range 3 {
				fmt.Fprintf(w, "part %d.", i)
				w.(http.Flusher).Flush()
				<-turn
			}
			w.Header().Set(http.TrailerPrefix+"Late", "yes")
			if announced {
				w.Header().Set("Sum", "3")
			}
		}, func(t *testing.T, h http.Handler, bound bool) {
			srv := serve(t, h)
			res, err := newClient(t, srv).Get(srv.URL)
			require.NoError(t, err)
			defer res.Body.Close()
			require.Equal(t, bound, len(lbLines(res.Header)) == 1)
			part := make([]byte, len("part 0."))
			for i := range 3 {
				_, err := io.ReadFull(res.Body, part)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("part %d.", i), string(part))
				turn <- struct{}{}
			}
			_, err = io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, "yes", res.Trailer.Get("Late"))
			require.Equal(t, announced, res.Trailer.Get("Sum") == "3")
			require.Empty(t, lbLines(res.Trailer))
		})
	}
}

// Early hints pass with the fields that they had, and take nothing away from the final header.
func TestSticky_S19_EarlyHintsPass(t *testing.T) {
	t.Parallel()
	bareAndWrapped(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</one>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</two>")
		w.WriteHeader(http.StatusProcessing)
		w.Header().Set("Link", "</final>")
		w.WriteHeader(http.StatusNotFound)
	}, func(t *testing.T, h http.Handler, bound bool) {
		informed, r := newClient(t, serve(t, h)).informed("/")
		require.Len(t, informed, 2)
		require.Equal(t, "</one>", informed[0].Get("Link"))
		require.Equal(t, "</two>", informed[1].Get("Link"))
		require.Equal(t, http.StatusNotFound, r.StatusCode)
		require.Equal(t, []string{"</final>"}, r.Header["Link"])
		require.Equal(t, bound, len(lbLines(r.Header)) == 1)
	})
}

// Answers without a body, and one to HEAD, are framed as they are without a Sticky.
func TestSticky_W11_AnswersWithoutABody(t *testing.T) {
	t.Parallel()
	bareAndWrapped(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		fmt.Sscan(r.URL.Path[1:], &status)
		w.Header().Set("Etag", `"1"`)
		w.WriteHeader(status)
		if status == http.StatusOK {
			io.WriteString(w, strings.Repeat("x", 100))
		}
	}, func(t *testing.T, h http.Handler, bound bool) {
		c := newClient(t, serve(t, h)).withoutCookies()
		for _, status := range []int{204, 205, 301, 304, 404, 503} {
			r := c.get(fmt.Sprintf("/%d", status))
			require.Equal(t, status, r.StatusCode)
			require.Empty(t, r.body)
			require.Equal(t, bound && status != 304, len(lbLines(r.Header)) == 1, "%d", status)
		}
		head := c.do(http.MethodHead, "/200", nil)
		require.EqualValues(t, 100, head.ContentLength)
		require.Equal(t, bound, len(lbLines(head.Header)) == 1)
	})
}

// A body that the backend breaks off reaches the client as broken, and counts against the backend.
func TestSticky_B5_BrokenBodyOfAProxy(t *testing.T) {
	t.Parallel()
	broken := func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	bareAndWrapped(t, broken, func(t *testing.T, h http.Handler, _ bool) {
		srv := serve(t, h)
		res, err := newClient(t, srv).Get(srv.URL)
		require.NoError(t, err)
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		require.Equal(t, "half", string(got))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
	b := newBackend(t, "a", broken)
	pool, _ := newPool(t, b.target())
	v := observed(t, pool)
	srv := serve(t, sticky(t, pool).Handler(balancedProxy(t, nil)))
	res, err := newClient(t, srv).Get(srv.URL)
	require.NoError(t, err)
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	require.Equal(t, balancer.BodyFailed, v.next(t).Class)
}

// When the client goes away, the request ends at the backend. This does not count against the
// backend, although the ReverseProxy answers with a 502.
func TestSticky_B5_ClientLeavesAProxy(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}, 1), make(chan struct{}, 1)
	b := newBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	})
	for _, reports := range []bool{true, false} {
		pool, _ := newPool(t, b.target())
		v := observed(t, pool)
		proxy := balancedProxy(t, nil)
		if !reports {
			proxy.ErrorHandler = nil
		}
		srv := serve(t, sticky(t, pool).Handler(proxy))
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		go func() {
			<-entered
			cancel()
		}()
		_, err = newClient(t, srv).Do(req)
		require.ErrorIs(t, err, context.Canceled)
		wait(t, left, "the backend's handler")
		require.Equal(t, balancer.ClientGone, v.next(t).Class)
	}
}

// A switch of protocols by a ReverseProxy is bound, by cookies of our own and by the application's.
// It is a tunnel while it lasts.
func TestSticky_S19_WebSocketThroughAProxy(t *testing.T) {
	t.Parallel()
	app, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID", Keys: [][]byte{key}})
	require.NoError(t, err)
	for name, policy := range map[string]stickiness.Policy{"lb": lbCookie(t, stickiness.LBCookieOptions{}), "app": app} {
		t.Run(name, func(t *testing.T) {
			tgt := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
				io.WriteString(conn, switching("Set-Cookie: SID=1; HttpOnly", "Cache-Control: public")+"glued")
				io.Copy(conn, r)
			})
			pool, _ := newPool(t, tgt)
			s := sticky(t, pool)
			s.Policy = policy
			c := dial(t, serve(t, s.Handler(balancedProxy(t, nil))))
			c.send(upgrade())
			res := c.head()
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			require.Equal(t, "SID=1; HttpOnly", res.Header["Set-Cookie"][0])
			requireBound(t, &reply{Response: res}, "a")
			require.NotContains(t, res.Header.Get("Cache-Control"), "public")
			c.expect("glued")
			c.send("frame")
			c.expect("frame")
			m := member(t, pool, "a")
			require.EqualValues(t, 1, m.Tunnels())
			c.closeWrite()
			c.expectEnd()
			require.Zero(t, settledLoad(t, pool, "a"))
		})
	}
}

// WebSockets work through a ReverseProxy with and without a Sticky, and leave nothing.
func TestSticky_W2_WebSockets(t *testing.T) {
	before := leaktest.Settled(t)
	t.Run("echo", func(t *testing.T) {
		ws := websocket.Server{Handler: func(conn *websocket.Conn) { io.Copy(conn, conn) }}
		bareAndWrapped(t, ws.ServeHTTP, func(t *testing.T, h http.Handler, _ bool) {
			srv := serve(t, h)
			conn, err := websocket.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), "", srv.URL)
			require.NoError(t, err)
			for _, text := range []string{"one", strings.Repeat("large", 4_000)} {
				require.NoError(t, websocket.Message.Send(conn, text))
				got := make([]byte, len(text)) // the echo may come in several frames
				_, err := io.ReadFull(conn, got)
				require.NoError(t, err)
				require.True(t, text == string(got))
			}
			require.NoError(t, conn.Close())
		})
	})
	leaktest.RequireNoMore(t, before)
}

// An upgrade that the backend declines is a plain answer, which is bound, and frees the place of a
// tunnel.
func TestSticky_W3_DeclinedUpgrade(t *testing.T) {
	t.Parallel()
	bareAndWrapped(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusUpgradeRequired)
	}, func(t *testing.T, h http.Handler, bound bool) {
		c := dial(t, serve(t, h))
		for range 2 {
			c.send(upgrade())
			r := c.final()
			require.Equal(t, http.StatusUpgradeRequired, r.StatusCode)
			require.Equal(t, bound, len(lbLines(r.Header)) == 1)
		}
	})
}

// http.TimeoutHandler inside has a writer and a context of its own.
func TestSticky_W1_TimeoutHandlerInside(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	slow := make(chan struct{})
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "a", shardOf(t, r.Context()))
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			close(slow)
			io.WriteString(w, "too late")
			return
		}
		w.Header().Set("Set-Cookie", "own=1")
		io.WriteString(w, "in time")
	})
	quick := http.TimeoutHandler(inner, patience, "late")
	late := http.TimeoutHandler(inner, 1, "late")
	c := newClient(t, serve(t, sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			late.ServeHTTP(w, r)
		} else {
			quick.ServeHTTP(w, r)
		}
	})))).withoutCookies()
	r := c.get("/")
	require.Equal(t, "in time", r.body)
	require.Equal(t, "own=1", r.Header["Set-Cookie"][0])
	requireBound(t, r, "a")
	r = c.get("/slow")
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	require.Equal(t, "late", r.body)
	requireBound(t, r, "a")
	wait(t, slow, "the handler")
	require.Zero(t, settledLoad(t, pool, "a"))
}

// hiding is middleware whose writer has only the three methods of http.ResponseWriter.
func hiding(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(plainRecorder{w}, r) })
}

// With middleware whose writer has no Unwrap, inside or outside, the methods that it lacks are
// lost, but no cookie is.
func TestSticky_W1_MiddlewareWithoutUnwrap(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.ErrorIs(t, http.NewResponseController(w).Flush(), errors.ErrUnsupported)
		_, _, err := http.NewResponseController(w).Hijack()
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.Equal(t, "a", shardOf(t, r.Context()))
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, "body")
	})
	for name, h := range map[string]http.Handler{
		"inside":  sticky(t, pool).Handler(hiding(inner)),
		"outside": hiding(sticky(t, pool).Handler(inner)),
	} {
		t.Run(name, func(t *testing.T) {
			r := newClient(t, serve(t, h)).get("/")
			require.Equal(t, http.StatusAccepted, r.StatusCode)
			require.Equal(t, "body", r.body)
			requireBound(t, r, "a")
		})
	}
}

// Full duplex and deadlines reach the server's writer.
func TestSticky_W1_ControllerReachesTheServer(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	srv := serve(t, sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		require.NoError(t, rc.EnableFullDuplex())
		require.NoError(t, rc.SetReadDeadline(time.Time{}))
		require.NoError(t, rc.SetWriteDeadline(time.Time{}))
		first := make([]byte, 5)
		_, err := io.ReadFull(r.Body, first)
		require.NoError(t, err)
		w.Write(first)
		require.NoError(t, rc.Flush())
		io.Copy(w, r.Body)
	})))
	c := dial(t, srv)
	c.send("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 10\r\n\r\nfirst")
	res := c.head()
	requireBound(t, &reply{Response: res}, "a")
	c.expect("5\r\nfirst\r\n")
	c.send("after")
	c.expect("5\r\nafter\r\n0\r\n\r\n")
}

// A session of a header that names no shard is bound to the one that answers.
func TestSticky_S16_OtherPolicies(t *testing.T) {
	t.Parallel()
	codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: [][]byte{key}})
	require.NoError(t, err)
	named, err := stickiness.NewNamed(stickiness.NamedOptions{
		From: []stickiness.Source{stickiness.FromHeader("X-Session")}, Announce: "X-Session", Codec: codec})
	require.NoError(t, err)
	pool, picker := shards(t, "a", "b")
	s := sticky(t, pool)
	s.Policy = named
	c := newClient(t, serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Backend", shardOf(t, r.Context()))
	}))))
	session := c.get("/").Header.Get("X-Session")
	picker.to("b")
	require.Equal(t, "a", c.get("/", "X-Session: "+session).backend())
	require.Equal(t, "b", c.get("/").backend())
}
