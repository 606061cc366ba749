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

// Upstream bounds the connections that a [Proxy] makes itself, and how long it waits on them. The
// zero value has the defaults that the fields name. Its bounds hold for every request and upgrade,
// whatever the target's scheme. See [Proxy.Upstream].
type Upstream struct {
	// DialTimeout is how long one connection may take to be made, the lookup of its name included.
	// Zero means 3 s, a negative value no limit but the system's. See [Retry] for the dials of a
	// request that is tried on several targets.
	DialTimeout time.Duration

	// TLSTimeout is how long a TLS handshake with a target may take. Zero means 5 s, a negative
	// value no limit.
	TLSTimeout time.Duration

	// HeaderTimeout is how long the header of the final response may take, from the last byte of
	// the request on. Zero means 60 s, a negative value no limit. It may take a 64th longer. An
	// upgrade is bound by TunnelLimits.Handshake, too.
	HeaderTimeout time.Duration

	// IdleTimeout is how long a connection is kept without a request. Zero means 90 s, a negative
	// value no limit. A target should keep its connections for longer. It does not hold for the
	// connections of [ConnContext].
	IdleTimeout time.Duration

	// MaxIdle is how many connections without a request are kept for one target. Zero means 64, a
	// negative value none. HTTP/2 needs one connection for many requests.
	MaxIdle int

	// MaxHeaderBytes bounds the header of a response, together with the 1xx responses before it.
	// Zero or a negative value means 1 MiB: there always is a bound.
	MaxHeaderBytes int

	// MaxAge is how long after it was made a connection may get another request. A request that
	// runs at that time is not cut, however long it takes; its connection is closed after it. So
	// targets that a new DNS answer names, or that are new behind one address, get their share.
	// Zero or a negative value means no limit. Connections of HTTP/1.1 without TLS have an age of
	// their own; the others of a target are replaced together, when the first of them has reached
	// its age. It does not hold for the connections of [ConnContext], and upgraded connections have
	// TunnelLimits.Lifetime.
	MaxAge time.Duration

	// Jitter spreads ages: each is shorter by up to so many percent. Zero means 10, a negative
	// value none.
	Jitter int
}

// What the default transport allows a backend. The numbers are in the package documentation.
const (
	dialTimeout    = 3 * time.Second
	tlsTimeout     = 5 * time.Second
	headerTimeout  = 60 * time.Second
	expectTimeout  = time.Second
	idleTimeout    = 90 * time.Second
	maxIdle        = 64
	maxHeaderBytes = 1 << 20
	keepAlive      = 30 * time.Second
	uploadTimeout  = 60 * time.Second

	maxTimeout = math.MaxInt64 / 4 // of all; several can be added
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

// timeout returns d, or otherwise where d is zero. No limit is 0.
func timeout(d, otherwise time.Duration) time.Duration {
	return min(max(cmp.Or(d, otherwise), 0), maxTimeout)
}

// checkUpstream refuses fields about connections that would have no effect.
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

type dialLimitKey struct{}

// withDialLimit limits the dials of a request whose earlier attempts have used up some of the time
// for them.
func withDialLimit(ctx context.Context, left time.Duration) context.Context {
	return context.WithValue(ctx, dialLimitKey{}, time.Now().Add(left))
}

// dial makes a connection within the time that one dial may take, and all of a request.
func (u *Upstream) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: u.DialTimeout, KeepAlive: keepAlive}
	dialer.Deadline, _ = ctx.Value(dialLimitKey{}).(time.Time)
	return underway.Dial(ctx, dialer, network, addr)
}
