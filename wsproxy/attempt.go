package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// attempt asks the leased member.
func (k *walk) attempt(out *http.Request) (*http.Response, *Error) {
	m := k.choice.lease.Member()
	k.target = m.ID()
	k.attempts++
	k.sent = time.Now()
	req := k.outgoing(out, m)
	if k.p.Target != nil || k.rt.trace.Span != nil {
		req.Header = out.Header.Clone()
	}
	if k.p.Target != nil {
		u := req.URL
		k.p.Target(req, m)
		req.URL = copyIfReplaced(req.URL, u)
		if k.reader != nil && req.Body != nil && req.Body != k.reader {
			req.Body = safeBody{req.Body}
		}
	}
	k.beginSpan(req, m)
	prepareURL(req.URL, k.rt.transports.opaque)
	res, err := k.roundTrip(req)
	if k.latency = time.Since(k.sent); k.reader != nil {
		k.latency = k.body.latency(k.latency)
	}
	if err != nil {
		return nil, k.failed(out.Context(), err)
	}
	if res == nil {
		return nil, k.failed(out.Context(), errors.New("the RoundTripper gave neither a response nor an error"))
	}
	if res.Header == nil { // a caller's RoundTripper may leave out this and the body
		res.Header = make(http.Header)
	}
	if res.Body == nil {
		res.Body = http.NoBody
	}
	if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols || res.StatusCode > 999 {
		k.under.abandon(res)
		return nil, k.failed(out.Context(), fmt.Errorf("status %d", res.StatusCode))
	}
	switch res.StatusCode {
	case http.StatusNoContent:
		delete(res.Header, "Content-Length") // RFC 9110 section 8.6; HTTP/2 clients would wait for a body
		fallthrough
	case http.StatusNotModified:
		res.Body.Close() // net/http's HTTP/2 would wait for a body as long as a 304's Content-Length says
		res.Body = http.NoBody
	}
	return res, nil
}

func (k *walk) tellAttempt(res *http.Response, failure *Error) {
	if k.rt.trace.Attempt == nil && k.spanEnd == nil {
		return
	}
	a := Attempt{Target: k.target, Number: k.attempts, Latency: k.latency}
	if failure != nil {
		a.Err = failure
	} else {
		a.Status = res.StatusCode
	}
	k.spanned = a
	if k.rt.trace.Attempt != nil {
		k.rt.trace.Attempt(k.in, a)
	}
}

// beginSpan tells the hook of an attempt whose request is complete.
func (k *walk) beginSpan(req *http.Request, m *balancer.Member) {
	if k.rt.trace.Span == nil {
		return
	}
	if req.Header == nil { // by Proxy.Target
		req.Header = make(http.Header)
	}
	k.spanned = Attempt{Target: k.target, Number: k.attempts}
	k.spanEnd = k.rt.trace.Span(k.in, Outgoing{Member: m, Number: k.attempts, Header: req.Header})
}

// endSpan tells the hook that the attempt is over. failure is what has become of its response; nil
// when nothing went wrong.
func (k *walk) endSpan(failure *Error) {
	end, a := k.spanEnd, k.spanned
	if end == nil {
		return
	}
	k.spanEnd = nil
	if a.Err == nil && failure != nil {
		a.Err = failure
	}
	end(a)
}

// outgoing is what an attempt sends: a shallow copy of out, whose context, URL and body are its
// own. The first attempt needs a context only for a body or a switch of protocols, since to give
// those up takes one. Without that, and without a Target to change it, it is out itself.
func (k *walk) outgoing(out *http.Request, m *balancer.Member) *http.Request {
	if k.attempts == 1 {
		k.pristine, k.under = *out.URL, &k.first
	} else {
		k.under = new(exchange)
	}
	k.under.member, k.under.rt = m, k.rt
	req := out
	switch {
	case k.attempts > 1 || k.reader != nil || k.upgrade != "":
		ctx := out.Context()
		if k.dialing > 0 {
			ctx = withDialLimit(ctx, dialsTimeout-k.dialing)
		}
		k.under.ctx, k.under.cancel = context.WithCancelCause(ctx)
		req = out.WithContext(k.under.ctx)
	case k.p.Target != nil || k.rt.trace.Span != nil: // what they tell one target is not for the next one
		req = out.WithContext(out.Context())
	}
	if k.rt.transports.told {
		req = req.WithContext(context.WithValue(req.Context(), memberKey{}, m))
	}
	if req != out {
		u := k.pristine
		req.URL = &u
	}
	to := m.URL()
	k.h2c = to.Scheme == "h2c"
	join(req.URL, &to)
	if k.reader != nil {
		if req.Trailer = out.Trailer.Clone(); len(req.Trailer) > 0 {
			req.ContentLength = -1 // a Content-Length leaves no room for trailers in HTTP/1.1
		}
		k.reader.trailer, k.reader.over = req.Trailer, k.under.ctx.Done()
		req.Body, req.GetBody = k.reader, k.reopen
	}
	return req
}

// failed settles an attempt without a response, and says whose fault it was.
func (k *walk) failed(ctx context.Context, err error) *Error {
	waited := k.reader != nil && k.reader.waits() // before the end of the attempt ends that
	if cause := k.under.cause(); cause != nil {
		err = cause
	}
	k.under.end()
	class := classify(ctx, err)
	e := &Error{Class: class, Status: statusOf(class, err), Pool: k.pool(), Target: k.target, Attempt: k.attempts, Err: err}
	if cause := k.body.failure(); cause != nil {
		e.Class, e.Status, e.Err = classOfBody(cause), statusOfBody(cause), cause
	} else if cause, ok := errors.AsType[*bodyPanic](err); ok { // one that Target has put there
		e.Class, e.Status, e.Err = classOfBody(cause), statusOfBody(cause), cause
	}
	switch short := balancer.Shortage(err); {
	case short != "":
		e.excuse, e.Err = unrelated, fmt.Errorf("this machine is short of %s: %w", short, err)
	case errors.Is(err, errCut), errors.Is(err, errAbandoned), err == errHungUp, waited && class != ClassDial && class != ClassTLS:
		e.excuse = unrelated
	}
	return e
}

// roundTrip chooses the transport. A switch of protocols has a limit of its own until it is
// answered.
func (k *walk) roundTrip(req *http.Request) (*http.Response, error) {
	if k.under.cancel != nil {
		k.under.wait()
		defer k.under.proceed()
	}
	t, login := k.rt.transports, k.loginTransport(req)
	own := t.own != nil && req.URL.Scheme == "http" && login == nil
	k.direct = own && k.upgrade == "" && !k.h2c
	if k.reader != nil && !k.direct {
		watched, stop := k.watchUpload(req)
		defer stop()
		req = watched
	}
	switch {
	case k.upgrade != "":
	case login != nil:
		return login.RoundTrip(req)
	case k.direct && k.attempts == 1:
		return t.own.RoundTripTo(req, k.address(req), &k.scratch)
	case k.direct:
		return t.own.RoundTripTo(req, k.address(req), nil)
	case k.h2c:
		return k.generation().h2c.RoundTrip(req)
	default:
		return k.generation().plain.RoundTrip(req)
	}
	cancel := k.under.cancel // of this attempt: the timer may fire when the next one has begun
	timer := time.AfterFunc(k.p.Tunnels.handshake(), func() { cancel(errHandshakeTimeout) })
	defer timer.Stop()
	switch {
	case own:
		return t.own.RoundTripTo(req, k.address(req), nil)
	case login == nil:
		login = k.generation().upgrade
	}
	return login.RoundTrip(req.WithContext(k.under.noteConn(req.Context())))
}

// address returns where the leased member is reached. Proxy.Target may have sent the request to
// another host, which rules if the member has no Addr.
func (k *walk) address(req *http.Request) upstream.Address {
	m := k.choice.lease.Member()
	if k.p.Target != nil && req.URL.Host != m.URL().Host && m.Target().Addr == "" {
		return upstream.Address{}
	}
	network, addr := m.Endpoint()
	return upstream.Address{Network: network, Addr: addr}
}

// generation returns the http.Transports that the attempt runs on.
func (k *walk) generation() *generation {
	if k.under.over == nil {
		k.under.over = k.rt.transports.enter(k.choice.lease.Member())
	}
	return k.under.over
}
