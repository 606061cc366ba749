package balancer

import "slices"

// Split sends the requests for which When reports true to the members for which Where reports true,
// and all others to the rest of the members. If one side has no member for a request, or the
// request skips all of them, the other side takes it. A Split may be one of the pickers of another
// one. The zero value is least connections among all members.
//
// Split does everything that a picker must do if it delegates to others, see [Indexer]. The cost of
// a pick does not grow with the number of members.
type Split struct {
	// When reports whether a request belongs to the members of Where: by chance, by its key, or by
	// what [Request.HTTP] says. It is called with each pick, several times for a request that is
	// tried in several zones or tiers, and concurrently. It must not block or allocate. Nil means
	// that all requests do.
	When func(*Request) bool

	// Where reports whether a member is one of these, by [Member.Label] for example, or by its ID.
	// See [Snapshot.Where]. Nil means that all are.
	Where func(*Member) bool

	// Picker picks from the members of Where, and Rest from the others. Nil means
	// [LeastConnections]. They belong to this Split alone.
	Picker, Rest Picker

	leastPicker, leastRest LeastConnections
}

// A split is the two sides of a snapshot.
type split struct {
	by          *Split
	where, rest *Snapshot
}

// Rebuild implements [Indexer].
func (p *Split) Rebuild(s *Snapshot) {
	parts := p.parts(s)
	rebuild(p.picker(), parts.where)
	rebuild(p.rest(), parts.rest)
}

// Loaded implements [Indexer].
func (p *Split) Loaded(m *Member, load int64) {
	loaded(p.picker(), m, load)
	loaded(p.rest(), m, load)
}

// Pick implements [Picker].
func (p *Split) Pick(q *Request, s *Snapshot) *Member {
	parts := p.parts(s)
	if p.When == nil || p.When(q) {
		if m := p.picker().Pick(q, parts.where); m != nil {
			return m
		}
		return p.rest().Pick(q, parts.rest)
	}
	if m := p.rest().Pick(q, parts.rest); m != nil {
		return m
	}
	return p.picker().Pick(q, parts.where)
}

func (p *Split) picker() Picker {
	if p.Picker == nil {
		return &p.leastPicker
	}
	return p.Picker
}

func (p *Split) rest() Picker {
	if p.Rest == nil {
		return &p.leastRest
	}
	return p.Rest
}

// parts returns the sides of s. They are made with the first call, which is Rebuild's as a rule.
func (p *Split) parts(s *Snapshot) split {
	for {
		if made := s.splits.Load(); made != nil {
			for _, parts := range *made {
				if parts.by == p {
					return parts
				}
			}
		}
		p.divide(s)
	}
}

// divide makes the sides of s, of its local part and of the tiers behind it.
func (p *Split) divide(s *Snapshot) {
	where := p.Where
	if where == nil {
		where = func(*Member) bool { return true }
	}
	in, out := s.Where(where), s.Where(func(m *Member) bool { return !where(m) })
	for ; s != nil; s, in, out = s.next, in.next, out.next {
		s.addSplit(split{p, in, out})
		if s.local != s {
			s.local.addSplit(split{p, in.local, out.local})
		}
	}
}

// addSplit adds the sides, unless another goroutine has added sides of the same picker meanwhile.
func (s *Snapshot) addSplit(parts split) {
	for {
		made := s.splits.Load()
		var next []split
		if made != nil {
			if slices.ContainsFunc(*made, func(o split) bool { return o.by == parts.by }) {
				return
			}
			next = slices.Clip(*made)
		}
		next = append(next, parts)
		if s.splits.CompareAndSwap(made, &next) {
			return
		}
	}
}

// rebuild prepares p for picks from s.
func rebuild(p Picker, s *Snapshot) {
	if x, ok := p.(Indexer); ok {
		x.Rebuild(s)
		return
	}
	s.prepareDraws(s, true)
}

// loaded calls p.Loaded if p is an Indexer.
func loaded(p Picker, m *Member, load int64) {
	if x, ok := p.(Indexer); ok {
		x.Loaded(m, load)
	}
}
