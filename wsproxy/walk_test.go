package wsproxy_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A walk that waits for its next request has nothing of the last one in any of its fields.
func TestWalk_IsEmptyAfterEachRequest(t *testing.T) {
	backend := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upgrade":
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusUpgradeRequired)
		case "/chunks":
			w.Write([]byte("one"))
			w.(http.Flusher).Flush()
		}
		w.Write([]byte("end"))
	})
	pool, _ := newPool(t, backend.target())
	proxy := &wsproxy.Proxy{
		Pool:      pool,
		Policy:    lbCookie(t, stickiness.LBCookieOptions{}),
		MaxPerKey: 1,
		ReadAhead: 1 << 10,
		Trace: wsproxy.MultiTrace(wsproxy.LogAccess(slog.New(slog.DiscardHandler), nil), &wsproxy.Trace{
			Span: func(*http.Request, wsproxy.Outgoing) func(wsproxy.Attempt) { return func(wsproxy.Attempt) {} },
		}),
	}
	t.Cleanup(func() { proxy.Close() })
	for _, path := range []string{"/", "/upgrade", "/chunks"} {
		t.Run(path, func(t *testing.T) {
			for range 100 { // sync.Pool may forget what it is given
				r := httptest.NewRequest(http.MethodGet, path, nil)
				r.Header.Set("Cookie", bound(t, "a")[len("Cookie: "):])
				r.Header.Set("X-Forwarded-For", "192.0.2.7")
				proxy.ServeHTTP(httptest.NewRecorder(), r)
				if left, ok := wsproxy.Leftovers(proxy); ok {
					require.Empty(t, left)
					return
				}
			}
			require.Fail(t, "no walk was kept")
		})
	}
}
