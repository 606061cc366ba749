package stickiness

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// AppCookieOptions configure an [AppCookie]. The zero value works.
type AppCookieOptions struct {
	// Name of the balancer's cookie, not of the application's. Empty means "AWSELB", or with
	// a Scope "AWSELB-" and eight hex digits of the scope's hash. A name with a prefix that
	// binds browsers ("__Host-", "__Secure-") is refused: the attributes are the application's.
	Name string

	// Scope is what the binding is good for, such as a listener's backend port or a pool's
	// name. It is sealed into the value: a cookie of another scope is not usable. With a
	// Codec, which has its own scope, it is part of the default name only.
	Scope string

	// PathSpelling says how an underscore in the application's Path is written. A path that
	// would have more than 1024 octets so, which browsers ignore, is written as it is.
	PathSpelling PathSpelling

	// AcceptTrailingSemicolon has a Set-Cookie line of the application that ends in a
	// semicolon count like any other. Otherwise such a line passes to the client but is
	// ignored for stickiness, as the classic balancer does.
	AcceptTrailingSemicolon bool

	// KeepInRequest lets the backend see the balancer's cookie, and set or delete it.
	// Otherwise the cookie is removed from what the backend gets, and a line of the backend's
	// that sets one of that name from what the client gets: it would end the session.
	KeepInRequest bool

	// KeepCacheable leaves Cache-Control and its relatives as the backend wrote them.
	// Otherwise a response that sets or deletes the balancer's cookie is made private, and
	// CDN-Cache-Control and Surrogate-Control are removed.
	KeepCacheable bool

	// Keys are the keys of the default codec, [cookie.Sealed]: 32 random octets each, the
	// first seals, all open. Without any, a random one is made: then a second instance, or
	// this one after a restart, knows none of the sessions.
	Keys [][]byte

	// Codec is used instead of the default one. Keys must be empty then. If it does not
	// carry attributes and expiry, a failover writes a cookie without them.
	Codec cookie.Codec

	// Former are codecs that wrote the cookie in the past. A value that only they can read
	// is usable. It is replaced at once if it carries attributes or an expiry, else when the
	// application sets its cookie again: a cookie without the application's Path would be
	// one more cookie for the directory of the request.
	Former []cookie.Codec
}

// An AppCookie binds clients for as long as a cookie of the application lasts:
// application-controlled stickiness. When a response sets that cookie, the balancer's own
// is set beside it, with the same attributes; when a response deletes it, so is ours. A
// request is bound if it carries both. If the bound target cannot serve, the session is
// bound to the one that answers instead, with the attributes and the expiry it had.
//
// It implements [Policy] and [Forwarder], is immutable and safe for concurrent use.
type AppCookie struct {
	ring
	app             string
	name            string
	spelling        PathSpelling
	acceptSemicolon bool
	keepInRequest   bool
	keepCacheable   bool
}

// NewAppCookie returns a policy that follows the application's cookie of that name, which
// is compared exactly. It refuses names that cannot be, and the options that cannot be
// combined; the error says which.
func NewAppCookie(name string, o AppCookieOptions) (*AppCookie, error) {
	own := nameFor(o.Name, o.Scope)
	if err := o.check(name, own); err != nil {
		return nil, fmt.Errorf("stickiness: AppCookie: %w", err)
	}
	r, err := newRing(o.Scope, o.Keys, o.Codec, o.Former)
	if err != nil {
		return nil, fmt.Errorf("stickiness: AppCookie: %w", err)
	}
	return &AppCookie{
		ring:            r,
		app:             name,
		name:            own,
		spelling:        o.PathSpelling,
		acceptSemicolon: o.AcceptTrailingSemicolon,
		keepInRequest:   o.KeepInRequest,
		keepCacheable:   o.KeepCacheable,
	}, nil
}

// Lookup implements [Policy]. It looks at the first 64 values of the balancer's cookies;
// the one that was issued last is the best. If they came without the application's cookie,
// they make one candidate, [NoAppCookie].
func (c *AppCookie) Lookup(r *http.Request, found []Candidate) []Candidate {
	var few [4]string
	values := addValues(few[:0], r.Header, c.name)
	if len(values) > 0 && !carries(r.Header, c.app) {
		return append(found, Candidate{Reason: NoAppCookie})
	}
	n := len(found)
	for _, value := range values {
		found = append(found, c.candidate(value))
	}
	rank(found[n:])
	return found
}

func (c *AppCookie) candidate(value string) Candidate {
	t, former, why := c.open(value)
	if why != Usable {
		return Candidate{Reason: why}
	}
	complete := len(t.Carried) > 0 || !t.Expires.IsZero()
	return Candidate{Target: t.Target, Renew: t.OldKey || former && complete, State: &t, Issued: t.Issued}
}

// Bind implements [Policy].
func (c *AppCookie) Bind(b *Binding) {
	b.Result = Kept
	if !c.keepInRequest {
		dropOwn(b.Header, c.name)
	}
	line, found, ignored := c.appLine(b.Header["Set-Cookie"])
	switch {
	case found:
		c.follow(b, line)
	case b.From != nil:
		c.carryOn(b)
	}
	if b.Result == Kept && ignored {
		b.Result = Ignored
	}
}

// appLine returns the last line that sets or deletes the application's cookie, and
// whether one was ignored for its trailing semicolon. A line that browsers drop is none.
func (c *AppCookie) appLine(lines []string) (line cookie.SetCookie, found, ignored bool) {
	for _, raw := range slices.Backward(lines) {
		line, ok := setsCookie(raw, c.app)
		if !ok {
			continue
		}
		if !c.acceptSemicolon && strings.HasSuffix(strings.TrimRight(raw, " \t"), ";") {
			ignored = true
			continue
		}
		return line, true, ignored
	}
	return cookie.SetCookie{}, false, ignored
}

// follow does to the balancer's cookie what the application did to its own.
func (c *AppCookie) follow(b *Binding, line cookie.SetCookie) {
	now := time.Now()
	expires, session := line.Expiry(now)
	if !session && !expires.After(now) {
		c.free(b, line.Attributes)
		return
	}
	t := cookie.Ticket{Target: b.Target, Issued: now.Truncate(time.Second), Carried: carriedOver(line.Attributes)}
	if !session {
		t.Expires = expires.Truncate(time.Second)
	}
	if b.Detour && b.From != nil && hasValue(b.Request.Header, line) {
		t.Target = b.From.Target // the session is the old one, which the response prolongs
	}
	result := Bound
	if b.From != nil && b.From.Target == t.Target {
		result = Renewed
	}
	c.set(b, &t, t.Carried, result)
}

// hasValue reports whether a request carries the cookie that a response sets, with the
// same value.
func hasValue(h http.Header, line cookie.SetCookie) bool {
	for value := range cookie.Values(h, line.Name) {
		if cookie.Unquote(value) == cookie.Unquote(line.Value) {
			return true
		}
	}
	return false
}

// carryOn writes the cookie again for a session whose target could not serve, or whose
// value is of an old key or codec, with the attributes and the expiry it has.
func (c *AppCookie) carryOn(b *Binding) {
	old, ok := b.From.State.(*cookie.Ticket)
	same := b.From.Target == b.Target
	if !ok || same && !b.From.Renew || !same && b.Detour {
		return
	}
	t := cookie.Ticket{Target: b.Target, Issued: old.Issued, Expires: old.Expires, Carried: carriedOver(old.Carried)}
	result := Renewed
	now := time.Now()
	if !same {
		t.Issued, result = now.Truncate(time.Second), Bound
	}
	attributes := t.Carried
	if !t.Expires.IsZero() {
		left := t.Expires.Unix() - now.Unix()
		switch {
		case left > 0:
			attributes = withMaxAge(attributes, left, now)
		case same:
			return
		default:
			c.free(b, attributes)
			return
		}
	}
	c.set(b, &t, attributes, result)
}

// free deletes the balancer's cookie wherever one with these attributes can be.
func (c *AppCookie) free(b *Binding, attributes []cookie.Attribute) {
	var kept []cookie.Attribute
	for _, a := range carriedOver(attributes) {
		switch strings.ToLower(a.Name) {
		case "domain", "path", "secure", "httponly", "samesite", "partitioned":
			kept = append(kept, a)
		}
	}
	kept = append(kept,
		cookie.Attribute{Name: "Max-Age", Value: "0"},
		cookie.Attribute{Name: "Expires", Value: time.Unix(0, 0).UTC().Format(http.TimeFormat)})
	c.write(b, "", kept, SpellBoth)
	b.Result = Freed
}

// set writes the cookie for t. What a client would not store for its size, or the codec
// cannot encode, is left out of the ticket: comments first, then all attributes. If that
// does not help, nothing is written.
func (c *AppCookie) set(b *Binding, t *cookie.Ticket, attributes []cookie.Attribute, result Result) {
	for _, carried := range [][]cookie.Attribute{t.Carried, withoutComments(t.Carried), nil} {
		t.Carried = carried
		if value, ok := c.value(c.name, t); ok {
			c.write(b, value, attributes, c.spelling)
			b.Result = result
			return
		}
	}
}

// write adds a Set-Cookie line per spelling of the path.
func (c *AppCookie) write(b *Binding, value string, attributes []cookie.Attribute, s PathSpelling) {
	set := slices.Clone(b.Header["Set-Cookie"])
	for _, spelled := range spellAll(attributes, s) {
		set = append(set, cookie.SetCookie{Name: c.name, Value: value, Attributes: spelled}.String())
	}
	b.Header["Set-Cookie"] = set
	if !c.keepCacheable {
		privatize(b.Header)
	}
}

// Inform implements [Informer]: a line by which the backend sets a cookie of the balancer's
// name does not pass in a 1xx response either. The application's own lines there pass, and
// bind nobody.
func (c *AppCookie) Inform(h http.Header) {
	if !c.keepInRequest {
		dropOwn(h, c.name)
	}
}

// Forward implements [Forwarder]: it removes the balancer's cookie from the request.
func (c *AppCookie) Forward(out *http.Request, _ []Candidate) {
	if !c.keepInRequest {
		cookie.Remove(out.Header, c.name)
	}
}

// carriedOver returns the attributes that go from the application's cookie to the
// balancer's, as they were written. It also holds back what a Set-Cookie line cannot
// express, which only a codec that does not authenticate could have handed out.
func carriedOver(attributes []cookie.Attribute) []cookie.Attribute {
	var kept []cookie.Attribute
	for _, a := range attributes {
		switch strings.ToLower(a.Name) {
		case "path", "port", "domain", "secure", "httponly", "discard", "max-age", "expires", "version", "comment", "commenturl", "samesite", "partitioned":
			if a.Bare || !strings.ContainsFunc(a.Value, notPrintable) {
				kept = append(kept, a)
			}
		}
	}
	return kept
}

func withoutComments(attributes []cookie.Attribute) []cookie.Attribute {
	return slices.DeleteFunc(slices.Clone(attributes), func(a cookie.Attribute) bool {
		return strings.EqualFold(a.Name, "Comment") || strings.EqualFold(a.Name, "CommentURL")
	})
}

// withMaxAge returns the attributes with what is left of the lifetime in the place of
// each Max-Age that a client can read. If they have no lifetime at all, because the
// ticket had no room for them, they get one.
func withMaxAge(attributes []cookie.Attribute, left int64, now time.Time) []cookie.Attribute {
	seconds := strconv.FormatInt(left, 10)
	kept := slices.Clone(attributes)
	dated := false
	for i, a := range kept {
		_, session := cookie.SetCookie{Attributes: kept[i : i+1]}.Expiry(now)
		dated = dated || !session
		if !session && strings.EqualFold(a.Name, "Max-Age") {
			kept[i].Value = seconds
		}
	}
	if !dated {
		kept = append(kept, cookie.Attribute{Name: "Max-Age", Value: seconds})
	}
	return kept
}

// spellAll returns the attributes once per spelling of the path that rules.
func spellAll(attributes []cookie.Attribute, s PathSpelling) [][]cookie.Attribute {
	path, _ := cookie.SetCookie{Attributes: attributes}.Attribute("Path")
	all := make([][]cookie.Attribute, 0, 2)
	for i := range s.spellHeeded(path) {
		spelled := slices.Clone(attributes)
		for j, a := range spelled {
			if strings.EqualFold(a.Name, "Path") {
				paths := s.spellHeeded(a.Value)
				spelled[j].Value = paths[min(i, len(paths)-1)]
			}
		}
		all = append(all, spelled)
	}
	return all
}
