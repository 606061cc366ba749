package prometheus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/prometheus"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// registryOf returns a registry, which does not run, of a pool of that name.
func registryOf(t testing.TB, name string, targets ...balancer.Target) *health.Registry {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Name: name, Picker: balancer.First{}, Targets: targets})
	require.NoError(t, err)
	return &health.Registry{Pool: pool}
}

func collectorOf(t testing.TB, registries ...*health.Registry) *prometheus.Collector {
	t.Helper()
	c, err := prometheus.New(prometheus.Options{Registries: registries})
	require.NoError(t, err)
	return c
}

// The label distinguishes pools, both with one collector for all and with one for each. One of the
// pools may have no name.
func TestCollector_SeveralPools(t *testing.T) {
	shop, chat, plain := registryOf(t, "shop", target("a", "z")), registryOf(t, "chat", target("a", "z")), registryOf(t, "", target("a", "z"))
	want := map[string]float64{"pool=shop,target=a,zone=z": 1, "pool=chat,target=a,zone=z": 0, "target=a,zone=z": 0}
	lease, err := shop.Pool.Acquire(t.Context(), &balancer.Request{})
	require.NoError(t, err)
	defer lease.Release(balancer.Outcome{})

	require.Equal(t, want, values(scrape(t, collectorOf(t, shop, chat, plain))["stickylb_target_in_flight"]))
	each := prom.NewPedanticRegistry()
	for _, r := range []*health.Registry{shop, chat, plain} {
		require.NoError(t, each.Register(collectorOf(t, r)))
	}
	require.Equal(t, want, values(scrape(t, each)["stickylb_target_in_flight"]))

	for _, r := range []*health.Registry{registryOf(t, "shop"), registryOf(t, "")} {
		err := each.Register(collectorOf(t, r))
		require.ErrorAs(t, err, &prom.AlreadyRegisteredError{}, "an error, and no panic")
	}
	require.Equal(t, want, values(scrape(t, each)["stickylb_target_in_flight"]), "the refused ones have left nothing")
}

// A process with twenty pools has one collector. It passes the linter, and has twenty times the
// series of one pool.
func TestCollector_TwentyPools(t *testing.T) {
	var registries []*health.Registry
	for i := range 20 {
		registries = append(registries, registryOf(t, fmt.Sprint("pool-", i), target("a", "z"), target("b", "")))
	}
	c := collectorOf(t, registries...)
	defer c.Observe()()
	for i, r := range registries {
		c.Trace(r.Pool)
		for range i {
			lease, err := r.Pool.Acquire(t.Context(), &balancer.Request{})
			require.NoError(t, err)
			lease.Release(balancer.Outcome{Status: 200, Latency: time.Millisecond})
		}
	}
	f := scrape(t, c)
	for _, m := range f["stickylb_request_latency_seconds"].GetMetric() {
		var i int
		_, err := fmt.Sscanf(m.GetLabel()[1].GetValue(), "pool-%d", &i)
		require.NoError(t, err)
		require.EqualValues(t, i, m.GetHistogram().GetSampleCount())
	}
	single := registryOf(t, "shop", target("a", "z"), target("b", ""))
	one := collectorOf(t, single)
	one.Trace(single.Pool)
	require.Equal(t, 20*testutil.CollectAndCount(one), testutil.CollectAndCount(c))
	reg := prom.NewPedanticRegistry()
	require.NoError(t, reg.Register(c))
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// Targets come and go, are drained and used while the metrics are read.
func TestCollector_TargetsChangeWhileScraped(t *testing.T) {
	r := registryOf(t, "shop", target("t0", ""))
	r.Interval = -1
	c := collectorOf(t, r)
	defer c.Observe()()
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Go(func() { r.Run(ctx) })
	busy.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if err := r.Pool.Update(target(fmt.Sprint("t", i%7), "z"), target(fmt.Sprint("t", i%5+7), "")); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		busy.Go(func() {
			for ctx.Err() == nil {
				lease, err := r.Pool.Acquire(ctx, &balancer.Request{})
				if err != nil {
					t.Error(err)
					return
				}
				lease.Release(balancer.Outcome{Status: 200, Latency: time.Millisecond})
			}
		})
	}
	for range 50 {
		f := scrape(t, c)
		require.Len(t, values(f["stickylb_target_serving"]), len(values(f["stickylb_target_in_flight"])))
		require.LessOrEqual(t, len(values(f["stickylb_target_serving"])), 2)
	}
	cancel()
	busy.Wait()
}

func TestCollector_RefusedEjections(t *testing.T) {
	pool, c := watched(t, prometheus.Options{}, target("a", ""), target("b", ""))
	for range 5 {
		for _, id := range []string{"a", "b"} {
			l, err := pool.AcquireBound(t.Context(), id, &balancer.Request{})
			if errors.Is(err, balancer.ErrEjected) {
				continue
			}
			require.NoError(t, err)
			l.Release(balancer.Outcome{Class: balancer.ConnectFailed})
		}
	}
	f := scrape(t, c)
	require.Equal(t, map[string]float64{"target=a,zone=": 1, "target=b,zone=": 0}, values(f["stickylb_target_ejections_total"]))
	require.Equal(t, map[string]float64{"target=a,zone=": 0, "target=b,zone=": 1}, values(f["stickylb_target_ejections_refused_total"]))
}

// Each end of a wait is a series of its own.
func TestCollector_Waits(t *testing.T) {
	tgt := target("a", "")
	tgt.MaxRequests = 1
	pool, err := balancer.New(balancer.Config{Name: "shop", Targets: []balancer.Target{tgt}, Queue: 10})
	require.NoError(t, err)
	c := collectorOf(t, &health.Registry{Pool: pool})
	defer c.Observe()()
	held, err := pool.Acquire(t.Context(), &balancer.Request{})
	require.NoError(t, err)
	waiting := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			l, err := pool.AcquireBound(ctx, "a", &balancer.Request{})
			l.Release(balancer.Outcome{})
			done <- err
		}()
		require.Eventually(t, func() bool { return pool.Waiting() == 1 }, time.Minute, time.Millisecond)
		return done
	}
	done := waiting(t.Context())
	require.Equal(t, map[string]float64{"pool=shop": 1}, values(scrape(t, c)["stickylb_queue_waiting"]))
	held.Release(balancer.Outcome{})
	require.NoError(t, <-done)

	held, err = pool.Acquire(t.Context(), &balancer.Request{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done = waiting(ctx)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	done = waiting(t.Context())
	pool.Members()[0].SetAdmin(balancer.Down)
	require.ErrorIs(t, <-done, balancer.ErrDown)
	held.Release(balancer.Outcome{})

	f := scrape(t, c)
	got := map[string]uint64{}
	for _, m := range f["stickylb_queue_wait_seconds"].GetMetric() {
		got[m.GetLabel()[1].GetValue()] = m.GetHistogram().GetSampleCount()
		require.Equal(t, "shop", m.GetLabel()[0].GetValue())
		require.Positive(t, m.GetHistogram().GetSampleSum())
	}
	require.Equal(t, map[string]uint64{"served": 1, "client gone": 1, "refused": 1}, got)
	require.Equal(t, map[string]float64{"pool=shop": 0}, values(f["stickylb_queue_waiting"]))
}

// The Trace of a proxy counts what the policy found and did, retries and failures.
func TestCollector_Trace(t *testing.T) {
	shop := registryOf(t, "shop", target("dead", ""), target("live", ""))
	c := collectorOf(t, shop, registryOf(t, "other"))
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(t, err)
	p := &wsproxy.Proxy{Pool: shop.Pool, Policy: policy, Trace: c.Trace(shop.Pool),
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/broken" || r.Host == "dead" {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}),
		Target: func(out *http.Request, m *balancer.Member) { out.Host = m.ID() },
	}
	defer p.Close()
	ask := func(path, cookie string) *http.Response {
		r := httptest.NewRequest("GET", path, nil)
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		return w.Result()
	}
	res := ask("/", "")
	require.Equal(t, 200, res.StatusCode)
	ask("/", res.Cookies()[0].Name+"="+res.Cookies()[0].Value)
	ask("/", res.Cookies()[0].Name+"=forged")
	require.Equal(t, 502, ask("/broken", "").StatusCode)

	f := scrape(t, c)
	require.Equal(t, map[string]float64{"class=dial,pool=shop": 1}, values(f["stickylb_request_failures_total"]))
	require.Equal(t, map[string]float64{"class=dial,pool=shop": 3}, values(f["stickylb_request_retries_total"]))
	candidates := values(f["stickylb_policy_candidates_total"])
	require.Len(t, candidates, 10, "every reason from the start, and none")
	require.Equal(t, 1., candidates["pool=shop,reason=usable"])
	require.Equal(t, 1., candidates["pool=shop,reason=malformed"])
	require.Equal(t, 2., candidates["pool=shop,reason=none"])
	require.Equal(t, map[string]float64{"pool=shop,result=bound": 2, "pool=shop,result=kept": 1, "pool=shop,result=renewed": 0,
		"pool=shop,result=freed": 0, "pool=shop,result=ignored": 0, "pool=shop,result=failed": 0}, values(f["stickylb_policy_bindings_total"]))

	require.Same(t, c.Trace(shop.Pool), c.Trace(shop.Pool), "several proxies may share a pool")
	require.PanicsWithValue(t, "prometheus: Trace of a pool that none of Options.Registries has", func() { c.Trace(registryOf(t, "shop").Pool) })
}

// The LearnTrace says how long the store of a policy took, and what it said.
func TestCollector_LearnTrace(t *testing.T) {
	shop := registryOf(t, "shop")
	c := collectorOf(t, shop, registryOf(t, "other"))
	trace := c.LearnTrace(shop.Pool)
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

	got := map[string]uint64{}
	for _, m := range scrape(t, c)["stickylb_session_store_seconds"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		require.Equal(t, "shop", labels["pool"])
		got[labels["call"]+" "+labels["result"]] = m.GetHistogram().GetSampleCount()
	}
	require.Equal(t, map[string]uint64{"find asked": 2, "find copied": 1, "find remembered": 1, "find none": 1, "find failed": 1,
		"bind bound": 1, "bind failed": 1}, got)
	require.PanicsWithValue(t, "prometheus: LearnTrace of a pool that none of Options.Registries has", func() { c.LearnTrace(registryOf(t, "shop").Pool) })
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The StreamTrace counts a connection only for the pool that the server has chosen.
func TestCollector_StreamTrace(t *testing.T) {
	c := collectorOf(t, registryOf(t, "mail"), registryOf(t, ""))
	trace := c.StreamTrace()
	dial := &stream.Error{Class: stream.ClassDial, Pool: "mail", Target: "a", Attempt: 1, Err: errors.New("refused")}
	trace.Retry(stream.Client{}, dial)
	trace.Done(stream.Record{Pool: "mail", Target: "b", Attempts: 2, Duration: 90 * time.Second, EndedBy: "idle"})
	trace.Done(stream.Record{Pool: "mail", Target: "a", Attempts: 1, Err: dial})
	trace.Done(stream.Record{Err: &stream.Error{Class: stream.ClassHandshake, Err: errors.New("no TLS")}})
	trace.Done(stream.Record{Pool: "unknown", Duration: time.Second, EndedBy: "idle"})

	f := scrape(t, c)
	require.Equal(t, map[string]float64{"class=dial,pool=mail": 1}, values(f["stickylb_request_retries_total"]))
	require.Equal(t, map[string]float64{"class=dial,pool=mail": 1, "class=handshake": 1}, values(f["stickylb_request_failures_total"]))
	require.Equal(t, map[string]float64{"ended_by=idle,pool=mail": 1}, values(f["stickylb_tunnel_ends_total"]))
	h := f["stickylb_tunnel_duration_seconds"].GetMetric()[1]
	require.Equal(t, "mail", h.GetLabel()[0].GetValue())
	require.EqualValues(t, 1, h.GetHistogram().GetSampleCount())
	require.InDelta(t, 90, h.GetHistogram().GetSampleSum(), 1e-9)
}

// request returns a function that leases a member and calls the hooks of trace as one request does.
func request(trace *wsproxy.Trace, pool *balancer.Pool) func() {
	r := httptest.NewRequest("GET", "/", nil)
	found := []stickiness.Candidate{{Target: "a"}}
	b := &stickiness.Binding{Request: r, Result: stickiness.Bound}
	rec := wsproxy.Record{Pool: pool.Name(), Client: netip.MustParseAddr("192.0.2.1"), Target: "a", Attempts: 1, Status: 200}
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
func TestCollector_HooksAllocateNothing(t *testing.T) {
	r := registryOf(t, "shop", target("a", ""))
	c := collectorOf(t, r)
	defer c.Observe()()
	require.Zero(t, testing.AllocsPerRun(100, request(c.Trace(r.Pool), r.Pool)))
}

// This measures all hooks of a request together. With observed=false the same request has hooks
// that do nothing, and nobody observes the pool.
func BenchmarkCollectorRequest(b *testing.B) {
	for _, observed := range []bool{false, true} {
		b.Run(fmt.Sprint("observed=", observed), func(b *testing.B) {
			r := registryOf(b, "shop", target("a", ""))
			trace := &wsproxy.Trace{
				Lookup: func(*http.Request, []stickiness.Candidate) {},
				Bind:   func(*http.Request, *stickiness.Binding) {},
				Done:   func(*http.Request, wsproxy.Record) {},
			}
			if observed {
				c := collectorOf(b, r)
				defer c.Observe()()
				trace = c.Trace(r.Pool)
			}
			do := request(trace, r.Pool)
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

// A program with two pools has one collector, and a label that distinguishes the pools.
func Example() {
	at := func(port string) []balancer.Target {
		return []balancer.Target{{ID: "app-1", URL: &url.URL{Scheme: "http", Host: "127.0.0.1:" + port}}}
	}
	shop, err := balancer.New(balancer.Config{Name: "shop", Targets: at("8001")})
	if err != nil {
		fmt.Println(err)
		return
	}
	chat, err := balancer.New(balancer.Config{Name: "chat", Targets: at("8002")})
	if err != nil {
		fmt.Println(err)
		return
	}
	collector, err := prometheus.New(prometheus.Options{Registries: []*health.Registry{{Pool: shop}, {Pool: chat}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	metrics := prom.NewRegistry()
	metrics.MustRegister(collector)
	defer collector.Observe()()

	mux := http.NewServeMux()
	mux.Handle("shop.example/", &wsproxy.Proxy{Pool: shop, Trace: collector.Trace(shop)})
	mux.Handle("chat.example/", &wsproxy.Proxy{Pool: chat, Trace: collector.Trace(chat)})
	mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "stickylb_target_serving{") {
			fmt.Print(line)
		}
	}
	// Output:
	// stickylb_target_serving{pool="chat",target="app-1",zone=""} 1
	// stickylb_target_serving{pool="shop",target="app-1",zone=""} 1
}
