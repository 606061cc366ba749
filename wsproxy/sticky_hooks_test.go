package wsproxy_test

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// The hooks of a request come in the order of a Proxy's, and the span is closed once.
func TestSticky_Hooks(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	var calls []string
	note := func(name string) { calls = append(calls, name) }
	s := sticky(t, pool)
	var rec wsproxy.Record
	s.Trace = &wsproxy.Trace{
		Lookup: func(*http.Request, []stickiness.Candidate) { note("lookup") },
		Pick:   func(_ *http.Request, m *balancer.Member, _ error) { note("pick " + m.ID()) },
		Span: func(_ *http.Request, out wsproxy.Outgoing) func(wsproxy.Attempt) {
			out.Header.Set("Traceparent", "span")
			return func(a wsproxy.Attempt) { note("end of span " + a.Target + http.StatusText(a.Status)) }
		},
		Bind:    func(_ *http.Request, b *stickiness.Binding) { note("bind " + b.Result.String()) },
		Attempt: func(_ *http.Request, a wsproxy.Attempt) { note("attempt " + a.Target) },
		Done:    func(_ *http.Request, r wsproxy.Record) { note("done"); rec = r },
	}
	r := httptest.NewRequest(http.MethodGet, "/path?query", nil)
	s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "span", r.Header.Get("Traceparent"))
		io.WriteString(w, "body")
	})).ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, []string{"lookup", "pick a", "bind bound", "attempt a", "end of span aOK", "done"}, calls)
	require.Empty(t, r.Header)
	require.Equal(t, "a", rec.Target)
	require.Equal(t, 1, rec.Attempts)
	require.Equal(t, http.StatusOK, rec.Status)
	require.EqualValues(t, 4, rec.Bytes)
	require.Equal(t, "/path", rec.Path)
	require.NoError(t, rec.Err)
}

// If a hook panics, the lease is released, and the panic does not count against the target.
func TestSticky_B5_HookPanics(t *testing.T) {
	t.Parallel()
	hooks := map[string]func(s *wsproxy.Sticky){
		"Key":  func(s *wsproxy.Sticky) { s.Key = func(*http.Request) string { panic("hook") } },
		"Pick": func(s *wsproxy.Sticky) { s.Trace.Pick = func(*http.Request, *balancer.Member, error) { panic("hook") } },
		"Span": func(s *wsproxy.Sticky) {
			s.Trace.Span = func(*http.Request, wsproxy.Outgoing) func(wsproxy.Attempt) { panic("hook") }
		},
		"Bind": func(s *wsproxy.Sticky) { s.Trace.Bind = func(*http.Request, *stickiness.Binding) { panic("hook") } },
		"Done": func(s *wsproxy.Sticky) { s.Trace.Done = func(*http.Request, wsproxy.Record) { panic("hook") } },
	}
	for name, hook := range hooks {
		pool, _ := shards(t, "a")
		v := observed(t, pool)
		s := sticky(t, pool)
		s.Trace, s.MaxPerKey = &wsproxy.Trace{}, 1
		hook(s)
		h := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
		for range 2 { // the second one needs the key's place of the first
			require.PanicsWithValue(t, "hook", func() {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			}, name)
			require.Zero(t, member(t, pool, "a").Load(), name)
			if name == "Key" {
				continue // there was no lease yet
			}
			want := balancer.Unjudged
			if name == "Done" {
				want = balancer.OK
			}
			require.Equal(t, want.String(), v.next(t).Class.String(), name)
		}
	}
}

// The caller's ErrorPage answers a request that does not reach the handler. It binds no session,
// and is logged and counted.
func TestSticky_W12_ErrorPage(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t)
	s := sticky(t, pool)
	var log bytes.Buffer
	s.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s.ErrorPage = func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
		w.WriteHeader(e.Status)
		io.WriteString(w, "sorry: "+e.Class.String())
	}
	var rec wsproxy.Record
	s.Trace = &wsproxy.Trace{Done: func(_ *http.Request, r wsproxy.Record) { rec = r }}
	w := httptest.NewRecorder()
	s.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("not called") })).
		ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "sorry: no target", w.Body.String())
	require.Equal(t, "5", w.Header().Get("Retry-After"))
	require.Empty(t, w.Header()["Set-Cookie"])
	require.Equal(t, http.StatusServiceUnavailable, rec.Status)
	require.Zero(t, rec.Attempts)
	require.Contains(t, log.String(), "request failed")
}

// Requests of one key beyond MaxPerKey are refused, by the client that trusted peers name.
func TestSticky_MaxPerKey(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	s := sticky(t, pool)
	s.MaxPerKey, s.PerKeyStatus = 1, http.StatusTooManyRequests
	var inner *httptest.ResponseRecorder
	depth := 0
	var h http.Handler
	h = s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if depth++; depth == 1 {
			inner = httptest.NewRecorder()
			h.ServeHTTP(inner, httptest.NewRequest(http.MethodGet, "/", nil))
		}
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, http.StatusTooManyRequests, inner.Code)
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusOK, w.Code, "the first has given its place back")
}

// An informing policy removes a line from 1xx responses, and not from the final one.
type informing struct{}

func (informing) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return found
}
func (informing) Bind(*stickiness.Binding) {}
func (informing) Inform(h http.Header)     { delete(h, "Set-Cookie") }

func TestSticky_S19_InformingPolicy(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	s := sticky(t, pool)
	s.Policy = informing{}
	informed, r := newClient(t, serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "a=1")
		w.Header().Set("Link", "</>")
		w.WriteHeader(http.StatusEarlyHints)
	})))).informed("/")
	require.Len(t, informed, 1)
	require.Empty(t, informed[0]["Set-Cookie"])
	require.Equal(t, "</>", informed[0].Get("Link"))
	require.Equal(t, "a=1", r.Header.Get("Set-Cookie"))
}

// A pipe is a client's connection that keeps what is written.
type pipe struct {
	httptest.ResponseRecorder
	net.Conn
	written bytes.Buffer
}

func (p *pipe) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return p, bufio.NewReadWriter(bufio.NewReader(strings.NewReader("")), bufio.NewWriter(p)), nil
}
func (p *pipe) Write(b []byte) (int, error) { return p.written.Write(b) }
func (p *pipe) Close() error                { return nil }
func (p *pipe) SetDeadline(time.Time) error { return nil }
func (p *pipe) Header() http.Header         { return p.ResponseRecorder.Header() }

// The bytes that a handler writes to a hijacked connection reach the client unchanged, in pieces of
// any size. Only the header of a final response gets the lines of the policy.
func FuzzSticky_HijackedBytes(f *testing.F) {
	for _, text := range []string{
		"", "hello", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nframe", "HTTP/1.1 103 Early\r\nLink: </>\r\n\r\nHTTP/1.1 200 OK\n\nbody",
		"HTTP/1.1 200\r\nA: b\r\n c\r\nSet-Cookie: x=1\r\n\r\n", "HTTP/1.1 99 x\r\n\r\n", "HTTP/1.", "\n\n", "HTTP/1.0 200 OK\r\nbroken\r\n\r\n",
	} {
		f.Add([]byte(text), uint16(5), true)
		f.Add([]byte(text), uint16(len(text)), false)
	}
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "a"}}})
	require.NoError(f, err)
	policy := lbCookie(f, stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
	f.Fuzz(func(t *testing.T, text []byte, cut uint16, binds bool) {
		s := &wsproxy.Sticky{Pool: pool, Logger: noLog}
		if binds {
			s.Policy = policy
		}
		p := &pipe{ResponseRecorder: *httptest.NewRecorder()}
		s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			require.NoError(t, err)
			at := min(int(cut), len(text))
			for _, part := range [][]byte{text[:at], text[at:]} {
				n, err := conn.Write(part)
				require.NoError(t, err)
				require.Equal(t, len(part), n)
			}
			require.NoError(t, conn.Close())
		})).ServeHTTP(p, httptest.NewRequest(http.MethodGet, "/", nil))
		require.NoError(t, s.Close())
		m, _ := pool.Member("a")
		require.Zero(t, m.Load())
		if got := p.written.Bytes(); !binds || !bytes.Contains(got, []byte("Set-Cookie: AWSELB=")) {
			require.Equal(t, string(text), string(got))
		} else {
			require.True(t, bytes.HasPrefix(text, []byte("HTTP/1.")))
		}
	})
}
