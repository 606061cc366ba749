package balancer

import "sync/atomic"

// A Snapshot has the members that take new sessions at one moment. These are the members of the
// best tier, in configured order. It never changes and is safe for concurrent use.
type Snapshot struct {
	members []*Member
	weights []int
	sum     int64 // of the weights
	uneven  bool  // the weights differ
	unlike  bool  // the targets' weights differ, slow starts aside
	limited bool  // some have limits
	takers  int   // members that get sessions which others do not keep

	local *Snapshot // of the own zone, or this one
	next  *Snapshot // the tier that serves requests that exclude all of this one, or nil

	version   uint64      // of the pool, when it was made
	used      atomic.Bool // somebody has picked from it
	worst     Health      // the worst health that a member may have
	panicking Panic       // the panic that is in effect; only in the first tier
	bySlot    []*Member
	kin       *kin // the members that tables are made from
	draws     atomic.Pointer[alias]
	splits    atomic.Pointer[[]split] // by Split pickers
}

// Members returns the members. The slice must not be modified.
func (s *Snapshot) Members() []*Member { return s.members }

// Weights returns the members' effective weights, in the order of Members and in
// sixteenths: 16 times Target.Weight, or fewer sixteenths while a member starts slowly.
// None is below 1. The slice must not be modified.
func (s *Snapshot) Weights() []int { return s.weights }

// Local returns the members in the pool's own zone. It is s itself in three cases: Config.OneZone
// is off, no member of the zone takes new sessions, or no member of another zone does. For a
// snapshot from Where, see [Snapshot.Where].
func (s *Snapshot) Local() *Snapshot { return s.local }

// Where returns a snapshot of the members of s for which keep reports true, in the same order and
// with the same weights. It is empty if there are none. Its Local is the part of s.Local for which
// keep reports true, which may be empty; it is the snapshot itself if s.Local is s.
//
// A picker that chooses among some of the members calls Where in [Indexer.Rebuild], and picks from
// the result. Where takes time in proportion to the members. [Split] does so. Where calls keep more
// than once for a member, and also for members that are not in s: hash pickers also take into
// account targets that are out of service. keep must report the same each time.
func (s *Snapshot) Where(keep func(*Member) bool) *Snapshot {
	w := s.part(keep)
	if s.local != s {
		w.local = s.local.part(keep)
	}
	if s.next != nil {
		w.next = s.next.Where(keep)
	}
	return w
}

// part returns Where's result, but without its local part and the later tiers.
func (s *Snapshot) part(keep func(*Member) bool) *Snapshot {
	w := newSnapshot(0, len(s.bySlot))
	w.kin = s.kin.where(keep)
	for i, m := range s.members {
		if keep(m) {
			w.add(m, s.weights[i])
		}
	}
	return w
}

// has reports whether m is one of the members.
func (s *Snapshot) has(m *Member) bool {
	return int(m.slot) < len(s.bySlot) && s.bySlot[m.slot] == m
}

// gone reports whether m, which is one of the members, has been taken out of service since s was
// made.
func (s *Snapshot) gone(m *Member) bool {
	state := m.state.Load()
	return state.Admin != Ready || state.Health > s.worst || !state.EjectedUntil.IsZero() ||
		m.weight.Load() < 0 || m.more.left.Load()
}

// lost is like gone, for a member of this tier or of a later one.
func (s *Snapshot) lost(m *Member) bool {
	for ; s != nil; s = s.next {
		if s.has(m) {
			return s.gone(m)
		}
	}
	return false
}

// hasBelow reports whether m is in this tier or in a later one.
func (s *Snapshot) hasBelow(m *Member) bool {
	for ; s != nil; s = s.next {
		if s.has(m) {
			return true
		}
	}
	return false
}

// admits reports whether a request may go to m: it is in the first tier of which the
// request does not exclude every member.
func (s *Snapshot) admits(q *Request, m *Member) bool {
	for ; s != nil; s = s.next {
		if s.has(m) {
			return true
		}
		if !q.excludesAll(s.members) {
			return false
		}
	}
	return false
}

// newSnapshot returns an empty snapshot with room for n members of slots below slots.
func newSnapshot(n, slots int) *Snapshot {
	s := &Snapshot{
		members: make([]*Member, 0, n),
		weights: make([]int, 0, n),
		bySlot:  make([]*Member, slots),
		worst:   Healthy,
	}
	s.local = s
	return s
}

func (s *Snapshot) add(m *Member, weight int) {
	if len(s.members) > 0 {
		s.uneven = s.uneven || weight != s.weights[0]
		s.unlike = s.unlike || m.weight.Load() != s.members[0].weight.Load()
	}
	s.limited = s.limited || m.limits.Load() != 0
	s.worst = max(s.worst, m.state.Load().Health)
	s.members = append(s.members, m)
	s.weights = append(s.weights, weight)
	s.sum += int64(weight)
	s.bySlot[m.slot] = m
}
