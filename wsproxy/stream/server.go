package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A Server forwards TCP connections to the targets of a pool. Set its fields before it serves; do
// not change them afterwards. Pool or Route is required, everything else has a default. A Server
// must not be copied.
type Server struct {
	// Pool has the targets. Their Addrs or URLs say where to connect; paths do not matter. Serve
	// panics without a Pool and a Route. Several servers and proxies may share a pool.
	Pool *balancer.Pool

	// Route chooses the pool for a client, for example by its server name. If it returns nil, the
	// client is refused. A nil Route means Pool. The server observes each pool that Route has
	// returned until Shutdown, so let them be few and long-lived.
	Route func(c Client) *balancer.Pool

	// Key returns the key of a connection, such as the server name. Hash pickers choose by it, and
	// Limits.MaxPerKey counts by it. Nil, or an empty key, means the client's address. The server
	// logs no key.
	Key func(c Client) string

	// TLS, if not nil, terminates the clients' TLS. It needs a certificate; see tls.Server. With
	// nil all bytes pass unchanged.
	TLS *tls.Config

	// ReadHello reads the server name from the ClientHello of clients whose TLS passes through. A
	// client that sends something else first is refused. With TLS it has no effect.
	ReadHello bool

	// BackendTLS configures TLS towards targets. Targets with the scheme https always get TLS; for
	// them nil means TLS 1.2 or newer and the system's roots. Targets with the scheme tcp get TLS
	// unless BackendTLS is nil. ServerName defaults to the target's host, and NextProtos to the
	// protocol that was negotiated with the client. A target's own ServerName and Certificate take
	// precedence; for a target with the scheme tcp they do not turn TLS on.
	BackendTLS *tls.Config

	// Dial connects to a member. Nil means a connection to its Endpoint, which is the target's Addr
	// or the host and port of its URL, with keep-alive probes every 30 s. The server adds TLS
	// itself. Dial is called concurrently. ctx ends with the limit Connect.
	Dial func(ctx context.Context, m *balancer.Member) (net.Conn, error)

	// SendProxy is the version, 1 or 2, of the PROXY header that begins each connection to a target
	// and has the client's address. TLS comes after it. Version 2 also has the server name, and the
	// protocol and a description of the TLS connection if they were negotiated here. It passes on
	// the other fields of a trusted peer's header. Zero sends none. Serve panics with other values.
	SendProxy int

	// SendProxyTo reports whether a target gets the header of SendProxy, for example by a label of
	// the target. Nil means that all targets get it. It is called once for each attempt, and never
	// if SendProxy is zero. A pool of Route may have targets that expect the header while those of
	// another pool cannot read it.
	SendProxyTo func(m *balancer.Member) bool

	// ProxyHeader may change the header that SendProxy writes, for example to add a checksum or a
	// unique ID. It is called once for each attempt.
	ProxyHeader func(h *proxyproto.Header, c Client)

	// Retries bounds the attempts to connect after the first one, each to another target. Zero
	// means 1, a negative value none. Once a target has a connection nothing is repeated.
	Retries int

	// Limits bounds connections. The zero value has its own defaults.
	Limits Limits

	// Trace receives callbacks for decisions and completions. Nil means none.
	Trace *Trace

	// Logger gets failed connections (Warn), and clients that went away or did not speak TLS
	// (Debug). Nil means slog.Default().
	Logger *slog.Logger

	once sync.Once
	rt   runtime
}

// Limits bound the connections of a [Server]. MaxPerKey bounds their number, the other fields bound
// each connection.
type Limits struct {
	// MaxPerKey is how many connections one key may have at a time, including those that have no
	// target yet. A further one is closed, with the class [ClassKeyLimit], before it has a lease or
	// waits in a queue. Zero or a negative value means no bound except balancer.Target's
	// MaxTunnels.
	//
	// If Server.Key is nil or returns an empty key, the key is the client's network as
	// balancer.ClientNetwork returns it: an IPv4 address or the /64 of an IPv6 address. All clients
	// with an unknown address have one key. Without Server.Key a connection counts from before its
	// TLS handshake. A key that is a server name bounds the name, not the clients that ask for it.
	MaxPerKey int
	// Handshake is how long a TLS handshake with the client or with a target may take, and how long
	// a client may take to send its ClientHello. Zero means 5 s, a negative value no limit.
	Handshake time.Duration
	// Connect is how long an attempt to connect to a target may take, without its TLS handshake.
	// Zero means 3 s, a negative value no limit but the system's.
	Connect time.Duration
	// Idle is the time without a byte in either direction after which a connection is ended. Zero
	// or a negative value means never. TCP keep-alive probes find dead peers, but do not count as
	// bytes. A very slow reader may count as idle, too: a peer that reads less than a few megabytes
	// in this time although more waits for it.
	Idle time.Duration
	// Lifetime is the time after the connection to the target was made at which a connection is
	// ended. Zero or a negative value means never.
	Lifetime time.Duration
	// Jitter spreads lifetimes. Each lifetime is shortened at random by up to this many percent.
	// Zero means 10, a negative value none.
	Jitter int
	// Linger is how long a connection may go on without progress after one side has ended. Zero
	// means 30 s, a negative value no limit.
	Linger time.Duration
}

const (
	defaultHandshake = 5 * time.Second
	defaultConnect   = 3 * time.Second
	keepAlive        = 30 * time.Second
)

// A Client describes a client before it has a target.
type Client struct {
	Addr       netip.Addr // of the connection, or of its PROXY header if the listener reads one; invalid if unknown
	ServerName string     // the name that the client's TLS asks for, in lower case; empty if unknown
	Protocols  []string   // the ALPN offered, or negotiated if TLS is terminated; read only

	// Proxy is the PROXY header that a proxyproto.Listener has read. It is nil without one, and if
	// the peer has sent it for itself (LOCAL). ServerName and Protocols have the header's server
	// name and protocol unless the server has seen TLS itself. Read only.
	Proxy *proxyproto.Header
}

// ErrServerClosed is returned by [Server.Serve] after Shutdown or Close.
var ErrServerClosed = errors.New("stream: server closed")

// runtime is the state that a Server makes from its fields when it first serves.
type runtime struct {
	trace Trace
	log   *slog.Logger
	busy  underway.Set
	held  underway.Shares // connections, by key
	ctx   context.Context // ends the connections that have no target yet
	end   context.CancelCauseFunc

	mu        sync.Mutex
	closed    bool
	listeners map[*listener]struct{}
	pools     map[*balancer.Pool]func() // the functions that stop observing
	walks     sync.WaitGroup            // connections without a target yet; grows only while not closed
}

// Validate returns an error if the server cannot serve with its fields. In that case Serve,
// Shutdown and Close panic with the text of the error. Validate changes nothing.
func (s *Server) Validate() error {
	switch {
	case s.Pool == nil && s.Route == nil:
		return errors.New("stream: Server has no Pool")
	case s.Pool != nil && checkTargets(s.Pool) != nil:
		return fmt.Errorf("stream: %w", checkTargets(s.Pool))
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

// observe makes the pool's members tell rt when their state changes.
func (rt *runtime) observe(p *balancer.Pool) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.pools[p] == nil {
		rt.pools[p] = p.Observe(observer{&rt.busy})
	}
}

// An observer passes the changes of a pool's members on to the connections there.
type observer struct{ *underway.Set }

// Admit implements balancer.Admitter.
func (o observer) Admit(t balancer.Target) error { return checkTarget(t) }

// checkTargets returns an error if the pool has a target that a Server cannot serve.
func checkTargets(p *balancer.Pool) error {
	for _, m := range p.Members() {
		t := m.Target()
		if err := checkTarget(t); err != nil {
			return fmt.Errorf("target %q: %w", t.ID, err)
		}
	}
	return nil
}

func checkTarget(t balancer.Target) error {
	if t.URL == nil {
		return errNoURL
	}
	return nil
}

var errNoURL = errors.New("a stream.Server needs a URL")

// A listener is closed only once.
type listener struct {
	net.Listener
	once sync.Once
	err  error
}

func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

// Serve accepts connections and serves each on its own goroutine. It closes l when it returns. It
// always returns an error: [ErrServerClosed] after Shutdown or Close, otherwise the error of l. If
// Accept fails temporarily, for example for lack of descriptors, Serve tries again after a pause of
// 5 ms to 1 s. Serve may be called for several listeners.
//
// To get more, wrap l: in a proxyproto.Listener for the client's address behind another proxy, in
// netutil.LimitListener of golang.org/x/net for a bound on all connections.
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

// temporary reports whether Accept may succeed later. As in net/http, net.Error.Temporary is still
// the only way to know that for an error of Accept.
func temporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

// sleep pauses for d. It returns early when rt.ctx ends.
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

// begin counts a connection that has no target yet. It reports false if the server is closed.
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

// close closes the listeners. No connection begins after that.
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

// Shutdown closes the listeners, so that Serve returns, and waits until all connections have ended.
// It asks nobody to end, because TCP has no general way to do so. Accepted clients without a target
// still get one. When ctx ends first, Shutdown cuts the remaining connections, waits for that and
// returns ctx's error. Otherwise it returns the error of closing the listeners.
//
// A Server cannot serve again after Shutdown.
func (s *Server) Shutdown(ctx context.Context) error {
	rt := s.setup()
	err := rt.close()
	stop := context.AfterFunc(ctx, func() { rt.end(errShutdown) })
	rt.walks.Wait()
	if !stop() {
		err = ctx.Err()
	}
	rt.end(errShutdown) // wakes a Serve that pauses
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

// Close closes the listeners, cuts all connections and waits for that. It returns the error of
// closing the listeners. [Server.Shutdown] lets connections end by themselves.
func (s *Server) Close() error {
	err := s.setup().close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx)
	return err
}
