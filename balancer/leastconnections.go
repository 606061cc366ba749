package balancer

import "math/rand/v2"

// indexFrom is the number of members from which LeastConnections keeps an index: below it
// looking at all of them costs less.
const indexFrom = 6

// LeastConnections picks the member with the fewest outstanding requests and tunnels for
// its weight. Those that tie share evenly, by weight. What a pick costs does not grow with
// the number of members. The zero value is ready to use.
type LeastConnections struct{ indexes indexes }

// Rebuild implements [Indexer].
func (p *LeastConnections) Rebuild(s *Snapshot) {
	if len(s.members) < indexFrom {
		p.indexes.renew(nil, 0)
		return
	}
	p.indexes.renew(newIndex(s, (*Member).Load), rand.IntN(len(s.members)))
}

// Loaded implements [Indexer].
func (p *LeastConnections) Loaded(m *Member, _ int64) { p.indexes.touch(m) }

// Pick implements [Picker].
func (p *LeastConnections) Pick(q *Request, s *Snapshot) *Member {
	if m, ok := p.indexes.pick(q, s); ok {
		return m
	}
	return scan(q, s)
}

// scan looks at all members for the least loaded one.
func scan(q *Request, s *Snapshot) *Member {
	var best *Member
	var bestLoad, bestWeight, tied int64
	for i, m := range s.members {
		if q.Skip(m) {
			continue
		}
		load, weight := m.Load(), int64(s.weights[i])
		switch d := load*bestWeight - bestLoad*weight; {
		case best == nil || d < 0:
			best, bestLoad, bestWeight, tied = m, load, weight, weight
		case d == 0:
			if tied += weight; rand.Int64N(tied) < weight {
				best, bestLoad, bestWeight = m, load, weight
			}
		}
	}
	return best
}
