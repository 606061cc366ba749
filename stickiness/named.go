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

// NamedOptions configure a [Named].
type NamedOptions struct {
	// From has the sources of the value. The first value that is not empty counts. At least one
	// source is required.
	From []Source

	// Codec converts the value to a target's ID and back. Either Codec or InsecurePlain is
	// required.
	Codec cookie.Codec

	// InsecurePlain uses the value itself as the target's ID, in place of a Codec. It is insecure
	// because clients see the IDs and choose their target. Use it where a trusted party in front of
	// the balancer sets the value.
	InsecurePlain bool

	// Announce is the response header that tells a client its value when the value has changed.
	// Empty means none: clients get the value in some other way. Announce replaces the values that
	// the response has for this header. So a header that frames the message, such as
	// Content-Length, is refused.
	Announce string
}

// framing has the headers by which HTTP/1.1 delimits messages and controls the connection (RFC 9112
// section 6, RFC 9110 section 7.6.1).
var framing = map[string]bool{"Connection": true, "Content-Length": true, "Keep-Alive": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true}

// A Named binds a request to the target that a value in it names: a header, a query or path
// parameter, or a wildcard of the route. It sets no cookie, so it also serves clients that keep
// none.
//
// A Named implements [Policy], is immutable and safe for concurrent use.
type Named struct {
	ring
	from     []Source
	announce string
}

// NewNamed returns a policy with these options. It returns an error without a source, for both or
// neither of Codec and InsecurePlain, and for an Announce that is not allowed.
func NewNamed(o NamedOptions) (*Named, error) {
	switch {
	case len(o.From) == 0 || slices.ContainsFunc(o.From, func(s Source) bool { return s == nil }):
		return nil, errors.New("stickiness: Named: no source in From, or a nil one")
	case (o.Codec != nil) == o.InsecurePlain:
		return nil, errors.New("stickiness: Named: want either a Codec or InsecurePlain")
	case strings.ContainsFunc(o.Announce, notToken):
		return nil, fmt.Errorf("stickiness: Named: invalid header name %q in Announce", o.Announce)
	case framing[http.CanonicalHeaderKey(o.Announce)]:
		return nil, fmt.Errorf("stickiness: Named: Announce is %s, which frames the response", o.Announce)
	}
	codec := o.Codec
	if o.InsecurePlain {
		codec = plainCodec{}
	}
	if err := checkCodec(codec); err != nil {
		return nil, fmt.Errorf("stickiness: Named: %w", err)
	}
	return &Named{ring{codec: codec}, slices.Clone(o.From), o.Announce}, nil
}

// Lookup implements [Policy].
func (p *Named) Lookup(r *http.Request, found []Candidate) []Candidate {
	value := firstValue(p.from, r)
	if value == "" {
		return found
	}
	if len(value) > cookie.MaxSize {
		return append(found, Candidate{Reason: Malformed})
	}
	t, _, why := p.open(value)
	return append(found, Candidate{Target: t.Target, Reason: why, Renew: t.OldKey})
}

// Bind implements [Policy]. It makes a response that announces a value private, so that shared
// caches do not store it.
func (p *Named) Bind(b *Binding) {
	b.Result = Kept
	same := b.From != nil && b.From.Target == b.Target
	if p.announce == "" || b.Detour || same && !b.From.Renew || b.updates() {
		return
	}
	value, ok := p.value("", &cookie.Ticket{Target: b.Target, Issued: time.Now().Truncate(time.Second)})
	if !ok {
		b.Notices |= NoValue
		return
	}
	b.Header.Set(p.announce, value)
	privatize(b.Header)
	b.Result = Bound
	if same {
		b.Result = Renewed
	}
}

// plainCodec uses a target's ID as the value.
type plainCodec struct{}

func (plainCodec) Encode(t *cookie.Ticket) (string, error) { return t.Target, nil }

func (plainCodec) Decode(value string) (cookie.Ticket, error) {
	return cookie.Ticket{Target: value}, nil
}
