package balancer

import (
	"cmp"
	"math/bits"
	"slices"
	"sync/atomic"
)

// tables are the tables of a snapshot and of its local part.
type tables struct{ of atomic.Pointer[[2]*table] }

// A table maps hashes to members: of all the members that are configured, whatever their
// state, so that it stays when one goes down.
type table struct {
	kin     *kin
	members []*Member // sorted by ID
	weights []int
	entries []uint32 // indices of members
}

func (t *tables) rebuild(s *Snapshot) {
	var old [2]*table
	if o := t.of.Load(); o != nil {
		old = *o
	}
	next := [2]*table{old[0].renew(s.kin)}
	if s.local != s {
		next[1] = old[1].renew(s.local.kin)
	}
	t.of.Store(&next)
}

// renew returns the table for k: t itself if that is it.
func (t *table) renew(k *kin) *table {
	if k == nil || t != nil && t.kin == k {
		return t
	}
	n := newTable(k)
	if t != nil && slices.Equal(t.weights, n.weights) && slices.EqualFunc(t.members, n.members, sameID) {
		n.entries = t.entries
	} else {
		n.fill()
	}
	return n
}

func sameID(a, b *Member) bool { return a.ID() == b.ID() }

func newTable(k *kin) *table {
	order := make([]int, len(k.members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(k.members[a].ID(), k.members[b].ID()) })
	t := &table{kin: k}
	for _, i := range order {
		t.members = append(t.members, k.members[i])
		t.weights = append(t.weights, k.weights[i])
	}
	return t
}

// tableSizes are primes, so that every step of a member's walk through the table, below,
// visits each entry.
var tableSizes = [...]uint64{65_537, 131_071, 262_147, 524_287, 1_048_573}

func tableSize(members int) uint64 {
	for _, size := range tableSizes {
		if size >= 100*uint64(members) {
			return size
		}
	}
	return tableSizes[len(tableSizes)-1]
}

// fill lets the members take entries in turn, by weight: each walks through the table in
// an order of its own and takes the next entry that is free.
func (t *table) fill() {
	size := tableSize(len(t.members))
	t.entries = make([]uint32, size)
	at, step := make([]uint64, len(t.members)), make([]uint64, len(t.members))
	for i, m := range t.members {
		at[i], step[i] = m.hash%size, mix(m.hash)%(size-1)+1
	}
	turns := t.turns()
	for range size {
		i := turns.least()
		turns.pass()
		for t.entries[at[i]] != 0 {
			if at[i] += step[i]; at[i] >= size {
				at[i] -= size
			}
		}
		t.entries[at[i]] = uint32(i) + 1
	}
	for i := range t.entries {
		t.entries[i]--
	}
}

// turns returns a ladder on which the members have no load, and so take turns by weight.
func (t *table) turns() *ladder {
	l := newLadder(len(t.members))
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
	return l
}

// probes is how many entries a pick looks at before it scores the members instead.
const probes = 32

func (t *tables) pick(q *Request, s *Snapshot, h uint64, b bound) *Member {
	if of := t.of.Load(); of != nil {
		for _, table := range of {
			if table != nil && table.kin == s.kin {
				if m := table.pick(q, s, h, b); m != nil {
					return m
				}
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
