package stream

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A walk is the way of one client to a target, in the order of the methods below. It ends where a
// tunnel begins.
type walk struct {
	s     *Server
	rt    *runtime
	start time.Time

	conn   net.Conn // the client's connection, until a tunnel takes it; *tls.Conn if TLS is terminated
	early  []byte   // bytes that were already read from conn
	client Client
	alpn   string // the protocol that was negotiated with the client

	pool     *balancer.Pool
	share    *underway.Share // of its key; nil if it does not count
	query    balancer.Request
	lease    balancer.Lease
	attempts int
	target   string        // ID of the target of the last attempt
	began    time.Time     // start of the last attempt
	latency  time.Duration // of the last attempt
	settled  bool          // a tunnel has the connection, or the walk has failed
}

// serve serves a connection until it has a target. It runs on its own goroutine.
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

// meet finds out what the server can know about the client.
func (k *walk) meet() *Error {
	if failure := k.readHeader(); failure != nil {
		return failure
	}
	k.client.Addr = addrOf(k.conn.RemoteAddr())
	if k.s.Key == nil {
		if failure := k.count(""); failure != nil {
			return failure
		}
	}
	switch {
	case k.s.TLS != nil:
		return k.terminate()
	case k.s.ReadHello:
		return k.readHello()
	default:
		return nil
	}
}

// readHeader waits for the PROXY header if the listener requires one.
func (k *walk) readHeader() *Error {
	conn, ok := k.conn.(*proxyproto.Conn)
	if !ok {
		return nil
	}
	stop := context.AfterFunc(k.rt.ctx, func() { conn.Close() })
	defer stop()
	h, err := conn.Header()
	if err != nil {
		return refusal(k.rt.ctx, ClassProxyHeader, err)
	}
	if h == nil || h.Local {
		return nil
	}
	k.client.Proxy, k.client.ServerName = h, canonicalName(h.Authority)
	if h.ALPN != "" {
		k.client.Protocols = []string{h.ALPN}
	}
	return nil
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
	ctx, cancel := context.WithTimeoutCause(k.rt.ctx, underway.Limit(k.s.Limits.Handshake, defaultHandshake), errHandshakeTimeout)
	defer cancel()
	conn := tls.Server(k.conn, k.s.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return refusal(ctx, ClassHandshake, err)
	}
	state := conn.ConnectionState()
	k.conn, k.alpn = conn, state.NegotiatedProtocol
	k.client.ServerName, k.client.Protocols = canonicalName(state.ServerName), nil
	if k.alpn != "" {
		k.client.Protocols = []string{k.alpn}
	}
	return nil
}

func (k *walk) readHello() *Error {
	ctx, cancel := context.WithTimeoutCause(k.rt.ctx, underway.Limit(k.s.Limits.Handshake, defaultHandshake), errHelloTimeout)
	defer cancel()
	early, err := readHello(ctx, k.conn, &k.client)
	if err != nil {
		return refusal(ctx, ClassHandshake, err)
	}
	k.early = early
	return nil
}

// count counts the connection for its key.
func (k *walk) count(key string) *Error {
	share, ok := k.rt.held.Take(underway.HolderOf(key, k.client.Addr), k.s.Limits.MaxPerKey)
	if !ok {
		return &Error{Class: ClassKeyLimit, Err: errManyConns}
	}
	k.share = share
	return nil
}

// route prepares the request to the pool and chooses the pool.
func (k *walk) route() *Error {
	k.query = balancer.Request{Client: k.client.Addr, Tunnel: true}
	if k.s.Key != nil {
		k.query.Key = k.s.Key(k.client)
		if failure := k.count(k.query.Key); failure != nil {
			return failure
		}
	}
	k.pool = k.s.Pool
	if k.s.Route != nil {
		k.pool = k.s.Route(k.client)
	}
	if k.pool == nil {
		return &Error{Class: ClassNoTarget, Err: errNoPool}
	}
	k.rt.observe(k.pool)
	return nil
}

// startTunnel hands both connections and the lease to a tunnel, which releases the lease at its
// end. The tunnel keeps nothing else of the walk.
func (k *walk) startTunnel(backend net.Conn) {
	lease, share := k.lease, k.share
	o := balancer.Outcome{Latency: k.latency, Began: k.began, Client: k.client.Addr}
	k.lease, k.share, k.settled = balancer.Lease{}, nil, true
	var record Record
	told, log := k.rt.trace.Done, k.rt.log
	if told != nil {
		record, log = k.record(), k.logger()
	}
	l := k.s.Limits
	options := tunnel.Options{Idle: l.Idle, Lifetime: underway.Shorten(l.Lifetime, l.Jitter), Linger: l.Linger}
	options.Done = func(end tunnel.End) {
		o.Class, o.Err = underway.Blame(end)
		lease.Release(o)
		share.Free()
		if told != nil {
			record.Duration = time.Since(record.Start)
			record.FromClient, record.FromBackend = end.FromClient, end.FromBackend
			record.EndedBy, record.Err = end.By.String(), end.Err
			underway.Contain(log, "stream: Trace.Done", func() { told(record) })
		}
	}
	k.rt.busy.Start(lease.Member(), underway.ClientSide(k.conn, k.early), tunnel.Side{Conn: backend}, options)
}

// recover recovers the panic of a hook, as net/http does for a handler.
func (k *walk) recover() {
	if v := recover(); v != nil {
		underway.LogPanic(k.logger(), "stream: a hook", v)
		if !k.settled {
			k.fail(&Error{Class: ClassPanic, Target: k.target, Attempt: k.attempts, Err: fmt.Errorf("panic: %v", v)})
		}
	}
}

// fail ends a walk that has no connection to a target.
func (k *walk) fail(failure *Error) {
	failure.Pool = k.poolName()
	k.settled = true
	k.conn.Close()
	k.lease.Release(k.outcome(failure))
	k.share.Free()
	k.log(failure)
	if k.rt.trace.Done != nil {
		rec := k.record()
		rec.Duration, rec.Err = time.Since(k.start), failure
		underway.Contain(k.logger(), "stream: Trace.Done", func() { k.rt.trace.Done(rec) })
	}
}

// outcome returns what health learns from the failed attempt.
func (k *walk) outcome(failure *Error) balancer.Outcome {
	return balancer.Outcome{Class: failure.outcome(), Err: failure.Err,
		Latency: k.latency, Began: k.began, Client: k.client.Addr}
}

func (k *walk) log(failure *Error) {
	level := slog.LevelWarn
	if failure.Class == ClassClientGone || failure.Class == ClassHandshake || failure.Class == ClassProxyHeader {
		level = slog.LevelDebug
	}
	attrs := append(underway.PlaceAttrs(failure.Pool, failure.Target, failure.Attempt), slog.Any("error", failure.apart()),
		slog.String("client", underway.AddrText(k.client.Addr)), slog.String("server_name", k.client.ServerName))
	k.rt.log.LogAttrs(context.Background(), level, "connection failed", attrs...)
}

// poolName returns the name of the chosen pool. It is empty before a pool is chosen.
func (k *walk) poolName() string {
	if k.pool == nil {
		return ""
	}
	return k.pool.Name()
}

// logger returns the logger for records about the chosen pool.
func (k *walk) logger() *slog.Logger {
	if name := k.poolName(); name != "" {
		return k.rt.log.With("pool", name)
	}
	return k.rt.log
}

func (k *walk) record() Record {
	return Record{
		Start:      k.start,
		Client:     k.client.Addr,
		ServerName: k.client.ServerName,
		Pool:       k.poolName(),
		Target:     k.target,
		Attempts:   k.attempts,
	}
}
