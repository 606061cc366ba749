package wsproxy

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A peer is who is at the other end of the client's connection, and what is believed of what it
// says.
type peer struct {
	addr    netip.Addr     // of the connection; invalid when it has none, such as a Unix socket
	client  netip.AddrPort // the nearest that no trusted proxy has; without its port, which is 0 then, if nobody told it
	trusted bool
	relayed bool          // the request had forwarding headers that are not believed, or disguised names
	secure  bool          // the connection is TLS, here or at the proxy that sent a PROXY header on it
	tls     bool          // the client's connection is TLS: this one, or the one that a trusted peer tells of
	said    forwardedPart // what Forwarded says of that connection
}

// ClientAddr is the address of the client that sent r: that of the nearest peer that is not in
// Trusted, as a picker gets it in balancer.Request.Client and a hook in [Record.Client]. It is
// invalid when it is not known. Handlers around the proxy may ask as well as its own hooks and
// policies; it needs nothing but Trusted and RFC7239, is computed for each call, and may be called
// concurrently.
func (p *Proxy) ClientAddr(r *http.Request) netip.Addr { return p.peerOf(r).client.Addr() }

func (p *Proxy) peerOf(r *http.Request) peer {
	var at peer
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		at.client = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	} else if a, err := netip.ParseAddr(r.RemoteAddr); err == nil { // as middleware may have set it
		at.client = netip.AddrPortFrom(a.Unmap(), 0)
	}
	at.addr = at.client.Addr()
	at.secure = isSecure(r)
	at.tls = at.secure
	if at.trusted = p.trusts(at.addr) || p.TrustUnix && !at.addr.IsValid() && isUnix(r); at.trusted {
		p.listen(&at, r.Header)
	}
	return at
}

// isSecure reports whether the connection is TLS. Where it was terminated, a PROXY header may tell.
func isSecure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	h := proxyproto.FromContext(r.Context())
	return h != nil && h.TLS != nil
}

// isUnix reports whether the server got the request on a Unix socket.
func isUnix(r *http.Request) bool {
	_, ok := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr)
	return ok
}

func (p *Proxy) trusts(addr netip.Addr) bool { return proxyproto.Contains(p.Trusted, addr) }

// listen takes in what a trusted peer says of its client. Where X-Forwarded-For and Forwarded are
// both there and lead to different clients, one of the two was written by somebody who was not
// asked, and none is believed: the client is the peer. The same goes for X-Forwarded-Proto and the
// proto of Forwarded: the connection is not TLS unless both say so.
func (p *Proxy) listen(at *peer, h http.Header) {
	nearest := at.client
	at.client = p.clientBehind(nearest, h)
	proto, _, _ := strings.Cut(h.Get("X-Forwarded-Proto"), ",")
	if proto = strings.TrimSpace(proto); proto != "" {
		at.tls = isSecureProto(proto)
	}
	if !p.RFC7239 || len(h["Forwarded"]) == 0 {
		return
	}
	client, said := p.clientForwarded(nearest, h["Forwarded"])
	if said.proto != "" {
		at.tls = isSecureProto(said.proto) && (proto == "" || at.tls)
	}
	if len(h["X-Forwarded-For"]) == 0 || client.Addr() == at.client.Addr() {
		at.client, at.said = client, said
	} else {
		at.client = nearest
	}
}

func isSecureProto(proto string) bool {
	return strings.EqualFold(proto, "https") || strings.EqualFold(proto, "wss")
}

// clientBehind walks X-Forwarded-For from its end, the part that was written nearest to us, to the
// first address that is not trusted. It skips empty elements (RFC 9110 section 5.6.1). An element
// that cannot be read ends the walk, because nobody vouches for what stands before it.
func (p *Proxy) clientBehind(nearest netip.AddrPort, h http.Header) netip.AddrPort {
	lines := h["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			var last string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, last = rest[:comma], rest[comma+1:]
			} else {
				last, more = rest, false
			}
			if last = strings.Trim(last, " \t"); last == "" {
				continue
			}
			addr, ok := parseForwardedFor(last)
			if !ok {
				return nearest
			}
			if nearest = addr; !p.trusts(addr.Addr()) {
				return nearest
			}
		}
	}
	return nearest
}

// parseForwardedFor reads an element of X-Forwarded-For. Some proxies add the port, then IPv6 is in
// brackets.
func parseForwardedFor(s string) (netip.AddrPort, bool) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), 0), true
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			addr, err := netip.ParseAddr(inner)
			return netip.AddrPortFrom(addr.Unmap(), 0), err == nil
		}
	}
	return netip.AddrPort{}, false
}
