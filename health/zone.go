package health

import (
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A zone counts members.
type zone struct {
	name    string
	members int
	serving int  // may take new sessions
	lost    bool // an event said that none serves
}

// followLocked records the state of a member. It publishes what is new about the member and about
// its zone.
func (u *run) followLocked(t *track, s balancer.State) {
	before := t.zone
	u.noteLocked(t, s)
	u.r.judgeZoneLocked(before)
	u.r.judgeZoneLocked(t.zone)
}

// noteLocked records the state of a member and publishes what is new about it.
func (u *run) noteLocked(t *track, s balancer.State) {
	old, known := t.state, t.known
	t.state, t.known = s, true
	now := time.Now()
	out := s.EjectedUntil.After(now)
	u.r.countLocked(t, out, takesSessions(t.m, s, out))
	t.downtime.follow(s, out, now)

	if !known {
		t.told = out
		return
	}
	publish := func(kind EventKind, what, reason, by string) {
		t.change = ChangeStatus{At: universal(now), What: what, Reason: reason, By: by}
		u.r.publishLocked(Event{Kind: kind, Target: t.m.ID(), Zone: t.zone.name, State: s, Reason: reason, By: by})
	}
	switch {
	case s.Health == old.Health:
	case s.Health == balancer.Unhealthy, s.Health == balancer.Reserved:
		publish(HealthChanged, s.Health.String(), t.last.reason, "")
	default:
		publish(HealthChanged, s.Health.String(), "", "")
	}
	if s.Admin != old.Admin {
		reason, by := t.takeMotive(s.Admin)
		publish(AdminChanged, s.Admin.String(), reason, by)
	}
	switch {
	case out && (!t.told || !s.EjectedUntil.Equal(old.EjectedUntil)):
		t.told = true
		publish(Ejected, "ejected", t.why, "")
	case !out && t.told:
		t.told = false
		t.comeBack(time.Since(u.epoch))
		publish(Returned, "back from ejection", "", t.pardon)
		t.pardon = ""
	}
}

// takesSessions reports whether a member in state s may take new sessions while the pool does not
// panic.
func takesSessions(m *balancer.Member, s balancer.State, out bool) bool {
	serves := s.Health == balancer.Healthy || s.Health == balancer.HealthUnknown
	return serves && s.Admin == balancer.Ready && !out && m.Target().Weight >= 0
}

// countLocked updates the counts of the member's zone and of all members.
func (r *Registry) countLocked(t *track, out, serving bool) {
	if name := t.m.Target().Zone; t.zone == nil || t.zone.name != name {
		r.uncountLocked(t)
		t.zone = r.zoneLocked(name)
		t.zone.members++
		r.all.members++
	}
	r.markLocked(t, out, serving)
}

// uncountLocked removes the member from the counts.
func (r *Registry) uncountLocked(t *track) {
	if t.zone == nil {
		return
	}
	r.markLocked(t, false, false)
	t.zone.members--
	r.all.members--
	if t.zone.members == 0 {
		delete(r.zones, t.zone.name)
	}
	t.zone = nil
}

// markLocked updates how many members are ejected and how many serve. The member is in the counts
// already.
func (r *Registry) markLocked(t *track, out, serving bool) {
	r.ejected += delta(t.out, out)
	r.all.serving += delta(t.serving, serving)
	t.zone.serving += delta(t.serving, serving)
	t.out, t.serving = out, serving
}

func (r *Registry) zoneLocked(name string) *zone {
	z := r.zones[name]
	if z == nil {
		z = &zone{name: name}
		r.zones[name] = z
	}
	return z
}

func delta(was, is bool) int {
	switch {
	case is && !was:
		return 1
	case was && !is:
		return -1
	}
	return 0
}

// judgeZoneLocked publishes an event if a named zone has lost its last serving target, or has one
// again.
func (r *Registry) judgeZoneLocked(z *zone) {
	if lost := z.serving == 0; z.name != "" && z.members > 0 && z.lost != lost {
		z.lost = lost
		kind := ZoneBack
		if lost {
			kind = ZoneLost
		}
		r.publishLocked(Event{Kind: kind, Zone: z.name})
	}
}
