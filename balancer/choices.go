package balancer

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

// pair draws two different members that q does not skip. The second one is none if only
// one is left, and so is the first if there is not even that.
func (s *Snapshot) pair(q *Request) (i, j int) {
	if i = s.index(q, none); i < 0 {
		return none, none
	}
	return i, s.index(q, i)
}
