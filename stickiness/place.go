package stickiness

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// A place is where a browser stores a cookie. Two cookies of one name and place are the same (RFC
// 6265bis, section 5.7).
type place struct {
	domain      string // lower case, without a leading dot; empty: the host alone
	path        string
	partitioned bool
}

// placeOf returns the place of a cookie with these attributes that a response to r sets.
func placeOf(r *http.Request, attributes []cookie.Attribute) place {
	c := cookie.SetCookie{Attributes: attributes}
	domain, _ := c.Attribute("Domain")
	path, _ := c.Attribute("Path")
	_, partitioned := c.Attribute("Partitioned")
	domain = strings.ToLower(strings.TrimPrefix(domain, "."))
	if _, err := netip.ParseAddr(domain); err == nil && domainMatches(r.Host, domain) {
		domain = "" // an address has no subdomains
	}
	if !strings.HasPrefix(path, "/") {
		path = defaultPath(targetPath(r))
	}
	return place{domain, path, partitioned}
}

// defaultPath returns the path of a cookie without a Path that a response to a request for path
// sets (RFC 6265, section 5.1.4).
func defaultPath(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 && path[0] == '/' {
		return path[:i]
	}
	return "/"
}

// targetPath returns the path of the request's target as the client sent it. A handler such as that
// of http.StripPrefix may have changed r.URL.
func targetPath(r *http.Request) string {
	path := r.RequestURI
	if path == "" {
		path = r.URL.EscapedPath()
	} else if path[0] != '/' { // the absolute form, or "*"
		_, rest, _ := strings.Cut(path, "://")
		i := strings.IndexAny(rest, "/?#")
		if i < 0 {
			return "/"
		}
		path = rest[i:]
	}
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if path == "" {
		return "/"
	}
	return path
}

// plainPath returns path with underscores in place of "%5F".
func plainPath(path string) string { return strings.ReplaceAll(path, "%5F", "_") }

// pathMatches reports whether browsers send a cookie of the path "of" with a request for path (RFC
// 6265, section 5.1.4).
func pathMatches(path, of string) bool {
	rest, ok := strings.CutPrefix(path, of)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(of, "/"))
}

// domainMatches reports whether browsers send a cookie of that domain with a request for host (RFC
// 6265, section 5.1.3). The host may have a port.
func domainMatches(host, domain string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	rest, ok := strings.CutSuffix(strings.ToLower(host), domain)
	if !ok || rest == "" {
		return ok
	}
	_, err := netip.ParseAddr(host)
	return rest[len(rest)-1] == '.' && err != nil
}
