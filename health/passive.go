package health

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
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
// When an ejection is over, the target is on trial: the first request that begins then and ends
// decides. If it fails, the target is ejected again at once, otherwise it counts as any other.
// Each ejection is twice as long as the one before; each stretch of the last one's length
// without another halves what the next one gets. What was under way when a target was ejected
// says nothing more about it. A target that its checks find healthy again, after they had found
// it unhealthy, comes back at once, on trial.
//
// The client's own aborts never count, nor does a shortage on this machine.
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

	// Failed reports whether an outcome is a failure. It is called at the end of requests,
	// never for one that the client aborted, concurrently, and must not block. Nil means that all classes but
	// OK are failures: an answer with status 500 is an answer.
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
	case p.Ratio > 1, p.MaxShare > 1:
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
	if d.Failed == nil {
		d.Failed = func(o balancer.Outcome) bool { return o.Class != balancer.OK }
	}
	return d
}

func (p *Passive) off() bool { return p.Consecutive < 0 && p.Ratio < 0 }

// learn counts the outcome of a live request that ended at now, a time since the run's epoch.
// For a success it takes no lock: it is called for every request.
func (u *run) learn(t *track, o balancer.Outcome, now time.Duration) {
	if u.passive.off() || o.Class == balancer.ClientGone || o.Class == balancer.Unjudged || balancer.Shortage(o.Err) != "" {
		return
	}
	since := time.Duration(t.passive.since.Load())
	if now-o.Latency < since {
		return // it began before the target was ejected, or while it was
	}
	failed := u.passive.Failed(o)
	t.passive.window.add(now/u.step(), failed)
	if !failed {
		t.passive.succeed()
		return
	}
	if why := u.trip(&t.passive, now); why != "" {
		u.eject(t, why+", the last one: "+cause(o), now)
	}
}

// step is the length of a step of the window.
func (u *run) step() time.Duration { return u.passive.Window / windowSteps }

// trip counts a failure in a row, and says which rule it breaks, if any.
func (u *run) trip(c *counters, now time.Duration) string {
	row := c.row.Add(1)
	if c.trial.Load() {
		return "failed again after its ejection"
	}
	if limit := u.passive.Consecutive; limit > 0 && int(row) >= limit {
		return fmt.Sprintf("%d failures in a row", row)
	}
	if u.passive.Ratio < 0 {
		return ""
	}
	failed, all := c.window.sum(now / u.step())
	if all >= u.passive.Volume && float64(failed) >= u.passive.Ratio*float64(all) {
		return fmt.Sprintf("%d of %d requests failed", failed, all)
	}
	return ""
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

// eject takes the member out for a while, unless that is not allowed.
func (u *run) eject(t *track, why string, now time.Duration) {
	r := u.r
	r.mu.Lock()
	if t.out || t.zone == nil {
		r.mu.Unlock()
		return // another failure was quicker, or the member has left the pool
	}
	t.passive.clear()
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

// counters hold what live traffic has taught about a member. They are updated without a lock.
type counters struct {
	since  atomic.Int64 // requests that began earlier do not count; in nanoseconds from the epoch
	trial  atomic.Bool  // the next outcome decides
	row    atomic.Int32 // failures in a row
	window window
}

func (c *counters) succeed() {
	if c.row.Load() != 0 {
		c.row.Store(0)
	}
	if c.trial.Load() {
		c.trial.Store(false)
	}
}

func (c *counters) clear() {
	c.row.Store(0)
	for i := range c.window {
		c.window[i].Store(0)
	}
}

// windowSteps is in how many steps a window slides.
const windowSteps = 10

// A window counts outcomes over the latest steps of time. Each cell holds, from the top bit
// down, the number of its step plus one (32 bits), failures (16 bits) and all outcomes (16
// bits). It starts anew when another step falls into it, and counts no further when it is full:
// by then it has seen enough of its step to know the ratio.
type window [windowSteps]atomic.Uint64

const (
	cellBits = 16
	cellMax  = 1<<cellBits - 1
	stepBits = 64 - 2*cellBits
	stepMask = 1<<stepBits - 1
)

func (w *window) add(step time.Duration, failed bool) {
	cell := &w[step%windowSteps]
	mark := uint64(step+1) & stepMask
	for {
		old := cell.Load()
		next := old
		if old>>(2*cellBits) != mark {
			next = mark << (2 * cellBits)
		}
		if next&cellMax < cellMax {
			next++
			if failed {
				next += 1 << cellBits
			}
		}
		if cell.CompareAndSwap(old, next) {
			return
		}
	}
}

// sum returns how many outcomes the window that ends with step has.
func (w *window) sum(step time.Duration) (failed, all int) {
	mark := uint64(step + 1)
	for i := range w {
		v := w[i].Load()
		if v != 0 && (mark-v>>(2*cellBits))&stepMask < windowSteps {
			failed += int(v >> cellBits & cellMax)
			all += int(v & cellMax)
		}
	}
	return failed, all
}
