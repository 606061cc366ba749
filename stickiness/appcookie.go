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

// maxOwn is how many octets the lines of the balancer's cookie in one response may have.
const maxOwn = 8 << 10

// An answer is the balancer's part of one response. Its lines are collected from the last
// one to the first, so that the last ones stay if there is no room for all.
type answer struct {
	*AppCookie
	b     *Binding
	lines []string // backwards
	size  int
	full  bool // something had no room
}

// follow does to the balancer's cookie what the application did to its own.
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
		t.Target = b.From.Target // the session is the old one, which the response prolongs
	}
	result := Bound
	if b.From != nil && b.From.Target == t.Target {
		result = Renewed
	} else {
		t.Issued = newest(b, now)
	}
	a.set(&t, attributes, result)
}

// directory is the attribute of a ticket, and of no line, which says for what path browsers keep
// a cookie without a Path. A response for another path needs it to overwrite that cookie.
const directory = "Directory"

// withDirectory returns the attributes with the directory, if they have no Path that counts.
func withDirectory(attributes []cookie.Attribute, path string) []cookie.Attribute {
	given, _ := cookie.SetCookie{Attributes: attributes}.Attribute("Path")
	if strings.HasPrefix(given, "/") || len(path) > maxPath || strings.ContainsFunc(path, notPrintable) {
		return attributes
	}
	return append(slices.Clip(attributes), cookie.Attribute{Name: directory, Value: path})
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

// directoryOf returns the directory that a ticket has, and whether it has one.
func directoryOf(t *cookie.Ticket) (path string, ok bool) {
	path, ok = cookie.SetCookie{Attributes: t.Carried}.Attribute(directory)
	return path, ok && strings.HasPrefix(path, "/")
}

// withPath returns the attributes with that Path instead of what they have.
func withPath(attributes []cookie.Attribute, path string) []cookie.Attribute {
	kept := slices.DeleteFunc(slices.Clone(attributes), func(a cookie.Attribute) bool {
		return strings.EqualFold(a.Name, "Path")
	})
	return append(kept, cookie.Attribute{Name: "Path", Value: path})
}

// newest returns the issue time of a binding to another target: the present, or a second after
// the newest of those that the request came with, so that it wins over them.
func newest(b *Binding, now time.Time) time.Time {
	t := now.Truncate(time.Second)
	for i := range b.Seen {
		if s := &b.Seen[i]; s.Reason == Usable && !s.Issued.Before(t) {
			t = s.Issued.Add(time.Second)
		}
	}
	return t
}

// free deletes the balancer's cookie wherever one with these attributes can be.
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

// set writes the cookie for t. What a client would not store for its size, or the codec
// cannot encode, is left out of the ticket: comments first, then all attributes. If that
// does not help, nothing is written.
func (a *answer) set(t *cookie.Ticket, attributes []cookie.Attribute, result Result) {
	a.setSpelled(t, attributes, a.spelling, result)
}

// setSpelled is set with the path in another spelling.
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

// noticesOf returns what there is to say of a cookie with these attributes.
func (a *answer) noticesOf(attributes []cookie.Attribute) Notices {
	notices := a.notices
	if _, secure := (cookie.SetCookie{Attributes: attributes}).Attribute("Secure"); a.b.TLS && !secure {
		notices |= NotSecure
	}
	return notices
}

// add adds a line per spelling of the path if there is room for them.
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

// carriedNames are the attributes that go from the application's cookie to the balancer's.
var carriedNames = []string{"path", "port", "domain", "secure", "httponly", "discard", "max-age", "expires", "version", "comment", "commenturl", "samesite", "partitioned"}

// carriedOver returns the attributes that go from the application's cookie to the
// balancer's, as they were written. Of several of one name, the last one counts, as it does
// in browsers. It also holds back what a Set-Cookie line cannot express, which only a codec
// that does not authenticate could have handed out.
func carriedOver(attributes []cookie.Attribute) []cookie.Attribute {
	if len(attributes) == 0 {
		return nil
	}
	kept := make([]cookie.Attribute, 0, min(len(attributes), len(carriedNames)))
	var taken [16]bool
	for _, a := range slices.Backward(attributes) {
		i := slices.Index(carriedNames, strings.ToLower(a.Name))
		if i < 0 || taken[i] {
			continue
		}
		taken[i] = true
		if a.Bare || !strings.ContainsFunc(a.Value, notPrintable) {
			kept = append(kept, a)
		}
	}
	slices.Reverse(kept)
	return kept
}

func withoutComments(attributes []cookie.Attribute) []cookie.Attribute {
	return slices.DeleteFunc(slices.Clone(attributes), func(a cookie.Attribute) bool {
		return strings.EqualFold(a.Name, "Comment") || strings.EqualFold(a.Name, "CommentURL")
	})
}

// withLifetime returns the attributes with what is left of the lifetime, in seconds, in the
// place of each Max-Age that a client can read. If they have an Expires alone, it stays as it
// is unless the response's clock, which says date, is another than the one that it was written
// by. If they have no lifetime at all, because the ticket had no room for them, they get one.
func withLifetime(attributes []cookie.Attribute, left int64, now, date time.Time) []cookie.Attribute {
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
		return append(kept, cookie.Attribute{Name: "Max-Age", Value: seconds})
	}
	at, _ := cookie.SetCookie{Attributes: kept}.ExpiryDated(now, date)
	if off := at.Unix() - now.Unix() - left; -clocksDiffer <= off && off <= clocksDiffer {
		return kept
	}
	for i, a := range kept {
		if strings.EqualFold(a.Name, "Expires") {
			kept[i].Value = dateIn(left, now, date)
		}
	}
	return kept
}

// clocksDiffer is how many seconds two clocks are apart before they count as two.
const clocksDiffer = int64(noticedSkew / time.Second)

// dateIn returns the date in so many seconds, by the clock that says date if there is one.
func dateIn(seconds int64, now, date time.Time) string {
	if date.IsZero() {
		date = now
	}
	return time.Unix(date.Unix()+seconds, 0).UTC().Format(http.TimeFormat)
}

// spellAll returns the attributes, which have one Path at most, once per spelling of it.
func spellAll(attributes []cookie.Attribute, s PathSpelling) [][]cookie.Attribute {
	path, _ := cookie.SetCookie{Attributes: attributes}.Attribute("Path")
	all := make([][]cookie.Attribute, 0, 2)
	for _, p := range s.spellHeeded(path) {
		spelled := slices.Clone(attributes)
		for j, a := range spelled {
			if strings.EqualFold(a.Name, "Path") {
				spelled[j].Value = p
			}
		}
		all = append(all, spelled)
	}
	return all
}
