package wsproxy

import (
	"net/url"
	"strings"
)

// join gives a request's URL the target's scheme and host, and puts the target's path before its
// own. The bytes of the path stay as they were sent.
func join(u, target *url.URL) {
	u.Scheme, u.Host = target.Scheme, target.Host
	if u.Scheme == "h2c" {
		u.Scheme = "http" // the transport for h2c expects it so
	}
	if u.Path == "*" {
		return
	}
	if u.Path != "" && u.Path[0] != '/' { // http.StripPrefix has removed the slash
		u.Path = "/" + u.Path
		if u.RawPath != "" {
			u.RawPath = "/" + u.RawPath
		}
	}
	prefix, escaped := target.Path, target.EscapedPath()
	if strings.HasSuffix(escaped, "/") { // an escaped slash is a part of a name, and stays
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

// sentPath returns the path as it was sent, with bytes that RFC 3986 does not allow and that
// EscapedPath would escape. It returns EscapedPath if the path as sent is not valid in a request
// line, or if a hook has changed u.Path.
func sentPath(u *url.URL) string {
	raw := escapeHash(u.RawPath)
	path, err := url.PathUnescape(raw)
	if err != nil || path != u.Path || strings.ContainsFunc(raw, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return u.EscapedPath()
	}
	return raw
}

// escapeHash escapes every "#". A request target has no fragment (RFC 9112 section 3.2). net/http
// treats "#" as an ordinary byte, but some servers end the path there. To them /secret# is /secret,
// which a guard in front of the proxy may have meant to refuse.
func escapeHash(s string) string { return strings.ReplaceAll(s, "#", "%23") }

// prepareURL prepares the URL of an attempt for its transport, after all hooks have run. opaque
// reports whether the transport sends a URL's Opaque as the path.
func prepareURL(u *url.URL, opaque bool) {
	u.RawQuery, u.Opaque = escapeHash(u.RawQuery), escapeHash(u.Opaque)
	if opaque && u.RawPath != "" {
		keepPath(u)
	}
}

// copyIfReplaced returns a URL that may be changed. It is u if that is still the URL from before a
// hook was called. Otherwise it is a copy of u, which the hook may use elsewhere at the same time.
func copyIfReplaced(u, before *url.URL) *url.URL {
	if u == before {
		return u
	}
	c := *u
	return &c
}

// keepPath makes http.Transport send the path as it was sent to the proxy, unless it begins with
// two slashes: http.Transport would take the rest for a host.
func keepPath(u *url.URL) {
	if path := sentPath(u); path != u.EscapedPath() && !strings.HasPrefix(path, "//") {
		u.Opaque = path
	}
}
