package otel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// defaultMaxTargets is the zero value of [Options].MaxTargets.
const defaultMaxTargets = 500

// Options configures [Register].
type Options struct {
	// Registries are the registries whose pools have metrics. At least one is required. The pools
	// must have different names, and one of them may have no name.
	Registries []*health.Registry

	// Meter makes the instruments. It is required.
	Meter metric.Meter

	// MaxTargets limits how many targets, and how many zones, of each pool have metrics of their
	// own: the first ones in configured order. Counts over all targets include the others. Zero
	// means 500. Negative means none.
	MaxTargets int

	// Buckets are the upper bounds of the buckets of latencies and of waits, in seconds, ascending.
	// Nil means the bounds that OpenTelemetry recommends for HTTP requests.
	Buckets []float64
}

// Metrics are the instruments of one or more pools. Most are read from the pools' registries while
// these run. Latencies and waits in queues are recorded from [Metrics.Observe] until the stop
// function that it returns is called. [Metrics.Trace], [Metrics.LearnTrace] and
// [Metrics.StreamTrace] record what only a proxy knows. All methods are safe for concurrent use.
//
// Every measurement has the attribute pool, unless the pool has no name. The values of the other
// attributes come from the configuration (targets, zones) and from small fixed sets (states,
// classes, results, reasons), never from requests. When a target leaves the pool, its metrics end,
// except for what is still in flight there.
//
// Register may be called again with the same Meter, for example for pools that are made later. No
// two pools of a Meter may have the same name, but only one call of Register can check that.
type Metrics struct {
	pools      []*pool
	byName     map[string]*pool
	maxTargets int
	callback   metric.Registration

	totals  totals
	zones   zones
	target  target
	leaving leaving
	instruments
}

type totals struct {
	running, targets, serving, ejected, panicking, waiting metric.Int64ObservableGauge
	delay                                                  metric.Float64ObservableGauge
}

type leaving struct{ targets, inFlight, tunnels metric.Int64ObservableGauge }

type zones struct{ targets, serving metric.Int64ObservableGauge }

type target struct {
	state, serving, ejected, inFlight, tunnels metric.Int64ObservableGauge
	share, latency, checkTime                  metric.Float64ObservableGauge
	checks, ejections, refused, requests       metric.Int64ObservableCounter
}

// instruments are filled by hooks.
type instruments struct {
	latency, waits, tunnelLife, store                   metric.Float64Histogram
	tunnelEnds, failures, retries, candidates, bindings metric.Int64Counter
}

// Register makes the instruments and observes the registries until [Metrics.Unregister]. It returns
// an error if there is no registry or no Meter, if two pools have the same name or none, or if the
// meter refuses an instrument.
func Register(o Options) (*Metrics, error) {
	if len(o.Registries) == 0 || o.Meter == nil {
		return nil, errors.New("otel: Options.Registries and Meter are required")
	}
	if o.MaxTargets == 0 {
		o.MaxTargets = defaultMaxTargets
	}
	m := &Metrics{maxTargets: max(0, o.MaxTargets), byName: make(map[string]*pool)}
	for i, r := range o.Registries {
		if r == nil || r.Pool == nil {
			return nil, fmt.Errorf("otel: Options.Registries[%d] is nil or has no Pool", i)
		}
		name := r.Pool.Name()
		switch {
		case m.byName[name] == nil:
		case name == "":
			return nil, errors.New("otel: two pools have no name, see balancer.Config.Name")
		default:
			return nil, fmt.Errorf("otel: two pools have the name %q", name)
		}
		p := newPool(m, r)
		m.pools, m.byName[name] = append(m.pools, p), p
	}
	if err := m.register(o); err != nil {
		return nil, fmt.Errorf("otel: %w", err)
	}
	return m, nil
}

// register makes the instruments.
func (m *Metrics) register(o Options) error {
	f := &factory{meter: o.Meter}
	m.totals = totals{
		running:   f.gauge("stickylb.registry.running", "{registry}", "Whether the registry of health runs."),
		targets:   f.gauge("stickylb.registry.targets", "{target}", "Targets by health and administrative state."),
		serving:   f.gauge("stickylb.registry.serving", "{target}", "Targets that may take new sessions."),
		ejected:   f.gauge("stickylb.registry.ejected", "{target}", "Targets that live traffic has ejected for now."),
		panicking: f.gauge("stickylb.registry.panic", "{registry}", "Whether the pool panics, because too few targets are left."),
		waiting:   f.gauge("stickylb.queue.waiting", "{request}", "Requests that wait in the pool's queue."),
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
		latency:   f.seconds("stickylb.target.latency", "Moving peak of the latency; a failure counts as a second or twice the peak, up to a minute; 0 while unknown."),
		checkTime: f.seconds("stickylb.target.check_duration", "How long the latest check took."),
		checks:    f.counter("stickylb.target.checks", "{check}", "Checks by result, since the registry runs."),
		ejections: f.counter("stickylb.target.ejections", "{ejection}", "Ejections, since the registry runs."),
		refused:   f.counter("stickylb.target.ejections.refused", "{ejection}", "Ejections that were not allowed, because too few targets would have been left, since the registry runs."),
		requests:  f.counter("stickylb.target.requests", "{request}", "Requests and tunnels that ended, by class of outcome and of status code."),
	}
	m.leaving = leaving{
		targets:  f.gauge("stickylb.registry.leaving", "{target}", "Targets that have left the pool and have something in flight yet."),
		inFlight: f.gauge("stickylb.target.leaving.in_flight", "{request}", "Requests and tunnels in flight at targets of this name that have left the pool."),
		tunnels:  f.gauge("stickylb.target.leaving.tunnels", "{tunnel}", "Tunnels that are open at targets of this name that have left the pool."),
	}
	if o.Buckets == nil {
		o.Buckets = latencyBuckets
	}
	m.instruments = instruments{
		latency:    f.histogram("stickylb.request.latency", "Time from sending a request to the header of its answer, or to its failure, by class of outcome.", o.Buckets),
		waits:      f.histogram("stickylb.queue.wait", "Time that a request waited in the pool's queue, by how that ended.", o.Buckets),
		tunnelLife: f.histogram("stickylb.tunnel.duration", "Time that a tunnel was open.", tunnelBuckets),
		store:      f.histogram("stickylb.session.store", "Time that a request waited for the store of learned sessions, by call (find or bind) and by what the store said.", o.Buckets),
		tunnelEnds: f.count("stickylb.tunnel.ends", "{tunnel}", "Tunnels that ended, by what ended them."),
		failures:   f.count("stickylb.request.failures", "{request}", "Requests and connections that the proxy could not serve, by class of error."),
		retries:    f.count("stickylb.request.retries", "{attempt}", "Attempts that were made again elsewhere, by class of the error before."),
		candidates: f.count("stickylb.policy.candidates", "{candidate}", "Bindings that the policy found in requests, by whether they are usable; none counts requests without any."),
		bindings:   f.count("stickylb.policy.bindings", "{response}", "Responses that the policy has seen, by what it did."),
	}
	if f.err == nil {
		m.callback, f.err = o.Meter.RegisterCallback(m.observe, f.made...)
	}
	return f.err
}

// latencyBuckets are the bounds that OpenTelemetry's semantic conventions recommend for the
// duration of requests. tunnelBuckets reach from one second to a day.
var (
	latencyBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
	tunnelBuckets  = []float64{1, 10, 60, 5 * 60, 15 * 60, 3600, 4 * 3600, 12 * 3600, 24 * 3600}
)

// Unregister ends the observation of the registries. It does not end the recording that
// [Metrics.Observe] began.
func (m *Metrics) Unregister() error { return m.callback.Unregister() }

// Observe records latencies and waits in queues until stop is called.
func (m *Metrics) Observe() (stop func()) {
	stops := make([]func(), len(m.pools))
	for i, p := range m.pools {
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
func (m *Metrics) Trace(p *balancer.Pool) *wsproxy.Trace { return m.of(p, "Trace").trace() }

// LearnTrace returns hooks for the [stickiness.Learn] of a pool. They record how long requests
// waited for its store, by what that said. LearnTrace panics if the pool is in none of
// Options.Registries.
func (m *Metrics) LearnTrace(p *balancer.Pool) *stickiness.LearnTrace {
	return m.of(p, "LearnTrace").learnTrace()
}

// of returns the attributes of a pool.
func (m *Metrics) of(p *balancer.Pool, method string) *pool {
	for _, own := range m.pools {
		if own.registry.Pool == p {
			return own
		}
	}
	panic("otel: " + method + " of a pool that none of Options.Registries has")
}

// StreamTrace returns hooks for stream servers, for all pools. They count retries, failed
// connections, and ends of tunnels. What happens to a connection before its pool is chosen counts
// for the pool without a name, if there is one. Pools that are in none of Options.Registries are
// left out.
func (m *Metrics) StreamTrace() *stream.Trace {
	return &stream.Trace{
		Retry: func(_ stream.Client, failed *stream.Error) {
			if p := m.byName[failed.Pool]; p != nil {
				p.count(m.retries, "class", failed.Class.String())
			}
		},
		Done: func(rec stream.Record) {
			if p := m.byName[rec.Pool]; p != nil {
				p.done(rec)
			}
		},
	}
}

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

func (f *factory) count(name, unit, help string) metric.Int64Counter {
	c, err := f.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.err = errors.Join(f.err, err)
	return c
}

func (f *factory) histogram(name, help string, buckets []float64) metric.Float64Histogram {
	h, err := f.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(help),
		metric.WithExplicitBucketBoundaries(buckets...))
	f.err = errors.Join(f.err, err)
	return h
}

func (f *factory) keep(o metric.Observable, err error) {
	f.made = append(f.made, o)
	f.err = errors.Join(f.err, err)
}

// observe records the metrics of all registries.
func (m *Metrics) observe(_ context.Context, o metric.Observer) error {
	for _, p := range m.pools {
		s := p.registry.Status()
		r := &reading{Metrics: m, pool: p, to: o}
		r.totals(&s)
		for _, z := range s.Zones[:min(len(s.Zones), m.maxTargets)] {
			zone := p.with(text("zone", z.Name))
			o.ObserveInt64(m.zones.targets, int64(z.Targets), zone)
			o.ObserveInt64(m.zones.serving, int64(z.Serving), zone)
		}
		for i := range s.Targets[:min(len(s.Targets), m.maxTargets)] {
			r.target(&s.Targets[i])
		}
		r.leaving(&s)
	}
	return nil
}

// A reading is one observation of a pool.
type reading struct {
	*Metrics
	pool *pool
	to   metric.Observer
}

// leaving records the values of the targets that have left the pool: one of each kind for all
// targets with the same ID.
func (r *reading) leaving(s *health.Status) {
	type name struct{ id, zone string }
	type load struct{ all, tunnels int64 }
	sums := make(map[name]load)
	for i := range s.Leaving {
		t := &s.Leaving[i]
		n := name{t.ID, t.Zone}
		if _, ok := sums[n]; !ok && len(sums) == r.maxTargets {
			continue
		}
		sums[n] = load{sums[n].all + t.Load, sums[n].tunnels + t.Tunnels}
	}
	r.to.ObserveInt64(r.Metrics.leaving.targets, int64(len(s.Leaving)), r.pool.own)
	for n, l := range sums {
		own := r.pool.with(text("target", n.id), text("zone", n.zone))
		r.to.ObserveInt64(r.Metrics.leaving.inFlight, l.all, own)
		r.to.ObserveInt64(r.Metrics.leaving.tunnels, l.tunnels, own)
	}
}

func (r *reading) totals(s *health.Status) {
	r.to.ObserveInt64(r.Metrics.totals.running, number(s.Running), r.pool.own)
	r.to.ObserveInt64(r.Metrics.totals.serving, int64(s.Serving), r.pool.own)
	for _, mode := range []balancer.Panic{balancer.PanicOpen, balancer.PanicClosed} {
		r.to.ObserveInt64(r.Metrics.totals.panicking, number(s.Panic == mode), r.pool.with(attribute.Stringer("mode", mode)))
	}
	r.to.ObserveFloat64(r.Metrics.totals.delay, s.Late.Seconds(), r.pool.own)
	r.to.ObserveInt64(r.Metrics.totals.waiting, int64(r.pool.registry.Pool.Waiting()), r.pool.own)
	var states [balancer.Unhealthy + 1][balancer.Down + 1]int64
	ejected := int64(0)
	for i := range s.Targets {
		t := &s.Targets[i]
		states[t.Health][t.Admin]++
		ejected += number(!t.EjectedUntil.IsZero())
	}
	r.to.ObserveInt64(r.Metrics.totals.ejected, ejected, r.pool.own)
	for h := range states {
		for a, n := range states[h] {
			r.to.ObserveInt64(r.Metrics.totals.targets, n, r.pool.with(
				attribute.Stringer("health", balancer.Health(h)), attribute.Stringer("admin", balancer.Admin(a))))
		}
	}
}

func (r *reading) target(t *health.TargetStatus) {
	id, zone := text("target", t.ID), text("zone", t.Zone)
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return r.pool.with(append(more, id, zone)...)
	}
	own := with()
	r.to.ObserveInt64(r.Metrics.target.state, 1, with(attribute.Stringer("health", t.Health), attribute.Stringer("admin", t.Admin)))
	r.to.ObserveInt64(r.Metrics.target.serving, number(t.Serving), own)
	r.to.ObserveFloat64(r.Metrics.target.share, t.Share, own)
	r.to.ObserveInt64(r.Metrics.target.ejected, number(!t.EjectedUntil.IsZero()), own)
	r.to.ObserveInt64(r.Metrics.target.inFlight, t.Load, own)
	r.to.ObserveInt64(r.Metrics.target.tunnels, t.Tunnels, own)
	r.to.ObserveFloat64(r.Metrics.target.latency, t.Latency.Seconds(), own)
	r.to.ObserveFloat64(r.Metrics.target.checkTime, t.Check.Duration.Seconds(), own)
	r.to.ObserveInt64(r.Metrics.target.checks, t.Check.Total-t.Check.Failed, with(attribute.String("result", "success")))
	r.to.ObserveInt64(r.Metrics.target.checks, t.Check.Failed, with(attribute.String("result", "failure")))
	r.to.ObserveInt64(r.Metrics.target.ejections, t.Passive.Ejections, own)
	r.to.ObserveInt64(r.Metrics.target.refused, t.Passive.Refused, own)
	for _, c := range t.Outcomes {
		r.to.ObserveInt64(r.Metrics.target.requests, c.Count, with(attribute.String("class", c.Class), attribute.String("code", c.Status)))
	}
}

// text returns the attribute of an ID or a zone. These may be any bytes, but exporters drop a whole
// batch if one value is not valid UTF-8, so text quotes such a value. It also quotes a value that
// begins with a quotation mark, so that different values have different results.
func text(key, value string) attribute.KeyValue {
	if !utf8.ValidString(value) || strings.HasPrefix(value, `"`) {
		value = strconv.Quote(value)
	}
	return attribute.String(key, value)
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
