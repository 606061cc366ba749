package wsproxy

import (
	"cmp"
	"context"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// PeekBody returns what [Proxy.ReadAhead] has read of a request's body, as the client sent it:
// compressed, if it is. complete reports whether that is known to be the whole body. It is for the
// functions of a [Proxy], its policy and its pickers, and for nobody else: it takes the request
// that they are given, or one with a context that was derived from that request's, and reads
// nothing itself. The slice must not be changed.
//
// For a request without a body it returns nil and true. For a body of which nothing was read ahead
// it returns nil and false: one that fails meanwhile, one of gRPC, and all where ReadAhead is not
// set.
func PeekBody(r *http.Request) (start []byte, complete bool) {
	if p, ok := r.Context().Value(peekKey{}).(*peek); ok {
		return p.start, p.complete
	}
	return nil, r.Body == nil || r.ContentLength == 0
}

type peekKey struct{}

// A peek is what PeekBody returns for one request.
type peek struct {
	start    []byte
	complete bool
}

// readAheadPause is how long a client may pause whose body may be one half of a conversation, and
// any client after Shutdown has begun.
const readAheadPause = time.Second

// plan decides whether the request's body is read ahead.
func (k *walk) plan() {
	if k.p.ReadAhead > 0 && k.upload.body != nil && !converses(k.in.Header) {
		k.peek = &peek{}
		k.in = k.in.WithContext(context.WithValue(k.in.Context(), peekKey{}, k.peek))
	}
}

// converses reports whether a request's content is one half of a conversation: a stream of gRPC, or
// one of the Connect protocol. A client of gRPC-Web sends all before it waits.
func converses(h http.Header) bool {
	content := strings.ToLower(h.Get("Content-Type"))
	rest, ok := strings.CutPrefix(content, "application/grpc")
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "+; \t")) || strings.HasPrefix(content, "application/connect+")
}

// readAhead reads the beginning of the body, if that was planned.
func (k *walk) readAhead() *Error {
	if k.peek == nil {
		return nil
	}
	a := newAheadBuffer(k.upload.length, k.p.ReadAhead, k.rt.aheadPause)
	start, complete, err := k.upload.readAhead(k.in.Context(), a, k.rt.busy.Closed())
	if err != nil {
		return &Error{Class: classOfBody(err), Status: statusOfBody(err), Err: err}
	}
	k.peek.start, k.peek.complete = start, complete
	return nil
}

// An aheadBuffer has what was read of a body before somebody wanted it. A goroutine of its own
// reads: a Read that is interrupted would spoil the body, so that the one under way goes on when
// the wait for it has ended. What it brings is the next to be given out.
type aheadBuffer struct {
	limit int           // how many bytes are told
	max   int           // how many are read: one more where that tells whether the body is longer
	pause time.Duration // see readAheadPause
	done  chan struct{} // closed when no further Read begins

	// Guarded by the requestBody's mu.
	data   []byte    // read, and not given out
	came   time.Time // when the last Read ended, or the first one began
	enough bool      // no further Read may begin
}

// newAheadBuffer makes the buffer for a body of that length, -1 when unknown.
func newAheadBuffer(length int64, limit int, pause time.Duration) *aheadBuffer {
	a := &aheadBuffer{limit: limit, max: limit, pause: pause, done: make(chan struct{}), came: time.Now()}
	if length >= 0 {
		a.max = int(min(length, int64(limit))) // a stream may be left open after that
	} else if limit < math.MaxInt {
		a.max++
	}
	return a
}

// minAhead is how large the buffer is at first.
const minAhead = 512

// readAhead fills the buffer with the body's beginning, which it returns. The error is the one that
// ended the body, or ctx's. A body of unknown length, and any body after closing, may pause for no
// longer than a.pause: then what has come is enough.
func (b *requestBody) readAhead(ctx context.Context, a *aheadBuffer, closing <-chan struct{}) (start []byte, complete bool, err error) {
	b.ahead = a
	go b.readOnAhead()
	pause := time.NewTimer(a.pause)
	defer pause.Stop()
	if b.length >= 0 {
		pause.Stop()
	}
	for waiting := true; waiting && err == nil; {
		select {
		case <-a.done:
			waiting = false
		case <-ctx.Done():
			err = b.whyAhead(ctx)
		case <-closing:
			closing = nil
			pause.Reset(b.patienceAhead())
		case <-pause.C:
			left := b.patienceAhead()
			waiting = left > 0
			pause.Reset(left)
		}
	}
	return b.stopAhead(err)
}

// whyAhead returns why nobody waits any more, when ctx has ended. net/http ends a request's context
// before the Read that has met the client's end, or the server's deadline, returns and tells which.
func (b *requestBody) whyAhead(ctx context.Context) error {
	if ctx.Err() == context.Canceled {
		timer := time.NewTimer(joinPatience)
		defer timer.Stop()
		select {
		case <-b.ahead.done:
			return cmp.Or(b.failure(), ctx.Err())
		case <-timer.C:
		}
	}
	return ctx.Err()
}

// patienceAhead returns how much longer a body may pause.
func (b *requestBody) patienceAhead() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ahead.pause - time.Since(b.ahead.came)
}

// stopAhead lets no further Read ahead begin, and returns what came of them. err is why nobody
// waits for more, if that is an error.
func (b *requestBody) stopAhead(err error) (start []byte, complete bool, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.ahead
	a.enough = true
	if err == nil && b.err != nil && b.err != io.EOF {
		err = b.err
	}
	if err != nil {
		return nil, false, err
	}
	n := min(len(a.data), a.limit)
	complete = b.err == io.EOF && n == len(a.data) || int64(n) == b.length
	return a.data[:n:n], complete, nil
}

// readOnAhead reads until the buffer is full or the body ends.
func (b *requestBody) readOnAhead() {
	a := b.ahead
	defer close(a.done)
	for {
		room := b.beginAhead()
		if room == nil {
			return
		}
		n, err := b.next(room)
		b.mu.Lock()
		a.data = append(a.data, room[:n]...) // where they are already, unless what was before them is given out
		a.came = time.Now()
		b.endRead(err)
		b.mu.Unlock()
	}
}

// beginAhead begins a Read and returns the buffer for it, or nil when none is to be.
func (b *requestBody) beginAhead() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.ahead
	if a.enough || b.err != nil || b.reading || b.over.Load() || b.taken.Load() || len(a.data) >= a.max {
		return nil
	}
	b.reading = true
	return a.room()
}

// room returns the free part of the buffer. The buffer grows only as bytes come, whatever length
// the client has declared.
func (a *aheadBuffer) room() []byte {
	if len(a.data) == cap(a.data) {
		grown := make([]byte, len(a.data), min(max(2*cap(a.data), minAhead), a.max))
		copy(grown, a.data)
		a.data = grown
	}
	return a.data[len(a.data):cap(a.data)]
}

// giveAhead gives out what was read ahead. It waits for a Read ahead that is under way.
func (b *requestBody) giveAhead(p []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.ahead
	for b.reading && len(a.data) == 0 {
		b.read.Wait()
	}
	if b.over.Load() || b.taken.Load() {
		return 0
	}
	n := copy(p, a.data)
	a.data = a.data[n:]
	return n
}

// handOverAhead gives out all that was read ahead, without a copy.
func (b *requestBody) handOverAhead() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	data := slices.Clip(b.ahead.data)
	b.ahead.data = nil
	return data
}
