package upstream

import (
	"context"
	"sync"
	"time"
)

// lull is the interval of the timer. After one to two lulls, watch starts to listen to the context
// of a request. Nearly all requests end before that. They are spared the allocations of a
// context.AfterFunc that is never called.
const lull = 10 * time.Millisecond

// A watch closes the connections of requests whose context ends. Its timer runs only while there
// are requests to whose context it does not listen yet.
type watch struct {
	mu    sync.Mutex
	young []*conn // requests to whose context it does not listen yet
	round uint64  // counts the firings of the timer
	timer *time.Timer
}

// begin watches c until end is called.
func (w *watch) begin(ctx context.Context, c *conn) {
	if ctx.Done() == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.ctx, c.round, c.place = ctx, w.round, len(w.young)
	w.young = append(w.young, c)
	if w.timer == nil {
		w.timer = time.AfterFunc(lull, w.listen)
	}
}

// end ends the watch. It reports false if the context has ended: the connection is then closed, or
// about to be.
func (w *watch) end(c *conn) bool {
	if c.ctx == nil {
		return true
	}
	w.mu.Lock()
	stop := c.stop
	if stop == nil {
		w.remove(c)
	}
	w.mu.Unlock()
	c.ctx, c.stop = nil, nil
	return stop == nil || stop()
}

func (w *watch) remove(c *conn) {
	last := len(w.young) - 1
	w.young[c.place] = w.young[last]
	w.young[c.place].place = c.place
	w.young[last] = nil
	w.young = w.young[:last]
}

// listen is called when the timer fires.
func (w *watch) listen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.young) - 1; i >= 0; i-- { // remove moves one here that was already visited
		if c := w.young[i]; c.round < w.round {
			w.remove(c)
			c.stop = context.AfterFunc(c.ctx, c.close)
		}
	}
	w.round++
	if len(w.young) == 0 {
		w.timer = nil
	} else {
		w.timer.Reset(lull)
	}
}
