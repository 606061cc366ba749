package proxyproto

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"slices"

	codec "github.com/pires/go-proxyproto"
)

// A TLV is a field of version 2: a type and its value.
type TLV struct {
	Type  byte
	Value []byte
}

// fieldHead is the size of what precedes the value of a field: its type and its length.
const fieldHead = 3

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns the CRC32C of a header (section 2.2.3), for which the checksum's own bytes count
// as zero.
func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// fieldsOf yields the fields in b from an offset on, each with the offset of its value. If a field
// goes beyond the end of b, it yields an error and ends.
func fieldsOf(b []byte, at int) iter.Seq2[field, error] {
	return func(yield func(field, error) bool) {
		for at < len(b) {
			if len(b)-at < fieldHead {
				yield(field{}, fmt.Errorf("%w: half a field at its end", ErrMalformed))
				return
			}
			kind, length := codec.PP2Type(b[at]), int(binary.BigEndian.Uint16(b[at+1:]))
			at += fieldHead
			if length > len(b)-at {
				yield(field{}, fmt.Errorf("%w: a field of type %#x goes beyond its end", ErrMalformed, byte(kind)))
				return
			}
			if !yield(field{kind, b[at : at+length : at+length], at}, nil) {
				return
			}
			at += length
		}
	}
}

type field struct {
	kind  codec.PP2Type
	value []byte
	at    int // offset of the value
}

// parseFields reads the fields after the addresses of the header b. It returns an error if a field
// for which Header has a name occurs twice, because two readers might choose different ones.
func (h *Header) parseFields(b []byte, at int) error {
	var seen [256]bool
	for f, err := range fieldsOf(b, at) {
		if err != nil {
			return err
		}
		if seen[f.kind] && isNamed(f.kind) {
			return fmt.Errorf("%w: two fields of type %#x", ErrMalformed, byte(f.kind))
		}
		seen[f.kind] = true
		if err := h.setField(b, f); err != nil {
			return err
		}
	}
	return nil
}

func isNamed(kind codec.PP2Type) bool {
	switch kind {
	case codec.PP2_TYPE_ALPN, codec.PP2_TYPE_AUTHORITY, codec.PP2_TYPE_CRC32C, codec.PP2_TYPE_UNIQUE_ID,
		codec.PP2_TYPE_SSL, codec.PP2_TYPE_NETNS:
		return true
	}
	return false
}

func (h *Header) setField(b []byte, f field) (err error) {
	switch f.kind {
	case codec.PP2_TYPE_NOOP:
	case codec.PP2_TYPE_ALPN:
		h.ALPN = string(f.value)
	case codec.PP2_TYPE_AUTHORITY:
		h.Authority = string(f.value)
	case codec.PP2_TYPE_NETNS:
		h.NetNS = string(f.value)
	case codec.PP2_TYPE_UNIQUE_ID:
		if len(f.value) > maxUniqueID {
			return fmt.Errorf("%w: a unique ID of %d bytes", ErrMalformed, len(f.value))
		}
		h.UniqueID = nonEmpty(f.value)
	case codec.PP2_TYPE_CRC32C:
		h.Checksum = true
		return verify(b, f)
	case codec.PP2_TYPE_SSL:
		h.TLS, err = parseTLS(f.value)
	default:
		h.Other = append(h.Other, TLV{byte(f.kind), slices.Clone(f.value)})
	}
	return err
}

// nonEmpty returns a copy of b, or nil if b is empty.
func nonEmpty(b []byte) []byte { return append([]byte(nil), b...) }

// verify compares the checksum of the header with its bytes.
func verify(b []byte, f field) error {
	if len(f.value) != crc32.Size {
		return fmt.Errorf("%w: a checksum of %d bytes", ErrMalformed, len(f.value))
	}
	zeroed := slices.Clone(b)
	clear(zeroed[f.at : f.at+crc32.Size])
	if checksum(zeroed) != binary.BigEndian.Uint32(f.value) {
		return ErrChecksum
	}
	return nil
}

// fields returns the fields to write. As in HAProxy, the checksum is the first. Version 1 has none.
func (h *Header) fields() ([]codec.TLV, error) {
	if h.Version == 1 || h.Local {
		return nil, nil
	}
	if len(h.UniqueID) > maxUniqueID {
		return nil, fmt.Errorf("proxyproto: a unique ID of %d bytes", len(h.UniqueID))
	}
	var all []codec.TLV
	if h.Checksum {
		all = append(all, codec.TLV{Type: codec.PP2_TYPE_CRC32C, Value: make([]byte, crc32.Size)})
	}
	add := func(kind codec.PP2Type, value []byte) {
		if len(value) > 0 {
			all = append(all, codec.TLV{Type: kind, Value: value})
		}
	}
	add(codec.PP2_TYPE_ALPN, []byte(h.ALPN))
	add(codec.PP2_TYPE_AUTHORITY, []byte(h.Authority))
	add(codec.PP2_TYPE_UNIQUE_ID, h.UniqueID)
	if h.TLS != nil {
		value, err := h.TLS.append(nil)
		if err != nil {
			return nil, err
		}
		add(codec.PP2_TYPE_SSL, value)
	}
	add(codec.PP2_TYPE_NETNS, []byte(h.NetNS))
	for _, o := range h.Other {
		if kind := codec.PP2Type(o.Type); isNamed(kind) {
			return nil, fmt.Errorf("proxyproto: a field of type %#x among the others", o.Type)
		}
		all = append(all, codec.TLV{Type: codec.PP2Type(o.Type), Value: o.Value})
	}
	return all, nil
}
