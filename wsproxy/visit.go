package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A visit is one request on its way through a [Sticky], as a walk is for a [Proxy]. These are its
// phases, in their order:
//
//  1. enter decides whether the request is an upgrade, and counts it for its key.
//  2. choice.lookup and choice.acquire (choice.go) are the same as for a walk.
//  3. present returns the request that the caller's handler gets.
//  4. The handler runs. begin is called when it writes the final header (stickywriter.go), and
//     binds the session. hijack (upgraded.go) hands the lease over to an upgraded connection.
//  5. finish releases what the visit holds, and calls Trace.Done. It runs after a panic, too.
//
// The memory of a visit is not reused, because the handler may keep its context and its writer. The
// fields belong to the goroutine of the handler, and those below mu are guarded by it.
type visit struct {
	s     *Sticky
	in    *http.Request // inbound, without what is not believed; never edited
	peer  peer
	start time.Time // zero when no hook of Trace needs it

	protocol string          // of the upgrade that is asked for, lower case; empty when none is
	place    place           // freed when the upgrade is declined, or with the upgraded connection
	inFlight *underway.Share // among the requests of its key; nil when it is not counted there
	choice   choice
	member   *balancer.Member // that serves; nil before

	out  http.Request // that the handler gets
	url  url.URL      // of that
	ctx  visitContext
	w    plainWriter
	body visitBody

	sent     time.Time // when the handler was called
	latency  time.Duration
	late     bool        // the client was gone when the header was written, or its body had failed
	inHook   atomic.Bool // the policy or a hook runs, or has panicked
	span     span
	upgraded *upgraded   // nil unless the connection was taken over
	severed  atomic.Bool // the stream of an extended CONNECT was cut
	returned bool        // the handler has returned, or was not called

	mu         sync.Mutex
	over       bool              // the lease is released
	reported   *balancer.Outcome // nil when the handler has reported nothing
	failure    *Error            // nil when nothing went wrong
	clientErr  error             // with which the request's body failed, or the connection that was taken over
	unhijacked bool              // the server has refused to hand over the connection
	bodyEnd    time.Time         // when the body ended well
	leave      func(code uint16) // see OnLeave
	asked      bool              // the upgraded connection was asked to end
}

type visitKey struct{}

// A visitContext is the context of the request that the handler gets. It is the inbound one's, with
// the visit and its member.
type visitContext struct {
	context.Context
	v *visit
}

// Value implements context.Context.
func (c *visitContext) Value(key any) any {
	switch key.(type) {
	case memberKey:
		return c.v.member
	case visitKey:
		return c.v
	}
	return c.Context.Value(key)
}

// newVisit returns the visit of a request.
func (s *Sticky) newVisit(w http.ResponseWriter, r *http.Request) *visit {
	v := &visit{s: s, peer: s.trust().peerOf(r)}
	v.in = v.peer.believe(r)
	v.w.v, v.w.ResponseWriter = v, w
	if t := &s.rt.trace; t.Done != nil || t.Switch != nil || t.Tunnel != nil {
		v.start = time.Now()
	}
	return v
}

// serve runs the phases 1 to 4.
func (v *visit) serve(r *http.Request, next http.Handler) {
	failure := v.enter()
	if failure == nil {
		v.choice.lookup()
		failure = v.acquire(r.Context())
	}
	if failure != nil {
		v.refuse(failure)
		return
	}
	out := v.present(r)
	v.sent = time.Now()
	next.ServeHTTP(v.writer(), out)
	v.w.begin(http.StatusOK) // as net/http does when nothing was written
}

// enter makes the query to the pool, takes a place for an upgrade, and counts the request for its
// key.
func (v *visit) enter() *Error {
	rt := &v.s.rt
	query := balancer.Request{HTTP: v.in, Client: v.peer.client.Addr()}
	if v.protocol = v.upgradeOf(); v.protocol != "" {
		switch query.Tunnel = true; {
		case rt.busy.Closing():
			return &Error{Class: ClassShutdown, Status: http.StatusServiceUnavailable, Err: errShutdown}
		case !v.place.take(&v.s.tunnels, v.s.Tunnels.Max):
			return &Error{Class: ClassLimit, Status: http.StatusServiceUnavailable, Err: errTooManyTunnels}
		case rt.trace.Upgrade != nil:
			rt.trace.Upgrade(v.in, v.protocol)
		}
	}
	if v.s.Key != nil {
		query.Key = v.s.Key(v.in)
	}
	v.choice.begin(&rt.chooser, query)
	limit := keyLimit{v.s.MaxPerKey, v.s.Tunnels.MaxPerKey, v.s.PerKeyStatus}
	var failure *Error
	v.inFlight, failure = rt.count(&v.choice.query, limit, &v.place)
	return failure
}

// upgradeOf returns the protocol of an upgrade, or of an extended CONNECT. It is empty if the
// request is neither, or if the protocol is not in Sticky.Upgrades.
func (v *visit) upgradeOf() (protocol string) {
	switch {
	case v.isExtended():
		protocol = strings.ToLower(protocolsOf(v.in)[0])
	case v.in.ProtoMajor == 1 && v.in.ProtoMinor > 0 && len(v.in.Header["Upgrade"]) > 0:
		protocol = upgradeToken(v.in.Header)
	}
	if !slices.Contains(v.s.rt.upgrades, protocol) {
		return ""
	}
	return protocol
}

// isExtended reports whether the request is an extended CONNECT (RFC 8441 section 4).
func (v *visit) isExtended() bool {
	return len(protocolsOf(v.in)) == 1
}

// acquire takes a lease.
func (v *visit) acquire(ctx context.Context) *Error {
	g, err := v.choice.acquire(ctx, nil)
	v.choice.hold(g) // before the hook, whose panic must lose no lease
	if err != nil {
		failure := v.choice.noLease(ctx, err)
		v.choice.tellPick(g, failure.Err)
		return failure
	}
	v.member = g.lease.Member()
	v.choice.tellPick(g, nil)
	return nil
}

// refuse answers with an error page.
func (v *visit) refuse(failure *Error) {
	failure.Pool = v.s.Pool.Name()
	v.failure = failure
	v.s.rt.logFailure(v.in, "request failed", failure)
	v.s.rt.writePage(&v.w, v.in, failure)
}

// present returns the request for the handler. It shares what it can with the inbound one. If the
// policy or Trace.Span may change the header, it has a map of its own.
func (v *visit) present(r *http.Request) *http.Request {
	v.ctx = visitContext{r.Context(), v}
	v.out = *r.WithContext(&v.ctx) // a copy in v saves an allocation
	out := &v.out
	if r.Body != nil && r.Body != http.NoBody {
		v.body = visitBody{r.Body, v}
		out.Body = &v.body
	}
	trace := &v.s.rt.trace
	if v.choice.editor != nil || trace.Span != nil {
		v.url, out.URL, out.Header = *r.URL, &v.url, maps.Clone(r.Header)
		v.choice.forward(out)
	}
	if trace.Span != nil {
		v.span.told = Attempt{Target: v.member.ID(), Number: 1}
		v.span.end = trace.Span(v.in, Outgoing{Member: v.member, Number: 1, Header: out.Header})
	}
	return out
}

// begin is called with the final header of the response before it is written, and binds the
// session. It may run on another goroutine than the handler's when the connection was taken over.
func (v *visit) begin(h http.Header, status int) {
	bound := v.noteHeader(status)
	if v.member == nil {
		return
	}
	v.inHook.Store(true)
	if bound {
		v.choice.bind(h, status, v.peer.tls)
	}
	if told := v.s.rt.trace.Attempt; told != nil {
		told(v.in, Attempt{Target: v.member.ID(), Number: 1, Latency: v.latency, Status: status})
	}
	v.inHook.Store(false)
}

// noteHeader notes the status and the latency. It reports whether the header binds the session. An
// error page does not, nor an answer after the handler has reported a failure of the target, nor a
// header that is written after the lease was released.
func (v *visit) noteHeader(status int) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.w.status = status
	if v.member == nil || v.over {
		return false
	}
	since := v.sent
	if v.body.ReadCloser != nil { // until its end, the handler may have waited for the client
		since = v.bodyEnd
	}
	if !since.IsZero() {
		v.latency = time.Since(laterOf(since, v.sent))
	}
	v.late = v.clientErr != nil || v.in.Context().Err() != nil
	v.span.told.Latency, v.span.told.Status = v.latency, status
	return v.reported == nil || v.reported.Class == balancer.OK
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// finish releases what the visit still holds. It is called once, also after a panic.
func (v *visit) finish() {
	v.inFlight.Free()
	if v.failure == nil {
		v.noteBreak()
	}
	v.dropFiles()
	switch {
	case v.upgraded == nil:
		v.place.free()
		v.release(v.outcome())
	case v.upgraded.stream:
		v.upgraded.end()
	case !v.returned: // after a panic, the handler does not close the connection
		v.upgraded.Close(tunnel.BackendReadFailed)
	}
	defer v.tellDone() // also after a panic of the hook below
	v.mu.Lock()
	span, failure := v.span, v.failure
	v.mu.Unlock()
	span.close(failure)
}

// dropFiles removes the files of a multipart form that the handler has parsed. net/http removes
// only those of its own request.
func (v *visit) dropFiles() {
	if form := v.out.MultipartForm; form != nil && form != v.in.MultipartForm {
		form.RemoveAll()
	}
}

// tellDone calls Trace.Done.
func (v *visit) tellDone() {
	if done := v.s.rt.trace.Done; done != nil {
		done(v.in, v.record())
	}
}

// noteBreak sets the failure if the response broke off or did not reach the client.
func (v *visit) noteBreak() {
	if v.returned && (v.isHijacked() || v.w.err == nil && !v.late) {
		return
	}
	v.mu.Lock()
	clientErr, status := v.clientErr, v.w.status
	v.mu.Unlock()
	e := &Error{Class: ClassBody, Status: status, Pool: v.s.Pool.Name(), Attempt: 1, Err: errHandler}
	if v.member != nil {
		e.Target = v.member.ID()
	}
	switch {
	case v.in.Context().Err() != nil:
		e.Class, e.Err = ClassClientGone, context.Cause(v.in.Context())
	case clientErr != nil:
		e.Class, e.Err = ClassClientGone, clientErr
	case v.w.err != nil:
		e.Class, e.Err = ClassClientGone, v.w.err
	case v.sent.IsZero(): // a hook has panicked before the handler was called
		e.Class, e.Attempt, e.Err = ClassRequest, 0, errHook
	case v.inHook.Load():
		e.Class, e.Err = ClassRequest, errHook
	case status == 0:
		e.Class = ClassHeader
	}
	v.mu.Lock()
	v.failure = e
	v.mu.Unlock()
	v.s.rt.logFailure(v.in, "response broken off", e)
	if told := v.s.rt.trace.Attempt; told != nil && e.Class != ClassRequest && status == 0 {
		told(v.in, Attempt{Target: v.member.ID(), Number: 1, Err: e})
	}
}

// outcome returns the outcome that the Sticky has observed. release replaces it by the one that the
// handler has reported.
func (v *visit) outcome() balancer.Outcome {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := balancer.Outcome{Status: v.w.status, Latency: v.latency, Began: v.sent, Client: v.choice.query.Client}
	if v.failure != nil {
		o.Class, o.Err = v.failure.outcome(v.protocol != ""), v.failure.apart()
	}
	return o
}

// judge returns the class of an error of the request to the target. If no writer in the chain can
// be hijacked, an upgrade fails in any case, and does not count against the target.
func (v *visit) judge(e *Error) balancer.Class {
	class := e.outcome(v.protocol != "")
	if class == balancer.UpgradeFailed && v.in.ProtoMajor == 1 && !inChain[http.Hijacker](v.w.ResponseWriter) {
		return balancer.Unjudged
	}
	return class
}

// report is Report.
func (v *visit) report(o balancer.Outcome) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return false
	}
	switch {
	case o.Class == balancer.OK || o.Class == balancer.Unjudged:
	case v.unhijacked:
		o.Class = balancer.Unjudged
	case v.clientErr != nil || v.in.Context().Err() != nil:
		o.Class = balancer.ClientGone
	}
	v.reported = &o
	return true
}

// noteClient notes an error of the client's connection or of the request's body.
func (v *visit) noteClient(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.clientErr == nil {
		v.clientErr = err
	}
}

// release releases the lease with the outcome that the handler has reported, or else with o.
func (v *visit) release(o balancer.Outcome) {
	v.mu.Lock()
	v.over = true
	if r := v.reported; r != nil {
		o.Class, o.Err, o.Retried = r.Class, r.Err, r.Retried
		o.Status, o.Latency = cmp.Or(r.Status, o.Status), cmp.Or(r.Latency, o.Latency)
		if !r.Began.IsZero() {
			o.Began = r.Began
		}
		if r.Client.IsValid() {
			o.Client = r.Client
		}
	}
	v.mu.Unlock()
	if o.Class == balancer.ClientGone || o.Class == balancer.Unjudged {
		o.Latency = 0
	}
	lease := v.choice.lease // the choice keeps its own, as begin may be using it on another goroutine
	lease.Release(o)
}

// record returns the Record of the request up to now.
func (v *visit) record() Record {
	v.mu.Lock()
	defer v.mu.Unlock()
	rec := Record{
		Start:    v.start,
		Duration: time.Since(v.start),
		Method:   v.in.Method,
		Host:     v.in.Host,
		Path:     v.in.URL.Path,
		Client:   v.peer.client.Addr(),
		Pool:     v.s.Pool.Name(),
		Status:   v.w.status,
		Bytes:    v.w.bytes,
	}
	if v.member != nil {
		rec.Target, rec.Attempts = v.member.ID(), 1
	}
	if v.upgraded != nil {
		rec.Upgrade = v.protocol
	}
	if v.failure != nil {
		rec.Err = v.failure
	}
	return rec
}

// A visitBody is the request's body. It notes how the body ends.
type visitBody struct {
	io.ReadCloser
	v *visit
}

// Read implements io.Reader.
func (b *visitBody) Read(p []byte) (int, error) {
	if b.v.severed.Load() {
		return 0, net.ErrClosed
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil, errors.Is(err, http.ErrBodyReadAfterClose):
	case err == io.EOF:
		b.v.mu.Lock()
		defer b.v.mu.Unlock()
		b.v.bodyEnd = time.Now()
	default:
		b.v.noteClient(err)
	}
	return n, err
}
