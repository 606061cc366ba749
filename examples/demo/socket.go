package main

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/health/wskey"
)

// Opcodes and status codes of RFC 6455, sections 5.2 and 7.4.1, that the page's WebSocket uses.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	closeNormal      = 1000
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeNoStatus    = 1005 // never sent
	closeInvalid     = 1007
	closeTooBig      = 1009
)

const (
	maxMessage   = 4 << 10 // octets of a message from the page
	maxControl   = 125     // octets of a ping, pong or close (RFC 6455, section 5.5)
	writeTimeout = 5 * time.Second
	closeTimeout = time.Second // limit for the answer to a close
)

// A socket is the server's side of a WebSocket (RFC 6455), with the features that the page needs:
// text messages, pings and the closing handshake. Only one goroutine may call read. The other
// methods are safe for concurrent use.
type socket struct {
	conn net.Conn
	r    *bufio.Reader

	mu     sync.Mutex // held to write a frame
	closed bool       // a close frame was sent: no frame may follow it
}

// A protocolError is a violation of the protocol by the peer, with the status code for the close
// frame.
type protocolError struct {
	code uint16
	text string
}

func (e *protocolError) Error() string { return e.text }

// acceptSocket answers the handshake of RFC 6455, section 4.2. If the request is not a valid
// handshake, it answers with an error status and returns an error.
func acceptSocket(w http.ResponseWriter, r *http.Request) (*socket, error) {
	if status, err := checkHandshake(r); err != nil {
		if status == http.StatusUpgradeRequired {
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Sec-WebSocket-Version", "13")
		}
		http.Error(w, err.Error(), status)
		return nil, err
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, http.StatusText(http.StatusNotImplemented), http.StatusNotImplemented)
		return nil, err
	}
	s := &socket{conn: conn, r: rw.Reader}
	conn.SetDeadline(time.Now().Add(writeTimeout))
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", wskey.Accept(r.Header.Get("Sec-WebSocket-Key")))
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return s, nil
}

func checkHandshake(r *http.Request) (status int, err error) {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet || !httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") ||
		!httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket"):
		return http.StatusUpgradeRequired, errors.New("this path speaks WebSocket")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return http.StatusUpgradeRequired, errors.New("the WebSocket version is not 13")
	case err != nil || len(key) != 16:
		return http.StatusBadRequest, errors.New("Sec-WebSocket-Key is not 16 octets in base64")
	case !sameOrigin(r):
		return http.StatusForbidden, errors.New("a page of another origin asks")
	}
	return 0, nil
}

// sameOrigin reports whether the request comes from a page of this host, or not from a page.
// Browsers let every page open a WebSocket to any host, with cookies, so the server must check the
// origin.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// read returns the next text message. It answers pings. It answers the peer's close and returns
// io.EOF. If the peer breaks the protocol, it sends a close frame with the reason. After any error
// the caller must close the connection.
func (s *socket) read() (string, error) {
	message, err := s.readMessage()
	if wrong, ok := errors.AsType[*protocolError](err); ok {
		s.close(wrong.code)
	}
	return message, err
}

func (s *socket) readMessage() (string, error) {
	var message []byte
	begun := false // the first fragment of a message has been read, but not its last
	for {
		f, err := readFrame(s.r, maxMessage-len(message))
		if err != nil {
			return "", err
		}
		switch f.opcode {
		case opPing:
			if err := s.write(opPong, f.payload); err != nil {
				return "", err
			}
			continue
		case opPong:
			continue
		case opClose:
			s.close(closeStatus(f.payload))
			return "", io.EOF
		case opBinary:
			return "", &protocolError{closeUnsupported, "only text is understood"}
		}
		if begun != (f.opcode == opContinuation) {
			return "", &protocolError{closeProtocol, "a fragment is out of place"}
		}
		begun = true
		message = append(message, f.payload...)
		if !f.final {
			continue
		}
		if !utf8.Valid(message) {
			return "", &protocolError{closeInvalid, "a text is not UTF-8"}
		}
		return string(message), nil
	}
}

// closeStatus returns the status code for the answer to a close frame: the same code, or an error
// code if the frame is invalid.
func closeStatus(payload []byte) uint16 {
	if len(payload) == 0 {
		return closeNormal
	}
	if len(payload) == 1 || !utf8.Valid(payload[2:]) {
		return closeProtocol
	}
	code := binary.BigEndian.Uint16(payload)
	switch {
	case code < 1000, code == 1004, code == closeNoStatus, code == 1006, 1014 < code && code < 3000, code >= 5000:
		return closeProtocol
	}
	return code
}

// send writes a text message.
func (s *socket) send(text string) error { return s.write(opText, []byte(text)) }

// close writes a close frame, unless one was sent, and gives the peer closeTimeout to answer. After
// that, read returns.
func (s *socket) close(code uint16) {
	if s.write(opClose, binary.BigEndian.AppendUint16(nil, code)) == nil {
		s.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	}
}

// write sends one frame. A server does not mask frames (RFC 6455, section 5.1), and sends nothing
// after its close frame.
func (s *socket) write(opcode byte, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = opcode == opClose
	s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := s.conn.Write(appendFrame(nil, opcode, payload))
	return err
}

func appendFrame(b []byte, opcode byte, payload []byte) []byte {
	b = append(b, 0x80|opcode)
	switch n := len(payload); {
	case n <= 125:
		b = append(b, byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// A frame is an unmasked frame of RFC 6455, section 5.2.
type frame struct {
	final   bool
	opcode  byte
	payload []byte
}

// readFrame reads a client's frame. The payload has at most limit octets, or maxControl in a
// control frame. It allocates no more than that, even if the frame claims a greater length.
func readFrame(r io.Reader, limit int) (frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{final: head[0]&0x80 != 0, opcode: head[0] & 0x0F}
	control := f.opcode&0x8 != 0
	if err := checkHead(head, control, f.final); err != nil {
		return frame{}, err
	}
	length, err := readLength(r, head[1]&0x7F)
	if err != nil {
		return frame{}, err
	}
	if control {
		limit = maxControl
	}
	if length > uint64(limit) {
		return frame{}, &protocolError{closeTooBig, "a message is too long"}
	}
	masked := make([]byte, 4+length)
	if _, err := io.ReadFull(r, masked); err != nil {
		return frame{}, unexpected(err)
	}
	f.payload = masked[4:]
	for i := range f.payload {
		f.payload[i] ^= masked[i%4]
	}
	return f, nil
}

func checkHead(head [2]byte, control, final bool) error {
	switch opcode := head[0] & 0x0F; {
	case head[0]&0x70 != 0:
		return &protocolError{closeProtocol, "a reserved bit is set"}
	case opcode > opBinary && opcode < opClose || opcode > opPong:
		return &protocolError{closeProtocol, "the opcode is reserved"}
	case head[1]&0x80 == 0:
		return &protocolError{closeProtocol, "a client's frame is not masked"}
	case control && (!final || head[1]&0x7F > maxControl):
		return &protocolError{closeProtocol, "a control frame is fragmented or too long"}
	}
	return nil
}

// readLength reads the extended length of a payload. A length in a longer form than necessary is an
// error.
func readLength(r io.Reader, short byte) (uint64, error) {
	var b [8]byte
	switch {
	case short <= 125:
		return uint64(short), nil
	case short == 126:
		if _, err := io.ReadFull(r, b[:2]); err != nil {
			return 0, unexpected(err)
		}
		if n := binary.BigEndian.Uint16(b[:2]); n > 125 {
			return uint64(n), nil
		}
	default:
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, unexpected(err)
		}
		if n := binary.BigEndian.Uint64(b[:]); n > 0xFFFF && n <= 1<<63-1 {
			return n, nil
		}
	}
	return 0, &protocolError{closeProtocol, "a length is not written in its shortest form"}
}

// unexpected returns the error of a connection that ended inside a frame.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
