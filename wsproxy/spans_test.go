package wsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// spans notes in a diary what becomes of spans, and gives each attempt a traceparent of its own.
func (d *diary) spans() *wsproxy.Trace {
	return &wsproxy.Trace{Span: func(_ *http.Request, out wsproxy.Outgoing) func(wsproxy.Attempt) {
		d.note("begin %d at %s after %q", out.Number, out.Member.ID(), out.Header["Traceparent"])
		out.Header.Set("Traceparent", fmt.Sprintf("span-%d", out.Number))
		return func(a wsproxy.Attempt) {
			if e, ok := a.Err.(*wsproxy.Error); ok {
				d.note("end %d at %s: %d %v", a.Number, a.Target, a.Status, e.Class)
			} else {
				d.note("end %d at %s: %d %v", a.Number, a.Target, a.Status, a.Err)
			}
		}
	}}
}

// tracing is a header of W3C Trace Context and Baggage, odd spelling and all.
var tracing = []string{
	"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	"Tracestate: congo=t61rcWkgMzE, rojo=00f067aa0ba902b7", "Tracestate: ,odd==", "Baggage: user=%41",
}

func requireTracing(t testing.TB, h http.Header) {
	t.Helper()
	require.Equal(t, []string{"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, h["Traceparent"])
	require.Equal(t, []string{"congo=t61rcWkgMzE, rojo=00f067aa0ba902b7", ",odd=="}, h["Tracestate"])
	require.Equal(t, []string{"user=%41"}, h["Baggage"])
}

// The fields of a trace are plain ones: they pass as they are, of trusted peers and of others.
func TestProxy_TraceContextPasses(t *testing.T) {
	b := newBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) { requireTracing(t, r.Header) })
	dead := newBackend(t, "dead", nil)
	dead.stop()
	pool, picker := newPool(t, dead.target(), b.target())
	picker.to("dead")
	p := &wsproxy.Proxy{Pool: pool}
	require.Equal(t, "a", newClient(t, serve(t, p)).get("/", tracing...).Header.Get("Backend"))
	requireTracing(t, b.header())
}

// Each attempt has its span, which ends once, with how the attempt ended, and tells its target
// alone.
func TestTrace_SpanOfEachAttempt(t *testing.T) {
	kinds := map[string]func(id string, h http.HandlerFunc) *backend{
		"http":  func(id string, h http.HandlerFunc) *backend { return makeBackend(id, h) },
		"https": func(id string, h http.HandlerFunc) *backend { b := makeBackend(id, h); b.tls = true; return b },
		"h2": func(id string, h http.HandlerFunc) *backend {
			b := makeBackend(id, h)
			b.tls, b.http2 = true, true
			return b
		},
		"h2c": func(id string, h http.HandlerFunc) *backend { b := makeBackend(id, h); b.h2c = true; return b },
	}
	for name, kind := range kinds {
		for _, body := range []string{"", "body"} {
			t.Run(name+" "+body, func(t *testing.T) {
				got := make(chan string, 9)
				answer := func(status int) http.HandlerFunc {
					return func(w http.ResponseWriter, r *http.Request) {
						io.Copy(io.Discard, r.Body)
						got <- strings.Join(r.Header["Traceparent"], ",")
						w.WriteHeader(status)
					}
				}
				dead, busy, alive := kind("dead", nil), kind("busy", answer(503)), kind("alive", answer(200))
				for _, b := range []*backend{dead, busy, alive} {
					b.start(t)
				}
				dead.stop()
				d := &diary{}
				p := &wsproxy.Proxy{Trace: wsproxy.MultiTrace(d.spans(), nil), Logger: noLog,
					Retry: wsproxy.Retry{On: []int{503}, Buffer: 100}}
				if alive.tls {
					p.BackendTLS = backendTLS(alive)
				}
				pool, err := balancer.New(balancer.Config{Picker: balancer.First{},
					Targets: []balancer.Target{dead.target(), busy.target(), alive.target()}})
				require.NoError(t, err)
				p.Pool = pool
				c := newClient(t, serve(t, p))
				res := c.do(http.MethodPut, "/", strings.NewReader(body), "Traceparent: client", "Connection: traceparent")
				require.Equal(t, 200, res.StatusCode)
				require.Equal(t, []string{
					`begin 1 at dead after []`, // Connection has removed the client's
					`end 1 at dead: 0 dial`,
					`begin 2 at busy after []`,
					`end 2 at busy: 503 header`,
					`begin 3 at alive after []`,
					`end 3 at alive: 200 <nil>`,
				}, d.wait(t, 6))
				require.Equal(t, "span-2", wait(t, got, "a request"))
				require.Equal(t, "span-3", wait(t, got, "a request"))
			})
		}
	}
}

// The span is told how the response ended, and ends at a switch of protocols, when nobody has the
// request, and when a hook panics.
func TestTrace_SpanEnds(t *testing.T) {
	b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.Header().Set("Content-Length", "1000000")
			w.Write(make([]byte, 1000))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	var p *wsproxy.Proxy
	var d *diary
	begin := func(t *testing.T, targets ...balancer.Target) *client {
		d = &diary{}
		p = &wsproxy.Proxy{Trace: d.spans(), Logger: noLog}
		p.Trace.Done = func(*http.Request, wsproxy.Record) { d.note("done") }
		p.Pool, _ = newPool(t, targets...)
		return newClient(t, serve(t, p))
	}
	t.Run("broken off", func(t *testing.T) {
		c := begin(t, b.target())
		res, err := c.Get(c.url + "/broken")
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.Error(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, []string{"begin 1 at a after []", "end 1 at a: 200 body", "done"}, d.wait(t, 3))
	})
	t.Run("no target", func(t *testing.T) {
		begin(t).get("/")
		require.Equal(t, []string{"done"}, d.wait(t, 1))
	})
	t.Run("upgrade", func(t *testing.T) {
		begin(t, chatter(t, "a"))
		c := dial(t, serve(t, p))
		c.open()
		require.Equal(t, []string{"begin 1 at a after []", "end 1 at a: 101 <nil>", "done"}, d.wait(t, 3))
		say(t, c)
	})
	t.Run("hook panics", func(t *testing.T) {
		c := begin(t, b.target())
		p.Trace.Bind = func(*http.Request, *stickiness.Binding) { panic(http.ErrAbortHandler) }
		p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
		c.Get(c.url + "/")
		require.Equal(t, []string{"begin 1 at a after []", "end 1 at a: 200 request", "done"}, d.wait(t, 3))
		require.Zero(t, member(t, p.Pool, "a").Load())
	})
	t.Run("it panics itself", func(t *testing.T) {
		c := begin(t, b.target())
		p.Trace.Span = func(*http.Request, wsproxy.Outgoing) func(wsproxy.Attempt) { panic(http.ErrAbortHandler) }
		c.Get(c.url + "/")
		require.Equal(t, []string{"done"}, d.wait(t, 1))
		require.Zero(t, member(t, p.Pool, "a").Load())
	})
	t.Run("another one panics", func(t *testing.T) {
		c := begin(t, b.target())
		done := p.Trace.Done
		p.Trace = wsproxy.MultiTrace(d.spans(), &wsproxy.Trace{Done: done,
			Span: func(*http.Request, wsproxy.Outgoing) func(wsproxy.Attempt) { panic(http.ErrAbortHandler) }}, d.spans())
		c.Get(c.url + "/")
		require.Equal(t, []string{"begin 1 at a after []", "end 1 at a: 0 request", "done"}, d.wait(t, 3))
		require.Zero(t, member(t, p.Pool, "a").Load())
	})
	for _, status := range []int{200, 101} {
		t.Run(fmt.Sprintf("the end of one panics, %d", status), func(t *testing.T) {
			c := begin(t, map[int]balancer.Target{200: b.target(), 101: chatter(t, "a")}[status])
			done := p.Trace.Done
			p.Trace = wsproxy.MultiTrace(d.spans(), &wsproxy.Trace{Done: done,
				Span: func(*http.Request, wsproxy.Outgoing) func(wsproxy.Attempt) {
					return func(wsproxy.Attempt) { panic(http.ErrAbortHandler) }
				}}, d.spans())
			if status == 101 {
				dial(t, serve(t, p)).open()
			} else {
				c.Get(c.url + "/")
			}
			end := fmt.Sprintf("end 1 at a: %d <nil>", status)
			require.Equal(t, []string{"begin 1 at a after []", `begin 1 at a after ["span-1"]`, end, end, "done"}, d.wait(t, 5))
		})
	}
	t.Run("it returns nil", func(t *testing.T) {
		c := begin(t, b.target())
		p.Trace.Span = func(*http.Request, wsproxy.Outgoing) func(wsproxy.Attempt) { return nil }
		require.Equal(t, 200, c.get("/").StatusCode)
		require.Equal(t, []string{"done"}, d.wait(t, 1))
	})
	t.Run("after Target, which may leave no header", func(t *testing.T) {
		c := begin(t, b.target())
		p.Target = func(out *http.Request, _ *balancer.Member) { out.Header = nil }
		require.Equal(t, 200, c.get("/", "Traceparent: client").StatusCode)
		require.Equal(t, []string{"begin 1 at a after []", "end 1 at a: 200 <nil>", "done"}, d.wait(t, 3))
		require.Equal(t, []string{"span-1"}, b.header()["Traceparent"])
	})
	t.Run("a header that Rewrite shares", func(t *testing.T) {
		c := begin(t, b.target())
		shared := http.Header{"Traceparent": {"shared"}}
		p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.Header = shared }
		require.Equal(t, 200, c.get("/").StatusCode)
		require.Equal(t, []string{"span-1"}, b.header()["Traceparent"])
		require.Equal(t, http.Header{"Traceparent": {"shared"}}, shared)
	})
}
