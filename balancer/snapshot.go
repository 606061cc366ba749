package balancer

// A Snapshot is the members that take new sessions at one moment: those of the best tier,
// in configured order. It never changes and is safe for concurrent use.
type Snapshot struct {
	members []*Member
	weights []int
	local   *Snapshot
}

// Members returns the members. The slice must not be modified.
func (s *Snapshot) Members() []*Member { return s.members }

// Weights returns the members' effective weights, in the order of Members and in
// sixteenths: 16 times Target.Weight, or fewer sixteenths while a member starts slowly.
// None is below 1. The slice must not be modified.
func (s *Snapshot) Weights() []int { return s.weights }

// Local returns the members in the pool's own zone. It is s itself when Config.OneZone is
// off or no member of the zone takes new sessions.
func (s *Snapshot) Local() *Snapshot { return s.local }

// tier returns the member's place in the order in which tiers serve new sessions, or -1
// if it serves none.
func tier(t *Target, s *State) int {
	switch {
	case t.Weight < 0 || s.Admin != Ready || s.Health == Unhealthy || !s.EjectedUntil.IsZero():
		return -1
	case t.Backup:
		return 2
	case s.Health == HealthUnknown:
		return 1
	}
	return 0
}

// newSnapshot returns the snapshot of the best non-empty tier.
func newSnapshot(members []*Member) *Snapshot {
	s := &Snapshot{}
	s.local = s
	best := 3
	for _, m := range members {
		t := m.target.Load()
		i := tier(t, m.state.Load())
		if i < 0 || i > best {
			continue
		}
		if i < best {
			best = i
			s.members, s.weights = s.members[:0], s.weights[:0]
		}
		s.members = append(s.members, m)
		s.weights = append(s.weights, 16*t.Weight)
	}
	return s
}
