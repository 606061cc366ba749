// Package otel exports what a [health.Registry] knows as OpenTelemetry metrics. It starts no
// goroutine: the registry is read when the meter's reader asks.
//
//	metrics, err := otel.Register(otel.Options{Registry: registry, Meter: provider.Meter("stickylb")})
//	...
//	defer metrics.Unregister()
//	defer pool.Observe(metrics)()
package otel

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// defaultMaxTargets is the zero value of [Options].MaxTargets.
const defaultMaxTargets = 500

// Options says what is registered where.
type Options struct {
	// Registry is what the metrics are about. It is required.
	Registry *health.Registry

	// Meter makes the instruments. It is required.
	Meter metric.Meter

	// MaxTargets limits how many targets, and how many zones, have metrics of their own: the
	// first ones in configured order. The counts over all targets include the others. Zero
	// means 500; negative means none.
	MaxTargets int

	// Buckets are the upper bounds of the latency histogram's buckets, in seconds, ascending.
	// Nil leaves them to the meter.
	Buckets []float64
}

// Metrics are a registry's instruments. It is also a [balancer.Observer]: while it observes the
// pool, it fills the histogram of latencies; all other metrics come from the registry, while
// that runs. All methods may be called concurrently.
//
// Attributes take their values from the configuration (targets, zones) and from small fixed
// sets (states, classes of outcomes, classes of status codes), never from requests. A target
// that leaves the pool takes its metrics with it, but for those of what is left in flight there.
type Metrics struct {
	registry   *health.Registry
	maxTargets int
	latency    metric.Float64Histogram
	callback   metric.Registration

	totals  totals
	zones   zones
	target  target
	leaving leaving
}

type totals struct {
	running, targets, serving, ejected, panicking metric.Int64ObservableGauge
	delay                                         metric.Float64ObservableGauge
}

type leaving struct{ targets, inFlight, tunnels metric.Int64ObservableGauge }

type zones struct{ targets, serving metric.Int64ObservableGauge }

type target struct {
	state, serving, ejected, inFlight, tunnels metric.Int64ObservableGauge
	share, latency, checkTime                  metric.Float64ObservableGauge
	checks, ejections, requests                metric.Int64ObservableCounter
}

// Register makes the instruments and has them observed until [Metrics.Unregister]. It refuses
// options without a Registry or a Meter, and what the meter refuses.
func Register(o Options) (*Metrics, error) {
	if o.Registry == nil || o.Meter == nil {
		return nil, errors.New("otel: Options.Registry and Meter are required")
	}
	if o.MaxTargets == 0 {
		o.MaxTargets = defaultMaxTargets
	}
	m := &Metrics{registry: o.Registry, maxTargets: max(0, o.MaxTargets)}
	f := &factory{meter: o.Meter}
	m.totals = totals{
		running:   f.gauge("stickylb.registry.running", "{registry}", "Whether the registry of health runs."),
		targets:   f.gauge("stickylb.registry.targets", "{target}", "Targets by health and administrative state."),
		serving:   f.gauge("stickylb.registry.serving", "{target}", "Targets that may take new sessions."),
		ejected:   f.gauge("stickylb.registry.ejected", "{target}", "Targets that live traffic has ejected for now."),
		panicking: f.gauge("stickylb.registry.panic", "{registry}", "Whether the pool panics, because too few targets are left."),
		delay:     f.seconds("stickylb.registry.check_delay", "How long after its time the latest check began."),
	}
	m.zones = zones{
		targets: f.gauge("stickylb.zone.targets", "{target}", "Targets of the zone."),
		serving: f.gauge("stickylb.zone.serving", "{target}", "Targets of the zone that may take new sessions."),
	}
	m.target = target{
		state:     f.gauge("stickylb.target.state", "{target}", "1, with the target's state in the attributes."),
		serving:   f.gauge("stickylb.target.serving", "{target}", "Whether the target may take new sessions."),
		share:     f.ratio("stickylb.target.share", "Share of its bound sessions that the target keeps; 1 is all."),
		ejected:   f.gauge("stickylb.target.ejected", "{target}", "Whether live traffic has ejected the target for now."),
		inFlight:  f.gauge("stickylb.target.in_flight", "{request}", "Requests and tunnels in flight."),
		tunnels:   f.gauge("stickylb.target.tunnels", "{tunnel}", "Tunnels that are open."),
		latency:   f.seconds("stickylb.target.latency", "Moving peak of the latency; 0 while unknown."),
		checkTime: f.seconds("stickylb.target.check_duration", "How long the latest check took."),
		checks:    f.counter("stickylb.target.checks", "{check}", "Checks by result, since the registry runs."),
		ejections: f.counter("stickylb.target.ejections", "{ejection}", "Ejections, since the registry runs."),
		requests:  f.counter("stickylb.target.requests", "{request}", "Requests and tunnels that ended, by class of outcome and of status code."),
	}
	m.leaving = leaving{
		targets:  f.gauge("stickylb.registry.leaving", "{target}", "Targets that have left the pool and have something in flight yet."),
		inFlight: f.gauge("stickylb.target.leaving.in_flight", "{request}", "Requests and tunnels in flight at targets of this name that have left the pool."),
		tunnels:  f.gauge("stickylb.target.leaving.tunnels", "{tunnel}", "Tunnels that are open at targets of this name that have left the pool."),
	}
	m.latency = f.histogram("stickylb.request.latency", "Time from sending a request to the header of its answer.", o.Buckets)
	if f.err == nil {
		m.callback, f.err = o.Meter.RegisterCallback(m.observe, f.made...)
	}
	if f.err != nil {
		return nil, fmt.Errorf("otel: %w", f.err)
	}
	return m, nil
}

// Unregister ends the observation that Register began. It does not end that of a pool.
func (m *Metrics) Unregister() error { return m.callback.Unregister() }

// Released implements [balancer.Observer].
func (m *Metrics) Released(_ *balancer.Member, o balancer.Outcome) {
	if o.Class == balancer.OK && o.Latency > 0 {
		m.latency.Record(context.Background(), o.Latency.Seconds())
	}
}

// Changed implements [balancer.Observer]. It does nothing: states are read when asked for.
func (m *Metrics) Changed(*balancer.Member, balancer.State) {}

// A factory makes instruments and keeps the first error.
type factory struct {
	meter metric.Meter
	made  []metric.Observable
	err   error
}

func (f *factory) gauge(name, unit, help string) metric.Int64ObservableGauge {
	g, err := f.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.keep(g, err)
	return g
}

func (f *factory) seconds(name, help string) metric.Float64ObservableGauge {
	return f.floats(name, "s", help)
}

func (f *factory) ratio(name, help string) metric.Float64ObservableGauge {
	return f.floats(name, "1", help)
}

func (f *factory) floats(name, unit, help string) metric.Float64ObservableGauge {
	g, err := f.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.keep(g, err)
	return g
}

func (f *factory) counter(name, unit, help string) metric.Int64ObservableCounter {
	c, err := f.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.keep(c, err)
	return c
}

func (f *factory) histogram(name, help string, buckets []float64) metric.Float64Histogram {
	options := []metric.Float64HistogramOption{metric.WithUnit("s"), metric.WithDescription(help)}
	if buckets != nil {
		options = append(options, metric.WithExplicitBucketBoundaries(buckets...))
	}
	h, err := f.meter.Float64Histogram(name, options...)
	f.err = errors.Join(f.err, err)
	return h
}

func (f *factory) keep(o metric.Observable, err error) {
	f.made = append(f.made, o)
	f.err = errors.Join(f.err, err)
}

// observe reads the registry.
func (m *Metrics) observe(_ context.Context, o metric.Observer) error {
	s := m.registry.Status()
	m.observeTotals(o, &s)
	for _, z := range s.Zones[:min(len(s.Zones), m.maxTargets)] {
		zone := metric.WithAttributes(attribute.String("zone", z.Name))
		o.ObserveInt64(m.zones.targets, int64(z.Targets), zone)
		o.ObserveInt64(m.zones.serving, int64(z.Serving), zone)
	}
	for i := range s.Targets[:min(len(s.Targets), m.maxTargets)] {
		m.observeTarget(o, &s.Targets[i])
	}
	m.observeLeaving(o, &s)
	return nil
}

// observeLeaving has one value of each kind for all targets of a name that have left.
func (m *Metrics) observeLeaving(o metric.Observer, s *health.Status) {
	type name struct{ id, zone string }
	type load struct{ all, tunnels int64 }
	sums := make(map[name]load)
	for i := range s.Leaving {
		t := &s.Leaving[i]
		n := name{t.ID, t.Zone}
		if _, ok := sums[n]; !ok && len(sums) == m.maxTargets {
			continue
		}
		sums[n] = load{sums[n].all + t.Load, sums[n].tunnels + t.Tunnels}
	}
	o.ObserveInt64(m.leaving.targets, int64(len(s.Leaving)))
	for n, l := range sums {
		own := metric.WithAttributes(attribute.String("target", n.id), attribute.String("zone", n.zone))
		o.ObserveInt64(m.leaving.inFlight, l.all, own)
		o.ObserveInt64(m.leaving.tunnels, l.tunnels, own)
	}
}

func (m *Metrics) observeTotals(o metric.Observer, s *health.Status) {
	o.ObserveInt64(m.totals.running, number(s.Running))
	o.ObserveInt64(m.totals.serving, int64(s.Serving))
	for _, mode := range []balancer.Panic{balancer.PanicOpen, balancer.PanicClosed} {
		o.ObserveInt64(m.totals.panicking, number(s.Panic == mode), metric.WithAttributes(attribute.Stringer("mode", mode)))
	}
	o.ObserveFloat64(m.totals.delay, s.Late.Seconds())
	var states [balancer.Unhealthy + 1][balancer.Down + 1]int64
	ejected := int64(0)
	for i := range s.Targets {
		t := &s.Targets[i]
		states[t.Health][t.Admin]++
		ejected += number(!t.EjectedUntil.IsZero())
	}
	o.ObserveInt64(m.totals.ejected, ejected)
	for h := range states {
		for a, n := range states[h] {
			o.ObserveInt64(m.totals.targets, n, metric.WithAttributes(
				attribute.Stringer("health", balancer.Health(h)), attribute.Stringer("admin", balancer.Admin(a))))
		}
	}
}

func (m *Metrics) observeTarget(o metric.Observer, t *health.TargetStatus) {
	id, zone := attribute.String("target", t.ID), attribute.String("zone", t.Zone)
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributes(append(more, id, zone)...)
	}
	own := with()
	o.ObserveInt64(m.target.state, 1, with(attribute.Stringer("health", t.Health), attribute.Stringer("admin", t.Admin)))
	o.ObserveInt64(m.target.serving, number(t.Serving), own)
	o.ObserveFloat64(m.target.share, t.Share, own)
	o.ObserveInt64(m.target.ejected, number(!t.EjectedUntil.IsZero()), own)
	o.ObserveInt64(m.target.inFlight, t.Load, own)
	o.ObserveInt64(m.target.tunnels, t.Tunnels, own)
	o.ObserveFloat64(m.target.latency, t.Latency.Seconds(), own)
	o.ObserveFloat64(m.target.checkTime, t.Check.Duration.Seconds(), own)
	o.ObserveInt64(m.target.checks, t.Check.Total-t.Check.Failed, with(attribute.String("result", "success")))
	o.ObserveInt64(m.target.checks, t.Check.Failed, with(attribute.String("result", "failure")))
	o.ObserveInt64(m.target.ejections, t.Passive.Ejections, own)
	for _, c := range t.Outcomes {
		o.ObserveInt64(m.target.requests, c.Count, with(attribute.String("class", c.Class), attribute.String("code", c.Status)))
	}
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
