package stream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A walk is one client on its way to a target, in the order of the methods below. It ends where a tunnel begins.
type walk struct {
	s     *Server
	rt    *runtime
	start time.Time

	conn   net.Conn // the client's, ours until a tunnel has it; above TLS if that is terminated
	early  []byte   // read from conn already
	client Client
	alpn   string // negotiated with the client

	pool     *balancer.Pool
	query    balancer.Request
	lease    balancer.Lease
	attempts int
	target   string // ID, of the last attempt
	latency  time.Duration
	settled  bool // handed to a tunnel, or failed
}

// serve is a connection's goroutine, until it has a target.
func (s *Server) serve(conn net.Conn) {
	k := &walk{s: s, rt: &s.rt, start: time.Now(), conn: conn}
	defer k.rt.walks.Done()
	defer k.recover()
	if failure := k.run(); failure != nil {
		k.fail(failure)
	}
}

func (k *walk) run() *Error {
	if failure := k.meet(); failure != nil {
		return failure
	}
	if failure := k.route(); failure != nil {
		return failure
	}
	backend, failure := k.connect()
	if failure != nil {
		return failure
	}
	k.startTunnel(backend)
	return nil
}

// meet learns what can be known of the client.
func (k *walk) meet() *Error {
	k.client.Addr = addrOf(k.conn.RemoteAddr())
	switch {
	case k.s.TLS != nil:
		return k.terminate()
	case k.s.ReadHello:
		return k.readHello()
	default:
		return nil
	}
}

func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	if a == nil {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddrPort(a.String())
	return addr.Addr().Unmap()
}

func (k *walk) terminate() *Error {
	ctx, cancel := context.WithTimeoutCause(k.rt.ctx, limit(k.s.Limits.Handshake, defaultHandshake), errHandshakeTimeout)
	defer cancel()
	conn := tls.Server(k.conn, k.s.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return handshakeError(ctx, err)
	}
	state := conn.ConnectionState()
	k.conn, k.alpn, k.client.ServerName = conn, state.NegotiatedProtocol, strings.ToLower(state.ServerName)
	if k.alpn != "" {
		k.client.Protocols = []string{k.alpn}
	}
	return nil
}

func (k *walk) readHello() *Error {
	ctx, cancel := context.WithTimeoutCause(k.rt.ctx, limit(k.s.Limits.Handshake, defaultHandshake), errHelloTimeout)
	defer cancel()
	early, err := readHello(ctx, k.conn, &k.client)
	if err != nil {
		return handshakeError(ctx, err)
	}
	k.early = early
	return nil
}

// route chooses the pool and makes the query to it.
func (k *walk) route() *Error {
	k.pool = k.s.Pool
	if k.s.Route != nil {
		k.pool = k.s.Route(k.client)
	}
	if k.pool == nil {
		return &Error{Class: ClassNoTarget, Err: errNoPool}
	}
	k.rt.observe(k.pool)
	k.query = balancer.Request{Client: k.client.Addr, Tunnel: true}
	if k.s.Key != nil {
		k.query.Key = k.s.Key(k.client)
	}
	return nil
}

// connect makes one attempt after the other, until one has a connection to its target.
func (k *walk) connect() (net.Conn, *Error) {
	lease, failure := k.acquire()
	k.lease = lease
	k.tellPick(failure)
	if failure != nil {
		return nil, failure
	}
	for {
		backend, failure := k.attempt()
		if failure == nil {
			return backend, nil
		}
		if !k.again(failure) {
			return nil, failure
		}
	}
}

// ended tells a pool that nobody waits.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// acquire takes a lease on the picker's choice. Only a client that has to wait for it is watched.
func (k *walk) acquire() (balancer.Lease, *Error) {
	lease, err := k.pool.Acquire(ended, &k.query)
	if errors.Is(err, context.Canceled) {
		return k.wait()
	}
	if err != nil {
		return lease, &Error{Class: ClassNoTarget, Err: err}
	}
	return lease, nil
}

// wait waits for a lease in the pool's queue, as long as the client does.
func (k *walk) wait() (balancer.Lease, *Error) {
	p := watch(k.rt.ctx, k.conn)
	lease, err := k.pool.Acquire(p, &k.query)
	early, why := p.stop()
	k.early = append(k.early, early...)
	switch {
	case why != nil:
		lease.Release(balancer.Outcome{Class: balancer.ClientGone})
		class := ClassClientGone
		if why == errShutdown {
			class = ClassShutdown
		}
		return balancer.Lease{}, &Error{Class: class, Err: why}
	case err != nil:
		return lease, &Error{Class: ClassNoTarget, Err: err}
	}
	return lease, nil
}

func (k *walk) tellPick(failure *Error) {
	switch {
	case k.rt.trace.Pick == nil:
	case failure != nil:
		k.rt.trace.Pick(k.client, nil, failure.Err)
	default:
		k.rt.trace.Pick(k.client, k.lease.Member(), nil)
	}
}

// A dialing is an attempt to connect that is given up when its member is down.
type dialing struct{ cancel context.CancelCauseFunc }

// Cut implements underway.Cutter.
func (d *dialing) Cut() { d.cancel(errDown) }

// attempt connects to the leased member.
func (k *walk) attempt() (net.Conn, *Error) {
	m := k.lease.Member()
	k.target = m.ID()
	k.attempts++
	began := time.Now()
	ctx, cancel := context.WithCancelCause(k.rt.ctx)
	defer cancel(nil)
	d := &dialing{cancel}
	if !k.rt.busy.Add(m, d) {
		d.Cut()
	}
	defer k.rt.busy.Remove(m, d)
	conn, failure := k.dial(ctx, m)
	k.latency = time.Since(began)
	return conn, failure
}

// dial makes the connection and what has to stand on it before the client's bytes.
func (k *walk) dial(ctx context.Context, m *balancer.Member) (net.Conn, *Error) {
	conn, err := k.dialTarget(ctx, m)
	if err != nil {
		return nil, k.failed(ctx, ClassDial, err)
	}
	conf := k.backendTLS(m.Target())
	if conf == nil {
		return conn, nil
	}
	shake, cancel := context.WithTimeoutCause(ctx, limit(k.s.Limits.Handshake, defaultHandshake), errHandshakeTimeout)
	defer cancel()
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(shake); err != nil {
		conn.Close()
		return nil, k.failed(ctx, ClassTLS, because(shake, err))
	}
	return secure, nil
}

func (k *walk) dialTarget(ctx context.Context, m *balancer.Member) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit(k.s.Limits.Connect, defaultConnect), errConnectTimeout)
	defer cancel()
	if k.s.Dial != nil {
		conn, err := k.s.Dial(ctx, m)
		if err != nil {
			err = because(ctx, err)
		}
		return conn, err
	}
	dialer := net.Dialer{KeepAlive: keepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", address(m.Target()))
	if err != nil {
		return nil, because(ctx, err)
	}
	return conn, nil
}

// address is the target's host and port.
func address(t balancer.Target) string {
	port := "80"
	if t.URL.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(t.URL.Hostname(), cmp.Or(t.URL.Port(), port))
}

// backendTLS is nil for a target that gets none.
func (k *walk) backendTLS(t balancer.Target) *tls.Config {
	conf := k.s.BackendTLS.Clone()
	switch {
	case t.URL.Scheme == "http", t.URL.Scheme == "tcp" && conf == nil:
		return nil
	case conf == nil:
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf.ServerName = cmp.Or(conf.ServerName, t.URL.Hostname())
	if len(conf.NextProtos) == 0 && k.alpn != "" {
		conf.NextProtos = []string{k.alpn}
	}
	return conf
}

// failed settles an attempt without a connection.
func (k *walk) failed(ctx context.Context, class Class, err error) *Error {
	err = because(ctx, err)
	if errors.Is(err, errShutdown) {
		class = ClassShutdown
	}
	return &Error{Class: class, Target: k.target, Attempt: k.attempts, Err: err}
}

// again decides whether a failed attempt is made again, and exchanges the lease for one on another member.
func (k *walk) again(failure *Error) bool {
	if k.attempts > k.retries() || failure.Class != ClassDial && failure.Class != ClassTLS {
		return false
	}
	k.query.Exclude(k.lease.Member())
	next, none := k.acquire()
	if none != nil {
		k.tellPick(none)
		return false
	}
	last := k.lease
	k.lease = next
	outcome := failure.outcome()
	outcome.Latency = k.latency
	last.Release(outcome)
	k.tellPick(nil)
	if k.rt.trace.Retry != nil {
		k.rt.trace.Retry(k.client, failure)
	}
	return true
}

func (k *walk) retries() int {
	if k.s.Retries == 0 {
		return 1
	}
	return max(k.s.Retries, 0)
}

// startTunnel gives both connections and the lease to a tunnel, which gives the lease back when it has ended. Nothing of
// the walk is held meanwhile.
func (k *walk) startTunnel(backend net.Conn) {
	lease, latency := k.lease, k.latency
	k.lease, k.settled = balancer.Lease{}, true
	var record Record
	told := k.rt.trace.Done
	if told != nil {
		record = k.record()
	}
	l := k.s.Limits
	options := underway.Limits{Idle: l.Idle, Lifetime: l.Lifetime, Jitter: l.Jitter, Linger: l.Linger}.Options()
	options.Done = func(end tunnel.End) {
		o := balancer.Outcome{Latency: latency}
		o.Class, o.Err = underway.Blame(end)
		lease.Release(o)
		if told != nil {
			record.Duration = time.Since(record.Start)
			record.FromClient, record.FromBackend = end.FromClient, end.FromBackend
			record.EndedBy, record.Err = end.By.String(), end.Err
			told(record)
		}
	}
	k.rt.busy.Start(lease.Member(), tunnel.Side{Conn: k.conn, Early: k.early}, tunnel.Side{Conn: backend}, options)
}

// recover keeps a hook's panic from ending the program, as net/http does with a handler's.
func (k *walk) recover() {
	if v := recover(); v != nil {
		k.rt.log.Error("stream: a hook has panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		if !k.settled {
			k.fail(&Error{Class: ClassPanic, Target: k.target, Attempt: k.attempts, Err: fmt.Errorf("panic: %v", v)})
		}
	}
}

// fail settles a walk that found no target.
func (k *walk) fail(failure *Error) {
	k.settled = true
	k.conn.Close()
	outcome := failure.outcome()
	outcome.Latency = k.latency
	k.lease.Release(outcome)
	k.log(failure)
	if k.rt.trace.Done != nil {
		rec := k.record()
		rec.Duration, rec.Err = time.Since(k.start), failure
		k.rt.trace.Done(rec)
	}
}

func (k *walk) log(failure *Error) {
	level := slog.LevelWarn
	if failure.Class == ClassClientGone || failure.Class == ClassHandshake {
		level = slog.LevelDebug
	}
	k.rt.log.LogAttrs(context.Background(), level, "connection failed", slog.Any("error", failure),
		slog.String("client", text(k.client.Addr)), slog.String("server_name", k.client.ServerName))
}

func (k *walk) record() Record {
	return Record{
		Start:      k.start,
		Client:     k.client.Addr,
		ServerName: k.client.ServerName,
		Target:     k.target,
		Attempts:   k.attempts,
	}
}
