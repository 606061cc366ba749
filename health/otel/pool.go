package otel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// noCandidate is the reason of requests without a candidate.
const noCandidate = "none"

// A pool has the attributes of one pool. As an observer it fills instruments.
type pool struct {
	*Metrics
	registry *health.Registry
	name     []attribute.KeyValue     // the pool's attribute; empty if it has no name
	own      metric.MeasurementOption // the same

	// Attributes that every request needs are made once.
	answered []metric.RecordOption // latency of class ok
	found    [][]metric.AddOption  // candidates, by stickiness.Reason
	none     []metric.AddOption    // requests without a candidate
	bound    [][]metric.AddOption  // bindings, by stickiness.Result

	trace func() *wsproxy.Trace // makes the trace at the first call
}

func newPool(m *Metrics, r *health.Registry) *pool {
	p := &pool{Metrics: m, registry: r}
	if name := r.Pool.Name(); name != "" {
		p.name = []attribute.KeyValue{attribute.String("pool", name)}
	}
	p.own = p.with()
	p.answered = []metric.RecordOption{p.with(attribute.Stringer("class", balancer.OK))}
	p.found, p.bound = each[stickiness.Reason](p, "reason", "reason "), each[stickiness.Result](p, "result", "result ")
	p.none = []metric.AddOption{p.with(attribute.String("reason", noCandidate))}
	p.trace = sync.OnceValue(p.newTrace)
	return p
}

// with returns the pool's attribute and the others.
func (p *pool) with(more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(append(more, p.name...)...))
}

// each returns the attributes of all values of T from 0 on. The text of an invalid value begins
// with unknown.
func each[T interface {
	~uint8
	fmt.Stringer
}](p *pool, key, unknown string) (options [][]metric.AddOption) {
	for value := T(0); !strings.HasPrefix(value.String(), unknown); value++ {
		options = append(options, []metric.AddOption{p.with(attribute.String(key, value.String()))})
	}
	return options
}

// count adds one to a counter that few requests use.
func (p *pool) count(c metric.Int64Counter, key, value string) {
	c.Add(context.Background(), 1, p.with(attribute.String(key, value)))
}

// Released implements [balancer.Observer].
func (p *pool) Released(_ *balancer.Member, o balancer.Outcome) {
	switch {
	case o.Latency <= 0:
	case o.Class == balancer.OK:
		p.latency.Record(context.Background(), o.Latency.Seconds(), p.answered...)
	default:
		p.latency.Record(context.Background(), o.Latency.Seconds(), p.with(attribute.Stringer("class", o.Class)))
	}
}

// Changed implements [balancer.Observer]. It does nothing: observe reads the states.
func (p *pool) Changed(*balancer.Member, balancer.State) {}

// Waited implements [balancer.WaitObserver].
func (p *pool) Waited(w balancer.Wait) {
	p.waits.Record(context.Background(), w.Duration.Seconds(), p.with(attribute.String("result", endOf(w.Err))))
}

// endOf returns how a wait has ended.
func endOf(err error) string {
	switch {
	case err == nil:
		return "served"
	case errors.Is(err, balancer.ErrFull):
		return "timeout"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "client gone"
	default:
		return "refused" // the targets went away, for example
	}
}

// newTrace returns hooks that fill the pool's instruments.
func (p *pool) newTrace() *wsproxy.Trace {
	return &wsproxy.Trace{
		Lookup: func(r *http.Request, found []stickiness.Candidate) { p.looked(r.Context(), found) },
		Retry:  func(_ *http.Request, failed *wsproxy.Error) { p.count(p.retries, "class", failed.Class.String()) },
		Bind: func(r *http.Request, b *stickiness.Binding) {
			if int(b.Result) < len(p.bound) {
				p.bindings.Add(r.Context(), 1, p.bound[b.Result]...)
			}
		},
		Done: func(_ *http.Request, rec wsproxy.Record) {
			if rec.Err == nil {
				return
			}
			if e, ok := errors.AsType[*wsproxy.Error](rec.Err); ok {
				p.count(p.failures, "class", e.Class.String())
			}
		},
		Tunnel: func(t wsproxy.TunnelRecord) { p.ended(t.Open, t.EndedBy) },
	}
}

func (p *pool) looked(ctx context.Context, found []stickiness.Candidate) {
	if len(found) == 0 {
		p.candidates.Add(ctx, 1, p.none...)
	}
	for i := range found {
		if r := int(found[i].Reason); r < len(p.found) {
			p.candidates.Add(ctx, 1, p.found[r]...)
		}
	}
}

// learnTrace returns hooks that fill the instrument of the pool's session store.
func (p *pool) learnTrace() *stickiness.LearnTrace {
	with := func(call, result string) []metric.RecordOption {
		return []metric.RecordOption{p.with(attribute.String("call", call), attribute.String("result", result))}
	}
	var found [stickiness.Remembered + 1][]metric.RecordOption
	for from := range found {
		found[from] = with("find", stickiness.Origin(from).String())
	}
	none, failed := with("find", "none"), with("find", "failed")
	bound, unbound := with("bind", "bound"), with("bind", "failed")
	return &stickiness.LearnTrace{
		Find: func(from stickiness.Origin, ok bool, err error, took time.Duration) {
			result := none
			switch {
			case err != nil:
				result = failed
			case ok && int(from) < len(found):
				result = found[from]
			}
			p.store.Record(context.Background(), took.Seconds(), result...)
		},
		Bind: func(err error, took time.Duration) {
			result := bound
			if err != nil {
				result = unbound
			}
			p.store.Record(context.Background(), took.Seconds(), result...)
		},
	}
}

// done counts a connection of a stream.Server that has ended.
func (p *pool) done(rec stream.Record) {
	if e, ok := errors.AsType[*stream.Error](rec.Err); ok {
		p.count(p.failures, "class", e.Class.String())
	}
	if rec.EndedBy != "" {
		p.ended(rec.Duration, rec.EndedBy)
	}
}

// ended records a tunnel.
func (p *pool) ended(open time.Duration, by string) {
	p.tunnelLife.Record(context.Background(), open.Seconds(), p.own)
	p.count(p.tunnelEnds, "ended_by", by)
}
