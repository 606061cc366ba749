package health_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/wskey"
)

// socketPath returns a path for a new Unix socket. The paths of t.TempDir are too long for sockets.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "health")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// A seen has what a backend sees of a check.
type seen struct {
	host, name string // in the request, and in Server Name Indication
	client     []byte // its certificate
}

// listening listens on a Unix socket or on loopback until the test ends, and returns the Addr.
func listening(t testing.TB, network string, serve func(net.Conn)) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = socketPath(t)
	}
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	t.Cleanup(serveOn(l, serve))
	if network == "unix" {
		return "unix:" + address
	}
	return l.Addr().String()
}

// answers serves checks of every kind, and sends what it has seen to tell.
func answers(conf *tls.Config, tell chan<- seen) func(net.Conn) {
	return func(conn net.Conn) {
		var s seen
		if conf != nil {
			secured := tls.Server(conn, conf)
			defer secured.Close()
			if secured.Handshake() != nil {
				return
			}
			state := secured.ConnectionState()
			s.name, s.client = state.ServerName, state.PeerCertificates[0].Raw
			conn = secured
		}
		req, err := http.ReadRequest(bufio.NewReader(conn))
		switch {
		case err != nil: // the client sends no request
		case req.Header.Get("Upgrade") != "":
			s.host = req.Host
			key := wskey.Accept(req.Header.Get("Sec-WebSocket-Key"))
			conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + key + "\r\n\r\n"))
		default:
			s.host = req.Host
			conn.Write([]byte(ok))
		}
		tell <- s
		conn.Read(make([]byte, 1))
	}
}

// The host of the URL does not exist. Every check reaches the target by its Addr, with the same
// server name and client certificate as requests.
func TestChecks_W16_ReachTargetsAsRequestsDo(t *testing.T) {
	now := time.Now()
	server := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "app.example")
	client := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "client")
	clients := x509.NewCertPool()
	clients.AddCert(client.Leaf)
	conf := &tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		SessionTicketsDisabled: true,
	}
	trust := trusting(server)
	trust.ServerName = "of-another-target.example"
	var open atomic.Int64
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return &closer{Conn: conn, open: &open}, nil
	}
	checks := map[string]struct {
		check health.Check
		asks  bool
	}{
		"HTTP":      {health.HTTP{TLS: trust, Dial: dial}, true},
		"WebSocket": {health.WebSocket{TLS: trust, Dial: dial}, true},
		"TLS":       {health.TLS{Config: trust, Dial: dial}, false},
		"TCP":       {health.TCP{Dial: dial}, false},
		"conversation": {health.Conversation{TLS: trust, Dial: dial, Steps: []health.Step{
			{Send: "GET / HTTP/1.0\r\nHost: app.invalid\r\n\r\n", Prefix: "HTTP/1.1 200 "},
		}}, true},
	}
	for name, tt := range checks {
		for _, network := range []string{"tcp", "unix"} {
			for _, secure := range []bool{false, true} {
				if name == "TLS" && !secure {
					continue
				}
				tell := make(chan seen, 1)
				target := balancer.Target{ID: "a", URL: &url.URL{Scheme: "http", Host: "app.invalid"}}
				want := seen{}
				if tt.asks {
					want.host = "app.invalid"
				}
				serve := answers(nil, tell)
				if secure {
					serve = answers(conf, tell)
					target.URL.Scheme, target.ServerName, target.Certificate = "https", "App.Example.", &client
					want.name, want.client = "app.example", client.Leaf.Raw
				}
				target.Addr = listening(t, network, serve)
				pool := newPool(t, target)
				require.NoError(t, probe(t, tt.check, member(t, pool, "a").Target(), patience), "%s %s %v", name, network, secure)
				require.Zero(t, open.Load())
				if name == "TCP" && secure {
					continue // no handshake
				}
				require.Equal(t, want, <-tell, "%s %s %v", name, network, secure)
			}
		}
	}
	require.Equal(t, "of-another-target.example", trust.ServerName, "the caller's stays as it is")
	require.Empty(t, trust.Certificates)
}

// Abstract sockets have no file.
func TestChecks_W16_AbstractSockets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has them")
	}
	name := "@" + socketPath(t)
	l, err := net.Listen("unix", name)
	require.NoError(t, err)
	t.Cleanup(serveOn(l, says(ok)))
	pool := newPool(t, balancer.Target{ID: "a", URL: &url.URL{Scheme: "http", Host: "app.invalid"}, Addr: "unix:" + name})
	require.NoError(t, probe(t, health.HTTP{}, member(t, pool, "a").Target(), patience))
}

// The same over HTTP/2, in plain text with prior knowledge and by ALPN.
func TestChecks_W16_ReachTargetsOfHTTP2(t *testing.T) {
	now := time.Now()
	server := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "app.example")
	client := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "client")
	clients := x509.NewCertPool()
	clients.AddCert(client.Leaf)
	got := make(chan *http.Request, 1)
	for _, network := range []string{"tcp", "unix"} {
		for _, scheme := range []string{"h2c", "https"} {
			backend := &http.Server{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/grpc")
					w.Header().Set("Trailer", "Grpc-Status")
					w.Write(message(servingMessage))
					w.Header().Set("Grpc-Status", "0")
					got <- r
				}),
				Protocols: new(http.Protocols),
				ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
				TLSConfig: &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients},
			}
			backend.Protocols.SetHTTP2(true)
			backend.Protocols.SetUnencryptedHTTP2(true)
			address := "127.0.0.1:0"
			if network == "unix" {
				address = socketPath(t)
			}
			l, err := net.Listen(network, address)
			require.NoError(t, err)
			target := balancer.Target{ID: "a", URL: &url.URL{Scheme: scheme, Host: "app.invalid"}, Addr: l.Addr().String()}
			if network == "unix" {
				target.Addr = "unix:" + address
			}
			var done sync.WaitGroup
			if scheme == "https" {
				target.ServerName, target.Certificate = "app.example", &client
				done.Go(func() { backend.ServeTLS(l, "", "") })
			} else {
				done.Go(func() { backend.Serve(l) })
			}
			kept := member(t, newPool(t, target), "a").Target()
			for _, check := range []health.Check{health.HTTP{TLS: trusting(server)}, health.GRPC{TLS: trusting(server)}} {
				require.NoError(t, probe(t, check, kept, patience), "%T over %s, %s", check, network, scheme)
				r := <-got
				require.Equal(t, 2, r.ProtoMajor)
				require.Equal(t, "app.invalid", r.Host)
				if scheme == "https" {
					require.Equal(t, "app.example", r.TLS.ServerName)
					require.Equal(t, client.Leaf.Raw, r.TLS.PeerCertificates[0].Raw)
				}
			}
			backend.Close()
			done.Wait()
		}
	}
}

func TestChecks_W16_ReasonsThatPeopleUnderstand(t *testing.T) {
	now := time.Now()
	server := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "app.example")
	client := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "client")
	clients := x509.NewCertPool()
	clients.AddCert(client.Leaf)
	conf := &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	secure := func(name string, cert *tls.Certificate) balancer.Target {
		addr := listening(t, "unix", func(conn net.Conn) {
			if secured := tls.Server(conn, conf); secured.Handshake() == nil {
				says(ok)(secured)
			}
			io.Copy(io.Discard, conn) // unread octets would reset the connection
		})
		return balancer.Target{ID: "a", URL: &url.URL{Scheme: "https", Host: "app.example"}, Addr: addr, ServerName: name, Certificate: cert}
	}
	at := func(path string) balancer.Target {
		return balancer.Target{ID: "a", URL: &url.URL{Scheme: "http", Host: "app.example"}, Addr: "unix:" + path}
	}
	stale := socketPath(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	fails := func(err error) health.Check {
		return health.TCP{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", err)}
		}}
	}
	trust := health.HTTP{TLS: trusting(server)}
	tests := map[string]struct {
		check  health.Check
		target balancer.Target
		want   string
	}{
		"right":              {trust, secure("", &client), ""},
		"another name":       {trust, secure("other.example", &client), `the certificate is not valid for "other.example"`},
		"another client":     {trust, secure("", &server), "the target broke off TLS: unknown certificate authority"},
		"no client":          {trust, secure("", nil), "the target broke off TLS: certificate required"},
		"no socket":          {health.HTTP{}, at(socketPath(t)), "the target's socket does not exist"},
		"no directory":       {health.HTTP{}, at(socketPath(t) + "/s"), "the target's socket does not exist"},
		"nobody listens":     {health.HTTP{}, at(stale), "connection refused"},
		"not permitted":      {fails(syscall.EACCES), at("/s"), "this process may not open the target's socket"},
		"full":               {fails(syscall.EAGAIN), at("/s"), "the target's queue of connections is full"},
		"another kind":       {fails(syscall.EPROTOTYPE), at("/s"), "the target's socket is not for streams"},
		"out of descriptors": {fails(syscall.EMFILE), at("/s"), "this machine is short of file descriptors"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := probe(t, tt.check, tt.target, patience)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, "health: "+tt.want)
		})
	}
}

// awaitHealth waits for an event that the target's health is h.
func awaitHealth(t testing.TB, events <-chan health.Event, h balancer.Health) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e := <-events:
			if e.Kind == health.HealthChanged && e.State.Health == h {
				return
			}
		case <-timeout:
			require.FailNow(t, "the health has not changed", h.String())
		}
	}
}

// A backend that restarts makes a new socket at the same path. The same member becomes healthy
// again.
func TestRegistry_W16_FindsASocketAgain(t *testing.T) {
	path := socketPath(t)
	listen := func() (stop func()) {
		l, err := net.Listen("unix", path)
		require.NoError(t, err)
		return serveOn(l, says(ok))
	}
	stop := listen()
	defer func() { stop() }()
	pool := newPool(t, balancer.Target{ID: "a", URL: &url.URL{Scheme: "http", Host: "app.invalid"}, Addr: "unix:" + path})
	m := member(t, pool, "a")
	r := &health.Registry{Pool: pool, Check: health.HTTP{}, Interval: time.Millisecond, Rise: 1, Fall: 1, Timeout: patience}
	events, unsubscribe := r.Subscribe(1000)
	defer unsubscribe()
	run(t, r)
	awaitHealth(t, events, balancer.Healthy)
	for range 3 {
		stop()
		awaitHealth(t, events, balancer.Unhealthy)
		stop = listen()
		awaitHealth(t, events, balancer.Healthy)
	}
	require.Same(t, m, member(t, pool, "a"))
	require.Equal(t, "unix:"+path, r.Status().Targets[0].Addr)
}

// After an update, the next probe uses the new client certificate. The target keeps its health.
func TestRegistry_W16_TakesANewCertificate(t *testing.T) {
	now := time.Now()
	server := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "app.example")
	old, renewed := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "c"), certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "c")
	clients := x509.NewCertPool()
	clients.AddCert(renewed.Leaf)
	conf := &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	target := balancer.Target{ID: "a", URL: &url.URL{Scheme: "https", Host: "app.example"}, Certificate: &old}
	target.Addr = listening(t, "tcp", func(conn net.Conn) {
		if secured := tls.Server(conn, conf); secured.Handshake() == nil {
			says(ok)(secured)
		}
	})
	pool := newPool(t, target)
	m := member(t, pool, "a")
	base := trusting(server)
	base.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	r := &health.Registry{Pool: pool, Check: health.HTTP{TLS: base}, Interval: time.Millisecond, Rise: 1, Fall: 1, Timeout: patience}
	events, unsubscribe := r.Subscribe(1000)
	defer unsubscribe()
	run(t, r)
	for range 2 {
		awaitHealth(t, events, balancer.Unhealthy)
		target.Certificate = &renewed
		require.NoError(t, pool.Update(target))
		awaitHealth(t, events, balancer.Healthy)
		target.Certificate = &old
		require.NoError(t, pool.Update(target))
	}
	awaitHealth(t, events, balancer.Unhealthy)
	require.Same(t, m, member(t, pool, "a"))
}

// The status and its page say where a target is reached.
func TestPage_W16_ShowsWhereTargetsAreReached(t *testing.T) {
	u := &url.URL{Scheme: "https", Host: "app.example"}
	pool := newPool(t,
		balancer.Target{ID: "socket", URL: u, Addr: "unix:/run/app.sock", ServerName: "pod.example"},
		balancer.Target{ID: "plain", URL: u})
	r := &health.Registry{Pool: pool}
	require.Equal(t, "unix:/run/app.sock", r.Status().Targets[0].Addr)
	require.Equal(t, "pod.example", r.Status().Targets[0].ServerName)
	written := body(t, get(r, "/?format=json", ""))
	require.Contains(t, written, `"addr": "unix:/run/app.sock"`)
	require.Contains(t, written, `"server_name": "pod.example"`)
	require.Contains(t, body(t, get(r, "/?format=html", "")), "https://app.example · at unix:/run/app.sock · certificate of pod.example")
	found := body(t, get(r, "/?format=html&q=APP.sock", ""))
	require.Contains(t, found, "t-socket")
	require.NotContains(t, found, "t-plain")
}
