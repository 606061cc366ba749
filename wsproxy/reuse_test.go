package wsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// What a Proxy keeps from one request for the next holds nothing of it: neither its binding, nor what was found in it,
// nor what became of it.
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
