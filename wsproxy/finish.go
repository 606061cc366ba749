package wsproxy

import (
	"cmp"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// finish releases what the walk still holds. It is called once, when ServeHTTP ends, even by a
// panic.
func (k *walk) finish() {
	if k.stage == detached {
		if k.upgrade.bridge != nil { // a hook has panicked
			k.upgrade.bridge.abandon()
		}
		return
	}
	if k.upload.body != nil || k.upload.closing {
		// Deferred for two reasons: it may take long, and only the client waits for it; and it has
		// to run after a panic, too.
		defer k.upload.finish(k.rt.busy.Closing)
	}
	inFlight := k.p.inflight.Add(-1)
	k.inFlight.Free()
	k.upgrade.freePlace()
	k.releasePin()
	if k.last.under != nil {
		k.last.under.end()
	}
	if k.attempts.body.body != nil {
		k.attempts.body.body.Close() // also of a body that Rewrite has set
	}
	if inFlight == 0 && k.rt.closed.Load() {
		k.rt.transports.closeIdle()
	}
	broken := k.noteBreak()
	k.choice.release(k.outcome())
	if broken {
		k.logFailure("response broken off")
	}
	defer k.tellDone() // also after a panic of the hook below
	k.last.span.close(k.failure)
}

// detach ends a walk whose handler goes on for the tunnel alone. The tunnel has the lease and the
// place, so there is less to do than in finish.
func (k *walk) detach() {
	k.stage = detached
	k.p.inflight.Add(-1)
	k.last.under.end()
	defer k.tellDone() // also after a panic of the hook below
	k.last.span.close(nil)
}

// tellDone calls Trace.Done, and recycles the walk.
func (k *walk) tellDone() {
	if k.rt.trace.Done != nil {
		k.rt.trace.Done(k.in, k.record())
	}
	k.recycle()
}

// outcome returns what the last attempt teaches about its member.
func (k *walk) outcome() balancer.Outcome {
	o := k.outcomeOf(k.failure)
	o.Status = cmp.Or(k.upgrade.declined, k.w.status)
	return o
}

// outcomeOf returns what the last attempt teaches about its member. failure is the attempt's, or
// nil.
func (k *walk) outcomeOf(failure *Error) balancer.Outcome {
	o := balancer.Outcome{Latency: k.last.latency, Began: k.last.sent, Client: k.choice.query.Client}
	if failure != nil {
		o.Class, o.Err = failure.outcome(k.upgrade.asked()), failure.apart() // the member tells where
	}
	if o.Class == balancer.ClientGone || o.Class == balancer.Unjudged {
		o.Latency = 0
	}
	return o
}

// record returns the account of the request up to now.
func (k *walk) record() Record {
	rec := Record{
		Start:    k.start,
		Duration: time.Since(k.start),
		Method:   k.in.Method,
		Host:     k.in.Host,
		Path:     k.in.URL.Path,
		Client:   k.peer.client.Addr(),
		Pool:     k.pool(),
		Target:   k.last.target,
		Attempts: k.last.number,
		Status:   k.w.status,
		Bytes:    k.w.bytes,
	}
	if k.upgrade.switched {
		rec.Upgrade = k.upgrade.protocol
	}
	if k.failure != nil {
		rec.Err = k.failure
	}
	return rec
}
