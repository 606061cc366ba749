package wsproxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
)

// benchBare is a handler that does almost nothing.
var benchBare = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = benchType
	io.WriteString(w, "hello")
})

var benchType = []string{"text/plain; charset=utf-8"}

// benchSticky has the bare handler, alone and in a Sticky.
var benchSticky = []struct {
	name string
	make func(t testing.TB) http.Handler
}{
	{"bare", func(testing.TB) http.Handler { return benchBare }},
	{"sticky", func(t testing.TB) http.Handler {
		pool, _ := shards(t, "a", "b", "c", "d")
		return (&wsproxy.Sticky{Pool: pool}).Handler(benchBare)
	}},
	{"sticky-cookie", func(t testing.TB) http.Handler {
		pool, _ := shards(t, "a", "b", "c", "d")
		return (&wsproxy.Sticky{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}).Handler(benchBare)
	}},
}

// BenchmarkStickyHandler measures what a Sticky adds to a handler that costs almost nothing, for a
// request of a bound session. Compare the CPU time of the kinds.
func BenchmarkStickyHandler(b *testing.B) {
	for _, kind := range benchSticky {
		b.Run("kind="+kind.name, func(b *testing.B) {
			h, w, r := kind.make(b), &benchWriter{make(http.Header)}, benchServed(b)
			b.ReportAllocs()
			n, before := 0, cputest.Used(b)
			for b.Loop() {
				h.ServeHTTP(w, r)
				clear(w.header)
				n++
			}
			b.ReportMetric(float64(cputest.Used(b)-before)/float64(n), "cpu-ns/op")
		})
	}
}

// ofPolicy is how often the policy allocates for a request of a bound session, in a Proxy as well: it
// opens a value and removes the cookie from the line.
const ofPolicy = 4

// What a request of a bound session allocates over a bare handler does not grow.
func TestSticky_Allocations(t *testing.T) {
	allocs := make(map[string]float64)
	for _, kind := range benchSticky {
		h, w, r := kind.make(t), &benchWriter{make(http.Header)}, httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Cookie", bound(t, "a")[len("Cookie: "):])
		allocs[kind.name] = testing.AllocsPerRun(100, func() {
			h.ServeHTTP(w, r)
			clear(w.header)
		})
	}
	require.LessOrEqual(t, allocs["sticky"], allocs["bare"]+1, "the visit")
	require.LessOrEqual(t, allocs["sticky-cookie"], allocs["bare"]+3+ofPolicy, "and two for the map of the header")
}
