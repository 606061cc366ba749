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

// MemberOf returns the member that a request goes to. ctx is the context of a request that the
// handler of a [Sticky] gets, or that [Proxy.Transport] gets with [Proxy.TransportDials], or one
// that was derived from it, such as the one that [http.Transport] gives its dialers. MemberOf
// returns nil and false for any other context.
func MemberOf(ctx context.Context) (*balancer.Member, bool) {
	m, ok := ctx.Value(memberKey{}).(*balancer.Member)
	return m, ok
}

// needsMore reports whether the target has more than a URL that says how it is reached.
func needsMore(t *balancer.Target) bool {
	return t.Addr != "" || t.ServerName != "" || t.Certificate != nil
}

// redirected returns a copy of a caller's transport that uses the target's Addr, ServerName and
// Certificate. If the caller's transport uses them itself, the copy is not changed. The copy is
// needed in either case: http.Transport keeps connections by the URL's host, which several targets
// may have.
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

// keepHTTP2 makes c, a copy of t, speak HTTP/2 over TLS if t does. http.Transport would not do so
// by itself with a dialer or a TLSClientConfig. A caller's own implementation of HTTP/2 is not
// used, because its connections belong to t.
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

// refuseProxy returns an error if a proxy was chosen, because then the proxy would be dialed and
// not the Addr.
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
