package upstream

import (
	"errors"
	"fmt"
	"net/http"
)

// A Stage says in which step a round trip failed.
type Stage uint8

// The stages of an [Error].
const (
	StageDial          Stage = iota // make the connection
	StageWrite                      // send the request
	StageHeader                     // read the response's header
	StageHeaderTimeout              // wait for the response's header for longer than HeaderTimeout
)

var stageNames = [...]string{
	StageDial:          "dial",
	StageWrite:         "write the request",
	StageHeader:        "read the response's header",
	StageHeaderTimeout: "wait for the response's header",
}

// An Error reports that the target did not take or answer a request.
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

// A RequestError reports that a request cannot be sent to any target. No byte of it was sent.
type RequestError struct{ Err error }

// Error implements error.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// IsTimeout reports whether err, or an error that it wraps, is a timeout.
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
	errNotSilent     = errors.New("unsolicited bytes from the target, or its end of the connection")
	errEarlySwitch   = errors.New("the target switched protocols before it had the request's body")
)

// An unsentError reports that a request was not written completely.
type unsentError struct {
	error
	n int // bytes that were written
}

// A failure says why a round trip got no response, and whether the request may be sent again.
type failure struct {
	err     error
	written bool // at least one byte of the request was written
	silent  bool // the connection broke before the first byte of an answer
	untaken bool // the target's system had acknowledged nothing of the request when it ended the connection
	final   bool // the caller has caused the failure
	stale   bool // the idle connection was not usable, and nothing was written
}

// repeatable reports whether a request that failed on a reused connection may be sent again: its
// method is idempotent, or it is certain that nobody has read the request (RFC 9110 section 9.2.2).
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
	// http.Transport takes this field as a promise that the request is idempotent.
	_, ok := r.Header["Idempotency-Key"]
	_, old := r.Header["X-Idempotency-Key"]
	return ok || old
}
