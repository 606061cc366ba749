package wsproxy_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// What a Proxy keeps from one request for the next holds nothing of it: neither its binding, nor
// what was found in it, nor what became of it.
func TestProxy_RequestsKnowNothingOfEachOther(t *testing.T) {
	backend := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			w.Write([]byte("after 103"))
		case "/long":
			w.Write([]byte(strings.Repeat("x", 50_000)))
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/broken":
			w.Header().Set("Content-Length", "10")
			panic(http.ErrAbortHandler)
		}
	})
	other := newBackend(t, "b", nil)
	pool, _ := newPool(t, backend.target(), other.target())
	member(t, pool, "b").SetAdmin(balancer.Down) // who is bound to it is bound anew
	var records sync.Map
	proxy := &wsproxy.Proxy{
		Pool:   pool,
		Policy: lbCookie(t, stickiness.LBCookieOptions{}),
		Trace: &wsproxy.Trace{
			Lookup: func(r *http.Request, found []stickiness.Candidate) {
				records.Store(r.URL.Query().Get("n")+"found", len(found))
			},
			Bind: func(r *http.Request, b *stickiness.Binding) {
				records.Store(r.URL.Query().Get("n")+"bound", fmt.Sprintln(b.Target, b.From != nil, len(b.Seen), b.Detour))
			},
			Done: func(r *http.Request, rec wsproxy.Record) { records.Store(r.URL.Query().Get("n"), rec) },
		},
	}
	cookies := map[string]string{"a": bound(t, "a"), "b": bound(t, "b")}
	srv := serve(t, proxy)
	c := newClient(t, srv).withoutCookies()
	kinds := []struct {
		path, cookie string
		status       int
		bytes        int64
		found        int
		bound        string
	}{
		{"/long", "a", 200, 50_000, 1, "a true 1 false\n"},
		{"/none", "", 204, 0, 0, "a false 0 false\n"},
		{"/early", "", 200, 9, 0, "a false 0 false\n"},
		{"/none", "b", 204, 0, 1, "a true 1 false\n"},
		{"/long", "", 200, 50_000, 0, "a false 0 false\n"},
	}
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			for i := range 50 {
				kind := kinds[(i+worker)%len(kinds)]
				n := fmt.Sprintf("%d-%d", worker, i)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+kind.path+"?n="+n, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if kind.cookie != "" {
					req.Header.Set("Cookie", strings.TrimPrefix(cookies[kind.cookie], "Cookie: "))
				}
				if i%7 == 0 { // one that fails in between
					if broken, err := c.Get(srv.URL + "/broken"); err == nil {
						broken.Body.Close()
					}
				}
				res, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Error(err)
				}
				res.Body.Close()
			}
		})
	}
	workers.Wait()
	srv.Close() // every handler has returned
	for worker := range 4 {
		for i := range 50 {
			kind := kinds[(i+worker)%len(kinds)]
			n := fmt.Sprintf("%d-%d", worker, i)
			v, ok := records.Load(n)
			require.True(t, ok, n)
			rec := v.(wsproxy.Record)
			require.NoError(t, rec.Err, n)
			require.Equal(t, []any{kind.path, kind.status, kind.bytes, 1, "a"}, []any{rec.Path, rec.Status, rec.Bytes, rec.Attempts, rec.Target}, n)
			found, _ := records.Load(n + "found")
			bound, _ := records.Load(n + "bound")
			require.Equal(t, kind.found, found, n)
			require.Equal(t, kind.bound, bound, n)
		}
	}
}

// Nor do the headers of a request and of its response have a field of another one's, however many
// there were.
func TestProxy_HeadersKnowNothingOfEachOther(t *testing.T) {
	backend := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return !strings.HasPrefix(name, "X-Test") })
		maps.Copy(w.Header(), r.Header)
		if r.URL.Path == "/chunked" {
			http.NewResponseController(w).Flush()
		}
	})
	pool, _ := newPool(t, backend.target())
	proxy := &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}
	srv := serve(t, proxy)
	c := newClient(t, srv).withoutCookies()
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			for i := range 60 {
				path := []string{"/", "/chunked"}[i%2]
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				want := http.Header{}
				for n := range []int{0, 1, 5, 30, 200}[(i+worker)%5] {
					name := fmt.Sprintf("X-Test-%d-%d-%d", worker, i, n)
					want[name] = slices.Repeat([]string{fmt.Sprint(n)}, 1+n%3)
				}
				maps.Copy(req.Header, want)
				res, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				maps.DeleteFunc(res.Header, func(name string, _ []string) bool { return !strings.HasPrefix(name, "X-Test") })
				if !maps.EqualFunc(want, res.Header, slices.Equal) {
					t.Errorf("sent %v, got %v", want, res.Header)
				}
			}
		})
	}
	workers.Wait()
}

// Rewrite may do to the outgoing header what it likes: the inbound one is another.
func TestProxy_RewriteOwnsItsHeader(t *testing.T) {
	backend := newBackend(t, "a", nil)
	pool, _ := newPool(t, backend.target())
	proxy := &wsproxy.Proxy{Pool: pool, Rewrite: func(pr *httputil.ProxyRequest) {
		pr.Out.Header["X-Edited"][0] = "ours"
		pr.Out.Header["X-Grown"] = append(pr.Out.Header["X-Grown"], "more")
		delete(pr.Out.Header, "X-Gone")
	}}
	sent := http.Header{"X-Edited": {"theirs"}, "X-Grown": {"one"}, "X-Next": {"next"}, "X-Gone": {"here"}}
	for range 3 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = sent.Clone()
		w := httptest.NewRecorder()
		proxy.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, sent, r.Header)
		got := backend.header()
		require.Equal(t, []string{"ours"}, got["X-Edited"])
		require.Equal(t, []string{"one", "more"}, got["X-Grown"])
		require.Equal(t, []string{"next"}, got["X-Next"])
		require.NotContains(t, got, "X-Gone")
	}
}

// What Rewrite has been given is its to keep, as it is with ReverseProxy: later requests do not
// show in it.
func TestProxy_RewriteMayKeepTheRequest(t *testing.T) {
	backend := newBackend(t, "a", nil)
	pool, _ := newPool(t, backend.target())
	var kept []*http.Request
	proxy := &wsproxy.Proxy{Pool: pool, Rewrite: func(pr *httputil.ProxyRequest) { kept = append(kept, pr.Out) }}
	for i := range 5 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Own", fmt.Sprint(i))
		proxy.ServeHTTP(httptest.NewRecorder(), r)
	}
	for i, out := range kept {
		require.Equal(t, fmt.Sprint(i), out.Header.Get("X-Own"))
	}
}

// Nor does a request of another host, or from another client, show in what the proxy itself has
// added to that header.
func TestProxy_RewriteMayKeepWhatWasForwarded(t *testing.T) {
	pool, _ := newPool(t, newBackend(t, "a", nil).target())
	var kept []http.Header
	proxies := []*wsproxy.Proxy{
		{Pool: pool, Rewrite: func(pr *httputil.ProxyRequest) { kept = append(kept, pr.Out.Header) }},
		{Pool: pool, Target: func(out *http.Request, _ *balancer.Member) { kept = append(kept, out.Header) }},
	}
	for _, proxy := range proxies {
		kept = nil
		for i := range 5 {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Host, r.RemoteAddr = fmt.Sprintf("host-%d", i), fmt.Sprintf("192.0.2.%d:4711", i)
			proxy.ServeHTTP(httptest.NewRecorder(), r)
		}
		for i, h := range kept {
			require.Equal(t, []string{fmt.Sprintf("host-%d", i)}, h["X-Forwarded-Host"])
			require.Equal(t, []string{fmt.Sprintf("192.0.2.%d", i)}, h["X-Forwarded-For"])
			require.Equal(t, []string{"http"}, h["X-Forwarded-Proto"])
		}
		require.Len(t, kept, 5)
	}
}

// A closer is a policy that ends the client's connection, and notes what it has seen.
type closer struct{ seen http.Header }

func (*closer) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return found
}

func (c *closer) Bind(b *stickiness.Binding) {
	c.seen = b.Header.Clone()
	b.Header["Connection"], b.Header["Upgrade"] = []string{"close"}, []string{"ours"}
}

// A policy sees no field that concerns the target's connection alone, and what it says about the
// client's connection goes to the client, whether or not ReverseProxy is shown the header.
func TestProxy_PoliciesAndHopByHopFields(t *testing.T) {
	for _, connection := range []string{"", "Connection: keep-alive\r\n", "Connection: x-other\r\n"} {
		pool, _ := newPool(t, rawBackend(t, "a", answering("HTTP/1.1 200 OK\r\n"+connection+"Keep-Alive: theirs\r\n"+
			"Proxy-Authenticate: Basic\r\nProxy-Connection: close\r\nUpgrade: theirs\r\nContent-Length: 2\r\n\r\nok")))
		policy := &closer{}
		c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: policy}))
		c.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
		res := c.response()
		require.Equal(t, http.Header{"Content-Length": {"2"}}, policy.seen)
		require.True(t, res.Close)
		require.Equal(t, []string{"ours"}, res.Header["Upgrade"])
		require.NotContains(t, res.Header, "Keep-Alive")
	}
}
