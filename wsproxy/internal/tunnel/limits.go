package tunnel

import (
	"cmp"
	"math"
	"time"
)

const (
	defaultLinger = 30 * time.Second

	// silence is how long a side that cannot be told of an end must be silent before it is closed.
	silence = time.Second

	// dropLimit is how long a tunnel may go on while all its bytes are only dropped.
	dropLimit = 5 * time.Second

	never = time.Duration(math.MaxInt64)
)

// limits has the limits of a tunnel and the one timer for them. All times count from the start of
// the tunnel. Traffic does not touch the timer. When it fires, it looks at the time of the last
// byte and sets itself again.
type limits struct {
	idle, lifetime, linger time.Duration // never if there is no limit

	timer    *time.Timer
	firstEnd time.Duration // when a side first ended or failed; negative: not yet
	useless  time.Duration // since when bytes are only dropped; negative: not yet
	deadline time.Duration // of the farewell, or never
	look     time.Duration // when to look at the sources of writes; never if no write may be blocked
}

func newLimits(o Options) limits {
	return limits{
		idle:     orNever(o.Idle),
		lifetime: orNever(o.Lifetime),
		linger:   orNever(cmp.Or(o.Linger, defaultLinger)),
		firstEnd: -1,
		useless:  -1,
		deadline: never,
		look:     never,
	}
}

func orNever(d time.Duration) time.Duration {
	if d <= 0 {
		return never
	}
	return d
}

func (l *limits) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

// tick runs when the timer fires.
func (t *Tunnel) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.checkLimits()
	}
}

// checkLimits ends what has reached its limit and sets the timer for the next limit. t.mu is held.
func (t *Tunnel) checkLimits() {
	if t.cutting {
		return
	}
	now := t.now()
	t.look(now)
	t.limits.mark(now, t.hasEnd(), t.up.useful() || t.down.useful())
	next, by := t.limits.nearest(now, max(t.up.lastByte(), t.down.lastByte()), t.lastDelivery())
	if next <= 0 {
		t.cut(cmp.Or(by, t.by))
		return
	}
	progress := min(t.up.checkProgress(now), t.down.checkProgress(now))
	if progress <= 0 {
		t.cut(t.by)
		return
	}
	next = min(next, progress, t.up.checkSilence(now), t.down.checkSilence(now))
	if t.limits.look != never {
		next = min(next, t.limits.look-now)
	}
	switch {
	case next == never:
	case t.limits.timer == nil:
		t.limits.timer = time.AfterFunc(next, t.tick)
	default:
		t.limits.timer.Reset(next)
	}
}

// hasEnd reports whether a side has ended or failed. t.mu is held.
func (t *Tunnel) hasEnd() bool {
	return t.up.eof || t.down.eof || t.up.leaving || t.down.leaving || t.err != nil
}

// lastDelivery returns when a byte was last delivered or read for delivery. It returns 0 if a side
// cannot be told of the other one's end: its bytes are no reason to go on. t.mu is held.
func (t *Tunnel) lastDelivery() (last time.Duration) {
	if t.client.quiet || t.backend.quiet {
		return 0
	}
	for _, d := range [...]*direction{&t.up, &t.down} {
		if !d.mute {
			last = max(last, d.lastByte())
		}
	}
	return last
}

// mark records when the first side ended or failed, and since when bytes are only dropped.
func (l *limits) mark(now time.Duration, ended, useful bool) {
	if ended && l.firstEnd < 0 {
		l.firstEnd = now
	}
	if !useful && l.useless < 0 {
		l.useless = now
	}
}

// nearest returns the time until the next limit and the reason of the end if that limit passes. The
// reason 0 stands for the one that the tunnel already has.
func (l *limits) nearest(now, lastByte, lastDelivery time.Duration) (left time.Duration, by Reason) {
	left = never
	nearer := func(limit, since time.Duration, reason Reason) {
		if limit == never || since < 0 {
			return
		}
		if d := limit - (now - since); d < left {
			left, by = d, reason
		}
	}
	nearer(l.deadline, 0, 0)
	nearer(l.idle, lastByte, Idle)
	nearer(l.lifetime, 0, Lifetime)
	if l.firstEnd >= 0 {
		nearer(l.linger, max(l.firstEnd, lastDelivery), Linger)
	}
	nearer(dropLimit, l.useless, 0)
	return left, by
}
