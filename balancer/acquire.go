package balancer

import (
	"context"
	"time"
)

// Acquire returns a lease on the member that the picker chooses for a new session. If all members
// that could serve the request are full, it waits in the pool's queue, provided that there is one
// and it has room. After AcquireBound has returned [ErrShare] for the same Request, Acquire chooses
// only among members that keep all of their sessions. If none of them has room, it returns a lease
// on the member that the session is bound to.
//
// The error matches [ErrNoTarget], or the context's error if the context ended the wait. Acquire
// uses ctx only while it waits. A refusal is a [*PoolError] if the pool has a name.
func (p *Pool) Acquire(ctx context.Context, q *Request) (Lease, error) {
	s := p.snapshot()
	for {
		lease := Lease{member: p.take(q, s), tunnel: q.Tunnel}
		if lease.member == nil {
			if p.outdated(s) {
				s = p.fresh() // other members may serve by now
				continue
			}
			if home := q.from; home != nil { // no member has room for a session that home does not keep
				if p.takeBound(q, home) != nil {
					q.from = nil // so any member may take it
					continue
				}
				lease.member = home
			}
		}
		if lease.member == nil {
			var err error
			if lease, err = p.queueUp(ctx, q, s); err != nil {
				return Lease{}, p.refused(err)
			}
		}
		if p.holds(&lease) {
			return lease, nil
		}
		s = p.snapshot()
	}
}

// holds reports whether the lease is on a member of the set. A member may have left the set while
// it was being chosen. Then holds releases the lease, because such a member gets nothing new.
func (p *Pool) holds(l *Lease) bool {
	m := l.member
	if !m.more.left.Load() {
		return true
	}
	l.Release(Outcome{Class: Unjudged})
	return false
}

// AcquireBound returns a lease on the member with that ID, to which the request's session is bound.
// The member may also be draining, a backup or of a negative weight. If it is full, the request
// waits in the member's own queue, provided that the pool's queue has room.
//
// The error matches one of [ErrUnknown], [ErrDown], [ErrEjected], [ErrMoving], [ErrShare],
// [ErrExcluded] and [ErrFull], or the context's error if the context ended the wait. AcquireBound
// uses ctx only while it waits. A refusal is a [*PoolError] if the pool has a name.
func (p *Pool) AcquireBound(ctx context.Context, id string, q *Request) (Lease, error) {
	m, ok := p.Member(id)
	if !ok {
		return Lease{}, p.refused(ErrUnknown)
	}
	q.from = nil
	var deadline time.Time
	for {
		err := p.takeBound(q, m)
		lease := Lease{member: m, tunnel: q.Tunnel}
		if err == ErrFull && p.queue.limit > 0 {
			if deadline.IsZero() {
				deadline = p.waitDeadline()
			}
			lease, err = p.wait(ctx, &waiter{q: q, member: m}, deadline)
		}
		switch {
		case err == nil && p.holds(&lease):
			return lease, nil
		case err == ErrShare:
			q.from = m
			return Lease{}, p.refused(err)
		case err != nil && err != ErrUnknown:
			return Lease{}, p.refused(err)
		}
		if m = p.successor(m); m == nil { // a new member may have the ID by now
			return Lease{}, p.refused(ErrUnknown)
		}
	}
}

// take reserves a place for a new session and returns its member, or nil if there is none. If s is
// out of date, take skips members that have been taken out of service since.
func (p *Pool) take(q *Request, s *Snapshot) (m *Member) {
	for old := p.outdated(s); s != nil; s = s.next {
		if q.old = nil; old {
			q.old = s
		}
		if m = p.takeFrom(q, s); m != nil || !q.spent(s) {
			break
		}
	}
	q.old = nil
	return m
}

func (p *Pool) takeFrom(q *Request, s *Snapshot) *Member {
	for range len(s.members) + 1 {
		m := p.choose(q, s)
		if m == nil {
			return nil
		}
		if q.bars(m) { // a picker must not return such a member, but rule S18 has to hold all the same
			continue
		}
		if load, ok := m.reserve(q.Tunnel); ok {
			p.loaded(m, load)
			return m
		}
		// Somebody was faster, and m is full now.
	}
	return nil
}

// choose asks the picker for a member, first among those of the pool's own zone.
func (p *Pool) choose(q *Request, s *Snapshot) *Member {
	if s.local != s {
		if m := p.picker.Pick(q, s.local); m != nil {
			return m
		}
	}
	return p.picker.Pick(q, s)
}

// takeBound reserves a place on m for a session that is bound to it.
func (p *Pool) takeBound(q *Request, m *Member) error {
	switch err := m.state.Load().bound(); {
	case m.more.left.Load():
		return ErrUnknown
	case err != nil:
		return err
	case q.excludes(m):
		return ErrExcluded
	case q.from != m && m.moves(q.Session, q.Issued):
		return ErrShare
	}
	load, ok := m.reserve(q.Tunnel)
	if !ok {
		return ErrFull
	}
	p.loaded(m, load)
	return nil
}

// refusal returns why no member may take the request.
func refusal(q *Request, s *Snapshot) error {
	if len(s.members) == 0 {
		return ErrNoTarget
	}
	for ; s != nil; s = s.next {
		if !q.excludesAll(s.members) {
			return errAllFull
		}
	}
	return errAllExcluded
}

// release gives a place to a request that waits for it, or else sets it free.
func (p *Pool) release(m *Member, tunnel bool, o Outcome) {
	p.vacate(m, tunnel)
	switch {
	case o.Class == OK:
		if o.Latency > 0 {
			m.latency.add(p.clock(), o.Latency, false)
		}
	case o.Class.judged() && Shortage(o.Err) == "":
		if now := p.clock(); o.Own() || m.more.accusers.several(o.Client, now) {
			m.latency.add(now, o.Latency, true)
		}
	}
	for _, w := range *p.observers.Load() {
		p.tellReleased(w, m, o)
	}
}

// vacate hands a place to a waiting request without setting it free in between, so that no request
// that comes later can take it.
func (p *Pool) vacate(m *Member, tunnel bool) {
	if p.queue.waiting.Load() > 0 && !m.over(tunnel) && p.give(m, tunnel, true) {
		return
	}
	p.loaded(m, m.free(tunnel))
	if p.queue.waiting.Load() > 0 { // a request may have joined meanwhile, or wait for the other kind of place
		p.give(m, tunnel, false)
	}
}

// loaded is called after every change of a member's load, with the load after it.
func (p *Pool) loaded(m *Member, load int64) {
	if p.indexer != nil {
		p.indexer.Loaded(m, load)
	}
	if load <= 1 && m.more.left.Load() {
		p.followLeaving(m)
	}
}

// clock returns the time since the pool was made.
func (p *Pool) clock() time.Duration { return time.Since(p.epoch) }
