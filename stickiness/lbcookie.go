package stickiness

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

const (
	// Skew is how far the clock of the instance that issued a cookie may be ahead of ours:
	// such a cookie is as good as a new one. With [LBCookieOptions].Enforce, a cookie from
	// further in the future is [Expired]; with Renew, it is written again.
	Skew = 10 * time.Minute

	// noticedSkew is from when on clocks that differ are noticed.
	noticedSkew = 5 * time.Second

	// renewAfter is the divisor of the period after which Renew writes a cookie again.
	renewAfter = 10
)

// LBCookieOptions configure an [LBCookie]. The zero value makes a browser-session cookie
// "AWSELB" with "Path=/".
type LBCookieOptions struct {
	// Name of the cookie. Empty means "AWSELB", or with a Scope "AWSELB-" and eight hex
	// digits of the scope's hash. Of two balancers in a row, each needs a name of its own: the
	// outer one drops what the inner one sets under the same.
	Name string

	// Path of the cookie; empty means "/". PathSpelling says how an underscore is written. A
	// response to a request outside of the Path binds nobody: its client had no cookie to
	// send. Compared is the path that the client has sent, before a handler changes it.
	Path         string
	PathSpelling PathSpelling

	// Domain of the cookie; empty means the host that set it, and that host alone. A response
	// for a host that the Domain does not cover binds nobody.
	Domain string

	// Scope is what the binding is good for, such as a listener's backend port or a pool's
	// name. It is sealed into the value: a cookie of another scope is not usable. With a
	// Codec, which has its own scope, it is part of the default name only. Balancers in a row
	// with different Scopes and no Name have different names.
	Scope string

	// Period is how long the cookie lasts, rounded up to seconds. Zero makes a cookie that
	// ends with the browser's session. A negative one is refused. Browsers cap it at 400 days.
	Period time.Duration

	// Renew writes the cookie again, for a whole Period, on the first response after a
	// tenth of the Period (at least a second) has passed: the session ends when the client
	// has been away, not a Period after it began. Off, the expiry stays where it was set.
	// With a Codec that keeps no issue time it is written on every response.
	Renew bool

	// Enforce has the balancer check what otherwise only the client does: a cookie issued
	// longer ago than the Period, or more than [Skew] in the future, is [Expired]. So is one
	// without an issue time, unless one of the Former codecs reads it.
	Enforce bool

	// The attributes of the same names. SameSite None and Partitioned need Secure.
	Secure      bool
	HttpOnly    bool
	SameSite    http.SameSite // zero and http.SameSiteDefaultMode: no attribute
	Partitioned bool

	// CORS says when the CORS twin is written.
	CORS CORSMode

	// KeepInRequest lets the backend see the cookie, and set or delete it. Otherwise the
	// cookie is removed from what the backend gets, and a line of the backend's that sets
	// one of that name from what the client gets: it would end the session.
	KeepInRequest bool

	// Preserve has our cookie yield to the backend's: a response in which the backend itself
	// sets or deletes a cookie of the name passes with that line, and nothing else is set. So
	// an application can end the stickiness, as under HAProxy's "preserve", or choose the
	// target if it knows the values. Otherwise such a line is removed, or, with
	// KeepInRequest, is one of two.
	Preserve bool

	// KeepCacheable leaves Cache-Control and its relatives as the backend wrote them.
	// Otherwise a response that sets the cookie is made private, and CDN-Cache-Control and
	// Surrogate-Control are removed.
	KeepCacheable bool

	// Keys are the keys of the default codec, [cookie.Sealed]: 32 random octets each, the
	// first seals, all open. Without any, a random one is made: then a second instance, or
	// this one after a restart, knows none of the sessions. To replace keys while the policy
	// serves, give a [cookie.Sealed] as Codec and call its Store.
	Keys [][]byte

	// Codec is used instead of the default one. Keys must be empty then. One that
	// [cookie.NewSealed] made without keys ends with the process as well, and nothing says so.
	Codec cookie.Codec

	// Former are codecs that wrote the cookie in the past. A value that only they can read
	// is usable and is replaced at once by one of the codec in use.
	Former []cookie.Codec
}

// An LBCookie binds clients by a cookie of the balancer's own, for a period or for the
// browser's session: duration-based stickiness. A response to a client without a usable
// cookie sets it, for the target that answered; a response to a bound client sets nothing,
// unless the value must be replaced (another key or codec, [LBCookieOptions].Renew) or
// another target answered.
//
// It implements [Policy] and [Forwarder], is immutable and safe for concurrent use.
type LBCookie struct {
	ring
	cors          CORSMode
	period        int64 // seconds; 0: the browser's session
	renew         bool
	enforce       bool
	preserve      bool
	keepCacheable bool
	secure        bool
	path          string // "%5F" written as "_"
	domain        string // lower case, without a dot in front; empty: any host
	name          string
	twin          string   // "": no twin
	strip         []string // names that the backend neither sees nor sets
	lines         []lbLine // of the first cookie, one per spelling of the path
	twinLines     []lbLine
}

// NewLBCookie returns a policy with these options. It refuses a negative Period, names
// and attributes that cannot be written, and combinations that browsers would drop; the
// error says which condition fails.
func NewLBCookie(o LBCookieOptions) (*LBCookie, error) {
	name, path := nameFor(o.Name, o.Scope), o.Path
	if path == "" {
		path = "/"
	}
	if err := o.check(name, path); err != nil {
		return nil, fmt.Errorf("stickiness: LBCookie: %w", err)
	}
	r, err := newRing(o.Scope, o.Keys, o.Codec, o.Former)
	if err != nil {
		return nil, fmt.Errorf("stickiness: LBCookie: %w", err)
	}
	c := &LBCookie{
		ring:          r,
		cors:          o.CORS,
		period:        int64(o.Period / time.Second),
		renew:         o.Renew,
		enforce:       o.Enforce,
		preserve:      o.Preserve,
		keepCacheable: o.KeepCacheable,
		secure:        o.Secure,
		path:          plainPath(path),
		domain:        strings.ToLower(strings.TrimPrefix(o.Domain, ".")),
		name:          name,
	}
	if o.Period%time.Second > 0 {
		c.period++
	}
	strip := []string{name}
	if o.CORS == CORSAlways || o.CORS == CORSAuto && o.SameSite != http.SameSiteNoneMode {
		c.twin = name + twinSuffix
		strip = append(strip, c.twin)
	}
	if !o.KeepInRequest {
		c.strip = strip
	}
	c.lines, c.twinLines = o.lines(name, c.twin, path)
	for _, l := range slices.Concat(c.lines, c.twinLines) {
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("stickiness: LBCookie: %w", err)
		}
	}
	return c, nil
}

// Lookup implements [Policy]. It looks at the first 64 different values of the cookie and
// its twin. The one that was issued last is the best; among equals it is one of the first
// cookie, or on a cross-origin request one of the twin, and then the first that was sent.
// If the cookie and its twin disagree, the best is due to be written again.
func (c *LBCookie) Lookup(r *http.Request, found []Candidate) []Candidate {
	if len(r.Header["Cookie"]) == 0 {
		return found
	}
	names := [2]string{c.name, c.twin}
	if c.twin != "" && crossOrigin(r) {
		names = [2]string{c.twin, c.name}
	}
	var few [4]string
	values := few[:0]
	for _, name := range names {
		if name != "" {
			values = addValues(values, r.Header, name)
		}
	}
	n := len(found)
	for _, value := range values {
		found = append(found, c.candidate(value))
	}
	if own := found[n:]; len(own) > 1 {
		disagree := c.disagree(r.Header, values, own)
		rank(own)
		if disagree {
			best := slices.IndexFunc(own, func(c Candidate) bool { return c.Reason == Usable })
			own[best].Renew = true
		}
	}
	return found
}

// disagree reports whether the best candidate of the cookie and that of its twin name
// different targets. seen has the candidate of each value. A stale cookie of another path
// does not count: nothing that is written overwrites it.
func (c *LBCookie) disagree(h http.Header, values []string, seen []Candidate) bool {
	if c.twin == "" || sameTarget(seen) {
		return false
	}
	var best [2]*Candidate
	for i, name := range [2]string{c.name, c.twin} {
		for value := range cookie.Values(h, name) {
			j := slices.Index(values, cookie.Unquote(value))
			if j < 0 {
				break // this one was not looked at, nor are those behind it
			}
			if seen[j].Reason == Usable && (best[i] == nil || seen[j].Issued.After(best[i].Issued)) {
				best[i] = &seen[j]
			}
		}
	}
	return best[0] != nil && best[1] != nil && best[0].Target != best[1].Target
}

// sameTarget reports whether all usable candidates name one target.
func sameTarget(found []Candidate) bool {
	target := ""
	for i := range found {
		if found[i].Reason != Usable {
			continue
		}
		if target != "" && target != found[i].Target {
			return false
		}
		target = found[i].Target
	}
	return true
}

// candidate says what a value is good for.
func (c *LBCookie) candidate(value string) Candidate {
	t, former, why := c.open(value)
	if why != Usable {
		return Candidate{Reason: why}
	}
	found := Candidate{Target: t.Target, Renew: t.OldKey || former, Issued: t.Issued, Session: sessionOf(&t)}
	undated := former && t.Issued.IsZero() // a format without dates, about to be replaced
	if (c.renew || c.enforce) && !undated {
		age := time.Now().Unix() - t.Issued.Unix()
		if age <= -int64(noticedSkew/time.Second) {
			found.Notices |= FutureValue
		}
		ahead := -age > int64(Skew/time.Second)
		if c.enforce && (age > c.period || ahead) {
			return Candidate{Reason: Expired}
		}
		found.Renew = found.Renew || c.renew && (age >= max(1, c.period/renewAfter) || ahead)
	}
	return found
}

// left returns for how many seconds a cookie issued then shall still last, zero for the
// browser's session, and whether it lasts at all.
func (c *LBCookie) left(issued, now time.Time) (seconds int64, lasts bool) {
	if c.period == 0 {
		return 0, true
	}
	seconds = min(c.period, issued.Unix()+c.period-now.Unix())
	return seconds, seconds > 0
}

// Bind implements [Policy]. A value that is replaced for its key or codec alone keeps its
// issue time and its expiry; one for which nothing is left is not replaced. If the codec
// has no value for the target that a cookie can have, nothing is written.
func (c *LBCookie) Bind(b *Binding) {
	b.Result = Kept
	if !c.preserve {
		dropOwn(b.Header, c.strip...)
	}
	if b.From != nil {
		b.Notices |= b.From.Notices
	}
	if c.preserve && c.yields(b) {
		return
	}
	if b.Detour || b.From != nil && b.From.Target == b.Target && !b.From.Renew {
		return
	}
	if b.updates() || !c.covers(b.Request) {
		return
	}
	now := time.Now()
	t := cookie.Ticket{Target: b.Target, Issued: now.Truncate(time.Second), Session: newSession(b)}
	result, seconds, lasts := Bound, c.period, true
	if b.From != nil && b.From.Target == b.Target {
		result = Renewed
		if !c.renew && !b.From.Issued.IsZero() {
			t.Issued, t.Seen = b.From.Issued, now.Truncate(time.Second)
			seconds, lasts = c.left(t.Issued, now)
		}
	} else if b.From != nil {
		t.Issued = newest(b, now)
	}
	if !lasts {
		return
	}
	value, ok := c.value(c.name+twinSuffix, &t)
	if !ok {
		b.Notices |= NoValue
		return
	}
	b.Notices |= c.notices
	if b.TLS && !c.secure {
		b.Notices |= NotSecure
	}
	c.write(b, value, lifetime(seconds, now))
	b.Result = result
}

// yields reports whether the backend itself sets or deletes the cookie, and takes that for
// the binding.
func (c *LBCookie) yields(b *Binding) bool {
	for _, raw := range slices.Backward(b.Header["Set-Cookie"]) {
		line, ok := setsCookie(raw, c.name)
		if !ok && c.twin != "" {
			line, ok = setsCookie(raw, c.twin)
		}
		if !ok {
			continue
		}
		now := time.Now()
		at, session := line.ExpiryDated(now, b.date())
		t, _, why := c.open(cookie.Unquote(line.Value))
		switch {
		case !session && !at.After(now) || why != Usable:
			b.Result = Freed
		case b.From != nil && b.From.Target == t.Target:
			b.Result = Renewed
		default:
			b.Result = Bound
		}
		if !c.keepCacheable && !b.updates() {
			privatize(b.Header)
		}
		return true
	}
	return false
}

// covers reports whether the client would send the cookie with such a request.
func (c *LBCookie) covers(r *http.Request) bool {
	if c.path != "/" && !pathMatches(plainPath(targetPath(r)), c.path) {
		return false
	}
	return c.domain == "" || domainMatches(r.Host, c.domain)
}

// write adds the Set-Cookie lines to the response.
func (c *LBCookie) write(b *Binding, value, lifetime string) {
	lines := c.lines
	if c.wantsTwin(b) {
		lines = append(lines[:len(lines):len(lines)], c.twinLines...)
	}
	set := make([]string, 0, len(b.Header["Set-Cookie"])+len(lines))
	set = append(set, b.Header["Set-Cookie"]...)
	for i := range lines {
		l := &lines[i]
		set = append(set, l.head+value+l.scope+lifetime+l.flags)
	}
	b.Header["Set-Cookie"] = set
	if !c.keepCacheable {
		privatize(b.Header)
	}
}

// wantsTwin reports whether the twin is written with the first cookie.
func (c *LBCookie) wantsTwin(b *Binding) bool {
	if c.twin == "" {
		return false
	}
	return c.cors == CORSAlways || b.TLS || crossOrigin(b.Request) || carries(cookie.Values(b.Request.Header, c.twin))
}

// Inform implements [Informer]: a line by which the backend sets a cookie of the name or of
// the twin's does not pass in a 1xx response either.
func (c *LBCookie) Inform(h http.Header) { dropOwn(h, c.strip...) }

// Forward implements [Forwarder]: it removes the cookie and its twin from the request.
func (c *LBCookie) Forward(out *http.Request, _ []Candidate) {
	if c.strip != nil {
		cookie.Remove(out.Header, c.strip...)
	}
}
