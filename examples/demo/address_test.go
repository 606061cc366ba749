package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

func TestForwarded(t *testing.T) {
	backend := named(t, "a")
	for mode, want := range map[string]string{"append": "203.0.113.9, 127.0.0.1", "preserve": "203.0.113.9", "remove": ""} {
		p := start(t, "-forwarded", mode, "-trust", "127.0.0.0/8", "-target", backend.URL)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.http, nil)
		require.NoError(t, err)
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, want, res.Header.Get("Got-Forwarded-For"), mode)
	}
}

// throughProxy is an HTTP client whose connections begin with a PROXY header that names the source.
func throughProxy(t *testing.T, source netip.AddrPort) *http.Client {
	t.Helper()
	d := &proxyproto.Dialer{Header: func(_ context.Context, c net.Conn) (*proxyproto.Header, error) {
		return &proxyproto.Header{Source: net.TCPAddrFromAddrPort(source), Destination: c.RemoteAddr()}, nil
	}}
	transport := &http.Transport{DialContext: d.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func TestAcceptProxy(t *testing.T) {
	backend := named(t, "a")
	p := start(t, "-accept-proxy", "127.0.0.0/8", "-target", backend.URL)
	for _, base := range []string{p.http, p.https} {
		res, err := throughProxy(t, netip.MustParseAddrPort("203.0.113.9:4711")).Get(base)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, "203.0.113.9", res.Header.Get("Got-Forwarded-For"))
	}

	u, err := url.Parse(p.http)
	require.NoError(t, err)
	c, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.NoError(t, err)
	_, err = http.ReadResponse(bufio.NewReader(c), nil)
	require.Error(t, err, "a trusted peer has to send a header")

	direct := start(t, "-accept-proxy", "10.0.0.0/8", "-target", backend.URL)
	res, err := http.Get(direct.http)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, "127.0.0.1", res.Header.Get("Got-Forwarded-For"), "others send none")
}

// The address that a PROXY header tells goes on in the PROXY header for the backend, over HTTP and
// TCP.
func TestSendProxy(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		backend := &httptest.Server{
			Listener: &proxyproto.Listener{Listener: l, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
			Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, r.RemoteAddr)
			})},
		}
		backend.Start()
		t.Cleanup(backend.Close)
		p := start(t, "-accept-proxy", "127.0.0.0/8", "-send-proxy", version, "-check", "/",
			"-target", "a=http://"+l.Addr().String(), "-tcp", "127.0.0.1:0=a")
		for _, base := range []string{p.http, p.https, "http://" + p.tcp[0]} {
			res, err := throughProxy(t, netip.MustParseAddrPort("203.0.113.9:4711")).Get(base)
			require.NoError(t, err)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, "203.0.113.9:4711", string(body), base)
		}
	}
}

func TestSendProxy_EmbeddedBackends(t *testing.T) {
	p := start(t, "-send-proxy", "v2", "-tcp", "127.0.0.1:0=app-1")
	require.Contains(t, newVisitor(t).ask(t, p.http).Backend, "app-")
	require.Equal(t, "app-1", newVisitor(t).ask(t, "http://"+p.tcp[0]).Backend)
}
