package wsproxy_test

import (
	"context"
	"crypto/tls"
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
const patience = 30 * time.Second

// farAway is a window so long that no random moment of it comes while a test runs.
const farAway = 1 << 20 * time.Hour

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

// A backend is a real server at an address of its own, which it keeps when it is stopped and
// started again. Its answers say who it is in the header Backend.
type backend struct {
	id      string
	addr    string
	tls     bool
	http2   bool // over TLS
	h2c     bool // and HTTP/1.1
	handler http.Handler
	server  *httptest.Server
	asked   atomic.Int64 // requests
	mu      sync.Mutex
	last    *http.Request // the latest; its body is gone
}

// newBackend makes a backend and starts it. Its address is on a loopback net that nobody else uses,
// so that nobody takes the port while the backend is stopped.
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
	b.server.EnableHTTP2 = b.http2
	if b.h2c {
		b.server.Config.Protocols = new(http.Protocols)
		b.server.Config.Protocols.SetHTTP1(true)
		b.server.Config.Protocols.SetUnencryptedHTTP2(true)
	}
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
	switch {
	case b.tls:
		scheme = "https://"
	case b.h2c:
		scheme = "h2c://"
	}
	return target(b.id, scheme+b.addr)
}

// backendTLS trusts the certificate of httptest's servers, under the name it has.
func backendTLS(b *backend) *tls.Config {
	conf := b.server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName = "example.com"
	return conf
}

// A pointer is a picker that a test sets: it picks the member of that ID if it can, else the first
// that it can.
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
	h = underTest(t, h)
	srv := httptest.NewUnstartedServer(quiet(h))
	prepare(srv, configure)
	srv.Start()
	cleanUp(t, srv, h)
	return srv
}

// serveTLS puts a handler on a real TLS listener, HTTP/1.1 and HTTP/2.
func serveTLS(t testing.TB, h http.Handler) *httptest.Server {
	h = underTest(t, h)
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

// cleanUp closes the server, and the tunnels and idle connections of a proxy in it: a backend waits
// for those.
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
