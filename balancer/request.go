package balancer

import (
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// A Request is what a [Picker] may know about the request that needs a target. The zero
// value is a request about which nothing is known. It belongs to one goroutine at a time.
type Request struct {
	HTTP   *http.Request // the request as received, read only; nil in TCP mode
	Client netip.Addr    // the client's address, as far as it is trusted; may be invalid
	Key    string        // the key that hash pickers hash; empty means Client
	Tunnel bool          // the request opens a tunnel, a WebSocket for example

	// Session identifies the session that the request belongs to. It is the same on every instance.
	// Zero means that it is not known: then [Member.SetShare] does not move the session. Issued is
	// when the session was bound, in whole seconds. The zero time means that this is not known.
	// [Pool.AcquireBound] reads both.
	Session uint64
	Issued  time.Time

	excluded []*Member
	from     *Member   // the member that does not keep the session
	old      *Snapshot // out of date, from which a member is being picked; nil: it is up to date
}

// Exclude keeps the pool from choosing m for this request, because m has failed it. A nil m is
// ignored.
func (q *Request) Exclude(m *Member) {
	if m != nil && !q.excludes(m) {
		q.excluded = append(slices.Clip(q.excluded), m) // a copy of q keeps its own
	}
}

// Skip reports whether m must not be picked for this request. There are four reasons. The request
// excludes m. m has no room for it. m has been taken out of service since the picker's snapshot was
// made. The request's session moves (see [Member.SetShare]), and m does not take such sessions.
func (q *Request) Skip(m *Member) bool {
	return m.full(q.Tunnel) || q.bars(m)
}

// bars is Skip, except that it does not look for room.
func (q *Request) bars(m *Member) bool {
	return q.excludes(m) || q.from != nil && !m.takes() || q.misses(m)
}

// misses reports whether m has been taken out of service since the picker's snapshot was made.
func (q *Request) misses(m *Member) bool { return q.old != nil && q.old.gone(m) }

func (q *Request) excludes(m *Member) bool {
	return len(q.excluded) != 0 && slices.Contains(q.excluded, m)
}

// excludesAll reports whether the request excludes every one of members.
func (q *Request) excludesAll(members []*Member) bool {
	if len(q.excluded) < len(members) {
		return false
	}
	for _, m := range members {
		if !q.excludes(m) {
			return false
		}
	}
	return true
}

// spent reports whether the request cannot use any member of s, not even one with room. s is the
// picker's snapshot.
func (q *Request) spent(s *Snapshot) bool {
	if q.old == nil {
		return q.excludesAll(s.members)
	}
	for _, m := range s.members {
		if !q.excludes(m) && !q.misses(m) {
			return false
		}
	}
	return true
}
