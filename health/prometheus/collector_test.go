package prometheus_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/prometheus"
)

func target(id, zone string) balancer.Target {
	return balancer.Target{ID: id, Zone: zone, URL: &url.URL{Scheme: "http", Host: "a.invalid"}}
}

// watched returns a pool and a collector of its registry. The registry runs until the test ends,
// and finds the target "sick" unhealthy. It checks each target once.
func watched(t *testing.T, o prometheus.Options, targets ...balancer.Target) (*balancer.Pool, *prometheus.Collector) {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: targets, Panic: balancer.PanicOpen, PanicThreshold: 100})
	require.NoError(t, err)
	registry := &health.Registry{Pool: pool, Interval: time.Hour, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
		if tg.ID == "sick" {
			return errors.New("sick")
		}
		return nil
	})}
	o.Registries = []*health.Registry{registry}
	c, err := prometheus.New(o)
	require.NoError(t, err)
	t.Cleanup(c.Observe())

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- registry.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	require.NoError(t, registry.Ready(t.Context()))
	return pool, c
}

// scrape asks for the metrics over HTTP and reads them with Prometheus' own parser.
func scrape(t *testing.T, c prom.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	reg := prom.NewPedanticRegistry()
	require.NoError(t, reg.Register(c))
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, w.Code, w.Body)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(w.Body)
	require.NoError(t, err)
	return families
}

// values returns the metrics of a family, by their labels in the form "label=value,...". As in
// Prometheus, a pool without a name has no label.
func values(f *dto.MetricFamily) map[string]float64 {
	all := map[string]float64{}
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			if l.GetName() != "pool" || l.GetValue() != "" {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
		}
		all[strings.Join(labels, ",")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return all
}

func use(t *testing.T, pool *balancer.Pool, id string, tunnel bool, outcomes ...balancer.Outcome) (held balancer.Lease) {
	t.Helper()
	for _, o := range outcomes {
		lease, err := pool.AcquireBound(t.Context(), id, &balancer.Request{})
		require.NoError(t, err)
		lease.Release(o)
	}
	held, err := pool.AcquireBound(t.Context(), id, &balancer.Request{Tunnel: tunnel})
	require.NoError(t, err)
	return held
}

func TestCollector_B6_Reserved(t *testing.T) {
	pool, c := watched(t, prometheus.Options{}, target("app", "north"))
	app, _ := pool.Member("app")
	app.SetHealth(balancer.Reserved)
	f := scrape(t, c)
	require.Equal(t, 1., values(f["stickylb_targets"])["admin=ready,health=reserved"])
	require.Equal(t, map[string]float64{"admin=ready,health=reserved,target=app,zone=north": 1}, values(f["stickylb_target_state"]))
	require.Equal(t, map[string]float64{"target=app,zone=north": 0}, values(f["stickylb_target_serving"]))
	require.Equal(t, map[string]float64{"zone=north": 0}, values(f["stickylb_zone_targets_serving"]))
}

func TestCollector_S25_Share(t *testing.T) {
	pool, c := watched(t, prometheus.Options{}, target("app", "north"), target("new", ""))
	app, _ := pool.Member("app")
	require.NoError(t, app.SetShare(0.75))
	require.Equal(t, map[string]float64{"target=app,zone=north": 0.75, "target=new,zone=": 1},
		values(scrape(t, c)["stickylb_target_share_ratio"]))
	require.NoError(t, app.SetShare(0))
	require.Equal(t, map[string]float64{"target=app,zone=north": 0, "target=new,zone=": 1},
		values(scrape(t, c)["stickylb_target_share_ratio"]))
}

func TestCollector_Scrape(t *testing.T) {
	pool, c := watched(t, prometheus.Options{Buckets: []float64{0.1, 1}}, target("app", "north"), target("sick", "south"), target("old", ""))
	lease := use(t, pool, "app", true,
		balancer.Outcome{Status: 200, Latency: 50 * time.Millisecond}, balancer.Outcome{Status: 204, Latency: 500 * time.Millisecond},
		balancer.Outcome{Status: 500, Latency: 2 * time.Second}, balancer.Outcome{Class: balancer.ConnectFailed},
		balancer.Outcome{Class: balancer.HeaderFailed, Latency: time.Minute})
	defer lease.Release(balancer.Outcome{})
	old, _ := pool.Member("old")
	old.SetAdmin(balancer.Draining)
	old.Eject(time.Now().Add(time.Hour))

	f := scrape(t, c)
	require.Equal(t, map[string]float64{"": 1}, values(f["stickylb_registry_running"]))
	require.Equal(t, map[string]float64{"": 1}, values(f["stickylb_targets_serving"]))
	require.Equal(t, map[string]float64{"": 1}, values(f["stickylb_targets_ejected"]))
	require.Equal(t, map[string]float64{"mode=open": 1, "mode=closed": 0}, values(f["stickylb_panic"]))
	states := values(f["stickylb_targets"])
	require.Len(t, states, 16, "every combination, so that none is missing when it comes to an alert")
	require.Equal(t, 1., states["admin=ready,health=healthy"])
	require.Equal(t, 1., states["admin=ready,health=unhealthy"])
	require.Equal(t, 1., states["admin=draining,health=healthy"])
	require.Equal(t, map[string]float64{"zone=north": 1, "zone=south": 1}, values(f["stickylb_zone_targets"]))
	require.Equal(t, map[string]float64{"zone=north": 1, "zone=south": 0}, values(f["stickylb_zone_targets_serving"]))
	require.Equal(t, map[string]float64{
		"admin=ready,health=healthy,target=app,zone=north": 1, "admin=ready,health=unhealthy,target=sick,zone=south": 1,
		"admin=draining,health=healthy,target=old,zone=": 1,
	}, values(f["stickylb_target_state"]))
	require.Equal(t, map[string]float64{"target=app,zone=north": 1, "target=sick,zone=south": 0, "target=old,zone=": 0}, values(f["stickylb_target_serving"]))
	require.Equal(t, map[string]float64{"target=app,zone=north": 0, "target=sick,zone=south": 0, "target=old,zone=": 1}, values(f["stickylb_target_ejected"]))
	require.Equal(t, 1., values(f["stickylb_target_in_flight"])["target=app,zone=north"])
	require.Equal(t, 1., values(f["stickylb_target_tunnels"])["target=app,zone=north"])
	require.Positive(t, values(f["stickylb_target_latency_seconds"])["target=app,zone=north"])
	require.Equal(t, 1., values(f["stickylb_target_checks_total"])["result=success,target=app,zone=north"])
	require.Equal(t, 0., values(f["stickylb_target_checks_total"])["result=failure,target=app,zone=north"])
	require.Equal(t, 1., values(f["stickylb_target_checks_total"])["result=failure,target=sick,zone=south"])
	require.Equal(t, map[string]float64{
		"class=ok,code=2xx,target=app,zone=north": 2, "class=ok,code=5xx,target=app,zone=north": 1,
		"class=connect failed,code=,target=app,zone=north": 1, "class=header failed,code=,target=app,zone=north": 1,
	}, values(f["stickylb_target_requests_total"]))
	require.Equal(t, dto.MetricType_COUNTER, f["stickylb_target_requests_total"].GetType())

	latency := f["stickylb_request_latency_seconds"].GetMetric()
	require.Len(t, latency, 2, "a class for what was answered, and one for a failure that took time")
	h := latency[1].GetHistogram()
	require.Equal(t, "ok", latency[1].GetLabel()[0].GetValue())
	require.Equal(t, uint64(1), latency[0].GetHistogram().GetSampleCount())
	require.Equal(t, uint64(3), h.GetSampleCount())
	require.InDelta(t, 2.55, h.GetSampleSum(), 1e-9)
	require.Equal(t, uint64(1), h.GetBucket()[0].GetCumulativeCount())

	problems, err := testutil.CollectAndLint(c)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// Each class of outcome is a label of its own, those included that count against nobody.
func TestCollector_Classes(t *testing.T) {
	pool, c := watched(t, prometheus.Options{}, target("app", ""))
	want := map[string]float64{}
	for class := balancer.OK; class <= balancer.Unjudged; class++ {
		lease := use(t, pool, "app", false, balancer.Outcome{Class: class})
		lease.Release(balancer.Outcome{Class: class})
		want["class="+class.String()+",code=,target=app,zone="] = 2
	}
	require.Len(t, want, 11)
	require.Equal(t, want, values(scrape(t, c)["stickylb_target_requests_total"]))
}

func TestCollector_Ejections(t *testing.T) {
	pool, c := watched(t, prometheus.Options{}, target("a", ""), target("b", ""))
	lease := use(t, pool, "b", false)
	for range 5 {
		l, err := pool.AcquireBound(t.Context(), "a", &balancer.Request{})
		require.NoError(t, err)
		l.Release(balancer.Outcome{Class: balancer.ConnectFailed})
	}
	lease.Release(balancer.Outcome{})
	require.Equal(t, map[string]float64{"target=a,zone=": 1, "target=b,zone=": 0}, values(scrape(t, c)["stickylb_target_ejections_total"]))
}

// For any number and names of targets that come and go, the number of series stays within its
// limit, and every scrape is valid.
func TestCollector_BoundedLabels(t *testing.T) {
	pool, c := watched(t, prometheus.Options{MaxTargets: 2}, target("a", "z1"), target("b", "z2"), target("c", "z3"))
	f := scrape(t, c)
	require.Equal(t, map[string]float64{"target=a,zone=z1": 1, "target=b,zone=z2": 1}, values(f["stickylb_target_serving"]))
	require.Len(t, values(f["stickylb_zone_targets"]), 2)
	require.Equal(t, map[string]float64{"": 3}, values(f["stickylb_targets_serving"]), "the totals have all")

	for i := range 100 {
		require.NoError(t, pool.Update(target(fmt.Sprint("t", i), "")))
	}
	require.Equal(t, map[string]float64{"target=t99,zone=": 0}, values(scrape(t, c)["stickylb_target_ejected"]))

	require.NoError(t, pool.Update(target("odd\n\"\\é", "")))
	require.Contains(t, values(scrape(t, c)["stickylb_target_ejected"]), "target=odd\n\"\\é,zone=")
	require.NoError(t, pool.Update(target("\xff", "\xff"), target("\xfe", "\xfe")))
	require.Equal(t, map[string]float64{`target="\xff",zone="\xff"`: 0, `target="\xfe",zone="\xfe"`: 0}, values(scrape(t, c)["stickylb_target_ejected"]))

	_, none := watched(t, prometheus.Options{MaxTargets: -1}, target("a", "z"))
	f = scrape(t, none)
	require.NotContains(t, f, "stickylb_target_serving")
	require.NotContains(t, f, "stickylb_zone_targets")
	require.Contains(t, f, "stickylb_targets_serving")
}

func TestNew_Refuses(t *testing.T) {
	of := func(name string) *health.Registry {
		pool, err := balancer.New(balancer.Config{Name: name})
		require.NoError(t, err)
		return &health.Registry{Pool: pool}
	}
	for name, tt := range map[string]struct {
		options prometheus.Options
		want    string
	}{
		"no registry":          {prometheus.Options{}, "prometheus: Options.Registries is empty"},
		"a nil one":            {prometheus.Options{Registries: []*health.Registry{of("a"), nil}}, "prometheus: Options.Registries[1] is nil or has no Pool"},
		"one without a pool":   {prometheus.Options{Registries: []*health.Registry{{}}}, "prometheus: Options.Registries[0] is nil or has no Pool"},
		"two of a name":        {prometheus.Options{Registries: []*health.Registry{of("a"), of("b"), of("a")}}, `prometheus: two pools have the name "a"`},
		"two without a name":   {prometheus.Options{Registries: []*health.Registry{of(""), of("")}}, "prometheus: two pools have no name, see balancer.Config.Name"},
		"descending buckets":   {prometheus.Options{Registries: []*health.Registry{of("")}, Buckets: []float64{2, 1}}, "prometheus: Options.Buckets do not ascend"},
		"a bucket that is two": {prometheus.Options{Registries: []*health.Registry{of("")}, Buckets: []float64{1, 1}}, "prometheus: Options.Buckets do not ascend"},
	} {
		_, err := prometheus.New(tt.options)
		require.EqualError(t, err, tt.want, name)
	}
}

// Two targets with the same ID have left, and a third has the ID now. Its metrics are separate from
// theirs.
func TestCollector_B3_LeavingTargets(t *testing.T) {
	pool, c := watched(t, prometheus.Options{}, target("a", "z"), target("b", ""))
	elsewhere := func(host string) balancer.Target {
		next := target("a", "z")
		next.URL = &url.URL{Scheme: "http", Host: host}
		return next
	}
	first := use(t, pool, "a", true)
	require.NoError(t, pool.Update(elsewhere("second.invalid"), target("b", "")))
	second := use(t, pool, "a", false)
	require.NoError(t, pool.Update(elsewhere("third.invalid"), target("b", "")))

	f := scrape(t, c)
	require.Equal(t, map[string]float64{"": 2}, values(f["stickylb_targets_leaving"]))
	require.Equal(t, map[string]float64{"target=a,zone=z": 2}, values(f["stickylb_target_leaving_in_flight"]))
	require.Equal(t, map[string]float64{"target=a,zone=z": 1}, values(f["stickylb_target_leaving_tunnels"]))
	require.Equal(t, map[string]float64{"target=a,zone=z": 0, "target=b,zone=": 0}, values(f["stickylb_target_in_flight"]))
	require.Equal(t, map[string]float64{"": 2}, values(f["stickylb_targets_serving"]))
	first.Release(balancer.Outcome{})
	second.Release(balancer.Outcome{})
	f = scrape(t, c)
	require.Equal(t, map[string]float64{"": 0}, values(f["stickylb_targets_leaving"]))
	require.NotContains(t, f, "stickylb_target_leaving_in_flight")
}
