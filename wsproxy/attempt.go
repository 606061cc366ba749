package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// An attempt is one try to get a response from a member. A walk makes one attempt at a time, and
// keeps the last one that has begun.
type attempt struct {
	number  int       // 1 for the first; 0 before
	target  string    // ID
	sent    time.Time // when it began
	latency time.Duration
	h2c     bool // the scheme of the target's URL
	own     bool // sent by package upstream
	direct  bool // own, and no upgrade: nobody else has the response's header
	span    span

	under *exchange
	first exchange // memory for the first attempt's, so that it allocates none

	url url.URL // of the outgoing request, before it is joined to a member's
}

// attempt sends the request to the member that the lease is on, and returns its response.
func (k *walk) attempt(out *http.Request) (*http.Response, *Error) {
	m := k.choice.lease.Member()
	k.last.target = m.ID()
	k.last.number++
	k.last.sent = time.Now()
	req := k.newRequest(out, m)
	if k.p.Target != nil || k.rt.trace.Span != nil {
		req.Header = out.Header.Clone()
	}
	if k.p.Target != nil {
		k.callTarget(req, m)
	}
	k.beginSpan(req, m)
	prepareURL(req.URL, k.rt.transports.opaque)
	res, err := k.roundTrip(req)
	if k.last.latency = time.Since(k.last.sent); k.attempts.reader != nil {
		k.last.latency = k.attempts.body.latency(k.last.latency)
	}
	if err == nil && res == nil {
		err = errors.New("the RoundTripper gave neither a response nor an error")
	}
	if err == nil {
		err = checkResponse(res)
		if err != nil {
			k.last.under.abandon(res)
		}
	}
	if err != nil {
		return nil, k.failed(out.Context(), err)
	}
	return res, nil
}

// callTarget calls Proxy.Target. If Target has replaced the request's URL, callTarget copies the
// new one.
func (k *walk) callTarget(req *http.Request, m *balancer.Member) {
	u := req.URL
	k.p.Target(req, m)
	req.URL = copyIfReplaced(req.URL, u)
	if k.attempts.reader != nil && req.Body != nil && req.Body != k.attempts.reader {
		req.Body = safeBody{req.Body}
	}
}

// checkResponse returns an error if the response has no final status. Otherwise it sets what a
// caller's RoundTripper may have left out, and removes the body of a response that must have none.
func checkResponse(res *http.Response) error {
	if res.Header == nil {
		res.Header = make(http.Header)
	}
	if res.Body == nil {
		res.Body = http.NoBody
	}
	if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols || res.StatusCode > 999 {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	switch res.StatusCode {
	case http.StatusNoContent:
		delete(res.Header, "Content-Length") // RFC 9110 section 8.6; HTTP/2 clients would wait for a body
		fallthrough
	case http.StatusNotModified:
		res.Body.Close() // net/http's HTTP/2 would wait for a body as long as a 304's Content-Length says
		res.Body = http.NoBody
	}
	return nil
}

// newRequest returns the request that an attempt sends. It is a shallow copy of out, with a
// context, a URL and a body of its own. The first attempt sends out itself if three conditions
// hold: out has no body, it is no upgrade, and no hook may change it. An attempt with a body or an
// upgrade needs a context of its own, so that it can be interrupted.
func (k *walk) newRequest(out *http.Request, m *balancer.Member) *http.Request {
	if k.last.number == 1 {
		k.last.url, k.last.under = *out.URL, &k.last.first
	} else {
		k.last.under = new(exchange)
	}
	x := k.last.under
	x.begin(m, k.rt)
	req := out
	switch {
	case k.last.number > 1 || k.attempts.reader != nil || k.upgrade.asked():
		req = out.WithContext(x.ownContext(k.attempts.retries.limitDials(out.Context())))
	case k.p.Target != nil || k.rt.trace.Span != nil: // the next attempt must not get a hook's changes
		req = out.WithContext(out.Context())
	}
	if k.rt.transports.told {
		req = req.WithContext(context.WithValue(req.Context(), memberKey{}, m))
	}
	if req != out {
		u := k.last.url
		req.URL = &u
	}
	to := m.URL()
	k.last.h2c = to.Scheme == "h2c"
	join(req.URL, &to)
	if k.attempts.reader != nil {
		k.addBody(req, out.Trailer)
	}
	return req
}

// addBody makes the next attempt's reader the body of its request. trailer is what the client has
// announced.
func (k *walk) addBody(req *http.Request, trailer http.Header) {
	if req.Trailer = trailer.Clone(); len(req.Trailer) > 0 {
		req.ContentLength = -1 // a Content-Length leaves no room for trailers in HTTP/1.1
	}
	reader := k.attempts.reader
	reader.begin(req.Trailer, k.last.under.ctx.Done())
	req.Body, req.GetBody = reader, k.reopen
}

// newError returns an Error about the last attempt.
func (k *walk) newError(class Class, status int, err error) *Error {
	return &Error{Class: class, Status: status, Pool: k.pool(), Target: k.last.target, Attempt: k.last.number, Err: err}
}

// failed ends an attempt that has no response. It returns an Error. The class and the excuse of the
// Error decide who is to blame.
func (k *walk) failed(ctx context.Context, err error) *Error {
	reader := k.attempts.reader
	waited := reader != nil && reader.waits() // before end, which ends the wait
	if cause := k.last.under.cause(); cause != nil {
		err = cause
	}
	k.last.under.end()
	class := classify(ctx, err)
	e := k.newError(class, statusOf(class, err), err)
	if cause := k.attempts.body.failure(); cause != nil {
		e.Class, e.Status, e.Err = classOfBody(cause), statusOfBody(cause), cause
	} else if cause, ok := errors.AsType[*bodyPanic](err); ok { // of a body that Proxy.Target has set
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

// roundTrip sends the request over the transport that fits it.
func (k *walk) roundTrip(req *http.Request) (*http.Response, error) {
	if k.last.under.cancel != nil {
		k.last.under.wait()
		defer k.last.under.proceed()
	}
	t, login := k.rt.transports, k.loginTransport(req)
	k.last.own = t.own != nil && req.URL.Scheme == "http" && login == nil
	k.last.direct = k.last.own && !k.upgrade.asked() && !k.last.h2c
	if k.attempts.reader != nil && !k.last.direct {
		watched, stop := k.watchUpload(req)
		defer stop()
		req = watched
	}
	switch {
	case k.upgrade.asked():
		return k.roundTripUpgrade(req, login)
	case login != nil:
		return login.RoundTrip(req)
	case k.last.direct && k.last.number == 1:
		return t.own.RoundTripTo(req, k.address(req), &k.scratch)
	case k.last.direct:
		return t.own.RoundTripTo(req, k.address(req), nil)
	case k.last.h2c:
		return k.last.under.transports().h2c.RoundTrip(req)
	default:
		return k.last.under.transports().plain.RoundTrip(req)
	}
}

// roundTripUpgrade sends an upgrade, which TunnelLimits.Handshake limits until it is answered.
// login is nil unless the client's connection may be logged in.
func (k *walk) roundTripUpgrade(req *http.Request, login http.RoundTripper) (*http.Response, error) {
	cancel := k.last.under.cancel // of this attempt: the next one may have begun when the timer fires
	timer := time.AfterFunc(k.p.Tunnels.handshake(), func() { cancel(errHandshakeTimeout) })
	defer timer.Stop()
	switch {
	case k.last.own:
		return k.rt.transports.own.RoundTripTo(req, k.address(req), nil)
	case login == nil:
		login = k.last.under.transports().upgrade
	}
	return login.RoundTrip(req.WithContext(k.last.under.noteConn(req.Context())))
}

// address returns the address of the member that the lease is on. Proxy.Target may have sent the
// request to another host. Then the address is that host's, unless the target has an Addr.
func (k *walk) address(req *http.Request) upstream.Address {
	m := k.choice.lease.Member()
	if k.p.Target != nil && req.URL.Host != m.URL().Host && m.Target().Addr == "" {
		return upstream.Address{}
	}
	return addressOf(m)
}
