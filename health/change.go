package health

import (
	"log/slog"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// ChangeStatus is the latest change of a target's state.
type ChangeStatus struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`             // the new state, in a word or two
	Reason string    `json:"reason,omitempty"` // why, in words for people; empty if it is not known
	By     string    `json:"by,omitempty"`     // who asked for it; empty: nobody whose name is known
}

// A Press is a button of the page that was pressed.
type Press struct {
	At      time.Time `json:"at"`
	By      string    `json:"by"` // from Page.Who
	Action  string    `json:"action"`
	Target  string    `json:"target"`
	Leaving bool      `json:"leaving,omitempty"` // the target had left the pool
	Problem string    `json:"problem,omitempty"` // why nothing was done; empty: it was done
}

// maxPresses is how many of the latest ones a Registry remembers.
const maxPresses = 50

// recordPress writes down that a button was pressed, for the status and in the log.
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

// A motive says why a target is about to have another administrative state.
type motive struct {
	reason, by string
	pending    int // changes to that state that the registry has not been told of
}

// because notes why the caller is about to give m a state, and who asks for it. If m has that state
// already, there is nothing to note. It reports whether it has noted something.
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

// takeMotive returns why the target has come to that state, and who asked for it.
func (t *track) takeMotive(to balancer.Admin) (reason, by string) {
	if int(to) >= len(t.motives) || t.motives[to].pending == 0 {
		return "", ""
	}
	why := &t.motives[to]
	why.pending--
	return why.reason, why.by
}

// pardonedBy notes who is about to end the target's ejection.
func (r *Registry) pardonedBy(m *balancer.Member, by string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.track(m); t != nil && t.told {
		t.pardon = by
	}
}

// A downtime adds up how long a target served nobody: it was unhealthy, ejected, moving or down.
type downtime struct {
	since time.Time // zero: it serves
	total time.Duration
}

// follow takes over the target's state.
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

// DowntimeStatus says how long a target served nobody, since Run began: it was unhealthy, ejected,
// moving or down.
type DowntimeStatus struct {
	Since time.Time     `json:"since,omitzero"` // zero: it serves
	Total time.Duration `json:"total_ns"`       // with what has passed since Since
}

// latest is the latest time that JSON can hold.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)

// universal returns t as it comes back from JSON.
func universal(t time.Time) time.Time {
	if t.After(latest) {
		return latest
	}
	return t.Round(0).UTC()
}
