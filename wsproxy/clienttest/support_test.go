package clienttest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// patience bounds every wait for something that has to happen.
const patience = time.Minute

// until looks again and again whether something has happened. It starts no goroutine.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-deadline:
			require.FailNow(t, "not so: "+what)
		case <-tick.C:
		}
	}
}

// wait takes what has to come.
func wait[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.FailNow(t, "has not come: "+what)
		panic("unreachable")
	}
}

// program returns the path of a program. Without it the test is skipped, or fails where CI is set.
func program(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		require.FailNow(t, "not installed", names[0])
	}
	t.Skipf("%s is not installed", names[0])
	return ""
}

// serve serves until the test ends, over TLS with HTTP/2 on offer if the scheme is https.
func serve(t *testing.T, scheme string, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // browsers break off connections that they have opened in advance
	if scheme == "https" {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// roots are the servers' certificates.
func roots(servers ...*httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, srv := range servers {
		if cert := srv.Certificate(); cert != nil {
			pool.AddCert(cert)
		}
	}
	return pool
}

// rootsFile is a file with the server's certificate.
func rootsFile(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "roots.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	return file
}

// A site is a server with a proxy behind it.
type site struct {
	*httptest.Server
	proxy *wsproxy.Proxy
	ends  chan wsproxy.TunnelRecord
}

// newSite puts a proxy in front of one backend.
func newSite(t *testing.T, scheme string, backend *httptest.Server) *site {
	t.Helper()
	return siteOf(t, scheme, roots(backend), nil, target(t, "a", backend.URL))
}

func target(t *testing.T, id, address string) balancer.Target {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return balancer.Target{ID: id, URL: u}
}

// siteOf puts a proxy in front of targets that it takes in turn. Its tunnels are asked to end without a window.
func siteOf(t *testing.T, scheme string, roots *x509.CertPool, policy stickiness.Policy, targets ...balancer.Target) *site {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	require.NoError(t, err)
	s := &site{ends: make(chan wsproxy.TunnelRecord, 100)}
	s.proxy = &wsproxy.Proxy{
		Pool:       pool,
		Policy:     policy,
		BackendTLS: &tls.Config{RootCAs: roots},
		Tunnels:    wsproxy.TunnelLimits{Window: -1},
		Trace:      &wsproxy.Trace{Tunnel: func(r wsproxy.TunnelRecord) { s.ends <- r }},
		Logger:     slog.New(slog.DiscardHandler),
	}
	s.Server = serve(t, scheme, s.proxy)
	t.Cleanup(func() { require.NoError(t, s.proxy.Shutdown(context.Background())) })
	return s
}

// member is the site's first.
func (s *site) member() *balancer.Member { return s.proxy.Pool.Members()[0] }

// idle requires that nothing is left at the targets.
func (s *site) idle(t *testing.T) {
	t.Helper()
	for _, m := range s.proxy.Pool.Members() {
		until(t, "nothing is in flight", func() bool { return m.Load() == 0 })
	}
}

// schemes calls play for each scheme of the front and of the backend.
func schemes(t *testing.T, play func(t *testing.T, front, back string)) {
	t.Helper()
	for _, front := range []string{"http", "https"} {
		for _, back := range []string{"http", "https"} {
			t.Run(front+" to "+back, func(t *testing.T) { play(t, front, back) })
		}
	}
}

// sizes of messages: around the lengths that a frame's header spells differently, around the buffers, and large.
var sizes = []int{0, 1, 125, 126, 127, 32<<10 - 1, 32 << 10, 32<<10 + 1, 1<<16 - 1, 1 << 16, 1 << 20}

// noise is a message of that size that cannot be compressed.
func noise(size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)}).Read(b)
	return b
}

// prose is a message of that size that can.
func prose(size int) []byte {
	return bytes.Repeat([]byte("sticky "), size/7+1)[:size]
}
