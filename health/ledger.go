package health

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// counters hold what live traffic has taught about a member. A success updates them without a
// lock.
type counters struct {
	since    atomic.Int64 // requests that began earlier do not count; in nanoseconds from the epoch
	trial    atomic.Bool  // the next outcome that can tell decides
	answered atomic.Bool  // a plain request has succeeded
	requests ledger       // plain requests, and every connection that was made
	upgrades ledger       // upgrades, and what became of their tunnels
}

// succeeded counts a plain request that was answered.
func (c *counters) succeeded(step time.Duration) {
	c.requests.window.add(step, false)
	c.requests.absolve()
	c.answer()
	c.pass()
}

// answer notes that the target answers plain requests, so that what its upgrades did is their
// own affair.
func (c *counters) answer() {
	if !c.answered.Load() {
		c.answered.Store(true)
	}
	if c.upgrades.failing.Load() {
		c.upgrades.clear()
	}
}

// tunnelSucceeded counts a tunnel that ended well, or an upgrade that was answered. One that began
// before the first of the failures in a row says nothing about them.
func (c *counters) tunnelSucceeded(step, began time.Duration) {
	for _, l := range [...]*ledger{&c.requests, &c.upgrades} {
		l.window.add(step, false)
		if began >= time.Duration(l.began.Load()) {
			l.absolve()
		}
	}
	c.pass()
}

// pass ends a trial.
func (c *counters) pass() {
	if c.trial.Load() {
		c.trial.Store(false)
	}
}

func (c *counters) clear() {
	c.requests.clear()
	c.upgrades.clear()
}

// A ledger counts the failures of one kind of requests, and who had them.
type ledger struct {
	row     atomic.Int32 // failures in a row
	began   atomic.Int64 // when the first of them came; in nanoseconds from the epoch
	failing atomic.Bool  // there have been failures since clear
	window  window       // all outcomes

	mu       sync.Mutex // held to count a failure
	own      window     // failures that need no proof
	ownInRow int32
	several  bool          // those in the row came from more than one client
	latest   netip.Addr    // the client of the latest failure, if failing
	latestAt time.Duration // when that came
	others   bool          // another client had failures too
	otherAt  time.Duration // when the latest one of those came
}

// fail counts a failure that client had. The ledger's mu is held.
func (l *ledger) fail(client netip.Addr, own bool, now, step time.Duration) {
	if l.row.Load() == 0 { // a success, or nothing yet
		l.began.Store(int64(now))
		l.ownInRow, l.several = 0, false
	} else if client != l.latest {
		l.several = true
	}
	if l.failing.Load() && client != l.latest {
		l.others, l.otherAt = true, l.latestAt
	}
	l.latest, l.latestAt = client, now
	l.window.add(now/step, true)
	if own {
		l.ownInRow++
		l.own.add(now/step, true)
	}
	l.row.Add(1)
	l.failing.Store(true)
}

// severalSince reports whether more than one client has had failures after then. The ledger's mu
// is held.
func (l *ledger) severalSince(then time.Duration) bool { return l.others && l.otherAt > then }

// absolve ends the failures in a row.
func (l *ledger) absolve() {
	if l.row.Load() != 0 {
		l.row.Store(0)
	}
}

// clear forgets all outcomes.
func (l *ledger) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.row.Store(0)
	l.window.clear()
	l.own.clear()
	l.others = false
	l.failing.Store(false)
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

func (w *window) clear() {
	for i := range w {
		w[i].Store(0)
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
