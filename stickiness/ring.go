package stickiness

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// maxTried is how many cookies of one name are looked at. A client may send any number.
const maxTried = 8

// A tried holds the cookie values of one request that were looked at, so that the second
// cookie with a value (the CORS twin, as a rule) costs no second opening.
type tried struct {
	values [2 * maxTried]string
	n      int
}

// add reports whether value is new.
func (t *tried) add(value string) bool {
	if slices.Contains(t.values[:t.n], value) {
		return false
	}
	t.values[t.n] = value
	t.n++
	return true
}

// A ring opens cookie values: with the codec that also writes them, else with one that
// wrote them formerly.
type ring struct {
	codec  cookie.Codec
	former []cookie.Codec
}

// newRing returns the ring that a policy's options ask for.
func newRing(scope string, keys [][]byte, codec cookie.Codec, former []cookie.Codec) (ring, error) {
	if slices.Contains(former, nil) {
		return ring{}, errors.New("nil codec in Former")
	}
	r := ring{codec: codec, former: slices.Clone(former)}
	if codec != nil {
		if len(keys) > 0 {
			return ring{}, errors.New("both Keys and Codec, which has its own keys")
		}
		return r, nil
	}
	sealed, err := cookie.NewSealed(scope, keys...)
	if err != nil {
		return ring{}, fmt.Errorf("invalid Keys: %w", err)
	}
	r.codec = sealed
	return r, nil
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

// value returns the value for a ticket in a cookie of that name. There is none if the codec
// has none, or one that no cookie can have, or that would make the cookie too large.
func (r *ring) value(name string, t *cookie.Ticket) (value string, ok bool) {
	value, err := r.codec.Encode(t)
	if err != nil || value == "" || len(name)+len(value) > cookie.MaxSize || strings.ContainsFunc(value, notPrintable) {
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

// carries reports whether a request has a cookie of that name.
func carries(h http.Header, name string) bool {
	for range cookie.Values(h, name) {
		return true
	}
	return false
}
