package wsproxy

import (
	"net/url"
	"strings"
)

// join points a request's URL at the target: its scheme and host, and its path in front. Path bytes stay as sent.
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
	prefix := strings.TrimSuffix(target.Path, "/")
	if prefix == "" {
		return
	}
	if target.RawPath != "" || u.RawPath != "" {
		u.RawPath = strings.TrimSuffix(target.EscapedPath(), "/") + sentPath(u)
	}
	u.Path = prefix + u.Path
}

// sentPath is the path as it came in, bytes that RFC 3986 does not allow in it included: EscapedPath would escape them.
// One that could not stand in a request line, or that does not belong to u.Path any more, is escaped.
func sentPath(u *url.URL) string {
	raw := escapeHash(u.RawPath)
	path, err := url.PathUnescape(raw)
	if err != nil || path != u.Path || strings.ContainsFunc(raw, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return u.EscapedPath()
	}
	return raw
}

// escapeHash escapes what begins a fragment, which a request target has not (RFC 9112 section 3.2). net/http takes it for
// a byte like others, some servers for the end of the path: what guards /secret here must not let /secret# reach one of
// those.
func escapeHash(s string) string { return strings.ReplaceAll(s, "#", "%23") }

// settle makes the URL of an attempt ready for its transport, after every hook. opaque says that a URL's Opaque is sent
// as the path.
func settle(u *url.URL, opaque bool) {
	u.RawQuery, u.Opaque = escapeHash(u.RawQuery), escapeHash(u.Opaque)
	if opaque && u.RawPath != "" {
		keepPath(u)
	}
}

// ours returns a URL that is safe to change: a copy if a hook has put one in the place of ours.
func ours(u, before *url.URL) *url.URL {
	if u == before {
		return u
	}
	c := *u
	return &c
}

// keepPath has http.Transport send the path as it came in. What begins with two slashes it would take for a host.
func keepPath(u *url.URL) {
	if path := sentPath(u); path != u.EscapedPath() && !strings.HasPrefix(path, "//") {
		u.Opaque = path
	}
}
