package balancer

import (
	"sync"
	"sync/atomic"
)

// indexes are the index of the published snapshot and of the one that is to be published.
type indexes struct{ kept[index] }

// renew makes x the index, nil for none, and fills it. Without one before, the member at index
// first has the first turn.
func (p *indexes) renew(x *index, first int) {
	before := p.add(x) // from now on it hears of changes
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

// An index keeps the members of a snapshot on ladders for a picker. A member whose load has
// changed is marked, without a lock, and the next pick brings the ladders up to date: a
// release never waits, and a pick sees all that happened before it.
type index struct {
	whole, local *Snapshot
	level        func(m *Member) int64 // the load that counts for the order, or nil
	kinds        int                   // ladders of a snapshot: one, or one for each kind of request
	entries      []entry               // by slot

	_ apart

	// marked is the list of marked entries: the first one's slot and 1 in the lower half,
	// the list's length in the upper one.
	marked atomic.Uint64

	_ apart

	mu      sync.Mutex
	ladders [4]*ladder // whole's, then local's
}

// apart keeps what many goroutines change off the cache line of what they only read.
type apart [64]byte

// An entry is a member, nil for none, and its place on the list of those that are marked.
type entry struct {
	member *Member
	next   uint32 // slot and 1, or zero
	marked atomic.Bool
}

// backlog is how many marks may come together before somebody tries to work them off at
// once, so that a pick after many bound sessions has little to do.
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

// fill puts the members on the ladders, in the order of the turns that they had on those
// of the old index. Without one, which is nil then, the member at index first has the
// first turn. By now the picker must pass changes on to this index. Picks from the old one wait
// for no more than a copy of its ladders.
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
			x.resume(x.ladders[i], kind, old, was[i])
		}
		for j := range s.members {
			if m := s.members[(j+first)%len(s.members)]; x.ladders[i].nodes[m.slot].rung == none {
				x.place(x.ladders[i], kind, m)
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
		copies[i] = newLadder(len(x.entries)) // before the lock
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

// resume places the members that were on the old ladder as they stood there, and lets the
// classes go on. Otherwise a pool that changes all the time would begin every round with
// the same ones.
func (x *index) resume(l *ladder, kind int, old *index, from *ladder) {
	for slot := range from.all {
		if m := old.entries[slot].member; x.whole.has(m) && l.nodes[slot].class != none {
			x.place(l, kind, m)
		}
	}
	l.resume(from)
}

// place puts a member where it belongs on a ladder of its.
func (x *index) place(l *ladder, kind int, m *Member) {
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
			x.update()
			x.mu.Unlock()
		}
		return
	}
}

// update brings the ladders up to date with what has changed. The lock is held.
func (x *index) update() {
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
				x.place(l, i%2, e.member)
			}
		}
	}
}

// pick returns the first member on the ladder that q does not skip. It reports false when
// that takes too long to find out.
func (x *index) pick(l *ladder, q *Request) (*Member, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.update()
	if len(q.excluded) > 0 || q.from != nil || q.old != nil {
		return x.search(l, q)
	}
	slot := l.least()
	if slot == none {
		return nil, true
	}
	if m := x.entries[slot].member; !m.full(q.Tunnel) {
		l.pass()
		return m, true
	}
	return x.search(l, q)
}

// search takes off the ladder, for as long as it looks, the members that the request
// excludes and some that filled up this moment. Those that are out of service stay off: if they
// come back, the next snapshot has them.
func (x *index) search(l *ladder, q *Request) (found *Member, sure bool) {
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
