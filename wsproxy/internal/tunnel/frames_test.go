package tunnel_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

const (
	text         = 0x1
	continuation = 0x0
	closing      = 0x8
	ping         = 0x9
	fin          = 0x80
)

// frame writes a WebSocket frame. Extended says how many octets the extended length has, 0, 2
// or 8, whatever the payload's length; masked frames get a fixed key.
func frame(first byte, payload []byte, extended int, masked bool) []byte {
	p := []byte{first}
	switch extended {
	case 0:
		p = append(p, byte(len(payload)))
	case 2:
		p = binary.BigEndian.AppendUint16(append(p, 126), uint16(len(payload)))
	case 8:
		p = binary.BigEndian.AppendUint64(append(p, 127), uint64(len(payload)))
	}
	if !masked {
		return append(p, payload...)
	}
	key := []byte{0x12, 0x34, 0x56, 0x78}
	p[1] |= 0x80
	p = append(p, key...)
	for i, b := range payload {
		p = append(p, b^key[i%4])
	}
	return p
}

// closeFrame is an unmasked close frame.
func closeFrame(code uint16, reason string, masked bool) []byte {
	return frame(fin|closing, append(binary.BigEndian.AppendUint16(nil, code), reason...), 0, masked)
}

// parsed is what the reference parser finds in a stream.
type parsed struct {
	ends  []int // where frames end
	codes []int // codes of the close frames, 1005 for none
	text  string
}

// parse is the reference: it has the whole stream at hand.
func parse(s []byte) (r parsed) {
	for at := 0; ; {
		rest := s[at:]
		if len(rest) < 2 {
			return r
		}
		size, head := uint64(rest[1]&0x7f), 2
		switch size {
		case 126:
			head = 4
		case 127:
			head = 10
		}
		masked := rest[1]&0x80 != 0
		key := [4]byte{}
		if masked {
			head += 4
		}
		if len(rest) < head {
			return r
		}
		switch size {
		case 126:
			size = uint64(binary.BigEndian.Uint16(rest[2:]))
		case 127:
			size = binary.BigEndian.Uint64(rest[2:])
		}
		if masked {
			copy(key[:], rest[head-4:head])
		}
		if size > uint64(len(rest)-head) {
			return r
		}
		at += head + int(size)
		r.ends = append(r.ends, at)
		if rest[0]&0xf == closing {
			payload := slices.Clone(rest[head : head+int(size)])
			for i := range payload {
				payload[i] ^= key[i%4]
			}
			if len(payload) < 2 {
				r.codes = append(r.codes, 1005)
			} else {
				r.codes = append(r.codes, int(binary.BigEndian.Uint16(payload)))
				r.text = string(payload[2:])
			}
		}
	}
}

// follows checks a frame counter that is fed pieces against the reference. With skip it is not
// shown payload that it does not need.
func follows(t *testing.T, stream []byte, pieces func(rest int) int, one, skip bool) {
	t.Helper()
	want := parse(stream)
	var f tunnel.Frames
	for at := 0; at < len(stream); {
		n := pieces(len(stream) - at)
		if rest := f.PayloadLeft(); skip && rest > 0 {
			n = min(n, rest)
			f.Skip(n)
			at += n
		} else {
			take := n
			if i, _ := slices.BinarySearch(want.ends, at+1); one && i < len(want.ends) {
				take = min(n, want.ends[i]-at) // it stops at the first end
			}
			if took := f.Advance(stream[at:at+n], one); took != take {
				require.Equal(t, take, took, "offset %d, %d octets", at, n)
			}
			at += take
		}
		if _, end := slices.BinarySearch(want.ends, at); end != f.Boundary() {
			require.Equal(t, end, f.Boundary(), "offset %d", at)
		}
	}
	code := 0
	if len(want.codes) > 0 {
		code = want.codes[0]
	}
	require.Equal(t, len(want.codes) > 0, f.Closed())
	require.EqualValues(t, code, f.CloseCode())
}

var streams = map[string][]byte{
	"empty text":        frame(fin|text, nil, 0, false),
	"masked text":       frame(fin|text, []byte("hello"), 0, true),
	"masked, empty":     frame(fin|ping, nil, 0, true),
	"16-bit":            frame(fin|text, make([]byte, 300), 2, false),
	"16-bit, zero":      frame(fin|text, nil, 2, true),
	"64-bit":            frame(fin|text, make([]byte, 70_000), 8, true),
	"64-bit, small":     frame(fin|text, []byte("abc"), 8, false),
	"64-bit, truncated": frame(fin|text, make([]byte, 70_000), 8, true)[:60_000],
	"64-bit, largest":   {fin | text, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3},
	"fragments": slices.Concat(
		frame(text, []byte("one "), 0, true),
		frame(fin|ping, []byte("in between"), 0, true),
		frame(continuation, []byte("two "), 2, true),
		frame(fin|continuation, nil, 0, true),
	),
	"close":               closeFrame(1012, "restart", false),
	"close, masked":       closeFrame(4000, "bye", true),
	"close without code":  frame(fin|closing, nil, 0, true),
	"close with half one": frame(fin|closing, []byte{3}, 0, false),
	"close, cut":          closeFrame(1000, "bye", true)[:8],
	"close, then more": slices.Concat(
		closeFrame(1001, "", true), closeFrame(1000, "no", true), frame(fin|text, []byte("late"), 0, true),
	),
	"close, second without code":   slices.Concat(closeFrame(1001, "", true), frame(fin|closing, nil, 0, false)),
	"close, unmasked after masked": slices.Concat(frame(fin|text, []byte("x"), 0, true), closeFrame(1001, "", false)),
	"close with a 16-bit length":   frame(fin|closing, append([]byte{3, 0xf4}, make([]byte, 200)...), 2, true),
}

func TestFrames_W6_AnyPieces(t *testing.T) {
	for name, stream := range streams {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 2, 3, 5, 7, 64, 1024, 1 << 20} {
				pieces := func(rest int) int { return min(size, rest) }
				follows(t, stream, pieces, false, false)
				follows(t, stream, pieces, true, false)
				follows(t, stream, pieces, false, true)
				follows(t, stream, pieces, true, true)
			}
		})
	}
}

func TestFrames_Size(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(tunnel.Frames{}), uintptr(16))
}

func FuzzFrames(f *testing.F) {
	for _, s := range streams {
		s = s[:min(len(s), 400)]
		f.Add(s, []byte{1, 200, 3})
		f.Add(slices.Concat(s, s[:len(s)/2], s), []byte{0})
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		next := 0
		pieces := func(rest int) int {
			if len(cuts) == 0 {
				return rest
			}
			n := 1 + int(cuts[next%len(cuts)])
			next++
			return min(n, rest)
		}
		follows(t, stream, pieces, false, false)
		follows(t, stream, pieces, true, false)
		follows(t, stream, pieces, false, true)
		follows(t, stream, pieces, true, true)
	})
}

func BenchmarkFramesAdvance(b *testing.B) {
	for name, one := range map[string][]byte{
		"payload=0":     frame(fin|text, nil, 0, true),
		"payload=100":   frame(fin|text, make([]byte, 100), 0, true),
		"payload=32000": frame(fin|text, make([]byte, 32000), 2, true),
	} {
		b.Run(name, func(b *testing.B) {
			p := slices.Repeat(one, max(1, 32<<10/len(one)))
			var f tunnel.Frames
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				f.Advance(p, false)
			}
		})
	}
}
