package balancer

import (
	"math/rand/v2"
	"time"
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

// LatencyTwoChoices draws two different members at random, by weight. It picks the first one,
// unless the other one has a lower cost. The cost is [Member.Latency] multiplied by one plus the
// member's load for its weight. A slow answer raises the cost at once, and the effect fades with
// time. A failure counts as a slow answer, so that a target that fails fast does not attract
// requests. While the latency of one of the two is not known, both count as equally fast. The zero
// value is ready to use.
//
// Two members of different weight also count as equally fast if their latencies differ by no more
// than their weights do. With weights of 3 and 1, that is a factor of three. A millisecond is added
// to the lower latency for that. The latency of the heavier one is the peak of more answers, so it
// is higher by chance alone. Members that are equally fast get the shares of their weights. Of
// members that are busy, the one with less to do for its weight gets more. While none is full or
// excluded, no member gets more than twice its share.
type LatencyTwoChoices struct{}

// Pick implements [Picker].
func (LatencyTwoChoices) Pick(q *Request, s *Snapshot) *Member {
	i, j := s.pair(q)
	if i < 0 || j < 0 {
		return s.at(i)
	}
	now := s.members[i].more.pool.clock()
	a, b := s.members[i].latency.at(now), s.members[j].latency.at(now)
	if a == 0 || b == 0 || s.maySeemSlower(i, j, a, b) {
		a, b = 1, 1
	}
	if s.cost(j, b) < s.cost(i, a) && s.mayMove(i, j) {
		i = j
	}
	return s.at(i)
}

// jitter is a difference of latencies that this machine alone may cause.
const jitter = time.Millisecond

// maySeemSlower reports whether two members of different weight have latencies a and b that differ
// by no more than the weights do.
func (s *Snapshot) maySeemSlower(i, j int, a, b time.Duration) bool {
	v, w := float64(s.weights[i]), float64(s.weights[j])
	return v != w && float64(max(a, b))*min(v, w) <= float64(min(a, b)+jitter)*max(v, w)
}

// cost returns the time that a request at i is expected to take. The member's weight divides the
// load, but not the request itself, because the draw has counted the weight already.
func (s *Snapshot) cost(i int, latency time.Duration) float64 {
	mean := float64(s.sum) / float64(len(s.members))
	return float64(latency) * (1 + float64(s.members[i].Load())*mean/float64(s.weights[i]))
}

// mayMove reports whether a request that drew i first and j second may go to j. The probability of
// the order i, j is w[i]/sum * w[j]/(sum-w[i]). If i is heavier, this order is more frequent than
// j, i. Only as many requests may move to the lighter member as may move the other way.
func (s *Snapshot) mayMove(i, j int) bool {
	if s.weights[i] <= s.weights[j] {
		return true
	}
	return rand.Int64N(s.sum-int64(s.weights[j])) < s.sum-int64(s.weights[i])
}

// busier reports whether i has more to do for its weight than j.
func (s *Snapshot) busier(i, j int) bool {
	return s.members[i].Load()*int64(s.weights[j]) > s.members[j].Load()*int64(s.weights[i])
}

// pair draws two different members that q does not skip. The second is none if there is only one,
// and both are none if there is no such member.
func (s *Snapshot) pair(q *Request) (i, j int) {
	if i = s.index(q, none); i < 0 {
		return none, none
	}
	return i, s.index(q, i)
}
