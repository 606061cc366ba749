package wsproxy

import (
	"maps"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"unicode/utf8"
)

// IsForwardingHeader reports whether name, in any case, is a header by which proxies tell each
// other about the client and its request. A [Proxy] drops these headers when they come from a peer
// that is not in [Proxy.Trusted]. They are all that begin with X-Forwarded, and these:
//
//   - Cf-Connecting-Ip, Cf-Connecting-Ipv6, Client-Ip
//   - Fastly-Client-Ip, Fly-Client-Ip, Forwarded, Forwarded-For, Front-End-Https
//   - Proxy (CGI programs take it for HTTP_PROXY, CVE-2016-5385), Proxy-Client-Ip
//   - True-Client-Ip, Wl-Proxy-Client-Ip
//   - X-Appengine-User-Ip, X-Azure-Clientip, X-Azure-Socketip
//   - X-Client-Ip, X-Cluster-Client-Ip, X-Envoy-External-Address
//   - X-Host, X-Original-Forwarded-For, X-Original-Host, X-Original-Proto, X-Original-Url
//   - X-Originating-Ip, X-Proxyuser-Ip, X-Real-Ip, X-Remote-Addr, X-Remote-Ip, X-Rewrite-Url
//   - X-Scheme, X-Url-Scheme
func IsForwardingHeader(name string) bool { return isForwarding(http.CanonicalHeaderKey(name)) }

// forwardingHeaders are the names of IsForwardingHeader that do not begin with X-Forwarded.
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

// isForwarding is IsForwardingHeader for a canonical name.
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

// isProtected reports whether a header passes even if the client names it in Connection. Targets
// make decisions by these.
func isProtected(name string) bool {
	switch name {
	case "Authorization", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Host", "Origin", "User-Agent":
		return true
	}
	return strings.HasPrefix(name, "Sec-")
}

// isDisguised reports whether CGI programs and the like would take a name for that of a protected,
// a forwarding or a hop-by-hop header, although it is a different name. To them X_Forwarded_For and
// X.Forwarded.For are X-Forwarded-For, and Transfer_Encoding is Transfer-Encoding.
func isDisguised(name string) bool {
	for i := range len(name) {
		if c := name[i]; c != '-' && !isAlphanumeric(c) {
			folded := foldName(name)
			return isForwarding(folded) || isProtected(folded) || isHopByHop(folded) || folded == "Http2-Settings"
		}
	}
	return false
}

// foldName returns the name in canonical form, with a hyphen in the place of everything but letters
// and digits. To CGI programs and the like, two names with the same result are the same.
func foldName(name string) string {
	return http.CanonicalHeaderKey(strings.Map(func(c rune) rune {
		if c < utf8.RuneSelf && isAlphanumeric(byte(c)) {
			return c
		}
		return '-'
	}, name))
}

// isForged reports whether a header is removed. A disguised name is removed even if a trusted peer
// has sent it, because the peer may not have recognised it.
func isForged(name string, trusted bool) bool {
	return !trusted && isForwarding(name) || isDisguised(name)
}

// believe returns the request without forwarding headers that are not believed, and without
// disguised names. Policies, pickers, hooks and targets see only the result. It returns r itself
// when there is nothing to remove.
func (at *peer) believe(r *http.Request) *http.Request {
	for name := range r.Header {
		if isForged(name, at.trusted) {
			clean := new(http.Request)
			*clean = *r
			clean.Header = r.Header.Clone()
			maps.DeleteFunc(clean.Header, func(name string, _ []string) bool { return isForged(name, at.trusted) })
			at.relayed = true
			return clean
		}
	}
	return r
}

// restoreProtected puts back the protected headers that ReverseProxy has removed because the client
// has named them in Connection.
func restoreProtected(pr *httputil.ProxyRequest) {
	for name := range tokens(pr.In.Header["Connection"]) {
		name = http.CanonicalHeaderKey(name)
		if values := pr.In.Header[name]; isProtected(name) && len(values) > 0 {
			pr.Out.Header[name] = slices.Clone(values)
		}
	}
}
