package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// finish settles what is still held, however the walk ended.
func (k *walk) finish() {
	if k.left {
		return
	}
	if k.upload.body != nil || k.upload.closing {
		defer k.upload.finish(k.rt.busy.Closing) // whatever panics here; and nobody waits for it but the client
	}
	left := k.p.inflight.Add(-1)
	k.requests.Free()
	k.leaveTunnels()
	k.releasePin()
	if k.under != nil {
		k.under.end()
	}
	if k.body.body != nil {
		k.body.body.Close() // one that Rewrite has put there, too
	}
	if left == 0 && k.rt.closed.Load() {
		k.rt.transports.closeIdle()
	}
	brokeOff := k.failure == nil && (!k.returned || k.response.err != nil || k.w.err != nil)
	if brokeOff {
		k.failure = k.brokenOff()
	}
	k.choice.release(k.outcome())
	if brokeOff {
		k.log("response broken off", k.failure)
	}
	defer k.tellDone() // whatever panics here
	k.endSpan(k.failure)
}

// leave settles a walk whose handler goes on for the tunnel alone: the rest of finish is for
// others.
func (k *walk) leave() {
	k.left = true
	k.p.inflight.Add(-1)
	k.under.end()
	defer k.tellDone() // whatever panics here
	k.endSpan(nil)
}

func (k *walk) tellDone() {
	if k.rt.trace.Done != nil {
		k.rt.trace.Done(k.in, k.record())
	}
	k.recycle()
}

// brokenOff tells whose fault it was that the response ended early.
func (k *walk) brokenOff() *Error {
	e := &Error{Pool: k.pool(), Target: k.target, Attempt: k.attempts, Status: k.w.status}
	switch {
	case k.response.err == errCut:
		e.Class, e.Err = ClassBody, errCut
	case k.in.Context().Err() != nil:
		e.Class, e.Err = ClassClientGone, context.Cause(k.in.Context())
	case k.upload.failure() != nil: // and the target waited for the rest
		e.Class, e.Err = classOfBody(k.upload.failure()), k.upload.failure()
	case k.response.err != nil:
		e.Class, e.Err = ClassBody, k.response.err
	case k.w.err != nil:
		e.Class, e.Err = ClassClientGone, k.w.err
	default:
		e.Class, e.Err = ClassRequest, errHook
	}
	if e.Err == errCut || e.Class == ClassBody && (k.response.heldUp >= heldUp || k.reader != nil && k.reader.waits()) {
		e.excuse = unrelated
	}
	// A target that refuses a request before it has all of it closes with the rest unread, which is
	// a reset.
	if refused, ok := errors.AsType[*upstream.Error](e.Err); ok && refused.Stage == upstream.StageWrite && e.Status >= 400 {
		e.excuse = answered
	}
	return e
}

// outcome is what the last attempt teaches about its member.
func (k *walk) outcome() balancer.Outcome {
	o := k.outcomeOf(k.failure)
	o.Status = cmp.Or(k.declined, k.w.status)
	return o
}

// outcomeOf is what an attempt that has ended so teaches; nil if it has not failed.
func (k *walk) outcomeOf(failure *Error) balancer.Outcome {
	o := balancer.Outcome{Latency: k.latency, Began: k.sent, Client: k.choice.query.Client}
	if failure != nil {
		o.Class, o.Err = failure.outcome(k.upgrade != ""), failure.apart() // the member tells where
	}
	if o.Class == balancer.ClientGone || o.Class == balancer.Unjudged {
		o.Latency = 0
	}
	return o
}

func (k *walk) record() Record {
	rec := Record{
		Start:    k.start,
		Duration: time.Since(k.start),
		Method:   k.in.Method,
		Host:     k.in.Host,
		Path:     k.in.URL.Path,
		Client:   k.peer.client.Addr(),
		Pool:     k.pool(),
		Target:   k.target,
		Attempts: k.attempts,
		Status:   k.w.status,
		Bytes:    k.w.bytes,
	}
	if k.switched {
		rec.Upgrade = k.upgrade
	}
	if k.failure != nil {
		rec.Err = k.failure
	}
	return rec
}
