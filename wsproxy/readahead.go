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

// PeekBody returns what [Proxy.ReadAhead] has read of a request's body. The bytes are as the client
// has sent them, and may be compressed. complete reports whether they are known to be the whole
// body. PeekBody reads nothing itself. The slice must not be changed.
//
// It is for the functions of a [Proxy], its policy and its pickers. r is the request that they get,
// or one with a context derived from that request's.
//
// For a request without a body it returns nil and true. It returns nil and false if nothing of the
// body was read ahead: without ReadAhead, for gRPC, and for a body that has failed.
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

// readAheadPause is how long a client may pause while a body of unknown length is read ahead. A
// longer pause ends the reading ahead, because such a body may be one half of a conversation. After
// Shutdown has begun, this applies to any body.
const readAheadPause = time.Second

// plan decides whether the request's body is read ahead. If it is, hooks find a peek in the
// request's context.
func (k *walk) plan() {
	if k.p.ReadAhead > 0 && k.upload.body != nil && !converses(k.in.Header) {
		k.peek = &peek{}
		k.in = k.in.WithContext(context.WithValue(k.in.Context(), peekKey{}, k.peek))
	}
}

// converses reports whether a request's content is a stream of gRPC or of the Connect protocol,
// whose client may wait for an answer before it sends more. A client of gRPC-Web sends everything
// first.
func converses(h http.Header) bool {
	content := strings.ToLower(h.Get("Content-Type"))
	rest, ok := strings.CutPrefix(content, "application/grpc")
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "+; \t")) || strings.HasPrefix(content, "application/connect+")
}

// readAhead reads the beginning of the body, if plan has decided so.
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

// An aheadBuffer has what was read of a body before a target was chosen. A goroutine of its own
// reads, because the wait for a Read may have to end, and interrupting the Read would make the body
// useless. The Read goes on then, and what it returns is the next part of the body.
type aheadBuffer struct {
	limit int           // how many bytes PeekBody may return
	max   int           // how many bytes are read: one more if that tells whether the body is longer
	pause time.Duration // see readAheadPause
	done  chan struct{} // closed when no further Read begins

	// Guarded by the requestBody's mu.
	data   []byte    // read, but not returned by requestBody.Read yet
	came   time.Time // when the last Read ended; before the first one, when it began
	enough bool      // no further Read may begin
}

// newAheadBuffer returns a buffer for a body of that length, which is -1 when it is not known.
func newAheadBuffer(length int64, limit int, pause time.Duration) *aheadBuffer {
	a := &aheadBuffer{limit: limit, max: limit, pause: pause, done: make(chan struct{}), came: time.Now()}
	if length >= 0 {
		a.max = int(min(length, int64(limit))) // the end of a stream may come much later
	} else if limit < math.MaxInt {
		a.max++
	}
	return a
}

// minAhead is the first size of the buffer, in bytes.
const minAhead = 512

// readAhead reads the body's beginning into a, and returns it. A pause of a.pause ends the reading
// if the length of the body is unknown, and for any body after closing is closed. The error is the
// one that ended the body, or ctx's.
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

// whyAhead returns the error for which readAhead ends when ctx has ended. When the client is gone,
// or the server's deadline has passed, net/http first ends the request's context. The error of the
// Read that returns after that tells the two apart.
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

// patienceAhead returns how much longer the body may pause.
func (b *requestBody) patienceAhead() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ahead.pause - time.Since(b.ahead.came)
}

// stopAhead keeps further Reads from beginning, and returns what was read. err is the error for
// which readAhead ends, or nil.
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

// readOnAhead reads until the buffer is full, the body ends, or stopAhead was called.
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
		a.data = append(a.data, room[:n]...) // usually in place; giveAhead may have moved the start of data
		a.came = time.Now()
		b.endRead(err)
		b.mu.Unlock()
	}
}

// beginAhead starts a Read, and returns the buffer for it. It returns nil when none may begin.
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

// giveAhead copies what was read ahead to p. If that is nothing yet, it waits for a Read ahead that
// runs.
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

// handOverAhead returns all that was read ahead, without a copy. The slice is the caller's.
func (b *requestBody) handOverAhead() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	data := slices.Clip(b.ahead.data)
	b.ahead.data = nil
	return data
}
