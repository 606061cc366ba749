package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// A socket is the path of a Unix socket that nobody listens on yet.
func socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // t.TempDir may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "app.sock")
}

func listenUnix(t testing.TB, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	return l
}

// talkative answers requests with what it was asked, and upgrades with an echo.
func talkative(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s%s %s", r.Method, r.Host, r.URL.Path, body)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	io.WriteString(conn, switching())
	io.Copy(conn, rw)
}

// A target on a Unix socket is found again when it was restarted, whatever it speaks. Over HTTP/1.1
// no request fails, on kept connections neither; http.Transport takes a moment to see that a
// connection of HTTP/2 has ended.
func TestProxy_W16_UnixSocketRestarts(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		path := socket(t)
		s := newServiceOn(t, listenUnix(t, path), kind, talkative, nil)
		c, p := s.front(t, wsproxy.Upstream{})
		srv := serve(t, &wsproxy.Proxy{Pool: p.Pool, BackendTLS: s.tls})
		for i := range 3 {
			if i > 0 && strings.HasPrefix(kind, "h2") {
				require.Eventually(t, func() bool { return c.get("/").StatusCode == http.StatusOK }, patience, time.Millisecond)
			}
			require.Equal(t, "GET app.example/path ", c.get("/path", "Host: app.example").body)
			require.Equal(t, "POST app.example/ body", c.do(http.MethodPost, "/", strings.NewReader("body"), "Host: app.example").body)
			require.Equal(t, "PUT app.example/ body", c.do(http.MethodPut, "/", strings.NewReader("body"), "Host: app.example").body)
			if kind != "h2c" {
				tunnel := dial(t, srv)
				chat(t, tunnel)
				tunnel.Conn.Close()
			}
			idleMember(t, p.Pool, "a")
			s.stop()
			_, err := os.Stat(path)
			require.ErrorIs(t, err, os.ErrNotExist)
			s = newServiceOn(t, listenUnix(t, path), kind, talkative, nil)
			s.to("b")
		}
	})
}

// No socket, and one that nobody listens on, are refused connections: another target has the
// request, whatever its method, and the error names the path.
func TestProxy_W10_UnixSocketRefuses(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		missing := socket(t)
		deaf := socket(t)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: deaf, Net: "unix"})
		require.NoError(t, err)
		l.SetUnlinkOnClose(false)
		l.Close()
		s := newServiceOn(t, listenUnix(t, socket(t)), kind, talkative, nil)
		for _, path := range []string{missing, deaf} {
			gone := s.target
			gone.ID, gone.Addr = "gone", "unix:"+path
			failures := make(chan *wsproxy.Error, 10)
			pool, picker := newPool(t, gone, s.target)
			p := &wsproxy.Proxy{Pool: pool, BackendTLS: s.tls,
				Trace: &wsproxy.Trace{Retry: func(_ *http.Request, e *wsproxy.Error) { failures <- e }}}
			c := newClient(t, serve(t, p))
			picker.to("gone")
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				res := c.do(method, "/", strings.NewReader("body"))
				require.Equal(t, http.StatusOK, res.StatusCode)
				require.Contains(t, res.body, "body")
				e := wait(t, failures, "retry")
				require.Equal(t, wsproxy.ClassDial, e.Class)
				require.Contains(t, e.Error(), path)
			}
		}
	})
}

// A PROXY header tells of the client over a Unix socket, too.
func TestProxy_W8_SendProxyOverUnixSocket(t *testing.T) {
	t.Parallel()
	path := socket(t)
	l := listenUnix(t, path)
	defer l.Close()
	headers := make(chan string, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			line, _ := r.ReadString('\n')
			headers <- line
			http.ReadRequest(r)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
			conn.Close()
		}
	}()
	tgt := target("a", "http://app.internal")
	tgt.Addr = "unix:" + path
	for _, given := range []http.RoundTripper{nil, &http.Transport{}} {
		pool, _ := newPool(t, tgt)
		p := &wsproxy.Proxy{Pool: pool, SendProxy: 1, Transport: given}
		require.Equal(t, "ok", newClient(t, serve(t, p)).get("/").body)
		require.Regexp(t, `^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\n$`, wait(t, headers, "the header"))
	}
}

// Targets with one URL and several Addrs share no connection, whoever brings the transport.
func TestProxy_W16_OneURLSeveralAddrs(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		var targets []balancer.Target
		var conf *tls.Config
		for _, id := range []string{"a", "b", "c"} {
			var l net.Listener
			if id == "c" {
				l = listenUnix(t, socket(t))
			} else {
				var err error
				l, err = net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
			}
			s := newServiceOn(t, l, kind, talkative, nil)
			s.to(id)
			tgt := s.target
			tgt.ID = id
			if id != "c" {
				tgt.Addr = s.addr
			}
			tgt.URL = new(*tgt.URL)
			tgt.URL.Host, tgt.ServerName = "example.com.:4711", "" // nobody resolves that
			targets, conf = append(targets, tgt), s.tls
		}
		if conf != nil {
			conf.ServerName = ""
		}
		for name, p := range map[string]*wsproxy.Proxy{
			"own":   {BackendTLS: conf},
			"given": {Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}},
		} {
			pool, picker := newPool(t, targets...)
			p.Pool = pool
			srv := serve(t, p)
			c := newClient(t, srv)
			for range 3 {
				for _, id := range []string{"a", "b", "c"} {
					picker.to(id)
					res := c.do(http.MethodPost, "/path", strings.NewReader("body"), "Host: app.example")
					require.Equal(t, id, res.Header.Get("Pod"), name)
					require.Equal(t, "POST app.example/path body", res.body)
					require.Equal(t, id, c.get("/", "Authorization: Negotiate x").Header.Get("Pod"), name)
					if kind != "h2c" {
						chat(t, dial(t, srv))
					}
				}
			}
		}
	})
}

// A pki makes client certificates.
type pki struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &pki{key: key}
	ca.root = ca.issue(t, "root", nil)
	return ca
}

func (ca *pki) issue(t testing.TB, name string, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	parent := ca.root
	if key == nil {
		template.IsCA, template.BasicConstraintsValid, key, parent = true, true, ca.key, template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), ca.key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func (ca *pki) client(t testing.TB, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &tls.Certificate{Certificate: [][]byte{ca.issue(t, name, key).Raw}, PrivateKey: key}
}

// requires has a server verify client certificates.
func (ca *pki) requires(conf *tls.Config) {
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	conf.ClientCAs.AddCert(ca.root)
}

// whoAsks answers with the name in the client's certificate.
func whoAsks(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		talkative(w, r)
		return
	}
	io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
}

// Each target gets its own client certificate. When an update changes it, the next request uses the
// new one, while what runs goes on.
func TestProxy_W16_ClientCertificates(t *testing.T) {
	for _, kind := range []string{"https", "h2"} {
		for _, given := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s given=%v", kind, given), func(t *testing.T) {
				t.Parallel()
				ca := newPKI(t)
				goOn := make(chan struct{})
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				s := newServiceOn(t, l, kind, func(w http.ResponseWriter, r *http.Request) {
					whoAsks(w, r)
					if r.URL.Path == "/long" {
						http.NewResponseController(w).Flush()
						<-goOn
					}
				}, ca.requires)
				release := sync.OnceFunc(func() { close(goOn) })
				t.Cleanup(release)
				one, two := s.target, s.target
				one.ID, two.ID = "one", "two"
				one.Certificate, two.Certificate = ca.client(t, "first"), ca.client(t, "second")
				pool, picker := newPool(t, one, two)
				conf := s.tls
				conf.Certificates = []tls.Certificate{*ca.client(t, "of BackendTLS")}
				conf.ClientSessionCache = tls.NewLRUClientSessionCache(10)
				p := &wsproxy.Proxy{Pool: pool, BackendTLS: conf}
				if given {
					p.Transport, p.BackendTLS = &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}, nil
				}
				srv := serveWith(t, p, func(s *http.Server) { s.ConnContext = wsproxy.ConnContext })
				c := newClient(t, srv)
				who := func(id string) string {
					picker.to(id)
					return c.get("/").body
				}
				pinned := newClient(t, srv)
				login := func() string {
					picker.to("one")
					return pinned.get("/", "Authorization: NTLM x").body
				}
				for range 2 {
					require.Equal(t, "first", who("one"))
					require.Equal(t, "second", who("two"))
				}
				picker.to("one")
				res, err := c.Get(c.url + "/long")
				require.NoError(t, err)
				defer res.Body.Close()
				tunnel := dial(t, srv)
				chat(t, tunnel)
				require.Equal(t, "first", login())

				m := member(t, pool, "one")
				one.Weight = 2
				require.NoError(t, pool.Update(one, two)) // the same certificate
				require.Equal(t, "first", who("one"))
				one.Certificate = ca.client(t, "third")
				require.NoError(t, pool.Update(one, two))
				require.Equal(t, m, member(t, pool, "one"))
				for range 2 {
					require.Equal(t, "third", who("one"))
					require.Equal(t, "third", login())
					require.Equal(t, "second", who("two"))
				}
				one.Certificate = nil
				require.NoError(t, pool.Update(one, two))
				require.Equal(t, "of BackendTLS", who("one"))
				release()
				all, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, "first", string(all))
				tunnel.send("still here")
				tunnel.expect("still here")
			})
		}
	}
}

// A lingering listener's connections read what the peer has sent before they close: else that would
// reset the connection, and the peer might not read what was sent last.
type lingering struct{ net.Listener }

func (l lingering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lingeringConn{TCPConn: c.(*net.TCPConn)}, nil
}

type lingeringConn struct {
	*net.TCPConn
	once sync.Once
}

func (c *lingeringConn) Close() error {
	c.once.Do(func() {
		c.CloseWrite()
		go func() {
			io.Copy(io.Discard, c.TCPConn)
			c.TCPConn.Close()
		}()
	})
	return nil
}

// A certificate that the target does not accept, or none, is a failed handshake in TLS 1.3 too,
// where the target says so only after it. Such a request goes to another target, whatever its
// method.
func TestProxy_W16_RefusedCertificate(t *testing.T) {
	for _, kind := range []string{"https", "h2"} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s %s", kind, tls.VersionName(version)), func(t *testing.T) {
				t.Parallel()
				ca := newPKI(t)
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				s := newServiceOn(t, lingering{l}, kind, whoAsks, func(conf *tls.Config) {
					ca.requires(conf)
					conf.MaxVersion = version
				})
				none, wrong, right := s.target, s.target, s.target
				none.ID, wrong.ID, right.ID = "none", "wrong", "right"
				wrong.Certificate, right.Certificate = newPKI(t).client(t, "stranger"), ca.client(t, "client")
				pool, picker := newPool(t, none, wrong, right)
				failures := make(chan *wsproxy.Error, 10)
				p := &wsproxy.Proxy{Pool: pool, BackendTLS: s.tls,
					Trace: &wsproxy.Trace{Retry: func(_ *http.Request, e *wsproxy.Error) { failures <- e }}}
				c := newClient(t, serve(t, p))
				for _, id := range []string{"none", "wrong"} {
					member(t, pool, map[string]string{"none": "wrong", "wrong": "none"}[id]).SetAdmin(balancer.Down)
					member(t, pool, id).SetAdmin(balancer.Ready)
					for _, method := range []string{http.MethodGet, http.MethodPost} {
						picker.to(id)
						require.Equal(t, "client", c.do(method, "/", nil).body)
						e := wait(t, failures, "retry")
						require.Equal(t, id, e.Target)
						if kind == "h2" && e.Class == wsproxy.ClassDial { // net/http keeps the alert to itself
							require.ErrorContains(t, e, "client conn could not be established")
							continue
						}
						require.Equal(t, wsproxy.ClassTLS, e.Class, e)
						require.ErrorContains(t, e, "tls: ")
					}
				}
				member(t, pool, "right").SetAdmin(balancer.Down)
				require.Equal(t, http.StatusBadGateway, c.get("/").StatusCode)
			})
		}
	}
}

// A target's ServerName is what its certificate must have, before that of BackendTLS and the URL's
// host.
func TestProxy_W16_ServerName(t *testing.T) {
	s := newService(t, "https", nil)
	_, port, err := net.SplitHostPort(s.addr)
	require.NoError(t, err)
	tests := map[string]struct {
		url, addr, name, backend string
		failure                  string // part of it; empty for none
	}{
		"the URL's host":        {"https://127.0.0.1:" + port, "", "", "", ""},
		"another name":          {"https://app.internal", s.addr, "", "", "app.internal"},
		"of the target":         {"https://app.internal", s.addr, "example.com", "", ""},
		"of BackendTLS":         {"https://app.internal", s.addr, "", "example.com", ""},
		"the target's is first": {"https://app.internal", s.addr, "example.com", "other.example", ""},
		"not BackendTLS's":      {"https://app.internal", s.addr, "other.example", "example.com", "other.example"},
		"an address":            {"https://app.internal", s.addr, "127.0.0.1", "", ""},
		"trailing dot":          {"https://example.com.", s.addr, "", "", ""},
		"trailing dot, named":   {"https://app.internal", s.addr, "example.com.", "", ""},
	}
	for name, tt := range tests {
		tgt := target("a", tt.url)
		tgt.Addr, tgt.ServerName = tt.addr, tt.name
		pool, _ := newPool(t, tgt)
		failures := make(chan *wsproxy.Error, 1)
		p := &wsproxy.Proxy{Pool: pool, BackendTLS: &tls.Config{RootCAs: s.tls.RootCAs, ServerName: tt.backend},
			ErrorPage: func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
				failures <- e
				w.WriteHeader(e.Status)
			}}
		res := newClient(t, serve(t, p)).get("/")
		if tt.failure == "" {
			require.Equal(t, http.StatusOK, res.StatusCode, name)
			continue
		}
		e := wait(t, failures, name)
		require.Equal(t, wsproxy.ClassTLS, e.Class, name)
		require.ErrorContains(t, e, tt.failure)
		require.ErrorContains(t, e, s.addr, "what was dialled")
	}
}

// A zone says where to dial, and is in no certificate and no Host header.
func TestProxy_W16_IPv6Zone(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6:", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	if conn, err := net.Dial("tcp", "[::1%lo]:"+port); err != nil {
		t.Skip("no zone lo:", err)
	} else {
		conn.Close()
	}
	s := newServiceOn(t, l, "https", talkative, nil)
	for _, tgt := range []balancer.Target{
		target("url", "https://[::1%25lo]:"+port),
		{ID: "addr", URL: target("", "https://example.com").URL, Addr: "[::1%lo]:" + port},
	} {
		pool, _ := newPool(t, tgt)
		p := &wsproxy.Proxy{Pool: pool, BackendTLS: &tls.Config{RootCAs: s.tls.RootCAs},
			Target: func(out *http.Request, m *balancer.Member) { out.Host = m.URL().Host }}
		host := strings.Replace(tgt.URL.Host, "%lo", "", 1)
		require.Equal(t, "GET "+host+"/ ", newClient(t, serve(t, p)).get("/").body)
	}
}

// What Proxy.Target makes of the URL's host says where to dial, and which name to expect, unless
// the target has an Addr.
func TestProxy_W16_TargetChangesHost(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		s := newService(t, kind, nil)
		s.to("s")
		elsewhere := newService(t, kind, nil)
		elsewhere.to("elsewhere")
		if s.tls != nil {
			s.tls.ServerName = "" // that of the certificate is the address
		}
		for addr, want := range map[string]string{"": "elsewhere", s.addr: "s"} {
			tgt := s.target
			if tgt.Addr = addr; addr != "" {
				tgt.URL = new(*tgt.URL)
				tgt.URL.Host = "app.internal"
			}
			pool, _ := newPool(t, tgt)
			p := &wsproxy.Proxy{Pool: pool, BackendTLS: s.tls,
				Target: func(out *http.Request, _ *balancer.Member) { out.URL.Host = elsewhere.addr }}
			require.Equal(t, want, newClient(t, serve(t, p)).get("/").Header.Get("Pod"))
		}
	})
}

// A caller's http.Transport dials the Addr with its own dialer.
func TestProxy_W16_TransportDialsAddr(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		s := newServiceOn(t, listenUnix(t, socket(t)), kind, talkative, nil)
		var dialled atomic.Pointer[string]
		transport := &http.Transport{TLSClientConfig: s.tls, ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialled.Store(new(network + " " + addr))
				return new(net.Dialer).DialContext(ctx, network, addr)
			}}
		pool, _ := newPool(t, s.target)
		p := &wsproxy.Proxy{Pool: pool, Transport: transport}
		c := newClient(t, serve(t, p))
		require.Equal(t, "POST app.example/ x", c.do(http.MethodPost, "/", strings.NewReader("x"), "Host: app.example").body)
		require.Equal(t, "unix "+s.addr, *dialled.Load())

		proxied := transport.Clone()
		proxied.Proxy = http.ProxyURL(target("", "http://proxy.example").URL)
		direct := transport.Clone()
		direct.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
		tests := map[string]struct {
			p    *wsproxy.Proxy
			fail string
		}{
			"a proxy":                   {&wsproxy.Proxy{Transport: proxied}, "Transport has a Proxy"},
			"no proxy for this request": {&wsproxy.Proxy{Transport: direct}, ""},
			"a dialer of TLS": {&wsproxy.Proxy{Transport: &http.Transport{
				DialTLSContext: func(context.Context, string, string) (net.Conn, error) { panic("asked") }}},
				map[bool]string{true: "Transport has a DialTLSContext", false: ""}[s.tls != nil]},
			"a stranger": {&wsproxy.Proxy{Transport: roundTripper(func(*http.Request) (*http.Response, error) { panic("asked") })},
				"see TransportDials"},
		}
		for name, tt := range tests {
			failures := make(chan *wsproxy.Error, 1)
			tt.p.Pool = pool
			tt.p.ErrorPage = func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
				failures <- e
				w.WriteHeader(e.Status)
			}
			res := newClient(t, serve(t, tt.p)).do(http.MethodPost, "/", strings.NewReader("x"), "Host: app.example")
			if tt.fail == "" {
				require.Equal(t, "POST app.example/ x", res.body, name)
				continue
			}
			require.Equal(t, http.StatusBadGateway, res.StatusCode, name)
			e := wait(t, failures, name)
			require.Equal(t, wsproxy.ClassDial, e.Class, name)
			require.ErrorContains(t, e, tt.fail, name)
		}
	})
}

// A Transport that says that it dials as MemberOf tells is believed, and shares no connection
// between targets.
func TestProxy_W16_TransportDials(t *testing.T) {
	var targets []balancer.Target
	for _, id := range []string{"a", "b"} {
		s := newServiceOn(t, listenUnix(t, socket(t)), "http", talkative, nil)
		s.to(id)
		s.target.ID = id
		targets = append(targets, s.target)
	}
	targets = append(targets, newBackend(t, "c", nil).target())
	var told sync.Map
	dialer := func(ctx context.Context, _, _ string) (net.Conn, error) {
		m, ok := wsproxy.MemberOf(ctx)
		if !ok {
			return nil, io.ErrUnexpectedEOF
		}
		told.Store(m.ID(), true)
		network, addr := m.Endpoint()
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	transport := &http.Transport{DialContext: dialer}
	t.Cleanup(transport.CloseIdleConnections)
	for name, rt := range map[string]http.RoundTripper{
		"http.Transport": transport,
		"any": roundTripper(func(r *http.Request) (*http.Response, error) {
			return (&http.Transport{DialContext: dialer, DisableKeepAlives: true}).RoundTrip(r)
		}),
	} {
		pool, picker := newPool(t, targets...)
		p := &wsproxy.Proxy{Pool: pool, Transport: rt, TransportDials: true}
		c := newClient(t, serve(t, p))
		for range 3 {
			for _, id := range []string{"a", "b", "c"} {
				picker.to(id)
				res := c.get("/")
				require.Equal(t, id, res.Header.Get("Pod")+res.backend(), name)
			}
		}
		for _, id := range []string{"a", "b", "c"} {
			_, ok := told.LoadAndDelete(id)
			require.True(t, ok, "%s %s", name, id)
		}
	}
	_, ok := wsproxy.MemberOf(t.Context())
	require.False(t, ok)
	pool, _ := newPool(t, targets...)
	require.Panics(t, func() { (&wsproxy.Proxy{Pool: pool, TransportDials: true}).ServeHTTP(nil, nil) })
}
