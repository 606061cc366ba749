package wsproxy

import (
	"net/url"
	"strings"
)

// join points a request's URL at the target: its scheme and host, and its path in front. Path bytes
// stay as sent.
func join(u, target *url.URL) {
	u.Scheme, u.Host = target.Scheme, target.Host
	if u.Scheme == "h2c" {
		u.Scheme = "http" // which transport has it says the rest
	}
	if u.Path == "*" {
		return
	}
	if u.Path != "" && u.Path[0] != '/' { // http.StripPrefix took it
		u.Path = "/" + u.Path
		if u.RawPath != "" {
			u.RawPath = "/" + u.RawPath
		}
	}
	prefix, escaped := target.Path, target.EscapedPath()
	if strings.HasSuffix(escaped, "/") { // not an escaped one: that is part of a name
		prefix, escaped = prefix[:len(prefix)-1], escaped[:len(escaped)-1]
	}
	if prefix == "" {
		return
	}
	if target.RawPath != "" || u.RawPath != "" {
		u.RawPath = escaped + sentPath(u)
	}
	u.Path = prefix + u.Path
}

// sentPath is the path as it came in, bytes that RFC 3986 does not allow in it included:
// EscapedPath would escape them. One that could not stand in a request line, or that does not
// belong to u.Path any more, is escaped.
func sentPath(u *url.URL) string {
	raw := escapeHash(u.RawPath)
	path, err := url.PathUnescape(raw)
	if err != nil || path != u.Path || strings.ContainsFunc(raw, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return u.EscapedPath()
	}
	return raw
}

// escapeHash escapes every "#". A request target has no fragment (RFC 9112 section 3.2). net/http
// treats "#" as an ordinary byte, but some servers end the path there: to them /secret# is /secret,
// and a guard on /secret in front of us has not seen it.
func escapeHash(s string) string { return strings.ReplaceAll(s, "#", "%23") }

// prepareURL prepares the URL of an attempt for its transport, after all hooks have run. opaque
// says whether the transport sends a URL's Opaque as the path.
func prepareURL(u *url.URL, opaque bool) {
	u.RawQuery, u.Opaque = escapeHash(u.RawQuery), escapeHash(u.Opaque)
	if opaque && u.RawPath != "" {
		keepPath(u)
	}
}

// copyIfReplaced returns a URL that may be changed: before itself, or a copy of the URL that a hook
// has put in its place. The hook's caller may use that one at the same time.
func copyIfReplaced(u, before *url.URL) *url.URL {
	if u == before {
		return u
	}
	c := *u
	return &c
}

// keepPath has http.Transport send the path as it came in. What begins with two slashes it would
// take for a host.
func keepPath(u *url.URL) {
	if path := sentPath(u); path != u.EscapedPath() && !strings.HasPrefix(path, "//") {
		u.Opaque = path
	}
}
