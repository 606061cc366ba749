package stickiness

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// AppCookieOptions configure an [AppCookie]. Cookie is required.
type AppCookieOptions struct {
	// Cookie is the name of the application's cookie. If it ends in a star, such as
	// "ASPSESSIONID*", it stands for all names that begin with the text before the star, unless
	// ExactName is set.
	Cookie string

	// Name is the name of the balancer's cookie. Empty means "AWSELB" or, with a Scope, "AWSELB-"
	// and eight hex digits of the scope's hash. A name with a prefix that requires attributes
	// ("__Host-", "__Secure-") is refused, because the application chooses the attributes. Two
	// balancers in a row need different names: the outer one removes the cookies that the inner one
	// sets under the same name.
	Name string

	// Scope is the area in which bindings are valid, such as a listener's backend port or a pool's
	// name. It is sealed into the value: a cookie of another scope cannot be used. With a Codec,
	// which has a scope of its own, Scope is only a part of the default name.
	Scope string

	// ExactName makes a star at the end of Cookie a part of the name.
	ExactName bool

	// PathSpelling says how an underscore in the application's Path is written. If the encoded path
	// would exceed 1024 octets, browsers would ignore it, and the path is written as it is.
	PathSpelling PathSpelling

	// AcceptTrailingSemicolon accepts Set-Cookie lines of the application that end in a semicolon.
	// Otherwise such a line passes to the client but is ignored for stickiness, as classic cloud
	// load balancers do.
	AcceptTrailingSemicolon bool

	// KeepInRequest lets the backend see the balancer's cookie, and set or delete it. Otherwise the
	// cookie is removed from requests, and backend lines that set a cookie of that name are removed
	// from responses, because they would end the session. With KeepInRequest, the client gets the
	// backend's line and then the balancer's. Of two with one path, browsers keep the second.
	KeepInRequest bool

	// KeepCacheable leaves Cache-Control, CDN-Cache-Control and Surrogate-Control as the backend
	// wrote them. Otherwise a response that sets or deletes the balancer's cookie is made private,
	// and the latter two are removed.
	KeepCacheable bool

	// Keys are the keys of the default codec, [cookie.Sealed], each of 32 random octets. The first
	// one seals; all of them open. Without keys, a random one is made: then other instances cannot
	// read the cookies, and a restart loses all sessions. To replace keys while the policy serves,
	// set Codec to a [cookie.Sealed] and call its Store.
	Keys [][]byte

	// Codec replaces the default codec. It excludes Keys. A codec that [cookie.NewSealed] made
	// without keys loses all sessions at a restart, and no notice says so. If the codec does not
	// keep attributes and expiry, the cookie that is written after a failover has neither.
	Codec cookie.Codec

	// Former are codecs that wrote the cookie in the past. A value that only they can read is
	// usable. It is replaced at once if its ticket has attributes or an expiry. Otherwise it is
	// replaced when the application sets its cookie again: without the application's Path, a new
	// cookie would not replace the old one but be stored for the directory of the request.
	Former []cookie.Codec
}

// An AppCookie binds clients for as long as a cookie of the application lasts
// (application-controlled stickiness). When a response sets the application's cookie, the policy
// also sets the balancer's cookie, with the same attributes. When a response deletes it, the policy
// deletes the balancer's, too. A request is bound if it carries both. If the bound target cannot
// serve, the session is bound to the target that answers, with the same attributes and expiry.
//
// An AppCookie implements [Policy], [Forwarder] and [Informer], is immutable and safe for
// concurrent use.
type AppCookie struct {
	ring
	app             appName
	name            string
	spelling        PathSpelling
	acceptSemicolon bool
	keepInRequest   bool
	keepCacheable   bool
}

// NewAppCookie returns a policy that follows the application's cookie. It returns an error for
// invalid names and for options that exclude each other. The error says which.
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

// Lookup implements [Policy]. It reads the first 64 different values of the balancer's cookie. The
// candidate that was issued last is the best. If the request lacks the application's cookie, the
// values make one candidate with the reason [NoAppCookie].
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

// keepCarried makes a candidate unusable if the request lacks the application's cookie that the
// candidate follows.
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

// Bind implements [Policy]. It follows the last four cookies of the application that the response
// sets or deletes, as long as the balancer's lines have at most 8 KiB.
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

// ruling returns the groups for which the balancer's cookie is written or deleted. If the
// application uses several names, all its cookies of one place share one cookie of the balancer.
// For one place, a group that sets a cookie takes precedence over a group that deletes another
// cookie. A deletion does not end a session that follows a cookie of another name.
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

// isOfAnother reports whether there are usable candidates and none of them follows the
// application's cookie of that name.
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

// covered reports whether browsers store one of the groups in the place of the cookie that the
// binding follows. A deletion of a cookie with another name does not count. But if the ticket does
// not have that place, every stored group counts.
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
		if !strings.HasPrefix(path, "/") { // the ticket has no path, so any path matches
			at.path = g.place.path
		}
		return g.place == at
	})
}

// Inform implements [Informer]. It removes lines with which the backend sets a cookie of the
// balancer's name. The application's own lines pass, and bind nobody.
func (c *AppCookie) Inform(h http.Header) {
	if !c.keepInRequest {
		dropOwn(h, c.name)
	}
}

// Forward implements [Forwarder]. It removes the balancer's cookie from the request.
func (c *AppCookie) Forward(out *http.Request, _ []Candidate) {
	if !c.keepInRequest {
		cookie.Remove(out.Header, c.name)
	}
}
