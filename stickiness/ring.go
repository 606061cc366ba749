package stickiness

import (
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// maxTried bounds how many values of one request are tried, because a client may send any number.
const maxTried = 64

// addTried appends v to the values to try if it is new and there are fewer than maxTried. So an
// equal second cookie, such as the CORS twin, is not decoded again. Nothing else limits how many
// values of cookies are tried for a request.
func addTried[T any](tried []T, v T, isSame func(T) bool) []T {
	if len(tried) >= maxTried || slices.ContainsFunc(tried, isSame) {
		return tried
	}
	return append(tried, v)
}

// addValues appends the values of the cookies of that name, without quotes.
func addValues(values []string, h http.Header, name string) []string {
	for value := range cookie.Values(h, name) {
		values = addValue(values, cookie.Unquote(value))
	}
	return values
}

func addValue(values []string, value string) []string {
	return addTried(values, value, func(v string) bool { return v == value })
}

// rank sorts the usable candidates of one policy: the newest issue time first, and those without a
// time last. The sort is stable. Unusable candidates keep their places.
func rank(found []Candidate) {
	if len(found) < 2 {
		return
	}
	var usable []Candidate
	for _, c := range found {
		if c.Reason == Usable {
			usable = append(usable, c)
		}
	}
	slices.SortStableFunc(usable, func(a, b Candidate) int { return b.Issued.Compare(a.Issued) })
	for i := range found {
		if found[i].Reason == Usable {
			found[i], usable = usable[0], usable[1:]
		}
	}
}

// A ring has a policy's codecs. The current codec writes and reads values; former codecs only read
// them.
type ring struct {
	codec   cookie.Codec
	former  []cookie.Codec
	notices Notices // for each cookie that is written
}

// newRing returns the ring for a policy's options.
func newRing(scope string, keys [][]byte, codec cookie.Codec, former []cookie.Codec) (ring, error) {
	if slices.ContainsFunc(former, isNil[cookie.Codec]) {
		return ring{}, errors.New("nil codec in Former")
	}
	r := ring{codec: codec, former: slices.Clone(former)}
	if codec != nil {
		if err := checkCodec(codec); err != nil {
			return ring{}, err
		}
		if len(keys) > 0 {
			return ring{}, errors.New("both Keys and a Codec, which has its own keys")
		}
		return r, nil
	}
	sealed, err := cookie.NewSealed(cookie.SealedOptions{Scope: scope, Keys: keys})
	if err != nil {
		return ring{}, fmt.Errorf("invalid Keys: %w", err)
	}
	r.codec = sealed
	if len(keys) == 0 {
		r.notices = RandomKey
	}
	return r, nil
}

// checkCodec returns an error if the codec is nil or a nil pointer.
func checkCodec(c cookie.Codec) error {
	switch {
	case c == nil:
		return errors.New("no Codec")
	case isNil(c):
		return fmt.Errorf("the Codec is a nil %T", c)
	}
	return nil
}

// open returns the ticket of a value, and whether a former codec read it. If no codec can read it,
// the reason is that of the first codec which does not call it malformed.
func (r *ring) open(value string) (t cookie.Ticket, former bool, why Reason) {
	t, err := r.codec.Decode(value)
	if err == nil && t.Target != "" {
		return t, false, Usable
	}
	why = reasonOf(err)
	for _, c := range r.former {
		t, err := c.Decode(value)
		if err == nil && t.Target != "" {
			return t, true, Usable
		}
		if why == Malformed {
			why = reasonOf(err)
		}
	}
	return cookie.Ticket{}, false, why
}

// A claim is a value that names a target, with the application's session ID that came with it.
// session is empty if there is none.
type claim struct{ value, session string }

// addClaim appends a value if it is new and there is room. If several sessions have one value, the
// first session counts.
func addClaim(values []claim, value, session string) []claim {
	return addTried(values, claim{value, session}, func(c claim) bool { return c.value == value })
}

// candidates appends the candidates for the values to found.
func (r *ring) candidates(values []claim, found []Candidate) []Candidate {
	for _, n := range values {
		t, _, why := r.open(n.value)
		c := Candidate{Target: t.Target, Reason: why, Issued: t.Issued}
		if why == Usable {
			c.Session = hashOf(n.session)
		}
		found = append(found, c)
	}
	return found
}

// value returns the value of a ticket for a cookie of that name. ok is false if the codec returns
// an error or an unusable value. A value is unusable if a cookie cannot have it, if it is too
// large, or if it is in quotes, because clients add and remove quotes.
func (r *ring) value(name string, t *cookie.Ticket) (value string, ok bool) {
	value, err := r.codec.Encode(t)
	if err != nil || value == "" || len(name)+len(value) > cookie.MaxSize || strings.ContainsFunc(value, notPrintable) || cookie.Unquote(value) != value {
		return "", false
	}
	return value, true
}

// notPrintable reports whether c is not allowed in a cookie's value or attribute.
func notPrintable(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f || c == ';' }

// reasonOf returns the reason for a codec's error. Unknown errors, and nil for an empty target,
// mean a malformed value.
func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, cookie.ErrForged):
		return Forged
	case errors.Is(err, cookie.ErrUnknownKey):
		return UnknownKey
	case errors.Is(err, cookie.ErrScope):
		return OtherScope
	case errors.Is(err, cookie.ErrExpired):
		return Expired
	case errors.Is(err, cookie.ErrUnknownTarget):
		return UnknownTarget
	default:
		return Malformed
	}
}

// carries reports whether values yields anything.
func carries(values iter.Seq[string]) bool {
	for range values {
		return true
	}
	return false
}
