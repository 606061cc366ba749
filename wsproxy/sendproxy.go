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

// checkSendProxy returns an error if SendProxy is not valid, or if the transport cannot send the
// PROXY header.
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

// dialsAsOnce reports whether the transport has a deprecated dialer, which gets no context.
func dialsAsOnce(t *http.Transport) bool {
	//lint:ignore SA1019 callers may set them all the same
	return t.Dial != nil || t.DialTLS != nil
}

// newGreeting returns the transports of a Proxy that sends the PROXY header. Plain requests and
// upgrades to a target use the same transport.
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

// aloneH2C sends each request to an h2c target over a transport of its own. Within one transport,
// any request may use an HTTP/2 connection that was opened for another.
type aloneH2C struct{ base *http.Transport }

func (a aloneH2C) RoundTrip(req *http.Request) (*http.Response, error) {
	return onlyH2C(a.base).RoundTrip(req)
}

type greetingKey struct{}

// A greetingHeader is the PROXY header of a connection, or the error for which it cannot be
// written.
type greetingHeader struct {
	header *proxyproto.Header
	err    error
}

// greeting returns a dialFunc that dials, and writes the PROXY header from the context. The context
// is that of the request that the connection is for. Without keep-alive no other request gets the
// connection.
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

// greet puts the PROXY header of the outgoing request into its context.
func (p *Proxy) greet(pr *httputil.ProxyRequest, at *peer) {
	h := proxyHeader(p.SendProxy, pr.In, at)
	if p.ProxyHeader != nil {
		p.ProxyHeader(h, pr.In)
	}
	_, err := h.AppendBinary(nil)
	pr.Out = pr.Out.WithContext(context.WithValue(pr.Out.Context(), greetingKey{}, greetingHeader{h, err}))
}

// proxyHeader returns a PROXY header with what is known about the client.
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
		h.TLS = &proxyproto.TLS{Verify: 1} // nothing else is known
	}
	return h
}

// describe adds what is known about the client's TLS to h. The peer must be the client itself, or
// the sender of the PROXY header first. If that sender has terminated the client's TLS, first
// describes the client's TLS, and state only the connection from the sender.
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

// destination returns the address that the client connected to. It is the address of the server's
// listener, or the one in the PROXY header that the proxy got. If it is not known, destination
// returns the unspecified address of the client's family.
func destination(r *http.Request, client netip.Addr) net.Addr {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return local
	}
	if client.Is4() {
		return &net.TCPAddr{IP: net.IPv4zero}
	}
	return &net.TCPAddr{IP: net.IPv6unspecified}
}
