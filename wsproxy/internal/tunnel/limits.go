package tunnel

import (
	"cmp"
	"math"
	"time"
)

const (
	// silence is how long a side that cannot be told of an end must have been silent before it
	// is closed.
	silence = time.Second

	// dropLimit is how long a tunnel in which bytes are only dropped may last.
	dropLimit = 5 * time.Second

	never = time.Duration(math.MaxInt64)
)

// limits are a tunnel's times, all counted from its start, and the one timer that watches them.
// Traffic does not touch the timer: when it fires it looks at the time of the last byte and arms
// itself anew.
type limits struct {
	idle, lifetime, linger time.Duration // never if there is none

	timer    *time.Timer
	firstEnd time.Duration // when a side first ended or failed; negative: not yet
	useless  time.Duration // since when bytes are only dropped; negative: they are not
	deadline time.Duration // of the farewell; never if there is none
}

func newLimits(o Options) limits {
	return limits{
		idle:     orNever(o.Idle),
		lifetime: orNever(o.Lifetime),
		linger:   orNever(o.Linger),
		firstEnd: -1,
		useless:  -1,
		deadline: never,
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

// checkLimits ends what has passed its limit and arms the timer for the next one. t.mu is held.
func (t *Tunnel) checkLimits() {
	if t.cutting {
		return
	}
	now := t.now()
	t.limits.mark(now, t.up.eof || t.down.eof || t.err != nil, t.up.useful() || t.down.useful())
	next, by := t.limits.nearest(now, max(t.up.lastByte(), t.down.lastByte()))
	if next <= 0 {
		t.cut(cmp.Or(by, t.by))
		return
	}
	next = min(next, t.up.checkSilence(now), t.down.checkSilence(now))
	switch {
	case next == never:
	case t.limits.timer == nil:
		t.limits.timer = time.AfterFunc(next, t.tick)
	default:
		t.limits.timer.Reset(next)
	}
}

// mark notes when the first side ended or failed, and since when bytes are only dropped.
func (l *limits) mark(now time.Duration, ended, useful bool) {
	if ended && l.firstEnd < 0 {
		l.firstEnd = now
	}
	if !useful && l.useless < 0 {
		l.useless = now
	}
}

// nearest returns how long the nearest limit is away and what has ended the tunnel when it
// passes; 0 is what was noted before.
func (l *limits) nearest(now, lastByte time.Duration) (left time.Duration, by Reason) {
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
	nearer(l.linger, l.firstEnd, Linger)
	nearer(dropLimit, l.useless, 0)
	return left, by
}
