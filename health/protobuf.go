package health

import (
	"encoding/binary"
	"errors"
)

// The wire types of protocol buffers.
const (
	wireVarint = 0
	wire64     = 1
	wireOctets = 2
	wireBegin  = 3 // begins a group
	wireEnd    = 4
	wire32     = 5
)

var (
	errCutOff = errors.New("it is cut off")
	errField  = errors.New("a field is broken")
)

// servingStatus returns the value of field 1 of a HealthCheckResponse, the last one if there are
// several. It skips all other fields. Without the field it returns 0.
func servingStatus(message []byte) (int32, error) {
	var status int32
	for len(message) > 0 {
		number, kind, rest, err := readTag(message)
		if err != nil {
			return 0, err
		}
		if number == 1 && kind == wireVarint {
			n, rest, err := readVarint(rest)
			if err != nil {
				return 0, err
			}
			status, message = int32(n), rest
			continue
		}
		if message, err = skipField(rest, number, kind); err != nil {
			return 0, err
		}
	}
	return status, nil
}

// readTag reads a field's tag and returns the octets after it.
func readTag(b []byte) (number uint64, kind byte, rest []byte, err error) {
	tag, rest, err := readVarint(b)
	if err != nil {
		return 0, 0, nil, err
	}
	number, kind = tag>>3, byte(tag&7)
	if number == 0 || number > 1<<29-1 {
		return 0, 0, nil, errField
	}
	return number, kind, rest, nil
}

// readVarint reads a number and returns the octets after it.
func readVarint(b []byte) (uint64, []byte, error) {
	n, size := binary.Uvarint(b)
	switch {
	case size == 0:
		return 0, nil, errCutOff
	case size < 0:
		return 0, nil, errField
	}
	return n, b[size:], nil
}

// skipField returns the octets after the value at the beginning of b. The value of a group ends
// with the end tag of its number.
func skipField(b []byte, number uint64, kind byte) ([]byte, error) {
	var groups []uint64 // the open groups
	for {
		size := uint64(0)
		switch kind {
		case wireVarint:
			_, rest, err := readVarint(b)
			if err != nil {
				return nil, err
			}
			b = rest
		case wire64:
			size = 8
		case wire32:
			size = 4
		case wireOctets:
			n, rest, err := readVarint(b)
			if err != nil {
				return nil, err
			}
			size, b = n, rest
		case wireBegin:
			groups = append(groups, number)
		case wireEnd:
			if len(groups) == 0 || groups[len(groups)-1] != number {
				return nil, errField
			}
			groups = groups[:len(groups)-1]
		default:
			return nil, errField
		}
		if size > uint64(len(b)) {
			return nil, errCutOff
		}
		b = b[size:]
		if len(groups) == 0 {
			return b, nil
		}
		var err error
		if number, kind, b, err = readTag(b); err != nil {
			return nil, err
		}
	}
}
