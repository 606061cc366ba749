package cookie

import (
	"net/http"
	"strings"
)

// AddHAProxyPrefix returns the application's value as a client has it under HAProxy's
// "cookie NAME prefix": the server's value, a tilde, and the application's.
func AddHAProxyPrefix(server, value string) string { return server + "~" + value }

// CutHAProxyPrefix splits a client's value at the first tilde. Without one, HAProxy takes
// all of it both for the server and for what the application gets.
func CutHAProxyPrefix(value string) (server, rest string) {
	server, rest, found := strings.Cut(value, "~")
	if !found {
		return value, value
	}
	return server, rest
}

// StripHAProxyPrefix removes the prefix from a request's cookies of that name, so that
// the application sees the values it has set: everything up to the first tilde, whatever
// it is. Quotes that a client put around the whole value stay around the rest, unless that
// has its own. All else stays byte for byte, and the slice of lines is replaced, not
// edited, as by [Remove].
func StripHAProxyPrefix(h http.Header, name string) {
	lines := h["Cookie"]
	var stripped []string
	for i, line := range lines {
		s := stripLine(line, name)
		if s != line && stripped == nil {
			stripped = append(make([]string, 0, len(lines)), lines[:i]...)
		}
		if stripped != nil {
			stripped = append(stripped, s)
		}
	}
	if stripped != nil {
		h["Cookie"] = stripped
	}
}

// stripLine removes the prefix from the cookies of that name in a Cookie line.
func stripLine(line, name string) string {
	var b strings.Builder
	versioned := isVersioned(line)
	kept := 0 // up to where line is in b, prefixes left out
	for at, more := 0, true; more; {
		var segment string
		segment, _, more = cutCookie(line[at:], versioned)
		n, value := cutPair(segment)
		if n == name && strings.IndexByte(value, '~') >= 0 && !(versioned && isAttribute(n, value)) {
			sign := strings.IndexByte(segment, '=') // -1 in a nameless cookie
			begin := at + sign + 1 + strings.Index(segment[sign+1:], value)
			b.WriteString(line[kept:begin])
			b.WriteString(stripValue(value))
			kept = begin + len(value)
		}
		at += len(segment) + 1
	}
	if kept == 0 {
		return line
	}
	b.WriteString(line[kept:])
	return b.String()
}

// stripValue returns a value that has a tilde without its prefix.
func stripValue(value string) string {
	inner := Unquote(value)
	_, rest := CutHAProxyPrefix(inner)
	if inner == value || Unquote(rest) != rest {
		return rest
	}
	return `"` + rest + `"`
}

// CutRoute splits a session ID such as "0123ABCD.jvm1" at its first dot, as Apache's
// balancers do. The route is what application servers call jvmRoute. ok is false if there
// is none.
func CutRoute(id string) (session, route string, ok bool) {
	session, route, _ = strings.Cut(id, ".")
	return session, route, route != ""
}

// PathParam returns the value of a path parameter, such as the session ID in
// "/app/page;jsessionid=0123ABCD.jvm1", where servlet containers put it for clients
// without cookies. The path is one as it was sent ([net/url.URL.EscapedPath]), without
// the query; nothing is unescaped, and names are compared exactly. Parameters may stand in any
// segment; of several the first one counts. Without a "=", there is no value.
func PathParam(path, name string) (value string, ok bool) {
	for {
		_, rest, found := strings.Cut(path, ";")
		if !found {
			return "", false
		}
		param := rest
		if end := strings.IndexAny(rest, ";/"); end >= 0 {
			param = rest[:end]
		}
		path = rest[len(param):]
		if n, value, ok := strings.Cut(param, "="); ok && n == name {
			return value, true
		}
	}
}
