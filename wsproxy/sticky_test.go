package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// shards returns a pool of targets without a URL, whose picker points at the first.
func shards(t testing.TB, ids ...string) (*balancer.Pool, *pointer) {
	t.Helper()
	targets := make([]balancer.Target, len(ids))
	for i, id := range ids {
		targets[i].ID = id
	}
	return newPool(t, targets...)
}

// sticky returns a Sticky with a cookie.
func sticky(t testing.TB, pool *balancer.Pool) *wsproxy.Sticky {
	t.Helper()
	s := &wsproxy.Sticky{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever}), Logger: noLog}
	t.Cleanup(func() { s.Close() })
	return s
}

// shardOf returns the ID of the shard that serves a request.
func shardOf(t testing.TB, ctx context.Context) string {
	t.Helper()
	m, ok := wsproxy.MemberOf(ctx)
	require.True(t, ok)
	return m.ID()
}

// A verdict is the last outcome that a pool has learned.
type verdict struct {
	mu   sync.Mutex
	all  []balancer.Outcome
	came chan struct{}
}

func observed(t testing.TB, pool *balancer.Pool) *verdict {
	v := &verdict{came: make(chan struct{}, 100)}
	t.Cleanup(pool.Observe(v))
	return v
}

func (v *verdict) Changed(*balancer.Member, balancer.State) {}

func (v *verdict) Released(_ *balancer.Member, o balancer.Outcome) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, o)
	v.came <- struct{}{}
}

// next waits for an outcome, and returns the latest.
func (v *verdict) next(t testing.TB) balancer.Outcome {
	t.Helper()
	wait(t, v.came, "an outcome")
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.all[len(v.all)-1]
}

func TestSticky_Fields(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	tests := map[string]struct {
		sticky *wsproxy.Sticky
		want   string
	}{
		"no Pool":      {&wsproxy.Sticky{}, "wsproxy: Sticky has no Pool"},
		"nil Policy":   {&wsproxy.Sticky{Pool: pool, Policy: (*stickiness.LBCookie)(nil)}, "Policy is a nil"},
		"PerKeyStatus": {&wsproxy.Sticky{Pool: pool, PerKeyStatus: 404}, "PerKeyStatus"},
		"Upgrades":     {&wsproxy.Sticky{Pool: pool, Upgrades: []string{"a b"}}, `Upgrades has "a b"`},
		"Idle":         {&wsproxy.Sticky{Pool: pool, Tunnels: wsproxy.TunnelLimits{Idle: 1}}, "Tunnels.Idle has no effect"},
		"CloseCode":    {&wsproxy.Sticky{Pool: pool, Tunnels: wsproxy.TunnelLimits{CloseCode: 1}}, "CloseCode"},
	}
	for name, tt := range tests {
		require.ErrorContains(t, tt.sticky.Validate(), tt.want, name)
		require.Panics(t, func() { tt.sticky.Handler(http.NotFoundHandler()) }, name)
	}
	good := &wsproxy.Sticky{Pool: pool}
	require.NoError(t, good.Validate())
	require.Panics(t, func() { good.Handler(nil) })
	require.NoError(t, good.Close())
	require.NoError(t, good.Shutdown(t.Context()))
	require.NoError(t, good.Close())
}

// The functions for the handler do nothing for any other context.
func TestSticky_OtherContexts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, ok := wsproxy.MemberOf(ctx)
	require.False(t, ok)
	require.Nil(t, wsproxy.URLOf(ctx))
	require.False(t, wsproxy.Report(ctx, balancer.Outcome{}))
	require.False(t, wsproxy.ReportError(ctx, io.EOF))
	require.False(t, wsproxy.OnLeave(ctx, func(uint16) {}))
}

// The header has the cookie, once and after those of the handler, by whichever method it is
// written.
func TestSticky_S2_BoundWhateverWritesTheHeader(t *testing.T) {
	t.Parallel()
	ways := map[string]func(http.ResponseWriter){
		"nothing":     func(http.ResponseWriter) {},
		"WriteHeader": func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted); w.WriteHeader(http.StatusOK) },
		"Write":       func(w http.ResponseWriter) { w.Write([]byte("body")); w.Write([]byte("body")) },
		"empty Write": func(w http.ResponseWriter) { w.Write(nil) },
		"WriteString": func(w http.ResponseWriter) { io.WriteString(w, "body") },
		"ReadFrom":    func(w http.ResponseWriter) { w.(io.ReaderFrom).ReadFrom(strings.NewReader("body")) },
		"Copy":        func(w http.ResponseWriter) { io.Copy(w, struct{ io.Reader }{strings.NewReader("body")}) },
		"Flush":       func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"FlushError":  func(w http.ResponseWriter) { http.NewResponseController(w).Flush() },
		"empty Copy, then a status": func(w http.ResponseWriter) {
			io.Copy(w, struct{ io.Reader }{strings.NewReader("")})
			w.WriteHeader(http.StatusAccepted)
		},
		"1xx before": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusProcessing)
			w.WriteHeader(http.StatusOK)
		},
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		for name, way := range ways {
			t.Run(name, func(t *testing.T) {
				pool, _ := shards(t, "a", "b")
				h := sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Add("Set-Cookie", "own=1")
					way(w)
					w.Header().Add("Set-Cookie", "late=1")
				}))
				informed, r := newClient(t, front(t, h)).informed("/")
				for _, h := range informed {
					require.Empty(t, lbLines(h))
				}
				cookies := r.Header["Set-Cookie"]
				require.Equal(t, "own=1", cookies[0])
				requireBound(t, r, "a")
				if strings.HasSuffix(name, "status") {
					require.Equal(t, http.StatusAccepted, r.StatusCode)
				}
			})
		}
	})
}

// The inbound request is not changed, nor is what middleware in front keeps of it.
func TestSticky_S20_InboundRequestIsNotEdited(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	line := bound(t, "a")[len("Cookie: "):] + "; theme=dark"
	r.Header.Set("Cookie", line)
	sticky(t, pool).Handler(http.HandlerFunc(func(_ http.ResponseWriter, out *http.Request) {
		require.Equal(t, "theme=dark", out.Header.Get("Cookie"))
		require.NotSame(t, r, out)
		out.Header.Set("X-Own", "1")
	})).ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, http.Header{"Cookie": {line}}, r.Header)
}

// No header, no cookie.
func TestSticky_S19_PanicBindsNobody(t *testing.T) {
	t.Parallel()
	for _, value := range []any{http.ErrAbortHandler, "a bug"} {
		pool, _ := shards(t, "a")
		v := observed(t, pool)
		w := httptest.NewRecorder()
		require.PanicsWithValue(t, value, func() {
			sticky(t, pool).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(value) })).
				ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		})
		require.Empty(t, w.Header())
		require.Equal(t, balancer.HeaderFailed, v.next(t).Class)
		require.Zero(t, member(t, pool, "a").Load())
	}
}

// A status that net/http refuses with a panic binds no session either.
func TestSticky_S19_InvalidStatusBindsNobody(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	w := httptest.NewRecorder()
	require.Panics(t, func() {
		sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(99) })).
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	})
	require.Empty(t, w.Header())
}

// The outcomes that the pool gets, with and without a report of the handler.
func TestSticky_B5_Outcomes(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	refused := &net.OpError{Op: "dial", Err: broken}
	tests := map[string]struct {
		next   func(w http.ResponseWriter, r *http.Request)
		class  balancer.Class
		status int
		err    error
		binds  bool
	}{
		"answer": {func(w http.ResponseWriter, _ *http.Request) {}, balancer.OK, 200, nil, true},
		"500":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, balancer.OK, 500, nil, true},
		"broken body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte("half"))
			panic(http.ErrAbortHandler)
		}, balancer.BodyFailed, 200, nil, true},
		"reported": {func(w http.ResponseWriter, r *http.Request) {
			require.True(t, wsproxy.Report(r.Context(), balancer.Outcome{Class: balancer.HeaderTimeout, Err: broken}))
			w.WriteHeader(504)
		}, balancer.HeaderTimeout, 504, broken, false},
		"reported after the header": {func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("half"))
			require.True(t, wsproxy.Report(r.Context(), balancer.Outcome{Class: balancer.BodyFailed, Err: broken}))
		}, balancer.BodyFailed, 200, broken, true},
		"reported twice": {func(w http.ResponseWriter, r *http.Request) {
			wsproxy.Report(r.Context(), balancer.Outcome{Class: balancer.ConnectFailed, Err: broken})
			wsproxy.Report(r.Context(), balancer.Outcome{Status: 299})
		}, balancer.OK, 299, nil, true},
		"error of a dial": {func(w http.ResponseWriter, r *http.Request) {
			require.True(t, wsproxy.ReportError(r.Context(), refused))
			w.WriteHeader(502)
		}, balancer.ConnectFailed, 502, refused, false},
		"no error": {func(w http.ResponseWriter, r *http.Request) {
			require.False(t, wsproxy.ReportError(r.Context(), nil))
		}, balancer.OK, 200, nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pool, _ := shards(t, "a")
			v := observed(t, pool)
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
			func() {
				defer func() { recover() }()
				sticky(t, pool).Handler(http.HandlerFunc(tt.next)).ServeHTTP(w, r)
			}()
			o := v.next(t)
			require.Equal(t, tt.class.String(), o.Class.String())
			require.Equal(t, tt.status, o.Status)
			if tt.err != nil {
				require.ErrorIs(t, o.Err, tt.err)
			}
			require.False(t, o.Began.IsZero())
			require.Equal(t, "192.0.2.1", o.Client.String())
			require.Equal(t, tt.binds, len(lbLines(w.Header())) == 1)
		})
	}
}

// A client that goes away and a broken upload do not count against the target.
func TestSticky_B5_ClientGone(t *testing.T) {
	t.Parallel()
	fail := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	tests := map[string]struct {
		next  func(w http.ResponseWriter, r *http.Request)
		class balancer.Class
	}{
		"502 after it":          {fail, balancer.ClientGone},
		"abort after it":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, balancer.ClientGone},
		"nothing after it":      {func(http.ResponseWriter, *http.Request) {}, balancer.ClientGone},
		"reported as a failure": {func(_ http.ResponseWriter, r *http.Request) { wsproxy.ReportError(r.Context(), io.EOF) }, balancer.ClientGone},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pool, _ := shards(t, "a")
			v := observed(t, pool)
			ctx, cancel := context.WithCancel(t.Context())
			r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
			func() {
				defer func() { recover() }()
				sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					cancel()
					tt.next(w, r)
				})).ServeHTTP(httptest.NewRecorder(), r)
			}()
			o := v.next(t)
			require.Equal(t, tt.class.String(), o.Class.String())
			require.Zero(t, o.Latency)
		})
	}
	t.Run("upload", func(t *testing.T) {
		pool, _ := shards(t, "a")
		v := observed(t, pool)
		r := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(strings.NewReader("half"), errReader{}))
		sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			fail(w, r)
		})).ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, balancer.ClientGone, v.next(t).Class)
	})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A response that was complete before the client went away counts as a success.
func TestSticky_B5_AnswerBeforeTheClientLeft(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	v := observed(t, pool)
	ctx, cancel := context.WithCancel(t.Context())
	sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("all"))
		cancel()
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
	require.Equal(t, balancer.OK, v.next(t).Class)
}

// After the lease is released, the context and the writer that the handler has kept do nothing.
func TestSticky_KeptAfterTheReturn(t *testing.T) {
	t.Parallel()
	pool, picker := shards(t, "a", "b")
	var kept http.ResponseWriter
	var request *http.Request
	h := sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if kept == nil {
			kept, request = w, r
			panic(http.ErrAbortHandler)
		}
	}))
	first := httptest.NewRecorder()
	require.Panics(t, func() { h.ServeHTTP(first, httptest.NewRequest(http.MethodGet, "/", nil)) })
	picker.to("b")
	second := httptest.NewRecorder()
	h.ServeHTTP(second, httptest.NewRequest(http.MethodGet, "/", nil))

	kept.WriteHeader(http.StatusTeapot)
	require.Equal(t, http.StatusTeapot, first.Code)
	require.Empty(t, first.Header(), "a writer that was kept binds nobody")
	require.Len(t, lbLines(second.Header()), 1)
	require.Equal(t, "a", shardOf(t, request.Context()))
	require.False(t, wsproxy.Report(request.Context(), balancer.Outcome{}))
	require.False(t, wsproxy.OnLeave(request.Context(), func(uint16) {}))
}

// A hijacked connection keeps its lease until it is closed, once, and is bound by the header that
// is written to it.
func TestSticky_W2_HijackedConnectionKeepsItsLease(t *testing.T) {
	t.Parallel()
	ways := map[string]func(t *testing.T, w http.ResponseWriter) net.Conn{
		"one Write": func(t *testing.T, w http.ResponseWriter) net.Conn {
			conn, _, err := w.(http.Hijacker).Hijack()
			require.NoError(t, err)
			io.WriteString(conn, switching("Set-Cookie: own=1")+"frame")
			return conn
		},
		"byte by byte": func(t *testing.T, w http.ResponseWriter) net.Conn {
			conn, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			for _, b := range []byte("HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + switching("Set-Cookie: own=1") + "frame") {
				conn.Write([]byte{b})
			}
			return conn
		},
		"its buffer": func(t *testing.T, w http.ResponseWriter) net.Conn {
			conn, rw, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			rw.WriteString(switching("Set-Cookie: own=1") + "frame")
			rw.Flush()
			return conn
		},
		"copied": func(t *testing.T, w http.ResponseWriter) net.Conn {
			conn, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			io.Copy(conn, strings.NewReader(switching("Set-Cookie: own=1")+"frame"))
			return conn
		},
		"WriteHeader before": func(t *testing.T, w http.ResponseWriter) net.Conn {
			h := w.Header()
			h.Set("Connection", "Upgrade")
			h.Set("Upgrade", "websocket")
			h.Set("Set-Cookie", "own=1")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			io.WriteString(conn, "frame")
			return conn
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			pool, _ := shards(t, "a")
			v := observed(t, pool)
			conns := make(chan net.Conn, 1)
			s := sticky(t, pool)
			records := make(chan wsproxy.TunnelRecord, 1)
			s.Trace = &wsproxy.Trace{Tunnel: func(r wsproxy.TunnelRecord) { records <- r }}
			s.Tunnels.Max = 1
			h := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { conns <- way(t, w) }))
			srv := serve(t, h)
			c := dial(t, srv)
			c.send(upgrade())
			res := c.head()
			if res.StatusCode == http.StatusEarlyHints {
				res = c.head()
			}
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			require.Equal(t, "own=1", res.Header["Set-Cookie"][0])
			requireBound(t, &reply{Response: res}, "a")
			c.expect("frame")
			conn := wait(t, conns, "the connection")
			a := member(t, pool, "a")
			require.EqualValues(t, 1, a.Tunnels())

			other := dial(t, srv)
			other.send(upgrade())
			require.Equal(t, http.StatusServiceUnavailable, other.head().StatusCode, "Max counts it")

			c.send("up")
			got := make([]byte, 2)
			_, err := io.ReadFull(conn, got)
			require.NoError(t, err)
			require.Equal(t, "up", string(got))
			require.NoError(t, conn.Close())
			require.Error(t, conn.Close())
			o := v.next(t)
			require.Equal(t, balancer.OK, o.Class)
			require.Equal(t, http.StatusSwitchingProtocols, o.Status)
			require.True(t, o.Tunnel)
			require.Zero(t, a.Load())
			c.expectEnd()
			record := wait(t, records, "the record")
			require.Equal(t, "websocket", record.Upgrade)
			require.Equal(t, http.StatusSwitchingProtocols, record.Status)
			require.EqualValues(t, 2, record.FromClient)
			require.Equal(t, "backend closed", record.EndedBy)
		})
	}
}

// Bytes on a hijacked connection that are not an HTTP header pass unchanged.
func TestSticky_W4_OtherBytesPass(t *testing.T) {
	t.Parallel()
	long := "HTTP/1.1 101 " + strings.Repeat("x", 70<<10)
	for _, text := range []string{"hello", "HTTP", "HTTP/1.1 101 Never ends", "HTTP/1.1 odd\r\n\r\nrest", "\r\n\r\n", long, "HTTP/1.1 101 X\r\nno field\r\n\r\n"} {
		pool, _ := shards(t, "a")
		c := dial(t, serve(t, sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			n, err := io.WriteString(conn, text)
			require.NoError(t, err)
			require.Equal(t, len(text), n)
			require.NoError(t, conn.Close())
		}))))
		c.send(upgrade())
		c.expect(text)
		c.expectEnd()
	}
}

// joined opens an upgraded connection at a Sticky, and returns both ends of it.
func joined(t *testing.T, s *wsproxy.Sticky, leave func(conn net.Conn, code uint16)) (*wire, net.Conn) {
	t.Helper()
	conns := make(chan net.Conn, 1)
	c := dial(t, serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var conn net.Conn
		if leave != nil {
			require.True(t, wsproxy.OnLeave(r.Context(), func(code uint16) { leave(conn, code) }))
		}
		var err error
		conn, _, err = http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		io.WriteString(conn, switching())
		conns <- conn
	}))))
	c.send(upgrade())
	require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
	return c, wait(t, conns, "the connection")
}

// When a target is moving, OnLeave's function is called, or the connection is closed if there is
// none. When it is down, the connection is closed.
func TestSticky_S22_UpgradedConnectionsFollowTheirTarget(t *testing.T) {
	t.Parallel()
	t.Run("moving, told", func(t *testing.T) {
		pool, _ := shards(t, "a", "b")
		s := sticky(t, pool)
		s.Tunnels.Window = -1
		c, conn := joined(t, s, func(conn net.Conn, code uint16) {
			require.EqualValues(t, 1012, code)
			io.WriteString(conn, "bye")
		})
		a := member(t, pool, "a")
		a.SetAdmin(balancer.Moving)
		c.expect("bye")
		require.EqualValues(t, 1, a.Tunnels(), "it is the handler's to close")
		a.SetAdmin(balancer.Down)
		c.expectEnd()
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, s.Shutdown(t.Context()))
		require.Zero(t, a.Load())
	})
	t.Run("moving, not told", func(t *testing.T) {
		pool, _ := shards(t, "a", "b")
		s := sticky(t, pool)
		s.Tunnels.Window = -1
		v := observed(t, pool)
		c, _ := joined(t, s, nil)
		member(t, pool, "a").SetAdmin(balancer.Moving)
		c.expectEnd()
		require.Equal(t, balancer.OK, v.next(t).Class)
	})
	t.Run("shutdown", func(t *testing.T) {
		pool, _ := shards(t, "a")
		s := sticky(t, pool)
		s.Tunnels.Window, s.Tunnels.CloseCode = -1, 4000
		c, _ := joined(t, s, func(conn net.Conn, code uint16) {
			require.EqualValues(t, 4000, code)
			io.WriteString(conn, "bye")
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(ctx) }()
		c.expect("bye")
		require.Empty(t, done, "it waits")
		cancel()
		require.ErrorIs(t, wait(t, done, "Shutdown"), context.Canceled)
		c.expectEnd()
		require.Zero(t, member(t, pool, "a").Load())
	})
}

// After Shutdown has begun, upgrades are refused and requests go on.
func TestSticky_W6_ShutdownRefusesUpgrades(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	s := sticky(t, pool)
	hijacked := make(chan error, 1)
	srv := serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" { // an upgrade that was let through before
			require.NoError(t, s.Close())
			_, _, err := http.NewResponseController(w).Hijack()
			hijacked <- err
		}
	})))
	c := dial(t, srv)
	c.send(strings.Replace(upgrade(), "/chat", "/late", 1))
	require.Equal(t, http.StatusOK, c.head().StatusCode)
	require.ErrorContains(t, wait(t, hijacked, "Hijack"), "shutting down")
	again := dial(t, srv)
	again.send(upgrade())
	require.Equal(t, http.StatusServiceUnavailable, again.head().StatusCode)
	require.Equal(t, http.StatusOK, newClient(t, srv).get("/").StatusCode)
	require.Zero(t, member(t, pool, "a").Load())
}

// The writer has exactly the optional methods of the writer below.
func TestSticky_W1_WriterHasWhatTheOneBelowHas(t *testing.T) {
	t.Parallel()
	type flusher struct {
		http.ResponseWriter
		http.Flusher
	}
	type hijacker struct {
		http.ResponseWriter
		http.Hijacker
	}
	type pusher struct {
		http.ResponseWriter
		http.Pusher
	}
	type flushHijacker struct {
		hijacker
		http.Flusher
	}
	type flushPusher struct {
		pusher
		http.Flusher
	}
	type hijackPusher struct {
		hijacker
		http.Pusher
	}
	type all struct {
		flushHijacker
		http.Pusher
	}
	w, conn := httptest.NewRecorder(), fakeHijacker{}
	for _, below := range []http.ResponseWriter{
		plainRecorder{w}, flusher{w, w}, hijacker{w, conn}, pusher{w, conn}, flushHijacker{hijacker{w, conn}, w},
		flushPusher{pusher{w, conn}, w}, hijackPusher{hijacker{w, conn}, conn}, all{flushHijacker{hijacker{w, conn}, w}, conn},
	} {
		pool, _ := shards(t, "a")
		sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, flushes := below.(http.Flusher)
			_, hijacks := below.(http.Hijacker)
			_, pushes := below.(http.Pusher)
			_, flushesToo := w.(http.Flusher)
			_, hijacksToo := w.(http.Hijacker)
			_, pushesToo := w.(http.Pusher)
			require.Equal(t, []bool{flushes, hijacks, pushes}, []bool{flushesToo, hijacksToo, pushesToo}, "%T", below)
			if pushes {
				require.ErrorIs(t, w.(http.Pusher).Push("/", nil), http.ErrNotSupported)
			}
			if hijacks {
				_, _, err := w.(http.Hijacker).Hijack()
				require.ErrorIs(t, err, http.ErrHijacked)
			}
			if !flushes {
				require.ErrorIs(t, http.NewResponseController(w).Flush(), http.ErrNotSupported)
			} else {
				w.(http.Flusher).Flush()
			}
		})).ServeHTTP(below, httptest.NewRequest(http.MethodGet, "/", nil))
	}
}

// A plainRecorder hides the methods of a recorder that are not http.ResponseWriter's.
type plainRecorder struct{ http.ResponseWriter }

type fakeHijacker struct{}

func (fakeHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrHijacked }
func (fakeHijacker) Push(string, *http.PushOptions) error         { return http.ErrNotSupported }

// The latency of a request with a body counts from the end of the body, because a slow client must
// not count against the target.
func TestSticky_B5_LatencyCountsFromTheBodysEnd(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	v := observed(t, pool)
	h := sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			io.Copy(io.Discard, r.Body)
		}
	}))
	const slow = 50 * time.Millisecond
	body := func() io.Reader { return io.MultiReader(strings.NewReader("a"), sleepy(slow)) }
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", body()))
	o := v.next(t)
	require.Positive(t, o.Latency)
	require.Less(t, o.Latency, time.Since(o.Began)-slow/2)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/unread", body()))
	require.Zero(t, v.next(t).Latency, "nobody knows who waited for whom")
}

// sleepy is a reader that ends after a while.
type sleepy time.Duration

func (s sleepy) Read([]byte) (int, error) {
	time.Sleep(time.Duration(s))
	return 0, io.EOF
}

// A Proxy refuses targets without a URL before the first request, and at Pool.Update afterwards.
func TestProxy_TargetsWithoutURL(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	require.ErrorContains(t, (&wsproxy.Proxy{Pool: pool}).Validate(), `target "a": a Proxy needs a URL`)
	b := newBackend(t, "b", nil)
	require.NoError(t, pool.Update(b.target()))
	p := &wsproxy.Proxy{Pool: pool, Logger: noLog}
	t.Cleanup(func() { p.Close() })
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	require.ErrorContains(t, pool.Update(balancer.Target{ID: "a"}), `("a"): a Proxy needs a URL`)
}
