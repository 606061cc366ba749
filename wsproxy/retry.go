package wsproxy

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// Retry says which failed attempts are made again on another target. An attempt has failed when it
// has no final status. Nothing is retried once the client has got a part of a response other than a
// 100, or once more bytes of the request's body were read than Buffer can hold.
//
// An attempt whose connection was never made, TLS included, is made again on up to three other
// targets, or on one if the connection was not made in time. The method does not matter for that,
// nor does Budget. The dials of a request take no more than 5 s together. Two kinds of dials may
// take longer: the first one, if Upstream.DialTimeout is longer, and any dial of a caller's
// Transport. But no dial begins after the 5 s. A shortage on this machine, of file descriptors for
// example, is not retried: the client gets 503.
//
// An attempt has not failed when its kept connection turns out to be closed by the target. The
// request is sent again to the same target, on a new connection, if RFC 9110 section 9.2.2 allows
// it: if its method is idempotent, or if the target's system has taken nothing of it, which Linux
// can tell for connections without TLS. For https and h2c targets http.Transport decides. It sends
// requests with safe methods again, and over HTTP/2 all those that the target says it has not
// processed.
type Retry struct {
	// Max is how many times a request is retried after attempts that the target may have seen, and
	// after statuses in On. Zero means 1. A negative value means no retries at all, not even of
	// connections that were never made.
	Max int
	// Idempotent retries GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 section 9.2.2) after a
	// failure that the target may have seen.
	Idempotent bool
	// On has statuses that count as failures, for all methods. If no other target takes the
	// request, the response goes to the client.
	On []int
	// Buffer is how many bytes of a request's body are kept to be sent again. Zero or a negative
	// value keeps only what Proxy.ReadAhead has read. For bodies that are read ahead, the larger of
	// the two holds.
	Buffer int
	// Budget limits the retries that Max counts. At most this percentage of the requests in flight
	// may be in such a retry at a time, but three always may. Zero means 20, a negative value no
	// bound.
	Budget int
}

const (
	defaultBudget = 20 // percent
	minBudget     = 3  // requests

	maxUnconnected = 3 // other targets that are tried when no connection was made
	maxLate        = 1 // other targets that are tried when it was not made in time
	dialsTimeout   = 5 * time.Second
)

func (r *Retry) max() int { return cmp.Or(r.Max, 1) }

// allows reports whether an attempt that the target may have seen may be made again. It does not
// look at the request's body.
func (r *Retry) allows(method string, class Class) bool {
	switch class {
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

// retries are what the failed attempts of one request have used up.
type retries struct {
	counted     bool          // among the requests that Budget bounds
	repeated    int           // attempts made again although the target may have seen them
	unconnected int           // attempts made again because no connection was made
	late        int           // the part of unconnected whose connection was not made in time
	dialing     time.Duration // spent on connections that were not made
}

// allow reports whether an attempt that began at sent may be made again, and counts that. failure
// is nil for a response with one of Retry.On's statuses.
func (r *retries) allow(p *Proxy, method string, failure *Error, sent time.Time) bool {
	if failure != nil && (failure.Class == ClassDial || failure.Class == ClassTLS) {
		return r.allowDial(failure, sent)
	}
	if failure != nil && !p.Retry.allows(method, failure.Class) || r.repeated >= p.Retry.max() {
		return false
	}
	if !r.counted && !p.takeRetry() {
		return false
	}
	r.counted = true
	r.repeated++
	return true
}

// allowDial reports whether another target may be tried after no connection was made.
func (r *retries) allowDial(failure *Error, sent time.Time) bool {
	if failure.Class == ClassDial {
		r.dialing += time.Since(sent)
	}
	if balancer.Shortage(failure.Err) != "" || r.dialing >= dialsTimeout || r.unconnected >= maxUnconnected {
		return false
	}
	r.unconnected++
	if upstream.IsTimeout(failure.Err) {
		r.late++
	}
	return r.late <= maxLate
}

// limitDials limits the next dial to the time that the earlier ones have left.
func (r *retries) limitDials(ctx context.Context) context.Context {
	if r.dialing > 0 {
		return withDialLimit(ctx, dialsTimeout-r.dialing)
	}
	return ctx
}

// giveBack ends the request's share of the budget. It is called when the answer has begun, however
// long that takes.
func (r *retries) giveBack(p *Proxy) {
	if r.counted {
		r.counted = false
		p.retries.Add(-1)
	}
}

// takeRetry counts a request among those that are being retried. It reports false, and counts
// nothing, when the budget is spent.
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
