package health_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// backend listens on loopback until the test ends and gives each connection to serve, which
// need not close it.
func backend(t testing.TB, scheme string, serve func(net.Conn)) balancer.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(serveOn(l, serve))
	return balancer.Target{URL: &url.URL{Scheme: scheme, Host: l.Addr().String()}}
}

// serveOn gives each connection of l to serve until stop is called, which closes l and them.
func serveOn(l net.Listener, serve func(net.Conn)) (stop func()) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	return func() {
		l.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
}

// refusing returns a target where nobody listens. Its port is the local port of a connection that
// stays open until the test ends. A free port could be taken by another test.
func refusing(t testing.TB, scheme string) balancer.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	bound := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	conn, err := bound.DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return balancer.Target{URL: &url.URL{Scheme: scheme, Host: conn.LocalAddr().String()}}
}

// readRequest reads a request, so that closing the connection does not reset it.
func readRequest(conn net.Conn) {
	if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		req.Body.Close()
	}
}

// says answers a request with the bytes given, and closes.
func says(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		readRequest(conn)
		conn.Write([]byte(answer))
	}
}

// hangs answers a request with the bytes given, and then keeps the connection open until the client
// leaves.
func hangs(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		readRequest(conn)
		conn.Write([]byte(answer))
		conn.Read(make([]byte, 1))
	}
}

// drips sends an answer byte by byte, for ever.
func drips(conn net.Conn) {
	readRequest(conn)
	conn.Write([]byte("HTTP/1.1 200 OK\r\nX: "))
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if _, err := conn.Write([]byte("x")); err != nil {
			tick.Stop()
			return
		}
	}
}

// resets answers a request with the bytes given, and resets the connection.
func resets(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		conn.Write([]byte(answer))
		conn.(*net.TCPConn).SetLinger(0)
	}
}

// withTLS speaks TLS with the certificate before it serves. It sends no session tickets, because
// the client of a pipe might not read them.
func withTLS(cert tls.Certificate, serve func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		secured := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
		defer secured.Close()
		if secured.Handshake() == nil {
			serve(secured)
		}
	}
}

// certificate makes a self-signed one for the loopback address, or for the names given.
func certificate(t testing.TB, from, until time.Time, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, DNSNames: names,
		IsCA: true, BasicConstraintsValid: true,
	}
	if names == nil {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// trusting is a client's configuration that trusts the certificates.
func trusting(certs ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	for _, c := range certs {
		roots.AddCert(c.Leaf)
	}
	return &tls.Config{RootCAs: roots}
}

// patience is the time limit of what must happen, on a slow machine too.
const patience = 30 * time.Second

// probe runs one check with a time limit.
func probe(t testing.TB, c health.Check, target balancer.Target, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return c.Check(ctx, target)
}

// serverTarget is the target of a test server.
func serverTarget(t testing.TB, s *httptest.Server) balancer.Target {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	return balancer.Target{URL: u}
}
