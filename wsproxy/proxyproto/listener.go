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

// defaultTimeout is the least that the specification recommends.
const defaultTimeout = 3 * time.Second

// A Listener reads a PROXY header from each connection that comes from a trusted peer. Its fields must not be changed
// once Accept was called. Two of them around each other read the two headers of a chain that sends both.
type Listener struct {
	// Listener accepts the connections. Required.
	net.Listener

	// Trusted are the peers that have to send a header; no other peer's bytes are taken for one. None means nobody. See
	// [Contains] for which prefix an address is in.
	Trusted []netip.Prefix

	// TrustUnix has peers on Unix sockets send a header too: they have no address that could be in Trusted.
	TrustUnix bool

	// Timeout is how long a connection waits for its header, from when it is first asked for it. Zero means 3 s,
	// negative means that it waits for ever.
	Timeout time.Duration

	// Refused is told of each connection that was closed because it had no proper header, by the address of its
	// socket. It may be called concurrently, on whatever goroutine asked for the header. Nil means that Logger is.
	Refused func(peer net.Addr, err error)

	// Logger gets what Refused does not: at Warn, or at Debug if the peer closed the connection without a byte. Nil
	// means slog.Default().
	Logger *slog.Logger
}

// Accept waits for the next connection and returns it as a [*Conn], without waiting for its header. The caller closes
// it.
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

// Contains reports whether one of the prefixes contains an address, zones aside. IPv4 is the same in both notations: the
// prefixes 127.0.0.0/8 and ::ffff:127.0.0.0/104 contain 127.0.0.1 and ::ffff:127.0.0.1 both. A prefix of IPv6 proper,
// ::/0 too, contains no IPv4.
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

// refuse reports a connection that is closed. silent says that the peer did so itself, without a byte.
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

// tellRefused contains a panic of the hook: net/http asks for the address where it does not recover.
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

// ConnContext is a function for http.Server.ConnContext: with it, [FromContext] knows the header of the connection
// that a request came on, TLS or not. It does not wait for the header.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if conn, ok := c.(*Conn); ok {
		return context.WithValue(ctx, contextKey{}, conn)
	}
	return ctx
}

// FromContext returns the header of the connection that belongs to a context of [ConnContext]. It is nil when the
// peer was not one that had to send a header, and is to be read only.
func FromContext(ctx context.Context) *Header {
	conn, ok := ctx.Value(contextKey{}).(*Conn)
	if !ok {
		return nil
	}
	h, _ := conn.Header() // without one there would be no request
	return h
}
