package stickinesstest

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/internal/jar"
)

// A client stores cookies as a browser does.
type client struct {
	*checker
	ctx  context.Context // of its requests; nil: context.Background
	jar  jar.Jar
	own  []string      // names of the cookies that the policy set or changed
	seen []http.Header // all responses
}

// request returns the client's next request.
func (cl *client) request(target string) *http.Request {
	r := cl.session.Request(target)
	if cl.ctx != nil {
		r = r.WithContext(cl.ctx)
	}
	for _, h := range cl.seen {
		cl.session.Carry(r, h)
	}
	if line := jar.Line(cl.jar.Send(r)); line != "" {
		r.Header.Add("Cookie", line)
	}
	return r
}

// visit makes the client's next request. wants is the target that the client wants, and served is
// the target that answers.
func (cl *client) visit(wants, served string, h http.Header, detour bool) *stickiness.Binding {
	r := cl.request(wants)
	b := &stickiness.Binding{Request: r, Header: h, Target: served, Detour: detour, Seen: cl.lookup(r)}
	b.From = from(b.Seen, served)
	before := slices.Clone(h["Set-Cookie"])
	cl.bind(b)
	cl.receive(r, h, before)
	return b
}

// from returns the candidate that [stickiness.Binding] calls From.
func from(seen []stickiness.Candidate, served string) (c *stickiness.Candidate) {
	for i := range seen {
		f := &seen[i]
		if f.Reason == stickiness.Usable && (c == nil || f.Target == served && c.Target != served) {
			c = f
		}
	}
	return c
}

// boundTo returns the target that the client's next request is bound to, or "".
func (cl *client) boundTo(wants string) string {
	return best(cl.lookup(cl.request(wants))).Target
}

// best returns the first usable candidate, or the zero one if there is none.
func best(found []stickiness.Candidate) stickiness.Candidate {
	for _, f := range found {
		if f.Reason == stickiness.Usable {
			return f
		}
	}
	return stickiness.Candidate{}
}

// ownSent returns the policy's own cookies among those that the client sends with r.
func (cl *client) ownSent(r *http.Request) []jar.Cookie {
	return slices.DeleteFunc(cl.jar.Send(r), func(c jar.Cookie) bool { return !slices.Contains(cl.own, c.Name) })
}

// quoting returns the target that a request is bound to when its cookies are written as in RFC
// 2109.
func (cl *client) quoting(wants string) string {
	r := cl.request(wants)
	if lines := r.Header["Cookie"]; len(cl.jar.Send(r)) > 0 && len(lines) == 1 {
		var line strings.Builder
		line.WriteString(`$Version="1"`)
		for pair := range strings.SplitSeq(lines[0], "; ") {
			name, value, _ := strings.Cut(pair, "=")
			line.WriteString("; " + name + `="` + value + `";$Path="/"`)
		}
		r.Header["Cookie"] = []string{line.String()}
	}
	return best(cl.lookup(r)).Target
}

// receive stores the cookies of a response to r. before has the lines that the application wrote.
func (cl *client) receive(r *http.Request, h http.Header, before []string) {
	cl.seen = append(cl.seen, h)
	for _, line := range h["Set-Cookie"] {
		c, err := cookie.ParseSetCookie(line)
		if err != nil {
			cl.errorf("the response has a line that browsers drop: %q", line)
		} else if !slices.Contains(before, line) && !slices.Contains(cl.own, c.Name) {
			cl.own = append(cl.own, c.Name)
		}
	}
	cl.jar.Receive(r, h)
}

// withCookies adds lines of cookies in front of those of r.
func withCookies(r *http.Request, lines ...string) *http.Request {
	r.Header["Cookie"] = append(lines, r.Header["Cookie"]...)
	return r
}

// A shot is the part of a request that must not change.
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
