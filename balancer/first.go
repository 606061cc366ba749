package balancer

// First picks the first member in configured order that has room: it fills one target up to its
// limits before it uses the next, so that the last ones can be switched off. Weights do not matter
// to it. The cost of a pick grows with the number of full targets at the front. The zero value is
// ready to use.
type First struct{}

// Pick implements [Picker].
func (First) Pick(q *Request, s *Snapshot) *Member {
	for _, m := range s.members {
		if !q.Skip(m) {
			return m
		}
	}
	return nil
}
