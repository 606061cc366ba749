package balancer

import "math"

// Rendezvous picks the member that scores highest for the request's key, by weight (highest
// random weight). When a member goes away only its own keys move, and they come back with
// it. A request without a key and a client gets a member at random.
//
// Every pick looks at every member; see [Maglev] for large pools. Which member a key gets depends
// on the IDs and weights alone, so all instances agree. Clients that may choose their keys can
// choose their target. The zero value is ready to use.
type Rendezvous struct {
	// MaxLoad bounds the load of each member. It is a multiple of the average load for the member's
	// weight, rounded up. If the member of a key has reached its bound, the key goes to the next
	// best one. 1.25 is a usual value. Zero or less means no bound, and less than 1 means 1.
	MaxLoad float64
}

// Pick implements [Picker].
func (p *Rendezvous) Pick(q *Request, s *Snapshot) *Member {
	h, ok := q.hash()
	if !ok {
		return s.draw(q)
	}
	return s.rendezvous(q, h, s.bound(p.MaxLoad))
}

// rendezvous returns the member with the highest score for h among those within the bound. If there
// is none within it, rendezvous returns the one with the highest score of all. It returns none that
// q skips.
func (s *Snapshot) rendezvous(q *Request, h uint64, b bound) *Member {
	var best, beyond *Member
	top, topBeyond := math.Inf(-1), math.Inf(-1)
	for _, m := range s.members {
		score := s.score(m, h)
		if score <= top || q.Skip(m) {
			continue
		}
		if b.allows(m) {
			best, top = m, score
		} else if score > topBeyond {
			beyond, topBeyond = m, score
		}
	}
	if best == nil {
		return beyond
	}
	return best
}

// score returns the member's score for h. A weight of w has the effect of taking the largest of w
// scores, so that each member wins its share.
func (s *Snapshot) score(m *Member, h uint64) float64 {
	u := (float64(mix(h^m.hash)>>11) + 0.5) / (1 << 53)
	if !s.unlike {
		return u
	}
	return math.Log(u) / float64(m.weight.Load())
}

// A bound is the greatest load that each member may have for its weight. The zero value is no
// bound.
type bound struct{ each float64 }

// newBound returns the bound for members with that load and weight together.
func newBound(maxLoad float64, load, weight int64) bound {
	if maxLoad <= 0 || weight == 0 {
		return bound{}
	}
	return bound{max(maxLoad, 1) * float64(load+1) / float64(weight)}
}

// bound returns the bound for the members of s.
func (s *Snapshot) bound(maxLoad float64) bound {
	if maxLoad <= 0 {
		return bound{}
	}
	var load, weight int64
	for _, m := range s.members {
		load += m.Load()
		weight += int64(m.weight.Load())
	}
	return newBound(maxLoad, load, weight)
}

// allows reports whether the member has room within the bound for one more.
func (b bound) allows(m *Member) bool {
	return b.each == 0 || float64(m.Load()+1) <= math.Ceil(b.each*float64(m.weight.Load()))
}
