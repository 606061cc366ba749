package stickiness

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// AppCookieOptions configure an [AppCookie]. Cookie is needed.
type AppCookieOptions struct {
	// Cookie is the name of the application's cookie. One that ends in a star, such as
	// "ASPSESSIONID*", stands for every name that begins so, unless there is ExactName.
	Cookie string

	// Name of the balancer's cookie, not of the application's. Empty means "AWSELB", or with
	// a Scope "AWSELB-" and eight hex digits of the scope's hash. A name with a prefix that
	// binds browsers ("__Host-", "__Secure-") is refused: the attributes are the application's.
	// Of two balancers in a row, each needs a name of its own: the outer one drops what the
	// inner one sets under the same.
	Name string

	// Scope is what the binding is good for, such as a listener's backend port or a pool's
	// name. It is sealed into the value: a cookie of another scope is not usable. With a
	// Codec, which has its own scope, it is part of the default name only.
	Scope string

	// ExactName has a star at the end of the application's name stand for itself.
	ExactName bool

	// PathSpelling says how an underscore in the application's Path is written. A path that
	// would have more than 1024 octets so, which browsers ignore, is written as it is.
	PathSpelling PathSpelling

	// AcceptTrailingSemicolon has a Set-Cookie line of the application that ends in a
	// semicolon count like any other. Otherwise such a line passes to the client but is
	// ignored for stickiness, as the classic balancer does.
	AcceptTrailingSemicolon bool

	// KeepInRequest lets the backend see the balancer's cookie, and set or delete it.
	// Otherwise the cookie is removed from what the backend gets, and a line of the backend's
	// that sets one of that name from what the client gets: it would end the session. With it,
	// such a line and ours both go out, ours last: browsers keep that one of one path.
	KeepInRequest bool

	// KeepCacheable leaves Cache-Control and its relatives as the backend wrote them.
	// Otherwise a response that sets or deletes the balancer's cookie is made private, and
	// CDN-Cache-Control and Surrogate-Control are removed.
	KeepCacheable bool

	// Keys are the keys of the default codec, [cookie.Sealed]: 32 random octets each, the
	// first seals, all open. Without any, a random one is made: then a second instance, or
	// this one after a restart, knows none of the sessions. To replace keys while the policy
	// serves, give a [cookie.Sealed] as Codec and call its Store.
	Keys [][]byte

	// Codec is used instead of the default one. Keys must be empty then. One that
	// [cookie.NewSealed] made without keys ends with the process as well, and nothing says
	// so. If it does not carry attributes and expiry, a failover writes a cookie without them.
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
	app             appName
	name            string
	spelling        PathSpelling
	acceptSemicolon bool
	keepInRequest   bool
	keepCacheable   bool
}

// NewAppCookie returns a policy that follows the application's cookie. It refuses names that cannot
// be, and options that cannot be combined; the error says which.
func NewAppCookie(o AppCookieOptions) (*AppCookie, error) {
	own := nameFor(o.Name, o.Scope)
	if err := o.check(own); err != nil {
		return nil, fmt.Errorf("stickiness: AppCookie: %w", err)
	}
	r, err := newRing(o.Scope, o.Keys, o.Codec, o.Former)
	if err != nil {
		return nil, fmt.Errorf("stickiness: AppCookie: %w", err)
	}
	return &AppCookie{
		ring:            r,
		app:             newAppName(o.Cookie, o.ExactName),
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
	if len(values) > 0 && !carries(c.app.values(r.Header)) {
		return append(found, Candidate{Reason: NoAppCookie})
	}
	n := len(found)
	for _, value := range values {
		found = append(found, c.candidate(value))
	}
	if c.app.begins {
		c.keepCarried(r.Header, found[n:])
	}
	rank(found[n:])
	return found
}

// keepCarried takes the candidates for unusable that were made for a cookie of the
// application which the request does not carry.
func (c *AppCookie) keepCarried(h http.Header, found []Candidate) {
	var carried [maxTried]bool
	for name := range cookie.Pairs(h) {
		if !c.app.matches(name) {
			continue
		}
		for i := range found {
			t, ok := found[i].State.(*cookie.Ticket)
			carried[i] = carried[i] || !ok || t.Name == "" || t.Name == name
		}
	}
	for i := range found {
		if !carried[i] {
			found[i] = Candidate{Reason: NoAppCookie}
		}
	}
}

func (c *AppCookie) candidate(value string) Candidate {
	t, former, why := c.open(value)
	if why != Usable {
		return Candidate{Reason: why}
	}
	complete := len(t.Carried) > 0 || !t.Expires.IsZero()
	return Candidate{Target: t.Target, Renew: t.OldKey || former && complete, State: &t, Issued: t.Issued, Session: sessionOf(&t)}
}

// Bind implements [Policy]. The last cookies of the application that the response sets or
// deletes have theirs of the balancer, at most four, and at most 8 KiB of lines.
func (c *AppCookie) Bind(b *Binding) {
	b.Result = Kept
	if !c.keepInRequest {
		dropOwn(b.Header, c.name)
	}
	if b.updates() {
		return
	}
	ignored := false
	groups, more := c.app.groups(b, func(raw string) bool {
		skip := !c.acceptSemicolon && strings.HasSuffix(strings.TrimRight(raw, " \t"), ";")
		ignored = ignored || skip
		return !skip
	})
	a := answer{AppCookie: c, b: b, full: more}
	for _, g := range slices.Backward(c.ruling(b, groups)) {
		a.follow(g)
	}
	if b.From != nil && !c.covered(b, groups) {
		a.carryOn()
	}
	a.write()
	if ignored {
		b.Notices |= TrailingSemicolon
		if b.Result == Kept {
			b.Result = Ignored
		}
	}
}

// ruling returns the groups for which the balancer's cookie is written or deleted. Where the
// application's names differ, several of them share one cookie of the balancer's: then one
// that is set goes before one that is deleted, and the deletion of one does not end the
// session of another.
func (c *AppCookie) ruling(b *Binding, groups []group) []group {
	if !c.app.begins {
		return groups
	}
	return slices.DeleteFunc(slices.Clone(groups), func(g group) bool {
		if g.deletes && isOfAnother(b.Seen, g.line.Name) {
			return true
		}
		same := func(o group) bool { return o.place == g.place && !o.deletes }
		last := len(groups) - 1
		for last >= 0 && !same(groups[last]) {
			last--
		}
		if last < 0 {
			return false
		}
		return g.deletes || groups[last].line.Name != g.line.Name
	})
}

// isOfAnother reports whether all usable candidates were made for other cookies of the
// application than the one of that name, and there is one.
func isOfAnother(seen []Candidate, name string) bool {
	another := false
	for _, found := range seen {
		t, ok := found.State.(*cookie.Ticket)
		if !ok || found.Reason != Usable {
			continue
		}
		if t.Name == "" || t.Name == name {
			return false
		}
		another = true
	}
	return another
}

// covered reports whether one of the groups is the cookie of the application that the
// binding follows, in a line that browsers do not refuse. Where the ticket does not tell its
// place, any group is.
func (c *AppCookie) covered(b *Binding, groups []group) bool {
	t, ok := b.From.State.(*cookie.Ticket)
	if !ok || len(groups) == 0 {
		return !ok
	}
	if len(t.Carried) == 0 {
		return slices.ContainsFunc(groups, func(g group) bool { return g.stored })
	}
	at := placeOf(b.Request, t.Carried)
	path, _ := cookie.SetCookie{Attributes: t.Carried}.Attribute("Path")
	if own, ok := directoryOf(t); ok {
		at.path, path = own, own
	}
	return slices.ContainsFunc(groups, func(g group) bool {
		if !g.stored || g.deletes && t.Name != "" && t.Name != g.line.Name {
			return false
		}
		if !strings.HasPrefix(path, "/") { // it was the directory of another request
			at.path = g.place.path
		}
		return g.place == at
	})
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
