package stickiness

import (
	"fmt"
	"net/http"

	"github.com/stickylb/stickylb/cookie"
)

// RewriteCookieOptions configure a [RewriteCookie].
type RewriteCookieOptions struct {
	// Cookie is the name of the application's cookie. It is needed.
	Cookie string

	// Codec turns a value into a target's ID and back, such as a [cookie.InsecureHAProxy]
	// without limits. It is needed.
	Codec cookie.Codec

	// KeepCacheable leaves Cache-Control and its relatives as the backend wrote them.
	// Otherwise a response with a rewritten cookie is made private, and CDN-Cache-Control and
	// Surrogate-Control are removed.
	KeepCacheable bool
}

// A RewriteCookie binds clients by a cookie that the application sets for this purpose, with
// any value: the balancer puts its own in the place of it. It is HAProxy's "cookie NAME
// rewrite": the application decides who is bound, for how long and where. A response without
// the cookie binds nobody, a failover included.
//
// The value is as secret as the codec makes it. The backend sees it.
//
// It implements [Policy], is immutable and safe for concurrent use.
type RewriteCookie struct {
	ring
	name          string
	keepCacheable bool
}

// NewRewriteCookie returns a policy that rewrites the application's cookie. It
// refuses a name that cannot be, and options without a Codec.
func NewRewriteCookie(o RewriteCookieOptions) (*RewriteCookie, error) {
	if err := checkAppName(o.Cookie); err != nil {
		return nil, fmt.Errorf("stickiness: RewriteCookie: %w", err)
	}
	if err := checkCodec(o.Codec); err != nil {
		return nil, fmt.Errorf("stickiness: RewriteCookie: %w", err)
	}
	return &RewriteCookie{ring{codec: o.Codec}, o.Cookie, o.KeepCacheable}, nil
}

// Lookup implements [Policy]. It looks at the first 64 values of cookies of the name.
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

// Bind implements [Policy]. It gives each line that sets or deletes the cookie the value of
// the target that answered. It leaves a line alone that browsers drop.
func (p *RewriteCookie) Bind(b *Binding) {
	bindLines(b, appName{text: p.name}, p.keepCacheable, func(line cookie.SetCookie, rest string) (string, bool) {
		ours, ok := p.value(line.Name, newTicket(b.Target))
		if !ok {
			b.Notices |= NoValue
		}
		return ours + rest[len(line.Value):], ok
	})
}
