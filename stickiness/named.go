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
	// From says where in a request the value is. The first one that is not empty counts. At
	// least one is needed.
	From []Source

	// Codec turns the value into a target's ID and back.
	Codec cookie.Codec

	// InsecurePlain takes the value itself for the target's ID, instead of a Codec. It is
	// insecure because clients see the IDs and choose their target. It is right where the
	// value comes from a trusted party in front of the balancer.
	InsecurePlain bool

	// Announce is a response header that tells a client its value whenever it has to use
	// another one than it did. Empty means none: clients get the value in some other way. It
	// replaces what the response has there, so a field of HTTP's own that frames the message,
	// such as Content-Length, is refused.
	Announce string
}

// framing are the fields by which HTTP/1.1 tells where a message ends and what its connection does
// (RFC 9112 section 6, RFC 9110 section 7.6.1).
var framing = map[string]bool{"Connection": true, "Content-Length": true, "Keep-Alive": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true}

// A Named binds a request to the target that a value in it names: a header, a query or
// path parameter, a wildcard of the route. It sets no cookie; clients that keep none can
// use it.
//
// It implements [Policy], is immutable and safe for concurrent use.
type Named struct {
	ring
	from     []Source
	announce string
}

// NewNamed returns a policy with these options. It refuses to have no source, and wants
// either a Codec or InsecurePlain.
func NewNamed(o NamedOptions) (*Named, error) {
	switch {
	case len(o.From) == 0 || slices.ContainsFunc(o.From, func(s Source) bool { return s == nil }):
		return nil, errors.New("stickiness: Named: From needs sources")
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

// Bind implements [Policy]. A response that announces a value is kept out of shared
// caches.
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

// plainCodec writes a target's ID as it is.
type plainCodec struct{}

func (plainCodec) Encode(t *cookie.Ticket) (string, error) { return t.Target, nil }

func (plainCodec) Decode(value string) (cookie.Ticket, error) {
	return cookie.Ticket{Target: value}, nil
}
