package prometheus

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// noCandidate is the reason of requests without a candidate.
const noCandidate = "none"

// A pool has the metrics of one pool. As an observer it fills those of latencies and waits.
type pool struct {
	registry *health.Registry
	*descriptions
	*instruments

	// Metrics that every request needs are looked up once.
	answered prom.Observer  // latency of class ok
	found    []prom.Counter // candidates, by stickiness.Reason
	none     prom.Counter   // requests without a candidate
	bound    []prom.Counter // bindings, by stickiness.Result

	trace func() *wsproxy.Trace // makes the trace at the first call
}

func newPool(r *health.Registry, buckets []float64) *pool {
	p := &pool{registry: r, descriptions: describe(r.Pool.Name()), instruments: instrument(r.Pool.Name(), buckets)}
	p.trace = sync.OnceValue(p.newTrace)
	p.answered = p.latency.WithLabelValues(balancer.OK.String())
	return p
}

// Released implements [balancer.Observer].
func (p *pool) Released(_ *balancer.Member, o balancer.Outcome) {
	switch {
	case o.Latency <= 0:
	case o.Class == balancer.OK:
		p.answered.Observe(o.Latency.Seconds())
	default:
		p.latency.WithLabelValues(o.Class.String()).Observe(o.Latency.Seconds())
	}
}

// Changed implements [balancer.Observer]. It does nothing: collect reads the states.
func (p *pool) Changed(*balancer.Member, balancer.State) {}

// Waited implements [balancer.WaitObserver].
func (p *pool) Waited(w balancer.Wait) {
	p.waits.WithLabelValues(endOf(w.Err)).Observe(w.Duration.Seconds())
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

// newTrace returns hooks that fill the pool's metrics.
func (p *pool) newTrace() *wsproxy.Trace {
	p.found = each[stickiness.Reason](p.candidates, "reason ")
	p.bound = each[stickiness.Result](p.bindings, "result ")
	p.none = p.candidates.WithLabelValues(noCandidate)
	return &wsproxy.Trace{
		Lookup: func(_ *http.Request, found []stickiness.Candidate) { p.looked(found) },
		Retry:  func(_ *http.Request, failed *wsproxy.Error) { p.retries.WithLabelValues(failed.Class.String()).Inc() },
		Bind: func(_ *http.Request, b *stickiness.Binding) {
			if int(b.Result) < len(p.bound) {
				p.bound[b.Result].Inc()
			}
		},
		Done: func(_ *http.Request, rec wsproxy.Record) {
			if rec.Err == nil {
				return
			}
			if e, ok := errors.AsType[*wsproxy.Error](rec.Err); ok {
				p.failures.WithLabelValues(e.Class.String()).Inc()
			}
		},
		Tunnel: func(t wsproxy.TunnelRecord) {
			p.tunnelLife.Observe(t.Open.Seconds())
			p.tunnelEnds.WithLabelValues(t.EndedBy).Inc()
		},
	}
}

func (p *pool) looked(found []stickiness.Candidate) {
	if len(found) == 0 {
		p.none.Inc()
	}
	for i := range found {
		if r := int(found[i].Reason); r < len(p.found) {
			p.found[r].Inc()
		}
	}
}

// learnTrace returns hooks that fill the metrics of the pool's session store.
func (p *pool) learnTrace() *stickiness.LearnTrace {
	return &stickiness.LearnTrace{
		Find: func(from stickiness.Origin, ok bool, err error, took time.Duration) {
			result := from.String()
			switch {
			case err != nil:
				result = "failed"
			case !ok:
				result = "none"
			}
			p.store.WithLabelValues("find", result).Observe(took.Seconds())
		},
		Bind: func(err error, took time.Duration) {
			result := "bound"
			if err != nil {
				result = "failed"
			}
			p.store.WithLabelValues("bind", result).Observe(took.Seconds())
		},
	}
}

// each returns the counters of all values of T from 0 on. The text of an invalid value begins with
// the prefix.
func each[T interface {
	~uint8
	fmt.Stringer
}](v *prom.CounterVec, unknown string) (counters []prom.Counter) {
	for value := T(0); !strings.HasPrefix(value.String(), unknown); value++ {
		counters = append(counters, v.WithLabelValues(value.String()))
	}
	return counters
}

// done counts a connection of a stream.Server that has ended.
func (p *pool) done(rec stream.Record) {
	if e, ok := errors.AsType[*stream.Error](rec.Err); ok {
		p.failures.WithLabelValues(e.Class.String()).Inc()
	}
	if rec.EndedBy != "" {
		p.tunnelLife.Observe(rec.Duration.Seconds())
		p.tunnelEnds.WithLabelValues(rec.EndedBy).Inc()
	}
}
