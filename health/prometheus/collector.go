// Package prometheus exports what a [health.Registry] knows as Prometheus metrics. It starts no
// goroutine: the registry is read when the metrics are asked for.
//
//	collector, err := prometheus.New(prometheus.Options{Registry: registry})
//	...
//	prom.MustRegister(collector)
//	defer pool.Observe(collector)()
//
// Beside it lies dashboard.json, a Grafana dashboard of these metrics.
package prometheus

import (
	"errors"
	"slices"
	"strconv"
	"unicode/utf8"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// defaultMaxTargets is the zero value of [Options].MaxTargets.
const defaultMaxTargets = 500

// Options configures a [Collector].
type Options struct {
	// Registry is what the metrics are about. It is required.
	Registry *health.Registry

	// MaxTargets limits how many targets, and how many zones, have metrics of their own: the
	// first ones in configured order. The counts over all targets include the others. Zero
	// means 500; negative means none.
	MaxTargets int

	// Buckets are the upper bounds of the latency histogram's buckets, in seconds, ascending.
	// Nil means [prom.DefBuckets].
	Buckets []float64
}

// A Collector is a [prom.Collector] of a registry's metrics. It is also a [balancer.Observer]:
// while it observes the pool, it fills the histogram of latencies; all other metrics come from
// the registry, while that runs. All methods may be called concurrently.
//
// Labels take their values from the configuration (targets, zones) and from small fixed sets
// (states, classes of outcomes, classes of status codes), never from requests. A target that
// leaves the pool takes its metrics with it, but for those of what is left in flight there.
type Collector struct {
	registry   *health.Registry
	maxTargets int
	latency    prom.Histogram
}

// New returns a Collector. It refuses options without a Registry, and buckets that do not ascend.
func New(o Options) (*Collector, error) {
	if o.Registry == nil {
		return nil, errors.New("prometheus: Options.Registry is nil")
	}
	if !slices.IsSorted(o.Buckets) || len(slices.Compact(slices.Clone(o.Buckets))) != len(o.Buckets) {
		return nil, errors.New("prometheus: Options.Buckets do not ascend")
	}
	if o.MaxTargets == 0 {
		o.MaxTargets = defaultMaxTargets
	}
	return &Collector{
		registry:   o.Registry,
		maxTargets: max(0, o.MaxTargets),
		latency: prom.NewHistogram(prom.HistogramOpts{
			Name:    "stickylb_request_latency_seconds",
			Help:    "Time from sending a request to the header of its answer.",
			Buckets: o.Buckets,
		}),
	}, nil
}

// Released implements [balancer.Observer].
func (c *Collector) Released(_ *balancer.Member, o balancer.Outcome) {
	if o.Class == balancer.OK && o.Latency > 0 {
		c.latency.Observe(o.Latency.Seconds())
	}
}

// Changed implements [balancer.Observer]. It does nothing: states are read when asked for.
func (c *Collector) Changed(*balancer.Member, balancer.State) {}

// Describe implements [prom.Collector].
func (c *Collector) Describe(ch chan<- *prom.Desc) {
	for _, d := range descriptions {
		ch <- d
	}
	c.latency.Describe(ch)
}

// Collect implements [prom.Collector].
func (c *Collector) Collect(ch chan<- prom.Metric) {
	c.latency.Collect(ch)
	s := c.registry.Status()
	e := &emitter{ch: ch}
	e.totals(&s)
	for _, z := range s.Zones[:min(len(s.Zones), c.maxTargets)] {
		e.gauge(zoneTargets, float64(z.Targets), z.Name)
		e.gauge(zoneServing, float64(z.Serving), z.Name)
	}
	for i := range s.Targets[:min(len(s.Targets), c.maxTargets)] {
		e.target(&s.Targets[i])
	}
	e.leaving(&s, c.maxTargets)
}

// An emitter sends metrics with constant values.
type emitter struct{ ch chan<- prom.Metric }

func (e *emitter) gauge(d *prom.Desc, v float64, labels ...string) {
	e.send(d, prom.GaugeValue, v, labels)
}

func (e *emitter) counter(d *prom.Desc, v float64, labels ...string) {
	e.send(d, prom.CounterValue, v, labels)
}

// send makes the labels' values valid first: IDs may be any bytes, metrics may not. Quoted,
// those that differ still do: two equal metrics would spoil the whole answer.
func (e *emitter) send(d *prom.Desc, kind prom.ValueType, v float64, labels []string) {
	for i, s := range labels {
		if !utf8.ValidString(s) {
			labels[i] = strconv.Quote(s)
		}
	}
	e.ch <- prom.MustNewConstMetric(d, kind, v, labels...)
}

func (e *emitter) totals(s *health.Status) {
	e.gauge(running, number(s.Running))
	e.gauge(serving, float64(s.Serving))
	for _, mode := range []balancer.Panic{balancer.PanicOpen, balancer.PanicClosed} {
		e.gauge(panicking, number(s.Panic == mode), mode.String())
	}
	e.gauge(checkDelay, s.Late.Seconds())
	var states [balancer.Unhealthy + 1][balancer.Down + 1]int
	ejections := 0
	for i := range s.Targets {
		t := &s.Targets[i]
		states[t.Health][t.Admin]++
		if !t.EjectedUntil.IsZero() {
			ejections++
		}
	}
	e.gauge(ejectedNow, float64(ejections))
	for h := range states {
		for a, n := range states[h] {
			e.gauge(targets, float64(n), balancer.Health(h).String(), balancer.Admin(a).String())
		}
	}
}

func (e *emitter) target(t *health.TargetStatus) {
	e.gauge(targetState, 1, t.ID, t.Zone, t.Health.String(), t.Admin.String())
	e.gauge(targetServing, number(t.Serving), t.ID, t.Zone)
	e.gauge(targetShare, t.Share, t.ID, t.Zone)
	e.gauge(targetEjected, number(!t.EjectedUntil.IsZero()), t.ID, t.Zone)
	e.gauge(targetInFlight, float64(t.Load), t.ID, t.Zone)
	e.gauge(targetTunnels, float64(t.Tunnels), t.ID, t.Zone)
	e.gauge(targetLatency, t.Latency.Seconds(), t.ID, t.Zone)
	e.gauge(targetCheckTime, t.Check.Duration.Seconds(), t.ID, t.Zone)
	e.counter(targetChecks, float64(t.Check.Total-t.Check.Failed), t.ID, t.Zone, "success")
	e.counter(targetChecks, float64(t.Check.Failed), t.ID, t.Zone, "failure")
	e.counter(targetEjections, float64(t.Passive.Ejections), t.ID, t.Zone)
	for _, o := range t.Outcomes {
		e.counter(targetRequests, float64(o.Count), t.ID, t.Zone, o.Class, o.Status)
	}
}

// leaving sends one metric of each kind for all targets of a name that have left.
func (e *emitter) leaving(s *health.Status, most int) {
	type name struct{ id, zone string }
	type load struct{ all, tunnels int64 }
	sums := make(map[name]load)
	for i := range s.Leaving {
		t := &s.Leaving[i]
		n := name{t.ID, t.Zone}
		if _, ok := sums[n]; !ok && len(sums) == most {
			continue
		}
		sums[n] = load{sums[n].all + t.Load, sums[n].tunnels + t.Tunnels}
	}
	e.gauge(leaving, float64(len(s.Leaving)))
	for n, l := range sums {
		e.gauge(leavingInFlight, float64(l.all), n.id, n.zone)
		e.gauge(leavingTunnels, float64(l.tunnels), n.id, n.zone)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
