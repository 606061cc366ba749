package balancer

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A share is the part of its bound sessions that a member keeps. It is immutable.
type share struct {
	part  float64
	below uint64 // sessions whose hash is below it stay
	since int64  // Unix seconds: sessions that were bound later stay
}

// SetShare makes the member keep only this part of its bound sessions: 0.75, for example, after a
// fourth target has joined three. The other sessions move: [Pool.AcquireBound] returns [ErrShare]
// for them, and Acquire then chooses among the members that keep all of their sessions and are past
// their slow start. While no such member has room, the sessions stay. A part of 1, the default,
// keeps all, and 0 keeps none. New sessions are not affected. "Shares" in the package documentation
// says which sessions stay.
//
// Sessions that were bound since the last SetShare stay. Setting the same share again applies it to
// them, too. SetShare returns an error, and changes nothing, if part is not within 0 and 1. A
// member that stays in the set keeps its share.
func (m *Member) SetShare(part float64) error {
	if !(part >= 0 && part <= 1) { // NaN included
		return fmt.Errorf("balancer: share %v is not within 0 and 1", part)
	}
	m.more.pool.setShare(m, part)
	return nil
}

// Share returns the part of its bound sessions that the member keeps: 1 unless [Member.SetShare]
// has set another.
func (m *Member) Share() float64 {
	if s := m.more.share.Load(); s != nil {
		return s.part
	}
	return 1
}

func (p *Pool) setShare(m *Member, part float64) {
	var s *share
	if part < 1 {
		s = &share{part: part, below: uint64(math.Ldexp(part, 64)), since: time.Now().Unix()}
	}
	p.mu.Lock()
	changed := m.more.share.Swap(s) != s && !m.more.left.Load()
	if changed {
		p.noteLocked(event{member: m, state: m.State()})
		p.changedLocked()
	}
	p.mu.Unlock()
	if changed {
		p.publish(false)
		p.announce()
	}
}

// Keeps reports whether the member keeps a session that is bound to it. It does if it keeps all
// sessions, if the session is not known (0), if it was bound after the share was set, or if its
// hash is below the share. The zero time means that it is not known when the session was bound.
func (m *Member) Keeps(session uint64, issued time.Time) bool {
	s := m.more.share.Load()
	switch {
	case s == nil || session == 0 || m.more.left.Load():
		return true
	case issued.Unix() > s.since:
		return true
	}
	return mix(mix(session)^m.hash) < s.below
}

// Moves reports whether a tunnel of the session, if it ends now, would come back to another member.
// It would if the member does not keep the session and another one that takes such sessions has
// room for a tunnel.
func (m *Member) Moves(session uint64, issued time.Time) bool {
	return m.moves(session, issued) && m.more.pool.snapshot().roomForTunnel()
}

// moves is Moves, except that it does not look for room.
func (m *Member) moves(session uint64, issued time.Time) bool {
	return !m.Keeps(session, issued) && m.more.pool.snapshot().takers > 0
}

// roomForTunnel reports whether a member that gets sessions which others do not keep has room for
// a tunnel.
func (s *Snapshot) roomForTunnel() bool {
	if !s.limited {
		return s.takers > 0
	}
	return slices.ContainsFunc(s.members, func(m *Member) bool { return m.takes() && !m.full(true) })
}

// takes reports whether the member takes sessions that other members do not keep.
func (m *Member) takes() bool { return m.more.taker.Load() }
