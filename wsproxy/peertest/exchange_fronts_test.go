package peertest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
)

// A way is how an exchange is played: its client speaks to the proxy in plain text or over TLS.
type way struct {
	*exchange
	over string // "", "TLS" or "HTTP/2"
}

func (w way) String() string {
	if w.over == "TLS" {
		return w.name + ", over TLS"
	}
	return w.name
}

// ways returns all exchanges in all ways.
func ways() (all []way) {
	for _, table := range tables {
		for i := range table {
			x := &table[i]
			if x.frames != nil {
				all = append(all, way{x, "HTTP/2"})
				continue
			}
			all = append(all, way{x, ""})
			if x.tls {
				all = append(all, way{x, "TLS"})
			}
		}
	}
	return all
}

// A front is a proxy in front of the backends of all exchanges.
type front interface {
	// open starts the proxy for way i, with a backend at l, and returns its address. stop ends it,
	// and says what was wrong.
	open(t *testing.T, i int, w way) (addr string, l net.Listener, stop func() error)
}

// A goFront is a proxy that is an http.Handler.
type goFront struct {
	pki     *pki
	handler func(backend *url.URL) (h http.Handler, stop func() error)
}

func (f goFront) open(t *testing.T, _ int, w way) (string, net.Listener, func() error) {
	l, back := newListener(t), newListener(t)
	h, stopHandler := f.handler(&url.URL{Scheme: "http", Host: back.Addr().String()})
	var said logtest.Buffer
	srv := &http.Server{Handler: h, ErrorLog: log.New(&said, "", 0)}
	addr := l.Addr().String()
	if w.over != "" {
		conf := &tls.Config{Certificates: []tls.Certificate{f.pki.server}, NextProtos: []string{"http/1.1"}}
		if w.over == "HTTP/2" {
			conf.NextProtos = []string{"h2"}
		}
		srv.TLSConfig = conf
		go srv.ServeTLS(l, "", "")
	} else {
		go srv.Serve(l)
	}
	return addr, back, func() error {
		srv.Close()
		if err := stopHandler(); err != nil {
			return err
		}
		if s := said.String(); strings.Contains(s, "panic") {
			return fmt.Errorf("the server's log says: %s", s)
		}
		return nil
	}
}

// stickylbFront is a Proxy over this transport; nil is the Proxy's own.
func stickylbFront(p *pki, transport func() *http.Transport) front {
	return goFront{p, func(backend *url.URL) (http.Handler, func() error) {
		pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "a", URL: backend}}})
		if err != nil {
			panic(err)
		}
		proxy := &wsproxy.Proxy{Pool: pool, Logger: slog.New(slog.DiscardHandler)}
		if transport != nil {
			proxy.Transport = transport()
		}
		return proxy, func() error {
			if tr, ok := proxy.Transport.(*http.Transport); ok {
				tr.CloseIdleConnections()
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // no time for tunnels
			proxy.Shutdown(ctx)
			m := pool.Members()[0]
			if !leaktest.Polled(func() bool { return m.Load() == 0 }) {
				return fmt.Errorf("%d requests are still at the member", m.Load())
			}
			return nil
		}
	}}
}

// reverseProxyFront is a bare ReverseProxy.
func reverseProxyFront(p *pki) front {
	return goFront{p, func(backend *url.URL) (http.Handler, func() error) {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		h := &httputil.ReverseProxy{Transport: tr, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(backend)
			pr.SetXForwarded()
			pr.Out.Host = pr.In.Host
		}}
		return h, func() error { tr.CloseIdleConnections(); return nil }
	}}
}

// A program is a proxy in a process of its own, with a listener for each way.
type programFront struct {
	net   string // of loopback addresses, one for each way
	backs []net.Listener
}

const frontPort = 8080

func (f *programFront) front(i int) string {
	return fmt.Sprintf("%s.%d.%d:%d", f.net, 1+i/200, 1+i%200, frontPort)
}

func (f *programFront) open(_ *testing.T, i int, _ way) (string, net.Listener, func() error) {
	return f.front(i), f.backs[i], func() error { return nil }
}

// newProgramFront listens for the backends of all ways.
func newProgramFront(t *testing.T, all []way) *programFront {
	t.Helper()
	f := &programFront{net: fmt.Sprintf("127.%d", 1+rand.N(254))}
	for range all {
		f.backs = append(f.backs, newListener(t))
	}
	return f
}

func haproxyFront(t *testing.T, p *pki, all []way) front {
	t.Helper()
	f := newProgramFront(t, all)
	var conf strings.Builder
	conf.WriteString(`
global
	maxconn 4000
	nbthread 1
defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
	timeout http-request 30s
	option forwardfor
`)
	for i, w := range all {
		options := map[string]string{"": "", "TLS": " ssl crt " + p.serverFile + " alpn http/1.1",
			"HTTP/2": " ssl crt " + p.serverFile + " alpn h2"}[w.over]
		fmt.Fprintf(&conf, "listen x%d\n\tbind %s%s\n\tserver a %s\n", i, f.front(i), options, f.backs[i].Addr())
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte(conf.String()), 0o600))
	start(t, f.front(len(all)-1), program(t, "haproxy"), "-db", "-f", file)
	return f
}

func nginxFront(t *testing.T, p *pki, all []way) front {
	t.Helper()
	f := newProgramFront(t, all)
	var servers strings.Builder
	for i, w := range all {
		options := map[string]string{"TLS": " ssl", "HTTP/2": " ssl http2"}[w.over]
		fmt.Fprintf(&servers, `
	upstream x%d { server %s; keepalive 4; }
	server { listen %s%s; location / { proxy_pass http://x%d; } }`, i, f.backs[i].Addr(), f.front(i), options, i)
	}
	dir := t.TempDir()
	conf := fmt.Sprintf(`
	ssl_certificate %s; ssl_certificate_key %[1]s;
	client_max_body_size 0;
	merge_slashes off;
	proxy_http_version 1.1;
	proxy_buffering off;
	proxy_request_buffering off;
	proxy_next_upstream off;
	map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
	proxy_set_header Host $http_host;
	proxy_set_header Upgrade $http_upgrade;
	proxy_set_header Connection $connection_upgrade;
	proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
%s
`, p.serverFile, &servers)
	file := nginxConf(t, dir, "", conf)
	start(t, f.front(len(all)-1), program(t, "nginx"), "-p", dir, "-c", file)
	return f
}

func newHTTPTransport() *http.Transport { return &http.Transport{} }
