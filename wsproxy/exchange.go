package wsproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// patience is how long a handler waits for its target before KeepsWaiting is called. KeepsWaiting
// flushes what was written to the client, and registers the exchange with busy, so that it can be
// cut. The bodies of package upstream call KeepsWaiting themselves. ReverseProxy flushes
// server-sent events and bodies of unknown length itself, at once.
const patience = 10 * time.Millisecond

var errCut = errors.New("the target is down, and what it had not sent yet is cut")

// An exchange is an attempt from its start until its response has been read. The handler's
// goroutine calls wait before it may have to wait for the target, and proceed after that. It does
// so for each Read of the response's body. If the attempt has a context of its own, it also does so
// for the response's header.
type exchange struct {
	member *balancer.Member
	rt     *runtime
	ctx    context.Context         // nil when the attempt has none of its own
	cancel context.CancelCauseFunc // of ctx; nil without one
	body   io.Closer               // of the response, when there is no ctx; nil before it
	w      *responseWriter         // nil before the response

	down  atomic.Bool // the exchange is cut, because the member is down
	timer *waitTimer  // nil until the first wait that needs one
	noted bool        // busy knows the exchange; guarded by the timer's mu if there is a timer

	generation *generation              // the http.Transports that the attempt uses; nil when it uses none
	conn       atomic.Pointer[net.Conn] // the connection of an upgrade; nil when its transport does not report it
}

// begin starts the exchange of an attempt.
func (x *exchange) begin(m *balancer.Member, rt *runtime) { x.member, x.rt = m, rt }

// ownContext gives the attempt a context of its own, which is derived from ctx.
func (x *exchange) ownContext(ctx context.Context) context.Context {
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	return x.ctx
}

// transports returns the http.Transports that the attempt uses until it ends.
func (x *exchange) transports() *generation {
	if x.generation == nil {
		x.generation = x.rt.transports.use(x.member)
	}
	return x.generation
}

// respond notes the response, which the handler passes on to w.
func (x *exchange) respond(body io.Closer, w *responseWriter) {
	x.w = w
	if x.cancel == nil { // with a ctx, Cut may run already, and must not find body changing
		x.body = body
	}
}

// noteConn returns a context with which an http.Transport notes the connection of an upgrade. The
// body of a 101 does not give access to it.
func (x *exchange) noteConn(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { x.conn.Store(&info.Conn) },
	})
}

// wait is called before the handler may have to wait.
func (x *exchange) wait() {
	if x.timer == nil {
		x.timer = x.rt.timer()
	}
	x.timer.arm(x)
}

// proceed is called after the wait. If KeepsWaiting runs meanwhile, proceed waits for it.
func (x *exchange) proceed() { x.timer.disarm() }

// KeepsWaiting implements upstream.Waiter. The timer calls it when the handler has waited for long,
// and package upstream calls it on the handler's goroutine before a Read that has to wait.
func (x *exchange) KeepsWaiting() {
	if x.w != nil && x.w.unflushed.Load() && x.w.FlushError() == errFlush {
		x.abort(errFlush) // ends the handler's wait, so that it panics
	}
	if !x.noted {
		x.noted = true
		if !x.rt.busy.Add(x.member, x) {
			x.Cut()
		}
	}
}

// Cut implements underway.Cutter. It ends the wait, because the member is down.
func (x *exchange) Cut() {
	x.down.Store(true)
	x.abort(errCut)
}

// abort ends the wait. The bodies of http.Transport allow a Close during a Read.
func (x *exchange) abort(why error) {
	if x.cancel != nil {
		x.cancel(why)
	} else if x.body != nil {
		x.body.Close()
	}
}

// cause returns the reason for which the proxy has ended the exchange, or nil if it has not.
func (x *exchange) cause() error {
	if x.down.Load() {
		return errCut
	}
	if x.ctx == nil {
		return nil
	}
	switch cause := context.Cause(x.ctx); cause {
	case errHandshakeTimeout, errHungUp, errUploadStuck:
		return cause
	}
	return nil
}

// abandon ends an exchange whose response nobody reads.
func (x *exchange) abandon(res *http.Response) {
	if x.cancel != nil {
		x.cancel(nil)
	}
	res.Body.Close() // before end, which releases the http.Transports
	x.end()
}

// end is called when nothing more of the response is read. It may be called again.
func (x *exchange) end() {
	if x.cancel != nil {
		x.cancel(nil)
	}
	if x.timer != nil {
		x.timer.disarm()
		x.rt.timers.Put(x.timer)
		x.timer = nil
	}
	if x.noted {
		x.rt.busy.Remove(x.member, x)
	}
	if x.generation != nil {
		x.generation.release()
		x.generation = nil
	} else if x.member.Removed() {
		x.rt.transports.closeIdleTo(x.member) // this exchange may have given one back
	}
}
