package stickiness

import (
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// maxGroups is how many cookies of the application one response may set or delete for the
// balancer to follow.
const maxGroups = 4

// An appName is the name of the application's cookie, or what it begins with.
type appName struct {
	text   string
	begins bool // any name that begins with text
}

// newAppName reads a name of the options. One that ends in a star stands for all names that
// begin with what is before it, unless it is exact.
func newAppName(name string, exact bool) appName {
	if text, ok := strings.CutSuffix(name, "*"); ok && !exact {
		return appName{text, true}
	}
	return appName{name, false}
}

func (n appName) matches(name string) bool {
	return name == n.text || n.begins && strings.HasPrefix(name, n.text)
}

// values returns the values of the request's cookies of the name.
func (n appName) values(h http.Header) iter.Seq[string] {
	return func(yield func(string) bool) { n.each(h, yield) }
}

// each is apart from values so that the latter is inlined.
func (n appName) each(h http.Header, yield func(value string) bool) {
	if !n.begins {
		cookie.Values(h, n.text)(yield)
		return
	}
	for name, value := range cookie.Pairs(h) {
		if n.matches(name) && !yield(value) {
			return
		}
	}
}

// A place is where a browser keeps a cookie, besides its name (RFC 6265bis, section 5.7).
type place struct {
	domain      string // lower case, without a dot in front; empty: the host alone
	path        string
	partitioned bool
}

// placeOf returns the place of a cookie with these attributes in a response to r.
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

// A group is one cookie of the application that a response sets or deletes, with the line
// that rules for it.
type group struct {
	line    cookie.SetCookie
	place   place
	expires time.Time
	session bool // it ends with the browser's session, and expires is the zero time
	stored  bool // browsers do not refuse the line
	deletes bool
}

// groups returns the cookies of the application that a response sets or deletes, in the
// order of the lines that rule, at most maxGroups of them. Of the lines for one cookie, the
// last one rules that browsers do not refuse. more reports whether there are others, which
// were set or deleted before. A line that heeded does not report is none.
func (n appName) groups(b *Binding, heeded func(raw string) bool) (all []group, more bool) {
	lines := b.Header["Set-Cookie"]
	if !slices.ContainsFunc(lines, n.mayBeIn) {
		return nil, false
	}
	now := time.Now()
	date := b.date()
	for _, raw := range slices.Backward(lines) {
		line, ok := n.set(raw)
		if !ok || !heeded(raw) {
			continue
		}
		g := group{line: line, place: placeOf(b.Request, line.Attributes), stored: line.Check() == nil}
		g.expires, g.session = line.ExpiryDated(now, date)
		g.deletes = !g.session && !g.expires.After(now)
		same := func(o group) bool { return o.line.Name == line.Name && o.place == g.place }
		switch i := slices.IndexFunc(all, same); {
		case i >= 0 && !all[i].stored && g.stored:
			all[i] = g
		case i >= 0:
		case len(all) == maxGroups:
			more = true
		default:
			all = append(all, g)
		}
	}
	slices.Reverse(all)
	return all, more
}

// mayBeIn reports whether a Set-Cookie line can be one for the name.
func (n appName) mayBeIn(raw string) bool {
	return strings.HasPrefix(strings.TrimLeft(raw, " \t"), n.text)
}

// set reads a Set-Cookie line if browsers take it for one of the name.
func (n appName) set(raw string) (cookie.SetCookie, bool) {
	if !n.mayBeIn(raw) {
		return cookie.SetCookie{}, false
	}
	c, err := cookie.ParseSetCookie(raw)
	return c, err == nil && n.matches(c.Name)
}

// defaultPath returns the path of a cookie that has none (RFC 6265, section 5.1.4).
func defaultPath(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 && path[0] == '/' {
		return path[:i]
	}
	return "/"
}

// targetPath returns the path of the request's target as the client has sent it, whatever a
// handler such as that of http.StripPrefix has made of r.URL since.
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
