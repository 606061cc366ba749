package wsproxy

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A peer is the other end of the client's connection, and what is believed of its forwarding
// headers.
type peer struct {
	addr    netip.Addr     // of the connection; invalid when it has none, such as a Unix socket
	client  netip.AddrPort // the nearest that is not trusted; its port is 0 when it is not known
	trusted bool
	relayed bool          // the request had forwarding headers that are not believed, or disguised names
	secure  bool          // the connection is TLS, or its PROXY header says so
	tls     bool          // the client's connection is TLS; differs from secure when a trusted peer says so
	said    forwardedPart // the element of Forwarded about the client's connection
}

// ClientAddr returns the address of the client that sent r. The client is the nearest peer that is
// not in Trusted. Pickers get the same address in balancer.Request.Client, and hooks get it in
// [Record].Client. It is invalid when it is not known. ClientAddr uses only Trusted, TrustUnix and
// RFC7239, and computes the address for each call. Handlers around the proxy may call it, too, and
// all may call it concurrently.
func (p *Proxy) ClientAddr(r *http.Request) netip.Addr { return p.trust().peerOf(r).client.Addr() }

// trust returns the peers whose forwarding headers the proxy believes.
func (p *Proxy) trust() trust { return trust{p.Trusted, p.TrustUnix, p.RFC7239} }

// A trust says which peers are believed, and in which headers. See the fields of Proxy.
type trust struct {
	prefixes []netip.Prefix
	unix     bool
	rfc7239  bool
}

// peerOf returns the peer that sent r.
func (t trust) peerOf(r *http.Request) peer {
	var at peer
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		at.client = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	} else if a, err := netip.ParseAddr(r.RemoteAddr); err == nil { // as middleware may have set it
		at.client = netip.AddrPortFrom(a.Unmap(), 0)
	}
	at.addr = at.client.Addr()
	at.secure = isSecure(r)
	at.tls = at.secure
	if at.trusted = t.trusts(at.addr) || t.unix && !at.addr.IsValid() && isUnix(r); at.trusted {
		t.readForwarding(&at, r.Header)
	}
	return at
}

// isSecure reports whether the connection is TLS. If TLS was terminated before, a PROXY header may
// say so.
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

func (t trust) trusts(addr netip.Addr) bool { return proxyproto.Contains(t.prefixes, addr) }

// readForwarding reads what a trusted peer says about its client. If X-Forwarded-For and Forwarded
// lead to different clients, a client may have written one of them. Then neither is believed, and
// the client is the peer. If X-Forwarded-Proto and the proto of Forwarded differ, the connection is
// not TLS.
func (t trust) readForwarding(at *peer, h http.Header) {
	nearest := at.client
	at.client = t.clientBehind(nearest, h)
	proto, _, _ := strings.Cut(h.Get("X-Forwarded-Proto"), ",")
	if proto = strings.TrimSpace(proto); proto != "" {
		at.tls = isSecureProto(proto)
	}
	if !t.rfc7239 || len(h["Forwarded"]) == 0 {
		return
	}
	client, said := t.clientForwarded(nearest, h["Forwarded"])
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

// clientBehind returns the last address in X-Forwarded-For that is not trusted, or the first one if
// all are. The end of the list was written nearest to this proxy. Empty elements are skipped (RFC
// 9110 section 5.6.1). Nothing before an element that is no address is believed.
func (t trust) clientBehind(nearest netip.AddrPort, h http.Header) netip.AddrPort {
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
			if nearest = addr; !t.trusts(addr.Addr()) {
				return nearest
			}
		}
	}
	return nearest
}

// parseForwardedFor reads an element of X-Forwarded-For. Some proxies add the port. An IPv6 address
// is in brackets then.
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
