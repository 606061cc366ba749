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

// patience is how long a handler waits for its target before that counts: from then on the client
// sees what was written before, and busy knows whom to cut. Bodies of package upstream know when a
// Read has to wait, and need none. ReverseProxy itself flushes server-sent events and bodies of
// unknown length at once.
const patience = 10 * time.Millisecond

var errCut = errors.New("the target is down, and what it had not sent yet is cut")

// An exchange is an attempt that is under way at a member, until its response has been read. Its
// handler's goroutine calls wait and proceed around what the target may keep it waiting for: the
// body of the response, and its header where the attempt has a context of its own.
type exchange struct {
	member *balancer.Member
	rt     *runtime
	ctx    context.Context         // of the attempt, if it has its own
	cancel context.CancelCauseFunc // of ctx; nil when there is none
	body   io.Closer               // of the response; nil before
	w      *responseWriter         // nil until there is a header to flush
	down   atomic.Bool             // the member is, and the exchange is cut
	timer  *waitTimer              // nil until the first wait that needs one
	noted  bool                    // with busy; guarded by the timer's mu where there is one
	over   *generation             // that it runs on; nil when that is none

	conn atomic.Pointer[net.Conn] // that an upgrade was sent over; nil when its transport does not tell
}

// noteConn returns a context that has the transport tell the connection of an upgrade: the body of
// a 101 from http.Transport hides it.
func (x *exchange) noteConn(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { x.conn.Store(&info.Conn) },
	})
}

func (x *exchange) wait() {
	if x.timer == nil {
		x.timer = x.rt.timer()
	}
	x.timer.arm(x)
}

// proceed waits for what wait has set off.
func (x *exchange) proceed() { x.timer.disarm() }

// KeepsWaiting is called, while the handler waits, when that has taken long; or by the handler,
// when it is about to wait. It implements upstream.Waiter.
func (x *exchange) KeepsWaiting() {
	if x.w != nil && x.w.unflushed.Load() && x.w.FlushError() == errFlush {
		x.abort(errFlush) // the handler has to know
	}
	if !x.noted {
		x.noted = true
		if !x.rt.busy.Add(x.member, x) {
			x.Cut()
		}
	}
}

// Cut ends what is waited for, because the member is down. It implements underway.Cutter.
func (x *exchange) Cut() {
	x.down.Store(true)
	x.abort(errCut)
}

// abort ends what is waited for. Bodies of http.Transport allow a Close during a Read.
func (x *exchange) abort(why error) {
	if x.cancel != nil {
		x.cancel(why)
	} else if x.body != nil {
		x.body.Close()
	}
}

// cause returns the reason for which we ended the exchange, or nil if we did not.
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

// abandon ends an exchange with a response that nobody reads.
func (x *exchange) abandon(res *http.Response) {
	if x.cancel != nil {
		x.cancel(nil)
	}
	res.Body.Close() // before the generation is released
	x.end()
}

// end is called when nothing more is read. It may be called again.
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
	if x.over != nil {
		x.over.release()
		x.over = nil
	} else if x.member.Removed() {
		x.rt.transports.closeIdleTo(x.member) // where this exchange has left one
	}
}
