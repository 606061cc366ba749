package stickinesstest

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
)

// A client keeps cookies as a browser does (RFC 6265, section 5.3), except that all its
// hosts are one.
type client struct {
	*checker
	ctx  context.Context // of its requests; nil: context.Background
	jar  []stored
	seen []http.Header // all responses
}

type stored struct{ name, value, path string }

// request returns the client's next request.
func (cl *client) request(target string) *http.Request {
	r := cl.session.Request(target)
	if cl.ctx != nil {
		r = r.WithContext(cl.ctx)
	}
	for _, h := range cl.seen {
		cl.session.Carry(r, h)
	}
	var pairs []string
	for _, s := range cl.jar {
		if pathMatches(r.URL.EscapedPath(), s.path) {
			pairs = append(pairs, s.name+"="+s.value)
		}
	}
	if len(pairs) > 0 {
		r.Header.Add("Cookie", strings.Join(pairs, "; "))
	}
	return r
}

// visit makes the request of a client that wants one target and is served by another.
func (cl *client) visit(wants, served string, h http.Header, detour bool) *stickiness.Binding {
	r := cl.request(wants)
	b := &stickiness.Binding{Request: r, Header: h, Target: served, Detour: detour, Seen: cl.lookup(r)}
	for i := range b.Seen {
		f := &b.Seen[i]
		if f.Reason == stickiness.Usable && (b.From == nil || f.Target == served && b.From.Target != served) {
			b.From = f
		}
	}
	cl.bind(b)
	cl.receive(r, h)
	return b
}

// boundTo returns the target of the client's next request, "" for none.
func (cl *client) boundTo(wants string) string {
	for _, f := range cl.lookup(cl.request(wants)) {
		if f.Reason == stickiness.Usable {
			return f.Target
		}
	}
	return ""
}

// quoting returns the target of a request that has the cookies as RFC 2109 spells them.
func (cl *client) quoting(wants string) string {
	r := cl.request(wants)
	if lines := r.Header["Cookie"]; len(cl.jar) > 0 && len(lines) == 1 {
		line := `$Version="1"`
		for pair := range strings.SplitSeq(lines[0], "; ") {
			name, value, _ := strings.Cut(pair, "=")
			line += "; " + name + `="` + value + `";$Path="/"`
		}
		r.Header["Cookie"] = []string{line}
	}
	for _, f := range cl.lookup(r) {
		if f.Reason == stickiness.Usable {
			return f.Target
		}
	}
	return ""
}

func (cl *client) receive(r *http.Request, h http.Header) {
	cl.seen = append(cl.seen, h)
	now := time.Now()
	for _, line := range h["Set-Cookie"] {
		c, err := cookie.ParseSetCookie(line)
		if err != nil {
			cl.errorf("a line that browsers drop: %q", line)
			continue
		}
		path, _ := c.Attribute("Path")
		if !strings.HasPrefix(path, "/") {
			path = defaultPath(r.URL.EscapedPath())
		}
		cl.jar = slices.DeleteFunc(cl.jar, func(s stored) bool { return s.name == c.Name && s.path == path })
		if at, session := c.Expiry(now); session || at.After(now) {
			cl.jar = append(cl.jar, stored{c.Name, c.Value, path})
		}
	}
}

// defaultPath is that of RFC 6265, section 5.1.4.
func defaultPath(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}

// pathMatches is the comparison of RFC 6265, section 5.1.4.
func pathMatches(request, path string) bool {
	rest, ok := strings.CutPrefix(request, path)
	return ok && (rest == "" || strings.HasSuffix(path, "/") || rest[0] == '/')
}

// withCookies puts lines of cookies in front of those that r has.
func withCookies(r *http.Request, lines ...string) *http.Request {
	r.Header["Cookie"] = append(lines, r.Header["Cookie"]...)
	return r
}

// A shot is what must stay as it is in a request.
type shot struct {
	header http.Header
	url    url.URL
	host   string
	method string
	form   bool
}

func snapshot(r *http.Request) shot {
	return shot{r.Header.Clone(), *r.URL, r.Host, r.Method, r.Form != nil}
}

func (s shot) equal(r *http.Request) bool {
	return maps.EqualFunc(s.header, r.Header, slices.Equal) && s.url == *r.URL && s.host == r.Host && s.method == r.Method && s.form == (r.Form != nil)
}
