package balancer

import "math/rand/v2"

// draw returns a member by weight at random, or nil if there is none that q does not skip.
func (s *Snapshot) draw(q *Request) *Member { return s.at(s.index(q, none)) }

// at returns the member at an index, or nil if i is none.
func (s *Snapshot) at(i int) *Member {
	if i < 0 {
		return nil
	}
	return s.members[i]
}

// index returns the index of a member that q does not skip, by weight at random. It is not other,
// which may be none. It returns none if there is no such member.
func (s *Snapshot) index(q *Request, other int) int {
	if n := len(s.members); n == 0 || n == 1 && other == 0 {
		return none
	}
	for range 8 {
		if i := s.random(other); i != other && !q.Skip(s.members[i]) {
			return i
		}
	}
	return s.search(q, other)
}

// random returns an index by weight at random. With even weights it is not other, which may be
// none; then there are at least two members. With uneven weights it may be other.
func (s *Snapshot) random(other int) int {
	n := len(s.members)
	switch {
	case s.uneven:
		return s.alias().draw()
	case other < 0:
		return rand.IntN(n)
	}
	i := rand.IntN(n - 1)
	if i >= other {
		i++
	}
	return i
}

// alias returns the table to draw by weight.
func (s *Snapshot) alias() *alias {
	a := s.draws.Load()
	if a == nil {
		a = newAlias(s.weights)
		s.draws.Store(a)
	}
	return a
}

// prepareDraws makes the alias tables of s and of its local part, so that no pick has to. It does
// so if all picks draw by weight, or if some have drawn from the last snapshot.
func (s *Snapshot) prepareDraws(last *Snapshot, all bool) {
	for _, of := range [][2]*Snapshot{{s, last}, {s.local, last.local}} {
		if of[0].uneven && (all || of[1].draws.Load() != nil) {
			of[0].alias()
		}
	}
}

// search is like index, but looks at all members.
func (s *Snapshot) search(q *Request, other int) int {
	found := none
	var sum int64
	for i, m := range s.members {
		if i == other || q.Skip(m) {
			continue
		}
		w := int64(s.weights[i])
		if sum += w; rand.Int64N(sum) < w {
			found = i
		}
	}
	return found
}

// An alias is a table for drawing indices by weight in constant time, after Walker and Vose. A part
// of each column belongs to the column's own index, and the rest belongs to one other index.
type alias struct {
	own   []uint32 // the own share of a column, of 1<<32
	other []uint32
}

func newAlias(weights []int) *alias {
	n := len(weights)
	a := &alias{own: make([]uint32, n), other: make([]uint32, n)}
	var sum float64
	for _, w := range weights {
		sum += float64(w)
	}
	share := make([]float64, n) // of a column: the average is 1
	var small, large []int
	for i, w := range weights {
		share[i] = float64(w) * float64(n) / sum
		if share[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.own[s], a.other[s] = uint32(share[s]*(1<<32)), uint32(l)
		if share[l] -= 1 - share[s]; share[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) { // full columns, except for rounding
		a.own[i], a.other[i] = 1<<32-1, uint32(i)
	}
	return a
}

func (a *alias) draw() int {
	r := rand.Uint64()
	i := int((r >> 32) * uint64(len(a.own)) >> 32)
	if uint32(r) < a.own[i] {
		return i
	}
	return int(a.other[i])
}
