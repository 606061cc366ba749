package balancer

import "sync/atomic"

// RoundRobin picks the members in turn: smoothly by weight, so that the turns of a heavy
// member are spread over the round. Members that are full or excluded lose their turn. The
// zero value is ready to use.
type RoundRobin struct {
	indexes indexes
	_       apart
	n       atomic.Uint64 // picks
	_       apart
}

// Rebuild implements [Indexer].
func (p *RoundRobin) Rebuild(s *Snapshot) {
	if !s.uneven && !s.limited {
		p.indexes.renew(nil, 0)
		return
	}
	p.indexes.renew(newIndex(s, nil), int(p.n.Load()%uint64(len(s.members))))
}

// Loaded implements [Indexer]. The member may be full now, or no longer.
func (p *RoundRobin) Loaded(m *Member, _ int64) { p.indexes.touch(m) }

// Pick implements [Picker].
func (p *RoundRobin) Pick(q *Request, s *Snapshot) *Member {
	if m, ok := p.indexes.pick(q, s); ok {
		p.n.Add(1)
		return m
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
