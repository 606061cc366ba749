package peertest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// nginxStreamModule is that of the package libnginx-mod-stream.
const nginxStreamModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// families are those of the addresses that this machine's loopback interface has.
func families(t *testing.T) []string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Log("IPv4 alone:", err)
		return []string{"IPv4"}
	}
	l.Close()
	return []string{"IPv4", "IPv6"}
}

// lastFamily is any port of IPv6 where there is that, to listen on.
func lastFamily(t *testing.T) string {
	t.Helper()
	if all := families(t); all[len(all)-1] == "IPv6" {
		return "[::1]:0"
	}
	return "127.0.0.1:0"
}

// port6 is the next port of ::1 that is tried: below those that the system gives to clients, who have no other address
// of IPv6 either.
var port6 = 10000 + mathrand.N(20000)

// addrOf is an address that nobody uses, of that family.
func addrOf(t *testing.T, ipv6 bool) string {
	t.Helper()
	if !ipv6 {
		return newAddr(t)
	}
	for range 1000 {
		port6++
		addr := fmt.Sprintf("[::1]:%d", port6)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	require.FailNow(t, "no port is free")
	return ""
}

// A pki is a certificate of app.example, and one of a client whose name is "client", both signed by one authority. The
// files are for the programs.
type pki struct {
	server, client         tls.Certificate
	authority              *x509.CertPool
	serverFile, clientFile string // certificate and key
	authorityFile          string
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	dir := t.TempDir()
	p := &pki{authority: x509.NewCertPool(), authorityFile: filepath.Join(dir, "authority.pem")}
	template := func(name string, authority bool) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: authority, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	}
	root := template("authority", true)
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	issue := func(name, file string) (tls.Certificate, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		der, err := x509.CreateCertificate(rand.Reader, template(name, false), root, &key.PublicKey, rootKey)
		require.NoError(t, err)
		private, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
		path := filepath.Join(dir, file)
		require.NoError(t, os.WriteFile(path, append(cert, secret...), 0o600))
		pair, err := tls.X509KeyPair(cert, secret)
		require.NoError(t, err)
		return pair, path
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.authorityFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	authority, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	p.authority.AddCert(authority)
	p.server, p.serverFile = issue(host, "server.pem")
	p.client, p.clientFile = issue("client", "client.pem")
	return p
}

// A told is what the end of a chain knows of the client.
type told struct {
	Addr string // of the connection, after its header
	Said string // by X-Said, which proxies that speak HTTP set
}

// An end is the server at the end of a chain.
type end struct {
	addr string
	mu   sync.Mutex
	last *proxyproto.Header
	errs []error
}

// newEnd starts one at the listener, which wants a PROXY header or not.
func newEnd(t *testing.T, l net.Listener, accept bool, conf *tls.Config) *end {
	t.Helper()
	e := &end{addr: l.Addr().String()}
	if accept {
		l = e.accepting(l)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		e.last = proxyproto.FromContext(r.Context())
		e.mu.Unlock()
		json.NewEncoder(w).Encode(told{Addr: r.RemoteAddr, Said: r.Header.Get("X-Said")})
	}))
	s.Listener.Close()
	s.Listener = l
	s.Config.ConnContext = proxyproto.ConnContext
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if conf != nil {
		s.TLS = conf
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return e
}

// accepting wants a header. That a program looks whether somebody listens is no refusal.
func (e *end) accepting(l net.Listener) net.Listener {
	return &proxyproto.Listener{Listener: l, Trusted: loopback, Timeout: patience, Refused: func(_ net.Addr, err error) {
		e.mu.Lock()
		e.errs = append(e.errs, err)
		e.mu.Unlock()
	}}
}

// A chain is one way to the end: the address where it begins, and how it speaks there.
type chain struct {
	name, addr string
	tls        bool
}

// ask sends a request on a connection of its own, and returns what the end knows, and the client's address.
func (c chain) ask(t *testing.T, p *pki, own string) (told, string) {
	t.Helper()
	var client string
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		if own != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(own)}
		}
		conn, err := d.DialContext(ctx, network, c.addr)
		if err == nil {
			client = conn.LocalAddr().String()
		}
		return conn, err
	}}
	r := request(t, host, "/")
	if c.tls {
		r.URL.Scheme = "https"
		transport.TLSClientConfig = &tls.Config{RootCAs: p.authority, ServerName: host, NextProtos: []string{"http/1.1"},
			Certificates: []tls.Certificate{p.client}}
	}
	res, err := (&http.Client{Transport: transport, Timeout: patience}).Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", body)
	var got told
	require.NoError(t, json.Unmarshal(body, &got))
	return got, client
}

// A hop is one listener of a proxy.
type hop struct {
	addr, to string
	accept   bool   // a PROXY header is wanted
	tls      bool   // the clients' TLS ends here
	options  string // of HAProxy's server line; nginx knows version 1 alone
	version  int    // that we send
}

// startHAProxy is HAProxy in TCP mode.
func startHAProxy(t *testing.T, p *pki, hops []hop) {
	var listeners strings.Builder
	for i, h := range hops {
		bind := h.addr
		if h.accept {
			bind += " accept-proxy"
		}
		if h.tls {
			bind += fmt.Sprintf(" ssl crt %s ca-file %s verify optional alpn http/1.1", p.serverFile, p.authorityFile)
		}
		fmt.Fprintf(&listeners, "listen hop%d\n\tunique-id-format %%[rand(1000000)]\n\tbind %s\n\tserver next %s %s\n", i, bind, h.to, h.options)
	}
	haproxy(t, hops[len(hops)-1].addr, "tcp", listeners.String())
}

func haproxy(t *testing.T, addr, mode, listeners string) {
	t.Helper()
	conf := fmt.Sprintf(`
global
	maxconn 200
	nbthread 1
defaults
	mode %s
	timeout connect 5s
	timeout client 30s
	timeout server 30s
%s`, mode, listeners)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	start(t, addr, program(t, "haproxy"), "-db", "-f", file)
}

// startNginxStream is nginx's stream module.
func startNginxStream(t *testing.T, p *pki, hops []hop) {
	var listeners strings.Builder
	for _, h := range hops {
		options := ""
		if h.accept {
			options += " proxy_protocol"
		}
		if h.tls {
			options += " ssl"
		}
		fmt.Fprintf(&listeners, "server { listen %s%s; proxy_pass %s; proxy_protocol on; }\n", h.addr, options, h.to)
	}
	nginx(t, hops[len(hops)-1].addr, nginxStreamModule, "libnginx-mod-stream", fmt.Sprintf(`
stream {
	ssl_certificate %s; ssl_certificate_key %s;
	set_real_ip_from 127.0.0.0/8; set_real_ip_from ::1;
%s}`, p.serverFile, p.serverFile, &listeners))
}

// nginx starts it with a module of that package, or with none.
func nginx(t *testing.T, addr, module, pack, section string) {
	t.Helper()
	path := program(t, "nginx")
	load := ""
	if module != "" {
		if _, err := os.Stat(module); err != nil {
			missing(t, pack)
		}
		load = "load_module " + module + ";"
	}
	dir := t.TempDir()
	conf := fmt.Sprintf("%s daemon off; master_process off; pid pid; error_log stderr;\nevents { worker_connections 500; }\n%s\n", load, section)
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	start(t, addr, path, "-p", dir, "-c", file)
}

// bind listens where a hop of ours does.
func bind(t *testing.T, h hop) net.Listener {
	t.Helper()
	l := listen(t, h.addr)
	if h.accept {
		return &proxyproto.Listener{Listener: l, Trusted: loopback, Timeout: patience, Logger: slog.New(slog.DiscardHandler)}
	}
	return l
}

// startProxy is our Proxy, which ends HTTP and asks anew.
func startProxy(t *testing.T, p *pki, hops []hop) {
	for _, h := range hops {
		proxy := newProxy(t, nil, balancer.Target{ID: "next", URL: &url.URL{Scheme: "http", Host: h.to}})
		proxy.SendProxy = h.version
		s := httptest.NewUnstartedServer(proxy)
		s.Listener.Close()
		s.Listener = bind(t, h)
		s.Config.ConnContext = proxyproto.ConnContext
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		if h.tls {
			s.TLS = &tls.Config{Certificates: []tls.Certificate{p.server}}
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
	}
}

// startStream is our Server of TCP mode.
func startStream(t *testing.T, p *pki, hops []hop) {
	for _, h := range hops {
		pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "next", URL: &url.URL{Scheme: "tcp", Host: h.to}}}})
		require.NoError(t, err)
		s := &stream.Server{Pool: pool, SendProxy: h.version, Logger: slog.New(slog.DiscardHandler)}
		if h.tls {
			s.TLS = &tls.Config{Certificates: []tls.Certificate{p.server}}
		}
		l := bind(t, h)
		served := make(chan struct{})
		go func() {
			defer close(served)
			s.Serve(l)
		}()
		t.Cleanup(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s.Shutdown(ctx)
			<-served
		})
	}
}

// header is that of the latest request.
func (e *end) header() *proxyproto.Header {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

func (e *end) refusals() []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.errs
}
