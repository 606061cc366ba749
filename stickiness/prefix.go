package stickiness

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// PrefixCookieOptions configure a [PrefixCookie].
type PrefixCookieOptions struct {
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

// NewPrefixCookie returns a policy that puts prefixes into the application's cookie of
// that name. It refuses a name that cannot be, and options without a Codec.
func NewPrefixCookie(name string, o PrefixCookieOptions) (*PrefixCookie, error) {
	if err := checkAppName(name); err != nil {
		return nil, fmt.Errorf("stickiness: PrefixCookie: %w", err)
	}
	if o.Codec == nil {
		return nil, errors.New("stickiness: PrefixCookie: want a Codec")
	}
	return &PrefixCookie{ring{codec: o.Codec}, name, o.KeepCacheable}, nil
}

// Lookup implements [Policy]. It looks at the first 64 prefixes of cookies of the name. A
// value without a tilde is taken for a prefix alone.
func (p *PrefixCookie) Lookup(r *http.Request, found []Candidate) []Candidate {
	var few [4]string
	prefixes := few[:0]
	for value := range cookie.Values(r.Header, p.name) {
		if len(prefixes) == maxTried {
			break
		}
		prefix, _ := cookie.CutHAProxyPrefix(cookie.Unquote(value))
		prefixes = addValue(prefixes, prefix)
	}
	return p.candidates(prefixes, found)
}

// Bind implements [Policy]. It puts the prefix of the target that answered into each line
// that sets or deletes the application's cookie. It leaves a line alone that browsers
// drop, or would drop with the prefix because of its size.
func (p *PrefixCookie) Bind(b *Binding) {
	b.Result = Kept
	var set []string
	for i, raw := range b.Header["Set-Cookie"] {
		line, prefixed, ok := p.prefixed(raw, b.Target)
		if !ok {
			continue
		}
		if set == nil {
			set = slices.Clone(b.Header["Set-Cookie"])
		}
		set[i] = prefixed
		b.Result = p.result(b, line)
	}
	if set == nil {
		return
	}
	b.Header["Set-Cookie"] = set
	if !p.keepCacheable {
		privatize(b.Header)
	}
}

// prefixed returns a Set-Cookie line with the prefix of the target, byte for byte the same
// otherwise.
func (p *PrefixCookie) prefixed(raw, target string) (line cookie.SetCookie, prefixed string, ok bool) {
	line, err := cookie.ParseSetCookie(raw)
	if err != nil || line.Name != p.name {
		return line, "", false
	}
	prefix, ok := p.value(line.Name+"~"+line.Value, &cookie.Ticket{Target: target, Issued: time.Now().Truncate(time.Second)})
	if !ok || strings.Contains(prefix, "~") {
		return line, "", false
	}
	name, rest, _ := strings.Cut(raw, "=")
	value := strings.TrimLeft(rest, " \t")
	return line, name + "=" + rest[:len(rest)-len(value)] + cookie.AddHAProxyPrefix(prefix, value), true
}

// result says what a line does to the client's binding.
func (p *PrefixCookie) result(b *Binding, line cookie.SetCookie) Result {
	now := time.Now()
	at, session := line.Expiry(now)
	switch {
	case !session && !at.After(now):
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
