package wsproxy

import (
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// A ForwardedMode says what becomes of the forwarding headers of a trusted peer. Those of any other peer are dropped
// in every mode.
type ForwardedMode uint8

const (
	// ForwardedAppend adds the peer's address to X-Forwarded-For and sets X-Forwarded-Proto, -Host and -Port where
	// they are absent; the port only together with another one, since ours may not be the one that the client used.
	ForwardedAppend ForwardedMode = iota
	// ForwardedPreserve passes what a trusted peer sent and adds nothing.
	ForwardedPreserve
	// ForwardedRemove lets none through and adds none.
	ForwardedRemove
)

// forwardingHeaders are the headers by which proxies tell each other about the client and its request, besides all that
// begin with X-Forwarded. They are told with underscores as well: CGI and its heirs cannot tell the two apart.
var forwardingHeaders = map[string]bool{
	"Cf-Connecting-Ip":         true,
	"Cf-Connecting-Ipv6":       true,
	"Client-Ip":                true,
	"Fastly-Client-Ip":         true,
	"Forwarded":                true,
	"Front-End-Https":          true,
	"Proxy-Client-Ip":          true,
	"True-Client-Ip":           true,
	"Wl-Proxy-Client-Ip":       true,
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
	if strings.IndexByte(name, '_') >= 0 {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
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

// believed is the request without the forwarding headers that are not believed: all of an untrusted peer's, and those
// that are written with an underscore, which trusted peers pass on unseen. That is what policies, pickers, hooks and
// backends get.
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
	return isForwarding(name) && (!trusted || strings.IndexByte(name, '_') >= 0)
}

// isProtected reports whether a client may not name the header in Connection and so have it removed: what the backend
// decides by.
func isProtected(name string) bool {
	switch name {
	case "Authorization", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Host", "Origin", "User-Agent":
		return true
	}
	return strings.HasPrefix(name, "Sec-")
}

// A peer is who is at the other end of the client's connection, and what is believed of what it says.
type peer struct {
	addr    netip.Addr // of the connection; invalid when it has none, such as a Unix socket
	client  netip.Addr // the nearest address that no trusted proxy has
	trusted bool
	tls     bool // the client's connection is TLS, here or at a trusted peer
}

func (p *Proxy) peerOf(r *http.Request) peer {
	var at peer
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		at.addr = a.Addr().Unmap()
	} else if a, err := netip.ParseAddr(r.RemoteAddr); err == nil { // as middleware may have set it
		at.addr = a.Unmap()
	}
	at.trusted = p.trusts(at.addr)
	at.client = at.addr
	at.tls = r.TLS != nil
	if at.trusted {
		at.client = p.clientBehind(at.addr, r.Header)
		proto, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
		if proto = strings.TrimSpace(proto); proto != "" {
			at.tls = strings.EqualFold(proto, "https") || strings.EqualFold(proto, "wss")
		}
	}
	return at
}

func (p *Proxy) trusts(addr netip.Addr) bool {
	addr = addr.WithZone("")
	return slices.ContainsFunc(p.Trusted, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// clientBehind walks X-Forwarded-For from its end, the part that was written nearest to us, to the first address that
// is not trusted. What cannot be read ends the walk: whoever wrote it vouches for nothing before it.
func (p *Proxy) clientBehind(nearest netip.Addr, h http.Header) netip.Addr {
	lines := h["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			var last string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, last = rest[:comma], rest[comma+1:]
			} else {
				last, more = rest, false
			}
			addr, ok := parseForwardedFor(last)
			if !ok {
				return nearest
			}
			if nearest = addr; !p.trusts(addr) {
				return nearest
			}
		}
	}
	return nearest
}

// parseForwardedFor reads an element of X-Forwarded-For. Some proxies add the port, then IPv6 is in brackets.
func parseForwardedFor(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Unmap(), true
	}
	if addr, err := netip.ParseAddrPort(s); err == nil {
		return addr.Addr().Unmap(), true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			addr, err := netip.ParseAddr(inner)
			return addr.Unmap(), err == nil
		}
	}
	return netip.Addr{}, false
}

// forward gives the outgoing request its forwarding headers, out of those that are believed. ReverseProxy has removed
// some of them.
func (p *Proxy) forward(pr *httputil.ProxyRequest, at peer) {
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

// appendForwarded adds what is known here to what trusted peers have told.
func (p *Proxy) appendForwarded(in *http.Request, h http.Header, at peer) {
	values := make([]string, 0, 5)
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	setAbsent := func(name, value string) {
		if len(h[name]) == 0 && value != "" {
			set(name, value)
		}
	}
	if at.addr.IsValid() {
		set("X-Forwarded-For", appendTo(h["X-Forwarded-For"], at.addr.WithZone("").String()))
	}
	if len(h["X-Forwarded-Proto"]) == 0 && len(h["X-Forwarded-Host"]) == 0 { // else it is another listener's port
		setAbsent("X-Forwarded-Port", port(in))
	}
	setAbsent("X-Forwarded-Proto", proto(in))
	setAbsent("X-Forwarded-Host", in.Host)
	if p.RFC7239 {
		set("Forwarded", appendTo(h["Forwarded"], forwardedElement(in, at.addr)))
	}
}

// appendTo adds an element to a list header, and makes one line of it.
func appendTo(lines []string, element string) string {
	if len(lines) == 0 {
		return element
	}
	return strings.Join(lines, ", ") + ", " + element
}

func proto(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// port is the one that the client connected to, which the server knows better than the Host header does.
func port(r *http.Request) string {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return strconv.Itoa(local.Port)
	}
	if p := (&url.URL{Host: r.Host}).Port(); p != "" {
		return p
	}
	if r.TLS != nil {
		return "443"
	}
	return "80"
}

// forwardedElement is our element of RFC 7239 section 4. IPv6 stands in brackets, and whatever is not a token in
// quotes.
func forwardedElement(r *http.Request, addr netip.Addr) string {
	node := "unknown"
	if addr = addr.WithZone(""); addr.Is6() {
		node = `"[` + addr.String() + `]"`
	} else if addr.IsValid() {
		node = addr.String()
	}
	element := "for=" + node + ";proto=" + proto(r)
	if r.Host != "" {
		element += ";host=" + quoteForwarded(r.Host)
	}
	return element
}

// quoteForwarded writes a value as a token, or as a quoted-string of RFC 9110 section 5.6.4.
func quoteForwarded(s string) string {
	if httpguts.ValidHeaderFieldName(s) { // a token too
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
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
