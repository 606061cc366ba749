package balancer

import "sync/atomic"

// Maglev looks the request's key up in a table in which each member has its share of entries, by
// weight. A pick takes the same time whatever the number of members. If a member goes down, only
// its own keys move, and they come back with it. If Update adds or removes a target, few other keys
// move. A request with neither a key nor a client's address gets a member at random.
//
// A table has about a hundred entries for each member, at least 65,537 and at most 1,048,573. It
// depends on the IDs and weights alone, so all instances agree. Clients that may choose their keys
// can choose their target. The zero value is ready to use.
type Maglev struct {
	// MaxLoad bounds the load of each member. It is a multiple of the average load for the member's
	// weight, rounded up. If the member of a key has reached its bound, the key goes to another
	// entry of the table. 1.25 is a usual value. Zero or less means no bound, and less than 1 means
	// 1.
	MaxLoad float64

	tables  tables
	tallies kept[tallies] // if there is a bound
}

// Rebuild implements [Indexer].
func (p *Maglev) Rebuild(s *Snapshot) {
	p.tables.rebuild(s)
	if p.MaxLoad <= 0 {
		return
	}
	t := &tallies{newTally(s)}
	if s.local != s {
		t[1] = newTally(s.local)
	}
	p.tallies.add(t) // from now on Loaded updates them
	t[0].fill()
	t[1].fill()
}

// Loaded implements [Indexer].
func (p *Maglev) Loaded(m *Member, _ int64) {
	latest, before := p.tallies.both()
	latest.count(m)
	before.count(m)
}

// Pick implements [Picker].
func (p *Maglev) Pick(q *Request, s *Snapshot) *Member {
	h, ok := q.hash()
	if !ok {
		return s.draw(q)
	}
	return s.lookUp(q, h, p.bound(s))
}

func (p *Maglev) bound(s *Snapshot) bound {
	if t := p.tallies.find(s, (*tallies).isOf); t != nil {
		t := t.of(s)
		return newBound(p.MaxLoad, t.load.Load(), t.weight)
	}
	return s.bound(p.MaxLoad)
}

// tallies are those of a snapshot and of its local part, or nil. A nil pointer has none.
type tallies [2]*tally

func (t *tallies) count(m *Member) {
	if t != nil {
		t[0].count(m)
		t[1].count(m)
	}
}

// of returns the tally of s, or nil.
func (t *tallies) of(s *Snapshot) *tally {
	for _, one := range t {
		if one != nil && one.of == s {
			return one
		}
	}
	return nil
}

func (t *tallies) isOf(s *Snapshot) bool { return t.of(s) != nil }

// A tally adds up the load of a snapshot's members. A nil tally counts nothing.
type tally struct {
	of      *Snapshot
	weight  int64
	counted []atomic.Int64 // by slot: the member's part of load

	_    apart
	load atomic.Int64
	_    apart
}

func newTally(s *Snapshot) *tally {
	t := &tally{of: s, counted: make([]atomic.Int64, len(s.bySlot))}
	for _, m := range s.members {
		t.weight += int64(m.weight.Load())
	}
	return t
}

func (t *tally) fill() {
	if t != nil {
		for _, m := range t.of.members {
			t.count(m)
		}
	}
}

// count updates the sum with the member's load. It repeats that if the load has changed meanwhile.
func (t *tally) count(m *Member) {
	if t == nil || !t.of.has(m) {
		return
	}
	for {
		load := m.Load()
		t.load.Add(load - t.counted[m.slot].Swap(load))
		if m.Load() == load {
			return
		}
	}
}
