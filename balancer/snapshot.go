package balancer

import (
	"math/rand/v2"
	"sync/atomic"
)

// A Snapshot is the members that take new sessions at one moment: those of the best tier,
// in configured order. It never changes and is safe for concurrent use.
type Snapshot struct {
	members []*Member
	weights []int
	uneven  bool // the weights differ
	unlike  bool // the targets' weights differ, slow starts aside
	limited bool // some have limits
	takers  int  // members that get sessions which others do not keep

	local *Snapshot // of the own zone, or this one
	next  *Snapshot // the tier that serves requests that exclude all of this one, or nil

	version   uint64 // of the pool, when it was made
	panicking Panic  // that is on; of the first tier only
	bySlot    []*Member
	kin       *kin // whom to make tables of
	draws     atomic.Pointer[alias]
}

// Members returns the members. The slice must not be modified.
func (s *Snapshot) Members() []*Member { return s.members }

// Weights returns the members' effective weights, in the order of Members and in
// sixteenths: 16 times Target.Weight, or fewer sixteenths while a member starts slowly.
// None is below 1. The slice must not be modified.
func (s *Snapshot) Weights() []int { return s.weights }

// Local returns the members in the pool's own zone. It is s itself when Config.OneZone is
// off, when no member of the zone takes new sessions, and when none of another does.
func (s *Snapshot) Local() *Snapshot { return s.local }

// has reports whether m is one of the members.
func (s *Snapshot) has(m *Member) bool {
	return int(m.slot) < len(s.bySlot) && s.bySlot[m.slot] == m
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
	s.members = append(s.members, m)
	s.weights = append(s.weights, weight)
	s.bySlot[m.slot] = m
}

// draw returns a member by weight at random, or nil if there is none that q does not skip.
func (s *Snapshot) draw(q *Request) *Member { return s.at(s.index(q, none)) }

// at returns the member at an index, nil if that is none.
func (s *Snapshot) at(i int) *Member {
	if i < 0 {
		return nil
	}
	return s.members[i]
}

// index returns the index of a member by weight at random, or none if there is none that q
// does not skip. It is not the one called other, which may be none.
func (s *Snapshot) index(q *Request, other int) int {
	if n := len(s.members); n == 0 || n == 1 && other == 0 {
		return none
	}
	for range 8 {
		if i := s.random(other); i != other && !q.Skip(s.members[i]) {
			return i
		}
	}
	return s.search(q, other)
}

// random returns an index by weight at random, of one of two members at least if other is
// not none. With uneven weights it may be the other one.
func (s *Snapshot) random(other int) int {
	n := len(s.members)
	switch {
	case s.uneven:
		a := s.draws.Load()
		if a == nil {
			a = newAlias(s.weights)
			s.draws.Store(a)
		}
		return a.draw()
	case other < 0:
		return rand.IntN(n)
	}
	i := rand.IntN(n - 1)
	if i >= other {
		i++
	}
	return i
}

// search looks at all members to draw one by weight.
func (s *Snapshot) search(q *Request, other int) int {
	found := none
	var sum int64
	for i, m := range s.members {
		if i == other || q.Skip(m) {
			continue
		}
		w := int64(s.weights[i])
		if sum += w; rand.Int64N(sum) < w {
			found = i
		}
	}
	return found
}

// An alias is a table to draw indices by weight in constant time, after Walker and Vose:
// each column has an own share, and the rest of it belongs to one other index.
type alias struct {
	own   []uint32 // the own share of a column, of 1<<32
	other []uint32
}

func newAlias(weights []int) *alias {
	n := len(weights)
	a := &alias{own: make([]uint32, n), other: make([]uint32, n)}
	var sum float64
	for _, w := range weights {
		sum += float64(w)
	}
	share := make([]float64, n) // of a column: the average is 1
	var small, large []int
	for i, w := range weights {
		share[i] = float64(w) * float64(n) / sum
		if share[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.own[s], a.other[s] = uint32(share[s]*(1<<32)), uint32(l)
		if share[l] -= 1 - share[s]; share[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) { // full columns, but for rounding
		a.own[i], a.other[i] = 1<<32-1, uint32(i)
	}
	return a
}

func (a *alias) draw() int {
	r := rand.Uint64()
	i := int((r >> 32) * uint64(len(a.own)) >> 32)
	if uint32(r) < a.own[i] {
		return i
	}
	return int(a.other[i])
}
