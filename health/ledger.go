package health

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// counters count the outcomes of a member's live traffic. A success updates them without a lock.
type counters struct {
	since    atomic.Int64 // outcomes of requests that began earlier do not count; nanoseconds since the epoch
	trial    atomic.Bool  // the next outcome that counts decides whether the target is ejected again
	answered atomic.Bool  // a plain request has succeeded
	requests ledger       // plain requests, and failed connections of all requests
	upgrades ledger       // upgrades and their tunnels
}

// succeeded counts a plain request that was answered.
func (c *counters) succeeded(step time.Duration) {
	c.requests.window.add(step, false)
	c.requests.absolve()
	c.answer()
	c.pass()
}

// answer records that the target answers plain requests. Failed upgrades then say nothing about the
// target as a whole, so they are cleared.
func (c *counters) answer() {
	if !c.answered.Load() {
		c.answered.Store(true)
	}
	if c.upgrades.failing.Load() {
		c.upgrades.clear()
	}
}

// tunnelSucceeded counts a tunnel that ended well, or an upgrade that was answered. It ends the
// failures in a row only if it began after the first of them.
func (c *counters) tunnelSucceeded(step, began time.Duration) {
	for _, l := range [...]*ledger{&c.requests, &c.upgrades} {
		l.window.add(step, false)
		if began >= time.Duration(l.began.Load()) {
			l.absolve()
		}
	}
	c.pass()
}

// pass ends a trial, if there is one, without another ejection.
func (c *counters) pass() {
	if c.trial.Load() {
		c.trial.Store(false)
	}
}

func (c *counters) clear() {
	c.requests.clear()
	c.upgrades.clear()
}

// A ledger counts the failures of one kind of requests, and remembers whether they came from one
// client or from several.
type ledger struct {
	row     atomic.Int32 // failures in a row
	began   atomic.Int64 // when the first of them came; in nanoseconds from the epoch
	failing atomic.Bool  // there have been failures since clear
	window  window       // all outcomes

	mu       sync.Mutex // held to count a failure
	own      window     // the target's own failures, which need no proof
	ownInRow int32
	several  bool          // those in the row came from more than one client
	latest   netip.Addr    // the client of the latest failure, if failing
	latestAt time.Duration // the time of the latest failure
	others   bool          // another client had failures too
	otherAt  time.Duration // the time of the latest failure of another client
}

// fail counts a failure of a request from client. The caller holds the ledger's mu.
func (l *ledger) fail(client netip.Addr, own bool, now, step time.Duration) {
	if l.row.Load() == 0 { // the latest outcome was no failure
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

// severalSince reports whether requests from more than one client have failed after the time then.
// The caller holds the ledger's mu.
func (l *ledger) severalSince(then time.Duration) bool { return l.others && l.otherAt > then }

// absolve ends the failures in a row.
func (l *ledger) absolve() {
	if l.row.Load() != 0 {
		l.row.Store(0)
	}
}

// clear removes all outcomes.
func (l *ledger) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.row.Store(0)
	l.window.clear()
	l.own.clear()
	l.others = false
	l.failing.Store(false)
}

// windowSteps is the number of steps of a sliding window.
const windowSteps = 10

// A window counts outcomes over the latest steps of time. Each cell holds, from the top bit down,
// the number of its step plus one (32 bits), the failures (16 bits) and all outcomes (16 bits). A
// cell is reset when a later step uses it. A full cell counts no further: its ratio is known well
// enough by then.
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

// sum returns the outcomes in the window that ends with step.
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
