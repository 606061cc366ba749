package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// An attempt is one check of one target over the network.
type attempt struct {
	ctx    context.Context
	limit  time.Duration // for the whole attempt
	target balancer.Target
	url    *url.URL // the target's
	dial   DialFunc
	config *tls.Config // includes the target's server name and client certificate
	chosen bool        // the target has chosen a protocol by ALPN
	http2  bool        // the connection's protocol is HTTP/2
}

func begin(ctx context.Context, t balancer.Target, dial DialFunc, config *tls.Config) *attempt {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &attempt{
		ctx: ctx, limit: timeLeft(ctx), target: t, url: t.URL, dial: dial, config: t.TLSConfig(config),
	}
}

// limitKey is the context key of a probe's limit.
type limitKey struct{}

// timeLeft returns the time that an attempt has, for its error text: the registry's limit, or less
// if ctx ends earlier.
func timeLeft(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	left := time.Until(deadline)
	if limit, ok := ctx.Value(limitKey{}).(time.Duration); ok && left > limit/2 {
		return limit
	}
	return left.Round(time.Millisecond)
}

var errNoURL = errors.New("the target has no URL: check it with a health.Func")

// connect opens a connection to the target's endpoint. Reads and writes fail once the attempt's
// context has ended.
func (a *attempt) connect() (net.Conn, error) {
	if a.url == nil {
		return nil, errNoURL
	}
	network, address := a.target.Endpoint()
	conn, err := a.dial(a.ctx, network, address)
	if err != nil {
		return nil, a.fail(err, "no connection")
	}
	past := time.Unix(1, 0)
	stop := context.AfterFunc(a.ctx, func() { conn.SetDeadline(past) })
	return &boundConn{Conn: conn, stop: stop}, nil
}

// secure does a TLS handshake on conn. It closes conn if the handshake fails.
func (a *attempt) secure(conn net.Conn) (*tls.Conn, error) {
	secured := tls.Client(conn, a.config)
	if err := secured.HandshakeContext(a.ctx); err != nil {
		conn.Close()
		return nil, a.fail(err, "TLS handshake not done")
	}
	return secured, nil
}

// open connects for one of the protocols, named as in ALPN. The connection uses TLS if the target's
// scheme says so. Nothing is negotiated in plain text: the protocol is HTTP/2 with prior knowledge
// if the scheme is h2c or if protocols has only h2, and HTTP/1.1 otherwise.
func (a *attempt) open(protocols ...string) (net.Conn, error) {
	conn, err := a.connect()
	if err != nil {
		return nil, err
	}
	if !encrypted(a.url) {
		a.http2 = slices.Contains(protocols, "h2") && (a.url.Scheme == "h2c" || len(protocols) == 1)
		return conn, nil
	}
	if a.config.NextProtos == nil {
		a.config.NextProtos = protocols
	}
	secured, err := a.secure(conn)
	if err != nil {
		return nil, err
	}
	protocol := secured.ConnectionState().NegotiatedProtocol
	a.chosen, a.http2 = protocol != "", protocol == "h2"
	return secured, nil
}

// fail returns err with a text for people. If the attempt ran out of time, the text is late,
// followed by the time limit.
func (a *attempt) fail(err error, late string) *failure {
	if a.expired(err) {
		return &failure{reason: fmt.Sprintf("%s within %v", late, a.limit), err: context.DeadlineExceeded}
	}
	return &failure{reason: plain(err), err: err}
}

// expired reports whether the attempt's time limit caused err. Timeouts of the kernel do not count.
func (a *attempt) expired(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	return errors.Is(a.ctx.Err(), context.DeadlineExceeded) && errors.Is(err, os.ErrDeadlineExceeded)
}

// A boundConn is a connection whose deadline is the end of a context.
type boundConn struct {
	net.Conn
	stop func() bool
}

// SetWriteDeadline does nothing: [tls.Conn.Close] would replace the attempt's deadline by one in
// five seconds.
func (c *boundConn) SetWriteDeadline(time.Time) error { return nil }

func (c *boundConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// encrypted reports whether the scheme of u means TLS.
func encrypted(u *url.URL) bool { return u.Scheme == "https" || u.Scheme == "wss" }
