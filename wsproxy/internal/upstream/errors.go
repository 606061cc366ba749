package upstream

import (
	"errors"
	"fmt"
	"net/http"
)

// A Stage says what a failed round trip was about to do.
type Stage uint8

// The stages of an [Error].
const (
	StageDial          Stage = iota // make the connection
	StageWrite                      // send the request
	StageHeader                     // read the response's header
	StageHeaderTimeout              // wait for the response's header longer than HeaderTimeout allows
)

var stageNames = [...]string{
	StageDial:          "dial",
	StageWrite:         "write the request",
	StageHeader:        "read the response's header",
	StageHeaderTimeout: "wait for the response's header",
}

// An Error is the target's failure to take a request, or to answer it.
type Error struct {
	Stage Stage
	Err   error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("upstream: %s: %v", stageNames[e.Stage], e.Err) }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout implements the method of net.Error.
func (e *Error) Timeout() bool { return e.Stage == StageHeaderTimeout || IsTimeout(e.Err) }

// A RequestError is the refusal of a request that cannot be sent to anybody. Nothing of it was sent.
type RequestError struct{ Err error }

// Error implements error.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// IsTimeout reports whether err, or an error that it wraps, says that time ran out.
func IsTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

var (
	errHeaderTooLong = errors.New("the header is too long")
	errClosedBody    = errors.New("upstream: read on a closed response body")
	errBodyTooLong   = errors.New("upstream: the request's body is longer than its content length")
	errBodyTooShort  = errors.New("upstream: the request's body is shorter than its content length")
	errNotSent       = errors.New("the target did not ask for the body")
	errNotSilent     = errors.New("the target has spoken unasked, or closed the connection")
	errEarlySwitch   = errors.New("the target switched protocols before it had the request's body")
)

// An unsentError is why a request could not be written as a whole.
type unsentError struct {
	error
	n int // bytes that were written
}

// A failure is why a round trip ended without a response, and whether it may be made again.
type failure struct {
	err     error
	written bool // at least a byte of the request
	silent  bool // the connection broke, and not a byte was answered
	untaken bool // the target's system had taken nothing of the request when it ended the connection
	final   bool // it was the caller's
	stale   bool // the connection was of no use any more, and nothing was tried
}

// repeatable reports whether a request that has failed on a connection which was used before may be sent again: if its
// method is idempotent, or it is known that nobody has read it (RFC 9110 section 9.2.2).
func (f *failure) repeatable(o *outgoing) bool {
	if f.final || o.ctx.Err() != nil {
		return false
	}
	again := o.length == 0 || o.req.GetBody != nil
	if !f.written {
		return again
	}
	return f.silent && again && (f.untaken || isReplayable(o.req))
}

func isReplayable(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	// What http.Transport takes for a promise that the request is idempotent.
	_, ok := r.Header["Idempotency-Key"]
	_, old := r.Header["X-Idempotency-Key"]
	return ok || old
}
