package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A track is what the registry knows of one member.
type track struct {
	m   *balancer.Member
	run *run // the run that the track belongs to
	schedule
	passive  counters
	outcomes outcomes
	traffic  traffic

	// Guarded by Registry.mu.
	awaited   bool           // Ready waits for its first probe
	state     balancer.State // the latest state that was seen
	known     bool           // a state was seen
	zone      *zone          // the zone whose counts include the member
	serving   bool           // counted as serving
	out       bool           // counted as ejected
	told      bool           // an event for its ejection was published
	why       string         // the reason for its latest ejection
	growth    growth
	ejected   int64 // number of ejections
	refused   int64 // ejections that were not allowed
	suspicion suspicion
	streak    int // successes and reserving answers in a row, or failures in a row as a negative number
	last      result
	checks    int64 // probes that ended
	failed    int64 // probes that failed
	downtime  downtime
	change    ChangeStatus              // the latest
	motives   [balancer.Down + 1]motive // of coming changes, by the new administrative state
	pardon    string                    // who is about to end the ejection
}

// A result is the result of one probe.
type result struct {
	began  time.Time // zero: there was none
	took   time.Duration
	err    error  // nil: success
	reason string // in words for people, of a failure or of being reserved

	reserved bool // the target wants bound sessions only; err is nil then
}

// judge returns the result for a target that had the health was. An error that wraps ErrReserved is
// a failure of an unhealthy target, and reserves any other target.
func (p result) judge(was balancer.Health) result {
	switch {
	case !errors.Is(p.err, ErrReserved):
	case was == balancer.Unhealthy:
		p.reason += ", which is a failure of an unhealthy target"
	default:
		p.err, p.reserved = nil, true
	}
	return p
}

// reason returns the text of a check's error for people. limit is the time limit that the check
// had.
func reason(err error, limit time.Duration) string {
	if err == nil {
		return ""
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.reason
	}
	if errors.Is(err, ErrReserved) {
		return strings.ReplaceAll(ownWords(err), ErrReserved.Error(), boundOnly)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %v", limit)
	}
	return plain(err)
}

// track returns the track of m. It returns nil if there is none.
func (r *Registry) track(m *balancer.Member) *track {
	t, _ := r.tracks.Load(m)
	known, _ := t.(*track)
	return known
}

// resetLocked removes the data of an earlier run.
func (r *Registry) resetLocked() {
	r.tracks.Clear()
	r.zones = make(map[string]*zone)
	r.all, r.ejected, r.undecided = zone{}, 0, 0
}

// trackLocked returns the track of m. It adds one if there is none.
func (u *run) trackLocked(m *balancer.Member, s balancer.State) (t *track, added bool) {
	if t := u.r.track(m); t != nil {
		return t, false
	}
	t = &track{m: m, run: u}
	t.index = -1
	u.r.tracks.Store(m, t)
	u.noteLocked(t, s)
	return t, true
}

// conclude records the result of a probe and sets the member's health if its streak says so.
func (u *run) conclude(t *track, probe result) {
	u.r.mu.Lock()
	was := t.m.State().Health
	probe = probe.judge(was)
	t.last = probe
	t.checks++
	if probe.err != nil {
		t.failed++
	}
	is := was
	if balancer.Shortage(probe.err) == "" {
		t.count(probe.err == nil)
		is = t.verdict(was, u.r.rise(), u.r.fall())
	}
	why := u.decideLocked(t)
	u.r.mu.Unlock()
	if probe.err == nil {
		u.testify(t)
	}
	if why != "" {
		u.eject(t, why, time.Since(u.epoch))
	}

	if is != was {
		t.m.SetHealth(is)
	}
	if is == balancer.Healthy && was == balancer.Unhealthy {
		t.m.Eject(time.Time{})
	}
	u.r.mu.Lock()
	defer u.r.mu.Unlock()
	u.r.arrivedLocked(t)
	if t.zone != nil {
		u.followLocked(t, t.state) // an update may have changed its zone or weight
	}
}

// count adds a success or a failure to the streak. A result of the other kind starts the streak
// again.
func (t *track) count(ok bool) {
	if ok {
		t.streak = max(t.streak, 0) + 1
		return
	}
	t.streak = min(t.streak, 0) - 1
}

// verdict returns the health of the member after its latest probe. was is its health before the
// probe.
func (t *track) verdict(was balancer.Health, rise, fall int) balancer.Health {
	switch {
	case t.last.reserved:
		return balancer.Reserved
	case t.streak > 0 && (was != balancer.Unhealthy || t.streak >= rise):
		return balancer.Healthy
	case t.streak < 0 && (was == balancer.HealthUnknown || -t.streak >= fall):
		return balancer.Unhealthy
	}
	return was
}

// arrivedLocked removes the member from those that Ready waits for.
func (r *Registry) arrivedLocked(t *track) {
	if t.awaited {
		t.awaited = false
		r.undecided--
		r.checkReadyLocked()
	}
}

// checkReadyLocked lets Ready return if no member is left to wait for.
func (r *Registry) checkReadyLocked() {
	ready := r.readyLocked()
	select {
	case <-ready:
	default:
		if r.undecided == 0 {
			close(ready)
		}
	}
}

// An observer is a run in its role as an observer of the pool.
type observer run

// Released implements [balancer.Observer].
func (o *observer) Released(m *balancer.Member, out balancer.Outcome) {
	u := (*run)(o)
	if t := u.r.track(m); t != nil && t.run == u {
		now := time.Since(u.epoch)
		t.outcomes.add(out)
		t.traffic.add(out, now)
		u.learn(t, out, now)
	}
}

// Changed implements [balancer.Observer].
func (o *observer) Changed(m *balancer.Member, s balancer.State) {
	u := (*run)(o)
	u.r.mu.Lock()
	defer u.r.mu.Unlock()
	if u.r.run != u {
		return // the call began before the run stopped observing
	}
	if m.Removed() {
		u.remove(m)
		return
	}
	t, added := u.trackLocked(m, s)
	if added {
		t.change = ChangeStatus{At: universal(time.Now()), What: "added"}
		u.r.publishLocked(Event{Kind: TargetAdded, Target: m.ID(), Zone: m.Target().Zone, State: s})
		u.came = append(u.came, t)
		u.signal()
	}
	u.followLocked(t, s)
}

// Admit implements [balancer.Admitter].
func (o *observer) Admit(t balancer.Target) error { return o.r.admit(t) }

// remove removes the track of a member that has left the pool. The caller holds the registry's mu.
func (u *run) remove(m *balancer.Member) {
	t := u.r.track(m)
	if t == nil {
		return
	}
	u.r.tracks.Delete(m)
	z := t.zone
	u.r.uncountLocked(t)
	u.r.judgeZoneLocked(z)
	u.r.publishLocked(Event{Kind: TargetRemoved, Target: m.ID(), Zone: m.Target().Zone, State: t.state})
	u.r.arrivedLocked(t)
	u.left = append(u.left, t)
	u.signal()
}
