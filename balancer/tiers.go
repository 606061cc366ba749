package balancer

import "time"

// The tiers, in the order in which they serve.
const (
	healthyTier = iota
	unknownTier
	healthyBackup
	unknownBackup
	tierCount
)

// A builder makes the snapshot of a pool at one moment.
type builder struct {
	pool  *Pool
	now   time.Time
	tiers [tierCount]*Snapshot

	ready    int // targets that the operator wants in service, without backups
	serving  int // those of them that can serve
	reserved int // those of them that are reserved, and not ejected
	backups  int // backup targets that can serve
	slots    int // one more than the highest slot
}

// build returns the best tier that has members, with the next ones behind it.
func (b *builder) build(members []*Member) *Snapshot {
	panicking := b.count(members)
	for _, m := range members {
		if i := b.tier(m, panicking); i >= 0 {
			b.add(i, m)
		}
	}
	var first *Snapshot
	for i := tierCount - 1; i >= 0; i-- {
		if s := b.tiers[i]; s != nil {
			s.next = first
			first = s
			b.localize(s, b.pool.kin[i/healthyBackup].local)
		}
	}
	if first == nil {
		first = newSnapshot(0, 0)
	}
	first.panicking = panicking
	return first
}

// count counts the members by state and returns the panic that is in effect.
func (b *builder) count(members []*Member) Panic {
	for _, m := range members {
		s := m.state.Load()
		b.slots = max(b.slots, int(m.slot)+1)
		switch backup := m.target().Backup; {
		case m.weight.Load() < 0 || s.Admin != Ready:
		case backup && s.serving():
			b.backups++
		case !backup:
			b.ready++
			switch {
			case s.serving():
				b.serving++
			case s.bound() == nil:
				b.reserved++
			}
		}
	}
	mode := b.pool.panic
	if b.enough(b.serving) || mode == PanicOpen && b.serving == 0 && b.backups > 0 {
		return PanicOff
	}
	return mode
}

// enough reports whether n ready targets are as many as the threshold wants.
func (b *builder) enough(n int) bool { return n*100 >= b.ready*b.pool.threshold }

// pressed reports whether [PanicOpen] uses a member in this state. Unhealthy members are used only
// if the reserved ones, which do answer, are too few.
func (b *builder) pressed(s *State) bool {
	return s.Admin == Ready && s.EjectedUntil.IsZero() && (s.Health <= Reserved || !b.enough(b.serving+b.reserved))
}

// tier returns the tier of m, or -1 if it takes no new sessions.
func (b *builder) tier(m *Member, panicking Panic) int {
	t, s := m.target(), m.state.Load()
	switch {
	case t.Weight < 0:
		return -1
	case panicking == PanicOpen && !t.Backup && b.pressed(s):
		return healthyTier
	case !s.serving() || panicking == PanicClosed && !t.Backup:
		return -1
	}
	i := healthyTier
	if s.Health == HealthUnknown {
		i = unknownTier
	}
	if t.Backup {
		i += healthyBackup
	}
	return i
}

func (b *builder) add(i int, m *Member) {
	s := b.tiers[i]
	if s == nil {
		s = newSnapshot(len(b.pool.members), b.slots)
		s.kin = b.pool.kin[i/healthyBackup].all
		b.tiers[i] = s
	}
	sixteenths := b.pool.sixteenthsLocked(m, b.now)
	keepsAll := m.more.share.Load() == nil
	taker := keepsAll && sixteenths == steps && m.state.Load().serving() // not only by panic
	m.more.taker.Store(taker)
	if taker {
		s.takers++
	}
	s.add(m, int(m.weight.Load())*sixteenths)
}

// localize gives s its local part.
func (b *builder) localize(s *Snapshot, k *kin) {
	if !b.pool.oneZone {
		return
	}
	l := newSnapshot(0, b.slots)
	l.kin = k
	for i, m := range s.members {
		if m.target().isLocal(b.pool.zone) {
			l.add(m, s.weights[i])
		}
	}
	if n := len(l.members); n > 0 && n < len(s.members) {
		s.local = l
	}
}
