// Package cookietest checks that implementations of [cookie.Codec] keep its contract. It is for
// tests.
package cookietest

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// TestCodec encodes tickets for the targets, which c must be able to encode. It returns all
// violations of the contract of [cookie.Codec], joined into one error:
//
//   - A value can be sent in a Set-Cookie line and in a Cookie line, and is not too large.
//   - Decode returns what Encode was given, except for the fields that c does not keep. The decoded
//     ticket can be encoded again. Encode does not change the ticket, and refuses one without a
//     target.
//   - No value with a replaced, inserted or removed octet, or with another encoding, gives the same
//     ticket.
//   - Decode returns a ticket with a target, or the zero ticket with one of the errors of package
//     cookie. The error's text does not contain the value. No value makes Decode panic.
//   - Encode and Decode can be called concurrently, as far as the race detector can tell.
//
// TestCodec takes a fraction of a second. Run it with -race.
func TestCodec(c cookie.Codec, targets ...string) error {
	k := &checker{codec: c}
	if len(targets) == 0 {
		k.failf("no targets to check it with")
	}
	values := map[string]bool{}
	for _, ticket := range tickets(targets) {
		if value, ok := k.roundTrip(ticket); ok && !values[value] && len(values) < maxValues {
			values[value] = true
			k.oneSpelling(value)
		}
	}
	k.refusesNoTarget()
	for _, value := range garbage() {
		k.decode(value)
	}
	k.concurrent(targets)
	return errors.Join(k.errs...)
}

// maxValues bounds how many values are tested with all their variants.
const maxValues = 8

// tickets returns two tickets for each target: one with the required fields only and one with all
// fields.
func tickets(targets []string) []cookie.Ticket {
	now := time.Now().Truncate(time.Second).UTC()
	var all []cookie.Ticket
	for _, id := range targets {
		all = append(all, cookie.Ticket{Target: id, Issued: now}, cookie.Ticket{
			Target: id, Issued: now, Expires: now.Add(time.Hour), Carried: []cookie.Attribute{
				{Name: "Path", Value: "/my_app"}, {Name: "secure", Bare: true}, {Name: "Comment", Value: ""}, {Name: "Port", Value: `"80,8080"`},
			},
		})
	}
	return all
}

// garbage returns values that no codec writes.
func garbage() []string {
	all := []string{
		"", " ", "=", "|", "~", ".", "%", "\x00", "\n", "\xff\xfe", `""`, "A", "AAAA", "null", "-1", "0x0", "%41",
		strings.Repeat("A", cookie.MaxSize), strings.Repeat("|", cookie.MaxSize+1), strings.Repeat("\x00", 1<<16),
	}
	for _, octet := range []byte(anyOctet()) {
		all = append(all, strings.Repeat(string([]byte{octet}), 64))
	}
	return all
}

// A checker collects the faults of a codec.
type checker struct {
	codec cookie.Codec

	mu   sync.Mutex
	errs []error
}

// maxFaults bounds how many faults are reported: one fault shows in many values.
const maxFaults = 10

func (k *checker) failf(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.errs) < maxFaults {
		k.errs = append(k.errs, fmt.Errorf("codec: "+format, args...))
	}
}

// encode calls Encode and reports a panic as a fault.
func (k *checker) encode(t *cookie.Ticket) (value string, err error) {
	defer func() {
		if p := recover(); p != nil {
			k.failf("Encode(%+v) panics: %v", *t, p)
			err = errPanic
		}
	}()
	return k.codec.Encode(t)
}

var errPanic = errors.New("panic")

// decode calls Decode and checks what must hold for every value.
func (k *checker) decode(value string) (t cookie.Ticket, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			k.failf("Decode(%.100q) panics: %v", value, p)
		}
	}()
	t, err := k.codec.Decode(value)
	switch {
	case err == nil && t.Target == "":
		k.failf("Decode(%.100q) returns a ticket without a target", value)
	case err == nil:
		return t, true
	case !isKnown(err):
		k.failf("Decode(%.100q) returns an error that matches none of package cookie: %v", value, err)
	case !reflect.DeepEqual(t, cookie.Ticket{}):
		k.failf("Decode(%.100q) returns a ticket with an error", value)
	case len(value) >= 8 && strings.Contains(err.Error(), value):
		k.failf("the error of Decode(%.100q) contains the value", value)
	}
	return cookie.Ticket{}, false
}

// isKnown reports whether err matches one of the errors that policies distinguish.
func isKnown(err error) bool {
	return slices.ContainsFunc([]error{
		cookie.ErrMalformed, cookie.ErrForged, cookie.ErrUnknownKey,
		cookie.ErrScope, cookie.ErrExpired, cookie.ErrUnknownTarget,
	}, func(known error) bool { return errors.Is(err, known) })
}

// roundTrip encodes and decodes a ticket twice, and returns its value.
func (k *checker) roundTrip(want cookie.Ticket) (value string, ok bool) {
	given := want
	given.Carried = slices.Clone(want.Carried)
	value, err := k.encode(&given)
	if err != nil {
		k.failf("Encode(%+v) returns %v", want, err)
		return "", false
	}
	if !reflect.DeepEqual(given, want) {
		k.failf("Encode changes the ticket from %+v to %+v", want, given)
	}
	if !travels(value) {
		k.failf("a cookie cannot have the value %.100q, which encodes %+v", value, want)
		return "", false
	}
	got, ok := k.decode(value)
	if !ok {
		k.failf("Decode refuses %.100q, which encodes %+v", value, want)
		return "", false
	}
	k.compare(want, got)
	if again, err := k.encode(&got); err != nil {
		k.failf("Encode(%+v) returns %v for a ticket that Decode returned", got, err)
	} else if second, ok := k.decode(again); !ok || !equal(got, second) {
		k.failf("%+v becomes %+v when it is encoded again", got, second)
	}
	return value, true
}

// travels reports whether a client sends the value back unchanged, and no server in between changes
// its meaning (RFC 6265, section 4.1.1).
func travels(value string) bool {
	line := cookie.SetCookie{Name: "n", Value: value}
	parsed, err := cookie.ParseSetCookie(line.String())
	if err != nil || parsed.Value != value || value == "" {
		return false
	}
	sent := slices.Collect(cookie.Values(http.Header{"Cookie": {"a=b; n=" + value + "; c=d"}}, "n"))
	return slices.Equal(sent, []string{value}) && !strings.ContainsFunc(value, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == '\\'
	})
}

// compare reports each field of got whose value differs from that in want.
func (k *checker) compare(want, got cookie.Ticket) {
	if got.Target != want.Target {
		k.failf("target %q comes back as %q", want.Target, got.Target)
	}
	if got.OldKey {
		k.failf("OldKey is set in a new ticket for %q", want.Target)
	}
	if off := got.Issued.Sub(want.Issued).Abs(); !got.Issued.IsZero() && off >= 4*time.Second {
		k.failf("issue time %v comes back as %v", want.Issued, got.Issued)
	}
	if off := got.Expires.Sub(want.Expires).Abs(); !got.Expires.IsZero() && off >= 4*time.Second {
		k.failf("expiry %v comes back as %v", want.Expires, got.Expires)
	}
	for _, at := range []time.Time{got.Issued, got.Expires, got.Seen} {
		if at.Nanosecond() != 0 {
			k.failf("%v is not in whole seconds", at)
		}
	}
	if len(got.Carried) > 0 && !slices.Equal(got.Carried, want.Carried) {
		k.failf("attributes %+v come back as %+v", want.Carried, got.Carried)
	}
}

// equal reports whether two tickets have the same target, times and attributes.
func equal(a, b cookie.Ticket) bool {
	return a.Target == b.Target && a.Issued.Equal(b.Issued) && a.Expires.Equal(b.Expires) && slices.Equal(a.Carried, b.Carried)
}

// odd has the octets that decoders are known to skip or to confuse with others.
const odd = "\x00\t\n\r \"%+,-./09:;=A_az|~\x7f\x80\xff"

// anyOctet returns all octets.
func anyOctet() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}

// oneSpelling tries variants of a good value. None of them may decode to the same ticket.
func (k *checker) oneSpelling(value string) {
	want, ok := k.decode(value)
	if !ok {
		k.failf("Decode refuses %.100q the second time", value)
		return
	}
	try := func(other string) {
		got, ok := k.decode(other)
		if ok && other != value && equal(got, want) && got.Seen.Equal(want.Seen) {
			k.failf("%.100q decodes to the same ticket as %.100q", other, value)
		}
	}
	for i := range len(value) + 1 {
		octets := odd
		if i < len(value) {
			try(value[:i])
			try(value[i:])
			try(value[:i] + value[i+1:])
			for bit := range 8 {
				octets += string([]byte{value[i] ^ 1<<bit})
			}
		}
		if i >= len(value)-1 {
			octets = anyOctet() // the last octet of an encoding may have unused bits
		}
		for _, octet := range []byte(octets) {
			try(value[:i] + string([]byte{octet}) + value[i:])
			if i < len(value) {
				try(value[:i] + string([]byte{octet}) + value[i+1:])
			}
		}
	}
	for _, other := range []string{
		strings.ToUpper(value), strings.ToLower(value), `"` + value + `"`, " " + value + " ", value + value, value + "==", value + "\r\n",
		strings.NewReplacer("-", "+", "_", "/").Replace(value), strings.NewReplacer("+", "-", "/", "_").Replace(value),
		fmt.Sprintf("%%%02x%s", value[0], value[1:]), fmt.Sprintf("%%%02X%s", value[0], value[1:]),
	} {
		try(other)
	}
}

func (k *checker) refusesNoTarget() {
	if value, err := k.encode(&cookie.Ticket{Issued: time.Now()}); err == nil {
		k.failf("Encode returns %.100q for a ticket without a target", value)
	}
}

// concurrent calls Encode and Decode from several goroutines. Each value must keep its meaning.
func (k *checker) concurrent(targets []string) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 20 * len(targets) {
				want := targets[i%len(targets)]
				value, err := k.encode(&cookie.Ticket{Target: want, Issued: time.Now()})
				if err != nil {
					k.failf("Encode returns %v when called concurrently", err)
					return
				}
				if got, ok := k.decode(value); !ok || got.Target != want {
					k.failf("target %q comes back as %q when called concurrently", want, got.Target)
					return
				}
			}
		})
	}
	wg.Wait()
}
