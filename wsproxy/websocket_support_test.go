package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// A wire is a connection of a client that speaks for itself.
type wire struct {
	net.Conn
	*bufio.Reader
	t testing.TB
}

// Read reads what was buffered first.
func (w *wire) Read(p []byte) (int, error) { return w.Reader.Read(p) }

// dial connects to a server, over TLS if that is what it speaks.
func dial(t testing.TB, srv *httptest.Server) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	if srv.TLS != nil {
		conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		conf.ServerName, conf.NextProtos = "example.com", nil
		conn = tls.Client(conn, conf)
	}
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return &wire{conn, bufio.NewReader(conn), t}
}

// send writes text.
func (w *wire) send(text string) {
	w.t.Helper()
	_, err := w.Conn.Write([]byte(text))
	require.NoError(w.t, err)
}

// expect reads exactly that text.
func (w *wire) expect(text string) {
	w.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(w.Reader, got)
	require.NoError(w.t, err, "got %q of %q", got[:n], text)
	require.Equal(w.t, text, string(got))
}

// expectEnd reads the end of the stream, with nothing before it.
func (w *wire) expectEnd() {
	w.t.Helper()
	rest, err := io.ReadAll(w.Reader)
	require.NoError(w.t, err)
	require.Empty(w.t, string(rest))
}

// expectClosed reads the end of the stream, proper or not.
func (w *wire) expectClosed() {
	w.t.Helper()
	_, err := io.Copy(io.Discard, w.Reader)
	require.False(w.t, isTimeout(err), "still open")
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// head reads the next response up to its body.
func (w *wire) head() *http.Response {
	w.t.Helper()
	res, err := http.ReadResponse(w.Reader, &http.Request{Method: http.MethodGet})
	require.NoError(w.t, err)
	return res
}

// response reads the next response and its body.
func (w *wire) response() *reply {
	w.t.Helper()
	res := w.head()
	all, err := io.ReadAll(res.Body)
	require.NoError(w.t, err)
	return &reply{res, string(all)}
}

// final reads the next response that is no 100: a proxy may send two, the target's and the server's
// own.
func (w *wire) final() *reply {
	w.t.Helper()
	for {
		if r := w.response(); r.StatusCode != http.StatusContinue {
			return r
		}
	}
}

// closeWrite ends the stream to the server.
func (w *wire) closeWrite() {
	w.t.Helper()
	require.NoError(w.t, w.Conn.(interface{ CloseWrite() error }).CloseWrite())
}

// upgrade is the request of a client that wants a WebSocket, with more header lines.
func upgrade(lines ...string) string {
	all := append([]string{
		"GET /chat HTTP/1.1", "Host: app.example", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lines...)
	return strings.Join(all, "\r\n") + "\r\n\r\n"
}

// switching is the answer to it, with more header lines.
func switching(lines ...string) string {
	all := append([]string{
		"HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
	}, lines...)
	return strings.Join(all, "\r\n") + "\r\n\r\n"
}

// open asks for a tunnel and checks that it was opened.
func (w *wire) open(lines ...string) *http.Response {
	w.t.Helper()
	w.send(upgrade(lines...))
	res := w.head()
	require.Equal(w.t, http.StatusSwitchingProtocols, res.StatusCode)
	return res
}

// A play is what a backend of bytes does with a connection after it has read the first request.
type play func(conn net.Conn, r *bufio.Reader, req *http.Request)

// rawBackend listens at a loopback address and runs the play for each connection, which it closes
// afterwards.
func rawBackend(t testing.TB, id string, run play) balancer.Target {
	return rawBackendTLS(t, id, nil, run)
}

func rawBackendTLS(t testing.TB, id string, conf *tls.Config, run play) balancer.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	scheme := "http://"
	if conf != nil {
		scheme = "https://"
		l = tls.NewListener(l, conf)
	}
	return rawBackendOn(t, id, l, scheme, run)
}

// rawBackendOn is rawBackend on a listener, which may be that of a Unix socket.
func rawBackendOn(t testing.TB, id string, l net.Listener, scheme string, run play) balancer.Target {
	t.Helper()
	over, end := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(over, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
				conn.SetDeadline(time.Now().Add(patience))
				r := bufio.NewReader(conn)
				if req, err := http.ReadRequest(r); err == nil {
					run(conn, r, req)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		end() // of connections that a proxy, which is to be closed after this, keeps for its next request
		running.Wait()
	})
	if l.Addr().Network() == "unix" {
		app := target(id, scheme+"app.internal")
		app.Addr = "unix:" + l.Addr().String()
		return app
	}
	return target(id, scheme+l.Addr().String())
}

// serverTLS is the configuration of httptest's TLS servers, certificate included.
func serverTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	server = srv.TLS.Clone()
	server.NextProtos = nil
	client = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return server, client
}

// answering is a play that writes some text, and then waits for the proxy to close the connection.
func answering(text string) play {
	return func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, text)
		io.Copy(io.Discard, r)
	}
}

// echoing is a play that opens a tunnel and sends back what comes, to the end.
func echoing(conn net.Conn, r *bufio.Reader, _ *http.Request) {
	io.WriteString(conn, switching())
	io.Copy(conn, r)
}

// tunnelled makes a proxy to one target that tells the ends of its tunnels.
func tunnelled(t testing.TB, tgt balancer.Target) (*wsproxy.Proxy, <-chan wsproxy.TunnelRecord) {
	t.Helper()
	pool, _ := newPool(t, tgt)
	ends := make(chan wsproxy.TunnelRecord, 2048)
	return &wsproxy.Proxy{Pool: pool, Trace: &wsproxy.Trace{Tunnel: func(r wsproxy.TunnelRecord) { ends <- r }}}, ends
}

// idleMember waits until nothing is counted at a member any more.
func idleMember(t testing.TB, p *balancer.Pool, id string) {
	t.Helper()
	m := member(t, p, id)
	require.Eventually(t, func() bool { return m.Load() == 0 && m.Tunnels() == 0 }, patience, time.Millisecond)
}
