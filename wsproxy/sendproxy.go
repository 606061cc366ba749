package wsproxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// SendProxy has each connection to a target begin with a PROXY header (package proxyproto) that tells the client's
// address as [Proxy.ClientAddr] has it, with the port 0 where nobody knows it. The zero value sends none.
//
// A header belongs to one client, so a connection carries one request or one upgrade then, over HTTP/1.1, and is never
// kept for another. Every target of the pool has to expect the header, and so do the health checks: give them the
// DialContext of a proxyproto.Dialer as Dial.
type SendProxy struct {
	// Version is that of the header, 1 or 2. Zero means that there is none.
	Version int

	// Header may change the header of a request before it is written, set its UniqueID for example. What is known of
	// the client's connection is in it: the addresses, with version 2 also ALPN, server name and TLS version, and the
	// unique ID of a PROXY header that the client's connection had itself. Nil changes nothing. Attempts of one
	// request have one header. r is to be read only.
	Header func(r *http.Request, h *proxyproto.Header)
}

// check panics where the transport cannot send the header.
func (s *SendProxy) check(given http.RoundTripper) {
	if s.Version == 0 {
		return
	}
	if s.Version < 0 || s.Version > 2 {
		panic("wsproxy: SendProxy.Version is not 0, 1 or 2")
	}
	if given == nil {
		return
	}
	if t, ok := given.(*http.Transport); !ok || t.Proxy != nil || t.DialTLSContext != nil || dialsAsOnce(t) {
		panic("wsproxy: SendProxy needs a Transport that is nil, or an *http.Transport without Proxy and DialTLSContext")
	}
}

// dialsAsOnce reports whether the transport has a dialer that knows no context.
func dialsAsOnce(t *http.Transport) bool {
	//lint:ignore SA1019 callers may set them all the same
	return t.Dial != nil || t.DialTLS != nil
}

// transports are those of a Proxy that sends the header. All attempts, upgrades or not, run on one.
func (s *SendProxy) transports(given http.RoundTripper, conf *tls.Config) transports {
	var t *http.Transport
	if base, ok := given.(*http.Transport); ok {
		t = onlyHTTP1(base)
		if t.DialContext == nil {
			t.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext
		}
		t.DialContext = greeting(t.DialContext)
	} else {
		t = newTransport(conf, "http/1.1")
		t.DialContext = greeting(t.DialContext)
		t.DialTLSContext = tlsDialer(t.DialContext, conf, []string{"http/1.1"})
	}
	t.DisableKeepAlives = true
	return transports{plain: t, upgrade: t, owned: true, opaque: true, known: true}
}

type greetingKey struct{}

// A greetingHeader is what a connection begins with, or why that cannot be written.
type greetingHeader struct {
	header *proxyproto.Header
	err    error
}

// greeting dials and writes the header that the context has. It is the context of the request that the connection is
// for: without keep-alive no other request gets it.
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
func (s *SendProxy) greet(pr *httputil.ProxyRequest, at *peer) {
	h := s.header(pr.In, at)
	if s.Header != nil {
		s.Header(pr.In, h)
	}
	_, err := h.AppendBinary(nil)
	pr.Out = pr.Out.WithContext(context.WithValue(pr.Out.Context(), greetingKey{}, greetingHeader{h, err}))
}

// header tells of the client what is known.
func (s *SendProxy) header(r *http.Request, at *peer) *proxyproto.Header {
	h := &proxyproto.Header{Version: s.Version, Checksum: true}
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

// describe tells of a client that nobody is in front of but, if there is a first header, who sent that. A proxy that
// has ended the client's TLS knows more about it than our own connection, which is the proxy's then.
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

// destination is what the client connected to: the address of the server's listener, or the one that a PROXY header
// has told. Where it has none the header says so in the client's family.
func destination(r *http.Request, client netip.Addr) net.Addr {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return local
	}
	if client.Is4() {
		return &net.TCPAddr{IP: net.IPv4zero}
	}
	return &net.TCPAddr{IP: net.IPv6unspecified}
}
