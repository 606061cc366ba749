package stickiness

import (
	"iter"
	"net/http"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// An appName is the name of the application's cookie, or the beginning of several names.
type appName struct {
	text   string
	begins bool // stands for all names that begin with text
}

// newAppName returns the appName for a name of the options. Unless exact is true, a star at the end
// stands for any rest.
func newAppName(name string, exact bool) appName {
	if text, ok := strings.CutSuffix(name, "*"); ok && !exact {
		return appName{text, true}
	}
	return appName{name, false}
}

func (n appName) matches(name string) bool {
	return name == n.text || n.begins && strings.HasPrefix(name, n.text)
}

// values returns the values of the request's cookies with a matching name.
func (n appName) values(h http.Header) iter.Seq[string] {
	return func(yield func(string) bool) { n.each(h, yield) }
}

// each is separate from values so that the compiler inlines values.
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

// mayBeIn reports whether a Set-Cookie line may set a matching cookie.
func (n appName) mayBeIn(raw string) bool {
	return strings.HasPrefix(strings.TrimLeft(raw, " \t"), n.text)
}

// set parses a Set-Cookie line. It reports whether browsers read it as one for a matching name.
func (n appName) set(raw string) (cookie.SetCookie, bool) {
	if !n.mayBeIn(raw) {
		return cookie.SetCookie{}, false
	}
	c, err := cookie.ParseSetCookie(raw)
	return c, err == nil && n.matches(c.Name)
}
