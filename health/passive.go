package health

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Numbers that stand in for a [Passive]'s zero fields.
const (
	defaultConsecutive = 5
	defaultRatio       = 0.5
	defaultVolume      = 20
	defaultWindow      = 10 * time.Second
	defaultEjection    = 30 * time.Second
	defaultMaxEjection = 5 * time.Minute
	defaultMaxShare    = 0.5
)

// Passive says when live traffic ejects a target: for a while it then gets no request, whatever
// its checks say. The zero value has the defaults. To have no ejections, make Consecutive and
// Ratio negative.
//
// # Blame
//
// Only what the target did on its own counts against it. What one client sends can make a good
// target fail: a request that it answers too late, a header that it breaks off at, an upgrade
// that it drops. So that no client can take a target away from the others, failures count in
// three ways.
//
// A connection or a TLS handshake that failed is the target's own failure, and always counts,
// unless it was not made in time: then this machine may be the slow one, under the load of one
// client.
//
// A connection that was not made in time, a request that could not be written, a header or a body
// that broke off and a header that came too late need proof. They eject the target only if the
// failures that would eject it came from at least two clients, or if a check fails too. That check
// is made early when the failures of one client are enough, but no sooner than a second after the
// last one. All addresses in a /64 of IPv6 are one client, and so are all whose address is not
// known. With a negative [Registry].Interval only a second client is proof.
//
// Upgrades that failed and tunnels that ended early are counted apart from requests. They eject
// the target only if no plain request, nor an [HTTP] check, has succeeded since the first of them.
// Those of a single client need proof as well, unless the target has answered no plain request
// at all: then it seems to serve WebSockets alone, and nothing else speaks for it. With a
// [WebSocket] check they always need proof.
//
// Nothing else counts: the client's own aborts, requests that teach nothing about the target
// ([balancer.Unjudged]), a shortage on this machine, and complete answers of any status. They
// decide no trial either.
//
// # Trial
//
// When an ejection is over, the target is on trial. The first request that begins then and can
// tell decides: a failure that counts, with its proof if it needs one, ejects the target again at
// once; after a success it counts as any other. Each ejection is twice as long as the one before;
// each stretch of the last one's length without another halves what the next one gets. What was
// under way when a target was ejected says nothing more about it. A target that its checks find
// healthy again, after they had found it unhealthy, comes back at once, on trial.
type Passive struct {
	// Consecutive is how many failures in a row eject a target. Zero means 5. Negative
	// turns the rule off.
	Consecutive int

	// Ratio ejects a target when at least this share of its requests failed, over Window
	// and if there were at least Volume of them. Zero means 0.5. Negative turns the rule off.
	Ratio float64

	// Volume is how many requests Ratio needs. Zero means 20.
	Volume int

	// Window is the time over which Ratio looks; it slides in steps of a tenth. Zero means 10
	// seconds.
	Window time.Duration

	// Ejection is how long the first ejection lasts. Zero means 30 seconds.
	Ejection time.Duration

	// MaxEjection limits the growing ejections. Zero means 5 minutes. Less than Ejection
	// means Ejection: they do not grow.
	MaxEjection time.Duration

	// MaxShare limits the share of the pool's targets that are ejected at a time. Zero means
	// 0.5: one target of two or three. Whatever it is, the last target that takes new
	// sessions is never ejected. A target that cannot be ejected goes on as if nothing had
	// failed.
	MaxShare float64

	// Failed reports whether an outcome is a failure. It is called concurrently at the end of
	// requests, never for those that teach nothing, and must not block. Nil means that all
	// classes but OK are failures: an answer with status 500 is an answer.
	//
	// An answer that Failed calls a failure needs proof, as a broken one does: one client may
	// know the page that answers 500. A failure that Failed does not call one teaches nothing.
	// If Failed panics, the stack is logged and the outcome counts as if Failed were nil.
	Failed func(balancer.Outcome) bool
}

// validate is called on a nil Passive too.
func (p *Passive) validate() error {
	switch {
	case p == nil:
		return nil
	case p.Volume < 0, p.Window < 0, p.Ejection < 0, p.MaxEjection < 0, p.MaxShare < 0:
		return errors.New("health: Passive.Volume, Window, Ejection, MaxEjection and MaxShare must not be negative")
	case p.Window > 0 && p.Window < windowSteps:
		return errors.New("health: Passive.Window is too short")
	case p.Ratio > 1, p.MaxShare > 1, math.IsNaN(p.Ratio), math.IsNaN(p.MaxShare):
		return errors.New("health: Passive.Ratio and MaxShare must not be more than 1")
	}
	return nil
}

// withDefaults returns p with its zero fields filled in. It is called on a nil Passive too.
func (p *Passive) withDefaults() Passive {
	var d Passive
	if p != nil {
		d = *p
	}
	d.Consecutive = cmp.Or(d.Consecutive, defaultConsecutive)
	d.Ratio = cmp.Or(d.Ratio, defaultRatio)
	d.Volume = cmp.Or(d.Volume, defaultVolume)
	d.Window = cmp.Or(d.Window, defaultWindow)
	d.Ejection = cmp.Or(d.Ejection, defaultEjection)
	d.MaxEjection = max(d.Ejection, cmp.Or(d.MaxEjection, defaultMaxEjection))
	d.MaxShare = cmp.Or(d.MaxShare, defaultMaxShare)
	return d
}

func (p *Passive) off() bool { return p.Consecutive < 0 && p.Ratio < 0 }

// learn counts the outcome of a live request that ended at now, a time since the run's epoch.
// For a success it takes no lock: it is called for every request.
func (u *run) learn(t *track, o balancer.Outcome, now time.Duration) {
	if u.passive.off() || o.Class == balancer.ClientGone || o.Class == balancer.Unjudged || balancer.Shortage(o.Err) != "" {
		return
	}
	began := now - o.Latency
	if !o.Began.IsZero() {
		began = o.Began.Sub(u.epoch)
	}
	c := &t.passive
	if began < time.Duration(c.since.Load()) {
		return // it began before the target was ejected, or while it was
	}
	failed := o.Class != balancer.OK
	if u.passive.Failed != nil {
		failed = u.callFailed(o)
	}
	switch {
	case failed:
		u.accuse(t, o, now)
	case o.Class != balancer.OK:
		// The caller's hook does not count it.
	case o.Tunnel:
		c.tunnelSucceeded(now/u.step(), began)
	default:
		c.succeeded(now / u.step())
	}
}

// callFailed asks the caller's hook.
func (u *run) callFailed(o balancer.Outcome) (failed bool) {
	defer func() {
		if v := recover(); v != nil {
			u.r.logPanic("Passive.Failed", v)
			failed = o.Class != balancer.OK
		}
	}()
	return u.passive.Failed(o)
}

// step is the length of a step of the window.
func (u *run) step() time.Duration { return u.passive.Window / windowSteps }

// accuse counts a failure, and ejects the target if that is enough.
func (u *run) accuse(t *track, o balancer.Outcome, now time.Duration) {
	c := &t.passive
	upgrade, own := isUpgrade(o), o.Own()
	l := &c.requests
	if upgrade {
		l = &c.upgrades
	}
	l.mu.Lock()
	l.fail(balancer.ClientNetwork(o.Client), own, now, u.step())
	why, proven := u.charge(c, l, now)
	l.mu.Unlock()
	if why == "" {
		return
	}
	why += ", the last one: " + cause(o)
	if proven || upgrade && u.servesOnlyTunnels(c) {
		u.eject(t, why, now)
		return
	}
	u.suspect(t, l, why, now)
}

// isUpgrade reports whether a failure is one of an upgrade or of a tunnel. That a connection for
// it could not be made has nothing to do with it.
func isUpgrade(o balancer.Outcome) bool {
	switch o.Class {
	case balancer.ConnectFailed, balancer.TLSFailed:
		return false
	case balancer.UpgradeFailed, balancer.TunnelEarly:
		return true
	}
	return o.Tunnel
}

// servesOnlyTunnels reports whether nothing but live upgrades can tell how the target does.
func (u *run) servesOnlyTunnels(c *counters) bool {
	if c.answered.Load() {
		return false
	}
	switch u.r.check().(type) {
	case WebSocket, *WebSocket:
		return !u.probes()
	}
	return true
}

// charge says which rule the failures in l break, "" if none, and whether they are proof of it.
// A rule that is broken with proof goes before one without. The ledger's mu is held.
func (u *run) charge(c *counters, l *ledger, now time.Duration) (why string, proven bool) {
	if c.trial.Load() {
		return "failed again after its ejection", l.ownInRow > 0 || l.several
	}
	if limit := int32(u.passive.Consecutive); limit > 0 && l.row.Load() >= limit {
		why = fmt.Sprintf("%d failures in a row", l.row.Load())
		if l.ownInRow >= limit || l.several {
			return why, true
		}
	}
	if u.passive.Ratio < 0 {
		return why, false
	}
	failed, all := l.window.sum(now / u.step())
	if all < u.passive.Volume || float64(failed) < u.passive.Ratio*float64(all) {
		return why, false
	}
	own, _ := l.own.sum(now / u.step())
	proven = float64(own) >= u.passive.Ratio*float64(all) || l.severalSince(now-u.passive.Window)
	if why == "" || proven {
		why = fmt.Sprintf("%d of %d requests failed", failed, all)
	}
	return why, proven
}

// cause says in words for people why a request failed.
func cause(o balancer.Outcome) string {
	switch {
	case o.Err != nil:
		return plain(o.Err)
	case o.Class == balancer.OK:
		return fmt.Sprintf("status %d", o.Status)
	}
	return o.Class.String()
}

// A suspicion is that a target would be ejected if there were proof of its failures.
type suspicion struct {
	ledger *ledger       // nil: there is none
	why    string        // the rule that is broken
	since  time.Duration // from the epoch
}

// suspect has the next check decide about t, and asks for it early. If the latest one has failed,
// that is proof enough.
func (u *run) suspect(t *track, l *ledger, why string, now time.Duration) {
	if !u.probes() {
		return
	}
	u.r.mu.Lock()
	if proof := t.last; t.zone != nil && t.refuted() {
		u.r.mu.Unlock()
		u.eject(t, why+"; a check failed too: "+proof.reason, now)
		return
	}
	if t.suspicion.ledger == nil && t.zone != nil {
		t.suspicion = suspicion{ledger: l, why: why, since: now}
		u.hurried = append(u.hurried, t)
		u.signal()
	}
	u.r.mu.Unlock()
}

// refuted reports whether the latest check, if there was one, failed. The registry's mu is held.
func (t *track) refuted() bool { return t.last.err != nil && balancer.Shortage(t.last.err) == "" }

// decideLocked returns why t is to be ejected after the latest probe, "" if it is not. A suspicion
// ends with a probe that began after it, and with a success.
func (u *run) decideLocked(t *track) (why string) {
	s := t.suspicion
	if s.ledger == nil {
		return ""
	}
	if t.refuted() {
		s.ledger.mu.Lock()
		if broken, _ := u.charge(&t.passive, s.ledger, time.Since(u.epoch)); broken != "" {
			why = s.why + "; a check failed too: " + t.last.reason
		}
		s.ledger.mu.Unlock()
	}
	if why != "" || balancer.Shortage(t.last.err) != "" || t.last.began.Sub(u.epoch) >= s.since {
		t.suspicion = suspicion{}
	}
	return why
}

// testify counts a check that succeeded for what it is: a request that was answered, or an upgrade.
func (u *run) testify(t *track) {
	switch u.r.check().(type) {
	case HTTP, *HTTP:
		t.passive.answer()
	case WebSocket, *WebSocket:
		t.passive.upgrades.absolve()
	}
}

// eject takes the member out for a while, unless that is not allowed.
func (u *run) eject(t *track, why string, now time.Duration) {
	r := u.r
	r.mu.Lock()
	if t.out || t.zone == nil {
		r.mu.Unlock()
		return // another failure was quicker, or the member has left the pool
	}
	t.passive.clear()
	t.suspicion = suspicion{}
	if !u.spareLocked(t) {
		t.refused++
		t.passive.trial.Store(false)
		r.mu.Unlock()
		return
	}
	length := t.growth.next(now, u.passive.Ejection, u.passive.MaxEjection)
	until := u.epoch.Add(now + length)
	t.passive.since.Store(int64(now + length))
	t.passive.trial.Store(true)
	t.why = why
	t.ejected++
	r.markLocked(t, true, false)
	r.mu.Unlock()
	t.m.Eject(until)
}

// spareLocked reports whether the pool can do without t.
func (u *run) spareLocked(t *track) bool {
	others := u.r.all.serving
	if t.serving {
		others--
	}
	return others > 0 && float64(u.r.ejected+1) <= u.passive.MaxShare*float64(u.r.all.members)
}

// A growth makes ejections longer.
type growth struct {
	level int           // how often the next one is doubled
	last  time.Duration // the latest one's length
	ended time.Duration // when it was, or will be, over
}

// next returns the length of an ejection that begins now.
func (g *growth) next(now, first, most time.Duration) time.Duration {
	if g.last > 0 {
		g.level = max(0, g.level-int((now-g.ended)/g.last))
	}
	length := first
	for i := 0; i < g.level && length < most; i++ {
		length *= 2
	}
	g.level++
	g.last = min(length, most)
	g.ended = now + g.last
	return g.last
}

// comeBack notes that the member's ejection is over, be it at its time or earlier.
func (t *track) comeBack(now time.Duration) {
	t.growth.ended = min(t.growth.ended, now)
	t.passive.since.Store(int64(now))
}
