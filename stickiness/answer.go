package stickiness

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// maxOwn bounds how many octets the balancer's Set-Cookie lines of one response have together.
const maxOwn = 8 << 10

// An answer collects the balancer's Set-Cookie lines of one response. It begins with the last line,
// so that the first ones are left out if there is no room for all.
type answer struct {
	*AppCookie
	b     *Binding
	lines []string // in reverse order
	size  int
	full  bool // a line was left out
}

// follow sets or deletes the balancer's cookie as the application did with its own.
func (a *answer) follow(g group) {
	if g.deletes {
		a.free(g.line.Attributes)
		return
	}
	b, now := a.b, time.Now()
	attributes := carriedOver(g.line.Attributes)
	t := cookie.Ticket{Target: b.Target, Issued: now.Truncate(time.Second), Carried: withDirectory(attributes, g.place.path), Session: newSession(b)}
	if a.app.begins {
		t.Name = g.line.Name
	}
	if !g.session {
		t.Expires = g.expires.Truncate(time.Second)
	}
	if b.Detour && b.From != nil && hasValue(b.Request.Header, g.line) {
		t.Target = b.From.Target // the response extends the session of the bound target
	}
	result := Bound
	if b.From != nil && b.From.Target == t.Target {
		result = Renewed
	} else {
		t.Issued = newest(b, now)
	}
	a.set(&t, attributes, result)
}

// hasValue reports whether the request already carries the cookie of a Set-Cookie line with the
// same value.
func hasValue(h http.Header, line cookie.SetCookie) bool {
	for value := range cookie.Values(h, line.Name) {
		if cookie.Unquote(value) == cookie.Unquote(line.Value) {
			return true
		}
	}
	return false
}

// carryOn writes the cookie again if its target could not serve, or if its value is under an old
// key or of an old codec. The attributes and the expiry stay the same.
func (a *answer) carryOn() {
	b := a.b
	old, ok := b.From.State.(*cookie.Ticket)
	same := b.From.Target == b.Target
	if !ok || same && !b.From.Renew || !same && b.Detour {
		return
	}
	now := time.Now()
	t := cookie.Ticket{Target: b.Target, Issued: old.Issued, Expires: old.Expires, Carried: carriedOver(old.Carried), Name: old.Name, Seen: now.Truncate(time.Second), Session: newSession(b)}
	attributes, spelling := t.Carried, a.spelling
	if path, ok := directoryOf(old); ok {
		t.Carried = withDirectory(t.Carried, path)
		if path != defaultPath(targetPath(b.Request)) {
			attributes, spelling = withPath(attributes, path), SpellVerbatim
		}
	}
	result := Renewed
	if !same {
		t.Issued, t.Seen, result = newest(b, now), time.Time{}, Bound
	}
	if !t.Expires.IsZero() {
		left := t.Expires.Unix() - now.Unix()
		switch {
		case left > 0:
			attributes = withLifetime(attributes, left, now, b.date())
		case same:
			return
		default:
			a.free(attributes)
			return
		}
	}
	a.setSpelled(&t, attributes, spelling, result)
}

// free deletes the balancer's cookie from every place where one with these attributes can be.
func (a *answer) free(attributes []cookie.Attribute) {
	var kept []cookie.Attribute
	for _, one := range carriedOver(attributes) {
		switch strings.ToLower(one.Name) {
		case "domain", "path", "secure", "httponly", "samesite", "partitioned":
			kept = append(kept, one)
		}
	}
	kept = append(kept,
		cookie.Attribute{Name: "Max-Age", Value: "0"},
		cookie.Attribute{Name: "Expires", Value: time.Unix(0, 0).UTC().Format(http.TimeFormat)})
	if !a.add("", kept, SpellBoth) {
		a.full = true
	} else if a.b.Result == Kept {
		a.b.Result = Freed
	}
}

// set writes the cookie for t. If the client would not store it because of its size, or the codec
// cannot encode it, set leaves parts out: the comments first, then all attributes of the ticket. If
// that is not enough, nothing is written.
func (a *answer) set(t *cookie.Ticket, attributes []cookie.Attribute, result Result) {
	a.setSpelled(t, attributes, a.spelling, result)
}

// setSpelled is like set, with a given spelling of the path.
func (a *answer) setSpelled(t *cookie.Ticket, attributes []cookie.Attribute, spelling PathSpelling, result Result) {
	encodable := false
	for _, carried := range [][]cookie.Attribute{t.Carried, withoutComments(t.Carried), nil} {
		t.Carried = carried
		value, ok := a.value(a.name, t)
		if !ok {
			continue
		}
		encodable = true
		if a.add(value, attributes, spelling) || a.add(value, withoutComments(attributes), spelling) {
			a.b.Notices |= a.noticesOf(attributes)
			if a.b.Result == Kept || a.b.Result == Freed {
				a.b.Result = result
			}
			return
		}
	}
	if encodable {
		a.full = true
	} else {
		a.b.Notices |= NoValue
	}
}

// noticesOf returns the notices of a cookie with these attributes.
func (a *answer) noticesOf(attributes []cookie.Attribute) Notices {
	notices := a.notices
	if _, secure := (cookie.SetCookie{Attributes: attributes}).Attribute("Secure"); a.b.TLS && !secure {
		notices |= NotSecure
	}
	return notices
}

// add adds one line for each spelling of the path. It adds none and returns false if there is no
// room for all of them.
func (a *answer) add(value string, attributes []cookie.Attribute, s PathSpelling) bool {
	var few [2]string
	lines := few[:0]
	size := a.size
	for _, spelled := range spellAll(attributes, s) {
		line := cookie.SetCookie{Name: a.name, Value: value, Attributes: spelled}.String()
		size += len(line)
		lines = append(lines, line)
	}
	if size > maxOwn {
		return false
	}
	slices.Reverse(lines)
	a.lines, a.size = append(a.lines, lines...), size
	return true
}

// write adds the lines to the response.
func (a *answer) write() {
	if a.full {
		a.b.Notices |= ManyCookies
	}
	if len(a.lines) == 0 {
		return
	}
	slices.Reverse(a.lines)
	a.b.Header["Set-Cookie"] = append(slices.Clip(a.b.Header["Set-Cookie"]), a.lines...)
	if !a.keepCacheable {
		privatize(a.b.Header)
	}
}
