package health

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Defaults of the fields of [Passive].
const (
	defaultConsecutive = 5
	defaultRatio       = 0.5
	defaultVolume      = 20
	defaultWindow      = 10 * time.Second
	defaultEjection    = 30 * time.Second
	defaultMaxEjection = 5 * time.Minute
	defaultMaxShare    = 0.5
)

// Passive says when live traffic ejects a target. An ejected target gets no requests for a while,
// whatever its checks say. The zero value has the defaults. A negative Consecutive and a negative
// Ratio together disable ejections.
//
// # Blame
//
// Only failures that the target caused count against it. A client can make a good target fail: with
// a request that takes too long, with a header at which the target hangs up, or with an upgrade
// that the target drops. No client must be able to take a target away from the other clients, so
// there are three kinds of failures.
//
// A connection or a TLS handshake that failed is the target's own failure and always counts. The
// exception is a connection that was not made in time: one client may have put so much load on this
// machine that it was too slow.
//
// These failures need proof: a connection that was not made in time, a request that could not be
// written, a header or a body that broke off, and a header that came too late. They eject the
// target only if those that would eject it came from at least two clients, or if a check fails too.
// When the failures of one client would be enough, a check is made early, but at least a second
// after the beginning of the latest one. All addresses in one IPv6 /64 are one client, and so are
// all clients with unknown addresses. With a negative [Registry].Interval only a second client is
// proof.
//
// Failed upgrades and tunnels that ended early are counted apart from requests. They eject the
// target only if no plain request and no [HTTP] check has succeeded since the first of them. Those
// of a single client also need proof, unless the target has never answered a plain request: it then
// seems to serve only WebSockets, and nothing else shows its health. With a [WebSocket] check they
// always need proof.
//
// These never count, and never decide a trial: requests that the client aborts, requests that show
// nothing about the target ([balancer.Unjudged]), failures by a shortage on this machine, and
// complete answers with any status, unless Failed reports them.
//
// # Trial
//
// When an ejection is over, the target is on trial. The first later request whose outcome counts
// decides. A failure, with its proof if it needs one, ejects the target again at once. After a
// success, failures count as usual. Requests that began before or during the ejection no longer
// count.
//
// Each ejection is twice as long as the one before. Each period as long as the latest ejection,
// without another ejection, halves the length of the next one. If checks find the target unhealthy
// and then healthy again, the ejection ends early and the trial begins.
type Passive struct {
	// Consecutive is how many failures in a row eject a target. Zero means 5. Negative disables the
	// rule.
	Consecutive int

	// Ratio is the share of failed requests in Window that ejects a target, if there were at least
	// Volume requests. Zero means 0.5. Negative disables the rule.
	Ratio float64

	// Volume is how many requests Ratio needs. Zero means 20.
	Volume int

	// Window is the period for Ratio. It slides in steps of a tenth of it. Zero means 10 seconds.
	Window time.Duration

	// Ejection is how long the first ejection lasts. Zero means 30 seconds.
	Ejection time.Duration

	// MaxEjection limits the length of an ejection. Zero means 5 minutes. If it is less than
	// Ejection, all ejections have the length Ejection.
	MaxEjection time.Duration

	// MaxShare limits the share of the pool's targets that may be ejected at a time. Zero means
	// 0.5, which is one target of two or three. The last target that takes new sessions is never
	// ejected, whatever MaxShare is. If a target may not be ejected, its failures are forgotten.
	MaxShare float64

	// Failed reports whether an outcome is a failure. It is called concurrently at the end of
	// requests, and must not block. It is not called for outcomes that never count. Nil means that
	// all classes except OK are failures; an answer with status 500 is then a success.
	//
	// An answer that Failed reports as a failure needs proof, as a broken one does: one client may
	// have found the page that answers 500. A failure for which Failed returns false does not
	// count. If Failed panics, the stack is logged and the outcome counts as if Failed were nil.
	Failed func(balancer.Outcome) bool
}

// validate returns an error if the fields cannot be used. p may be nil.
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

// withDefaults returns p with defaults in place of zero fields. p may be nil.
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

// learn counts the outcome of a live request that ended at now, a time since the run's epoch. Every
// request calls it, so it takes no lock for a success.
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
		return // it began before or during the ejection
	}
	failed := o.Class != balancer.OK
	if u.passive.Failed != nil {
		failed = u.callFailed(o)
	}
	switch {
	case failed:
		u.accuse(t, o, now)
	case o.Class != balancer.OK:
		// Passive.Failed says that it is no failure.
	case o.Tunnel:
		c.tunnelSucceeded(now/u.step(), began)
	default:
		c.succeeded(now / u.step())
	}
}

// callFailed calls Passive.Failed.
func (u *run) callFailed(o balancer.Outcome) (failed bool) {
	defer func() {
		if v := recover(); v != nil {
			u.r.logPanic("Passive.Failed", v)
			failed = o.Class != balancer.OK
		}
	}()
	return u.passive.Failed(o)
}

// step returns the length of a step of the window.
func (u *run) step() time.Duration { return u.passive.Window / windowSteps }

// accuse counts a failure, and ejects the target if a rule is broken with proof.
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

// isUpgrade reports whether a failure is that of an upgrade or of a tunnel. A failed connection is
// neither, even if it was for an upgrade.
func isUpgrade(o balancer.Outcome) bool {
	switch o.Class {
	case balancer.ConnectFailed, balancer.TLSFailed:
		return false
	case balancer.UpgradeFailed, balancer.TunnelEarly:
		return true
	}
	return o.Tunnel
}

// servesOnlyTunnels reports whether only live upgrades show the target's health.
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

// charge returns the rule that the failures in l break, or "" if they break none, and whether they
// are proof. If they break several rules, it prefers one that they break with proof. The caller
// holds the ledger's mu.
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

// cause returns why a request failed, in words for people.
func cause(o balancer.Outcome) string {
	switch {
	case o.Err != nil:
		return plain(o.Err)
	case o.Class == balancer.OK:
		return fmt.Sprintf("status %d", o.Status)
	}
	return o.Class.String()
}

// A suspicion means that the target's failures would eject it if there were proof.
type suspicion struct {
	ledger *ledger       // nil: there is none
	why    string        // the broken rule
	since  time.Duration // from the epoch
}

// suspect lets the next check decide about t, and requests that check early. If the latest check
// has failed, it ejects t at once.
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

// refuted reports whether there was a check and the latest one failed. The caller holds the
// registry's mu.
func (t *track) refuted() bool { return t.last.err != nil && balancer.Shortage(t.last.err) == "" }

// decideLocked returns the reason for ejecting t after the latest probe, or "" if t is not to be
// ejected. A suspicion ends when t is ejected, when a probe that began after it has ended, and when
// a probe fails by a shortage on this machine.
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

// testify counts a check that succeeded like a request that was answered, or like an upgrade.
func (u *run) testify(t *track) {
	switch u.r.check().(type) {
	case HTTP, *HTTP:
		t.passive.answer()
	case WebSocket, *WebSocket:
		t.passive.upgrades.absolve()
	}
}

// eject ejects the member if the pool can spare it.
func (u *run) eject(t *track, why string, now time.Duration) {
	r := u.r
	r.mu.Lock()
	if t.out || t.zone == nil {
		r.mu.Unlock()
		return // it is ejected already, or has left the pool
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

// spareLocked reports whether t may be ejected.
func (u *run) spareLocked(t *track) bool {
	others := u.r.all.serving
	if t.serving {
		others--
	}
	return others > 0 && float64(u.r.ejected+1) <= u.passive.MaxShare*float64(u.r.all.members)
}

// A growth computes the lengths of a target's ejections.
type growth struct {
	level int           // how often the first length is doubled for the next ejection
	last  time.Duration // length of the latest ejection
	ended time.Duration // end of the latest ejection
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

// comeBack records that the member's ejection is over, at its time or earlier.
func (t *track) comeBack(now time.Duration) {
	t.growth.ended = min(t.growth.ended, now)
	t.passive.since.Store(int64(now))
}
