package stickiness

import (
	"fmt"
	"net/http"

	"github.com/stickylb/stickylb/cookie"
)

// RewriteCookieOptions configure a [RewriteCookie].
type RewriteCookieOptions struct {
	// Cookie is the name of the application's cookie. It is required.
	Cookie string

	// Codec converts a value to a target's ID and back, such as a [cookie.InsecureHAProxy] without
	// limits. It is required.
	Codec cookie.Codec

	// KeepCacheable leaves Cache-Control and its relatives as the backend wrote them.
	// Otherwise a response with a rewritten cookie is made private, and CDN-Cache-Control and
	// Surrogate-Control are removed.
	KeepCacheable bool
}

// A RewriteCookie binds clients by a cookie that the application sets for this purpose with any
// value. The balancer replaces the value by its own, as HAProxy's "cookie NAME rewrite" does. The
// application decides who is bound, for how long and for which paths. A response without the cookie
// binds nobody, even after a failover.
//
// The value is as secret as the codec makes it. The backend sees it.
//
// A RewriteCookie implements [Policy], is immutable and safe for concurrent use.
type RewriteCookie struct {
	ring
	name          string
	keepCacheable bool
}

// NewRewriteCookie returns a policy that rewrites the application's cookie. It returns an error for
// an invalid name, and without a Codec.
func NewRewriteCookie(o RewriteCookieOptions) (*RewriteCookie, error) {
	if err := checkAppName(o.Cookie); err != nil {
		return nil, fmt.Errorf("stickiness: RewriteCookie: %w", err)
	}
	if err := checkCodec(o.Codec); err != nil {
		return nil, fmt.Errorf("stickiness: RewriteCookie: %w", err)
	}
	return &RewriteCookie{ring{codec: o.Codec}, o.Cookie, o.KeepCacheable}, nil
}

// Lookup implements [Policy]. It reads the first 64 different values of the cookie.
func (p *RewriteCookie) Lookup(r *http.Request, found []Candidate) []Candidate {
	var few [4]string
	n := len(found)
	for _, value := range addValues(few[:0], r.Header, p.name) {
		t, _, why := p.open(value)
		found = append(found, Candidate{Target: t.Target, Reason: why, Issued: t.Issued, Session: sessionOf(&t)})
	}
	rank(found[n:])
	return found
}

// Bind implements [Policy]. It puts the value of the target that answered into each line that sets
// or deletes the cookie. It does not change lines that browsers drop.
func (p *RewriteCookie) Bind(b *Binding) {
	bindLines(b, appName{text: p.name}, p.keepCacheable, func(line cookie.SetCookie, rest string) (string, bool) {
		ours, ok := p.value(line.Name, newTicket(b.Target))
		if !ok {
			b.Notices |= NoValue
		}
		return ours + rest[len(line.Value):], ok
	})
}
