package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A Class says at which stage a request failed.
type Class uint8

// The classes of an [Error].
const (
	ClassRequest       Class = Class(underway.ClassRequest)       // the request cannot be proxied, for example an upgrade with a body
	ClassNoTarget      Class = Class(underway.ClassNoTarget)      // no target may serve, or the bound one may not and OnMiss returned Fail
	ClassDial          Class = Class(underway.ClassDial)          // the connection could not be made
	ClassTLS           Class = Class(underway.ClassTLS)           // the TLS handshake with the target failed
	ClassWrite         Class = Class(underway.ClassWrite)         // the request could not be written, or not in time
	ClassHeader        Class = Class(underway.ClassHeader)        // no final status: the connection broke, or the answer is not HTTP
	ClassHeaderTimeout Class = Class(underway.ClassHeaderTimeout) // no final status in time
	ClassUpgrade       Class = Class(underway.ClassUpgrade)       // the switch of protocols failed on either side
	ClassBody          Class = Class(underway.ClassBody)          // the response's body broke off
	ClassClientGone    Class = Class(underway.ClassClientGone)    // the client went away, or the request's deadline passed
	ClassLimit         Class = Class(underway.ClassLimit)         // TunnelLimits.Max is reached
	ClassShutdown      Class = Class(underway.ClassShutdown)      // an upgrade after Proxy.Shutdown has begun
	ClassKeyLimit      Class = Class(underway.ClassKeyLimit)      // Proxy.MaxPerKey or TunnelLimits.MaxPerKey is reached
)

// String returns the name of the class for logs.
func (c Class) String() string { return underway.Class(c).String() }

// outcome returns the class that is reported to the pool for an attempt that failed with class c.
func (c Class) outcome() balancer.Class { return underway.Class(c).Outcome() }

// An Error says why a request did not get its target's complete response.
type Error struct {
	Class   Class
	Status  int    // of the error page; if the response broke off, the status that was sent already
	Pool    string // balancer.Config.Name; empty when the pool has none
	Target  string // ID of the target of the last attempt; empty when none was asked
	Attempt int    // 1 for the first; 0 when no target was asked
	Err     error

	excuse excuse
}

// An excuse is a reason not to hold a failure against the target.
type excuse uint8

const (
	noExcuse  excuse = iota
	answered         // the target has answered in full
	unrelated        // the failure teaches nothing about the target
)

// outcome returns the class that is reported to the pool for the failure. upgrade reports whether
// the request was an upgrade: the pool counts failed upgrades apart from failed requests.
func (e *Error) outcome(upgrade bool) balancer.Class {
	switch {
	case e.excuse == answered:
		return balancer.OK
	case e.excuse == unrelated:
		return balancer.Unjudged
	case !upgrade && e.Class == ClassUpgrade:
		return balancer.HeaderFailed
	case !upgrade:
		return e.Class.outcome()
	}
	switch e.Class {
	case ClassWrite, ClassHeader, ClassHeaderTimeout:
		return balancer.UpgradeFailed
	}
	return e.Class.outcome()
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("wsproxy: %s: %s%v", e.Class, underway.Place(e.Pool, e.Target, e.Attempt), e.Err)
}

// apart returns a copy of e without its pool, target and attempt. It is for places that name these
// beside the error.
func (e *Error) apart() *Error {
	c := *e
	c.Pool, c.Target, c.Attempt = "", "", 0
	return &c
}

// withoutPlace returns err without the names of the pool and the target.
func withoutPlace(err error) error {
	switch e := err.(type) {
	case *balancer.PoolError:
		return e.Err
	case *Error:
		return e.apart()
	}
	return err
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// The reasons for which a request is refused before a target is asked, and for which a switch of
// protocols fails.
var (
	errConnect          = errors.New("method CONNECT is not proxied")
	errUpgradeBody      = errors.New("an upgrade request has a body")
	errNotHijackable    = errors.New("no ResponseWriter in the Unwrap chain can be hijacked")
	errNotStreamable    = errors.New("no ResponseWriter in the Unwrap chain can be flushed, or none has deadlines")
	errTooManyTunnels   = errors.New("too many upgraded connections")
	errManyRequests     = errors.New("too many requests in flight for one key")
	errManyTunnels      = errors.New("too many upgraded connections for one key")
	errHook             = errors.New("a hook has panicked")
	errHandler          = errors.New("the handler has panicked")
	errShutdown         = errors.New("the proxy is shutting down")
	errHandshakeTimeout = timeoutError("no handshake in time")
	errUploadStuck      = timeoutError("the target has taken nothing of the request's body for too long")
	errHungUp           = errors.New("the target has hung up while the client sent nothing of the request's body")
	errProtocol         = errors.New(":protocol without CONNECT")
	errSwitched         = errors.New("switched protocols") // not a failure: tells ReverseProxy that the walk took over
)

// A timeoutError says that one of the proxy's own limits has passed.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (e timeoutError) Timeout() bool { return true }

// A stageError is a dialer's error with its class. http.Transport returns it unchanged.
type stageError struct {
	class Class
	err   error
}

func (e *stageError) Error() string { return e.err.Error() }
func (e *stageError) Unwrap() error { return e.err }

// Timeout implements the method of net.Error.
func (e *stageError) Timeout() bool { return upstream.IsTimeout(e.err) }

// classify returns the class of a failed round trip. For a transport that is not the proxy's own,
// it infers the class from the type and the text of the error.
func classify(ctx context.Context, err error) Class {
	switch ctx.Err() {
	case context.Canceled, context.DeadlineExceeded: // middleware has set the deadline, perhaps as the client asked
		return ClassClientGone
	}
	if stage, ok := errors.AsType[*stageError](err); ok {
		return stage.class
	}
	if isCertificateRefusal(err) {
		return ClassTLS
	}
	if isNotEstablished(err) {
		return ClassDial
	}
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		return stageClasses[e.Stage]
	}
	if isRefusal(err) || isTooLarge(err) {
		return ClassRequest
	}
	if err == errUploadStuck {
		return ClassWrite
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "write") {
		if op.Op == "dial" {
			return ClassDial
		}
		return ClassWrite
	}
	if upstream.IsTimeout(err) {
		return ClassHeaderTimeout
	}
	return ClassHeader
}

// certificateAlerts are the alerts with which a target refuses a client certificate, or the lack of
// one (RFC 8446 section 6.2).
var certificateAlerts = [...]tls.AlertError{42, 43, 44, 45, 46, 48, 49, 116}

// isCertificateRefusal reports whether the target has refused the proxy's client certificate. In
// TLS 1.3 the alert comes after the proxy's side of the handshake is complete, in the place of a
// response. The target has not looked at the request then.
func isCertificateRefusal(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && slices.ContainsFunc(certificateAlerts[:], func(a tls.AlertError) bool {
		return op.Err.Error() == a.Error() // crypto/tls does not export the type of op.Err
	})
}

// isNotEstablished reports whether err says that an HTTP/2 connection ended before its first
// request was sent. That also happens when the target refuses the client certificate early enough.
// net/http does not export its error for this, so the text is compared.
func isNotEstablished(err error) bool {
	return strings.HasSuffix(err.Error(), "http2: client conn could not be established")
}

// isTooLarge reports whether err says that the request's header is larger than an HTTP/2 target
// accepts (RFC 9113 section 6.5.2). Nothing was sent then, and the target has done nothing wrong.
// net/http does not export its error for this, so the text is compared.
func isTooLarge(err error) bool {
	return strings.HasSuffix(err.Error(), "request header list larger than peer's advertised limit")
}

// isRefusal reports whether err says that the transport itself has refused the request, because it
// cannot be sent to any target, or not over HTTP/2. An example is a field that is not valid there.
// net/http does not export its errors for this, so the beginning of the text is compared.
func isRefusal(err error) bool {
	if _, ok := errors.AsType[*upstream.RequestError](err); ok {
		return true
	}
	for _, prefix := range []string{"net/http: invalid ", "http2: invalid ", "invalid Trailer key "} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}

var stageClasses = [...]Class{
	upstream.StageDial:          ClassDial,
	upstream.StageWrite:         ClassWrite,
	upstream.StageHeader:        ClassHeader,
	upstream.StageHeaderTimeout: ClassHeaderTimeout,
}

// statusOf returns the status of the error page for a failed attempt.
func statusOf(class Class, err error) int {
	switch {
	case class == ClassNoTarget:
		return http.StatusServiceUnavailable
	case class == ClassRequest && isTooLarge(err):
		return http.StatusRequestHeaderFieldsTooLarge
	case class == ClassRequest && isRefusal(err):
		return http.StatusBadRequest
	case balancer.Shortage(err) != "":
		return http.StatusServiceUnavailable
	case class == ClassHeaderTimeout, upstream.IsTimeout(err):
		return http.StatusGatewayTimeout
	default:
		return http.StatusBadGateway
	}
}

// retryAfter is the Retry-After of a 503 or 429 that the proxy sends itself.
const retryAfter = 5 * time.Second

// plainErrorPage is the default of Proxy.ErrorPage.
func plainErrorPage(w http.ResponseWriter, _ *http.Request, e *Error) {
	text := http.StatusText(e.Status) + "\n"
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text))) // so that a client that still sends knows that this is all
	w.WriteHeader(e.Status)
	io.WriteString(w, text)
}
