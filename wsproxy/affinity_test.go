package wsproxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// rendezvous is a proxy without a network whose answers say which of n targets had the request.
func rendezvous(t *testing.T, n int, key func(*http.Request) string) *wsproxy.Proxy {
	t.Helper()
	var targets []balancer.Target
	for i := range n {
		targets = append(targets, target(fmt.Sprintf("t%d", i), fmt.Sprintf("http://t%d.test", i)))
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.Rendezvous{}})
	require.NoError(t, err)
	return &wsproxy.Proxy{Pool: pool, Key: key, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Backend": {r.URL.Host}}, Body: http.NoBody}, nil
		})}
}

// Hash affinity: what has the same key has the same target, without a cookie and without state; other keys spread.
func TestProxy_B2_HashAffinity(t *testing.T) {
	tests := map[string]struct {
		key  func(*http.Request) string
		mark func(r *http.Request, i int) // gives a request the i-th key
	}{
		"client's address": {nil, func(r *http.Request, i int) { r.RemoteAddr = fmt.Sprintf("192.0.2.%d:%d", i, 1024+i) }},
		"client's address behind a trusted peer": {nil, func(r *http.Request, i int) {
			r.RemoteAddr = "10.0.0.1:80"
			r.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i))
		}},
		"header": {stickiness.FromHeader("X-Tenant"), func(r *http.Request, i int) { r.Header.Set("X-Tenant", fmt.Sprint("tenant ", i)) }},
		"cookie": {stickiness.FromCookie("user"), func(r *http.Request, i int) { r.Header.Set("Cookie", fmt.Sprint("a=b; user=", i)) }},
		"path":   {func(r *http.Request) string { return r.URL.Path }, func(r *http.Request, i int) { r.URL.Path = fmt.Sprint("/doc/", i) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			const keys, targets = 64, 8
			one, other := rendezvous(t, targets, tt.key), rendezvous(t, targets, tt.key)
			had := map[string]int{}
			for i := range keys {
				ask := func(p *wsproxy.Proxy) string {
					r := httptest.NewRequest(http.MethodGet, "/", nil)
					tt.mark(r, i)
					w := httptest.NewRecorder()
					p.ServeHTTP(w, r)
					require.Empty(t, w.Header()["Set-Cookie"])
					return w.Header().Get("Backend")
				}
				first := ask(one)
				require.Equal(t, first, ask(one))
				require.Equal(t, first, ask(other), "another instance chooses alike")
				had[first]++
			}
			require.Greater(t, len(had), targets/2, "the keys spread")
		})
	}
}

// A client address that an untrusted peer made up moves nobody.
func TestProxy_W7_ForgedAddressMovesNobody(t *testing.T) {
	p := rendezvous(t, 8, nil)
	had := map[string]int{}
	for i := range 64 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i))
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		had[w.Header().Get("Backend")]++
	}
	require.Len(t, had, 1)
}
