package stickiness

import (
	"iter"
	"net/http"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

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
