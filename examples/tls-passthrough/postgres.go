package main

import (
	"fmt"
	"io"
	"net"
)

// The requests that a client of PostgreSQL may send before anything else: the length, and a code
// that is no version of the protocol (SSLRequest and GSSENCRequest in its documentation of
// messages).
const (
	sslRequest    = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	gssencRequest = "\x00\x00\x00\x08\x04\xd2\x16\x30"
)

// An sslListener answers PostgreSQL's SSLRequest, so that a ClientHello comes next. Connections
// that begin with something else are left as they are.
type sslListener struct{ net.Listener }

// Accept implements net.Listener. It does not wait for the client.
func (l *sslListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &sslConn{TCPConn: tcp}, err
	}
	return c, err
}

// An sslConn is a client's connection. It is for one reader at a time.
type sslConn struct {
	*net.TCPConn
	opened bool
	early  []byte // was read, and belongs to the next protocol
}

// Read implements io.Reader.
func (c *sslConn) Read(p []byte) (n int, err error) {
	if !c.opened {
		c.opened = true
		if c.early, err = answerRequests(c.TCPConn); err != nil {
			return 0, err
		}
	}
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.TCPConn.Read(p)
}

// answerRequests answers a GSSENCRequest with no and an SSLRequest with yes. A client sends each at
// most once, in this order. early is what was read and is neither. What comes after the requests is
// not read: if somebody has put plain text there, it reaches the server as TLS and fails its
// handshake.
func answerRequests(conn io.ReadWriter) (early []byte, err error) {
	request := make([]byte, len(sslRequest))
	for _, ask := range []struct{ request, answer string }{{gssencRequest, "N"}, {sslRequest, "S"}} {
		if len(early) == 0 {
			if _, err := io.ReadFull(conn, request[:1]); err != nil {
				return nil, err
			}
			early = request[:1]
		}
		if len(early) == 1 && early[0] == 0 { // TLS begins with another octet
			n, err := io.ReadFull(conn, request[1:])
			if early = request[:1+n]; err != nil {
				return early, err
			}
		}
		if string(early) == ask.request {
			if _, err := io.WriteString(conn, ask.answer); err != nil {
				return nil, err
			}
			early = nil
		}
	}
	return early, nil
}

// WriteTo implements io.WriterTo. That of the TCPConn would not know what Read has kept.
func (c *sslConn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{c}) }

// askForTLS sends an SSLRequest and reads the answer, one octet.
func askForTLS(conn net.Conn) error {
	if _, err := io.WriteString(conn, sslRequest); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("the answer to an SSLRequest: %w", err)
	}
	if answer[0] != 'S' {
		return fmt.Errorf("the server has no TLS: it answered an SSLRequest with %q", answer[0])
	}
	return nil
}
