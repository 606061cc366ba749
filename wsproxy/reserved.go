package wsproxy

import (
	"maps"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"unicode/utf8"
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

// isProtected reports whether a client may not name the header in Connection and so have it
// removed: what the backend decides by.
func isProtected(name string) bool {
	switch name {
	case "Authorization", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Host", "Origin", "User-Agent":
		return true
	}
	return strings.HasPrefix(name, "Sec-")
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

func isForged(name string, trusted bool) bool {
	return !trusted && isForwarding(name) || isDisguised(name)
}

// believe returns the request without the forwarding headers of an untrusted peer, and without
// disguised names, which trusted peers pass on unseen. Policies, pickers, hooks and backends see
// only the result. It returns r itself when there is nothing to remove.
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

// restoreProtected puts back what the client had removed by naming it in Connection.
func restoreProtected(pr *httputil.ProxyRequest) {
	for name := range tokens(pr.In.Header["Connection"]) {
		name = http.CanonicalHeaderKey(name)
		if values := pr.In.Header[name]; isProtected(name) && len(values) > 0 {
			pr.Out.Header[name] = slices.Clone(values)
		}
	}
}
