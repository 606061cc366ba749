package prometheus

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// defaultMaxTargets is the zero value of [Options].MaxTargets.
const defaultMaxTargets = 500

// Options configures a [Collector].
type Options struct {
	// Registries are the registries whose pools have metrics. At least one is required. The pools
	// must have different names, and one of them may have no name.
	Registries []*health.Registry

	// MaxTargets limits how many targets, and how many zones, of each pool have metrics of their
	// own: the first ones in configured order. Counts over all targets include the others. Zero
	// means 500. Negative means none.
	MaxTargets int

	// Buckets are the upper bounds of the buckets of latencies and of waits, in seconds, ascending.
	// Nil means [prom.DefBuckets].
	Buckets []float64
}

// A Collector is a [prom.Collector] of the metrics of one or more pools. Most come from the pools'
// registries while these run. Latencies and waits in queues are recorded from [Collector.Observe]
// until the stop function that it returns is called. [Collector.Trace], [Collector.LearnTrace] and
// [Collector.StreamTrace] record what only a proxy or its policy knows. All methods are safe for
// concurrent use.
//
// Every metric has the label pool. It is empty for a pool without a name, which Prometheus treats
// like no label. The values of the other labels come from the configuration (targets, zones) and
// from small fixed sets (states, classes, results, reasons), never from requests. When a target
// leaves the pool, its metrics end, except for what is still in flight there.
//
// One [prom.Registry] may have several Collectors, for example for pools that are made later. Its
// Register returns a [prom.AlreadyRegisteredError] if one of them already has a pool of the same
// name.
type Collector struct {
	pools      []*pool
	byName     map[string]*pool
	maxTargets int
}

// New returns a Collector. It returns an error if there is no registry, if two pools have the same
// name or none, or if the buckets do not ascend.
func New(o Options) (*Collector, error) {
	if !slices.IsSorted(o.Buckets) || len(slices.Compact(slices.Clone(o.Buckets))) != len(o.Buckets) {
		return nil, errors.New("prometheus: Options.Buckets do not ascend")
	}
	if len(o.Registries) == 0 {
		return nil, errors.New("prometheus: Options.Registries is empty")
	}
	if o.MaxTargets == 0 {
		o.MaxTargets = defaultMaxTargets
	}
	c := &Collector{maxTargets: max(0, o.MaxTargets), byName: make(map[string]*pool)}
	for i, r := range o.Registries {
		if r == nil || r.Pool == nil {
			return nil, fmt.Errorf("prometheus: Options.Registries[%d] is nil or has no Pool", i)
		}
		name := r.Pool.Name()
		switch {
		case c.byName[name] == nil:
		case name == "":
			return nil, errors.New("prometheus: two pools have no name, see balancer.Config.Name")
		default:
			return nil, fmt.Errorf("prometheus: two pools have the name %q", name)
		}
		p := newPool(r, o.Buckets)
		c.pools, c.byName[name] = append(c.pools, p), p
	}
	return c, nil
}

// Observe records latencies and waits in queues until stop is called.
func (c *Collector) Observe() (stop func()) {
	stops := make([]func(), len(c.pools))
	for i, p := range c.pools {
		stops[i] = p.registry.Pool.Observe(p)
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// Trace returns hooks for the proxies of a pool. They count what the policy finds and does,
// retries, failed requests, and ends of tunnels. [wsproxy.MultiTrace] combines them with other
// traces. Trace panics if the pool is in none of Options.Registries.
func (c *Collector) Trace(p *balancer.Pool) *wsproxy.Trace { return c.of(p, "Trace").trace() }

// LearnTrace returns hooks for the [stickiness.Learn] of a pool. They record the calls of its store
// by result, and how long requests waited for them. LearnTrace panics if the pool is in none of
// Options.Registries.
func (c *Collector) LearnTrace(p *balancer.Pool) *stickiness.LearnTrace {
	return c.of(p, "LearnTrace").learnTrace()
}

// of returns the metrics of a pool.
func (c *Collector) of(p *balancer.Pool, method string) *pool {
	for _, own := range c.pools {
		if own.registry.Pool == p {
			return own
		}
	}
	panic("prometheus: " + method + " of a pool that none of Options.Registries has")
}

// StreamTrace returns hooks for stream servers, for all pools. They count retries, failed
// connections, and ends of tunnels. What happens to a connection before its pool is chosen counts
// for the pool without a name, if there is one. Pools that are in none of Options.Registries are
// left out.
func (c *Collector) StreamTrace() *stream.Trace {
	return &stream.Trace{
		Retry: func(_ stream.Client, failed *stream.Error) {
			if p := c.byName[failed.Pool]; p != nil {
				p.retries.WithLabelValues(failed.Class.String()).Inc()
			}
		},
		Done: func(rec stream.Record) {
			if p := c.byName[rec.Pool]; p != nil {
				p.done(rec)
			}
		},
	}
}

// Describe implements [prom.Collector].
func (c *Collector) Describe(ch chan<- *prom.Desc) {
	for _, p := range c.pools {
		for _, d := range p.all {
			ch <- d
		}
		for _, i := range p.collectors() {
			i.Describe(ch)
		}
	}
}

// Collect implements [prom.Collector].
func (c *Collector) Collect(ch chan<- prom.Metric) {
	for _, p := range c.pools {
		for _, i := range p.collectors() {
			i.Collect(ch)
		}
		p.collect(ch, c.maxTargets)
	}
}

// collect sends the metrics of the registry.
func (p *pool) collect(ch chan<- prom.Metric, maxTargets int) {
	s := p.registry.Status()
	e := &emitter{p.descriptions, ch}
	e.totals(&s)
	e.gauge(e.waiting, float64(p.registry.Pool.Waiting()))
	for _, z := range s.Zones[:min(len(s.Zones), maxTargets)] {
		e.gauge(e.zoneTargets, float64(z.Targets), z.Name)
		e.gauge(e.zoneServing, float64(z.Serving), z.Name)
	}
	for i := range s.Targets[:min(len(s.Targets), maxTargets)] {
		e.target(&s.Targets[i])
	}
	e.left(&s, maxTargets)
}

// An emitter sends constant metrics.
type emitter struct {
	*descriptions
	ch chan<- prom.Metric
}

func (e *emitter) gauge(d *prom.Desc, v float64, labels ...string) {
	e.send(d, prom.GaugeValue, v, labels)
}

func (e *emitter) counter(d *prom.Desc, v float64, labels ...string) {
	e.send(d, prom.CounterValue, v, labels)
}

// send sends a metric. Labels must be valid UTF-8, but IDs may be any bytes: see valid.
func (e *emitter) send(d *prom.Desc, kind prom.ValueType, v float64, labels []string) {
	for i, s := range labels {
		labels[i] = valid(s)
	}
	e.ch <- prom.MustNewConstMetric(d, kind, v, labels...)
}

// valid returns s if it is valid UTF-8, and else quotes it. It also quotes a value that begins with
// a quotation mark, so that different values have different results. Otherwise two metrics could be
// equal, and the whole scrape would fail.
func valid(s string) string {
	if !utf8.ValidString(s) || strings.HasPrefix(s, `"`) {
		return strconv.Quote(s)
	}
	return s
}

func (e *emitter) totals(s *health.Status) {
	e.gauge(e.running, number(s.Running))
	e.gauge(e.serving, float64(s.Serving))
	for _, mode := range []balancer.Panic{balancer.PanicOpen, balancer.PanicClosed} {
		e.gauge(e.panicking, number(s.Panic == mode), mode.String())
	}
	e.gauge(e.checkDelay, s.Late.Seconds())
	var states [balancer.Unhealthy + 1][balancer.Down + 1]int
	ejections := 0
	for i := range s.Targets {
		t := &s.Targets[i]
		states[t.Health][t.Admin]++
		if !t.EjectedUntil.IsZero() {
			ejections++
		}
	}
	e.gauge(e.ejectedNow, float64(ejections))
	for h := range states {
		for a, n := range states[h] {
			e.gauge(e.targets, float64(n), balancer.Health(h).String(), balancer.Admin(a).String())
		}
	}
}

func (e *emitter) target(t *health.TargetStatus) {
	e.gauge(e.targetState, 1, t.ID, t.Zone, t.Health.String(), t.Admin.String())
	e.gauge(e.targetServing, number(t.Serving), t.ID, t.Zone)
	e.gauge(e.targetShare, t.Share, t.ID, t.Zone)
	e.gauge(e.targetEjected, number(!t.EjectedUntil.IsZero()), t.ID, t.Zone)
	e.gauge(e.targetInFlight, float64(t.Load), t.ID, t.Zone)
	e.gauge(e.targetTunnels, float64(t.Tunnels), t.ID, t.Zone)
	e.gauge(e.targetLatency, t.Latency.Seconds(), t.ID, t.Zone)
	e.gauge(e.targetCheckTime, t.Check.Duration.Seconds(), t.ID, t.Zone)
	e.counter(e.targetChecks, float64(t.Check.Total-t.Check.Failed), t.ID, t.Zone, "success")
	e.counter(e.targetChecks, float64(t.Check.Failed), t.ID, t.Zone, "failure")
	e.counter(e.targetEjections, float64(t.Passive.Ejections), t.ID, t.Zone)
	e.counter(e.targetRefused, float64(t.Passive.Refused), t.ID, t.Zone)
	for _, o := range t.Outcomes {
		e.counter(e.targetRequests, float64(o.Count), t.ID, t.Zone, o.Class, o.Status)
	}
}

// left sends the metrics of the targets that have left the pool: one of each kind for all targets
// with the same ID.
func (e *emitter) left(s *health.Status, most int) {
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
	e.gauge(e.leaving, float64(len(s.Leaving)))
	for n, l := range sums {
		e.gauge(e.leavingInFlight, float64(l.all), n.id, n.zone)
		e.gauge(e.leavingTunnels, float64(l.tunnels), n.id, n.zone)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
