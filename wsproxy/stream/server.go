package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A Server passes TCP connections on to the targets of a pool. Set its fields, then serve; they
// must not be changed after that. Pool or Route is required, everything else has a default. A
// Server must not be copied.
type Server struct {
	// Pool has the targets, whose Addrs or URLs say where to connect: paths do not matter. Serve
	// panics without a Pool and without a Route. Several servers and proxies may share a pool.
	Pool *balancer.Pool

	// Route chooses the pool for a client, by its server name for instance; it may say nil, and the
	// client is refused. Nil means Pool. Each pool that was chosen once is observed until Shutdown:
	// let them be few, and live long.
	Route func(c Client) *balancer.Pool

	// Key returns the key of a connection, such as the server name. Hash pickers choose by it, and
	// Limits.MaxPerKey counts by it. Nil, or an empty key, means the client's address. The server
	// logs no key.
	Key func(c Client) string

	// TLS, if not nil, terminates the clients' TLS. It needs a certificate, as tls.Server says.
	// With nil all bytes pass as they are.
	TLS *tls.Config

	// ReadHello reads the server name from the ClientHello of clients whose TLS passes through. A
	// client that does not begin with one is refused. It does not matter when TLS is set.
	ReadHello bool

	// BackendTLS configures TLS towards targets of the scheme https, and of the scheme tcp unless
	// it is nil; for https, nil means TLS 1.2 or newer and the system's roots. ServerName defaults
	// to the target's host, and NextProtos to the protocol that was negotiated with the client. A
	// target's own ServerName and Certificate come first; for a target of the scheme tcp they do
	// not turn TLS on.
	BackendTLS *tls.Config

	// Dial connects to a member. Nil means a connection to its Endpoint, which is the target's Addr
	// or the host and port of its URL, with keep-alive probes every 30 s. TLS comes on top. Dial is
	// called concurrently; ctx ends with the limit Connect.
	Dial func(ctx context.Context, m *balancer.Member) (net.Conn, error)

	// SendProxy begins each connection to a target with a PROXY header of this version, 1 or 2,
	// that tells the client's address; TLS comes after it. Version 2 also has the server name, and
	// the protocol and the TLS that were negotiated here, and passes on what else a trusted peer
	// has told. Zero sends none; Serve panics with other values.
	SendProxy int

	// ProxyHeader may change the header that SendProxy writes, to add a checksum or a unique ID for
	// instance. It is called once for each attempt.
	ProxyHeader func(h *proxyproto.Header, c Client)

	// Retries bounds the attempts to connect after the first, each to another target. Zero means 1,
	// a negative value none. Once a target has a connection nothing is tried again.
	Retries int

	// Limits bounds connections. The zero value has its own defaults.
	Limits Limits

	// Trace is told of decisions and ends. Nil means nobody.
	Trace *Trace

	// Logger gets what nobody else is told: connections that failed at Warn, clients that went away
	// or did not speak TLS at Debug. Nil means slog.Default().
	Logger *slog.Logger

	once sync.Once
	rt   runtime
}

// Limits bound the connections of a [Server]: MaxPerKey their number, the others each on its own.
type Limits struct {
	// MaxPerKey is how many connections of one key a Server has at a time, those that have no
	// target yet included. One more is closed, with the class [ClassKeyLimit], before it has a
	// lease or waits in a queue. Zero or a negative value means no bound but balancer.Target's
	// MaxTunnels.
	//
	// Where Server.Key is nil or gives an empty key, a client is an IPv4 address or the /64 network
	// of an IPv6 one, as balancer.ClientNetwork has it, and all clients whose address is unknown
	// are one. Without Server.Key a connection counts from before its TLS handshake. A server name
	// bounds the name, not the clients that ask for it.
	MaxPerKey int
	// Handshake is how long a TLS handshake may take, with the client and with a target, and how
	// long a client may take to send the ClientHello that is read. Zero means 5 s, a negative value
	// no limit.
	Handshake time.Duration
	// Connect is how long an attempt to connect to a target may take, a TLS handshake aside. Zero
	// means 3 s, a negative value no limit but the system's.
	Connect time.Duration
	// Idle ends a connection when no byte has passed in either direction for so long. Zero or a
	// negative value means never. Keep-alive probes of TCP find dead peers, but are not bytes. A
	// peer that takes less than some megabytes in that time, of more that waits for it, may count
	// as idle too.
	Idle time.Duration
	// Lifetime ends a connection so long after its target was connected. Zero or a negative value
	// means never.
	Lifetime time.Duration
	// Jitter spreads lifetimes: each is shorter by up to so many percent. Zero means 10, a negative
	// value none.
	Jitter int
	// Linger is how long a connection may go on without progress after one side has ended. Zero
	// means 30 s, a negative value without limit.
	Linger time.Duration
}

const (
	defaultHandshake = 5 * time.Second
	defaultConnect   = 3 * time.Second
	keepAlive        = 30 * time.Second
)

// A Client is what is known of a client before it has a target.
type Client struct {
	Addr       netip.Addr // of the connection, so that of a PROXY header if the listener reads it; invalid when unknown
	ServerName string     // that the client's TLS asks for, in lower case; empty when none is known
	Protocols  []string   // of ALPN: offered, or negotiated if TLS is terminated; read only

	// Proxy is the PROXY header that a proxyproto.Listener has read; nil without one, and if it is
	// one that the peer has sent for itself (LOCAL). The server name and protocol that it tells
	// stand in ServerName and Protocols unless the server has seen TLS itself. Read only.
	Proxy *proxyproto.Header
}

// ErrServerClosed is returned by [Server.Serve] after Shutdown or Close.
var ErrServerClosed = errors.New("stream: server closed")

// runtime is what a Server makes of its fields when it first serves.
type runtime struct {
	trace Trace
	log   *slog.Logger
	busy  underway.Set
	held  underway.Shares // connections, by key
	ctx   context.Context // ends those who have no target yet
	end   context.CancelCauseFunc

	mu        sync.Mutex
	closed    bool
	listeners map[*listener]struct{}
	pools     map[*balancer.Pool]func() // stop observing
	walks     sync.WaitGroup            // those who have no target yet; grows only while not closed
}

// Validate returns an error if the server cannot serve with the fields that it has. Where it does,
// Serve, Shutdown and Close panic with that error's text. It changes nothing.
func (s *Server) Validate() error {
	switch {
	case s.Pool == nil && s.Route == nil:
		return errors.New("stream: Server has no Pool")
	case s.SendProxy < 0 || s.SendProxy > 2:
		return errors.New("stream: SendProxy is no version of the PROXY protocol")
	case s.TLS != nil && len(s.TLS.Certificates) == 0 && s.TLS.GetCertificate == nil && s.TLS.GetConfigForClient == nil:
		return errors.New("stream: TLS has no certificate")
	case underway.LacksHandler(s.Logger):
		return errors.New("stream: Logger has no handler")
	}
	return nil
}

func (s *Server) setup() *runtime {
	if err := s.Validate(); err != nil {
		panic(err.Error())
	}
	s.once.Do(func() {
		rt := &s.rt
		if s.Trace != nil {
			rt.trace = *s.Trace
		}
		if rt.log = s.Logger; rt.log == nil {
			rt.log = slog.Default()
		}
		rt.ctx, rt.end = context.WithCancelCause(context.Background())
		rt.listeners = make(map[*listener]struct{})
		rt.pools = make(map[*balancer.Pool]func())
	})
	return &s.rt
}

// observe has the pool's members tell the connections what they are to do.
func (rt *runtime) observe(p *balancer.Pool) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.pools[p] == nil {
		rt.pools[p] = p.Observe(&rt.busy)
	}
}

// A listener is closed once, by whoever comes first.
type listener struct {
	net.Listener
	once sync.Once
	err  error
}

func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

// Serve accepts connections and serves each on a goroutine of its own. It closes l when it returns,
// which is with an error always: [ErrServerClosed] after Shutdown or Close, else what was wrong
// with l. An Accept that fails for a while, out of descriptors for example, is tried again after a
// pause of 5 ms to 1 s. Serve may be called for several listeners.
//
// Wrap l where more is wanted: in a proxyproto.Listener for the client's address behind another
// proxy, in netutil.LimitListener of golang.org/x/net for a bound on all connections.
func (s *Server) Serve(l net.Listener) error {
	rt := s.setup()
	once := &listener{Listener: l}
	defer once.Close()
	if !rt.add(once) {
		return ErrServerClosed
	}
	defer rt.remove(once)
	var pause time.Duration
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			if !rt.begin() {
				conn.Close()
				return ErrServerClosed
			}
			go s.serve(conn)
		case rt.closing():
			return ErrServerClosed
		case !temporary(err):
			return err
		default:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			rt.log.Warn("stream: accept failed", slog.Any("error", err), slog.Duration("pause", pause))
			rt.sleep(pause)
		}
	}
}

// temporary reports whether an Accept may succeed later. What net.Error.Temporary says of errors of
// Accept is still the only way to know, as net/http has it.
func temporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

// sleep returns early when those without a target are ended.
func (rt *runtime) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-rt.ctx.Done():
	}
}

func (rt *runtime) add(l *listener) bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if !rt.closed {
		rt.listeners[l] = struct{}{}
	}
	return !rt.closed
}

func (rt *runtime) remove(l *listener) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	delete(rt.listeners, l)
}

// begin counts a connection that has no target yet. It reports false when none is begun any more.
func (rt *runtime) begin() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if !rt.closed {
		rt.walks.Add(1)
	}
	return !rt.closed
}

func (rt *runtime) closing() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.closed
}

// close closes the listeners, and lets no connection begin.
func (rt *runtime) close() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.closed = true
	var err error
	for l := range rt.listeners {
		if e := l.Close(); err == nil {
			err = e
		}
	}
	return err
}

// Shutdown closes the listeners, so that Serve returns, and waits until all connections have ended
// by themselves: there is no general way to ask a TCP peer to end, so nobody is asked. Clients that
// were accepted and have no target yet still get one. When ctx ends first it cuts those that are
// left, waits until that is done, and returns ctx's error; else it returns what closing the
// listeners has said.
//
// A Server that was shut down stays so.
func (s *Server) Shutdown(ctx context.Context) error {
	rt := s.setup()
	err := rt.close()
	stop := context.AfterFunc(ctx, func() { rt.end(errShutdown) })
	rt.walks.Wait()
	if !stop() {
		err = ctx.Err()
	}
	rt.end(errShutdown) // nobody has to pause any more
	if cut := rt.busy.Shutdown(ctx); cut != nil {
		err = cut
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, stop := range rt.pools {
		stop()
	}
	return err
}

// Close closes the listeners, cuts all connections and waits until that is done. It returns what
// closing the listeners has said. [Server.Shutdown] is the gentle way.
func (s *Server) Close() error {
	err := s.setup().close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx)
	return err
}
