package health

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Times and numbers of steps for which a traffic has counts.
const (
	countStep    = 10 * time.Second
	recentSteps  = 30 // whole steps in a History: five minutes
	countSlots   = 32 // recentSteps, the present one, and a power of two
	latencyStep  = 20 * time.Second
	latencySlots = 4 // the present step and three whole ones: 60 to 80 s
)

// TrafficStatus describes the traffic since Run began: that of a target, or that of all targets in
// the pool. It counts an attempt when it ends. Attempts that wait for an answer, and open tunnels,
// are in TargetStatus.Load. The record takes 0.6 KB for each target, and 3.2 KB more after the
// target's first answer.
type TrafficStatus struct {
	Requests int64 `json:"requests"` // plain requests that ended
	Tunnels  int64 `json:"tunnels"`  // tunnels that ended, and upgrades that failed
	Retried  int64 `json:"retried"`  // requests and upgrades that were retried on another target

	// Attempts that ended per second, on average over the latest 10 to 20 s. FailedRate counts
	// failed attempts, and answers with status 500 or more. It leaves out attempts that the client
	// aborted and those that show nothing about the target.
	RequestRate float64 `json:"request_rate"`
	TunnelRate  float64 `json:"tunnel_rate"`
	FailedRate  float64 `json:"failed_rate"`

	// The time from sending a request to receiving the header of its answer, over the answers of
	// the latest 60 to 80 s. Between 8 µs and 2 minutes the error is at most 6.25%. Zero means that
	// there was no answer.
	Median time.Duration `json:"median_ns"`
	P99    time.Duration `json:"p99_ns"`

	Recent History `json:"recent,omitzero"`
}

// A History counts attempts that ended, in each of thirty steps of 10 s. The oldest step is the
// first, and the latest whole step is the last.
type History struct {
	Ended  []uint32 `json:"ended,omitempty"`  // requests and tunnels; nil: nothing ended
	Failed []uint32 `json:"failed,omitempty"` // those of them that FailedRate counts; nil: none
}

// A traffic records the attempts that end at a target. It adds two atomic additions to the cost of
// a release. It allocates only the histograms, at the first answer.
type traffic struct {
	tunnels atomic.Int64
	retried atomic.Int64
	latency atomic.Pointer[latencies]
	counts  [countSlots]countSlot
	mu      sync.Mutex // held to reset a slot, and to read
}

// A countSlot counts what ended in one step.
type countSlot struct {
	mark                      atomic.Uint32 // the number of the step plus one
	requests, tunnels, failed atomic.Uint32
}

// add records an outcome at now, a time since the run's epoch.
func (t *traffic) add(o balancer.Outcome, now time.Duration) {
	if o.Retried {
		t.retried.Add(1)
	}
	if o.Tunnel {
		t.tunnels.Add(1)
	}
	if s := t.slot(uint32(now/countStep) + 1); s != nil {
		if o.Tunnel {
			s.tunnels.Add(1)
		} else {
			s.requests.Add(1)
		}
		if isFailed(o) {
			s.failed.Add(1)
		}
	}
	if o.Class == balancer.OK && o.Latency > 0 {
		t.addLatency(o.Latency, uint32(now/latencyStep)+1)
	}
}

// isFailed reports whether an attempt counts as failed for FailedRate.
func isFailed(o balancer.Outcome) bool {
	switch o.Class {
	case balancer.ClientGone, balancer.Unjudged:
		return false
	}
	return o.Class != balancer.OK || o.Status >= 500
}

// slot returns the slot of a step. It returns nil if a later step has the slot already.
func (t *traffic) slot(mark uint32) *countSlot {
	s := &t.counts[mark%countSlots]
	switch was := s.mark.Load(); {
	case was < mark:
		t.mu.Lock()
		defer t.mu.Unlock()
		if s.mark.Load() < mark {
			s.requests.Store(0)
			s.tunnels.Store(0)
			s.failed.Store(0)
			s.mark.Store(mark)
		}
	case was > mark:
		return nil
	}
	return s
}

func (t *traffic) addLatency(d time.Duration, mark uint32) {
	l := t.latency.Load()
	if l == nil {
		t.latency.CompareAndSwap(nil, new(latencies))
		l = t.latency.Load()
	}
	s := &l[mark%latencySlots]
	switch was := s.mark.Load(); {
	case was < mark:
		t.mu.Lock()
		s.begin(mark)
		t.mu.Unlock()
	case was > mark:
		return
	}
	s.counts[bucket(d)].Add(1)
}

// A tally adds up the traffic of targets.
type tally struct {
	now               time.Duration // since the run's epoch
	requests, tunnels int64
	retried           int64
	ended, failed     [recentSteps]uint32
	recent            struct{ requests, tunnels, failed uint32 } // in the present step and the one before
	latency           histogram
}

// add adds the traffic of a target. The argument outcomes counts all attempts that ended there.
func (a *tally) add(t *traffic, outcomes *outcomes) {
	tunnels := t.tunnels.Load() // first, so that tunnels is never more than the sum
	a.requests += max(0, outcomes.sum()-tunnels)
	a.tunnels += tunnels
	a.retried += t.retried.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	present := uint32(a.now/countStep) + 1
	for i := range t.counts {
		s := &t.counts[i]
		mark := s.mark.Load()
		if mark == 0 || mark > present || present-mark > recentSteps {
			continue
		}
		requests, tunnels, failed := s.requests.Load(), s.tunnels.Load(), s.failed.Load()
		if age := present - mark; age > 0 {
			a.ended[recentSteps-age] += requests + tunnels
			a.failed[recentSteps-age] += failed
		}
		if present-mark <= 1 {
			a.recent.requests += requests
			a.recent.tunnels += tunnels
			a.recent.failed += failed
		}
	}
	if l := t.latency.Load(); l != nil {
		l.addTo(&a.latency, uint32(a.now/latencyStep)+1)
	}
}

// merge adds another tally of the same time.
func (a *tally) merge(b *tally) {
	a.requests += b.requests
	a.tunnels += b.tunnels
	a.retried += b.retried
	a.recent.requests += b.recent.requests
	a.recent.tunnels += b.recent.tunnels
	a.recent.failed += b.recent.failed
	for i := range a.ended {
		a.ended[i] += b.ended[i]
		a.failed[i] += b.failed[i]
	}
	a.latency.merge(&b.latency)
}

func (a *tally) status() TrafficStatus {
	span := a.now%countStep + countStep
	seconds := max(min(span, a.now), time.Second).Seconds()
	return TrafficStatus{
		Requests: a.requests, Tunnels: a.tunnels, Retried: a.retried,
		RequestRate: float64(a.recent.requests) / seconds,
		TunnelRate:  float64(a.recent.tunnels) / seconds,
		FailedRate:  float64(a.recent.failed) / seconds,
		Median:      a.latency.quantile(0.5),
		P99:         a.latency.quantile(0.99),
		Recent:      History{Ended: unlessZero(a.ended[:]), Failed: unlessZero(a.failed[:])},
	}
}

// unlessZero returns a copy of counts, or nil if all are zero.
func unlessZero(counts []uint32) []uint32 {
	for _, n := range counts {
		if n != 0 {
			return append([]uint32(nil), counts...)
		}
	}
	return nil
}
