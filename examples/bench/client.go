package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/stickylb/stickylb/health/wskey"
)

// patience limits the wait for an answer and for everything else that must happen.
const patience = 30 * time.Second

// clientReads is the size of a client's read buffer.
const clientReads = 4 << 10

// An exchange is a request and the expected answer.
type exchange struct {
	method, path string
	body         []byte
	want         []byte
}

var (
	small  = exchange{method: "GET", path: pathSmall, want: content[:smallSize]}
	large  = exchange{method: "GET", path: pathLarge, want: content[:largeSize]}
	upload = exchange{method: "POST", path: pathUpload, body: content[:largeSize], want: uploadAnswer(largeSize)}
)

// login returns a request whose answer sets a cookie of the application.
func login(session string) exchange {
	return exchange{method: "GET", path: pathLogin + session, want: content[:smallSize]}
}

// A session has the cookies of a client's first answer and the name of the backend that answered.
type session struct {
	cookies string
	backend string
}

// addCookie adds the name and the value of a Set-Cookie field.
func (s *session) addCookie(field string) {
	pair, _, _ := strings.Cut(field, ";")
	if s.cookies != "" {
		s.cookies += "; "
	}
	s.cookies += pair
}

// check returns an error unless the session's backend has answered.
func (s *session) check(backend string) error {
	if s.backend != backend || backend == "" {
		return fmt.Errorf("backend %q answered in a session of %q", backend, s.backend)
	}
	return nil
}

// A client is one connection to a proxy, for one session. It uses little CPU time, because it
// shares the processors with the measured proxy. It is for one goroutine.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	forget  func() bool // stops closing the connection at the end of ctx
	head    head
	session session
	request []byte // as it was last sent
	sent    exchange
	moves   bool // the session may move, which is counted
	moved   int
}

// dial connects to a proxy, with TLS if conf is not nil. The connection is closed when ctx ends, or
// if an answer takes longer than [patience] after the last call of extend.
func dial(ctx context.Context, addr string, conf *tls.Config) (*client, error) {
	conn, err := connect(ctx, addr, conf)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, clientReads)}
	c.forget = context.AfterFunc(ctx, func() { conn.Close() })
	c.extend(0)
	return c, nil
}

// connect connects to a proxy, with TLS if conf is not nil. The proxy must then agree on the first
// protocol of conf.
func connect(ctx context.Context, addr string, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil || conf == nil {
		return conn, err
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	if got := secure.ConnectionState().NegotiatedProtocol; got != conf.NextProtos[0] {
		conn.Close()
		return nil, fmt.Errorf("the proxy agreed on the protocol %q, want %q", got, conf.NextProtos[0])
	}
	return secure, nil
}

// extend gives the next answers d more time than patience.
func (c *client) extend(d time.Duration) { c.conn.SetDeadline(time.Now().Add(patience + d)) }

func (c *client) close() {
	c.forget()
	c.conn.Close()
}

// begin starts a new session with a first request.
func (c *client) begin() error { return c.start(small) }

// start starts a new session with this request.
func (c *client) start(e exchange) error {
	c.session, c.sent = session{}, exchange{}
	return c.do(e)
}

// do sends a request and checks the answer's status, its body, and that the session's backend has
// answered. The first answer binds the session.
func (c *client) do(e exchange) error {
	if c.sent.path != e.path {
		c.sent, c.request = e, appendRequest(c.request[:0], e, c.session)
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	if err := c.head.read(c.r); err != nil {
		return unexpected(err)
	}
	if status := c.head.word(1); string(status) != "200" || c.head.close {
		return fmt.Errorf("%s %s: answered %q, closed: %t", e.method, e.path, c.head.first, c.head.close)
	}
	if c.head.length != int64(len(e.want)) {
		return fmt.Errorf("%s %s: %d octets, want %d", e.method, e.path, c.head.length, len(e.want))
	}
	if err := c.compare(e.want); err != nil {
		return fmt.Errorf("%s %s: %w", e.method, e.path, err)
	}
	return c.stick()
}

func appendRequest(b []byte, e exchange, s session) []byte {
	b = fmt.Appendf(b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", e.method, e.path)
	if s.cookies != "" {
		b = fmt.Appendf(b, "Cookie: %s\r\n", s.cookies)
	}
	if e.method == "POST" {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(e.body))
	}
	return append(append(b, "\r\n"...), e.body...)
}

// compare reads octets and returns an error unless they equal want.
func (c *client) compare(want []byte) error {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	for len(want) > 0 {
		b := (*p)[:min(len(want), bufferSize)]
		if _, err := io.ReadFull(c.r, b); err != nil {
			return unexpected(err)
		}
		if !bytes.Equal(b, want[:len(b)]) {
			return errors.New("the octets are not those of the backend")
		}
		want = want[len(b):]
	}
	return nil
}

// stick checks which backend has answered. The first answer of a session binds it, and so does that
// of another backend if the session may move.
func (c *client) stick() error {
	if moved := c.session.backend != string(c.head.backend); c.session.backend == "" || moved && c.moves {
		if c.session.backend != "" {
			c.moved++
		}
		c.session = session{string(c.head.cookies), string(c.head.backend)}
		c.sent = exchange{} // the next request has a cookie
	}
	return c.session.check(string(c.head.backend))
}

// upgrade makes the connection a WebSocket of the session.
func (c *client) upgrade() error {
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	b := fmt.Appendf(c.request[:0], "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", pathSocket, key)
	if c.session.cookies != "" {
		b = fmt.Appendf(b, "Cookie: %s\r\n", c.session.cookies)
	}
	c.request, c.sent = append(b, "\r\n"...), exchange{}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	if err := c.head.read(c.r); err != nil {
		return unexpected(err)
	}
	if string(c.head.word(1)) != "101" || !c.head.socket || string(c.head.key) != wskey.Accept(key) {
		return fmt.Errorf("a WebSocket's handshake: answered %q", c.head.first)
	}
	return c.stick()
}

// send writes one message.
func (c *client) send(opcode byte, payload []byte) error {
	c.request = appendMessage(c.request[:0], opcode, payload)
	_, err := c.conn.Write(c.request)
	return err
}

// appendMessage appends a masked message.
func appendMessage(b []byte, opcode byte, payload []byte) []byte {
	f := frame{opcode: opcode, masked: true, length: len(payload)}
	binary.NativeEndian.PutUint32(f.key[:], mathrand.Uint32())
	b = append(f.append(b), payload...)
	mask(b[len(b)-len(payload):], f.key)
	return b
}

// receive reads a message and checks it.
func (c *client) receive(opcode byte, want []byte) error {
	f, err := readFrame(c.r)
	if err != nil {
		return unexpected(err)
	}
	if f.opcode != opcode || f.masked || f.length != len(want) {
		return fmt.Errorf("a message of %d octets with opcode %d, want %d with %d", f.length, f.opcode, len(want), opcode)
	}
	return c.compare(want)
}

// echo sends a message and waits until it is back.
func (c *client) echo(payload []byte) error {
	if err := c.send(opBinary, payload); err != nil {
		return err
	}
	return c.receive(opBinary, payload)
}

// farewell closes a WebSocket with the closing handshake and waits for the end of the connection.
func (c *client) farewell() error {
	normal := []byte{1000 >> 8, 1000 & 0xFF}
	if err := c.send(opClose, normal); err != nil {
		return err
	}
	if err := c.receive(opClose, normal); err != nil {
		return err
	}
	if _, err := c.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("a WebSocket does not end after its close: %v", err)
	}
	return nil
}

// visitSocket makes the connection a WebSocket, lets the backend echo one message, and closes it
// with the closing handshake.
func (c *client) visitSocket() error {
	return inOrder(c.upgrade, func() error { return c.echo(content[:echoSize]) }, c.farewell)
}
