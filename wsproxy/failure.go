package wsproxy

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// fail is ReverseProxy's ErrorHandler.
func (k *walk) fail(_ http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, errSwitched) {
		return
	}
	failure, ok := errors.AsType[*Error](err)
	if !ok {
		failure = &Error{Class: ClassRequest, Status: http.StatusBadRequest, Err: err}
	}
	k.answer(k.in, failure)
}

// answer writes an error page, unless the connection has been taken over. Nothing was written
// before: ReverseProxy asks for an error only until it has a header to write.
func (k *walk) answer(r *http.Request, failure *Error) {
	failure.Pool = k.pool()
	k.failure = failure
	k.log("request failed", failure)
	if k.switched {
		return
	}
	k.w.restore()
	k.w.whole, k.upload.sender = true, nil // no target wants the request's body any more
	if failure.Status == http.StatusServiceUnavailable || failure.Status == http.StatusTooManyRequests {
		k.w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	page := k.p.ErrorPage
	if page == nil {
		page = plainErrorPage
	}
	page(&k.w, r, failure)
}

// pool returns the pool's name; it is empty when the pool has none.
func (k *walk) pool() string { return k.p.Pool.Name() }

func (k *walk) log(message string, failure *Error) {
	level := slog.LevelWarn
	if failure.Class == ClassClientGone || failure.Class == ClassRequest {
		level = slog.LevelDebug
	}
	attrs := append(underway.PlaceAttrs("", failure.Target, failure.Attempt), slog.Any("error", failure.apart()),
		slog.String("method", k.in.Method), slog.String("host", k.in.Host), slog.String("path", k.in.URL.Path))
	if p, ok := errors.AsType[*bodyPanic](failure.Err); ok {
		level, attrs = slog.LevelError, append(attrs, slog.String("stack", string(p.stack)))
	}
	k.rt.log.LogAttrs(k.in.Context(), level, message, attrs...)
}
