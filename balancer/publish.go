package balancer

import (
	"slices"
	"time"
)

// steps is the number of steps of a slow start.
const steps = 16

// change edits the state of m. If that makes a difference, it publishes the change and reports it
// to observers.
func (p *Pool) change(m *Member, edit func(*State)) {
	p.mu.Lock()
	was := m.State()
	s := was
	edit(&s)
	changed := !s.equal(&was)
	if m.more.left.Load() { // its requests and tunnels follow only the administrative state
		s.Health, s.EjectedUntil = was.Health, was.EjectedUntil
		changed = m.more.leaving && s.Admin != was.Admin
	}
	if changed {
		p.setLocked(m, s)
		p.changedLocked()
	}
	p.mu.Unlock()
	if changed {
		p.publish(false)
		p.announce()
	}
}

// setLocked sets the state of m. A member that comes back after it rested starts slowly.
func (p *Pool) setLocked(m *Member, s State) {
	was := m.state.Load().resting()
	m.state.Store(s.shared())
	p.noteLocked(event{member: m, state: s})
	if m.more.left.Load() {
		return // a member that has left serves nobody, whatever its state
	}
	switch is := s.resting(); {
	case is:
		m.more.warmup = time.Time{}
	case was && p.slowStart > 0 && warmLocked(p.members, m):
		p.startSlowlyLocked(m)
	}
	if !s.EjectedUntil.IsZero() {
		p.awaitLocked(m)
	}
}

// warmLocked reports whether one of the members, except for other, serves and is past its slow
// start.
func warmLocked(members []*Member, other *Member) bool {
	return slices.ContainsFunc(members, func(m *Member) bool {
		return m != other && m.more.warmup.IsZero() &&
			m.state.Load().serving() && m.target().Weight > 0
	})
}

func (p *Pool) startSlowlyLocked(m *Member) {
	m.more.warmup = time.Now()
	p.awaitLocked(m)
}

func (p *Pool) awaitLocked(m *Member) {
	if !m.more.pending {
		m.more.pending = true
		p.pending = append(p.pending, m)
	}
}

// sixteenthsLocked returns how much of its weight m has.
func (p *Pool) sixteenthsLocked(m *Member, now time.Time) int {
	if m.more.warmup.IsZero() {
		return steps
	}
	return min(steps, 1+int(steps*now.Sub(m.more.warmup)/p.slowStart))
}

// changedLocked marks the snapshot as out of date and sets the timer for what is pending.
func (p *Pool) changedLocked() {
	p.version.Add(1)
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if len(p.pending) == 0 {
		return
	}
	now := time.Now()
	wait := time.Duration(1<<63 - 1)
	for _, m := range p.pending {
		wait = min(wait, p.dueLocked(m, now))
	}
	p.timer = time.AfterFunc(wait, p.tick)
}

// dueLocked returns the time until the ejection of m ends or its slow start takes a step. A step
// that comes soon after another is put off, so that the steps of several members come together.
func (p *Pool) dueLocked(m *Member, now time.Time) time.Duration {
	wait := time.Duration(1<<63 - 1)
	if until := m.state.Load().EjectedUntil; !until.IsZero() {
		wait = until.Sub(now)
	}
	if !m.more.warmup.IsZero() {
		step := (time.Duration(p.sixteenthsLocked(m, now))*p.slowStart + steps - 1) / steps
		next, rest := m.more.warmup.Add(step), p.ticked.Add(p.slowStart/(4*steps))
		wait = min(wait, max(next.Sub(now), rest.Sub(now)))
	}
	return wait
}

// tick ends the ejections and takes the steps of slow starts that are due.
func (p *Pool) tick() {
	p.mu.Lock()
	now := time.Now()
	p.ticked = now
	for _, m := range slices.Clone(p.pending) {
		if s := m.State(); !s.EjectedUntil.IsZero() && !s.EjectedUntil.After(now) {
			s.EjectedUntil = time.Time{}
			p.setLocked(m, s)
		}
		if p.sixteenthsLocked(m, now) == steps {
			m.more.warmup = time.Time{}
		}
	}
	p.pending = slices.DeleteFunc(p.pending, func(m *Member) bool {
		m.more.pending = !m.more.warmup.IsZero() || !m.state.Load().EjectedUntil.IsZero()
		return !m.more.pending
	})
	p.changedLocked()
	p.mu.Unlock()
	p.publish(false)
	p.announce()
}

// announce is called after a change has been published. It calls the observers, and lets the
// waiting requests look again.
func (p *Pool) announce() {
	p.tell()
	p.review()
}
