package balancer

import (
	"fmt"
	"math"
	"time"
)

// A share is how much a member keeps of its bound sessions. It never changes.
type share struct {
	part  float64
	below uint64 // sessions whose hash is below it stay
	since int64  // Unix seconds: what was bound later stays
}

// SetShare has the member keep that part of the sessions that are bound to it, such as 0.75 of
// them after a fourth target has joined three. The others move: [Pool.AcquireBound] answers
// [ErrShare] to them, and Acquire then chooses among the members that keep all of their sessions
// and are past their slow start. While no such member has room, they stay. 1 keeps all, which is
// how a member begins; 0 keeps none. New sessions come as before. See "Shares" in the package's
// documentation for which sessions stay.
//
// What was bound since the last SetShare stays, so setting the same share again has that part
// move, too. SetShare returns an error, and changes nothing, if part is not within 0 and 1.
// Updates of the set keep the share of a member that stays.
func (m *Member) SetShare(part float64) error {
	if !(part >= 0 && part <= 1) { // NaN included
		return fmt.Errorf("balancer: share %v is not within 0 and 1", part)
	}
	m.pool.setShare(m, part)
	return nil
}

// Share returns how much the member keeps of its bound sessions: 1 unless [Member.SetShare] has
// set another part.
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
		p.events = append(p.events, event{member: m, state: m.State()})
		p.changed()
	}
	p.mu.Unlock()
	if changed {
		p.settle()
	}
}

// Keeps reports whether a session that is bound to the member is in the share that it keeps: the
// member keeps all, the session is not known (0), it was bound after the share was set, or its
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

// Moves reports whether the session does not stay at the member at this moment: the member does
// not keep it, and there is another one for it.
func (m *Member) Moves(session uint64, issued time.Time) bool {
	return !m.Keeps(session, issued) && m.pool.snapshot().takers > 0
}

// takes reports whether the member gets sessions that others do not keep.
func (m *Member) takes() bool { return m.more.taker.Load() }
