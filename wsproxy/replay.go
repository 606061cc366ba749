package wsproxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A source is a request's body, read by one attempt after the other. ReverseProxy's body cannot be
// read after a Close, and http.Transport closes it even when the dial was refused: so attempts get
// their own, whose Close does nothing.
type source struct {
	body    io.ReadCloser // nil when there is none
	limit   int           // of kept
	inbound *http.Request // has the trailers when its body is at its end
	upload  *requestBody  // the inbound body's
	won     atomic.Bool   // there is a response: nobody reads the body after the attempt that has it
	cut     atomic.Bool   // the Read under way is interrupted: nothing more can be read

	turn    sync.Mutex // held while an attempt reads
	mu      sync.Mutex
	reading bool      // a Read waits for the client
	kept    []byte    // what was read so far, if not lost
	lost    bool      // more was read than kept may hold
	err     error     // that ended the body
	moved   time.Time // when an attempt last got something of the body, or its end
	current *attemptBody
	first   attemptBody
}

// lockIdle locks s.mu and reports true, unless a Read waits for the client.
func (s *source) lockIdle() bool {
	s.mu.Lock()
	if s.reading {
		s.mu.Unlock()
		return false
	}
	return true
}

// awaitsClient reports whether a Read waits for the client.
func (s *source) awaitsClient() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reading
}

// open gives the next attempt its body, from the beginning. It reports false when that has gone by,
// or while an earlier attempt still reads.
func (s *source) open() (*attemptBody, bool) {
	if !s.lockIdle() {
		return nil, false
	}
	defer s.mu.Unlock()
	if s.lost {
		return nil, false
	}
	if s.current = &s.first; s.first.source != nil { // which may still be known
		s.current = new(attemptBody)
	}
	s.current.source, s.current.began = s, time.Now()
	return s.current, true
}

// replayable reports whether open would give a body from the beginning now, or there is none to
// give.
func (s *source) replayable() bool {
	if !s.lockIdle() {
		return false
	}
	defer s.mu.Unlock()
	return !s.lost
}

// failure is why the body could not be read to its end; nil when it could, or nobody has come
// across it.
func (s *source) failure() error {
	if !s.lockIdle() {
		return nil
	}
	defer s.mu.Unlock()
	if s.err == io.EOF || s.err == errAbandoned {
		return nil
	}
	return s.err
}

// latency returns how much of the time that an attempt has taken was the target's: the time since
// the body was last read. It is 0, unknown, while a Read waits for the client.
func (s *source) latency(all time.Duration) time.Duration {
	if !s.lockIdle() {
		return 0
	}
	defer s.mu.Unlock()
	if s.moved.IsZero() {
		return all
	}
	return min(all, time.Since(s.moved))
}

func (s *source) keep(p []byte) {
	if s.lost {
		return
	}
	if len(s.kept)+len(p) > s.limit {
		s.lost, s.kept = true, nil
		return
	}
	s.kept = append(s.kept, p...)
}

// win notes that b is of the attempt whose response is the answer.
func (s *source) win(b *attemptBody) {
	s.won.Store(true)
	if b.closed.Load() {
		s.interrupt()
	}
}

// interrupt ends a Read that is under way. In HTTP/1 the inbound body's Close would wait for it.
func (s *source) interrupt() {
	if s.inbound.ProtoMajor >= 2 {
		s.inbound.Body.Close()
	}
}

type attemptBody struct {
	source  *source
	off     int             // in source.kept
	trailer http.Header     // of the attempt's request; nil when none is announced
	over    <-chan struct{} // closed when the attempt is
	closed  atomic.Bool
	waited  atomic.Bool // closed during a Read
	began   time.Time
}

// waits reports whether the attempt waits, or waited when it was given up, for the client to send
// more of the body.
func (b *attemptBody) waits() bool {
	return b.waited.Load() || b.source.awaitsClient()
}

// patience returns how much of the limit is left to a target that takes nothing of the body. All of
// it is while the client is waited for. header is how long the response's header may take; 0 means
// that it may take for ever.
func (b *attemptBody) patience(limit, header time.Duration) time.Duration {
	s := b.source
	if !s.lockIdle() {
		return limit
	}
	defer s.mu.Unlock()
	last := b.began
	if s.moved.After(last) {
		last = s.moved
	}
	if s.err != nil { // the limit on the response's header is the transport's, and begins when it has sent the rest
		if header == 0 {
			return limit
		}
		limit += header
	}
	return limit - time.Since(last)
}

// answerPatience is how long a response may go on when the request's body has failed.
const answerPatience = 5 * time.Second

var errAbandoned = errors.New("wsproxy: the attempt is over")

// Read implements io.Reader. When the body has failed while the response is under way, the
// transport, which closes the connection then, learns of it only when that is over or has had its
// time: it may well be the whole answer.
func (b *attemptBody) Read(p []byte) (int, error) {
	n, err := b.read(p)
	if err != nil && err != io.EOF && b.source.won.Load() && !b.closed.Load() {
		timer := time.NewTimer(answerPatience)
		defer timer.Stop()
		select {
		case <-b.over:
		case <-timer.C:
		}
	}
	return n, err
}

// read gives what was kept, then what the source has. The body of an attempt that has been given up
// reads no more: what it took would be missing in the next one.
func (b *attemptBody) read(p []byte) (int, error) {
	s := b.source
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != b {
		return 0, errAbandoned
	}
	if b.off < len(s.kept) {
		n := copy(p, s.kept[b.off:])
		b.off += n
		s.moved = time.Now() // the target has taken what came before
		return n, nil
	}
	if s.err != nil {
		b.fillTrailer()
		return 0, s.err
	}
	s.reading = true
	s.mu.Unlock()
	n, err := readSafely(s.body, p)
	s.mu.Lock()
	s.reading, s.moved = false, time.Now()
	if err != nil && err != io.EOF && s.cut.Load() {
		s.lost, s.kept, err = true, nil, errAbandoned
	}
	if err == io.EOF {
		b.fillTrailer()
		if name := invalidField(b.trailer); name != "" { // the server does not look, and HTTP/2 cannot carry it
			err = fmt.Errorf("trailer %q is not valid", name)
		}
	}
	s.err = err
	s.keep(p[:n])
	b.off = len(s.kept)
	return n, err
}

// fillTrailer gives the announced trailers their values. ReverseProxy's copy of the request has the
// names alone. What Rewrite gave a value keeps it, and a name that the client may not send gets
// none, whoever announces it.
func (b *attemptBody) fillTrailer() {
	for name, values := range b.trailer {
		if len(values) == 0 && mayTrail(name, b.source.inbound.Header["Connection"]) {
			b.trailer[name] = b.source.inbound.Trailer[name]
		}
	}
}

// invalidField returns the name of a field whose name or value is not valid; empty when there is
// none.
func invalidField(h http.Header) string {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) || !allValid(values) {
			return name
		}
	}
	return ""
}

func allValid(values []string) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) })
}

// Close implements io.Closer. It leaves the source as it is, but for the attempt that has won: when
// the connection to an HTTP/2 target breaks, the response's body ends only after a Read that waits
// for the client has.
func (b *attemptBody) Close() error {
	if b.source.awaitsClient() {
		b.waited.Store(true)
	}
	b.closed.Store(true)
	b.source.upload.wake()
	if b.source.won.Load() {
		b.source.interrupt()
	}
	return nil
}

// classOfBody is the class of a request whose body could not be read: that of a client that gave
// up, unless the program's own code has failed.
func classOfBody(err error) Class {
	if _, ok := errors.AsType[*bodyPanic](err); ok {
		return ClassRequest
	}
	return ClassClientGone
}

// statusOfBody is the status that answers a request whose body could not be read.
func statusOfBody(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if _, ok := errors.AsType[*bodyPanic](err); ok {
		return http.StatusInternalServerError
	}
	if upstream.IsTimeout(err) { // http.Server.ReadTimeout
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}
