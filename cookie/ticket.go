package cookie

import (
	"encoding/binary"
	"time"
)

// Each flag says that an optional part of an encrypted ticket is present.
const (
	flagScope = 1 << iota
	flagExpires
	flagCarried
	flagName
	flagSeen
	flagSession
	flagsKnown = flagScope | flagExpires | flagCarried | flagName | flagSeen | flagSession
)

// appendTicket appends
//
//	flags (1) | issued | target | [hash of the scope (8)] | [expires] | [count, attributes] |
//	[name] | [seen] | [session (4)]
//
// Times are signed varints of Unix seconds. A string is a varint of its length, followed by its
// octets. An attribute begins with a varint of 2*len(name), plus one if the attribute is bare. The
// octets of the name follow and, unless the attribute is bare, the value as a string.
func (s *Sealed) appendTicket(b []byte, t *Ticket) []byte {
	var flags byte
	if t.Session != 0 {
		flags |= flagSession
	}
	if !t.Seen.IsZero() {
		flags |= flagSeen
	}
	if t.Name != "" {
		flags |= flagName
	}
	if s.scope != "" {
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
	b = appendString(b, t.Target)
	b = append(b, s.scope...)
	if flags&flagExpires != 0 {
		b = binary.AppendVarint(b, t.Expires.Unix())
	}
	if flags&flagCarried != 0 {
		b = binary.AppendUvarint(b, uint64(len(t.Carried)))
	}
	for _, a := range t.Carried {
		n := uint64(len(a.Name)) << 1
		if a.Bare {
			n |= 1
		}
		b = binary.AppendUvarint(b, n)
		b = append(b, a.Name...)
		if !a.Bare {
			b = appendString(b, a.Value)
		}
	}
	if flags&flagName != 0 {
		b = appendString(b, t.Name)
	}
	if flags&flagSeen != 0 {
		b = binary.AppendVarint(b, t.Seen.Unix())
	}
	if flags&flagSession != 0 {
		b = binary.BigEndian.AppendUint32(b, t.Session)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// parseTicket reads what appendTicket wrote.
func (s *Sealed) parseTicket(b []byte) (Ticket, error) {
	r := reader{b: b, s: string(b)} // all strings of the ticket are parts of s
	flags := r.byte()
	var t Ticket
	t.Issued = r.time()
	t.Target = r.string(r.uvarint())
	var scope string
	if flags&flagScope != 0 {
		scope = r.string(scopeSize)
	}
	if flags&flagExpires != 0 {
		t.Expires = r.time()
	}
	if flags&flagCarried != 0 {
		t.Carried = r.attributes()
	}
	if flags&flagName != 0 {
		t.Name = r.string(r.uvarint())
	}
	if flags&flagSeen != 0 {
		t.Seen = r.time()
	}
	if flags&flagSession != 0 {
		t.Session = r.uint32()
		r.bad = r.bad || t.Session == 0 // appendTicket leaves out a zero session
	}
	switch {
	case r.bad, len(r.b) > 0, t.Target == "", flags&^flagsKnown != 0:
		return Ticket{}, ErrMalformed
	case scope != s.scope:
		return Ticket{}, ErrScope
	}
	return t, nil
}

// A reader takes values off the front of b. s is a copy of b. After the first value that cannot be
// read, bad is set and all further values are zero.
type reader struct {
	b   []byte
	s   string
	bad bool
}

// skip drops the first n octets. If there are fewer, it drops everything and sets bad.
func (r *reader) skip(n int) {
	if n <= 0 || n > len(r.b) {
		r.b, r.s, r.bad = nil, "", true
		return
	}
	r.b, r.s = r.b[n:], r.s[n:]
}

func (r *reader) string(n uint64) string {
	if n == 0 {
		return ""
	}
	if n > uint64(len(r.s)) {
		r.skip(-1)
		return ""
	}
	s := r.s[:n]
	r.skip(int(n))
	return s
}

func (r *reader) byte() byte {
	if s := r.string(1); s != "" {
		return s[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if s := r.string(4); s != "" {
		return binary.BigEndian.Uint32([]byte(s))
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.skip(n)
	return v
}

func (r *reader) time() time.Time {
	v, n := binary.Varint(r.b)
	r.skip(n)
	if r.bad {
		return time.Time{}
	}
	return time.Unix(v, 0).UTC()
}

func (r *reader) attributes() []Attribute {
	n := r.uvarint()
	if n > uint64(len(r.b)) { // each has at least one octet
		r.skip(-1)
		return nil
	}
	list := make([]Attribute, n)
	for i := range list {
		n := r.uvarint()
		list[i] = Attribute{Name: r.string(n >> 1), Bare: n&1 != 0}
		if !list[i].Bare {
			list[i].Value = r.string(r.uvarint())
		}
	}
	return list
}
