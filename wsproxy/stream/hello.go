package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
)

// maxHello bounds the bytes that are read to find a ClientHello, as nginx and HAProxy do with their buffers. Usual ones
// have 200 bytes to 2 KiB.
const maxHello = 16 << 10

// errHello ends crypto/tls's handshake when the ClientHello is known.
var errHello = errors.New("stream: the hello is read")

// readHello reads what a client begins with until crypto/tls, which has to parse it anyway and does so with care, has
// found its ClientHello. It fills c and returns what was read: the beginning of what goes to the target. Nothing is
// written to conn. When ctx ends first conn is closed.
func readHello(ctx context.Context, conn net.Conn, c *Client) ([]byte, error) {
	r := recorder{Conn: conn}
	found := false
	err := tls.Server(&r, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			found = true
			c.ServerName, c.Protocols = strings.ToLower(hello.ServerName), slices.Clone(hello.SupportedProtos)
			return nil, errHello
		},
	}).HandshakeContext(ctx)
	if found && ctx.Err() == nil {
		return r.read, nil
	}
	return nil, err
}

// A recorder keeps what is read and drops what is written: crypto/tls's alerts.
type recorder struct {
	net.Conn
	read []byte
}

// Read implements io.Reader.
func (r *recorder) Read(p []byte) (int, error) {
	p = p[:min(len(p), maxHello-len(r.read))]
	if len(p) == 0 {
		return 0, errHelloLength
	}
	n, err := r.Conn.Read(p)
	r.read = append(r.read, p[:n]...)
	return n, err
}

// Write implements io.Writer.
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
