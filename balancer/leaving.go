package balancer

import "slices"

// Leaving returns the members that were removed but still have leases, in the order in which they
// left. Requests and tunnels that were under way at a target when it left the set go on. Until the
// last one has ended, they follow the member's administrative state. The slice is the caller's.
func (p *Pool) Leaving() []*Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.leaving)
}

// Remove takes the members out of the set, as an Update without their targets would. Members that
// are not in the set are ignored.
func (p *Pool) Remove(members ...*Member) {
	gone := make(map[*Member]bool, len(members))
	for _, m := range members {
		gone[m] = true
	}
	p.mu.Lock()
	stay := slices.DeleteFunc(slices.Clone(p.members), func(m *Member) bool { return gone[m] })
	changed := len(stay) < len(p.members)
	if changed {
		byID := make(map[string]*Member, len(stay))
		for _, m := range stay {
			byID[m.ID()] = m
		}
		p.assembleLocked(stay, byID, nil)
		p.changedLocked()
	}
	p.mu.Unlock()
	if changed {
		p.publish(true)
		p.announce()
	}
}

// followLeaving updates the list of leaving members after the load of m, a removed member, has
// become 0 or 1. The load may grow again for a moment, see [Pool.holds].
func (p *Pool) followLeaving(m *Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.followLeavingLocked(m)
}

func (p *Pool) followLeavingLocked(m *Member) {
	loaded := m.Load() > 0
	if loaded == m.more.leaving {
		return
	}
	m.more.leaving = loaded
	if loaded {
		p.leaving = append(p.leaving, m)
		return
	}
	i := slices.Index(p.leaving, m)
	p.leaving = slices.Delete(p.leaving, i, i+1)
}

// successor returns the member that has the ID of m, which was removed; nil if none has.
func (p *Pool) successor(m *Member) *Member { return (*p.byID.Load())[m.ID()] }
