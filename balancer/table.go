package balancer

import (
	"cmp"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"
)

// tables are the tables of a snapshot and of its local part that a picker was last rebuilt with.
type tables struct{ of atomic.Pointer[[2]*table] }

// A table maps hashes to members. It has all configured members, whatever their state, so that it
// stays the same when one goes down. It is kept with the kin that it is made of.
type table struct {
	members []*Member // sorted by ID
	weights []int
	entries []uint32 // indices of members
}

// rebuild makes the tables of s and of its local part, unless their kin have them already.
func (t *tables) rebuild(s *Snapshot) {
	var next [2]*table
	if last := t.of.Load(); last != nil {
		next = *last
	}
	next[0] = next[0].renew(s.kin)
	if s.local != s {
		next[1] = next[1].renew(s.local.kin)
	}
	t.of.Store(&next)
}

// renew returns the table of k. If there is none it makes one, with the entries of t if the
// members' IDs and weights are the same. If k is nil it returns t.
func (t *table) renew(k *kin) *table {
	if k == nil {
		return t
	}
	if n := k.table.Load(); n != nil {
		return n
	}
	n := newTable(k)
	if t != nil && slices.Equal(t.weights, n.weights) && slices.EqualFunc(t.members, n.members, sameID) {
		n.entries = t.entries
	} else {
		n.fill()
	}
	k.table.Store(n)
	return n
}

func sameID(a, b *Member) bool { return a.ID() == b.ID() }

func newTable(k *kin) *table {
	order := make([]int, len(k.members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(k.members[a].ID(), k.members[b].ID()) })
	t := &table{}
	for _, i := range order {
		t.members = append(t.members, k.members[i])
		t.weights = append(t.weights, k.weights[i])
	}
	return t
}

// tableSizes are primes, so that a walk through the table visits each entry, whatever its step.
var tableSizes = [...]uint64{65_537, 131_071, 262_147, 524_287, 1_048_573}

func tableSize(members int) uint64 {
	for _, size := range tableSizes {
		if size >= 100*uint64(members) {
			return size
		}
	}
	return tableSizes[len(tableSizes)-1]
}

// fill gives the entries to the members in turn, by weight. Each member walks through the table in
// an order of its own and takes the next free entry.
func (t *table) fill() {
	size := tableSize(len(t.members))
	t.entries = make([]uint32, size)
	taken := make([]uint64, size/64+1) // a bit for each entry, so that it fits into the caches
	type walk struct{ at, step uint64 }
	walks := make([]walk, len(t.members))
	for i, m := range t.members {
		walks[i] = walk{m.hash % size, mix(m.hash)%(size-1) + 1}
	}
	next := t.turns()
	for n := range size {
		if n%pause == pause-1 {
			runtime.Gosched() // let picks run first
		}
		i := next()
		w := &walks[i]
		at := w.at
		for taken[at/64]>>(at%64)&1 != 0 {
			if at += w.step; at >= size {
				at -= size
			}
		}
		w.at = at
		taken[at/64] |= 1 << (at % 64)
		t.entries[at] = uint32(i)
	}
}

// pause is how many entries are filled before other goroutines may run.
const pause = 1 << 16

// turns returns a function that returns the index of the member whose turn it is, by weight.
func (t *table) turns() func() int {
	if w := t.weights[0]; !slices.ContainsFunc(t.weights, func(o int) bool { return o != w }) {
		last := len(t.weights) - 1
		return func() int {
			if last++; last == len(t.weights) {
				last = 0
			}
			return last
		}
	}
	l := newLadder(len(t.members)) // without load they take turns by weight
	classes := map[int]int32{}
	for i, w := range t.weights {
		c, ok := classes[w]
		if !ok {
			c = l.addClass(w)
			classes[w] = c
		}
		l.nodes[i].class = c
		l.put(int32(i), 0)
	}
	l.start()
	return func() int {
		i := l.least()
		l.pass()
		return int(i)
	}
}

// probes is how many entries a pick looks at before it scores the members instead.
const probes = 32

// lookUp returns the member that the table of s has for h, or the one that scores highest if there
// is no table.
func (s *Snapshot) lookUp(q *Request, h uint64, b bound) *Member {
	if s.kin != nil {
		if t := s.kin.table.Load(); t != nil {
			if m := t.pick(q, s, h, b); m != nil {
				return m
			}
		}
	}
	return s.rendezvous(q, h, b)
}

func (t *table) pick(q *Request, s *Snapshot, h uint64, b bound) *Member {
	n := uint64(len(t.entries))
	for range probes {
		i, _ := bits.Mul64(h, n)
		m := t.members[t.entries[i]]
		if s.has(m) && b.allows(m) && !q.Skip(m) {
			return m
		}
		h = mix(h) // not the entry beside it: the walks make neighbours alike
	}
	return nil
}
