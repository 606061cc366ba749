package health

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// newRequest returns a GET request for a path, which may have a query, below the path of the
// target's URL.
func newRequest(t balancer.Target, path, host string, header http.Header) *http.Request {
	u := *t.URL
	path, u.RawQuery, u.ForceQuery = strings.Cut(path, "?")
	u.RawPath = strings.TrimSuffix(u.EscapedPath(), "/") + cmp.Or(path, "/")
	u.Path, _ = url.PathUnescape(u.RawPath)
	h := http.Header{"User-Agent": {"stickylb-health"}}
	for name, values := range header {
		h[http.CanonicalHeaderKey(name)] = values
	}
	h.Del("Connection")
	return &http.Request{URL: &u, Host: host, Header: h}
}

// validateRequest returns an error if newRequest's request could not be sent.
func validateRequest(check, path, host string, header http.Header) error {
	if path != "" && !sentAsWritten(path) {
		return fmt.Errorf("health: %s check: path %q cannot be requested; does it lack a slash or an escape?", check, path)
	}
	if u, err := url.Parse("http://" + host); err != nil || u.Host != host {
		return fmt.Errorf("health: %s check: host %q cannot be sent", check, host)
	}
	for name, values := range header {
		if !isToken(name) || slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, isControl) }) {
			return fmt.Errorf("health: %s check: header field %q cannot be sent", check, name)
		}
	}
	return nil
}

// sentAsWritten reports whether path, with its query, can be in a request without further escapes.
func sentAsWritten(path string) bool {
	if strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return false
	}
	u, err := url.ParseRequestURI(path)
	return err == nil && path[0] == '/' && u.RequestURI() == path
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		return !letter && !digit && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	})
}

// hasToken reports whether the comma-separated lists in values contain the token, in any case.
func hasToken(values []string, token string) bool {
	for _, list := range values {
		for item := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.Trim(item, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// isControl reports whether c cannot stand in a header field's value, RFC 9110 section 5.5.
func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
