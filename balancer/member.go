package balancer

import (
	"math"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

// A Member is a target in a pool: its identity, its load and its state. A [Pool] makes it and keeps
// it through updates as long as the target's ID and endpoint stay the same. All methods are safe
// for concurrent use.
//
// The struct has what acquire and release need and fills one cache line.
type Member struct {
	more *details

	// counts holds the outstanding requests in its lower half and the tunnels in its upper half, so
	// that one atomic operation reserves a place. limits holds the bounds of both in the same way.
	counts atomic.Uint64
	limits atomic.Uint64

	state   atomic.Pointer[State]
	latency peak
	turn    turn         // among members that tie
	hash    uint64       // of the ID
	slot    int32        // unique among the pool's members, and small: the place in tables
	weight  atomic.Int32 // Target.Weight
}

// details are the parts of a member that are seldom needed.
type details struct {
	pool     *Pool
	target   atomic.Pointer[Target]
	network  string // of the endpoint, which no update changes
	address  string
	left     atomic.Bool   // the member is no longer in the set
	removed  atomic.Bool   // observers have been called for that, or are being called
	revision atomic.Uint64 // see Member.TLSRevision
	accusers accusers
	share    atomic.Pointer[share] // nil: all
	taker    atomic.Bool           // the member keeps all sessions and is past its slow start, as of the latest snapshot

	// Guarded by Pool.mu.
	warmup  time.Time // when a slow start began, zero if none is going on
	pending bool      // in Pool.pending
	leaving bool      // in Pool.leaving
}

// One place of each kind, in Member.counts.
const (
	oneRequest = 1
	oneTunnel  = 1 << 32
)

func newMember(p *Pool, t *Target) *Member {
	m := &Member{more: &details{pool: p}, hash: hashString(t.ID)}
	m.more.network, m.more.address = t.Endpoint()
	m.state.Store(State{}.shared())
	m.configure(t)
	m.turn.start(t.Weight)
	return m
}

// configure takes over a target of the same ID and endpoint.
func (m *Member) configure(t *Target) {
	if old := m.more.target.Swap(t); old != nil && !old.sameTLS(t) {
		m.more.revision.Add(1)
	}
	m.weight.Store(int32(t.Weight))
	m.limits.Store(limit(t.MaxTunnels)<<32 | limit(t.MaxRequests))
}

// limit returns n, or the largest number that fits into half a word.
func limit(n int) uint64 { return min(uint64(n), math.MaxUint32) }

func (m *Member) target() *Target { return m.more.target.Load() }

// Pool returns the pool that the member is, or was, in.
func (m *Member) Pool() *Pool { return m.more.pool }

// ID returns the target's ID.
func (m *Member) ID() string { return m.target().ID }

// Target returns the target as it is configured now, in the form that the pool keeps. The URL, the
// Certificate, the ForZones and the Labels are copies, which are allocated: [Member.URL],
// [Member.Endpoint] and [Member.Label] allocate nothing.
func (m *Member) Target() Target {
	t := *m.target()
	if t.URL != nil {
		t.URL = new(*t.URL)
	}
	t.Certificate = copyCertificate(t.Certificate)
	t.Labels, t.ForZones = copyLabels(t.Labels), slices.Clone(t.ForZones)
	return t
}

// Label returns the value of the target's label of that name, empty if it has none. It does not
// allocate.
func (m *Member) Label(name string) string { return m.target().Labels[name] }

// URL returns a copy of the target's URL, without allocating. It is empty if the target has none.
func (m *Member) URL() url.URL { return m.target().url() }

// Endpoint returns what [Target.Endpoint] returns, without allocating.
func (m *Member) Endpoint() (network, address string) {
	return m.more.network, m.more.address
}

// TLSRevision returns a number that changes when an update of the pool changes what
// [Target.TLSConfig] returns for the member. Connections that were made before that must not be
// used any more. It does not allocate.
func (m *Member) TLSRevision() uint64 { return m.more.revision.Load() }

// Load returns the number of outstanding requests and tunnels.
func (m *Member) Load() int64 { return load(m.counts.Load()) }

func load(counts uint64) int64 { return int64(uint32(counts)) + int64(counts>>32) }

// Tunnels returns the number of open tunnels.
func (m *Member) Tunnels() int64 { return int64(m.counts.Load() >> 32) }

// State returns the member's state.
func (m *Member) State() State { return *m.state.Load() }

// Latency returns the moving peak of the latencies that outcomes reported. A slow answer raises it
// at once, and faster answers lower it with time. A failure counts as a slow answer if it is the
// target's own, or if another client had a failure in the last 10 seconds: one client alone cannot
// make a target look slow. Zero means that nothing is known yet.
func (m *Member) Latency() time.Duration { return m.latency.at(m.more.pool.clock()) }

// Removed reports whether the member has left its pool. The member's requests and tunnels go on,
// and still follow its administrative state. It gets nothing new. Removed reports true from the
// moment when observers are told.
func (m *Member) Removed() bool { return m.more.removed.Load() }

// SetHealth sets what is known about the member's health. After the member was removed it
// does nothing.
func (m *Member) SetHealth(h Health) {
	m.more.pool.change(m, func(s *State) { s.Health = h })
}

// SetAdmin sets what the operator wants of the member. It also works on a removed member until its
// last lease is gone, so that requests and tunnels there can still be moved and cut. After that
// SetAdmin does nothing.
func (m *Member) SetAdmin(a Admin) {
	m.more.pool.change(m, func(s *State) { s.Admin = a })
}

// SwapAdmin sets the administrative state to next if it is old, and reports whether it was. With it
// a caller that takes a member through several states does not undo what somebody else has set.
func (m *Member) SwapAdmin(old, next Admin) (swapped bool) {
	m.more.pool.change(m, func(s *State) {
		if swapped = s.Admin == old; swapped {
			s.Admin = next
		}
	})
	return swapped
}

// Eject takes the member out of service until that time. The pool's own timer then ends the
// ejection. The zero time, or one that has passed, ends an ejection at once. After the member was
// removed Eject does nothing.
func (m *Member) Eject(until time.Time) {
	if !until.After(time.Now()) {
		until = time.Time{}
	}
	m.more.pool.change(m, func(s *State) { s.EjectedUntil = until })
}

// full reports whether the member has no free place for a request, or for a tunnel.
func (m *Member) full(tunnel bool) bool {
	limits := m.limits.Load()
	if limits == 0 {
		return false
	}
	return !room(m.counts.Load(), limits, tunnel)
}

// room reports whether counts may grow by one of the kind.
func room(counts, limits uint64, tunnel bool) bool {
	if tunnel {
		counts, limits = counts>>32, limits>>32
	}
	return uint32(limits) == 0 || uint32(counts) < uint32(limits)
}

// over reports whether more places are taken than the limit allows, because it was lowered.
func (m *Member) over(tunnel bool) bool {
	return !room(m.counts.Load()-place(tunnel), m.limits.Load(), tunnel)
}

// reserve takes a place of the kind, and returns the load that includes it. It fails if no place is
// free. Concurrent calls never take more places than there are.
func (m *Member) reserve(tunnel bool) (int64, bool) {
	one := place(tunnel)
	limits := m.limits.Load()
	if limits == 0 {
		return load(m.counts.Add(one)), true
	}
	for {
		counts := m.counts.Load()
		if !room(counts, limits, tunnel) {
			return 0, false
		}
		if m.counts.CompareAndSwap(counts, counts+one) {
			return load(counts + one), true
		}
	}
}

// free gives a place back, and returns the remaining load.
func (m *Member) free(tunnel bool) int64 {
	return load(m.counts.Add(-place(tunnel)))
}

func place(tunnel bool) uint64 {
	if tunnel {
		return oneTunnel
	}
	return oneRequest
}
