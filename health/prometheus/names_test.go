package prometheus_test

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"testing"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/prometheus"
)

// With any names of pools, targets and zones, each has its own series, and a scrape is valid.
func TestCollector_HostileNames(t *testing.T) {
	pools := []string{`"`, `\`, `a"} 1`, `{}`, `\xff`, "ü", " "}
	labels := map[string]string{ // by ID
		"line\nbreak": "line\nbreak", "\r\n\x00": "\r\n\x00", `a",pool="b`: `a",pool="b`, "a\"} 1\nup 1 #": "a\"} 1\nup 1 #",
		`\n`: `\n`, "ü\u2028": "ü\u2028", " ": " ",
		"\xff": `"\xff"`, "\xfe": `"\xfe"`, `\xff`: `\xff`, "a\xc3": `"a\xc3"`, "\xed\xa0\x80": `"\xed\xa0\x80"`, "\ufffd": "\ufffd",
		`"\xff"`: `"\"\\xff\""`, `"`: `"\""`, `"\"\\xff\""`: `"\"\\\"\\\\xff\\\"\""`,
	}
	var targets []balancer.Target
	want := map[string]float64{}
	for id, label := range labels {
		targets = append(targets, target(id, id))
		for _, pool := range pools {
			want["pool="+pool+",target="+label+",zone="+label] = 1
		}
	}
	var registries []*health.Registry
	for _, name := range pools {
		r := registryOf(t, name, targets...)
		registries = append(registries, r)
		for id := range labels {
			lease, err := r.Pool.AcquireBound(t.Context(), id, &balancer.Request{})
			require.NoError(t, err)
			t.Cleanup(func() { lease.Release(balancer.Outcome{}) })
		}
	}
	c := collectorOf(t, registries...)
	f := scrape(t, c)
	require.Equal(t, want, values(f["stickylb_target_in_flight"]))
	require.Len(t, values(f["stickylb_zone_targets"]), len(want))
	require.NotContains(t, f, "up")

	for _, r := range registries {
		require.NoError(t, r.Pool.Update())
	}
	f = scrape(t, c)
	require.Equal(t, want, values(f["stickylb_target_leaving_in_flight"]))
	require.NotContains(t, f, "stickylb_target_in_flight")
}

// exposition returns a function that scrapes c.
func exposition(t testing.TB, c prom.Collector) func() []byte {
	t.Helper()
	reg := prom.NewRegistry()
	require.NoError(t, reg.Register(c))
	h := promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
	return func() []byte {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		require.Equal(t, 200, w.Code)
		return w.Body.Bytes()
	}
}

// large returns registries of 20 pools with that many targets each.
func large(t testing.TB, targets int) (registries []*health.Registry) {
	t.Helper()
	for i := range 20 {
		var all []balancer.Target
		for j := range targets {
			all = append(all, target(fmt.Sprintf("app-%d.shop-%d.example:8080", j, i), fmt.Sprint("zone-", j%3)))
		}
		registries = append(registries, registryOf(t, fmt.Sprint("shop-", i), all...))
	}
	return registries
}

// A target has as many series in a large process as in a small one, and those beyond MaxTargets
// have none. BenchmarkCollectorCollect has more targets.
func TestCollector_SizeOfAScrape(t *testing.T) {
	c, err := prometheus.New(prometheus.Options{Registries: large(t, 60), MaxTargets: 50})
	require.NoError(t, err)
	text := exposition(t, c)()
	require.Equal(t, 20*50, bytes.Count(text, []byte("\nstickylb_target_in_flight{")))
	require.NotContains(t, string(text), "app-50.")
	require.Less(t, bytes.Count(text, []byte("\nstickylb_")), 20*(50*13+50), "series")
	require.Less(t, len(text), 20*50*2000, "2 kB a target")
}

// This measures a scrape of 20 pools with different numbers of targets.
func BenchmarkCollectorCollect(b *testing.B) {
	for _, n := range []int{5, 500} {
		b.Run(fmt.Sprint("pools=20/targets=", n), func(b *testing.B) {
			scrape := exposition(b, collectorOf(b, large(b, n)...))
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				size = len(scrape())
			}
			b.ReportMetric(float64(size), "bytes/scrape")
		})
	}
}
