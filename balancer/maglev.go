package balancer

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
)

// Maglev looks the request's key up in a table in which each member has its share of
// entries, by weight. A pick takes the same time whatever the number of members. When a
// member goes down, only its own keys move, and they come back with it; when Update takes
// one away or adds one, few others move besides. A request without a key and a client
// gets a member at random.
//
// A table has about a hundred entries for each member, at least 65,537 and at most
// 1,048,573. It depends on the IDs and weights alone, so that all instances agree; clients
// that may choose their keys can aim at one target. The zero value is ready to use.
type Maglev struct {
	// MaxLoad bounds a member's load to so many times the average for its weight, rounded
	// up: a key whose member has reached it goes to another entry of the table. 1.25 is a
	// usual value. Zero or less means no bound, and less than 1 means 1.
	MaxLoad float64

	tables tables
	tally  atomic.Pointer[tally]
}

// Rebuild implements [Indexer].
func (p *Maglev) Rebuild(s *Snapshot) {
	p.tables.rebuild(s)
	if p.MaxLoad > 0 {
		t := newTally(s)
		p.tally.Store(t)
		for _, m := range s.members {
			t.touch(m)
		}
	}
}

// Loaded implements [Indexer].
func (p *Maglev) Loaded(m *Member, _ int64) {
	if t := p.tally.Load(); t != nil {
		t.touch(m)
	}
}

// Pick implements [Picker].
func (p *Maglev) Pick(q *Request, s *Snapshot) *Member {
	h, ok := q.hash()
	if !ok {
		return s.draw(q)
	}
	var b bound
	if t := p.tally.Load(); t != nil && t.of == s.whole {
		b = newBound(p.MaxLoad, t.load.Load(), t.weight)
	} else {
		b = s.bound(p.MaxLoad)
	}
	return p.tables.pick(q, s, h, b)
}

// SourceAddress picks by the client's address, so that a client comes to the same target
// as long as that serves: [Maglev] on the network that the address is in. A request whose
// client is not known gets a member at random. The zero value is ready to use.
type SourceAddress struct {
	// IPv4Bits and IPv6Bits are the lengths of the networks whose addresses count as one
	// client. Zero means 32 and 64; a length that an address does not have means all of it.
	IPv4Bits, IPv6Bits int

	tables tables
}

// Rebuild implements [Indexer].
func (p *SourceAddress) Rebuild(s *Snapshot) { p.tables.rebuild(s) }

// Loaded implements [Indexer]. Load does not matter to it.
func (p *SourceAddress) Loaded(*Member, int64) {}

// Pick implements [Picker].
func (p *SourceAddress) Pick(q *Request, s *Snapshot) *Member {
	if !q.Client.IsValid() {
		return s.draw(q)
	}
	return p.tables.pick(q, s, hashAddr(p.network(q.Client)), bound{})
}

func (p *SourceAddress) network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	n := cmp.Or(p.IPv6Bits, 64)
	if a.Is4() {
		n = cmp.Or(p.IPv4Bits, 32)
	}
	if net, err := a.Prefix(n); err == nil {
		return net.Addr()
	}
	return a
}

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

// A tally adds up the load of a snapshot's members.
type tally struct {
	of      *Snapshot
	counted []atomic.Int64 // by slot: what load has of the member
	load    atomic.Int64
	weight  int64
}

func newTally(s *Snapshot) *tally {
	t := &tally{of: s, counted: make([]atomic.Int64, len(s.bySlot))}
	for _, m := range s.members {
		t.weight += int64(m.weight.Load())
	}
	return t
}

// touch counts the member's load anew, until it has not changed meanwhile.
func (t *tally) touch(m *Member) {
	if !t.of.has(m) {
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
