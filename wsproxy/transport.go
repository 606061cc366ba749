package wsproxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// What the default transport allows a backend. The numbers are in the package documentation.
const (
	dialTimeout         = 3 * time.Second
	tlsHandshakeTimeout = 5 * time.Second
	headerTimeout       = 60 * time.Second
	expectTimeout       = time.Second
	idleTimeout         = 90 * time.Second
	idlePerTarget       = 64
	maxHeaderBytes      = 1 << 20
	keepAlive           = 30 * time.Second
	uploadTimeout       = 60 * time.Second
)

// transports carry the attempts of a Proxy. Upgrades have their own, which never negotiates HTTP/2: a switch of
// protocols exists in HTTP/1.1 only.
type transports struct {
	plain, upgrade http.RoundTripper
	h2c            http.RoundTripper   // for plain requests to targets of that scheme
	alone          *http.Transport     // one connection for each request; nil when the RoundTripper is a caller's
	own            *upstream.Transport // what plain sends requests to http targets over; nil when it is not made here
	owned          bool                // made here, so ours to close
	opaque         bool                // a URL's Opaque is sent as the path: so it is without a proxy in between
	known          bool                // no RoundTripper of the caller's: what is over stays untouched
}

func newTransports(given http.RoundTripper, conf *tls.Config) transports {
	switch t := given.(type) {
	case nil:
		plain := newUpstream()
		return transports{
			plain:   byScheme{plain, newTransport(conf, "h2", "http/1.1")},
			upgrade: byScheme{plain, newTransport(conf, "http/1.1")},
			h2c:     newTransport(conf, "h2c"),
			alone:   alone(newTransport(conf, "http/1.1")),
			own:     plain,
			owned:   true,
			opaque:  true,
			known:   true,
		}
	case *http.Transport:
		return transports{plain: t, upgrade: onlyHTTP1(t), h2c: onlyH2C(t), alone: alone(onlyHTTP1(t)),
			opaque: t.Proxy == nil, known: true}
	default:
		return transports{plain: t, upgrade: t, h2c: t}
	}
}

// closeIdle ends the idle connections that nobody else can know of: all of our own transports, and those of the
// clones that upgrades and h2c to the caller's targets ran on.
func (t transports) closeIdle() {
	closeIdle(t.upgrade)
	closeIdle(t.h2c)
	if t.owned {
		closeIdle(t.plain)
	}
}

// closeIdle leaves transports alone that can only be a caller's.
func closeIdle(rt http.RoundTripper) {
	switch t := rt.(type) {
	case *http.Transport:
		t.CloseIdleConnections()
	case byScheme:
		t.http.CloseIdleConnections()
		t.https.CloseIdleConnections()
	}
}

// newTransport has the defaults of this package: no proxy from the environment, no compression that the client did
// not ask for, and dial errors that say at which stage they happened.
func newTransport(conf *tls.Config, protocols ...string) *http.Transport {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialTarget(ctx, network, addr)
		if err != nil {
			return nil, &stageError{ClassDial, err}
		}
		return conn, nil
	}
	t := &http.Transport{
		DialContext:           dial,
		DialTLSContext:        tlsDialer(dial, conf, protocols),
		DisableCompression:    true,
		MaxIdleConnsPerHost:   idlePerTarget,
		IdleConnTimeout:       idleTimeout,
		ResponseHeaderTimeout: headerTimeout,
		ExpectContinueTimeout: expectTimeout,
		Protocols:             new(http.Protocols),

		MaxResponseHeaderBytes: maxHeaderBytes,
	}
	for _, name := range protocols {
		switch name {
		case "h2":
			t.Protocols.SetHTTP2(true)
		case "h2c":
			t.Protocols.SetUnencryptedHTTP2(true)
		default:
			t.Protocols.SetHTTP1(true)
		}
	}
	return t
}

type dialLimitKey struct{}

// withDialLimit limits the dials of a request whose earlier attempts have used up some of the time for them.
func withDialLimit(ctx context.Context, left time.Duration) context.Context {
	return context.WithValue(ctx, dialLimitKey{}, time.Now().Add(left))
}

// dialTarget makes a connection within the time that one dial may take, and all of a request.
func dialTarget(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	dialer.Deadline, _ = ctx.Value(dialLimitKey{}).(time.Time)
	return dialer.DialContext(ctx, network, addr)
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// tlsDialer dials and shakes hands itself, because http.Transport's own errors do not tell a failed handshake from a
// connection that broke after it.
func tlsDialer(dial dialFunc, conf *tls.Config, protocols []string) dialFunc {
	base := conf.Clone()
	if base == nil {
		base = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	base.NextProtos = protocols
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conf := base
		if conf.ServerName == "" {
			conf = base.Clone()
			conf.ServerName, _, _ = net.SplitHostPort(addr)
		}
		ctx, cancel := context.WithTimeoutCause(ctx, tlsHandshakeTimeout, errHandshakeTimeout)
		defer cancel()
		conn := tls.Client(raw, conf)
		if err := shake(ctx, conn); err != nil {
			raw.Close()
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nil, &stageError{ClassTLS, fmt.Errorf("TLS handshake with %s: %w", addr, err)}
		}
		return conn, nil
	}
}

// shake contains a panic of the functions of a caller's tls.Config: http.Transport dials where nobody recovers.
func shake(ctx context.Context, conn *tls.Conn) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("a function of BackendTLS has panicked: %v\n%s", v, debug.Stack())
		}
	}()
	return conn.HandshakeContext(ctx)
}

// onlyHTTP1 is the caller's transport without HTTP/2.
func onlyHTTP1(t *http.Transport) *http.Transport {
	c := t.Clone()
	c.ForceAttemptHTTP2 = false
	c.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	c.Protocols = new(http.Protocols)
	c.Protocols.SetHTTP1(true)
	if c.TLSClientConfig != nil {
		c.TLSClientConfig.NextProtos = nil
	}
	return c
}

// alone makes t, which nobody has used yet, open a connection for each request.
func alone(t *http.Transport) *http.Transport {
	t.DisableKeepAlives = true
	return t
}

// onlyH2C is the caller's transport for HTTP/2 in plain text.
func onlyH2C(t *http.Transport) *http.Transport {
	c := t.Clone()
	c.TLSNextProto = nil
	c.Protocols = new(http.Protocols)
	c.Protocols.SetUnencryptedHTTP2(true)
	return c
}

// newUpstream is what requests to http targets run over, upgrades included.
func newUpstream() *upstream.Transport {
	return &upstream.Transport{
		DialContext:      dialTarget,
		HeaderTimeout:    headerTimeout,
		ContinueTimeout:  expectTimeout,
		IdleTimeout:      idleTimeout,
		MaxIdlePerTarget: idlePerTarget,
		MaxHeaderBytes:   maxHeaderBytes,
	}
}

// byScheme sends requests to http targets over a transport for them alone.
type byScheme struct {
	http  *upstream.Transport
	https *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t byScheme) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		return t.http.RoundTrip(r)
	}
	return t.https.RoundTrip(r)
}
