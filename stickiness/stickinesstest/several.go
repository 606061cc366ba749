package stickinesstest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/internal/jar"
)

// sessionLine returns a response by which the application begins a session, and its Set-Cookie
// line. ok is false unless it has exactly one valid line.
func (c *checker) sessionLine() (h http.Header, line cookie.SetCookie, ok bool) {
	h = c.session.Response()
	if len(h["Set-Cookie"]) != 1 {
		return h, cookie.SetCookie{}, false
	}
	line, err := cookie.ParseSetCookie(h["Set-Cookie"][0])
	return h, line, err == nil
}

// with returns the line with the attribute set to value, or without the attribute if there is no
// value.
func with(line cookie.SetCookie, name string, value ...string) cookie.SetCookie {
	line.Attributes = slices.DeleteFunc(slices.Clone(line.Attributes), func(a cookie.Attribute) bool {
		return strings.EqualFold(a.Name, name)
	})
	for _, v := range value {
		line.Attributes = append(line.Attributes, cookie.Attribute{Name: name, Value: v, Bare: v == ""})
	}
	return line
}

// deletion returns a line that deletes the cookie of line.
func deletion(line cookie.SetCookie) string {
	line.Value = ""
	return with(with(line, "Expires"), "Max-Age", "0").String()
}

// others returns cookies that have the line's name but another place. The key of the map says what
// differs.
func others(r *http.Request, line cookie.SetCookie) map[string]cookie.SetCookie {
	all := map[string]cookie.SetCookie{"path": with(line, "Path", "/stickinesstest")}
	host := r.URL.Hostname()
	if _, has := line.Attribute("Domain"); has {
		all["host"] = with(line, "Domain")
	} else {
		all["domain"] = with(line, "Domain", host)
	}
	if _, has := line.Attribute("Partitioned"); has {
		all["partition"] = with(line, "Partitioned")
	} else {
		all["partition"] = with(with(line, "Secure", ""), "Partitioned", "")
	}
	if path, _ := line.Attribute("Path"); strings.HasPrefix(path, "/") {
		all["default path"] = with(line, "Path")
	}
	own, _ := jar.PlaceOf(r, line)
	for what, other := range all {
		if place, ok := jar.PlaceOf(r, other); !ok || place == own {
			delete(all, what)
		}
	}
	return all
}

// severalLines has the application delete other cookies of the same name.
func (c *checker) severalLines() {
	a, b := c.session.Targets[0], c.session.Targets[1]
	_, line, ok := c.sessionLine()
	if !ok {
		return
	}
	for what, other := range others(c.session.Request(a), line) {
		for _, last := range []bool{false, true} {
			cl := &client{checker: c}
			h := c.session.Response()
			at := 0
			if last {
				at = 1
			}
			h["Set-Cookie"] = slices.Insert(slices.Clone(h["Set-Cookie"]), at, deletion(other))
			cl.visit(a, a, h, false)
			if got := cl.boundTo(a); got != a {
				c.errorf("a response that deletes a cookie of another %s leaves the client of %q bound to %q", what, a, got)
			}
		}
		cl := &client{checker: c}
		cl.visit(a, a, c.session.Response(), false)
		cl.visit(a, a, http.Header{"Set-Cookie": {deletion(other)}}, false)
		if got := cl.boundTo(a); got != a {
			c.errorf("a later response that deletes a cookie of another %s leaves the client of %q bound to %q", what, a, got)
		}
		c.replaced(what, other, a, b)
	}
}

// replaced has one response end the session of one cookie and begin the session of another cookie,
// which has another place.
func (c *checker) replaced(what string, other cookie.SetCookie, a, b string) {
	cl := &client{checker: c}
	if before := cl.visit(a, a, http.Header{"Set-Cookie": {other.String()}}, false); before.Result != stickiness.Bound || cl.boundTo(a) != a {
		return
	}
	h, line, _ := c.sessionLine()
	h["Set-Cookie"] = append(slices.Clip(h["Set-Cookie"]), deletion(other))
	if cl.visit(b, b, h, false); cl.boundTo(b) != b {
		c.errorf("a session of %q that replaces one of another %s is bound to %q", b, what, cl.boundTo(b))
	}
	cl.visit(b, b, http.Header{"Set-Cookie": {deletion(line)}}, false)
	if got := cl.boundTo(a); got == a && c.follows(a) {
		c.errorf("a deleted session of another %s is still bound to %q", what, got)
	}
}

// follows reports whether a client is no longer bound after the application's cookie was deleted.
func (c *checker) follows(target string) bool {
	cl := &client{checker: c}
	h, line, ok := c.sessionLine()
	cl.visit(target, target, h, false)
	cl.visit(target, target, http.Header{"Set-Cookie": {deletion(line)}}, false)
	return ok && cl.boundTo(target) == ""
}

// directory has the application set a cookie without a Path, and delete it by the Path that
// browsers store it for.
func (c *checker) directory() {
	a := c.session.Targets[0]
	_, line, ok := c.sessionLine()
	if !ok || !c.follows(a) {
		return
	}
	bare := with(line, "Path")
	place, ok := jar.PlaceOf(c.session.Request(a), bare)
	if !ok {
		return
	}
	cl := &client{checker: c}
	cl.visit(a, a, http.Header{"Set-Cookie": {bare.String()}}, false)
	if got := cl.boundTo(a); got != a {
		c.errorf("a cookie without a Path leaves the client of %q bound to %q", a, got)
		return
	}
	b := cl.visit(a, a, http.Header{"Set-Cookie": {bare.String(), deletion(with(line, "Path", place.Path))}}, false)
	if got := cl.boundTo(a); b.Result == stickiness.Bound || b.Result == stickiness.Renewed || got != "" {
		c.errorf("a cookie without a Path was deleted by its directory, but the client is bound to %q, and Bind says %q", got, b.Result)
	}
}

// twoCookies has a client send an older cookie of the policy with the newer one.
func (c *checker) twoCookies() {
	a, b := c.session.Targets[0], c.session.Targets[1]
	cl := &client{checker: c}
	cl.visit(a, a, c.session.Response(), false)
	older := cl.ownSent(cl.request(a))
	oldBest := best(cl.lookup(cl.request(a)))
	if cl.visit(a, b, http.Header{}, false).Result != stickiness.Bound {
		return
	}
	newBest := best(cl.lookup(cl.request(b)))
	if oldBest.Issued.IsZero() || !newBest.Issued.After(oldBest.Issued) || newBest.Target != b {
		return
	}
	kept := c.keeps(cl, b)
	for _, old := range older {
		line := old.Name + "=" + old.Value
		for _, front := range []bool{true, false} {
			r := cl.request(b)
			if front {
				withCookies(r, line)
			} else {
				r.Header.Add("Cookie", line)
			}
			if got := best(cl.lookup(r)).Target; got != b {
				c.errorf("a client with an older cookie %s and a newer one is bound to %q, want %q", old.Name, got, b)
			}
			c.keepsWith(r, b, kept, "an older cookie")
		}
	}
}

// unusable has a client send unusable values in front of a good one.
func (c *checker) unusable() {
	a := c.session.Targets[0]
	cl := &client{checker: c}
	cl.visit(a, a, c.session.Response(), false)
	if cl.boundTo(a) != a {
		return
	}
	kept := c.keeps(cl, a)
	for _, own := range cl.ownSent(cl.request(a)) {
		var lines []string
		for i := range 9 {
			lines = append(lines, fmt.Sprintf("%s=%s%d", own.Name, own.Value[:len(own.Value)/2], i))
		}
		forged := withCookies(c.session.Request(a), lines...)
		for _, app := range cl.jar.Send(forged) {
			if app.Name != own.Name && !slices.Contains(cl.own, app.Name) {
				forged.Header.Add("Cookie", app.Name+"="+app.Value)
			}
		}
		if found := c.lookup(forged); best(found).Target != "" {
			continue // the policy takes any value, or needs none
		}
		r := withCookies(cl.request(a), lines...)
		if got := best(c.lookup(r)).Target; got != a {
			c.errorf("a client with nine unusable values of %s in front of a good one is bound to %q, want %q", own.Name, got, a)
		}
		c.keepsWith(r, a, kept, "unusable values")
	}
}

// keeps reports whether Bind writes nothing when a bound client's own target answers.
func (c *checker) keeps(cl *client, target string) bool {
	return c.served(cl.request(target), target) == stickiness.Kept
}

func (c *checker) keepsWith(r *http.Request, target string, kept bool, what string) {
	if got := c.served(r, target); kept && got != stickiness.Kept {
		c.errorf("%s with a good one: Bind says %q on every response", what, got)
	}
}

// served returns the result of Bind for an empty response to r.
func (c *checker) served(r *http.Request, target string) stickiness.Result {
	b := &stickiness.Binding{Request: r, Header: http.Header{}, Target: target, Seen: c.lookup(r)}
	b.From = from(b.Seen, target)
	c.bind(b)
	return b.Result
}
