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
	// Skew is how far the clock of the instance that issued a cookie may be ahead of this machine's
	// clock. Such a cookie counts as new. A cookie from further in the future is [Expired] with
	// [LBCookieOptions].Enforce, and is written again with Renew.
	Skew = 10 * time.Minute

	// noticedSkew is the smallest difference between clocks that causes a notice.
	noticedSkew = 5 * time.Second

	// renewAfter says after which part of the period Renew writes a cookie again:
	// Period/renewAfter.
	renewAfter = 10
)

// LBCookieOptions configure an [LBCookie]. The zero value makes a cookie "AWSELB" with "Path=/"
// that ends with the browser's session.
type LBCookieOptions struct {
	// Name is the name of the cookie. Empty means "AWSELB" or, with a Scope, "AWSELB-" and eight
	// hex digits of the scope's hash. Two balancers in a row need different names: the outer one
	// removes the cookies that the inner one sets under the same name.
	Name string

	// Path is the path of the cookie; empty means "/". PathSpelling says how an underscore in it is
	// written. A response to a request outside of the Path binds nobody, because its client could
	// not send a cookie. The path of a request is the one that the client sent, before a handler
	// changes it.
	Path         string
	PathSpelling PathSpelling

	// Domain is the domain of the cookie. Empty means only the host that set it. A response for a
	// host that the Domain does not cover binds nobody.
	Domain string

	// Scope is the area in which bindings are valid, such as a listener's backend port or a pool's
	// name. It is sealed into the value: a cookie of another scope cannot be used. With a Codec,
	// which has a scope of its own, Scope is only a part of the default name. Balancers in a row
	// that have different Scopes and no Name have different names.
	Scope string

	// Period is how long the cookie lasts, rounded up to seconds. Zero makes a cookie that ends
	// with the browser's session. A negative Period is refused. Browsers limit it to 400 days.
	Period time.Duration

	// Renew writes the cookie again for a whole Period, on the first response after a tenth of the
	// Period (at least a second) has passed. So the session ends when the client was away for a
	// Period. Without Renew it ends one Period after it began. With a Codec that does not keep the
	// issue time, Renew writes the cookie on every response.
	Renew bool

	// Enforce makes the balancer check the age of cookies, which otherwise only the client does. A
	// cookie that was issued longer ago than the Period, or more than [Skew] in the future, is
	// [Expired]. So is a cookie without an issue time, unless a codec of Former reads it.
	Enforce bool

	// Secure, HttpOnly, SameSite and Partitioned set the attributes of the same names. SameSite
	// None and Partitioned need Secure.
	Secure      bool
	HttpOnly    bool
	SameSite    http.SameSite // zero and http.SameSiteDefaultMode: no attribute
	Partitioned bool

	// CORS says when the CORS twin is written.
	CORS CORSMode

	// KeepInRequest lets the backend see the cookie, and set or delete it. Otherwise the cookie is
	// removed from requests, and backend lines that set a cookie of that name are removed from
	// responses, because they would end the session.
	KeepInRequest bool

	// Preserve gives precedence to the backend: if a response of the backend sets or deletes a
	// cookie of that name, the line passes and the policy sets nothing. So an application can end
	// the stickiness, as with HAProxy's "preserve", or choose the target if it knows the values.
	// Without Preserve, such a line is removed, or sent with the policy's own line if KeepInRequest
	// is set.
	Preserve bool

	// KeepCacheable leaves Cache-Control, CDN-Cache-Control and Surrogate-Control as the backend
	// wrote them. Otherwise a response that sets the cookie is made private, and the latter two are
	// removed.
	KeepCacheable bool

	// Keys are the keys of the default codec, [cookie.Sealed], each of 32 random octets. The first
	// one seals; all of them open. Without keys, a random one is made: then other instances cannot
	// read the cookies, and a restart loses all sessions. To replace keys while the policy serves,
	// set Codec to a [cookie.Sealed] and call its Store.
	Keys [][]byte

	// Codec replaces the default codec. It excludes Keys. A codec that [cookie.NewSealed] made
	// without keys loses all sessions at a restart, and no notice says so.
	Codec cookie.Codec

	// Former are codecs that wrote the cookie in the past. A value that only they can read is
	// usable. The next response replaces it by a value of the current codec.
	Former []cookie.Codec
}

// An LBCookie binds clients by a cookie of the balancer's own, for a period or for the browser's
// session (duration-based stickiness). If a client has no usable cookie, the response sets one for
// the target that answered. If the client is bound, the response sets the cookie again only if
// another target answered, or if the value must be replaced: because of another key or codec, or
// because of [LBCookieOptions].Renew.
//
// An LBCookie implements [Policy], [Forwarder] and [Informer], is immutable and safe for concurrent
// use.
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
	domain        string // lower case, without a leading dot; empty: any host
	name          string
	twin          string   // "": no twin
	strip         []string // names that the backend neither sees nor sets
	lines         []lbLine // of the first cookie, one per spelling of the path
	twinLines     []lbLine
}

// NewLBCookie returns a policy with these options. It returns an error for a negative Period, for
// names and attributes that cannot be written, and for combinations that browsers would refuse. The
// error says which rule is broken.
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

// Lookup implements [Policy]. It reads the first 64 different values of the cookie and its twin.
// The candidate that was issued last is the best. Among candidates with the same issue time, those
// of the cookie come before those of the twin; for a cross-origin request, those of the twin come
// first. Otherwise the order in the request decides. If the cookie and its twin disagree, Lookup
// sets Renew in the best candidate.
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

// disagree reports whether the best candidate of the cookie and the best of its twin name different
// targets. seen has the candidate of each value. Other candidates, such as an old cookie of another
// path, do not count: a new cookie would not overwrite them.
func (c *LBCookie) disagree(h http.Header, values []string, seen []Candidate) bool {
	if c.twin == "" || sameTarget(seen) {
		return false
	}
	var best [2]*Candidate
	for i, name := range [2]string{c.name, c.twin} {
		for value := range cookie.Values(h, name) {
			j := slices.Index(values, cookie.Unquote(value))
			if j < 0 {
				break // neither this value nor a later one was read
			}
			if seen[j].Reason == Usable && (best[i] == nil || seen[j].Issued.After(best[i].Issued)) {
				best[i] = &seen[j]
			}
		}
	}
	return best[0] != nil && best[1] != nil && best[0].Target != best[1].Target
}

// sameTarget reports whether all usable candidates name the same target.
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

// candidate returns the candidate for a value.
func (c *LBCookie) candidate(value string) Candidate {
	t, former, why := c.open(value)
	if why != Usable {
		return Candidate{Reason: why}
	}
	found := Candidate{Target: t.Target, Renew: t.OldKey || former, Issued: t.Issued, Session: sessionOf(&t)}
	undated := former && t.Issued.IsZero() // a former format without dates, which the response replaces
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

// left returns the remaining lifetime in seconds of a cookie that was issued at the given time, and
// whether it still lasts. seconds is zero for a cookie that ends with the browser's session.
func (c *LBCookie) left(issued, now time.Time) (seconds int64, lasts bool) {
	if c.period == 0 {
		return 0, true
	}
	seconds = min(c.period, issued.Unix()+c.period-now.Unix())
	return seconds, seconds > 0
}

// Bind implements [Policy]. A value that is replaced only because of its key or codec keeps its
// issue time and its expiry. It is not replaced if it has expired. If the codec has no usable value
// for the target, nothing is written.
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

// yields reports whether the backend itself sets or deletes the cookie. It then sets b.Result to
// what the backend's line does.
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

// wantsTwin reports whether the twin is written together with the first cookie.
func (c *LBCookie) wantsTwin(b *Binding) bool {
	if c.twin == "" {
		return false
	}
	return c.cors == CORSAlways || b.TLS || crossOrigin(b.Request) || carries(cookie.Values(b.Request.Header, c.twin))
}

// Inform implements [Informer]. It removes lines with which the backend sets the cookie or its
// twin.
func (c *LBCookie) Inform(h http.Header) { dropOwn(h, c.strip...) }

// Forward implements [Forwarder]. It removes the cookie and its twin from the request.
func (c *LBCookie) Forward(out *http.Request, _ []Candidate) {
	if c.strip != nil {
		cookie.Remove(out.Header, c.strip...)
	}
}
