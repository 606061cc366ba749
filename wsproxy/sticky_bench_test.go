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
// request of a bound session whose cookie is between two others. The metrics over-ns/op (CPU time)
// and over-allocs/op are the differences to kind=bare.
func BenchmarkStickyHandler(b *testing.B) {
	var bareTime, bareAllocs float64
	for _, kind := range benchSticky {
		b.Run("kind="+kind.name, func(b *testing.B) {
			h, w, r := kind.make(b), &benchWriter{make(http.Header)}, benchServed(b)
			serve := func() {
				h.ServeHTTP(w, r)
				clear(w.header)
			}
			allocs := testing.AllocsPerRun(100, serve)
			b.ReportAllocs()
			n, before := 0, cputest.Used(b)
			for b.Loop() {
				serve()
				n++
			}
			took := float64(cputest.Used(b)-before) / float64(n)
			b.ReportMetric(took, "cpu-ns/op")
			if kind.name == "bare" {
				bareTime, bareAllocs = took, allocs
				return
			}
			b.ReportMetric(took-bareTime, "over-ns/op")
			b.ReportMetric(allocs-bareAllocs, "over-allocs/op")
		})
	}
}

// What the allocations of a request of a bound session are for. None of them can be used again, as
// the handler may keep its request, context and writer.
const (
	ofVisit  = 1 // the visit, with the request, context and writer of the handler
	ofHeader = 2 // the map of the header, in which the policy changes the Cookie lines
	ofValue  = 1 // the target's ID in the opened value
	ofLines  = 2 // the new slice of lines, and a line whose rest is not in one piece; 0 if no cookie is left
)

// What a request of a bound session allocates over a bare handler does not grow.
func TestSticky_Allocations(t *testing.T) {
	own := bound(t, "a")[len("Cookie: "):]
	allocate := func(make func(testing.TB) http.Handler, line string) float64 {
		h, w, r := make(t), &benchWriter{http.Header{}}, httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Cookie", line)
		return testing.AllocsPerRun(100, func() {
			h.ServeHTTP(w, r)
			clear(w.header)
		})
	}
	bare, plain, cookie := benchSticky[0].make, benchSticky[1].make, benchSticky[2].make
	over := allocate(bare, own)
	require.LessOrEqual(t, allocate(plain, own), over+ofVisit)
	require.LessOrEqual(t, allocate(cookie, own), over+ofVisit+ofHeader+ofValue)
	require.LessOrEqual(t, allocate(cookie, own+"; theme=dark"), over+ofVisit+ofHeader+ofValue+ofLines-1)
	require.LessOrEqual(t, allocate(cookie, "a=b; "+own+"; theme=dark"), over+ofVisit+ofHeader+ofValue+ofLines)
}
