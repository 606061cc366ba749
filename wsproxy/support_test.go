package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// patience bounds every wait for something that has to happen.
const patience = 10 * time.Second

// wait gives what comes through a channel, or fails.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came", what)
		panic("unreachable")
	}
}

// A backend is a real server at an address of its own, which it keeps when it is stopped and started again. Its
// answers say who it is in the header Backend.
type backend struct {
	id      string
	addr    string
	tls     bool
	handler http.Handler
	server  *httptest.Server
	asked   atomic.Int64 // requests
	mu      sync.Mutex
	last    *http.Request // the latest; its body is gone
}

// newBackend makes a backend and starts it. Its address is on a loopback net that nobody else uses, so that nobody
// takes the port while the backend is stopped.
func newBackend(t testing.TB, id string, handler http.HandlerFunc) *backend {
	b := makeBackend(id, handler)
	b.start(t)
	return b
}

func newTLSBackend(t testing.TB, id string, handler http.HandlerFunc) *backend {
	b := makeBackend(id, handler)
	b.tls = true
	b.start(t)
	return b
}

func makeBackend(id string, handler http.HandlerFunc) *backend {
	addr := netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))})
	b := &backend{id: id, addr: netip.AddrPortFrom(addr, 0).String()}
	b.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.asked.Add(1)
		b.mu.Lock()
		b.last = r.Clone(context.Background())
		b.mu.Unlock()
		w.Header().Set("Backend", id)
		if handler != nil {
			handler(w, r)
		}
	})
	return b
}

func (b *backend) start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", b.addr)
	require.NoError(t, err)
	b.addr = l.Addr().String()
	b.server = httptest.NewUnstartedServer(b.handler)
	b.server.Listener.Close()
	b.server.Listener = l
	b.server.Config.ErrorLog = discardLog
	b.server.Config.DisableGeneralOptionsHandler = true
	if b.tls {
		b.server.StartTLS()
	} else {
		b.server.Start()
	}
	t.Cleanup(b.stop)
}

// stop refuses connections from now on. The backend must have answered what it was asked.
func (b *backend) stop() {
	b.server.CloseClientConnections()
	b.server.Close()
}

// header is that of the latest request.
func (b *backend) header() http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last.Header
}

// request is the latest one.
func (b *backend) request() *http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

func (b *backend) target() balancer.Target {
	scheme := "http://"
	if b.tls {
		scheme = "https://"
	}
	return target(b.id, scheme+b.addr)
}

// backendTLS trusts the certificate of httptest's servers, under the name it has.
func backendTLS(b *backend) *tls.Config {
	conf := b.server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName = "example.com"
	return conf
}

// A pointer is a picker that a test sets: it picks the member of that ID if it can, else the first that it can.
type pointer struct{ id atomic.Pointer[string] }

func (p *pointer) to(id string) { p.id.Store(&id) }

func (p *pointer) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	var first *balancer.Member
	for _, m := range s.Members() {
		if q.Skip(m) {
			continue
		}
		if id := p.id.Load(); id != nil && m.ID() == *id {
			return m
		}
		if first == nil {
			first = m
		}
	}
	return first
}

// newPool makes a pool whose picker points at the first target.
func newPool(t testing.TB, targets ...balancer.Target) (*balancer.Pool, *pointer) {
	t.Helper()
	p := &pointer{}
	if len(targets) > 0 {
		p.to(targets[0].ID)
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: p})
	require.NoError(t, err)
	return pool, p
}

func member(t testing.TB, p *balancer.Pool, id string) *balancer.Member {
	t.Helper()
	m, ok := p.Member(id)
	require.True(t, ok, "member %q", id)
	return m
}

var (
	discardLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	noLog      = slog.New(slog.DiscardHandler)
)

// serve puts a handler on a real listener.
func serve(t testing.TB, h http.Handler) *httptest.Server { return serveWith(t, h, nil) }

// serveWith lets configure change the server before it starts.
func serveWith(t testing.TB, h http.Handler, configure func(*http.Server)) *httptest.Server {
	srv := httptest.NewUnstartedServer(quiet(h))
	prepare(srv, configure)
	srv.Start()
	cleanUp(t, srv, h)
	return srv
}

// serveTLS puts a handler on a real TLS listener, HTTP/1.1 and HTTP/2.
func serveTLS(t testing.TB, h http.Handler) *httptest.Server {
	srv := httptest.NewUnstartedServer(quiet(h))
	prepare(srv, nil)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	cleanUp(t, srv, h)
	return srv
}

// quiet keeps a proxy from logging what a test does to it on purpose.
func quiet(h http.Handler) http.Handler {
	if p, ok := h.(*wsproxy.Proxy); ok && p.Logger == nil {
		p.Logger = noLog
	}
	return h
}

func prepare(srv *httptest.Server, configure func(*http.Server)) {
	srv.Config.ErrorLog = discardLog
	srv.Config.DisableGeneralOptionsHandler = true
	if configure != nil {
		configure(srv.Config)
	}
}

// cleanUp closes the server, and the tunnels and idle connections of a proxy in it: a backend waits for those.
func cleanUp(t testing.TB, srv *httptest.Server, h http.Handler) {
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if p, ok := h.(*wsproxy.Proxy); ok {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			p.Shutdown(ctx)
		}
	})
}

// A client is a browser of sorts: it keeps cookies and follows no redirect.
type client struct {
	*http.Client
	t   testing.TB
	url string
}

func newClient(t testing.TB, srv *httptest.Server) *client {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := srv.Client().Transport.(*http.Transport).Clone()
	transport.DisableCompression = true
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, url: srv.URL, Client: &http.Client{
		Transport:     transport,
		Jar:           jar,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// withoutCookies forgets every cookie that comes.
func (c *client) withoutCookies() *client {
	c.Jar = nil
	return c
}

// A reply is a response whose body was read.
type reply struct {
	*http.Response
	body string
}

// backend is who answered.
func (r *reply) backend() string { return r.Header.Get("Backend") }

// get asks for a path with some header lines, "Name: value" each.
func (c *client) get(path string, lines ...string) *reply {
	c.t.Helper()
	return c.do(http.MethodGet, path, nil, lines...)
}

// informed also gives the headers of the 1xx responses.
func (c *client) informed(path string) ([]http.Header, *reply) {
	c.t.Helper()
	var seen []http.Header
	ctx := httptrace.WithClientTrace(c.t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			seen = append(seen, http.Header(h))
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	require.NoError(c.t, err)
	r := c.send(req)
	return seen, r
}

func (c *client) do(method, path string, body io.Reader, lines ...string) *reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, body)
	require.NoError(c.t, err)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	return c.send(req)
}

func (c *client) send(req *http.Request) *reply {
	c.t.Helper()
	res, err := c.Do(req)
	require.NoError(c.t, err)
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	return &reply{res, string(all)}
}

// echo answers with the request's body, after its end.
func echo(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Write(content)
}

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

// rawBackend listens at a loopback address and runs the play for each connection, which it closes afterwards.
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
	addr := l.Addr().String()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
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
		running.Wait()
	})
	return target(id, scheme+addr)
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
