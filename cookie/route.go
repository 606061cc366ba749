package cookie

import (
	"net/http"
	"strings"
)

// AddHAProxyPrefix returns the value that HAProxy's "cookie NAME prefix" sends to clients: the
// server's value, a tilde, and the application's value.
func AddHAProxyPrefix(server, value string) string { return server + "~" + value }

// CutHAProxyPrefix splits a client's value at the first tilde. It returns a value without a tilde
// as both results, because HAProxy uses it both as the server's and as the application's value.
func CutHAProxyPrefix(value string) (server, rest string) {
	server, rest, found := strings.Cut(value, "~")
	if !found {
		return value, value
	}
	return server, rest
}

// StripHAProxyPrefix removes the prefix from a request's cookies of that name, so that the
// application sees the values that it has set. The prefix is everything up to and including the
// first tilde; it need not be a known value. Quotes that a client put around the whole value are
// kept, unless the application's value has quotes of its own. Nothing else changes in any byte.
// Like [Remove], StripHAProxyPrefix replaces the slice of lines and does not edit it.
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
	kept := 0 // line[:kept] was written to b, without prefixes
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

// stripValue returns value, which has a tilde, without its prefix.
func stripValue(value string) string {
	inner := Unquote(value)
	_, rest := CutHAProxyPrefix(inner)
	if inner == value || Unquote(rest) != rest {
		return rest
	}
	return `"` + rest + `"`
}

// CutRoute splits a session ID such as "0123ABCD.jvm1" at its first dot, as Apache's balancers do.
// Application servers call the route jvmRoute. ok reports whether the ID has a route.
func CutRoute(id string) (session, route string, ok bool) {
	session, route, _ = strings.Cut(id, ".")
	return session, route, route != ""
}

// PathParam returns the value of a path parameter. Servlet containers put the session ID of clients
// without cookies there, as in "/app/page;jsessionid=0123ABCD.jvm1". path is the escaped path
// ([net/url.URL.EscapedPath]) without the query. Nothing is unescaped, and names are compared
// exactly. The parameter may be in any segment. If it occurs several times, the first one with a
// "=" counts.
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
