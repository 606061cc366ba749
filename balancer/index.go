package balancer

import (
	"sync"
	"sync/atomic"
)

// indexes are the indexes of two snapshots: the published one, and the next one.
type indexes struct{ kept[index] }

// renew fills x and makes it the index. A nil x means none. If there was no index before, the
// member at index first has the first turn.
func (p *indexes) renew(x *index, first int) {
	before := p.add(x) // from now on touch marks its members, too
	if x != nil {
		x.fill(before, first)
	}
}

// touch marks m: its load has changed. It does not block.
func (p *indexes) touch(m *Member) {
	latest, before := p.both()
	latest.touch(m)
	before.touch(m)
}

// pick returns the first member of s on its ladder that q does not skip. It reports false when
// there is no index of s, or when it takes too long to find out.
func (p *indexes) pick(q *Request, s *Snapshot) (*Member, bool) {
	x := p.find(s, (*index).isOf)
	if x == nil {
		return nil, false
	}
	return x.pick(x.ladder(s, q.Tunnel), q)
}

// An index keeps the members of a snapshot on ladders for a picker. A change of load only marks the
// member, without a lock. The next pick brings the ladders up to date. So a release never waits,
// and a pick knows all changes that came before it.
type index struct {
	whole, local *Snapshot
	level        func(m *Member) int64 // the load that counts for the order, or nil
	kinds        int                   // ladders of a snapshot: one, or one for each kind of request
	entries      []entry               // by slot

	_ apart

	// marked is the list of marked entries. The lower half is the first entry's slot, plus 1. The
	// upper half is the length of the list.
	marked atomic.Uint64

	_ apart

	mu      sync.Mutex
	ladders [4]*ladder // whole's, then local's
}

// apart is padding. It keeps fields that many goroutines change out of the cache line of fields
// that are only read.
type apart [64]byte

// An entry has a member, or nil, and its place in the list of marked entries.
type entry struct {
	member *Member
	next   uint32 // slot plus 1 of the next marked entry, or zero
	marked atomic.Bool
}

// backlog is the number of marks from which a release tries to bring the ladders up to date itself.
// Without that, a pick after many bound sessions would have much to do.
const backlog = 64

// newIndex returns an index that is empty until fill. A nil level means that load does not count.
func newIndex(s *Snapshot, level func(*Member) int64) *index {
	x := &index{
		whole: s, local: s.local, level: level, kinds: 1,
		entries: make([]entry, len(s.bySlot)),
	}
	if s.limited {
		x.kinds = 2
	}
	for _, m := range s.members {
		x.entries[m.slot].member = m
	}
	return x
}

// fill puts the members on the ladders, in the order of their turns on the old index. If old is
// nil, the member at index first has the first turn. The picker must already pass changes of load
// on to x. Picks from the old index wait no longer than copying its ladders takes.
func (x *index) fill(old *index, first int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	was := old.copyLadders()
	for i := range x.ladders {
		s, zone, kind := x.whole, i/2, i%2
		if zone == 1 {
			s = x.local
		}
		if kind >= x.kinds || zone == 1 && s == x.whole {
			continue
		}
		x.ladders[i] = x.build(s, kind)
		if was[i] != nil {
			x.resumeLocked(x.ladders[i], kind, old, was[i])
		}
		for j := range s.members {
			if m := s.members[(j+first)%len(s.members)]; x.ladders[i].nodes[m.slot].rung == none {
				x.placeLocked(x.ladders[i], kind, m)
			}
		}
		x.ladders[i].start()
	}
}

// copyLadders returns copies of the ladders. A nil index has none.
func (x *index) copyLadders() (copies [4]*ladder) {
	if x == nil {
		return copies
	}
	for i := range copies {
		copies[i] = newLadder(len(x.entries)) // allocated before x.mu is locked
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, l := range x.ladders {
		if l == nil {
			copies[i] = nil
		} else {
			copies[i].copyFrom(l)
		}
	}
	return copies
}

// build returns a ladder that knows the members' classes.
func (x *index) build(s *Snapshot, kind int) *ladder {
	l := newLadder(len(x.entries))
	classes := map[int]int32{}
	for i, m := range s.members {
		w := s.weights[i]
		c, ok := classes[w]
		if !ok {
			c = l.addClass(w)
			classes[w] = c
		}
		l.nodes[m.slot].class = c
	}
	return l
}

// resumeLocked places the members in the order that they had on the old ladder, and keeps the turns
// of the classes. Without that, a pool that changes often would begin every round with the same
// members.
func (x *index) resumeLocked(l *ladder, kind int, old *index, from *ladder) {
	for slot := range from.all {
		if m := old.entries[slot].member; x.whole.has(m) && l.nodes[slot].class != none {
			x.placeLocked(l, kind, m)
		}
	}
	l.resume(from)
}

// placeLocked puts a member where it belongs on a ladder, or takes a full one off it.
func (x *index) placeLocked(l *ladder, kind int, m *Member) {
	if x.kinds > 1 && m.full(kind == 1) {
		l.drop(m.slot)
	} else {
		l.put(m.slot, x.levelOf(m))
	}
}

func (x *index) levelOf(m *Member) int64 {
	if x.level == nil {
		return 0
	}
	return x.level(m)
}

// isOf reports whether the index is of s.
func (x *index) isOf(s *Snapshot) bool { return s == x.whole || s == x.local }

// ladder returns the ladder for requests of the kind in s, which the index is of.
func (x *index) ladder(s *Snapshot, tunnel bool) *ladder {
	at := 0
	if tunnel {
		at = x.kinds - 1
	}
	if s == x.whole {
		return x.ladders[at]
	}
	return x.ladders[2+at]
}

// touch marks m: its load has changed. It does not block. A nil index has no members.
func (x *index) touch(m *Member) {
	if x == nil || int(m.slot) >= len(x.entries) || x.level == nil && x.kinds == 1 {
		return
	}
	e := &x.entries[m.slot]
	if e.member != m || e.marked.Load() || !e.marked.CompareAndSwap(false, true) {
		return
	}
	for {
		head := x.marked.Load()
		e.next = uint32(head)
		length := head>>32 + 1
		if !x.marked.CompareAndSwap(head, length<<32|uint64(m.slot+1)) {
			continue
		}
		if length%backlog == 0 && x.mu.TryLock() {
			x.updateLocked()
			x.mu.Unlock()
		}
		return
	}
}

// updateLocked brings the ladders up to date with what has changed.
func (x *index) updateLocked() {
	if x.marked.Load() == 0 {
		return
	}
	for next := uint32(x.marked.Swap(0)); next != 0; {
		slot := next - 1
		e := &x.entries[slot]
		next = e.next
		e.marked.Store(false) // before the load is read: a change after this marks it again
		for i, l := range x.ladders {
			if l != nil && l.nodes[slot].class != none {
				x.placeLocked(l, i%2, e.member)
			}
		}
	}
}

// pick returns the first member on the ladder that q does not skip. It reports false when
// that takes too long to find out.
func (x *index) pick(l *ladder, q *Request) (*Member, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.updateLocked()
	if len(q.excluded) > 0 || q.from != nil || q.old != nil {
		return x.searchLocked(l, q)
	}
	slot := l.least()
	if slot == none {
		return nil, true
	}
	if m := x.entries[slot].member; !m.full(q.Tunnel) {
		l.pass()
		return m, true
	}
	return x.searchLocked(l, q)
}

// searchLocked is pick for requests that skip members. During the search it takes members off the
// ladder: those that the request excludes, and some that have just become full. It puts these back
// at the end. Members that are out of service stay off the ladder. If they come back, the next
// snapshot has them.
func (x *index) searchLocked(l *ladder, q *Request) (found *Member, sure bool) {
	var off [16]*Member
	away := off[:0]
	for _, m := range q.excluded {
		if x.whole.has(m) && l.nodes[m.slot].rung != none && len(away) < len(off)/2 {
			away = append(away, m)
			l.drop(m.slot)
		}
	}
	for len(away) < len(off) && !sure {
		slot := l.least()
		if slot == none {
			sure = true
		} else if m := x.entries[slot].member; q.misses(m) {
			l.drop(slot)
		} else if q.Skip(m) {
			away = append(away, m)
			l.drop(slot)
		} else {
			l.pass()
			found, sure = m, true
		}
	}
	for _, m := range away {
		l.put(m.slot, x.levelOf(m))
	}
	return found, sure
}
