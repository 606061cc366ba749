package wsproxy

import (
	"sync"
	"time"
)

// A waitTimer calls an exchange's KeepsWaiting when it has been armed for the time patience. A
// timer that was given back may still fire. Then it finds no exchange, or it calls the next one's
// KeepsWaiting early.
type waitTimer struct {
	timer    *time.Timer
	mu       sync.Mutex
	exchange *exchange // nil when disarmed
}

// timer returns a timer that is not armed. Each Proxy keeps its own timers, because a timer that
// was made in a synctest bubble cannot be used outside of it.
func (rt *runtime) timer() *waitTimer {
	if t, ok := rt.timers.Get().(*waitTimer); ok {
		return t
	}
	t := &waitTimer{}
	t.timer = time.AfterFunc(time.Hour, t.fire)
	t.timer.Stop()
	return t
}

// arm makes the timer call x.KeepsWaiting after patience.
func (t *waitTimer) arm(x *exchange) {
	t.mu.Lock()
	t.exchange = x
	t.mu.Unlock()
	t.timer.Reset(patience)
}

// disarm stops the timer. If fire runs meanwhile, disarm waits for it.
func (t *waitTimer) disarm() {
	t.timer.Stop()
	t.mu.Lock()
	t.exchange = nil
	t.mu.Unlock()
}

// fire is the function of the time.Timer.
func (t *waitTimer) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exchange != nil {
		t.exchange.KeepsWaiting()
		t.exchange = nil
	}
}
