package wsproxy

import (
	"sync"
	"time"
)

// A waitTimer tells an exchange that its handler waits for long, unless it is disarmed before. A
// timer that was given back may still fire: then it finds no exchange, or tells the next one early.
type waitTimer struct {
	timer    *time.Timer
	mu       sync.Mutex
	exchange *exchange // nil when disarmed
}

// timer lends a stopped timer. They are kept by the Proxy, since one that was made in a synctest
// bubble belongs to it.
func (rt *runtime) timer() *waitTimer {
	if t, ok := rt.timers.Get().(*waitTimer); ok {
		return t
	}
	t := &waitTimer{}
	t.timer = time.AfterFunc(time.Hour, t.fire)
	t.timer.Stop()
	return t
}

func (t *waitTimer) arm(x *exchange) {
	t.mu.Lock()
	t.exchange = x
	t.mu.Unlock()
	t.timer.Reset(patience)
}

// disarm waits for a fire that has begun.
func (t *waitTimer) disarm() {
	t.timer.Stop()
	t.mu.Lock()
	t.exchange = nil
	t.mu.Unlock()
}

func (t *waitTimer) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exchange != nil {
		t.exchange.KeepsWaiting()
		t.exchange = nil
	}
}
