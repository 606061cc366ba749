package wsproxy

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// isHopByHop reports whether a field is for one connection only, whatever Connection says (RFC 9110
// section 7.6.1). ReverseProxy removes the same fields.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// removeHopByHop removes the hop-by-hop fields and those that Connection names (RFC 9110 section
// 7.6.1).
func removeHopByHop(h http.Header) {
	for name := range tokens(h["Connection"]) {
		h.Del(name)
	}
	for name := range h {
		if isHopByHop(name) {
			delete(h, name)
		}
	}
}

// hasPlainConnection reports whether [isHopByHop] covers all fields that are for this connection
// only. If it does not, Connection names further fields, or a switch of protocols or trailers may
// have to be negotiated. ReverseProxy has to see those headers.
func hasPlainConnection(h http.Header) bool {
	c := h["Connection"]
	return (len(c) == 0 || len(c) == 1 && strings.EqualFold(c[0], "keep-alive")) && len(h["Te"]) == 0
}

// mayTrail reports whether a field may pass in a trailer section, in either direction. Framing,
// routing, authentication, content and forwarding fields belong in the header section (RFC 9110
// section 6.5.1), where the proxy's rules for them apply. So do cookies: no client takes one from a
// trailer. Fields that the message names in Connection do not pass either. The name is judged as a
// CGI program would read it.
func mayTrail(name string, connection []string) bool {
	if !httpguts.ValidHeaderFieldName(name) {
		return false
	}
	name = foldName(name)
	switch name {
	case "Age", "Cookie2", "Date", "Expires", "Http2-Settings", "Location", "Retry-After", "Set-Cookie", "Set-Cookie2", "Vary",
		"Warning":
		return false
	}
	switch {
	case !httpguts.ValidTrailerHeader(name), isHopByHop(name), isForwarding(name), isProtected(name):
		return false
	case strings.HasPrefix(name, "Content-") && name != "Content-Digest": // RFC 9530 section 2
		return false
	}
	for token := range tokens(connection) {
		if foldName(token) == name {
			return false
		}
	}
	return true
}

// tokens returns the elements of a comma-separated header, over all its lines. It keeps their case.
func tokens(lines []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for token := range strings.SplitSeq(line, ",") {
				if token = strings.Trim(token, " \t"); token != "" && !yield(token) {
					return
				}
			}
		}
	}
}

// upgradeToken returns the protocol that a request or response names in Upgrade, in lower case. It
// is empty when the message names none or several.
func upgradeToken(h http.Header) string {
	all := slices.Collect(tokens(h["Upgrade"]))
	if len(all) != 1 || !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") {
		return ""
	}
	return strings.ToLower(all[0])
}
