package stickiness

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// PrefixCookieOptions configure a [PrefixCookie].
type PrefixCookieOptions struct {
	// Cookie is the name of the application's cookie. It is required.
	Cookie string

	// Codec converts a prefix to a target's ID and back, such as a [cookie.InsecureTable]. It is
	// required.
	Codec cookie.Codec

	// KeepCacheable leaves Cache-Control and its relatives as the backend wrote them.
	// Otherwise a response with a prefixed cookie is made private, and CDN-Cache-Control and
	// Surrogate-Control are removed.
	KeepCacheable bool
}

// A PrefixCookie binds clients by a prefix that it puts in front of the value of a cookie of the
// application, as in "app-1~0123ABCD". The backend never sees the prefix. HAProxy calls this
// "cookie NAME prefix". Use it for clients that keep only one cookie, or to take over sessions from
// HAProxy or share them with it. Otherwise use [AppCookie], which binds a client to another target
// with the first response after a failover. A PrefixCookie does so only when the application sets
// its cookie again.
//
// The prefix is as secret as the codec makes it.
//
// A PrefixCookie implements [Policy], [Forwarder] and [Informer], is immutable and safe for
// concurrent use.
type PrefixCookie struct {
	ring
	name          string
	keepCacheable bool
}

// NewPrefixCookie returns a policy that puts prefixes into the application's cookie. It returns an
// error for an invalid name, and without a Codec.
func NewPrefixCookie(o PrefixCookieOptions) (*PrefixCookie, error) {
	if err := checkAppName(o.Cookie); err != nil {
		return nil, fmt.Errorf("stickiness: PrefixCookie: %w", err)
	}
	if err := checkCodec(o.Codec); err != nil {
		return nil, fmt.Errorf("stickiness: PrefixCookie: %w", err)
	}
	return &PrefixCookie{ring{codec: o.Codec}, o.Cookie, o.KeepCacheable}, nil
}

// Lookup implements [Policy]. It reads the first 64 different prefixes of the cookie. A value
// without a tilde counts as a prefix alone.
func (p *PrefixCookie) Lookup(r *http.Request, found []Candidate) []Candidate {
	var few [4]claim
	prefixes := few[:0]
	for value := range cookie.Values(r.Header, p.name) {
		value = cookie.Unquote(value)
		prefix, session := cookie.CutHAProxyPrefix(value)
		if session == value { // a prefix alone
			session = ""
		}
		prefixes = addClaim(prefixes, prefix, session)
	}
	return p.candidates(prefixes, found)
}

// Bind implements [Policy]. It puts the prefix of the target that answered into each line that sets
// or deletes the application's cookie. It does not change lines that browsers drop, or would drop
// with the prefix because of their size.
func (p *PrefixCookie) Bind(b *Binding) {
	bindLines(b, appName{text: p.name}, p.keepCacheable, func(line cookie.SetCookie, rest string) (string, bool) {
		prefix, ok := p.value(line.Name+"~"+line.Value, newTicket(b.Target))
		if !ok || strings.Contains(prefix, "~") {
			b.Notices |= NoValue
			return "", false
		}
		return cookie.AddHAProxyPrefix(prefix, rest), true
	})
}

// newTicket returns a ticket for a client that is bound now.
func newTicket(target string) *cookie.Ticket {
	return &cookie.Ticket{Target: target, Issued: time.Now().Truncate(time.Second)}
}

// bindLines replaces the value in each line of the application's cookie. edit gets the parsed line
// and the text after the "=" and its whitespace. It returns the new text, or false to leave the
// line as it is. Everything else stays the same byte for byte.
func bindLines(b *Binding, name appName, keepCacheable bool, edit func(line cookie.SetCookie, rest string) (string, bool)) {
	b.Result = Kept
	if b.updates() {
		return
	}
	var set []string
	for i, raw := range b.Header["Set-Cookie"] {
		line, ok := name.set(raw)
		if !ok {
			continue
		}
		head, rest, _ := strings.Cut(raw, "=")
		value := strings.TrimLeft(rest, " \t")
		if value, ok = edit(line, value); !ok {
			continue
		}
		if set == nil {
			set = slices.Clone(b.Header["Set-Cookie"])
		}
		set[i] = head + "=" + rest[:len(rest)-len(strings.TrimLeft(rest, " \t"))] + value
	}
	if set == nil {
		return
	}
	b.Header["Set-Cookie"] = set
	b.Result = resultOf(b, name)
	if !keepCacheable {
		privatize(b.Header)
	}
}

// resultOf returns what the lines of the application's cookie do to the client's binding.
func resultOf(b *Binding, name appName) Result {
	groups, _ := name.groups(b, func(string) bool { return true })
	switch {
	case !slices.ContainsFunc(groups, func(g group) bool { return !g.deletes }):
		return Freed
	case b.From != nil && b.From.Target == b.Target:
		return Renewed
	default:
		return Bound
	}
}

// Inform implements [Informer]. It removes the application's cookie from 1xx responses, where it
// would have no prefix.
func (p *PrefixCookie) Inform(h http.Header) { dropOwn(h, p.name) }

// Forward implements [Forwarder]. It removes the prefixes from the request's cookies of that name,
// including those of unknown targets.
func (p *PrefixCookie) Forward(out *http.Request, _ []Candidate) {
	cookie.StripHAProxyPrefix(out.Header, p.name)
}
