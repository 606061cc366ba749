package wsproxy

import (
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A walk is one request on its way through a Proxy. These are its phases, in their order:
//
//  1. admit (admit.go) refuses what cannot be proxied, and decides whether the request is an
//     upgrade. enter reads the body ahead and counts the request for its key.
//  2. choice.lookup (choice.go) asks the policy which targets the request is bound to.
//  3. presentRequest (outbound.go) returns what ReverseProxy gets. ReverseProxy copies the request,
//     removes hop-by-hop fields, and calls prepareRequest as its Rewrite.
//  4. ReverseProxy calls RoundTrip (attempts.go) as its Transport. For each attempt, acquire takes
//     a lease on a member, attempt (attempt.go) sends a copy of the request there, and again
//     decides whether another attempt follows. presentResponse (answer.go) returns the answer as
//     ReverseProxy gets it.
//  5. ReverseProxy calls acceptResponse (answer.go) as its ModifyResponse. The policy binds the
//     session. A 101 goes to switchProtocols (upgrade.go), which starts the tunnel and returns
//     errSwitched.
//  6. ReverseProxy copies the header and the body (responsebody.go) to the client.
//  7. After an error in the phases 3 to 5, ReverseProxy calls answerFailure (failure.go) as its
//     ErrorHandler instead. An error or a panic in phase 6 breaks the response off.
//  8. finish (finish.go) releases what the walk holds, calls Trace.Done, and lets another request
//     have the walk's memory. It runs after a panic, too.
//
// The handler's goroutine runs all of these, and it alone uses the walk's fields, with these
// exceptions:
//
//   - A transport's goroutine may read the request's body: attemptBody.Read, source and
//     requestBody, under their own locks. It may write a 1xx through responseWriter, which it does
//     before the final header.
//   - A waitTimer may call exchange.KeepsWaiting while the handler waits, under the timer's lock.
//     That may flush the response, under the lock flushing of the responseWriter.
//   - Whoever takes a member down may call exchange.Cut. It uses only atomics and what was set
//     before the wait.
//   - An uploadWatch looks at the request's body, under its own lock, while RoundTrip runs.
//   - A tunnel gets copies of what it needs, and knows nothing of the walk.
type walk struct {
	frame
	request
}

// A frame is the part of a walk that is kept for the next request.
type frame struct {
	p     *Proxy
	rt    *runtime
	proxy httputil.ReverseProxy

	header  fields // of the outgoing request, when ReverseProxy sees none
	scratch upstream.Scratch
}

// A request is the part of a walk that is reset for each request. Each of the groups choice to
// answer is written only in the file that declares it.
type request struct {
	in       *http.Request // inbound, never edited
	peer     peer
	start    time.Time // zero when no hook of Trace needs it
	w        responseWriter
	upload   requestBody
	peek     *peek           // the part of the body that is read ahead; nil when nothing is
	inFlight *underway.Share // among the requests of its key; nil when it is not counted there
	pin      *pin            // the target's connection that is kept for the client; nil when there is none

	choice   choice
	outbound outbound
	attempts attempts
	last     attempt
	upgrade  upgrade
	answer   answer

	failure *Error // the error that ended the walk; nil before, and when nothing went wrong
	stage   stage
}

// A stage says how far the handler has come.
type stage uint8

const (
	serving  stage = iota // ServeHTTP runs, or was left by a panic
	detached              // the walk is over, and ServeHTTP goes on for the tunnel alone
	returned              // ServeHTTP returns
)

// newWalk returns a walk for the proxy's next request. Its memory may be that of an earlier one.
func (p *Proxy) newWalk(rt *runtime) *walk {
	if k, ok := rt.walks.Get().(*walk); ok {
		return k
	}
	k := &walk{frame: frame{p: p, rt: rt}}
	k.proxy = httputil.ReverseProxy{
		Rewrite:        k.prepareRequest,
		Transport:      k, // RoundTrip
		ModifyResponse: k.acceptResponse,
		ErrorHandler:   k.answerFailure,
		BufferPool:     &rt.buffers,
		ErrorLog:       rt.quiet,
	}
	return k
}

// serve runs the phases 1 to 3, and then ReverseProxy, which calls the walk for the phases 4 to 7.
func (k *walk) serve() {
	r, failure := k.admit()
	if failure == nil {
		failure = k.enter()
	}
	if failure != nil {
		k.writeError(failure)
		return
	}
	if k.upgrade.asked() {
		growStackForUpgrade(false)
		k.tellUpgrade(k.upgrade.protocol)
	}
	k.choice.lookup()
	k.proxy.ServeHTTP(&k.w, k.presentRequest(r))
	k.w.repanic() // of a last Flush, after which nothing was read or written
	if k.in.ProtoMajor > 2 && (k.answer.body.err != nil || k.w.err != nil) {
		// ReverseProxy panics only in net/http's server, which does not speak HTTP/3. Without a
		// panic, the stream would end as if the response were complete.
		panic(http.ErrAbortHandler)
	}
}

// recycle lets another request have the walk's memory, if nobody can still use it.
func (k *walk) recycle() {
	if !k.isUnshared() {
		return
	}
	if k.last.direct {
		k.header = k.header.reuse()
		k.scratch.Reset()
	} else {
		k.header = fields{} // http.Transport may still look at them
	}
	k.request = request{}
	k.rt.walks.Put(k)
}

// isUnshared reports whether only the handler can still have a pointer into the walk. Others may
// have one: a caller's RoundTripper, a transport that sends a body, an http.Transport that has
// reported the connection of an upgrade, and the registry that cuts exchanges. After a panic or a
// failure anybody may.
func (k *walk) isUnshared() bool {
	return k.last.number == 1 && k.upload.body == nil && k.attempts.body.body == nil && !k.last.first.noted &&
		(!k.upgrade.switched || k.last.own) && k.stage == returned && k.failure == nil && k.rt.transports.known
}
