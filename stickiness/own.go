package stickiness

import (
	"net/http"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// dropOwn removes the Set-Cookie lines with which the backend sets one of the balancer's cookies,
// as HAProxy does.
func dropOwn(h http.Header, names ...string) {
	lines := h["Set-Cookie"]
	own := func(line string) bool { return setsAny(line, names) }
	if !slices.ContainsFunc(lines, own) {
		return
	}
	if kept := slices.DeleteFunc(slices.Clone(lines), own); len(kept) > 0 {
		h["Set-Cookie"] = kept
	} else {
		delete(h, "Set-Cookie")
	}
}

// setsAny reports whether a Set-Cookie line sets a cookie with one of the names.
func setsAny(line string, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		_, ok := setsCookie(line, name)
		return ok
	})
}

// setsCookie parses a Set-Cookie line. It reports whether browsers read it as one for that name.
func setsCookie(line, name string) (cookie.SetCookie, bool) {
	if !strings.HasPrefix(strings.TrimLeft(line, " \t"), name) {
		return cookie.SetCookie{}, false
	}
	c, err := cookie.ParseSetCookie(line)
	return c, err == nil && c.Name == name
}
