package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// checkSendProxy refuses a transport that cannot send the header.
func (p *Proxy) checkSendProxy() error {
	switch {
	case p.SendProxy < 0 || p.SendProxy > 2:
		return errors.New("wsproxy: SendProxy is not 0, 1 or 2")
	case p.SendProxy == 0 || p.Transport == nil:
		return nil
	}
	if t, ok := p.Transport.(*http.Transport); !ok || t.Proxy != nil || t.DialTLSContext != nil || dialsAsOnce(t) {
		return errors.New("wsproxy: SendProxy needs a Transport that is nil, or an *http.Transport without Proxy and DialTLSContext")
	}
	return nil
}

// dialsAsOnce reports whether the transport has a dialer that knows no context.
func dialsAsOnce(t *http.Transport) bool {
	//lint:ignore SA1019 callers may set them all the same
	return t.Dial != nil || t.DialTLS != nil
}

// newGreeting makes the transports of a Proxy that sends the header. All attempts, upgrades or not,
// run on one.
func newGreeting(p *Proxy) *transports {
	s := &transports{limits: p.Upstream.withDefaults(), opaque: true, known: true, told: p.TransportDials}
	s.make = func(to *balancer.Target) *generation {
		var t *http.Transport
		if given, ok := p.Transport.(*http.Transport); ok {
			base, err := redirected(given, to, p.TransportDials)
			if err != nil {
				return refusing(err)
			}
			t = onlyHTTP1(base)
			t.DialContext = greeting(dialOf(t))
		} else {
			t = s.limits.newTransport(to, p.BackendTLS, "http/1.1")
			t.DialContext = greeting(t.DialContext)
			t.DialTLSContext = s.limits.tlsDialer(t.DialContext, to, p.BackendTLS, []string{"http/1.1"})
		}
		alone(t)
		return &generation{plain: t, upgrade: t, h2c: aloneH2C{t}, alone: t, owned: true}
	}
	return s
}

// aloneH2C carries each request to an h2c target on a transport of its own: connections of HTTP/2
// that one transport has just opened may be used by any of its requests.
type aloneH2C struct{ base *http.Transport }

func (a aloneH2C) RoundTrip(req *http.Request) (*http.Response, error) {
	return onlyH2C(a.base).RoundTrip(req)
}

type greetingKey struct{}

// A greetingHeader is what a connection begins with, or why that cannot be written.
type greetingHeader struct {
	header *proxyproto.Header
	err    error
}

// greeting dials and writes the header that the context has. It is the context of the request that
// the connection is for: without keep-alive no other request gets it.
func greeting(dial dialFunc) dialFunc {
	d := proxyproto.Dialer{Dial: dial, Header: func(ctx context.Context, _ net.Conn) (*proxyproto.Header, error) {
		return ctx.Value(greetingKey{}).(greetingHeader).header, nil
	}}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := ctx.Value(greetingKey{}).(greetingHeader).err; err != nil {
			return nil, &stageError{ClassRequest, err}
		}
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, &stageError{ClassDial, err}
		}
		return conn, nil
	}
}

// greet gives the outgoing request its header.
func (p *Proxy) greet(pr *httputil.ProxyRequest, at *peer) {
	h := proxyHeader(p.SendProxy, pr.In, at)
	if p.ProxyHeader != nil {
		p.ProxyHeader(h, pr.In)
	}
	_, err := h.AppendBinary(nil)
	pr.Out = pr.Out.WithContext(context.WithValue(pr.Out.Context(), greetingKey{}, greetingHeader{h, err}))
}

// proxyHeader tells of the client what is known.
func proxyHeader(version int, r *http.Request, at *peer) *proxyproto.Header {
	h := &proxyproto.Header{Version: version, Checksum: true}
	if h.Local = !at.client.IsValid(); h.Local {
		return h
	}
	h.Source = net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.client.Addr().WithZone(""), at.client.Port()))
	h.Destination = destination(r, at.client.Addr())
	first := proxyproto.FromContext(r.Context())
	if first != nil {
		h.UniqueID = slices.Clone(first.UniqueID)
	}
	if at.client.Addr() == at.addr {
		describe(h, r.TLS, first)
	}
	switch {
	case !at.tls:
		h.TLS = nil
	case h.TLS == nil:
		h.TLS = &proxyproto.TLS{Verify: 1} // more is not known
	}
	return h
}

// describe tells of a client that nobody is in front of but, if there is a first header, who sent
// that. A proxy that has ended the client's TLS knows more about it than our own connection, which
// is the proxy's then.
func describe(h *proxyproto.Header, state *tls.ConnectionState, first *proxyproto.Header) {
	if state != nil && (first == nil || first.TLS == nil) {
		h.TLS, h.ALPN, h.Authority = proxyproto.DescribeTLS(state), state.NegotiatedProtocol, state.ServerName
	} else if first != nil {
		h.ALPN, h.Authority = first.ALPN, first.Authority
		if first.TLS != nil {
			copied := *first.TLS
			h.TLS = &copied
		}
	}
}

// destination is what the client connected to: the address of the server's listener, or the one
// that a PROXY header has told. Where it has none the header says so in the client's family.
func destination(r *http.Request, client netip.Addr) net.Addr {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return local
	}
	if client.Is4() {
		return &net.TCPAddr{IP: net.IPv4zero}
	}
	return &net.TCPAddr{IP: net.IPv6unspecified}
}
