package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Header fields that the client and the backend read.
var (
	fieldLength     = []byte("Content-Length")
	fieldConnection = []byte("Connection")
	fieldUpgrade    = []byte("Upgrade")
	fieldBackend    = []byte("X-Backend")
	fieldSetCookie  = []byte("Set-Cookie")
	fieldKey        = []byte("Sec-WebSocket-Key")
	fieldAccept     = []byte("Sec-WebSocket-Accept")
	fieldEncoding   = []byte("Transfer-Encoding")

	tokenClose     = []byte("close")
	tokenWebSocket = []byte("websocket")
)

const maxHead = 16 << 10 // octets of a request's or a response's first line and header

// A head is the first line and the header of an HTTP/1 message, as far as this program needs them.
// A head may be read into again without allocation.
type head struct {
	first   []byte // the request line or the status line
	length  int64  // of the body; zero if there is no Content-Length
	close   bool   // the connection ends after the message
	socket  bool   // the message is part of a WebSocket handshake
	backend []byte // name of the backend that answers
	cookies []byte // cookies that the response sets, in the form of the Cookie header
	key     []byte // Sec-WebSocket-Key or Sec-WebSocket-Accept
}

// read reads a head from r. A body without Content-Length is an error.
func (h *head) read(r *bufio.Reader) error {
	*h = head{first: h.first[:0], backend: h.backend[:0], cookies: h.cookies[:0], key: h.key[:0]}
	line, err := readLine(r)
	if err != nil {
		return err
	}
	h.first = append(h.first, line...)
	h.close = bytes.Contains(line, []byte("HTTP/1.0"))
	for left := maxHead; ; {
		line, err := readLine(r)
		if err != nil {
			return unexpected(err)
		}
		if len(line) == 0 {
			return nil
		}
		if left -= len(line); left < 0 {
			return errors.New("a header is too long")
		}
		if err := h.field(line); err != nil {
			return err
		}
	}
}

func (h *head) field(line []byte) (err error) {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return fmt.Errorf("no header field: %q", line)
	}
	value = bytes.TrimSpace(value)
	switch {
	case bytes.EqualFold(name, fieldLength):
		if h.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || h.length < 0 {
			return fmt.Errorf("no content length: %q", value)
		}
	case bytes.EqualFold(name, fieldEncoding):
		return fmt.Errorf("transfer encoding %q, where a length was expected", value)
	case bytes.EqualFold(name, fieldConnection):
		h.close = h.close || bytes.EqualFold(value, tokenClose)
	case bytes.EqualFold(name, fieldUpgrade):
		h.socket = bytes.EqualFold(value, tokenWebSocket)
	case bytes.EqualFold(name, fieldBackend):
		h.backend = append(h.backend[:0], value...)
	case bytes.EqualFold(name, fieldSetCookie):
		pair, _, _ := bytes.Cut(value, []byte(";"))
		if len(h.cookies) > 0 {
			h.cookies = append(h.cookies, "; "...)
		}
		h.cookies = append(h.cookies, pair...)
	case bytes.EqualFold(name, fieldKey), bytes.EqualFold(name, fieldAccept):
		h.key = append(h.key[:0], value...)
	}
	return nil
}

// word returns word i of the first line, counted from zero, or nil.
func (h *head) word(i int) []byte {
	rest := h.first
	for range i {
		_, rest, _ = bytes.Cut(rest, []byte(" "))
	}
	word, _, _ := bytes.Cut(rest, []byte(" "))
	return word
}

// readLine returns a line without its line break. It is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if len(line) > 0 {
			err = unexpected(err)
		}
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// unexpected returns the error of a connection that ended too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Opcodes of RFC 6455, section 5.2, that this program uses.
const (
	opBinary = 0x2
	opClose  = 0x8
)

// Sizes of a frame's parts, in octets.
const (
	maxFrameHead = 14
	maxPayload   = 1 << 20
)

// A frame is the header of an unfragmented message (RFC 6455, section 5.2).
type frame struct {
	opcode byte
	masked bool
	key    [4]byte
	length int
}

// append appends the header to b.
func (f frame) append(b []byte) []byte {
	bit := byte(0)
	if f.masked {
		bit = 0x80
	}
	b = append(b, 0x80|f.opcode)
	switch {
	case f.length <= 125:
		b = append(b, bit|byte(f.length))
	case f.length <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(f.length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, bit|127), uint64(f.length))
	}
	if f.masked {
		b = append(b, f.key[:]...)
	}
	return b
}

// readFrame reads a frame's header. Fragments, extensions and payloads above maxPayload are errors.
func readFrame(r *bufio.Reader) (f frame, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return frame{}, err
	}
	if b[0]&0xF0 != 0x80 {
		return frame{}, fmt.Errorf("a frame begins with %#x: no whole message", b[0])
	}
	f.opcode, f.masked = b[0]&0x0F, b[1]&0x80 != 0
	length := uint64(b[1] & 0x7F)
	switch length {
	case 126:
		_, err = io.ReadFull(r, b[:2])
		length = uint64(binary.BigEndian.Uint16(b[:2]))
	case 127:
		_, err = io.ReadFull(r, b[:])
		length = binary.BigEndian.Uint64(b[:])
	}
	if err == nil && f.masked {
		_, err = io.ReadFull(r, f.key[:])
	}
	if err != nil {
		return frame{}, unexpected(err)
	}
	if length > maxPayload {
		return frame{}, fmt.Errorf("a frame of %d octets is too long", length)
	}
	f.length = int(length)
	return f, nil
}

// mask applies a masking key to a whole payload (RFC 6455, section 5.3), eight octets at a time.
func mask(payload []byte, key [4]byte) {
	four := uint64(binary.NativeEndian.Uint32(key[:]))
	eight := four | four<<32
	for len(payload) >= 8 {
		binary.NativeEndian.PutUint64(payload, binary.NativeEndian.Uint64(payload)^eight)
		payload = payload[8:]
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
}
