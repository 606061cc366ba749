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

// maxTried is how many values of one request are looked at. A client may send any number.
const maxTried = 64

// addTried adds v to the values of a request that are looked at, if it is new and there is room. So
// the second cookie with a value (the CORS twin, as a rule) costs no second opening. This is the
// only bound on what a client may have us try.
func addTried[T any](tried []T, v T, isSame func(T) bool) []T {
	if len(tried) >= maxTried || slices.ContainsFunc(tried, isSame) {
		return tried
	}
	return append(tried, v)
}

// addValues adds the values of the cookies of that name, without quotes around them.
func addValues(values []string, h http.Header, name string) []string {
	for value := range cookie.Values(h, name) {
		values = addValue(values, cookie.Unquote(value))
	}
	return values
}

func addValue(values []string, value string) []string {
	return addTried(values, value, func(v string) bool { return v == value })
}

// rank sorts the usable candidates of one policy: the newest issue time first, undated
// ones last, and equals as they were. Unusable ones stay in their places.
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

// A ring opens cookie values: with the codec that also writes them, else with one that
// wrote them formerly.
type ring struct {
	codec   cookie.Codec
	former  []cookie.Codec
	notices Notices // of each cookie that is written
}

// newRing returns the ring that a policy's options ask for.
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
			return ring{}, errors.New("both Keys and Codec, which has its own keys")
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

// checkCodec refuses a codec that is nil or a nil pointer.
func checkCodec(c cookie.Codec) error {
	switch {
	case c == nil:
		return errors.New("want a Codec")
	case isNil(c):
		return fmt.Errorf("the Codec is a nil %T", c)
	}
	return nil
}

// open returns the ticket in value, and whether a former codec opened it. The reason is
// that of the codec whose value it seems to be.
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

// A claim is a value that names a target, and the application's session ID that it came with. An
// empty session means none.
type claim struct{ value, session string }

// addClaim adds a value if it is new and there is room. Of several sessions with one value, the
// first one counts.
func addClaim(values []claim, value, session string) []claim {
	return addTried(values, claim{value, session}, func(c claim) bool { return c.value == value })
}

// candidates appends what the values say.
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

// value returns the value for a ticket in a cookie of that name. There is none if the codec
// has none, or one that no cookie can have or that stands in quotes, which clients add and
// remove, or that would make the cookie too large.
func (r *ring) value(name string, t *cookie.Ticket) (value string, ok bool) {
	value, err := r.codec.Encode(t)
	if err != nil || value == "" || len(name)+len(value) > cookie.MaxSize || strings.ContainsFunc(value, notPrintable) || cookie.Unquote(value) != value {
		return "", false
	}
	return value, true
}

// notPrintable reports whether c may not stand in a cookie's value or attribute.
func notPrintable(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f || c == ';' }

// reasonOf tells a codec's errors apart. What it does not know, an empty target included,
// is a malformed value.
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

// carries reports whether there is a value.
func carries(values iter.Seq[string]) bool {
	for range values {
		return true
	}
	return false
}
