package proxyproto

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"time"
)

// defaultTimeout is the shortest timeout that the specification recommends.
const defaultTimeout = 3 * time.Second

// A Listener reads a PROXY header from each connection of a trusted peer. Do not change its fields
// after the first Accept. If each of two proxies in a row sends a header, wrap one Listener around
// another.
type Listener struct {
	// Listener accepts the connections. Required.
	net.Listener

	// Trusted has the peers that have to send a header. Bytes of other peers are never taken for
	// one. An empty list means no peer. See [Contains] for how a prefix contains an address.
	Trusted []netip.Prefix

	// TrustUnix makes peers on Unix sockets send a header too. They have no address that could be
	// in Trusted.
	TrustUnix bool

	// Timeout is how long a connection waits for its header, from the first call that depends on
	// it. Zero means 3 s, a negative value no limit.
	Timeout time.Duration

	// Refused is called for each connection that was closed because it had no valid header, with
	// the address of its socket. It may be called concurrently, on any goroutine that asked for the
	// header. Nil means that Logger gets a record instead.
	Refused func(peer net.Addr, err error)

	// Logger gets refused connections if Refused is nil (Warn, or Debug if the peer closed the
	// connection without sending a byte). Nil means slog.Default().
	Logger *slog.Logger
}

// Accept waits for the next connection and returns it as a [*Conn]. It does not wait for its
// header. The caller closes the connection.
func (l *Listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &Conn{raw: raw, listener: l}, nil
}

func (l *Listener) trusts(peer net.Addr) bool {
	switch peer := peer.(type) {
	case *net.TCPAddr:
		return Contains(l.Trusted, peer.AddrPort().Addr())
	case *net.UnixAddr:
		return l.TrustUnix
	}
	return false
}

// Contains reports whether one of the prefixes contains an address. It ignores zones. Both
// notations of IPv4 are the same: the prefixes 127.0.0.0/8 and ::ffff:127.0.0.0/104 each contain
// 127.0.0.1 and ::ffff:127.0.0.1. Other IPv6 prefixes, even ::/0, contain no IPv4 address.
func Contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range prefixes {
		if p.Contains(addr) || addr.Is4() && p.Addr().Is4In6() && p.Contains(netip.AddrFrom16(addr.As16())) {
			return true
		}
	}
	return false
}

func (l *Listener) timeout() time.Duration {
	if l.Timeout == 0 {
		return defaultTimeout
	}
	return l.Timeout
}

// refuse reports a connection that is closed. silent says that the peer closed it without sending a
// byte.
func (l *Listener) refuse(peer net.Addr, err error, silent bool) {
	log, level := l.Logger, slog.LevelWarn
	if log == nil {
		log = slog.Default()
	}
	if l.Refused != nil {
		l.tellRefused(log, peer, err)
		return
	}
	if silent {
		level = slog.LevelDebug
	}
	log.LogAttrs(context.Background(), level, "connection refused", slog.Any("error", err), slog.Any("peer", peer))
}

// tellRefused calls the hook and recovers its panic: net/http calls RemoteAddr where it does not
// recover panics.
func (l *Listener) tellRefused(log *slog.Logger, peer net.Addr, err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Error("proxyproto: Listener.Refused has panicked", slog.Any("panic", v),
				slog.String("stack", string(debug.Stack())))
		}
	}()
	l.Refused(peer, err)
}

type contextKey struct{}

// ConnContext is for http.Server.ConnContext. With it, [FromContext] returns the header of the
// connection that a request came on, with TLS or without. It does not wait for the header.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if conn, ok := c.(*Conn); ok {
		return context.WithValue(ctx, contextKey{}, conn)
	}
	return ctx
}

// FromContext returns the header of the connection that a context of [ConnContext] belongs to. It
// is nil if the peer did not have to send a header. Do not modify it.
func FromContext(ctx context.Context) *Header {
	conn, ok := ctx.Value(contextKey{}).(*Conn)
	if !ok {
		return nil
	}
	h, _ := conn.Header() // without a header there is no request
	return h
}
