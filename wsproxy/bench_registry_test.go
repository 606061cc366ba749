package wsproxy_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
)

// BenchmarkProxyRegistry compares, side by side, the CPU time of small requests over loopback
// through a proxy whose pool a registry watches with that of the same requests through one whose
// pool nobody watches. ratio is the median of many pairs of runs: 1.01 means that what the registry
// learns and records costs one per cent. An op is one pair.
func BenchmarkProxyRegistry(b *testing.B) {
	const requests = 100 // of a run
	client := func(pool *balancer.Pool) *benchClient {
		p := &wsproxy.Proxy{Pool: pool}
		b.Cleanup(func() { p.Shutdown(context.Background()) })
		return newBenchClient(b, serve(b, p).Listener.Addr().String())
	}
	alone := benchPool(b, rawBackend(b, "a", benchBackend))
	pool := benchPool(b, rawBackend(b, "a", benchBackend))
	r := &health.Registry{Pool: pool, Interval: -1}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		require.NoError(b, <-done)
	})
	require.NoError(b, r.Ready(b.Context()))
	clients := [2]*benchClient{client(alone), client(pool)}
	run := func(c *benchClient) time.Duration {
		before := cputest.Used(b)
		for range requests {
			c.ask()
		}
		return cputest.Used(b) - before
	}
	for _, c := range clients {
		run(c)
	}
	var ratios, watched []float64
	for b.Loop() {
		first := len(ratios) % 2 // neither is always the first
		var took [2]time.Duration
		took[first] = run(clients[first])
		took[1-first] = run(clients[1-first])
		ratios = append(ratios, float64(took[1])/float64(took[0]))
		watched = append(watched, float64(took[1])/requests)
	}
	require.Positive(b, r.Status().Total.Requests)
	slices.Sort(ratios)
	slices.Sort(watched)
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(watched[len(watched)/2], "cpu-ns/request")
}
