package otel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/otel"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// registries returns registries, which do not run, of pools of these names. Each has two targets.
func registries(t testing.TB, names ...string) (all []*health.Registry) {
	t.Helper()
	for _, name := range names {
		pool, err := balancer.New(balancer.Config{Name: name, Picker: balancer.First{}, Targets: []balancer.Target{target("a", ""), target("b", "z")}})
		require.NoError(t, err)
		all = append(all, &health.Registry{Pool: pool})
	}
	return all
}

func registered(t testing.TB, all ...*health.Registry) (*otel.Metrics, *metric.ManualReader) {
	t.Helper()
	reader := metric.NewManualReader()
	m, err := otel.Register(otel.Options{Registries: all, Meter: metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")})
	require.NoError(t, err)
	t.Cleanup(m.Observe())
	return m, reader
}

// Metrics of many pools have the pool as an attribute. A pool without a name has none.
func TestMetrics_TwentyPools(t *testing.T) {
	names := []string{""}
	for i := 1; i < 20; i++ {
		names = append(names, fmt.Sprint("pool-", i))
	}
	all := registries(t, names...)
	_, reader := registered(t, all...)
	for i, r := range all {
		for range i {
			lease, err := r.Pool.Acquire(t.Context(), &balancer.Request{})
			require.NoError(t, err)
			lease.Release(balancer.Outcome{Status: 200, Latency: time.Millisecond})
		}
	}
	got, _ := read(t, reader)
	require.Contains(t, got, "stickylb.target.serving{target=a,zone=,}")
	for i := 1; i < 20; i++ {
		require.Equal(t, 2., got[fmt.Sprintf("stickylb.registry.serving{pool=pool-%d,}", i)])
		require.Equal(t, float64(i), got[fmt.Sprintf("stickylb.request.latency{class=ok,pool=pool-%d,}.count", i)])
		require.Contains(t, got, fmt.Sprintf("stickylb.queue.waiting{pool=pool-%d,}", i))
	}
}

// Names are lower case, dotted and in the library's namespace; units are of UCUM, as the semantic
// conventions have them: seconds, ratios, and things in braces.
func TestMetrics_NamesAndUnits(t *testing.T) {
	all := registries(t, "shop")
	m, reader := registered(t, all...)
	trace := m.StreamTrace()
	trace.Done(stream.Record{Pool: "shop", Duration: time.Second, EndedBy: "idle"})
	var data metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &data))
	seen := 0
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			seen++
			require.Regexp(t, `^stickylb(\.[a-z][a-z_]*)+$`, m.Name)
			require.Regexp(t, `^(s|1|\{[a-z]+\})$`, m.Unit, m.Name)
			require.NotEmpty(t, m.Description, m.Name)
			_, gauge := m.Data.(metricdata.Gauge[float64])
			_, histogram := m.Data.(metricdata.Histogram[float64])
			require.Equal(t, gauge || histogram, m.Unit == "s" || m.Unit == "1", m.Name)
		}
	}
	require.Greater(t, seen, 15)
}

// Targets come and go while the metrics are read.
func TestMetrics_TargetsChangeWhileRead(t *testing.T) {
	r := registries(t, "shop")[0]
	_, reader := registered(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := r.Pool.Update(target(fmt.Sprint("t", i%7), "z"), target(fmt.Sprint("t", i%5+7), "")); err != nil {
				t.Error(err)
			}
		}
	})
	busy.Go(func() {
		for ctx.Err() == nil {
			if lease, err := r.Pool.Acquire(ctx, &balancer.Request{}); err == nil {
				lease.Release(balancer.Outcome{Status: 200, Latency: time.Millisecond})
			}
		}
	})
	for range 50 {
		got, _ := read(t, reader)
		serving := 0
		for name := range got {
			if strings.HasPrefix(name, "stickylb.target.serving{") {
				serving++
			}
		}
		require.Equal(t, 2, serving)
	}
	cancel()
	busy.Wait()
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The traces of a proxy and of a stream server fill the metrics.
func TestMetrics_Traces(t *testing.T) {
	all := registries(t, "shop", "mail")
	m, reader := registered(t, all...)
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(t, err)
	p := &wsproxy.Proxy{Pool: all[0].Pool, Policy: policy, Trace: m.Trace(all[0].Pool),
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/broken" {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}),
	}
	defer p.Close()
	for _, path := range []string{"/", "/broken"} {
		p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}
	p.Trace.Tunnel(wsproxy.TunnelRecord{Open: time.Minute, EndedBy: "client closed"})
	trace := m.StreamTrace()
	dial := &stream.Error{Class: stream.ClassDial, Pool: "mail", Err: errors.New("refused")}
	trace.Retry(stream.Client{}, dial)
	trace.Done(stream.Record{Pool: "mail", Duration: time.Second, EndedBy: "idle"})
	trace.Done(stream.Record{Pool: "mail", Err: dial})
	trace.Done(stream.Record{Pool: "unknown", Err: dial})

	got, _ := read(t, reader)
	for name, want := range map[string]float64{
		"stickylb.policy.candidates{pool=shop,reason=none,}":           2,
		"stickylb.policy.bindings{pool=shop,result=bound,}":            1,
		"stickylb.request.retries{class=dial,pool=shop,}":              1,
		"stickylb.request.failures{class=dial,pool=shop,}":             1,
		"stickylb.tunnel.ends{ended_by=client closed,pool=shop,}":      1,
		"stickylb.tunnel.duration{pool=shop,}.count":                   1,
		"stickylb.request.retries{class=dial,pool=mail,}":              1,
		"stickylb.request.failures{class=dial,pool=mail,}":             1,
		"stickylb.tunnel.ends{ended_by=idle,pool=mail,}":               1,
		"stickylb.target.ejections.refused{pool=shop,target=a,zone=,}": 0,
	} {
		require.Contains(t, got, name)
		require.Equal(t, want, got[name], name)
	}
	require.PanicsWithValue(t, "otel: Trace of a pool that none of Options.Registries has", func() { m.Trace(registries(t, "shop")[0].Pool) })
}

// The LearnTrace says how long the store of a policy took, and what it said. A lookup allocates
// nothing in it.
func TestMetrics_LearnTrace(t *testing.T) {
	all := registries(t, "shop", "other")
	m, reader := registered(t, all...)
	trace := m.LearnTrace(all[0].Pool)
	policy, err := stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Header: "Session", Trace: trace})
	require.NoError(t, err)
	r := httptest.NewRequest("GET", "/", nil)
	policy.Bind(&stickiness.Binding{Request: r, Header: http.Header{"Session": {"a"}}, Target: "app-1"})
	for _, id := range []string{"a", "a", "b"} {
		r.Header.Set("Session", id)
		policy.Lookup(r, nil)
	}
	trace.Find(stickiness.Copied, true, nil, time.Second)
	trace.Find(stickiness.Remembered, true, nil, 0)
	trace.Find(stickiness.Asked, false, errors.New("down"), 0)
	trace.Bind(errors.New("down"), 0)

	values, _ := read(t, reader)
	got := map[string]float64{}
	for name, value := range values {
		if rest, ok := strings.CutPrefix(name, "stickylb.session.store{"); ok {
			got[rest] = value
		}
	}
	require.Equal(t, map[string]float64{
		"call=find,pool=shop,result=asked,}.count":      2,
		"call=find,pool=shop,result=copied,}.count":     1,
		"call=find,pool=shop,result=remembered,}.count": 1,
		"call=find,pool=shop,result=none,}.count":       1,
		"call=find,pool=shop,result=failed,}.count":     1,
		"call=bind,pool=shop,result=bound,}.count":      1,
		"call=bind,pool=shop,result=failed,}.count":     1,
	}, got)
	require.PanicsWithValue(t, "otel: LearnTrace of a pool that none of Options.Registries has", func() { m.LearnTrace(registries(t, "shop")[0].Pool) })
	require.Zero(t, testing.AllocsPerRun(100, func() { trace.Find(stickiness.Copied, true, nil, time.Second) }))
}

// Each end of a wait has an attribute of its own.
func TestMetrics_Waits(t *testing.T) {
	tgt := target("a", "")
	tgt.MaxRequests = 1
	pool, err := balancer.New(balancer.Config{Name: "shop", Targets: []balancer.Target{tgt}, Queue: 1, QueueTimeout: time.Millisecond})
	require.NoError(t, err)
	_, reader := registered(t, &health.Registry{Pool: pool})
	held, err := pool.Acquire(t.Context(), &balancer.Request{})
	require.NoError(t, err)
	defer held.Release(balancer.Outcome{})
	_, err = pool.Acquire(t.Context(), &balancer.Request{})
	require.ErrorIs(t, err, balancer.ErrFull)
	got, _ := read(t, reader)
	require.Equal(t, 1., got["stickylb.queue.wait{pool=shop,result=timeout,}.count"], got)
}

// request is what the hooks are told of one request.
func request(m *otel.Metrics, pool *balancer.Pool) func() {
	trace := m.Trace(pool)
	r := httptest.NewRequest("GET", "/", nil)
	found := []stickiness.Candidate{{Target: "a"}}
	b := &stickiness.Binding{Request: r, Result: stickiness.Bound}
	rec := wsproxy.Record{Pool: pool.Name(), Target: "a", Attempts: 1, Status: 200}
	q, ctx := &balancer.Request{}, context.Background()
	return func() {
		trace.Lookup(r, found)
		lease, _ := pool.AcquireBound(ctx, "a", q)
		trace.Bind(r, b)
		lease.Release(balancer.Outcome{Status: 200, Latency: time.Millisecond})
		trace.Done(r, rec)
	}
}

// The hooks that every request calls allocate nothing.
func TestMetrics_HooksAllocateNothing(t *testing.T) {
	r := registries(t, "shop")[0]
	m, _ := registered(t, r)
	require.Zero(t, testing.AllocsPerRun(100, request(m, r.Pool)))
}

// This measures all hooks of a request together.
func BenchmarkMetricsRequest(b *testing.B) {
	r := registries(b, "shop")[0]
	m, _ := registered(b, r)
	do := request(m, r.Pool)
	b.ReportAllocs()
	for b.Loop() {
		do()
	}
}
