package balancer

import "sync/atomic"

// RoundRobin picks the members in turn. The zero value is ready to use.
type RoundRobin struct{ n atomic.Uint64 }

// Pick implements [Picker].
func (p *RoundRobin) Pick(q *Request, s *Snapshot) *Member {
	for range s.members {
		m := s.members[(p.n.Add(1)-1)%uint64(len(s.members))]
		if !q.Skip(m) {
			return m
		}
	}
	return nil
}
