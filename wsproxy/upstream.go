package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// Upstream has the limits of the connections that a [Proxy] makes itself. The zero value means the
// defaults that the fields name. The limits hold for all requests and upgrades, whatever the
// target's scheme. See [Proxy.Upstream].
type Upstream struct {
	// DialTimeout is how long one connection may take to be made. It includes the lookup of the
	// name. Zero means 3 s, a negative value only the system's limit. See [Retry] for the dials of
	// a request that is tried on several targets.
	DialTimeout time.Duration

	// TLSTimeout is how long a TLS handshake with a target may take. Zero means 5 s, a negative
	// value no limit.
	TLSTimeout time.Duration

	// HeaderTimeout is how long the header of the final response may take after the last byte of
	// the request. Zero means 60 s, a negative value no limit. The time may be longer by up to a
	// 64th. For an upgrade, TunnelLimits.Handshake holds as well.
	HeaderTimeout time.Duration

	// IdleTimeout is how long a connection is kept without a request. Zero means 90 s, a negative
	// value no limit. A target should keep idle connections for longer. The timeout does not hold
	// for the connections of [ConnContext].
	IdleTimeout time.Duration

	// MaxIdle is how many connections without a request are kept for one target. Zero means 64, a
	// negative value none. With HTTP/2, one connection carries many requests.
	MaxIdle int

	// MaxHeaderBytes is the largest size of a response's header and the 1xx responses before it, in
	// bytes. Zero or a negative value means 1 MiB. There always is a limit.
	MaxHeaderBytes int

	// MaxAge is the age up to which a connection may get another request. A request that runs at
	// that time is not cut. Its connection is closed after it. This way, servers that are new in
	// DNS, or new behind one address, get their share of the requests. Zero or a negative value
	// means no limit. Each connection of HTTP/1.1 without TLS has its own age. The other
	// connections of a target are replaced together, when the first of them has reached its age.
	// MaxAge does not hold for the connections of [ConnContext]. Upgraded connections have
	// TunnelLimits.Lifetime instead.
	MaxAge time.Duration

	// Jitter shortens each MaxAge at random by up to this many percent. Zero means 10, a negative
	// value none.
	Jitter int
}

// The defaults of Upstream and the other limits of the proxy's own connections. The package
// documentation repeats them.
const (
	dialTimeout    = 3 * time.Second
	tlsTimeout     = 5 * time.Second
	headerTimeout  = 60 * time.Second
	expectTimeout  = time.Second
	idleTimeout    = 90 * time.Second
	maxIdle        = 64
	maxHeaderBytes = 1 << 20
	uploadTimeout  = 60 * time.Second

	maxTimeout = math.MaxInt64 / 4 // the longest that any field may have, so that sums cannot overflow
)

// withDefaults returns u with all fields set. In the result a duration of 0 means no limit.
func (u Upstream) withDefaults() Upstream {
	u.DialTimeout = timeout(u.DialTimeout, dialTimeout)
	u.TLSTimeout = timeout(u.TLSTimeout, tlsTimeout)
	u.HeaderTimeout = timeout(u.HeaderTimeout, headerTimeout)
	u.IdleTimeout = timeout(u.IdleTimeout, idleTimeout)
	u.MaxIdle = max(cmp.Or(u.MaxIdle, maxIdle), -1)
	if u.MaxHeaderBytes = min(u.MaxHeaderBytes, math.MaxInt32); u.MaxHeaderBytes <= 0 {
		u.MaxHeaderBytes = maxHeaderBytes
	}
	u.MaxAge = timeout(u.MaxAge, 0)
	return u
}

// timeout returns d, or otherwise if d is zero. It returns 0 for no limit.
func timeout(d, otherwise time.Duration) time.Duration {
	return min(max(cmp.Or(d, otherwise), 0), maxTimeout)
}

// checkUpstream returns an error if a field about connections would have no effect.
func (p *Proxy) checkUpstream() error {
	switch {
	case p.Transport != nil && p.Upstream != (Upstream{}):
		return errors.New("wsproxy: Upstream is set, but Transport has its own limits")
	case p.Transport != nil && p.BackendTLS != nil:
		return errors.New("wsproxy: BackendTLS is set, but Transport has its own TLS configuration")
	case p.Transport == nil && p.TransportDials:
		return errors.New("wsproxy: TransportDials is set without a Transport")
	}
	return nil
}

// keepAlive leaves the number of probes to the system, which spares a system call for each
// connection. Linux sends as many as Go, nine.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: -1}

type dialLimitKey struct{}

// withDialLimit limits the dials of a request whose earlier attempts have used up some of the time
// for them.
func withDialLimit(ctx context.Context, left time.Duration) context.Context {
	return context.WithValue(ctx, dialLimitKey{}, time.Now().Add(left))
}

// dial makes a connection. It is limited by DialTimeout and by withDialLimit.
func (u *Upstream) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: u.DialTimeout, KeepAliveConfig: keepAlive}
	dialer.Deadline, _ = ctx.Value(dialLimitKey{}).(time.Time)
	return underway.Dial(ctx, dialer, network, addr)
}
