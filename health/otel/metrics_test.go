package otel_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/otel"
	"github.com/stickylb/stickylb/wsproxy"
)

func target(id, zone string) balancer.Target {
	return balancer.Target{ID: id, Zone: zone, URL: &url.URL{Scheme: "http", Host: "a.invalid"}}
}

// watched returns a pool, and a reader of its registry's metrics. The registry runs until the test
// ends, and finds the target "sick" unhealthy. It checks each target once, which takes a
// millisecond.
func watched(t *testing.T, o otel.Options, targets ...balancer.Target) (*balancer.Pool, *metric.ManualReader, *otel.Metrics) {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: targets, Panic: balancer.PanicOpen, PanicThreshold: 100})
	require.NoError(t, err)
	registry := &health.Registry{Pool: pool, Interval: time.Hour, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
		time.Sleep(time.Millisecond)
		if tg.ID == "sick" {
			return errors.New("sick")
		}
		return nil
	})}
	o.Registries = []*health.Registry{registry}
	reader := metric.NewManualReader()
	o.Meter = metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")
	m, err := otel.Register(o)
	require.NoError(t, err)
	t.Cleanup(m.Observe())

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- registry.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	require.NoError(t, registry.Ready(t.Context()))
	return pool, reader, m
}

// read collects the metrics by name and attributes: "name{a=b,...}".
func read(t *testing.T, reader *metric.ManualReader) (values map[string]float64, latency *metricdata.HistogramDataPoint[float64]) {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &data))
	values = map[string]float64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				add(values, m.Name, d.DataPoints)
			case metricdata.Gauge[float64]:
				add(values, m.Name, d.DataPoints)
			case metricdata.Sum[int64]:
				require.True(t, d.IsMonotonic, m.Name)
				add(values, m.Name, d.DataPoints)
			case metricdata.Histogram[float64]:
				for i := range d.DataPoints {
					point := &d.DataPoints[i]
					values[m.Name+attributes(point.Attributes)+".count"] = float64(point.Count)
					if class, _ := point.Attributes.Value("class"); class.AsString() == "ok" {
						latency = point
					}
				}
			default:
				t.Fatalf("%s is a %T", m.Name, d)
			}
		}
	}
	return values, latency
}

func add[N int64 | float64](values map[string]float64, name string, points []metricdata.DataPoint[N]) {
	for _, p := range points {
		values[name+attributes(p.Attributes)] = float64(p.Value)
	}
}

func attributes(set attribute.Set) string {
	var labels strings.Builder
	for _, a := range set.ToSlice() {
		fmt.Fprintf(&labels, "%s=%s,", a.Key, a.Value.AsString())
	}
	return "{" + labels.String() + "}"
}

func TestMetrics_B6_Reserved(t *testing.T) {
	pool, reader, _ := watched(t, otel.Options{}, target("app", "north"))
	app, _ := pool.Member("app")
	app.SetHealth(balancer.Reserved)
	got, _ := read(t, reader)
	require.Equal(t, 1., got["stickylb.registry.targets{admin=ready,health=reserved,}"])
	require.Equal(t, 1., got["stickylb.target.state{admin=ready,health=reserved,target=app,zone=north,}"])
	require.Contains(t, got, "stickylb.target.serving{target=app,zone=north,}")
	require.Zero(t, got["stickylb.target.serving{target=app,zone=north,}"])
	require.Zero(t, got["stickylb.zone.serving{zone=north,}"])
}

func TestMetrics_S25_Share(t *testing.T) {
	pool, reader, _ := watched(t, otel.Options{}, target("app", "north"), target("new", ""))
	app, _ := pool.Member("app")
	require.NoError(t, app.SetShare(0.75))
	got, _ := read(t, reader)
	require.Equal(t, 0.75, got["stickylb.target.share{target=app,zone=north,}"])
	require.Equal(t, 1., got["stickylb.target.share{target=new,zone=,}"])
	require.NoError(t, app.SetShare(0))
	got, _ = read(t, reader)
	require.Contains(t, got, "stickylb.target.share{target=app,zone=north,}")
	require.Zero(t, got["stickylb.target.share{target=app,zone=north,}"])
}

func TestMetrics(t *testing.T) {
	pool, reader, _ := watched(t, otel.Options{Buckets: []float64{0.1, 1}}, target("app", "north"), target("sick", "south"), target("old", ""))
	for _, o := range []balancer.Outcome{
		{Status: 200, Latency: 50 * time.Millisecond}, {Status: 204, Latency: 500 * time.Millisecond},
		{Class: balancer.ConnectFailed}, {Class: balancer.HeaderFailed, Latency: time.Minute},
	} {
		lease, err := pool.AcquireBound(t.Context(), "app", &balancer.Request{})
		require.NoError(t, err)
		lease.Release(o)
	}
	lease, err := pool.AcquireBound(t.Context(), "app", &balancer.Request{Tunnel: true})
	require.NoError(t, err)
	defer lease.Release(balancer.Outcome{})
	old, _ := pool.Member("old")
	old.SetAdmin(balancer.Draining)
	old.Eject(time.Now().Add(time.Hour))

	got, latency := read(t, reader)
	for name, want := range map[string]float64{
		"stickylb.registry.running{}":                                                 1,
		"stickylb.registry.serving{}":                                                 1,
		"stickylb.registry.panic{mode=open,}":                                         1,
		"stickylb.registry.panic{mode=closed,}":                                       0,
		"stickylb.registry.ejected{}":                                                 1,
		"stickylb.registry.targets{admin=ready,health=healthy,}":                      1,
		"stickylb.registry.targets{admin=ready,health=unhealthy,}":                    1,
		"stickylb.registry.targets{admin=draining,health=healthy,}":                   1,
		"stickylb.registry.targets{admin=down,health=unknown,}":                       0,
		"stickylb.zone.targets{zone=south,}":                                          1,
		"stickylb.zone.serving{zone=north,}":                                          1,
		"stickylb.zone.serving{zone=south,}":                                          0,
		"stickylb.target.state{admin=ready,health=healthy,target=app,zone=north,}":    1,
		"stickylb.target.serving{target=app,zone=north,}":                             1,
		"stickylb.target.serving{target=sick,zone=south,}":                            0,
		"stickylb.target.ejected{target=old,zone=,}":                                  1,
		"stickylb.target.in_flight{target=app,zone=north,}":                           1,
		"stickylb.target.tunnels{target=app,zone=north,}":                             1,
		"stickylb.target.checks{result=success,target=app,zone=north,}":               1,
		"stickylb.target.checks{result=failure,target=sick,zone=south,}":              1,
		"stickylb.target.ejections{target=app,zone=north,}":                           0,
		"stickylb.target.requests{class=ok,code=2xx,target=app,zone=north,}":          2,
		"stickylb.target.requests{class=connect failed,code=,target=app,zone=north,}": 1,
	} {
		require.Contains(t, got, name)
		require.Equal(t, want, got[name], name)
	}
	require.Positive(t, got["stickylb.target.latency{target=app,zone=north,}"])
	require.Positive(t, got["stickylb.target.check_duration{target=app,zone=north,}"])
	require.Contains(t, got, "stickylb.registry.check_delay{}")
	require.Equal(t, uint64(2), latency.Count, "failures have no latency")
	require.InDelta(t, 0.55, latency.Sum, 1e-9)
	require.Equal(t, []float64{0.1, 1}, latency.Bounds)
}

// Each class of outcome is an attribute of its own, those included that count against nobody.
func TestMetrics_Classes(t *testing.T) {
	pool, reader, _ := watched(t, otel.Options{}, target("app", ""))
	for class := balancer.OK; class <= balancer.Unjudged; class++ {
		lease, err := pool.AcquireBound(t.Context(), "app", &balancer.Request{})
		require.NoError(t, err)
		lease.Release(balancer.Outcome{Class: class})
	}
	got, _ := read(t, reader)
	for class := balancer.OK; class <= balancer.Unjudged; class++ {
		require.Equal(t, 1., got["stickylb.target.requests{class="+class.String()+",code=,target=app,zone=,}"], class)
	}
}

func TestMetrics_BoundedAttributes(t *testing.T) {
	pool, reader, m := watched(t, otel.Options{MaxTargets: 2}, target("a", "z1"), target("b", "z2"), target("c", "z3"))
	got, _ := read(t, reader)
	require.Contains(t, got, "stickylb.target.serving{target=b,zone=z2,}")
	require.NotContains(t, got, "stickylb.target.serving{target=c,zone=z3,}")
	require.NotContains(t, got, "stickylb.zone.serving{zone=z3,}")
	require.Equal(t, 3., got["stickylb.registry.serving{}"], "the totals have all")

	for i := range 100 {
		require.NoError(t, pool.Update(target(fmt.Sprint("t", i), "")))
	}
	got, _ = read(t, reader)
	require.Contains(t, got, "stickylb.target.serving{target=t99,zone=,}")
	require.NotContains(t, got, "stickylb.target.serving{target=t98,zone=,}")

	require.NoError(t, m.Unregister())
	got, _ = read(t, reader)
	require.Empty(t, got)

	_, none, _ := watched(t, otel.Options{MaxTargets: -1}, target("a", "z"))
	got, _ = read(t, none)
	require.Contains(t, got, "stickylb.registry.serving{}")
	require.NotContains(t, got, "stickylb.target.serving{target=a,zone=z,}")
}

// With any names of targets and zones, each has its own values, and all text is valid UTF-8.
func TestMetrics_HostileNames(t *testing.T) {
	want := map[string]string{ // by ID
		"line\nbreak": "line\nbreak", "\x00": "\x00", `a=b,`: `a=b,`, `\xff`: `\xff`, "\ufffd": "\ufffd",
		"\xff": `"\xff"`, "\xfe": `"\xfe"`, "a\xc3": `"a\xc3"`, `"\xff"`: `"\"\\xff\""`, `"`: `"\""`,
	}
	var targets []balancer.Target
	for id := range want {
		targets = append(targets, target(id, id))
	}
	pool, reader, _ := watched(t, otel.Options{}, targets...)
	for id := range want {
		lease, err := pool.AcquireBound(t.Context(), id, &balancer.Request{})
		require.NoError(t, err)
		t.Cleanup(func() { lease.Release(balancer.Outcome{}) })
	}
	got, _ := read(t, reader)
	for _, name := range want {
		require.Equal(t, 1., got["stickylb.target.in_flight{target="+name+",zone="+name+",}"], name)
		require.Equal(t, 1., got["stickylb.zone.serving{zone="+name+",}"], name)
	}
	require.NoError(t, pool.Update())
	got, _ = read(t, reader)
	for _, name := range want {
		require.Equal(t, 1., got["stickylb.target.leaving.in_flight{target="+name+",zone="+name+",}"], name)
	}
}

func TestRegister_Refuses(t *testing.T) {
	meter := metric.NewMeterProvider().Meter("test")
	for name, tt := range map[string]struct {
		options otel.Options
		want    string
	}{
		"no registry":        {otel.Options{Meter: meter}, "otel: Options.Registries and Meter are required"},
		"no meter":           {otel.Options{Registries: registries(t, "")}, "otel: Options.Registries and Meter are required"},
		"a nil one":          {otel.Options{Registries: []*health.Registry{nil}, Meter: meter}, "otel: Options.Registries[0] is nil or has no Pool"},
		"one without a pool": {otel.Options{Registries: []*health.Registry{{}}, Meter: meter}, "otel: Options.Registries[0] is nil or has no Pool"},
		"two of a name":      {otel.Options{Registries: registries(t, "a", "b", "a"), Meter: meter}, `otel: two pools have the name "a"`},
		"two without a name": {otel.Options{Registries: registries(t, "", ""), Meter: meter}, "otel: two pools have no name, see balancer.Config.Name"},
		"buckets":            {otel.Options{Registries: registries(t, ""), Meter: meter, Buckets: []float64{2, 1}}, "otel: "},
	} {
		_, err := otel.Register(tt.options)
		require.ErrorContains(t, err, tt.want, name)
	}
}

func ExampleRegister() {
	u, _ := url.Parse("http://127.0.0.1:8001")
	shop, _ := balancer.New(balancer.Config{Name: "shop", Targets: []balancer.Target{{ID: "app-1", URL: u}}})
	chat, _ := balancer.New(balancer.Config{Name: "chat", Targets: []balancer.Target{{ID: "app-2", URL: u}}})

	metrics, err := otel.Register(otel.Options{
		Registries: []*health.Registry{{Pool: shop}, {Pool: chat}},
		Meter:      noop.NewMeterProvider().Meter("stickylb"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer metrics.Observe()()
	mux := http.NewServeMux()
	mux.Handle("shop.example/", &wsproxy.Proxy{Pool: shop, Trace: metrics.Trace(shop)})
	mux.Handle("chat.example/", &wsproxy.Proxy{Pool: chat, Trace: metrics.Trace(chat)})
	fmt.Println(metrics.Unregister())
	// Output: <nil>
}

func TestMetrics_B3_LeavingTargets(t *testing.T) {
	pool, reader, _ := watched(t, otel.Options{}, target("a", "z"), target("b", ""))
	lease, err := pool.AcquireBound(t.Context(), "a", &balancer.Request{Tunnel: true})
	require.NoError(t, err)
	require.NoError(t, pool.Update(target("b", "")))
	values, _ := read(t, reader)
	require.Equal(t, 1., values["stickylb.registry.leaving{}"], values)
	require.Equal(t, 1., values["stickylb.target.leaving.in_flight{target=a,zone=z,}"])
	require.Equal(t, 1., values["stickylb.target.leaving.tunnels{target=a,zone=z,}"])
	require.NotContains(t, values, "stickylb.target.in_flight{target=a,zone=z,}")
	lease.Release(balancer.Outcome{})
	values, _ = read(t, reader)
	require.Equal(t, 0., values["stickylb.registry.leaving{}"])
	require.NotContains(t, values, "stickylb.target.leaving.in_flight{target=a,zone=z,}")
}
