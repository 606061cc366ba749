package balancer

import "sync/atomic"

// A kin has either all configured backups or all other configured members, whatever their state.
// Tables are made from a kin, so that they stay the same while a target is out of service. The
// members of a kin never change, because Update makes a new kin. A nil kin has no members.
type kin struct {
	members []*Member
	weights []int
	table   atomic.Pointer[table] // nil until a picker wants one
}

// kinship is the kin in all zones and in the pool's own zone.
type kinship struct{ all, local *kin }

func (k *kin) add(m *Member, weight int) *kin {
	if k == nil {
		k = &kin{}
	}
	k.members = append(k.members, m)
	k.weights = append(k.weights, weight)
	return k
}

// where returns the part of k for which keep reports true.
func (k *kin) where(keep func(*Member) bool) (part *kin) {
	if k == nil {
		return nil
	}
	for i, m := range k.members {
		if keep(m) {
			part = part.add(m, k.weights[i])
		}
	}
	return part
}

// relateLocked returns the set's kin.
func (p *Pool) relateLocked() (k [2]kinship) {
	for _, m := range p.members {
		t := m.target()
		if t.Weight < 0 {
			continue
		}
		of := &k[0]
		if t.Backup {
			of = &k[1]
		}
		of.all = of.all.add(m, t.Weight)
		if t.isLocal(p.zone) {
			of.local = of.local.add(m, t.Weight)
		}
	}
	return k
}
