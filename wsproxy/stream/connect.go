package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// connect makes attempts until one has a connection to its target.
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

// ended is a context that has ended. With it Acquire does not wait.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// acquire takes a lease on the picker's choice. A client that does not have to wait for it is not
// watched.
func (k *walk) acquire() (balancer.Lease, *Error) {
	lease, err := k.pool.Acquire(ended, &k.query)
	if errors.Is(err, context.Canceled) {
		return k.wait()
	}
	if err != nil {
		return lease, k.noTarget(err)
	}
	return lease, nil
}

// noTarget returns the failure for a pool that gave no lease. It names the pool only once.
func (k *walk) noTarget(err error) *Error {
	if named, ok := err.(*balancer.PoolError); ok {
		err = named.Err
	}
	return &Error{Class: ClassNoTarget, Pool: k.poolName(), Err: err}
}

// wait waits for a lease in the pool's queue until the client gives up.
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
		return lease, k.noTarget(err)
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

// A dialing is an attempt to connect. It is cut when its member is down.
type dialing struct{ cancel context.CancelCauseFunc }

// Cut implements underway.Cutter.
func (d *dialing) Cut() { d.cancel(errDown) }

// attempt connects to the member of the lease.
func (k *walk) attempt() (net.Conn, *Error) {
	m := k.lease.Member()
	k.target = m.ID()
	k.attempts++
	k.began = time.Now()
	ctx, cancel := context.WithCancelCause(k.rt.ctx)
	defer cancel(nil)
	d := &dialing{cancel}
	if !k.rt.busy.Add(m, d) {
		d.Cut()
	}
	defer k.rt.busy.Remove(m, d)
	conn, failure := k.dial(ctx, m)
	k.latency = time.Since(k.began)
	return conn, failure
}

// dial makes the connection and does everything that comes before the client's bytes.
func (k *walk) dial(ctx context.Context, m *balancer.Member) (net.Conn, *Error) {
	conn, err := k.dialTarget(ctx, m)
	if err != nil {
		return nil, k.failed(ctx, ClassDial, err)
	}
	conf := k.backendTLS(m.Target())
	if conf == nil {
		return conn, nil
	}
	shake, cancel := context.WithTimeoutCause(ctx, underway.Limit(k.s.Limits.Handshake, defaultHandshake), errHandshakeTimeout)
	defer cancel()
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(shake); err != nil {
		conn.Close()
		return nil, k.failed(ctx, ClassTLS, because(shake, err))
	}
	return secure, nil
}

func (k *walk) dialTarget(ctx context.Context, m *balancer.Member) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, underway.Limit(k.s.Limits.Connect, defaultConnect), errConnectTimeout)
	defer cancel()
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return underway.Dial(ctx, net.Dialer{KeepAlive: keepAlive}, network, addr)
	}
	if k.s.Dial != nil {
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return k.s.Dial(ctx, m) }
	}
	if k.s.SendProxy != 0 && (k.s.SendProxyTo == nil || k.s.SendProxyTo(m)) {
		dial = (&proxyproto.Dialer{Dial: dial, Header: k.proxyHeader}).DialContext
	}
	network, addr := m.Endpoint()
	if network == "" { // Route has returned a pool that was not checked
		return nil, errNoURL
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, because(ctx, err)
	}
	return conn, nil
}

// proxyHeader returns the header for the connection to a target. It has the fields of a trusted
// peer's header, except where the server knows better.
func (k *walk) proxyHeader(context.Context, net.Conn) (*proxyproto.Header, error) {
	h := &proxyproto.Header{}
	if k.client.Proxy != nil {
		*h = *k.client.Proxy
	}
	h.Version, h.Checksum = k.s.SendProxy, false
	h.Source, h.Destination = addrs(k.conn)
	if name := k.client.ServerName; name != "" && len(name) <= maxName {
		h.Authority = name
	}
	if secure, ok := k.conn.(*tls.Conn); ok {
		state := secure.ConnectionState()
		h.TLS, h.ALPN = proxyproto.DescribeTLS(&state), k.alpn
	}
	if k.s.ProxyHeader != nil {
		k.s.ProxyHeader(h, k.client)
	}
	return h, nil
}

// maxName is the longest server name that goes into a header. DNS names are shorter. Clients may
// send names that are too long for a header.
const maxName = 255

// addrs returns the addresses of c if they are of one kind, as a header requires.
func addrs(c net.Conn) (source, destination net.Addr) {
	switch source := c.RemoteAddr().(type) {
	case *net.TCPAddr:
		if destination, ok := c.LocalAddr().(*net.TCPAddr); ok {
			return source, destination
		}
	case *net.UnixAddr:
		if destination, ok := c.LocalAddr().(*net.UnixAddr); ok {
			return source, destination
		}
	}
	return nil, nil
}

// backendTLS returns the TLS configuration for a target, or nil if it gets no TLS.
func (k *walk) backendTLS(t balancer.Target) *tls.Config {
	conf := k.s.BackendTLS
	switch {
	case t.URL.Scheme == "http", t.URL.Scheme == "h2c", t.URL.Scheme == "tcp" && conf == nil:
		return nil
	case conf == nil:
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf = t.TLSConfig(conf)
	if len(conf.NextProtos) == 0 && k.alpn != "" {
		conf.NextProtos = []string{k.alpn}
	}
	return conf
}

// failed returns the error of an attempt that has no connection.
func (k *walk) failed(ctx context.Context, class Class, err error) *Error {
	err = because(ctx, err)
	if errors.Is(err, errShutdown) {
		class = ClassShutdown
	}
	return &Error{Class: class, Pool: k.poolName(), Target: k.target, Attempt: k.attempts, Err: err}
}

// again decides whether a failed attempt is repeated. If so, it replaces the lease by one on
// another member.
func (k *walk) again(failure *Error) bool {
	if k.attempts > k.retries() || failure.Class != ClassDial && failure.Class != ClassTLS || balancer.Shortage(failure.Err) != "" {
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
	outcome := k.outcome(failure)
	outcome.Retried = true
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
