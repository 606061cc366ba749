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
	run *run // to which it belongs
	schedule
	passive  counters
	outcomes outcomes
	traffic  traffic

	// Guarded by Registry.mu.
	awaited   bool           // Ready waits for its first probe
	state     balancer.State // as it was seen last
	known     bool           // it was seen
	zone      *zone          // in which the member is counted
	serving   bool           // counted as such, in the zone and in all
	out       bool           // counted as ejected
	told      bool           // its ejection was published
	why       string         // its latest ejection
	growth    growth
	ejected   int64 // how often
	refused   int64 // how often it would have been, but could not be spared
	suspicion suspicion
	streak    int // successes in a row, those that reserve included; or failures in a row, negated
	last      result
	checks    int64 // probes that ended
	failed    int64 // of them
	downtime  downtime
	change    ChangeStatus              // the latest
	motives   [balancer.Down + 1]motive // of changes of State.Admin, by what it becomes
	pardon    string                    // who ends the ejection
}

// A result is what came of one probe.
type result struct {
	began  time.Time // zero: there was none
	took   time.Duration
	err    error  // nil: success
	reason string // in words for people, of a failure or of being reserved

	reserved bool // the target wants bound sessions only; err is nil then
}

// judge returns the result as it counts for a target of that health: an answer that wraps
// ErrReserved is a failure of an unhealthy one and reserves any other.
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

// reason puts the error of a check, which had limit, into words for people.
func reason(err error, limit time.Duration) string {
	if err == nil {
		return ""
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.reason
	}
	if errors.Is(err, ErrReserved) {
		return strings.ReplaceAll(err.Error(), ErrReserved.Error(), boundOnly)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %v", limit)
	}
	return plain(err)
}

// track returns what is known of m; nil if that is nothing.
func (r *Registry) track(m *balancer.Member) *track {
	t, _ := r.tracks.Load(m)
	known, _ := t.(*track)
	return known
}

// resetLocked forgets what an earlier run has left.
func (r *Registry) resetLocked() {
	r.tracks.Clear()
	r.zones = make(map[string]*zone)
	r.all, r.ejected, r.undecided = zone{}, 0, 0
}

// trackLocked returns what is known of m, beginning with nothing if need be.
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
		u.followLocked(t, t.state) // an update may have given it another zone or weight
	}
}

// count adds a success or a failure to the streak, which starts anew if it was of the other kind.
func (t *track) count(ok bool) {
	if ok {
		t.streak = max(t.streak, 0) + 1
		return
	}
	t.streak = min(t.streak, 0) - 1
}

// verdict returns the health of a member that was in the given one before its latest probe.
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

// arrivedLocked takes the member off the list of those that Ready waits for.
func (r *Registry) arrivedLocked(t *track) {
	if t.awaited {
		t.awaited = false
		r.undecided--
		r.checkReadyLocked()
	}
}

// checkReadyLocked lets Ready return if it has nothing to wait for any more.
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

// An observer is the run as the pool sees it.
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
		return // a call that began before the run stopped observing
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

// remove forgets a member that has left the pool. The registry's mu is held.
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
