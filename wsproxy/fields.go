package wsproxy

import (
	"log/slog"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// fields are a request's header, in memory that is used for one request after the other.
// ReverseProxy clones the header of a request, and adds that of a response to the client's line by
// line. Where it has nothing to decide about one it is not shown any: the walk copies the request's
// into fields of its own, and moves the response's.
type fields struct {
	lines  http.Header
	values []string // of all lines
}

const (
	maxKeptFields = 64
	maxKeptValues = 128
)

// reuse makes empty fields of old ones.
func (f fields) reuse() fields {
	if len(f.lines) > maxKeptFields || cap(f.values) > maxKeptValues {
		return fields{}
	}
	clear(f.lines)
	clear(f.values)
	return fields{f.lines, f.values[:0]}
}

// copyFrom makes copies of the fields that ReverseProxy would leave in a request before Rewrite.
func (f *fields) copyFrom(h http.Header) {
	if f.lines == nil {
		f.lines = make(http.Header)
	}
	f.values = slices.Grow(f.values, len(h))
	for name, values := range h {
		switch name {
		case "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
			continue
		}
		if !isHopByHop(name) {
			n := len(f.values)
			f.values = append(f.values, values...)
			f.lines[name] = slices.Clip(f.values[n:])
		}
	}
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

// mergeHeader adds the fields of a response to those of middleware, as ReverseProxy would.
func mergeHeader(from, to http.Header) {
	for name, values := range from {
		if len(values) == 0 {
			continue
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if before := to[name]; len(before) > 0 {
			values = append(slices.Clip(before), values...)
		}
		to[name] = values
	}
}

// hasPlainConnection reports whether the fields that concern this connection alone are those of [isHopByHop].
// Else Connection names some, or there may be a switch of protocols or trailers to negotiate, and
// ReverseProxy has to see that.
func hasPlainConnection(h http.Header) bool {
	c := h["Connection"]
	return (len(c) == 0 || len(c) == 1 && strings.EqualFold(c[0], "keep-alive")) && len(h["Te"]) == 0
}

// maxCookieLine is the longest header line that most servers accept, in bytes. Many accept only 8
// KiB.
const maxCookieLine = 16 << 10

// warnOfCookies logs once that a request has more cookies than most targets accept.
func (k *walk) warnOfCookies(lines []string) {
	for _, line := range lines {
		if len(line) > maxCookieLine && k.rt.warnedOfCookies.CompareAndSwap(false, true) {
			k.rt.log.LogAttrs(k.in.Context(), slog.LevelWarn, "cookies are too large for most targets",
				slog.Int("bytes", len(line)), slog.String("host", k.in.Host), slog.String("path", k.in.URL.Path),
				slog.String("reason", "most servers refuse a Cookie line over 8 or 16 KiB with 400 or 431, until the client "+
					"loses cookies; this is said once"))
		}
	}
}

// isHopByHop reports whether a field concerns its connection alone, whatever Connection says (RFC
// 9110 section 7.6.1). ReverseProxy knows the same ones.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// mayTrail reports whether a field may pass in a trailer section, in either direction. Framing,
// routing, authentication, content and forwarding fields belong to the header section (RFC 9110
// section 6.5.1), where our rules for them apply. Cookies belong there too: no client takes one
// from a trailer. Fields that the message names in Connection do not pass either. The name is
// judged as CGI would read it.
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

// tokens are the elements of a comma-separated header, over all its lines, letter case kept.
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

// upgradeToken is the one protocol that a request or response names in Upgrade, lower case; empty
// when it names none or several.
func upgradeToken(h http.Header) string {
	all := slices.Collect(tokens(h["Upgrade"]))
	if len(all) != 1 || !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") {
		return ""
	}
	return strings.ToLower(all[0])
}
