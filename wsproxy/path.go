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
	path, err := url.PathUnescape(u.RawPath)
	if err != nil || path != u.Path || strings.ContainsFunc(u.RawPath, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return u.EscapedPath()
	}
	return u.RawPath
}

// keepPath has http.Transport send the path as it came in. What begins with two slashes it would take for a host.
func keepPath(u *url.URL) {
	if path := sentPath(u); path != u.EscapedPath() && !strings.HasPrefix(path, "//") {
		u.Opaque = path
	}
}
