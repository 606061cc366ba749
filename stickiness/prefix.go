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
	// Cookie is the name of the application's cookie. It is needed.
	Cookie string

	// Codec turns a prefix into a target's ID and back, such as a [cookie.InsecureTable]. It
	// is needed.
	Codec cookie.Codec

	// KeepCacheable leaves Cache-Control and its relatives as the backend wrote them.
	// Otherwise a response with a prefixed cookie is made private, and CDN-Cache-Control and
	// Surrogate-Control are removed.
	KeepCacheable bool
}

// A PrefixCookie binds clients by a prefix in front of the value of a cookie of the
// application, as in "app-1~0123ABCD", which the backend never sees. It is HAProxy's
// "cookie NAME prefix": for clients that keep one cookie only, and to take sessions over
// from HAProxy or share them with it. [AppCookie] does more: here a client whose target
// cannot serve is bound to another when the application sets its cookie again, not before.
//
// The prefix is as secret as the codec makes it.
//
// It implements [Policy] and [Forwarder], is immutable and safe for concurrent use.
type PrefixCookie struct {
	ring
	name          string
	keepCacheable bool
}

// NewPrefixCookie returns a policy that puts prefixes into the application's cookie. It
// refuses a name that cannot be, and options without a Codec.
func NewPrefixCookie(o PrefixCookieOptions) (*PrefixCookie, error) {
	if err := checkAppName(o.Cookie); err != nil {
		return nil, fmt.Errorf("stickiness: PrefixCookie: %w", err)
	}
	if err := checkCodec(o.Codec); err != nil {
		return nil, fmt.Errorf("stickiness: PrefixCookie: %w", err)
	}
	return &PrefixCookie{ring{codec: o.Codec}, o.Cookie, o.KeepCacheable}, nil
}

// Lookup implements [Policy]. It looks at the first 64 prefixes of cookies of the name. A
// value without a tilde is taken for a prefix alone.
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

// Bind implements [Policy]. It puts the prefix of the target that answered into each line
// that sets or deletes the application's cookie. It leaves a line alone that browsers
// drop, or would drop with the prefix because of its size.
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

// bindLines gives each line of the application's cookie another value, and leaves the rest
// of the line as it is, byte for byte. edit gets what is behind the "=" and the whitespace
// after it, and returns what stands there instead, if anything.
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

// resultOf says what the lines of the application's cookie do to the client's binding.
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

// Inform implements [Informer]: the application's cookie does not pass in a 1xx response, where
// it would have no prefix.
func (p *PrefixCookie) Inform(h http.Header) { dropOwn(h, p.name) }

// Forward implements [Forwarder]: it removes the prefix from the request's cookies of the
// name, that of an unknown target, too.
func (p *PrefixCookie) Forward(out *http.Request, _ []Candidate) {
	cookie.StripHAProxyPrefix(out.Header, p.name)
}
