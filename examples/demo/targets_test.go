package main

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// named is a backend that answers with its name and with what it got. It begins a session, SHOP,
// for who has none.
func named(t *testing.T, name string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Got-Forwarded-For", r.Header.Get("X-Forwarded-For"))
		w.Header().Set("Got-Path", r.URL.Path)
		if _, err := r.Cookie("SHOP"); err != nil {
			http.SetCookie(w, &http.Cookie{Name: "SHOP", Value: "1"})
		}
		io.WriteString(w, name)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestTargets(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	p := start(t, "-target", "one="+a.URL, "-target", strings.Replace(b.URL, "http:", "ws:", 1)+"/prefix", "-picker", "roundrobin")
	require.Equal(t, []string{
		"backend one is " + a.URL,
		"backend " + strings.TrimPrefix(b.URL, "http://") + " is " + b.URL + "/prefix",
	}, p.lines[:2])
	met := map[string]string{}
	for range 2 {
		v := newVisitor(t)
		res, name := v.get(t, p.http+"/path")
		met[name] = res.Header.Get("Got-Path")
		_, again := v.get(t, p.https+"/path")
		require.Equal(t, name, again)
	}
	require.Equal(t, map[string]string{"a": "/path", "b": "/prefix/path"}, met)
}

func TestTrust(t *testing.T) {
	backend := named(t, "a")
	for _, tt := range []struct {
		want  string
		flags []string
	}{
		{"127.0.0.1", nil},
		{"127.0.0.1", []string{"-trust", "10.0.0.0/8"}},
		{"203.0.113.9, 127.0.0.1", []string{"-trust", "10.0.0.0/8", "-trust", "127.0.0.0/8"}},
	} {
		p := start(t, append(tt.flags, "-target", backend.URL)...)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.http, nil)
		require.NoError(t, err)
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, tt.want, res.Header.Get("Got-Forwarded-For"))
	}
}

// TestKey has two balancers in front of the same backends, as behind a DNS name with two addresses.
// The second one's picker alternates, so that sessions which it does not know are not all with the
// same backend.
func TestKey(t *testing.T) {
	key, other := strings.Repeat("0a", keySize), strings.Repeat("0b", keySize)
	targets := []string{"-target", "a=" + named(t, "a").URL, "-target", "b=" + named(t, "b").URL}
	for _, mode := range []string{"lb", "lb=1h", "app=SHOP"} {
		flags := append(targets, "-sticky", mode, "-picker", "roundrobin")
		first := start(t, append(flags, "-seal-key", key)...)
		res, home := newVisitor(t).get(t, first.http)
		session := res.Cookies()
		require.Len(t, session, 2)
		for _, tt := range []struct {
			flags []string
			knows bool
		}{{[]string{"-seal-key", key}, true}, {[]string{"-seal-key", other}, false}, {nil, false}} {
			second := start(t, append(flags, tt.flags...)...)
			u, err := url.Parse(second.http)
			require.NoError(t, err)
			met := map[string]bool{}
			for range 4 {
				v := newVisitor(t)
				v.Jar.SetCookies(u, session)
				_, name := v.get(t, second.http)
				met[name] = true
			}
			require.True(t, met[home])
			require.Equal(t, tt.knows, len(met) == 1, mode)
		}
	}
}

func TestCheck(t *testing.T) {
	var asked atomic.Int64
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() == "/up?deep=1" {
			asked.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, "sick")
	}))
	defer sick.Close()
	well := named(t, "well")
	targets := []string{"-target", "sick=" + sick.URL, "-target", "well=" + well.URL, "-picker", "first", "-sticky", "none"}

	answers := func(p *process) string {
		_, name := newVisitor(t).get(t, p.http)
		return name
	}
	p := start(t, targets...)
	require.Eventually(t, func() bool { return answers(p) == "sick" }, patience, glance)
	require.Zero(t, asked.Load(), "it takes connections, which is all that is checked")

	p = start(t, append(targets, "-check", "/up?deep=1")...)
	require.Eventually(t, func() bool { return asked.Load() > 30 }, patience, glance, "every 20 ms")
	require.Equal(t, "well", answers(p))
}

// TestFirstRound has a backend that takes its time for its first probe: nothing is served before.
func TestFirstRound(t *testing.T) {
	const others = 20 // probes of the other one meanwhile
	var probes atomic.Int64
	answer := make(chan struct{})
	quick := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if probes.Add(1) == others {
			close(answer)
		}
	}))
	defer quick.Close()
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-answer }))
	defer slow.Close()
	start(t, "-target", slow.URL, "-target", quick.URL, "-check", "/")
	require.GreaterOrEqual(t, probes.Load(), int64(others))
}

// TestCheck_RiseAndFall tells the counts of two from one and from three.
func TestCheck_RiseAndFall(t *testing.T) {
	answers := []int{200, 503, 200, 503, 503, 200, 503, 503, 200, 200, 503, 503} // then 200
	var probes atomic.Int64
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n := int(probes.Add(1)) - 1; n < len(answers) {
			w.WriteHeader(answers[n])
		}
	}))
	defer backend.Close()
	p := launch(t, "balancer accepts on ", "-listen", "127.0.0.1:0", "-listen-tls", "", "-check-interval", "20ms",
		"-target", "a="+backend.URL, "-check", "/")
	require.Eventually(t, func() bool { return int(probes.Load()) > len(answers)+5 }, patience, glance)
	var changes []string
	for _, change := range regexp.MustCompile(`health=(\w+)`).FindAllStringSubmatch(p.stderr.String(), -1) {
		changes = append(changes, change[1])
	}
	require.Equal(t, []string{"healthy", "unhealthy", "healthy", "unhealthy", "healthy"}, changes)
}

func TestAdmin(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0")
	v := newVisitor(t)
	home := v.ask(t, p.http).Backend
	v.dial(t, p.http)
	_, status := v.get(t, p.admin)
	require.Contains(t, status, `"tunnels": 1`)

	for action, want := range map[string]string{"drain": "draining", "down": "down", "ready": "ready"} {
		res, err := http.PostForm(p.admin, url.Values{"target": {home}, "action": {action}})
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, want, p.shows(t, home).Admin)
	}
	res, _ := v.get(t, p.http+"/?format=json")
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"), "the balancer's listener has no status")
}

func TestCertificate_SelfSigned(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1", "localhost", "192.0.2.7", "balancer.example", ""} {
		cert, err := certificate("", "", host)
		require.NoError(t, err)
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		require.NoError(t, err)
		roots := x509.NewCertPool()
		roots.AddCert(leaf)
		for _, name := range []string{"localhost", "127.0.0.1", "::1", host} {
			_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
			require.NoError(t, err, name)
		}
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "elsewhere.example"})
		require.Error(t, err)
	}
}

func TestCertificate_Files(t *testing.T) {
	cert, err := certificate("", "", "")
	require.NoError(t, err)
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	require.NoError(t, err)
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}), 0o600))

	p := start(t, "-tls-cert", certFile, "-tls-key", keyFile)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.https, "https://"), &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, cert.Certificate[0], conn.ConnectionState().PeerCertificates[0].Raw)
	require.NotContains(t, p.lines[4], "self-signed")
}

func TestListen_OnlyOne(t *testing.T) {
	p := start(t, "-listen", "")
	require.Empty(t, p.http)
	newVisitor(t).ask(t, p.https)
}
