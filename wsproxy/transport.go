package wsproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// transports carry the attempts of a Proxy.
type transports struct {
	limits Upstream            // with all fields set; not used with a caller's transport
	own    *upstream.Transport // for http targets, also for upgrades; nil with a caller's transport, and with SendProxy
	opaque bool                // a URL's Opaque is sent as the path; true unless a forward proxy may be used
	known  bool                // not a caller's RoundTripper, which might use a request after its end
	told   bool                // each request's context has the member, see MemberOf

	shared *generation                           // for targets with only a URL; nil when each has its own
	make   func(to *balancer.Target) *generation // for one target
	lanes  sync.Map                              // of *lane, by their *balancer.Member
}

// newTransports returns the transports of a Proxy without SendProxy.
func newTransports(p *Proxy) *transports {
	switch t := p.Transport.(type) {
	case nil:
		s := &transports{limits: p.Upstream.withDefaults(), opaque: true, known: true}
		s.own = s.limits.newUpstream()
		s.make = func(to *balancer.Target) *generation { return s.limits.newGeneration(to, p.BackendTLS) }
		return s
	case *http.Transport:
		s := &transports{shared: newGiven(t), opaque: t.Proxy == nil, known: true, told: p.TransportDials}
		s.make = func(to *balancer.Target) *generation {
			c, err := redirected(t, to, p.TransportDials)
			if err != nil {
				return refusing(err)
			}
			g := newGiven(c)
			g.owned = true
			return g
		}
		return s
	default:
		s := &transports{shared: &generation{plain: t, upgrade: t, h2c: t}, told: p.TransportDials}
		s.make = func(to *balancer.Target) *generation {
			if !p.TransportDials {
				return refusing(fmt.Errorf("the Transport, a %T, is not known to dial Addr, or to use ServerName or Certificate: "+
					"see TransportDials", t))
			}
			return s.shared
		}
		return s
	}
}

// newGiven returns a caller's transport, with copies for upgrades, h2c targets and logins.
func newGiven(t *http.Transport) *generation {
	return &generation{plain: t, upgrade: onlyHTTP1(t), h2c: onlyH2C(t), alone: alone(onlyHTTP1(t))}
}

// newGeneration returns transports for https and h2c targets, and for connections that only one
// client uses.
func (u *Upstream) newGeneration(to *balancer.Target, conf *tls.Config) *generation {
	return &generation{
		plain:   u.newTransport(to, conf, "h2", "http/1.1"),
		upgrade: u.newTransport(to, conf, "http/1.1"),
		h2c:     u.newTransport(to, conf, "h2c"),
		alone:   alone(u.newTransport(to, conf, "http/1.1")),
		owned:   true,
	}
}

// newTransport returns a transport with the defaults of this package. It uses no proxy from the
// environment and no compression that the client did not ask for. Its dial errors say at which
// stage they happened.
func (u *Upstream) newTransport(to *balancer.Target, conf *tls.Config, protocols ...string) *http.Transport {
	redial := redirect(u.dial, to)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := redial(ctx, network, addr)
		if err != nil {
			return nil, &stageError{ClassDial, err}
		}
		return conn, nil
	}
	t := &http.Transport{
		DialContext:           dial,
		DialTLSContext:        u.tlsDialer(dial, to, conf, protocols),
		DisableCompression:    true,
		MaxIdleConnsPerHost:   u.MaxIdle,
		IdleConnTimeout:       u.IdleTimeout,
		ResponseHeaderTimeout: u.HeaderTimeout,
		ExpectContinueTimeout: expectTimeout,
		Protocols:             new(http.Protocols),

		MaxResponseHeaderBytes: int64(u.MaxHeaderBytes),
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

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// redirect returns a dialFunc for the target's Addr. Without an Addr it returns dial, because then
// the request's URL has the address.
func redirect(dial dialFunc, to *balancer.Target) dialFunc {
	if to.Addr == "" {
		return dial
	}
	network, addr := to.Endpoint()
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, network, addr) }
}

// tlsDialer returns a dialFunc that also makes the TLS handshake. The errors of http.Transport's
// own handshake cannot be told from those of a connection that broke after it.
func (u *Upstream) tlsDialer(dial dialFunc, to *balancer.Target, conf *tls.Config, protocols []string) dialFunc {
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	base := to.TLSConfig(conf)
	base.NextProtos = protocols
	named := to.ServerName != "" || conf.ServerName != ""
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conf := base
		if name := hostOf(addr); !named && name != conf.ServerName { // Proxy.Target has changed the URL's host
			conf = base.Clone()
			conf.ServerName = name
		}
		if u.TLSTimeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, u.TLSTimeout, errHandshakeTimeout)
			defer cancel()
		}
		conn := tls.Client(raw, conf)
		if err := shake(ctx, conn); err != nil {
			raw.Close()
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nil, &stageError{ClassTLS, fmt.Errorf("TLS handshake with %s: %w", cmp.Or(to.Addr, addr), err)}
		}
		return conn, nil
	}
}

// hostOf returns the host of an address as it stands in certificates, without the zone of IPv6.
func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.WithZone("").String()
	}
	return host
}

// shake makes the handshake. It returns a panic of the functions of a caller's tls.Config as an
// error, because http.Transport dials on goroutines where nobody recovers.
func shake(ctx context.Context, conn *tls.Conn) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("a function of BackendTLS has panicked: %v\n%s", v, debug.Stack())
		}
	}()
	return conn.HandshakeContext(ctx)
}

// onlyHTTP1 returns a copy of a caller's transport without HTTP/2.
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

// alone makes t open a connection for each request, and returns it. t must not have been used.
func alone(t *http.Transport) *http.Transport {
	t.DisableKeepAlives = true
	return t
}

// onlyH2C returns a copy of a caller's transport that speaks only HTTP/2 in plain text.
func onlyH2C(t *http.Transport) *http.Transport {
	c := t.Clone()
	c.TLSNextProto = nil
	c.Protocols = new(http.Protocols)
	c.Protocols.SetUnencryptedHTTP2(true)
	return c
}

// newUpstream returns the transport for http targets. It also carries upgrades.
func (u *Upstream) newUpstream() *upstream.Transport {
	t := &upstream.Transport{
		DialContext:      u.dial,
		HeaderTimeout:    noLimit(u.HeaderTimeout),
		ContinueTimeout:  expectTimeout,
		IdleTimeout:      noLimit(u.IdleTimeout),
		MaxIdlePerTarget: u.MaxIdle,
		MaxHeaderBytes:   u.MaxHeaderBytes,
	}
	if u.MaxAge > 0 {
		t.MaxAge = u.age
	}
	return t
}

// noLimit returns d for package upstream, where a negative value means no limit, and not zero.
func noLimit(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// age returns the greatest age of a new connection.
func (u *Upstream) age() time.Duration { return underway.Shorten(u.MaxAge, u.Jitter) }
