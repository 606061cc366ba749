package health

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Latencies have eight buckets for each power of two microseconds. A bucket is at most an eighth as
// wide as its lower bound, so its middle is off by at most a sixteenth.
const (
	bucketBits = 3
	maxBucket  = 1<<27 - 1 // in µs: 134 s; longer latencies count as this
	buckets    = (27 - bucketBits + 1) << bucketBits
)

// bucket returns the number of the bucket that d falls into.
func bucket(d time.Duration) int {
	us := uint64(min(max(d.Microseconds(), 0), maxBucket))
	if us < 1<<bucketBits {
		return int(us)
	}
	shift := bits.Len64(us) - bucketBits - 1
	return (shift+1)<<bucketBits + int(us>>shift) - 1<<bucketBits
}

// middle returns the middle of a bucket.
func middle(bucket int) time.Duration {
	if bucket < 1<<bucketBits {
		return time.Duration(bucket)*time.Microsecond + time.Microsecond/2
	}
	shift := bucket>>bucketBits - 1
	low := time.Duration(bucket&(1<<bucketBits-1)+1<<bucketBits) << shift * time.Microsecond
	return low + time.Microsecond<<shift/2
}

// latencies are the histograms of the latest steps.
type latencies [latencySlots]latencySlot

// A latencySlot is the histogram of one step.
type latencySlot struct {
	mark   atomic.Uint32 // the number of the step plus one
	counts [buckets]atomic.Uint32
}

// begin resets the slot for a later step. The caller holds the traffic's mu.
func (s *latencySlot) begin(mark uint32) {
	if s.mark.Load() >= mark {
		return
	}
	for i := range s.counts {
		s.counts[i].Store(0)
	}
	s.mark.Store(mark)
}

// addTo adds the counts of the present step and the three before it. The caller holds the traffic's
// mu.
func (l *latencies) addTo(h *histogram, present uint32) {
	for i := range l {
		mark := l[i].mark.Load()
		if mark == 0 || mark > present || present-mark >= latencySlots {
			continue
		}
		for b := range l[i].counts {
			n := l[i].counts[b].Load()
			h.counts[b] += uint64(n)
			h.all += uint64(n)
		}
	}
}

// A histogram counts latencies.
type histogram struct {
	all    uint64
	counts [buckets]uint64
}

func (h *histogram) merge(o *histogram) {
	if o.all == 0 {
		return
	}
	h.all += o.all
	for i, n := range o.counts {
		h.counts[i] += n
	}
}

// quantile returns the latency that a share q of all does not exceed. It returns 0 if there are
// none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.all == 0 {
		return 0
	}
	rank := uint64(math.Ceil(q * float64(h.all)))
	for b, n := range h.counts {
		if n >= rank {
			return middle(b)
		}
		rank -= n
	}
	return middle(buckets - 1)
}
