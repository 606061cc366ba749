package wsproxy

import (
	"cmp"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A ForwardedMode says what becomes of the forwarding headers of a trusted peer. Those of any other
// peer are dropped in every mode.
type ForwardedMode uint8

const (
	// ForwardedAppend adds the peer's address to X-Forwarded-For and sets X-Forwarded-Proto, -Host
	// and -Port where they are absent. A port that is missing beside a Proto or Host of a trusted
	// peer's is that host's, or the one that the scheme implies: ours is not the one that the
	// client used.
	ForwardedAppend ForwardedMode = iota
	// ForwardedPreserve passes what a trusted peer sent and adds nothing.
	ForwardedPreserve
	// ForwardedRemove lets none through and adds none.
	ForwardedRemove
)

// forwardingHeaders are the headers by which proxies tell each other about the client and its
// request, besides all that begin with X-Forwarded. Proxy is among them because CGI programs take
// it for HTTP_PROXY (CVE-2016-5385).
var forwardingHeaders = map[string]bool{
	"Cf-Connecting-Ip":         true,
	"Cf-Connecting-Ipv6":       true,
	"Client-Ip":                true,
	"Fastly-Client-Ip":         true,
	"Fly-Client-Ip":            true,
	"Forwarded":                true,
	"Forwarded-For":            true,
	"Front-End-Https":          true,
	"Proxy":                    true,
	"Proxy-Client-Ip":          true,
	"True-Client-Ip":           true,
	"Wl-Proxy-Client-Ip":       true,
	"X-Appengine-User-Ip":      true,
	"X-Azure-Clientip":         true,
	"X-Azure-Socketip":         true,
	"X-Client-Ip":              true,
	"X-Cluster-Client-Ip":      true,
	"X-Envoy-External-Address": true,
	"X-Host":                   true,
	"X-Original-Forwarded-For": true,
	"X-Original-Host":          true,
	"X-Original-Proto":         true,
	"X-Original-Url":           true,
	"X-Originating-Ip":         true,
	"X-Proxyuser-Ip":           true,
	"X-Real-Ip":                true,
	"X-Remote-Addr":            true,
	"X-Remote-Ip":              true,
	"X-Rewrite-Url":            true,
	"X-Scheme":                 true,
	"X-Url-Scheme":             true,
}

// isForwarding reports whether the header of that canonical name tells about the client.
func isForwarding(name string) bool {
	if name == "" {
		return false
	}
	switch name[0] {
	case 'X':
		return strings.HasPrefix(name, "X-Forwarded") || forwardingHeaders[name]
	case 'C', 'F', 'P', 'T', 'W':
		return forwardingHeaders[name]
	}
	return false
}

// believed returns the request without the forwarding headers of an untrusted peer, and without
// disguised names, which trusted peers pass on unseen. Policies, pickers, hooks and backends see
// only the result. It returns r itself when there is nothing to remove.
func believed(r *http.Request, trusted bool) *http.Request {
	for name := range r.Header {
		if isForged(name, trusted) {
			clean := new(http.Request)
			*clean = *r
			clean.Header = r.Header.Clone()
			maps.DeleteFunc(clean.Header, func(name string, _ []string) bool { return isForged(name, trusted) })
			return clean
		}
	}
	return r
}

func isForged(name string, trusted bool) bool {
	return !trusted && isForwarding(name) || isDisguised(name)
}

// isDisguised reports whether CGI programs and the like would read a name as that of a protected, a
// forwarding or a hop-by-hop header. To them X_Forwarded_For and X.Forwarded.For are
// X-Forwarded-For, and Transfer_Encoding is Transfer-Encoding.
func isDisguised(name string) bool {
	for i := range len(name) {
		if c := name[i]; c != '-' && !isAlphanumeric(c) {
			folded := foldName(name)
			return isForwarding(folded) || isProtected(folded) || isHopByHop(folded) || folded == "Http2-Settings"
		}
	}
	return false
}

// foldName returns the name with a hyphen for everything but letters and digits, in canonical form.
// CGI programs and the like cannot tell names apart that are folded alike.
func foldName(name string) string {
	return http.CanonicalHeaderKey(strings.Map(func(c rune) rune {
		if c < utf8.RuneSelf && isAlphanumeric(byte(c)) {
			return c
		}
		return '-'
	}, name))
}

// isProtected reports whether a client may not name the header in Connection and so have it
// removed: what the backend decides by.
func isProtected(name string) bool {
	switch name {
	case "Authorization", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Host", "Origin", "User-Agent":
		return true
	}
	return strings.HasPrefix(name, "Sec-")
}

// A peer is who is at the other end of the client's connection, and what is believed of what it
// says.
type peer struct {
	addr    netip.Addr     // of the connection; invalid when it has none, such as a Unix socket
	client  netip.AddrPort // the nearest that no trusted proxy has; without its port, which is 0 then, if nobody told it
	trusted bool
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

// forward gives the outgoing request its forwarding headers, out of those that are believed.
// ReverseProxy has removed some of them.
func (p *Proxy) forward(pr *httputil.ProxyRequest, at *peer) {
	if p.Forwarded == ForwardedRemove {
		maps.DeleteFunc(pr.Out.Header, func(name string, _ []string) bool { return isForwarding(name) })
		return
	}
	if at.trusted {
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
			if values := pr.In.Header[name]; len(values) > 0 {
				pr.Out.Header[name] = slices.Clone(values)
			}
		}
		for name := range tokens(pr.In.Header["Connection"]) {
			if name = http.CanonicalHeaderKey(name); isForwarding(name) && len(pr.In.Header[name]) > 0 {
				pr.Out.Header[name] = slices.Clone(pr.In.Header[name])
			}
		}
	}
	if p.Forwarded == ForwardedAppend {
		p.appendForwarded(pr.In, pr.Out.Header, at)
	}
}

// appendForwarded adds what is known here to what trusted peers have told. What they have told in
// one of the two families of headers alone goes into the other as well: whoever comes next shall
// not find that they disagree.
func (p *Proxy) appendForwarded(in *http.Request, h http.Header, at *peer) {
	values := make([]string, 0, 4)
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	setAbsent := func(name, value string) {
		if len(h[name]) == 0 && value != "" {
			set(name, value)
		}
	}
	behind := at.client.Addr() != at.addr
	if p.RFC7239 {
		lines := h["Forwarded"]
		if behind && len(lines) == 0 {
			lines = []string{"for=" + formatNode(at.client.Addr()) + ";proto=" + protoOf(at.tls)}
		}
		h["Forwarded"] = appendForwardedElement(lines, forwardedElement(in.Host, at))
	}
	if at.addr.IsValid() {
		lines := h["X-Forwarded-For"]
		if behind && len(lines) == 0 {
			lines = []string{at.client.Addr().String()}
		}
		set("X-Forwarded-For", appendTo(lines, at.addr.WithZone("").String()))
	} else if behind { // a Unix socket has no address
		setAbsent("X-Forwarded-For", at.client.Addr().String())
	}
	told := len(h["X-Forwarded-Proto"]) > 0 || len(h["X-Forwarded-Host"]) > 0 || at.said.proto != "" || at.said.host != ""
	setAbsent("X-Forwarded-Proto", protoOf(at.tls))
	setAbsent("X-Forwarded-Host", cmp.Or(at.said.host, in.Host))
	if told {
		setAbsent("X-Forwarded-Port", portTold(h))
	} else {
		setAbsent("X-Forwarded-Port", port(in, at.secure))
	}
}

// appendTo returns the lines of a list header and an element as one line, without empty elements
// where two lines meet.
func appendTo(lines []string, element string) string {
	list := element
	for _, line := range slices.Backward(lines) {
		if line = strings.Trim(line, ", \t"); line != "" {
			list = line + ", " + list
		}
	}
	return list
}

func protoOf(secure bool) string {
	if secure {
		return "https"
	}
	return "http"
}

// port is the one that the client connected to, which the server knows better than the Host header
// does.
func port(r *http.Request, secure bool) string {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return strconv.Itoa(local.Port)
	}
	if p := (&url.URL{Host: r.Host}).Port(); p != "" {
		return p
	}
	return portOf(protoOf(secure))
}

// portTold is the port of a listener that a trusted peer tells of: ours is not the one that the
// client used. It is that of the host that the client asked for, which has none where the scheme
// implies it.
func portTold(h http.Header) string {
	host, _, _ := strings.Cut(h.Get("X-Forwarded-Host"), ",")
	if p := (&url.URL{Host: strings.TrimSpace(host)}).Port(); p != "" {
		return p
	}
	proto, _, _ := strings.Cut(h.Get("X-Forwarded-Proto"), ",")
	return portOf(strings.TrimSpace(proto))
}

// portOf is the port that a scheme implies; empty when it is none of ours.
func portOf(proto string) string {
	switch {
	case isSecureProto(proto):
		return "443"
	case strings.EqualFold(proto, "http"), strings.EqualFold(proto, "ws"):
		return "80"
	}
	return ""
}

// restoreProtected puts back what the client had removed by naming it in Connection.
func restoreProtected(pr *httputil.ProxyRequest) {
	for name := range tokens(pr.In.Header["Connection"]) {
		name = http.CanonicalHeaderKey(name)
		if values := pr.In.Header[name]; isProtected(name) && len(values) > 0 {
			pr.Out.Header[name] = slices.Clone(values)
		}
	}
}
