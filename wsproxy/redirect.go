package wsproxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"

	"github.com/stickylb/stickylb/balancer"
)

type memberKey struct{}

// MemberOf returns the member that a request is for. ctx is that of the request that
// [Proxy.Transport] gets, or the one that http.Transport gives its dialers. It returns nil and
// false for any other context, and without [Proxy.TransportDials].
func MemberOf(ctx context.Context) (*balancer.Member, bool) {
	m, ok := ctx.Value(memberKey{}).(*balancer.Member)
	return m, ok
}

// needsMore reports whether the URL does not tell all of how the target is reached.
func needsMore(t *balancer.Target) bool {
	return t.Addr != "" || t.ServerName != "" || t.Certificate != nil
}

// redirected returns a copy of a caller's transport that reaches the target as its Addr, ServerName
// and Certificate say. The copy has connections of its own: http.Transport keeps them by the URL's
// host, which several targets may have. When the caller dials, nothing else is changed.
func redirected(t *http.Transport, to *balancer.Target, dials bool) (*http.Transport, error) {
	c := t.Clone()
	keepHTTP2(c, t)
	if dials || !needsMore(to) {
		return c, nil
	}
	if to.URL.Scheme == "https" {
		//lint:ignore SA1019 callers may set it all the same
		if t.DialTLSContext != nil || t.DialTLS != nil {
			return nil, errors.New("the Transport has a DialTLSContext, which is not known to use Addr, ServerName and Certificate: " +
				"see TransportDials")
		}
		c.TLSClientConfig = to.TLSConfig(c.TLSClientConfig)
	}
	if to.Addr == "" {
		return c, nil
	}
	c.DialContext = redirect(dialOf(t), to)
	if t.Proxy != nil {
		c.Proxy = func(r *http.Request) (*url.URL, error) { return nil, refuseProxy(t.Proxy(r)) }
	}
	return c, nil
}

// keepHTTP2 has a copy of t speak HTTP/2 over TLS if t does. With a dialer or a TLSClientConfig
// http.Transport would not. A caller's own implementation of HTTP/2 is not used: its connections
// are kept for t.
func keepHTTP2(c, t *http.Transport) {
	if _, ok := c.TLSNextProto["h2"]; ok {
		c.TLSNextProto = nil
	}
	if _, ok := t.TLSNextProto["h2"]; ok && t.Protocols == nil {
		c.ForceAttemptHTTP2 = true
	}
}

// dialOf returns the function with which a transport makes connections.
func dialOf(t *http.Transport) dialFunc {
	//lint:ignore SA1019 callers may set it all the same
	old := t.Dial
	switch {
	case t.DialContext != nil:
		return t.DialContext
	case old != nil:
		return func(_ context.Context, network, addr string) (net.Conn, error) { return old(network, addr) }
	}
	limits := Upstream{}.withDefaults()
	return limits.dial
}

// refuseProxy returns an error if a proxy was chosen: behind one, the Addr would not be what is
// dialled.
func refuseProxy(proxy *url.URL, err error) error {
	if err == nil && proxy != nil {
		err = &stageError{ClassDial, errors.New("the Transport has a Proxy for a target with an Addr")}
	}
	return err
}

// refusing returns a generation whose requests fail.
func refusing(err error) *generation {
	r := refusal{err}
	return &generation{plain: r, upgrade: r, h2c: r}
}

type refusal struct{ err error }

// RoundTrip implements http.RoundTripper.
func (r refusal) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, &stageError{ClassDial, r.err}
}
