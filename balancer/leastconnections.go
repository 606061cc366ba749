package balancer

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
)

// indexFrom is the number of members from which LeastConnections keeps an index: below it
// looking at all of them costs less.
const indexFrom = 6

// LeastConnections picks the member with the fewest outstanding requests and tunnels for its
// weight. Members that tie take turns, smoothly by weight as with [RoundRobin]: requests that come
// one after the other are spread like the weights. The cost of a pick does not grow with the number
// of members. The zero value is ready to use.
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

// scan returns the least loaded member of all that q does not skip. Of those that tie it returns
// the one whose turn comes first.
func scan(q *Request, s *Snapshot) *Member {
	var best *Member
	var bestLoad, bestWeight int64
	var bestNext, now float64
	for i, m := range s.members {
		start, weight := m.turn.load(), int64(s.weights[i])
		now = max(now, start)
		if q.Skip(m) {
			continue
		}
		load, next := m.Load(), start+1/float64(weight)
		d := load*bestWeight - bestLoad*weight
		if best == nil || d < 0 || d == 0 && next < bestNext {
			best, bestLoad, bestWeight, bestNext = m, load, weight, next
		}
	}
	if best != nil {
		best.turn.take(now, bestNext, bestWeight)
	}
	return best
}

// A turn is the virtual time of a member's last pick. Its next turn comes one divided by its weight
// later, so that members that tie take turns by weight.
type turn struct{ v atomic.Uint64 }

func (t *turn) load() float64 { return math.Float64frombits(t.v.Load()) }

func (t *turn) set(at float64) { t.v.Store(math.Float64bits(at)) }

// take sets the turn of a member that is picked and whose turn was to come at next. Now is the
// latest turn of all. A member that has missed turns, because it was busy, does not make up for
// them: it starts again half a turn after now, so that it alternates with those that took turns
// meanwhile.
func (t *turn) take(now, next float64, weight int64) {
	if next < now {
		next = now + 0.5/float64(weight)
	}
	t.set(next)
}

// start sets the turn of a new member. It is random, so that several balancers that start together
// do not all begin with the same member.
func (t *turn) start(weight int) { t.set(-rand.Float64() / float64(steps*max(weight, 1))) }
