package wsproxy_test

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// What a client's request line has in it that cannot be sent on is the client's fault: 400, and no target is asked.
func TestProxy_W11_OddRequestLines(t *testing.T) {
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	front := serve(t, &wsproxy.Proxy{Pool: pool, Logger: noLog})
	for _, line := range []string{
		"GET x:http://internal/secret HTTP/1.1", // Go reads it as an opaque URL
		"GET x:admin HTTP/1.1",
		"GET * HTTP/1.1",
		"GET http://xn--%C3%A4/ HTTP/1.1",
	} {
		c := dial(t, front)
		c.send(line + "\r\nHost: app.example\r\nConnection: close\r\n\r\n")
		require.Equal(t, http.StatusBadRequest, c.response().StatusCode, line)
	}
	require.Zero(t, b.asked.Load())
	c := dial(t, front)
	c.send("OPTIONS * HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n")
	require.Equal(t, http.StatusOK, c.response().StatusCode)
	require.Equal(t, "*", b.request().RequestURI)
}

func TestProxy_W11_PathsThatMiddlewareHasShortened(t *testing.T) {
	for _, tt := range []struct{ prefix, strip, path, want string }{
		{"", "/api/", "/api/users", "/users"},
		{"/app", "/api", "/api-admin/x", "/app/-admin/x"},
		{"/app", "/api", "/api/x%2Fy", "/app/x%2Fy"},
		{"", "/api", "/api", "/"},
	} {
		b := newBackend(t, "a", nil)
		pool, _ := newPool(t, target("a", "http://"+b.addr+tt.prefix))
		front := serve(t, http.StripPrefix(tt.strip, &wsproxy.Proxy{Pool: pool}))
		res, err := http.Get(front.URL + tt.path)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, tt.want, b.request().RequestURI)
	}
}

// panicsOnFlush is a middleware's writer that lacks what it promises.
type panicsOnFlush struct{ http.ResponseWriter }

func (w panicsOnFlush) Flush() { panic("no Flusher") }

// A Flush that panics ends its request, on the handler's goroutine, and nothing else. Where ReverseProxy flushes after each
// Write, the request ends with what comes next, or at the end of the response if that has come.
func TestProxy_W11_FlushThatPanics(t *testing.T) {
	for name, tt := range map[string]struct {
		headers http.Header
		goesOn  bool
	}{
		"known length":       {http.Header{"Content-Length": {"100"}}, false},
		"unknown length":     {http.Header{}, true},
		"server-sent events": {http.Header{"Content-Type": {"text/event-stream"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), tt.headers)
				io.WriteString(w, "first")
				http.NewResponseController(w).Flush()
				if tt.goesOn {
					io.WriteString(w, "second")
				} else {
					<-r.Context().Done()
				}
			})
			pool, _ := newPool(t, b.target())
			p := &wsproxy.Proxy{Pool: pool, Logger: noLog}
			recovered := make(chan any, 1)
			front := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					recovered <- recover()
					panic(http.ErrAbortHandler)
				}()
				p.ServeHTTP(panicsOnFlush{w}, r)
			}))
			if res, err := http.Get(front.URL); err == nil {
				res.Body.Close()
			}
			require.Equal(t, "no Flusher", wait(t, recovered, "the panic"))
			idleMember(t, pool, "a")
		})
	}
}

// The last Flush is one too, if nothing is read or written after it.
func TestProxy_W11_LastFlushThatPanics(t *testing.T) {
	p := &wsproxy.Proxy{Pool: ordered(t, "a"), Logger: noLog, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Header: http.Header{}, Request: r,
			Body: io.NopCloser(iotest.DataErrReader(strings.NewReader("all of it")))}, nil
	})}
	require.PanicsWithValue(t, "no Flusher", func() {
		p.ServeHTTP(panicsOnFlush{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/", nil))
	})
	require.Zero(t, member(t, p.Pool, "a").Load())
}

// Whoever panics in a hook takes no lease with it.
func TestProxy_PanickingHooksLeaveNothing(t *testing.T) {
	dead := func(id string) balancer.Target { return target(id, "http://127.0.0.1:1") }
	b := newBackend(t, "b", nil)
	boom := func() { panic("boom") }
	for name, p := range map[string]*wsproxy.Proxy{
		"Lookup":  {Trace: &wsproxy.Trace{Lookup: func(*http.Request, []stickiness.Candidate) { boom() }}, Policy: lbCookie(t, stickiness.LBCookieOptions{})},
		"Pick":    {Trace: &wsproxy.Trace{Pick: func(*http.Request, *balancer.Member, error) { boom() }}},
		"Attempt": {Trace: &wsproxy.Trace{Attempt: func(*http.Request, wsproxy.Attempt) { boom() }}},
		"Retry":   {Trace: &wsproxy.Trace{Retry: func(*http.Request, *wsproxy.Error) { boom() }}},
		"Bind":    {Trace: &wsproxy.Trace{Bind: func(*http.Request, *stickiness.Binding) { boom() }}, Policy: lbCookie(t, stickiness.LBCookieOptions{})},
		"Target":  {Target: func(*http.Request, *balancer.Member) { boom() }},
		"OnMiss": {OnMiss: func(*http.Request, string, error) wsproxy.Miss { boom(); return wsproxy.Rebind },
			Policy: stickiness.First(fixed("gone"))},
	} {
		t.Run(name, func(t *testing.T) {
			pool, err := balancer.New(balancer.Config{Picker: order{}, Targets: []balancer.Target{dead("a"), b.target()}})
			require.NoError(t, err)
			p.Pool, p.Logger = pool, noLog
			for range 3 {
				require.PanicsWithValue(t, "boom", func() {
					p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
				})
			}
			for _, m := range pool.Members() {
				require.Zero(t, m.Load(), m.ID())
			}
		})
	}
}

// fixed is a policy that binds every request to one target.
type fixed string

func (f fixed) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return append(found, stickiness.Candidate{Target: string(f)})
}

func (fixed) Bind(*stickiness.Binding) {}

// Hooks and policies see no forged header either.
func TestProxy_W7_PoliciesAndKeysSeeNoForgedHeader(t *testing.T) {
	var seen []string
	p := &wsproxy.Proxy{
		Pool:   ordered(t, "a"),
		Policy: spy(func(r *http.Request) { seen = append(seen, r.Header.Get("X-Forwarded-For")) }),
		Key: func(r *http.Request) string {
			seen = append(seen, r.Header.Get("X-Forwarded-For"))
			return ""
		},
		Transport: &script{},
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Forwarded-For", "6.6.6.6")
	p.ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, []string{"", ""}, seen)
	require.Equal(t, "6.6.6.6", r.Header.Get("X-Forwarded-For"), "the inbound request is never edited")
}

type spy func(*http.Request)

func (s spy) Lookup(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	s(r)
	return found
}

func (spy) Bind(*stickiness.Binding) {}

// An answer of HTTP/2 with trailers that ends before the request does reaches the client whole, though the client is
// silent: as gRPC servers do it.
func TestProxy_W11_ResponseEndsBeforeTheRequest(t *testing.T) {
	backend := serveTLS2(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-End")
		io.WriteString(w, "enough")
		w.Header().Set("X-End", "yes")
	}))
	pool, _ := newPool(t, target("a", backend.URL))
	front := serveTLS2(t, &wsproxy.Proxy{Pool: pool, Transport: backend.Client().Transport})
	body, silent := io.Pipe()
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, front.URL, body)
	require.NoError(t, err)
	res, err := front.Client().Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 2, res.ProtoMajor)
	all, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "enough", string(all))
	require.Equal(t, "yes", res.Trailer.Get("X-End"))
}

func serveTLS2(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// Down cuts a request whose response is still awaited, if it has a body: one without is left to the transport's limit.
func TestProxy_S22_DownCutsWhatWaits(t *testing.T) {
	arrived := make(chan struct{})
	pool, _ := newPool(t, rawBackend(t, "a", func(_ net.Conn, r *bufio.Reader, _ *http.Request) {
		close(arrived)
		io.Copy(io.Discard, r)
	}))
	front := serve(t, &wsproxy.Proxy{Pool: pool, Logger: noLog})
	status := make(chan int, 1)
	go func() {
		if res, err := http.Post(front.URL, "text/plain", strings.NewReader("all of it")); err == nil {
			res.Body.Close()
			status <- res.StatusCode
		}
	}()
	wait(t, arrived, "the request")
	member(t, pool, "a").SetAdmin(balancer.Down)
	require.Equal(t, http.StatusBadGateway, wait(t, status, "the answer"))
	idleMember(t, pool, "a")
}

func TestProxy_W12_StatusThatIsNone(t *testing.T) {
	pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, "HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n")
	}))
	res, err := http.Get(serve(t, &wsproxy.Proxy{Pool: pool, Logger: noLog}).URL)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
}

// A client of HTTP/1.0 would take a 1xx for the answer (RFC 9110 section 15.2).
func TestProxy_S19_NoEarlyHintsForHTTP10(t *testing.T) {
	b := newBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "done")
	})
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Middleware", "yes")
		(&wsproxy.Proxy{Pool: pool}).ServeHTTP(w, r)
	})))
	c.send("GET / HTTP/1.0\r\nHost: app.example\r\n\r\n")
	r := c.response()
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "yes", r.Header.Get("X-Middleware"))
	require.Equal(t, "done", r.body)
}

// Streams that were retried long ago do not use up what may be retried now.
func TestProxy_W10_BudgetIsGivenBackWithTheHeader(t *testing.T) {
	s := &script{fail: map[string]error{"a": errRefused}}
	p := &wsproxy.Proxy{Logger: noLog, Pool: ordered(t, "a", "b")}
	stream, end := io.Pipe()
	streaming := make(chan struct{}, 8)
	p.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		res, err := s.RoundTrip(r)
		if err == nil {
			begin := sync.OnceFunc(func() { streaming <- struct{}{} })
			res.Body = io.NopCloser(readerFunc(func(b []byte) (int, error) {
				begin()
				return stream.Read(b)
			}))
		}
		return res, err
	})
	done := make(chan int, 8)
	for range 8 {
		go func() {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			done <- w.Code
		}()
		select {
		case <-streaming: // its header is done with, before the next one comes
		case code := <-done:
			require.Fail(t, "no stream", "status %d", code)
		case <-time.After(patience):
			require.Fail(t, "no stream")
		}
	}
	require.EqualValues(t, 8, member(t, p.Pool, "b").Load(), "all eight are streaming at once")
	end.Close()
	for range 8 {
		require.Equal(t, http.StatusOK, wait(t, done, "the end of a stream"))
	}
}

// readerFunc is an io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Outside net/http's server nobody panics, and a response that broke off is told as what it is.
func TestProxy_W12_TruncationWithoutAServer(t *testing.T) {
	pool, _ := newPool(t, rawBackend(t, "a", closing("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")))
	var rec wsproxy.Record
	outcomes := &outcomes{}
	defer pool.Observe(outcomes)()
	p := &wsproxy.Proxy{Pool: pool, Logger: noLog, Trace: &wsproxy.Trace{Done: func(_ *http.Request, r wsproxy.Record) { rec = r }}}
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	require.ErrorIs(t, rec.Err, io.ErrUnexpectedEOF)
	require.Equal(t, []balancer.Class{balancer.BodyFailed}, outcomes.classes())
}

func TestProxy_W12_ConnectNamesWhatIsAllowed(t *testing.T) {
	w := httptest.NewRecorder()
	(&wsproxy.Proxy{Pool: ordered(t, "a")}).ServeHTTP(w, httptest.NewRequest(http.MethodConnect, "app.example:443", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.True(t, strings.Contains(w.Header().Get("Allow"), "GET"))
}
