package wsproxy

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// flushDelay is how long what a target has sent may wait for more of a body whose length is known. ReverseProxy itself
// flushes server-sent events and bodies of unknown length at once.
const flushDelay = time.Millisecond

// A responseBody is the body of the target's response. It remembers how it ended, and has the client see what was
// written before while the target keeps the handler waiting.
type responseBody struct {
	io.ReadCloser
	w     *responseWriter
	err   error    // that broke it off
	flush *flusher // nil when ReverseProxy flushes, or nothing was read yet
	known bool     // its length is
}

func (b *responseBody) init(res *http.Response, w *responseWriter) {
	b.ReadCloser, b.w, b.known = res.Body, w, res.ContentLength >= 0
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	if b.known {
		b.arm()
	}
	n, err := b.ReadCloser.Read(p)
	if b.flush != nil {
		b.flush.disarm()
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

func (b *responseBody) arm() {
	if b.flush == nil {
		b.flush = flushers.Get().(*flusher)
	}
	b.flush.arm(b.w)
}

// release gives the flusher back.
func (b *responseBody) release() {
	if b.flush != nil {
		b.flush.disarm()
		flushers.Put(b.flush)
		b.flush = nil
	}
}

// A flusher flushes a writer unless it is disarmed soon enough. A timer of one that was given back may still fire: then
// it finds no writer, or flushes the next one's early.
type flusher struct {
	timer *time.Timer
	mu    sync.Mutex
	w     *responseWriter // nil when disarmed: the handler may write
}

var flushers = sync.Pool{New: func() any {
	f := &flusher{}
	f.timer = time.AfterFunc(time.Hour, f.fire)
	f.timer.Stop()
	return f
}}

func (f *flusher) arm(w *responseWriter) {
	f.mu.Lock()
	f.w = w
	f.mu.Unlock()
	f.timer.Reset(flushDelay)
}

// disarm waits for a flush that has begun.
func (f *flusher) disarm() {
	f.timer.Stop()
	f.mu.Lock()
	f.w = nil
	f.mu.Unlock()
}

func (f *flusher) fire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.w != nil {
		f.w.FlushError() // that the client has gone, the next write tells
		f.w = nil
	}
}
