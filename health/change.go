package health

import (
	"log/slog"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// ChangeStatus is the latest change of a target's state.
type ChangeStatus struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`             // the new state, in one or a few words
	Reason string    `json:"reason,omitempty"` // why, in words for people; empty if it is not known
	By     string    `json:"by,omitempty"`     // who asked for it; empty: unknown
}

// A Press is one press of a button of the page.
type Press struct {
	At      time.Time `json:"at"`
	By      string    `json:"by"` // from Page.Who
	Action  string    `json:"action"`
	Target  string    `json:"target"`
	Leaving bool      `json:"leaving,omitempty"` // the target had left the pool
	Problem string    `json:"problem,omitempty"` // why the press changed nothing; empty: it was carried out
}

// maxPresses is how many presses a Registry remembers.
const maxPresses = 50

// recordPress records a press for the status and logs it.
func (r *Registry) recordPress(p Press) {
	r.mu.Lock()
	if len(r.presses) == maxPresses {
		r.presses = append(r.presses[:0:0], r.presses[1:]...)
	}
	r.presses = append(r.presses, p)
	r.mu.Unlock()
	attrs := []any{slog.String("target", p.Target), slog.String("action", p.Action), slog.String("by", p.By)}
	if p.Problem != "" {
		attrs = append(attrs, slog.String("problem", p.Problem))
	}
	r.logger().Info("health: button pressed", attrs...)
}

// pressesLocked returns the latest presses, the newest first.
func (r *Registry) pressesLocked() []Press {
	var all []Press
	for i := len(r.presses) - 1; i >= 0; i-- {
		all = append(all, r.presses[i])
	}
	return all
}

// A motive is the reason why somebody is about to set a target's administrative state.
type motive struct {
	reason, by string
	pending    int // changes to that state that the observer has not seen yet
}

// because records the motive of a change that the caller is about to make. It reports whether it
// has recorded one: if m has the state already, there will be no change.
func (r *Registry) because(m *balancer.Member, to balancer.Admin, reason, by string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.track(m)
	if t == nil || int(to) >= len(t.motives) || m.State().Admin == to {
		return false
	}
	why := &t.motives[to]
	why.reason, why.by = reason, by
	why.pending++
	return true
}

// swapAdmin is [balancer.Member.SwapAdmin] with a motive.
func (r *Registry) swapAdmin(m *balancer.Member, old, next balancer.Admin, reason, by string) bool {
	noted := r.because(m, next, reason, by)
	if m.SwapAdmin(old, next) {
		return true
	}
	if !noted {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.track(m); t != nil {
		t.takeMotive(next)
	}
	return false
}

// takeMotive returns the motive of a change to that state, and removes it. It returns empty strings
// if none was recorded.
func (t *track) takeMotive(to balancer.Admin) (reason, by string) {
	if int(to) >= len(t.motives) || t.motives[to].pending == 0 {
		return "", ""
	}
	why := &t.motives[to]
	why.pending--
	return why.reason, why.by
}

// pardonedBy records who is about to end the target's ejection.
func (r *Registry) pardonedBy(m *balancer.Member, by string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.track(m); t != nil && t.told {
		t.pardon = by
	}
}

// A downtime measures how long a target was out of service: unhealthy, ejected, moving or down.
type downtime struct {
	since time.Time // when it began; zero: the target is in service
	total time.Duration
}

// follow records the target's present state.
func (d *downtime) follow(s balancer.State, out bool, now time.Time) {
	down := out || s.Health == balancer.Unhealthy || s.Admin >= balancer.Moving
	switch {
	case down && d.since.IsZero():
		d.since = now
	case !down && !d.since.IsZero():
		d.total += now.Sub(d.since)
		d.since = time.Time{}
	}
}

func (d *downtime) status(now time.Time) DowntimeStatus {
	s := DowntimeStatus{Since: universal(d.since), Total: d.total}
	if !d.since.IsZero() {
		s.Total += max(0, now.Sub(d.since))
	}
	return s
}

// DowntimeStatus says how long a target was out of service since Run began: unhealthy, ejected,
// moving or down.
type DowntimeStatus struct {
	Since time.Time     `json:"since,omitzero"` // when the present downtime began; zero: the target is in service
	Total time.Duration `json:"total_ns"`       // including the present downtime
}

// latest is the latest time that JSON can hold.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)

// universal returns t as JSON holds it: in UTC, without a monotonic clock reading, and at most
// latest.
func universal(t time.Time) time.Time {
	if t.After(latest) {
		return latest
	}
	return t.Round(0).UTC()
}
