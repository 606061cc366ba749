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
	ClassRequest       Class = Class(underway.ClassRequest)       // the request cannot be proxied, such as an upgrade with a body
	ClassNoTarget      Class = Class(underway.ClassNoTarget)      // no target may serve, or the bound one may not and OnMiss said Fail
	ClassDial          Class = Class(underway.ClassDial)          // the connection was never made
	ClassTLS           Class = Class(underway.ClassTLS)           // the TLS handshake with the target failed
	ClassWrite         Class = Class(underway.ClassWrite)         // the request was not written, or not taken in time
	ClassHeader        Class = Class(underway.ClassHeader)        // no final status: the connection broke, or it is not HTTP
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

// outcome returns what health learns of an attempt that failed with this class.
func (c Class) outcome() balancer.Class { return underway.Class(c).Outcome() }

// An Error tells why a request was not served as the target meant it.
type Error struct {
	Class   Class
	Status  int    // of the error page that answers it; what was sent already, if the response broke off
	Pool    string // balancer.Config.Name; empty when the pool has none
	Target  string // ID of the target of the last attempt; empty when none was asked
	Attempt int    // 1 for the first; 0 when no target was asked
	Err     error

	excuse excuse
}

// An excuse is why a failure does not speak against the target.
type excuse uint8

const (
	noExcuse  excuse = iota
	answered         // the target has answered in full
	unrelated        // the failure teaches nothing about the target
)

// outcome returns what health learns of the failure. What it learns of a switch of protocols that
// was asked for is not about plain requests.
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

// apart returns e without its pool, target and attempt, for where these are told beside it.
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

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reasons that a request is refused before a target is asked, and what can go wrong at a switch of
// protocols.
var (
	errConnect          = errors.New("method CONNECT is not proxied")
	errUpgradeBody      = errors.New("an upgrade request has a body")
	errNotHijackable    = errors.New("no ResponseWriter in the Unwrap chain can be hijacked")
	errNotStreamable    = errors.New("no ResponseWriter in the Unwrap chain can be flushed, or none has deadlines")
	errTooManyTunnels   = errors.New("too many upgraded connections")
	errManyRequests     = errors.New("too many requests in flight for one key")
	errManyTunnels      = errors.New("too many upgraded connections for one key")
	errHook             = errors.New("a hook has panicked")
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

// A stageError is a dialer's way to tell what failed; http.Transport passes it on as it is.
type stageError struct {
	class Class
	err   error
}

func (e *stageError) Error() string { return e.err.Error() }
func (e *stageError) Unwrap() error { return e.err }

// Timeout implements the method of net.Error.
func (e *stageError) Timeout() bool { return upstream.IsTimeout(e.err) }

// classify tells the stage of a failed round trip. Transports that are not ours are told by the
// shape of their errors.
func classify(ctx context.Context, err error) Class {
	switch ctx.Err() {
	case context.Canceled, context.DeadlineExceeded: // the latter is a middleware's, which may have it from the client
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

// certificateAlerts are those with which a target refuses a client certificate, or the lack of one
// (RFC 8446 section 6.2).
var certificateAlerts = [...]tls.AlertError{42, 43, 44, 45, 46, 48, 49, 116}

// isCertificateRefusal reports whether the target has refused our certificate. In TLS 1.3 its alert
// comes only when the handshake is over for us, in the place of an answer; nothing of the request
// was looked at.
func isCertificateRefusal(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && slices.ContainsFunc(certificateAlerts[:], func(a tls.AlertError) bool {
		return op.Err.Error() == a.Error() // crypto/tls does not export the type of op.Err
	})
}

// isNotEstablished reports whether err is net/http's, which exports none, for a connection of
// HTTP/2 that ended before its first request was sent. So does one whose client certificate the
// target refuses, if it says so before that.
func isNotEstablished(err error) bool {
	return strings.HasSuffix(err.Error(), "http2: client conn could not be established")
}

// isTooLarge reports whether err is net/http's, which exports none, for a request header that is
// larger than an HTTP/2 target takes (RFC 9113, section 6.5.2). Nothing was sent then, and the
// target has done nothing wrong.
func isTooLarge(err error) bool {
	return strings.HasSuffix(err.Error(), "request header list larger than peer's advertised limit")
}

// isRefusal reports whether err is a transport's own, which has found that the request cannot be
// sent to anybody, or not over HTTP/2: a field that is not valid there, for example. net/http
// exports none of these.
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

// statusOf is the status that answers a failed attempt.
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

// retryAfter is what a 503 or 429 of ours suggests.
const retryAfter = 5 * time.Second

// plainErrorPage is the default of Proxy.ErrorPage.
func plainErrorPage(w http.ResponseWriter, _ *http.Request, e *Error) {
	text := http.StatusText(e.Status) + "\n"
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text))) // tells a client that still sends that this is all
	w.WriteHeader(e.Status)
	io.WriteString(w, text)
}
