package balancer

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// The moving peak's constants: how fast it forgets, and what a failure counts as.
const (
	peakMemory  = 10 * time.Second // after this long a peak has sunk to 1/e of itself
	failureMin  = time.Second      // the least that a failed attempt counts as
	failureMost = time.Minute      // the most that failures in a row grow to
)

// A peak is a moving peak of latencies. A sample above it raises it at once, and a sample below it
// lowers it by more the older it is. The upper half of v is the peak in microseconds. The lower
// half is the pool's clock in milliseconds at that time. So both change in one step. The clock
// wraps after 49 days, which only makes a peak of that age look fresh.
type peak struct{ v atomic.Uint64 }

func (p *peak) at(now time.Duration) time.Duration {
	v := p.v.Load()
	return time.Duration(float64(stored(v)) * fading(v, now))
}

// add takes a sample. A failure counts as at least a second and as twice the peak, so that a target
// that fails fast does not look like a fast one.
func (p *peak) add(now, sample time.Duration, failed bool) {
	for {
		v := p.v.Load()
		old, fade := stored(v), fading(v, now)
		next := sample
		switch {
		case failed:
			sunk := time.Duration(float64(old) * fade)
			next = max(sample, min(max(2*sunk, failureMin), failureMost))
		case sample < old:
			next = sample + time.Duration(float64(old-sample)*fade)
		}
		if p.v.CompareAndSwap(v, pack(next, now)) {
			return
		}
	}
}

// stored returns the peak as it was when it was written.
func stored(v uint64) time.Duration { return time.Duration(v>>32) * time.Microsecond }

// fading returns what is left of the peak now, as a share of one.
func fading(v uint64, now time.Duration) float64 {
	age := time.Duration(uint32(now.Milliseconds())-uint32(v)) * time.Millisecond
	return math.Exp(-float64(age) / float64(peakMemory))
}

func pack(peak, now time.Duration) uint64 {
	us := min(max(peak.Microseconds(), 1), math.MaxUint32)
	return uint64(us)<<32 | uint64(uint32(now.Milliseconds()))
}

// accusers remembers the latest client with a failure that the client itself may have caused. The
// upper half of v is the client's hash, which is never zero. The lower half is the pool's clock in
// milliseconds.
type accusers struct{ v atomic.Uint64 }

// several notes a failure of client, and reports whether another client had one recently.
func (a *accusers) several(client netip.Addr, now time.Duration) bool {
	h := uint32(1)
	if network := ClientNetwork(client); network.IsValid() {
		h = uint32(hashAddr(network)) | 2
	}
	ms := uint32(now.Milliseconds())
	last := a.v.Swap(uint64(h)<<32 | uint64(ms))
	age := time.Duration(ms-uint32(last)) * time.Millisecond
	return last != 0 && uint32(last>>32) != h && age < peakMemory
}
