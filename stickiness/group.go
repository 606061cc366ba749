package stickiness

import (
	"slices"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// maxGroups is how many of the application's cookies in one response the balancer follows.
const maxGroups = 4

// A group is one cookie of the application that a response sets or deletes. Of the lines for this
// cookie, line is the one that counts.
type group struct {
	line    cookie.SetCookie
	place   place
	expires time.Time
	session bool // the cookie ends with the browser's session; expires is the zero time
	stored  bool // browsers store the line
	deletes bool
}

// groups returns the last maxGroups cookies of the application that a response sets or deletes, in
// the order of the lines that count. Among the lines for one cookie, the last one that browsers
// store counts, or the last one if they store none. Lines for which heeded returns false are
// ignored. more reports whether the response has further cookies.
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
