package cookie

import (
	"bytes"
	"encoding/binary"
	"time"
)

// The parts of an encrypted ticket that may be missing.
const (
	flagScope = 1 << iota
	flagExpires
	flagCarried
	flagsKnown = flagScope | flagExpires | flagCarried
)

// appendTicket appends
//
//	flags (1) | issued | target | [hash of the scope (8)] | [expires] | [attributes]
//
// with times as signed varints of Unix seconds, strings as a varint of the length and the
// octets, and attributes up to the end: the name's length doubled, plus one if bare, the
// name, and the value unless bare.
func (s *Sealed) appendTicket(b []byte, t *Ticket) []byte {
	var flags byte
	if s.scope != nil {
		flags |= flagScope
	}
	if !t.Expires.IsZero() {
		flags |= flagExpires
	}
	if len(t.Carried) > 0 {
		flags |= flagCarried
	}
	b = append(b, flags)
	b = binary.AppendVarint(b, t.Issued.Unix())
	b = binary.AppendUvarint(b, uint64(len(t.Target)))
	b = append(b, t.Target...)
	b = append(b, s.scope...)
	if flags&flagExpires != 0 {
		b = binary.AppendVarint(b, t.Expires.Unix())
	}
	for _, a := range t.Carried {
		n := uint64(len(a.Name)) << 1
		if a.Bare {
			n |= 1
		}
		b = binary.AppendUvarint(b, n)
		b = append(b, a.Name...)
		if !a.Bare {
			b = binary.AppendUvarint(b, uint64(len(a.Value)))
			b = append(b, a.Value...)
		}
	}
	return b
}

// parseTicket reads what appendTicket wrote.
func (s *Sealed) parseTicket(b []byte) (Ticket, error) {
	r := reader{b: b}
	flags := r.byte()
	var t Ticket
	t.Issued = r.time()
	t.Target = r.string(r.uvarint())
	var scope []byte
	if flags&flagScope != 0 {
		scope = r.bytes(scopeSize)
	}
	if flags&flagExpires != 0 {
		t.Expires = r.time()
	}
	for flags&flagCarried != 0 && len(r.b) > 0 {
		n := r.uvarint()
		a := Attribute{Name: r.string(n >> 1), Bare: n&1 != 0}
		if !a.Bare {
			a.Value = r.string(r.uvarint())
		}
		t.Carried = append(t.Carried, a)
	}
	switch {
	case r.bad, len(r.b) > 0, t.Target == "", flags&^flagsKnown != 0:
		return Ticket{}, ErrMalformed
	case !bytes.Equal(scope, s.scope):
		return Ticket{}, ErrScope
	}
	return t, nil
}

// A reader takes values off the front of b. After the first that is not there, bad is set
// and all further ones are zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) string(n uint64) string { return string(r.bytes(n)) }

func (r *reader) byte() byte {
	if p := r.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) time() time.Time {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return time.Time{}
	}
	r.b = r.b[n:]
	return time.Unix(v, 0).UTC()
}

func (r *reader) fail() { r.b, r.bad = nil, true }
