package tunnel

import (
	"encoding/binary"
	"math"
)

const (
	opClose = 0x8

	// maxText is the longest reason in a close frame: a control frame carries at most 125 octets
	// (RFC 6455 section 5.5), two of which are the code.
	maxText = 123

	// noCode is reported for a close frame without a code (RFC 6455 section 7.1.5).
	noCode = 1005
)

// frames follows the frames of one direction of a WebSocket (RFC 6455 section 5.2). It has sixteen
// bytes of state. Of payloads it keeps only the code of a close frame. It accepts any bytes, and
// follows an invalid frame as that frame's header says.
type frames struct {
	left uint64  // octets of payload to come; while the length is being read, its value so far
	key  [2]byte // the first octets of the mask, zero if there is none
	code [2]byte // of a close frame, unmasked
	part part    // the part that the next octet belongs to
	more uint8   // octets left of this part
	got  uint8   // octets of the code that were read
	bits uint8
}

// part is a part of a frame.
type part uint8

const (
	partFirst  part = iota // FIN and opcode
	partLength             // mask bit and seven bits of length
	partMore               // extended length
	partMask
	partPayload
)

const (
	bitMasked = 1 << iota // this frame has a mask
	bitClose              // this is the first close frame
	bitClosed             // a whole close frame was seen
)

// boundary reports whether the octets so far end with a frame.
func (f *frames) boundary() bool { return f.part == partFirst }

// closed reports whether a whole close frame was seen.
func (f *frames) closed() bool { return f.bits&bitClosed != 0 }

// closeCode returns the code of the first close frame: 0 before the frame is complete, noCode if it
// has none.
func (f *frames) closeCode() uint16 {
	switch {
	case !f.closed():
		return 0
	case f.got < 2:
		return noCode
	}
	return binary.BigEndian.Uint16(f.code[:])
}

// advance follows p, and returns how many octets it has followed. If one is set, it stops at the
// end of the first frame that ends in p. Otherwise it follows all of p.
func (f *frames) advance(p []byte, one bool) int {
	for i := 0; i < len(p); {
		if f.part == partPayload {
			i += f.payload(p[i:])
		} else {
			f.header(p[i])
			i++
		}
		if one && f.boundary() {
			return i
		}
	}
	return len(p)
}

// header follows one octet of a header.
func (f *frames) header(b byte) {
	switch f.part {
	case partFirst:
		f.bits &= bitClosed
		f.key = [2]byte{}
		if b&0x0f == opClose && !f.closed() {
			f.bits |= bitClose
			f.got = 0
		}
		f.part = partLength
		return
	case partLength:
		f.length(b)
		return
	case partMore:
		f.left = f.left<<8 | uint64(b)
	case partMask:
		if i := 4 - f.more; i < 2 {
			f.key[i] = b
		}
	}
	if f.more--; f.more == 0 {
		f.next()
	}
}

// length follows the octet with the mask bit and the short length.
func (f *frames) length(b byte) {
	if b&0x80 != 0 {
		f.bits |= bitMasked
	}
	f.left = 0
	f.part = partMore
	switch b &= 0x7f; b {
	case 127:
		f.more = 8
	case 126:
		f.more = 2
	default:
		f.left = uint64(b)
		f.next()
	}
}

// next begins the part after the length or after the mask.
func (f *frames) next() {
	switch {
	case f.part == partMore && f.bits&bitMasked != 0:
		f.part, f.more = partMask, 4
	case f.left > 0:
		f.part = partPayload
	default:
		f.end()
	}
}

// payload follows octets of payload and returns how many octets of p they are.
func (f *frames) payload(p []byte) int {
	if uint64(len(p)) > f.left {
		p = p[:f.left]
	}
	if f.bits&bitClose != 0 {
		for _, b := range p[:min(len(p), 2-int(f.got))] {
			f.code[f.got] = b ^ f.key[f.got]
			f.got++
		}
	}
	if f.left -= uint64(len(p)); f.left == 0 {
		f.end()
	}
	return len(p)
}

// payloadLeft returns how many of the octets to come are payload that frames need not see.
func (f *frames) payloadLeft() int {
	if f.part != partPayload || f.bits&bitClose != 0 {
		return 0
	}
	return int(min(f.left, math.MaxInt))
}

// skip records that n octets of payloadLeft have passed.
func (f *frames) skip(n int) {
	if f.left -= uint64(n); f.left == 0 {
		f.end()
	}
}

// end ends a frame.
func (f *frames) end() {
	f.part = partFirst
	if f.bits&bitClose != 0 {
		f.bits = bitClosed
	}
}
