package wsproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/stickylb/stickylb/balancer"
)

// attempts are what all attempts of a request have in common.
type attempts struct {
	body    source       // the request's body, for one attempt after the other
	reader  *attemptBody // the next attempt's view of the body; nil when there is no body
	retries retries
}

// RoundTrip implements http.RoundTripper for ReverseProxy. It makes one attempt after the other and
// returns the first response that is to go to the client.
func (k *walk) RoundTrip(out *http.Request) (*http.Response, error) {
	if out.Body != nil {
		k.openBody(out.Body)
	}
	defer k.attempts.retries.giveBack(k.p)
	k.usePin()
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
		if failure == nil && !k.p.Retry.on(res.StatusCode) || !k.again(out, res, failure) {
			if failure != nil {
				return nil, failure
			}
			return k.presentResponse(res), nil
		}
	}
}

// openBody makes the request's body ready for the first attempt.
func (k *walk) openBody(body io.ReadCloser) {
	s := &k.attempts.body
	limit, kept := k.p.Retry.Buffer, []byte(nil)
	if k.peek != nil {
		limit = max(limit, k.p.ReadAhead)
		if !k.outbound.replaced { // otherwise the bytes that were read ahead go through Rewrite's body
			kept = k.upload.handOverAhead()
		}
	}
	s.init(body, k.in, &k.upload, limit, kept)
	reader, _ := s.open() // open cannot fail, because no attempt reads yet
	k.send(reader)
}

// send makes the next attempt read b.
func (k *walk) send(b *attemptBody) {
	k.attempts.reader = b
	k.upload.sendThrough(b)
}

// reopen is the http.Request.GetBody of an attempt. http.Transport calls it when a kept connection
// turns out to be closed, and then sends the request once more.
func (k *walk) reopen() (io.ReadCloser, error) {
	body, ok := k.attempts.body.open()
	if !ok {
		return nil, errAbandoned
	}
	body.begin(k.attempts.reader.trailer, k.attempts.reader.done)
	k.send(body)
	return body, nil
}

// acquire takes a lease for the next attempt. The first attempt goes to the member of the client's
// pinned connection if there is one. Otherwise the choice decides. failed is the error of the
// attempt before, or nil.
func (k *walk) acquire(ctx context.Context, failed *Error) (grant, *Error) {
	var before error
	if failed != nil {
		before = failed
	} else if g, ok := k.acquirePinned(ctx); ok {
		return g, nil
	}
	g, err := k.choice.acquire(ctx, before)
	if err != nil {
		return grant{}, k.choice.noLease(ctx, err)
	}
	return g, nil
}

// again reports whether another attempt follows. If so, the choice holds the lease for it. failure
// is nil if res has one of Retry.On's statuses. Such a response is closed only if another member
// takes the request.
func (k *walk) again(out *http.Request, res *http.Response, failure *Error) bool {
	if k.p.Retry.Max < 0 || k.w.informed.Load() || out.Context().Err() != nil || !k.attempts.body.replayable() {
		return false
	}
	return k.attempts.retries.allow(k.p, out.Method, failure, k.last.sent) && k.tryAnother(out.Context(), res, failure)
}

// tryAnother replaces the lease by one on another member, and ends the failed attempt. It reports
// false when no other member takes the request, or when the body cannot be sent again.
func (k *walk) tryAnother(ctx context.Context, res *http.Response, failure *Error) bool {
	outcome := k.outcomeOf(failure)
	outcome.Retried = true
	if failure == nil {
		outcome.Status = res.StatusCode
		failure = k.newError(ClassHeader, res.StatusCode, fmt.Errorf("status %d is retried", res.StatusCode))
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
	if k.attempts.reader != nil {
		reader, ok := k.attempts.body.open()
		if !ok { // the failed attempt has begun to read it meanwhile
			next.lease.Release(balancer.Outcome{Class: balancer.ClientGone})
			return false
		}
		k.send(reader)
	}
	before := k.choice.lease
	k.choice.hold(next) // before any hook is called, so that a panic of one loses no lease
	if res != nil {
		k.last.under.abandon(res)
	}
	k.last.under.end()
	before.Release(outcome)
	k.last.span.close(failure)
	k.choice.tellPick(next, nil)
	if k.rt.trace.Retry != nil {
		k.rt.trace.Retry(k.in, failure)
	}
	return true
}
