package wsproxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// flushDelay is how long what a target has sent may wait for more of a body whose length is known. ReverseProxy itself
// flushes server-sent events and bodies of unknown length at once.
const flushDelay = time.Millisecond

var errCut = errors.New("the target is down, and what it had not sent yet is cut")

// A responseBody is the body of the target's response. It remembers how it ended; while the target keeps the handler
// waiting it has the client see what was written before, and it ends when the target goes down.
type responseBody struct {
	io.ReadCloser
	w      *responseWriter
	member *balancer.Member
	busy   *busy
	timer  *waitTimer // nil until the first Read
	noted  bool       // with busy; guarded by the timer's mu
	down   atomic.Bool
	err    error // that broke it off
}

func (b *responseBody) init(res *http.Response, w *responseWriter, m *balancer.Member, busy *busy) {
	b.ReadCloser, b.w, b.member, b.busy = res.Body, w, m, busy
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	if b.member.State().Admin == balancer.Down {
		b.err = errCut
		return 0, b.err
	}
	if b.timer == nil {
		b.timer = waitTimers.Get().(*waitTimer)
	}
	b.timer.arm(b)
	n, err := b.ReadCloser.Read(p)
	b.timer.disarm()
	if err != nil && err != io.EOF {
		if b.err = err; b.down.Load() {
			b.err = errCut
		}
		return n, b.err
	}
	return n, err
}

// keepsWaiting is called while a Read is under way that has taken long.
func (b *responseBody) keepsWaiting() {
	b.w.FlushError() // that the client has gone, the next write tells
	if !b.noted {
		b.noted = true
		if !b.busy.wait(b.member, b) {
			b.cut()
		}
	}
}

// cut ends the Read that is under way. Bodies of http.Transport allow a Close meanwhile.
func (b *responseBody) cut() {
	b.down.Store(true)
	b.Close()
}

// release forgets the body: no Read comes any more.
func (b *responseBody) release() {
	if b.timer == nil {
		return
	}
	b.timer.disarm()
	waitTimers.Put(b.timer)
	b.timer = nil
	if b.noted {
		b.busy.done(b.member, b)
	}
}

// A waitTimer tells a body that its Read takes long, unless it is disarmed before. A timer that was given back may
// still fire: then it finds no body, or tells the next one early.
type waitTimer struct {
	timer *time.Timer
	mu    sync.Mutex
	body  *responseBody // nil when disarmed
}

var waitTimers = sync.Pool{New: func() any {
	t := &waitTimer{}
	t.timer = time.AfterFunc(time.Hour, t.fire)
	t.timer.Stop()
	return t
}}

func (t *waitTimer) arm(b *responseBody) {
	t.mu.Lock()
	t.body = b
	t.mu.Unlock()
	t.timer.Reset(flushDelay)
}

// disarm waits for a fire that has begun.
func (t *waitTimer) disarm() {
	t.timer.Stop()
	t.mu.Lock()
	t.body = nil
	t.mu.Unlock()
}

func (t *waitTimer) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.body != nil {
		t.body.keepsWaiting()
		t.body = nil
	}
}
