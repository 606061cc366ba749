package stream_test

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// patience bounds each wait of a test.
const patience = 30 * time.Second

var noLog = slog.New(slog.DiscardHandler)

// wait receives from c.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		require.FailNow(t, "missing", what)
		panic("unreachable")
	}
}

// until polls a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !condition(); <-tick.C {
		require.Less(t, time.Since(began), patience, what)
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// A backend accepts connections and gives them to the test or to a handler.
type backend struct {
	net.Listener
	id    string
	conns chan net.Conn
}

// newBackend listens until the test ends. With a nil handle the test takes the connections from
// conns.
func newBackend(t testing.TB, id string, conf *tls.Config, handle func(net.Conn)) *backend {
	t.Helper()
	b := &backend{listen(t), id, make(chan net.Conn, 100)}
	if handle == nil {
		handle = func(c net.Conn) { b.conns <- c }
	}
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			if conf != nil {
				c = tls.Server(c, conf)
			}
			go handle(c)
		}
	}()
	t.Cleanup(func() { b.Close() })
	return b
}

func (b *backend) target() balancer.Target { return target(b.id, b.Addr().String()) }

func target(id, addr string) balancer.Target {
	return balancer.Target{ID: id, URL: &url.URL{Scheme: "tcp", Host: addr}}
}

// dead returns a target that nobody listens on. Its port is the local port of a connection that
// stays open until the test ends: another test could get a free port.
func dead(t testing.TB, id string) balancer.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	bound := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	conn, err := bound.DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return target(id, conn.LocalAddr().String())
}

// greeting sends the name of the backend and then echoes until the end.
func greeting(id string) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		io.WriteString(c, id)
		io.Copy(c, c)
	}
}

// echoing echoes until the end.
func echoing(c net.Conn) {
	defer c.Close()
	io.Copy(c, c)
}

func newPool(t testing.TB, conf balancer.Config, targets ...balancer.Target) *balancer.Pool {
	t.Helper()
	conf.Targets = targets
	pool, err := balancer.New(conf)
	require.NoError(t, err)
	return pool
}

func member(t testing.TB, p *balancer.Pool, id string) *balancer.Member {
	t.Helper()
	m, ok := p.Member(id)
	require.True(t, ok)
	return m
}

// A running is a server that serves one listener until the test ends.
type running struct {
	*stream.Server
	addr    string
	records chan stream.Record // of the connections that have ended
	served  chan error         // what Serve has returned
}

func serve(t testing.TB, s *stream.Server) *running {
	t.Helper()
	return serveOn(t, s, listen(t))
}

func serveOn(t testing.TB, s *stream.Server, l net.Listener) *running {
	t.Helper()
	r := &running{s, l.Addr().String(), make(chan stream.Record, 10_000), make(chan error, 1)}
	var trace stream.Trace
	if s.Trace != nil {
		trace = *s.Trace
	}
	trace.Done = func(rec stream.Record) { r.records <- rec }
	s.Trace = &trace
	s.Limits.Handshake = cmp.Or(s.Limits.Handshake, patience) // what a machine may take that stalls for seconds
	s.Limits.Connect = cmp.Or(s.Limits.Connect, patience)
	if s.Logger == nil {
		s.Logger = noLog
	}
	go func() { r.served <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		l.Close() // if Serve came too late
		if s.Pool != nil {
			idle(t, s.Pool)
		}
	})
	return r
}

// idle checks that every lease was released.
func idle(t testing.TB, p *balancer.Pool) {
	t.Helper()
	for _, m := range p.Members() {
		require.Zero(t, m.Load(), m.ID())
	}
}

// ended waits for the record of the next connection.
func (r *running) ended(t testing.TB) stream.Record {
	t.Helper()
	return wait(t, r.records, "a record")
}

// dial connects to the server until the test ends.
func (r *running) dial(t testing.TB) net.Conn { return r.dialFrom(t, "127.0.0.1") }

// dialFrom connects from an address of the loopback net.
func (r *running) dialFrom(t testing.TB, from string) net.Conn {
	t.Helper()
	c := dialOnce(t, r.addr, from)
	t.Cleanup(func() { c.Close() })
	return c
}

func dialOnce(t testing.TB, addr, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// dialTLS connects and does a TLS handshake.
func (r *running) dialTLS(t testing.TB, name string, protocols ...string) *tls.Conn {
	t.Helper()
	return shake(t, r.dial(t), name, protocols...)
}

func shake(t testing.TB, c net.Conn, name string, protocols ...string) *tls.Conn {
	t.Helper()
	conn := tls.Client(c, trusting(name, protocols...))
	require.NoError(t, conn.Handshake())
	return conn
}

func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
}

// expectEnd expects end of stream or a reset.
func expectEnd(t testing.TB, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	timeout, ok := err.(net.Error)
	require.False(t, ok && timeout.Timeout(), "the connection goes on")
}

// chat checks that bytes pass both ways through a connection to an echo.
func chat(t testing.TB, c net.Conn) {
	t.Helper()
	send(t, c, "ping")
	expect(t, c, "ping")
}

func closeWrite(t testing.TB, c net.Conn) {
	t.Helper()
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
}

// certificate is for every name in these tests.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), // a synctest bubble begins in 2000
		NotAfter:     time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		DNSNames:     []string{"one.example", "two.example"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
})

func serverTLS(protocols ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: protocols}
}

func trusting(name string, protocols ...string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(certificate().Leaf)
	return &tls.Config{RootCAs: roots, ServerName: name, NextProtos: protocols}
}
