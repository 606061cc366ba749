package wsproxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// Retry says which failed attempts are made again on another target. An attempt has failed when no final status was
// read. Nothing is retried after a part of a response other than 100 went to the client, nor when bytes of the
// request's body were read, unless they fit Buffer.
type Retry struct {
	// Max bounds the attempts after the first. Zero means 1, a negative value none.
	Max int
	// Idempotent retries GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 section 9.2.2) after a failure that the
	// target may have seen. Failures to connect are retried without it, whatever the method.
	Idempotent bool
	// On names statuses that count as failures, whatever the method, as long as another target is there to take the
	// request: else the response goes to the client.
	On []int
	// Buffer is how many bytes of a request's body are kept to be sent again. Zero keeps none.
	Buffer int
	// Budget bounds the requests that are being retried, in percent of the requests in flight, three being always
	// allowed. Zero means 20, a negative value no bound.
	Budget int
}

const (
	defaultBudget = 20 // percent
	minBudget     = 3  // requests
)

func (r *Retry) attempts() int {
	switch {
	case r.Max == 0:
		return 2
	case r.Max < 0:
		return 1
	default:
		return 1 + r.Max
	}
}

// allows reports whether an attempt that failed so may be made again, the request's body aside.
func (r *Retry) allows(method string, class Class) bool {
	switch class {
	case ClassDial, ClassTLS:
		return true
	case ClassWrite, ClassHeader, ClassHeaderTimeout:
		return r.Idempotent && isIdempotent(method)
	default:
		return false
	}
}

func (r *Retry) on(status int) bool { return slices.Contains(r.On, status) }

func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// takeRetry counts a request among those that are being retried, unless the budget is spent.
func (p *Proxy) takeRetry() bool {
	percent := int64(p.Retry.Budget)
	if percent == 0 {
		percent = defaultBudget
	}
	if n := p.retries.Add(1); percent > 0 && n > max(minBudget, p.inflight.Load()*percent/100) {
		p.retries.Add(-1)
		return false
	}
	return true
}

// A source is a request's body, read by one attempt after the other. ReverseProxy's body cannot be read after a Close,
// and http.Transport closes it even when the dial was refused: so attempts get their own, whose Close does nothing.
type source struct {
	body    io.ReadCloser // nil when there is none
	limit   int           // of kept
	inbound *http.Request // has the trailers when its body is at its end
	won     atomic.Bool   // there is a response: nobody reads the body after the attempt that has it

	mu      sync.Mutex // held while an attempt reads
	kept    []byte     // what was read so far, if not lost
	lost    bool       // more was read than kept may hold
	err     error      // that ended the body
	current *attemptBody
}

// open gives the next attempt its body, from the beginning. It reports false when that has gone by, or while an
// earlier attempt still reads.
func (s *source) open() (*attemptBody, bool) {
	if !s.mu.TryLock() {
		return nil, false
	}
	defer s.mu.Unlock()
	if s.lost {
		return nil, false
	}
	s.current = &attemptBody{source: s}
	return s.current, true
}

// replayable reports whether open would give a body from the beginning now, or there is none to give.
func (s *source) replayable() bool {
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	return !s.lost
}

// failure is why the body could not be read to its end; nil when it could, or nobody has come across it.
func (s *source) failure() error {
	if !s.mu.TryLock() {
		return nil
	}
	defer s.mu.Unlock()
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// statusOfBody is the status that answers a request whose body could not be read.
func statusOfBody(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if isTimeout(err) { // http.Server.ReadTimeout
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

type attemptBody struct {
	source  *source
	off     int         // in source.kept
	trailer http.Header // of the attempt's request; nil when none is announced
	closed  atomic.Bool
}

var errAbandoned = errors.New("wsproxy: the attempt is over")

// Read implements io.Reader. The body of an attempt that has been given up reads no more: what it took would be
// missing in the next one.
func (b *attemptBody) Read(p []byte) (int, error) {
	s := b.source
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != b {
		return 0, errAbandoned
	}
	if b.off < len(s.kept) {
		n := copy(p, s.kept[b.off:])
		b.off += n
		return n, nil
	}
	if s.err != nil {
		b.fillTrailer()
		return 0, s.err
	}
	n, err := s.body.Read(p)
	s.err = err
	if err == io.EOF {
		b.fillTrailer()
	}
	s.keep(p[:n])
	b.off = len(s.kept)
	return n, err
}

// fillTrailer gives the announced trailers their values. ReverseProxy's copy of the request has the names alone. What
// Rewrite gave a value keeps it, and a name that the client may not send gets none, whoever announces it.
func (b *attemptBody) fillTrailer() {
	for name, values := range b.trailer {
		if len(values) == 0 && mayTrail(name, b.source.inbound.Header["Connection"]) {
			b.trailer[name] = b.source.inbound.Trailer[name]
		}
	}
}

func (s *source) keep(p []byte) {
	if len(p) == 0 || s.lost {
		return
	}
	if len(s.kept)+len(p) > s.limit {
		s.lost, s.kept = true, nil
		return
	}
	s.kept = append(s.kept, p...)
}

// Close implements io.Closer. It leaves the source as it is, but for the attempt that has won: when the connection to an
// HTTP/2 target breaks, the response's body ends only after a Read that waits for the client has.
func (b *attemptBody) Close() error {
	b.closed.Store(true)
	if b.source.won.Load() {
		b.source.interrupt()
	}
	return nil
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
