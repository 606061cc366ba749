package balancer

import "math/rand/v2"

// LeastConnections picks the member with the fewest outstanding requests and tunnels for
// its weight. Those that tie share evenly, by weight. The zero value is ready to use.
type LeastConnections struct{}

// Pick implements [Picker].
func (p *LeastConnections) Pick(q *Request, s *Snapshot) *Member {
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
