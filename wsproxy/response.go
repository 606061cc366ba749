package wsproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
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
	res.Body.Close() // before the generation is left
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
		x.over.leave()
		x.over = nil
	} else if x.member.Removed() {
		x.rt.transports.closeIdleTo(x.member) // where this exchange has left one
	}
}

// A responseBody is the body of the target's response. It remembers how it ended.
type responseBody struct {
	io.ReadCloser
	walk     *walk
	res      *http.Response
	exchange *exchange
	tells    bool  // when a Read has to wait
	begun    bool  // the first Read is over
	err      error // that broke it off

	read   time.Time     // when the last Read ended, if there is to be another
	heldUp time.Duration // total time between Reads, in which the client was written to
}

// heldUp is how long a client may delay a response in total before a break is no longer the
// target's fault. The target may have a limit for slow readers.
const heldUp = time.Second

func (b *responseBody) init(res *http.Response, k *walk) {
	x := k.under
	b.ReadCloser, b.walk, b.res, b.exchange = res.Body, k, res, x
	teller, _ := res.Body.(interface{ OnWait(upstream.Waiter) })
	x.w = &k.w
	if x.cancel == nil { // else the header may have been waited for, and whoever cuts looks at x already
		x.body = res.Body
	}
	if b.tells = teller != nil; b.tells {
		teller.OnWait(x)
	}
}

// Read implements io.Reader. What has come together with the header goes to the client even when
// the target is down: cut there, the client would have no answer at all.
func (b *responseBody) Read(p []byte) (int, error) {
	if b.err == nil && b.begun && b.exchange.member.State().Admin == balancer.Down {
		b.err = errCut
	}
	if b.err != nil {
		return 0, b.breakOff()
	}
	if b.begun {
		b.heldUp += time.Since(b.read)
	}
	b.begun = true
	if !b.tells {
		b.exchange.wait()
	}
	n, err := b.ReadCloser.Read(p)
	if !b.tells {
		b.exchange.proceed()
	}
	b.exchange.w.repanic()
	if err == nil {
		b.read = time.Now()
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	if b.err = err; b.exchange.down.Load() {
		b.err = errCut
	}
	if n > 0 {
		return n, nil // goes to the client first
	}
	return 0, b.breakOff()
}

// breakOff flushes what the target has sent before the break, and returns the error. ReverseProxy
// panics next, and then the server drops everything that was not flushed, the header too.
func (b *responseBody) breakOff() error {
	if w := &b.walk.w; w.unflushed.Load() && b.walk.in.Context().Err() == nil {
		w.FlushError()
		w.repanic()
	}
	return b.err
}

// Close implements io.Closer. It ends the attempt's context first, if there is one. Otherwise the
// Close of an HTTP/2 body would wait for the request's body, and so for a silent client. It filters
// the trailers last, because they are complete only now. ReverseProxy reads them after Close.
func (b *responseBody) Close() error {
	b.exchange.end()
	err := b.ReadCloser.Close()
	b.walk.filterTrailer(b.res.Trailer)
	return err
}

// A waitTimer tells an exchange that its handler waits for long, unless it is disarmed before. A
// timer that was given back may still fire: then it finds no exchange, or tells the next one early.
type waitTimer struct {
	timer    *time.Timer
	mu       sync.Mutex
	exchange *exchange // nil when disarmed
}

// timer lends a stopped timer. They are kept by the Proxy, since one that was made in a synctest
// bubble belongs to it.
func (rt *runtime) timer() *waitTimer {
	if t, ok := rt.timers.Get().(*waitTimer); ok {
		return t
	}
	t := &waitTimer{}
	t.timer = time.AfterFunc(time.Hour, t.fire)
	t.timer.Stop()
	return t
}

func (t *waitTimer) arm(x *exchange) {
	t.mu.Lock()
	t.exchange = x
	t.mu.Unlock()
	t.timer.Reset(patience)
}

// disarm waits for a fire that has begun.
func (t *waitTimer) disarm() {
	t.timer.Stop()
	t.mu.Lock()
	t.exchange = nil
	t.mu.Unlock()
}

func (t *waitTimer) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exchange != nil {
		t.exchange.KeepsWaiting()
		t.exchange = nil
	}
}
