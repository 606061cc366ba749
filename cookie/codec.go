package cookie

import (
	"errors"
	"time"
)

// Besides [ErrMalformed], these are the reasons for which a codec cannot use a value. Match them
// with [errors.Is].
var (
	// ErrForged reports a value that was not sealed under the key that it names.
	ErrForged = errors.New("cookie: not authentic")

	// ErrUnknownKey reports a value sealed under a key that is not in the ring.
	ErrUnknownKey = errors.New("cookie: sealed under an unknown key")

	// ErrScope reports an authentic value that was sealed for another scope.
	ErrScope = errors.New("cookie: sealed for another scope")

	// ErrExpired reports a value that has expired by the dates that it contains.
	ErrExpired = errors.New("cookie: expired")

	// ErrUnknownTarget reports a value that is not in the codec's table, or a target that has no
	// value in it.
	ErrUnknownTarget = errors.New("cookie: target not in the table")
)

// A Ticket is the content of a sticky cookie. Every codec keeps the target. Some codecs have no
// room for the other fields.
type Ticket struct {
	Target  string      // ID of the target, never empty
	Issued  time.Time   // when the client was bound, in whole seconds, UTC; zero: not known
	Carried []Attribute // attributes of the application's cookie

	// Expires is when the client's cookie ends, in whole seconds, UTC. Zero means that it is not
	// known, or that the cookie ends with the browser's session.
	Expires time.Time

	// Name is the name of the application's cookie that this cookie follows. It is set only if the
	// policy follows several names, and empty otherwise.
	Name string

	// Seen is when the cookie was last written again for a binding that already existed, in whole
	// seconds, UTC. Zero means that it is not known, or that the cookie was not written since it
	// was issued. [InsecureHAProxy] ignores Seen when it encodes and writes the current time.
	Seen time.Time

	// Session identifies the session. It is chosen at random when the client is first bound, and
	// does not change when the cookie is written again. Zero means not known.
	Session uint32

	// OldKey is set by Decode. The value is valid, but it should be replaced by encoding the ticket
	// again: its key is not the first one and the value is old enough, or the codec's values have
	// dates that are due to be refreshed.
	OldKey bool
}

// A Codec converts a ticket to a cookie's value and back.
//
// Encode returns a value that a cookie can have, of at most [MaxSize] octets, or an error. Decode
// returns the encoded fields unchanged, except that times are in whole seconds or rounded to at
// most four seconds. A field that the codec does not keep is zero after Decode. The target is
// always kept, and a ticket without a target is an error. Encode neither keeps nor changes the
// ticket.
//
// Decode accepts anything that a client may send. A value has exactly one spelling: if any octet is
// changed, added or left out, Decode returns another ticket or an error. An error matches one of
// [ErrMalformed], [ErrForged], [ErrUnknownKey], [ErrScope], [ErrExpired] and [ErrUnknownTarget],
// and its text does not contain the value. Decode then returns the zero ticket.
//
// Both methods are called concurrently and must not block. Package cookietest checks this contract.
type Codec interface {
	Encode(t *Ticket) (string, error)
	Decode(value string) (Ticket, error)
}
