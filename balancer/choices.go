package balancer

import (
	"math"
	"math/rand/v2"
)

// Random picks a member at random, by weight. The zero value is ready to use.
type Random struct{}

// Pick implements [Picker].
func (Random) Pick(q *Request, s *Snapshot) *Member { return s.draw(q) }

// TwoChoices draws two different members at random, by weight, and picks the one with the
// fewer outstanding requests and tunnels for its weight; if they tie, the one it drew
// first. It keeps no index, and several balancers in front of the same targets do not all
// run to the same one. The zero value is ready to use.
type TwoChoices struct{}

// Pick implements [Picker].
func (TwoChoices) Pick(q *Request, s *Snapshot) *Member {
	i, j := s.pair(q)
	if i < 0 || j < 0 {
		return s.at(i)
	}
	if s.busier(i, j) {
		i = j
	}
	return s.at(i)
}

// LatencyTwoChoices draws two different members at random, by weight, and picks the one
// with the lower cost: its [Member.Latency] times what it has to do for its weight, this
// request included. A slow answer counts at once and is forgotten with time, and a failure
// counts as a slow answer, so that a target that fails fast does not attract requests.
// While nothing is known of one of the two, the fewer outstanding ones decide. The zero
// value is ready to use.
type LatencyTwoChoices struct{}

// Pick implements [Picker].
func (LatencyTwoChoices) Pick(q *Request, s *Snapshot) *Member {
	i, j := s.pair(q)
	if i < 0 || j < 0 {
		return s.at(i)
	}
	now := s.members[i].pool.clock()
	a, b := s.members[i].latency.at(now), s.members[j].latency.at(now)
	switch {
	case a == 0 || b == 0:
		if s.busier(i, j) {
			i = j
		}
	case s.cost(j, float64(b)) < s.cost(i, float64(a)):
		i = j
	}
	return s.at(i)
}

// cost returns what a request more would wait for.
func (s *Snapshot) cost(i int, latency float64) float64 {
	return latency * float64(s.members[i].Load()+1) / float64(s.weights[i])
}

// busier reports whether i has more to do for its weight than j.
func (s *Snapshot) busier(i, j int) bool {
	return s.members[i].Load()*int64(s.weights[j]) > s.members[j].Load()*int64(s.weights[i])
}

// at returns the member at an index, nil if that is none.
func (s *Snapshot) at(i int) *Member {
	if i < 0 {
		return nil
	}
	return s.members[i]
}

// pair draws two different members that q does not skip. The second one is none if only
// one is left, and so is the first if there is not even that.
func (s *Snapshot) pair(q *Request) (i, j int) {
	if len(s.members) > 1 {
		for range 4 {
			if i, j = s.draw2(); !q.Skip(s.members[i]) && !q.Skip(s.members[j]) {
				return i, j
			}
		}
	}
	return s.search2(q)
}

// draw2 draws two different indices by weight; there must be two members.
func (s *Snapshot) draw2() (i, j int) {
	n := uint64(len(s.members))
	if !s.uneven {
		r := rand.Uint64()
		i, j = int((r>>32)*n>>32), int((r&math.MaxUint32)*(n-1)>>32)
	} else {
		i = s.any()
		for range 4 {
			if j = s.any(); j != i {
				return i, j
			}
		}
		j = rand.IntN(len(s.members) - 1) // i has nearly all the weight
	}
	if j >= i {
		j++
	}
	return i, j
}

// search2 looks at all members to draw two by weight: each has an exponential clock that
// runs at its weight, and the two that ring first win.
func (s *Snapshot) search2(q *Request) (i, j int) {
	i, j = none, none
	var first, second float64
	for k, m := range s.members {
		if q.Skip(m) {
			continue
		}
		switch t := rand.ExpFloat64() / float64(s.weights[k]); {
		case i < 0 || t < first:
			i, j, first, second = k, i, t, first
		case j < 0 || t < second:
			j, second = k, t
		}
	}
	return i, j
}
