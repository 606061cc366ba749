package cookie

import (
	"errors"
	"time"
)

// Why a codec cannot use a value, besides [ErrMalformed]. Match them with [errors.Is].
var (
	// ErrForged reports a value that nobody sealed under the key that it names.
	ErrForged = errors.New("cookie: not authentic")

	// ErrUnknownKey reports a value sealed under a key that is not in the ring.
	ErrUnknownKey = errors.New("cookie: sealed under an unknown key")

	// ErrScope reports an authentic value that was sealed for another scope.
	ErrScope = errors.New("cookie: sealed for another scope")

	// ErrExpired reports a value whose own dates end it, whatever the client thinks.
	ErrExpired = errors.New("cookie: expired")

	// ErrUnknownTarget reports a value that stands for no target in the codec's table,
	// or a target for which the table has no value.
	ErrUnknownTarget = errors.New("cookie: target not in the table")
)

// A Ticket is what a sticky cookie says. A codec may have no room for all of it: only the
// target survives every codec.
type Ticket struct {
	Target  string      // ID of the target, never empty
	Issued  time.Time   // when the client was bound, whole seconds, UTC; zero: not known
	Carried []Attribute // attributes of the application's cookie

	// Expires is when the client's cookie ends, in whole seconds, UTC. Zero means not known, or
	// with the browser's session.
	Expires time.Time

	// Name is that of the application's cookie for which the balancer's was made, where
	// several names are possible. Empty otherwise.
	Name string

	// Seen is when the value of a binding that is older was written last, whole seconds, UTC;
	// zero: not known, or when it was issued. [InsecureHAProxy] writes the present instead.
	Seen time.Time

	// Session identifies the session. It is chosen at random when the client is bound for the
	// first time, and stays when the value is written again. Zero means not known.
	Session uint32

	// OldKey is set by Decode: the value is good, but is due to be replaced by one that
	// Encode makes of this ticket, because its key has not been the first for a while or, with a
	// codec whose values have dates, because those are due to be refreshed.
	OldKey bool
}

// A Codec turns a ticket into a cookie's value and back.
//
// Encode returns a value that a cookie can have, of at most [MaxSize] octets, or an error.
// What it encodes of a ticket, Decode returns unchanged, with times in whole seconds or
// rounded to at most four; what it has no room for is zero then. Only the target is always
// kept, and there is no value without one. Encode does not keep or change the ticket.
//
// Decode takes anything that a client may send. There is one spelling of a value: with any
// octet changed, added or left out, Decode gives another ticket or an error. An error is
// one of [ErrMalformed], [ErrForged], [ErrUnknownKey], [ErrScope], [ErrExpired] and
// [ErrUnknownTarget], its text does not contain the value, and the ticket is the zero one.
//
// Both are called concurrently and must not block. Package cookietest checks all this.
type Codec interface {
	Encode(t *Ticket) (string, error)
	Decode(value string) (Ticket, error)
}
