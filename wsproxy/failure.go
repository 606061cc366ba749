package wsproxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// answerFailure is ReverseProxy's ErrorHandler.
func (k *walk) answerFailure(_ http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, errSwitched) {
		return
	}
	failure, ok := errors.AsType[*Error](err)
	if !ok {
		failure = &Error{Class: ClassRequest, Status: http.StatusBadRequest, Err: err}
	}
	k.writeError(failure)
}

// writeError ends the walk with an error page. After a switch of protocols it writes no page. No
// response was begun before, because ReverseProxy calls its ErrorHandler only before it writes one.
func (k *walk) writeError(failure *Error) {
	failure.Pool = k.pool()
	k.failure = failure
	k.logFailure("request failed")
	if k.upgrade.switched {
		return
	}
	k.w.restore()
	k.w.whole = true
	k.upload.sendThrough(nil) // no target wants the request's body any more
	k.rt.writePage(&k.w, k.in, failure)
}

// writePage writes an error page.
func (c *core) writePage(w http.ResponseWriter, r *http.Request, failure *Error) {
	if failure.Status == http.StatusServiceUnavailable || failure.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	c.page(w, r, failure)
}

// pool returns the pool's name; it is empty when the pool has none.
func (k *walk) pool() string { return k.p.Pool.Name() }

// logFailure logs why the walk ended.
func (k *walk) logFailure(message string) { k.rt.logFailure(k.in, message, k.failure) }

// logFailure logs why a request failed.
func (c *core) logFailure(r *http.Request, message string, failure *Error) {
	level := slog.LevelWarn
	if failure.Class == ClassClientGone || failure.Class == ClassRequest {
		level = slog.LevelDebug
	}
	attrs := append(underway.PlaceAttrs("", failure.Target, failure.Attempt), slog.Any("error", failure.apart()),
		slog.String("method", r.Method), slog.String("host", r.Host), slog.String("path", r.URL.Path))
	if p, ok := errors.AsType[*bodyPanic](failure.Err); ok {
		level, attrs = slog.LevelError, append(attrs, slog.String("stack", string(p.stack)))
	}
	c.log.LogAttrs(r.Context(), level, message, attrs...)
}

// noteBreak sets the failure of a walk whose response broke off, and reports whether it did.
func (k *walk) noteBreak() bool {
	if k.failure != nil || k.stage == returned && k.answer.body.err == nil && k.w.err == nil {
		return false
	}
	k.failure = k.brokenOff()
	return true
}

// brokenOff returns an Error for a response that broke off. Its class and its excuse decide who is
// to blame.
func (k *walk) brokenOff() *Error {
	broken := k.answer.body.err
	e := k.newError(ClassRequest, k.w.status, errHook)
	switch {
	case broken == errCut:
		e.Class, e.Err = ClassBody, errCut
	case k.in.Context().Err() != nil:
		e.Class, e.Err = ClassClientGone, context.Cause(k.in.Context())
	case k.upload.failure() != nil: // the target waited for the rest of the request
		e.Class, e.Err = classOfBody(k.upload.failure()), k.upload.failure()
	case broken != nil:
		e.Class, e.Err = ClassBody, broken
	case k.w.err != nil:
		e.Class, e.Err = ClassClientGone, k.w.err
	}
	reader := k.attempts.reader
	if e.Err == errCut || e.Class == ClassBody && (k.answer.body.heldUp >= heldUp || reader != nil && reader.waits()) {
		e.excuse = unrelated
	}
	// A target that refuses a request before it has read all of it may close the connection with
	// the rest unread. That resets the connection.
	if refused, ok := errors.AsType[*upstream.Error](e.Err); ok && refused.Stage == upstream.StageWrite && e.Status >= 400 {
		e.excuse = answered
	}
	return e
}
