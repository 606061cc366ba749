// Package jar stores cookies as a browser does (RFC 6265bis, section 5.7, with partitions). Tests
// use it as the client of a policy.
//
// It treats every connection as secure and every request as same-site, and knows no public
// suffixes.
package jar

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// A Place is where a cookie is stored. Two cookies of one name and place are the same.
type Place struct {
	Domain      string // lower case, without a leading dot
	HostOnly    bool   // only the host Domain gets the cookie
	Path        string
	Partitioned bool
}

// A Cookie is a cookie in a [Jar].
type Cookie struct {
	Name, Value string
	Place

	expires time.Time // zero: ends with the browser's session
	created int
}

// A Jar stores the cookies of one client. The zero value is empty.
type Jar struct {
	cookies []Cookie
	created int
}

// PlaceOf returns the place of a cookie that a response to r sets, and whether a browser stores it.
func PlaceOf(r *http.Request, c cookie.SetCookie) (p Place, ok bool) {
	host := hostOf(r)
	domain, _ := c.Attribute("Domain")
	p.Domain = strings.ToLower(strings.TrimPrefix(domain, "."))
	if p.Domain != "" && !matchesDomain(host, p.Domain) {
		return Place{}, false
	}
	if p.Domain == "" || isAddr(host) {
		p.Domain, p.HostOnly = host, true
	}
	p.Path, _ = c.Attribute("Path")
	if !strings.HasPrefix(p.Path, "/") {
		p.Path = defaultPath(r.URL.EscapedPath())
	}
	_, p.Partitioned = c.Attribute("Partitioned")
	return p, c.Check() == nil
}

// Receive stores the cookies that a response to r sets, and removes those that it deletes.
func (j *Jar) Receive(r *http.Request, h http.Header) {
	date, _ := http.ParseTime(h.Get("Date")) // the zero time if unreadable
	for _, line := range h["Set-Cookie"] {
		if c, err := cookie.ParseSetCookie(line); err == nil {
			j.set(r, c, date)
		}
	}
}

func (j *Jar) set(r *http.Request, c cookie.SetCookie, date time.Time) {
	place, ok := PlaceOf(r, c)
	if !ok {
		return
	}
	j.created++
	kept := Cookie{Name: c.Name, Value: c.Value, Place: place, created: j.created}
	now := time.Now()
	at, session := c.ExpiryDated(now, date)
	kept.expires = at
	i := slices.IndexFunc(j.cookies, func(o Cookie) bool { return o.Name == c.Name && o.Place == place })
	switch {
	case !session && !at.After(now):
		if i >= 0 {
			j.cookies = slices.Delete(j.cookies, i, i+1)
		}
	case i >= 0:
		kept.created = j.cookies[i].created
		j.cookies[i] = kept
	default:
		j.cookies = append(j.cookies, kept)
	}
}

// All returns the cookies that have not expired.
func (j *Jar) All() []Cookie {
	now := time.Now()
	return slices.DeleteFunc(slices.Clone(j.cookies), func(c Cookie) bool { return c.expired(now) })
}

func (c *Cookie) expired(now time.Time) bool { return !c.expires.IsZero() && !c.expires.After(now) }

// Send returns the cookies that go with r in their order: longer paths first, and among equally
// long paths the oldest cookie first.
func (j *Jar) Send(r *http.Request) []Cookie {
	host, path := hostOf(r), r.URL.EscapedPath()
	var sent []Cookie
	for _, c := range j.All() {
		covered := c.Domain == host || !c.HostOnly && matchesDomain(host, c.Domain)
		if covered && matchesPath(path, c.Path) {
			sent = append(sent, c)
		}
	}
	slices.SortFunc(sent, func(a, b Cookie) int {
		return cmp.Or(cmp.Compare(len(b.Path), len(a.Path)), cmp.Compare(a.created, b.created))
	})
	return sent
}

// Line returns the Cookie line for the cookies. It is empty without cookies.
func Line(cookies []Cookie) string {
	pairs := make([]string, len(cookies))
	for i, c := range cookies {
		pairs[i] = c.Name + "=" + c.Value
	}
	return strings.Join(pairs, "; ")
}

// hostOf returns the host of a request, in lower case and without a port.
func hostOf(r *http.Request) string {
	host := cmp.Or(r.Host, r.URL.Host)
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host)
}

func isAddr(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// matchesDomain reports whether host matches domain (RFC 6265, section 5.1.3).
func matchesDomain(host, domain string) bool {
	rest, ok := strings.CutSuffix(host, domain)
	return ok && (rest == "" || rest[len(rest)-1] == '.' && !isAddr(host))
}

// defaultPath returns the path of a cookie without a Path (RFC 6265, section 5.1.4).
func defaultPath(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}

// matchesPath reports whether the path of a request matches that of a cookie (RFC 6265, section
// 5.1.4).
func matchesPath(request, path string) bool {
	if request == "" {
		request = "/"
	}
	rest, ok := strings.CutPrefix(request, path)
	return ok && (rest == "" || strings.HasSuffix(path, "/") || rest[0] == '/')
}
