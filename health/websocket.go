package health

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health/wskey"
)

// WebSocket is a [Check] that opens a WebSocket (RFC 6455) and closes it again. A target is healthy
// if it switches protocols with the right accept key. Targets with the schemes https and wss are
// checked over TLS, all others (tcp included) in plain text. The check uses HTTP/1.1, as a proxy
// does, so a target that speaks only HTTP/2 fails, even if it supports RFC 8441. The zero value
// requests /.
type WebSocket struct {
	// Path is the request's path, and may have a query. It must be escaped as it is to be sent. It
	// is appended to the path of the target's URL. Empty means "/".
	Path string

	// Host is the request's Host. Empty means the one of the target's URL.
	Host string

	// Header holds further header fields, such as Origin, Cookie or Sec-WebSocket-Protocol. It is
	// not changed. Fields of the handshake itself in it are ignored.
	Header http.Header

	// TLS is used for https and wss targets. The target's ServerName and Certificate replace those
	// of TLS if they are set, see [balancer.Target.TLSConfig]. Nil means the zero [tls.Config],
	// which verifies the certificate against the system's roots. TLS is cloned and never changed.
	TLS *tls.Config

	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// Check implements [Check].
func (c WebSocket) Check(ctx context.Context, t balancer.Target) error {
	if err := c.validate(); err != nil {
		return err
	}
	a := begin(ctx, t, c.Dial, c.TLS)
	conn, err := a.open("http/1.1")
	if err != nil {
		if f, ok := errors.AsType[*failure](err); ok && strings.HasSuffix(f.reason, "no application protocol") {
			return withoutHTTP1(f)
		}
		return err
	}
	defer conn.Close()
	if a.http2 {
		return &failure{reason: "the target has chosen HTTP/2, and a WebSocket is opened over HTTP/1.1"}
	}
	key := wskey.New()
	res, err := a.exchange(conn, c.request(t, key))
	if f, ok := errors.AsType[*failure](err); ok && (a.url.Scheme == "h2c" || encrypted(a.url) && !a.chosen) {
		return withoutHTTP1(f)
	}
	if err != nil {
		return err
	}
	if err := switched(res, key); err != nil {
		return err
	}
	sayGoodbye(conn)
	return nil
}

// validate implements [validator].
func (c WebSocket) validate() error {
	return validateRequest("WebSocket", c.Path, c.Host, c.Header)
}

func (c WebSocket) request(t balancer.Target, key string) *http.Request {
	req := newRequest(t, c.Path, c.Host, c.Header)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", key)
	return req
}

// withoutHTTP1 adds the hint to a failure that the target may speak only HTTP/2.
func withoutHTTP1(f *failure) error {
	return &failure{reason: f.reason + "; a WebSocket is opened over HTTP/1.1, which the target may not speak", err: f}
}

// switched returns an error unless res accepts the handshake (RFC 6455 section 4.1).
func switched(res *http.Response, key string) error {
	switch {
	case res.StatusCode != http.StatusSwitchingProtocols:
		return &failure{reason: fmt.Sprintf("status %d, expected 101", res.StatusCode)}
	case !hasToken(res.Header["Upgrade"], "websocket"),
		!hasToken(res.Header["Connection"], "upgrade"):
		return &failure{reason: "switched to something that is not a WebSocket"}
	case res.Header.Get("Sec-WebSocket-Accept") != wskey.Accept(key):
		return &failure{reason: "the WebSocket accept key is wrong"}
	}
	return nil
}

// sayGoodbye sends a close frame with status 1000, so that the target does not log a lost client.
// Whether it arrives makes no difference to the result.
func sayGoodbye(conn net.Conn) {
	const fin, closing, masked, length = 0x80, 0x8, 0x80, 2
	frame := []byte{fin | closing, masked | length, 0, 0, 0, 0, 0x03, 0xe8}
	rand.Read(frame[2:6])
	frame[6] ^= frame[2]
	frame[7] ^= frame[3]
	conn.Write(frame)
}
