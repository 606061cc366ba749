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

// A source is a request's body, which one attempt after the other reads. Each attempt reads through
// an attemptBody, whose Close does nothing to the source: http.Transport closes a body even when
// the dial was refused, and ReverseProxy's body cannot be read after its Close.
type source struct {
	body    io.ReadCloser // nil when the request has none
	limit   int           // bytes that kept may have
	inbound *http.Request // the client's request
	upload  *requestBody  // the body of inbound
	won     atomic.Bool   // an attempt has the answer: no other will read
	cut     atomic.Bool   // a Read was interrupted: nothing more can be read

	turn     sync.Mutex // held during attemptBody.read; taken before mu
	mu       sync.Mutex
	reading  bool      // a Read waits for the client
	kept     []byte    // the bytes that were read so far; nil when they are lost
	lost     bool      // more was read than kept may have
	err      error     // the error that ended the body; nil before
	lastRead time.Time // when an attempt last got a part of the body, or its end
	current  *attemptBody
	first    attemptBody // memory for the first attempt's
}

// init sets the body. kept is the part of it that was read before.
func (s *source) init(body io.ReadCloser, inbound *http.Request, upload *requestBody, limit int, kept []byte) {
	s.body, s.inbound, s.upload, s.limit, s.kept = body, inbound, upload, limit, kept
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

// open returns a body for the next attempt, which begins at the first byte. It reports false when
// the beginning is lost, and while an earlier attempt reads.
func (s *source) open() (*attemptBody, bool) {
	if !s.lockIdle() {
		return nil, false
	}
	defer s.mu.Unlock()
	if s.lost {
		return nil, false
	}
	if s.current = &s.first; s.first.source != nil { // a transport may still have the first
		s.current = new(attemptBody)
	}
	s.current.source, s.current.began = s, time.Now()
	return s.current, true
}

// replayable reports whether open would return a body now. It is true for a request without a body.
func (s *source) replayable() bool {
	if !s.lockIdle() {
		return false
	}
	defer s.mu.Unlock()
	return !s.lost
}

// failure returns the error for which the body could not be read to its end. It returns nil when
// there was none yet.
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

// latency returns the part of an attempt's time for which the target is responsible: the time since
// the body was last read. It returns 0, which means unknown, while a Read waits for the client.
func (s *source) latency(all time.Duration) time.Duration {
	if !s.lockIdle() {
		return 0
	}
	defer s.mu.Unlock()
	if s.lastRead.IsZero() {
		return all
	}
	return min(all, time.Since(s.lastRead))
}

// keep adds what was read to kept. s.mu is held.
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

// win notes that the attempt of b has the answer.
func (s *source) win(b *attemptBody) {
	s.won.Store(true)
	if b.closed.Load() {
		s.interrupt()
	}
}

// noteCut notes that the Read that waits for the client is about to be interrupted.
func (s *source) noteCut() { s.cut.Store(true) }

// interrupt ends a Read of an HTTP/2 body. It does nothing in HTTP/1.x, where the body's Close
// would wait for that Read.
func (s *source) interrupt() {
	if s.inbound.ProtoMajor >= 2 {
		s.inbound.Body.Close()
	}
}

// An attemptBody is the body of one attempt's request.
type attemptBody struct {
	source  *source
	off     int             // bytes of source.kept that were read
	trailer http.Header     // of the attempt's request; nil when none is announced
	done    <-chan struct{} // closed when the attempt ends
	closed  atomic.Bool
	waited  atomic.Bool // the body was closed while a Read waited for the client
	began   time.Time
}

// begin is called before the attempt's request is sent.
func (b *attemptBody) begin(trailer http.Header, done <-chan struct{}) {
	b.trailer, b.done = trailer, done
}

// waits reports whether a Read waits for the client, or did when the body was closed.
func (b *attemptBody) waits() bool {
	return b.waited.Load() || b.source.awaitsClient()
}

// patience returns the part of limit that is left to a target that takes nothing of the body. It
// returns all of it while a Read waits for the client. header is the limit on the response's
// header; 0 means none.
func (b *attemptBody) patience(limit, header time.Duration) time.Duration {
	s := b.source
	if !s.lockIdle() {
		return limit
	}
	defer s.mu.Unlock()
	last := b.began
	if s.lastRead.After(last) {
		last = s.lastRead
	}
	if s.err != nil { // the transport's limit on the header begins when it has sent the rest
		if header == 0 {
			return limit
		}
		limit += header
	}
	return limit - time.Since(last)
}

// answerPatience is how long a response may go on after the request's body has failed.
const answerPatience = 5 * time.Second

var errAbandoned = errors.New("wsproxy: the attempt is over")

// Read implements io.Reader. A transport closes the connection when Read returns an error. After
// the response has begun, Read therefore returns one only when the attempt ends, or after
// answerPatience: the response may well be complete without the rest of the body.
func (b *attemptBody) Read(p []byte) (int, error) {
	n, err := b.read(p)
	if err != nil && err != io.EOF && b.source.won.Load() && !b.closed.Load() {
		timer := time.NewTimer(answerPatience)
		defer timer.Stop()
		select {
		case <-b.done:
		case <-timer.C:
		}
	}
	return n, err
}

// read returns what was kept, and then reads on. The body of an earlier attempt reads nothing: the
// current one would miss it.
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
		s.lastRead = time.Now() // the target has taken what was read before
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
	s.reading, s.lastRead = false, time.Now()
	if err != nil && err != io.EOF && s.cut.Load() {
		s.lost, s.kept, err = true, nil, errAbandoned
	}
	if err == io.EOF {
		b.fillTrailer()
		if name := invalidField(b.trailer); name != "" { // net/http's server does not check, and HTTP/2 cannot carry it
			err = fmt.Errorf("trailer %q is not valid", name)
		}
	}
	s.err = err
	s.keep(p[:n])
	b.off = len(s.kept)
	return n, err
}

// fillTrailer gives the announced trailers their values. ReverseProxy's copy of the request has
// only their names. A value that Rewrite has set stays. A name that the client must not send gets
// no value, whoever has announced it.
func (b *attemptBody) fillTrailer() {
	for name, values := range b.trailer {
		if len(values) == 0 && mayTrail(name, b.source.inbound.Header["Connection"]) {
			b.trailer[name] = b.source.upload.trailer()[name]
		}
	}
}

// Close implements io.Closer. It changes the source only for the attempt that has the answer: when
// the connection to an HTTP/2 target breaks, the response's body ends only after the Read that
// waits for the client.
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

// invalidField returns the name of a field whose name or value is not valid. It is empty when all
// are.
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

// classOfBody returns the class of a request whose body could not be read. It is ClassClientGone,
// unless the program's own code has failed.
func classOfBody(err error) Class {
	if _, ok := errors.AsType[*bodyPanic](err); ok {
		return ClassRequest
	}
	return ClassClientGone
}

// statusOfBody returns the status that answers a request whose body could not be read.
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
