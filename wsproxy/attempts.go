package wsproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// RoundTrip implements http.RoundTripper for ReverseProxy: one attempt after the other, until one
// is the answer.
func (k *walk) RoundTrip(out *http.Request) (*http.Response, error) {
	if out.Body != nil {
		k.body.body, k.body.limit, k.body.inbound, k.body.upload = out.Body, k.p.Retry.Buffer, k.in, &k.upload
		if k.peek != nil {
			k.body.limit = max(k.body.limit, k.p.ReadAhead)
			if !k.replaced { // else it has to go through what stands in its place
				k.body.kept = k.upload.handOverAhead()
			}
		}
		reader, _ := k.body.open() // nobody reads yet
		k.send(reader)
	}
	defer k.giveRetryBack()
	k.pin = k.heldPin()
	first, failure := k.acquire(out.Context(), nil)
	k.choice.hold(first)
	if failure != nil {
		k.choice.tellPick(first, failure.Err)
		return nil, failure
	}
	k.choice.tellPick(first, nil)
	for {
		res, failure := k.attempt(out)
		k.tellAttempt(res, failure)
		if failure == nil && !k.p.Retry.on(res.StatusCode) {
			return k.win(res), nil
		}
		if !k.again(out, res, failure) {
			if failure != nil {
				return nil, failure
			}
			return k.win(res), nil
		}
	}
}

// acquire takes a lease for the next attempt: on the member of the client's pinned connection for
// the first one, else as the choice decides. failed is the error of the attempt before, or nil.
func (k *walk) acquire(ctx context.Context, failed *Error) (grant, *Error) {
	var before error
	if failed != nil {
		before = failed
	} else if g, ok := k.acquirePinned(ctx); ok {
		return g, nil
	}
	g, err := k.choice.acquire(ctx, before)
	switch {
	case err == nil:
		return g, nil
	case ctx.Err() != nil:
		class := classify(ctx, err)
		return grant{}, &Error{Class: class, Status: statusOf(class, err), Pool: k.pool(), Err: withoutPlace(err)}
	default:
		return grant{}, &Error{Class: ClassNoTarget, Status: http.StatusServiceUnavailable, Pool: k.pool(), Err: withoutPlace(err)}
	}
}

// send has the next attempt read that body.
func (k *walk) send(b *attemptBody) { k.reader, k.upload.sender = b, b }

// again decides whether a failed attempt is made again, and takes the lease for it on another
// member. A response with one of Retry.On's statuses is given up only when there is one.
func (k *walk) again(out *http.Request, res *http.Response, failure *Error) bool {
	if k.p.Retry.Max < 0 || k.w.informed.Load() || out.Context().Err() != nil || !k.body.replayable() {
		return false
	}
	if failure != nil && (failure.Class == ClassDial || failure.Class == ClassTLS) {
		return k.mayDial(failure) && k.move(out.Context(), res, failure)
	}
	if failure != nil && !k.p.Retry.allows(out.Method, failure.Class) || k.repeated >= k.p.Retry.max() {
		return false
	}
	if !k.retrying {
		if !k.p.takeRetry() {
			return false
		}
		k.retrying = true
	}
	k.repeated++
	return k.move(out.Context(), res, failure)
}

// mayDial reports whether another target may be tried after a connection could not be made.
func (k *walk) mayDial(failure *Error) bool {
	if failure.Class == ClassDial {
		k.dialing += time.Since(k.sent)
	}
	if balancer.Shortage(failure.Err) != "" || k.dialing >= dialsTimeout || k.unconnected >= maxUnconnected {
		return false
	}
	k.unconnected++
	if isTimeout(failure.Err) {
		k.late++
	}
	return k.late <= maxLate
}

// move exchanges the lease for one on another member, and settles the failed attempt.
func (k *walk) move(ctx context.Context, res *http.Response, failure *Error) bool {
	outcome := k.outcomeOf(failure)
	if failure == nil {
		outcome.Status = res.StatusCode
		failure = &Error{Class: ClassHeader, Status: res.StatusCode, Pool: k.pool(), Target: k.target, Attempt: k.attempts,
			Err: fmt.Errorf("status %d is retried", res.StatusCode)}
	}
	k.choice.exclude()
	next, none := k.acquire(ctx, failure)
	if none != nil {
		k.choice.tellPick(next, none.Err)
		if k.choice.miss == Fail {
			failure.Status = none.Status
		}
		return false
	}
	if k.reader != nil {
		reader, ok := k.body.open()
		if !ok { // the failed attempt has begun to read it meanwhile
			next.lease.Release(balancer.Outcome{Class: balancer.ClientGone})
			return false
		}
		k.send(reader)
	}
	last := k.choice.lease
	k.choice.hold(next) // before anybody is told: who panics then must not take a lease with it
	if res != nil {
		k.under.abandon(res)
	}
	k.under.end()
	last.Release(outcome)
	k.endSpan(failure)
	k.choice.tellPick(next, nil)
	if k.rt.trace.Retry != nil {
		k.rt.trace.Retry(k.in, failure)
	}
	return true
}

// reopen is the http.Request.GetBody of an attempt: http.Transport may use it when a kept
// connection turns out closed.
func (k *walk) reopen() (io.ReadCloser, error) {
	body, ok := k.body.open()
	if !ok {
		return nil, errAbandoned
	}
	body.trailer, body.over = k.reader.trailer, k.reader.over
	k.send(body)
	return body, nil
}

// giveRetryBack ends the request's share in the budget: its answer has begun, however long that
// takes.
func (k *walk) giveRetryBack() {
	if k.retrying {
		k.retrying = false
		k.p.retries.Add(-1)
	}
}
