package balancer

import "sync/atomic"

// RoundRobin picks the members in turn: smoothly by weight, so that the turns of a heavy
// member are spread over the round. Members that are full or excluded lose their turn. The
// zero value is ready to use.
type RoundRobin struct {
	index atomic.Pointer[index]
	_     apart
	n     atomic.Uint64 // picks
	_     apart
}

// Rebuild implements [Indexer].
func (p *RoundRobin) Rebuild(s *Snapshot) {
	if !s.uneven && !s.limited {
		p.index.Store(nil)
		return
	}
	x := newIndex(s, func(*Member) int64 { return 0 })
	x.fill(p.index.Swap(x), int(p.n.Load()%uint64(len(s.members))))
}

// Loaded implements [Indexer].
func (p *RoundRobin) Loaded(m *Member, _ int64) {
	if x := p.index.Load(); x != nil && x.kinds > 1 {
		x.touch(m) // it may be full now, or no longer
	}
}

// Pick implements [Picker].
func (p *RoundRobin) Pick(q *Request, s *Snapshot) *Member {
	if x := p.index.Load(); x != nil {
		if l := x.ladder(s, q.Tunnel); l != nil {
			p.n.Add(1)
			if m, ok := x.pick(l, q); ok {
				return m
			}
		}
	}
	if s.uneven {
		return s.draw(q)
	}
	for range s.members {
		m := s.members[(p.n.Add(1)-1)%uint64(len(s.members))]
		if !q.Skip(m) {
			return m
		}
	}
	return nil
}
