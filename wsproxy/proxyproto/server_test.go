package proxyproto_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// patience bounds each wait of a test.
const patience = 30 * time.Second

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// serve serves through a listener that trusts loopback addresses. It tells clients their addresses.
func serve(t testing.TB, withTLS bool, change func(*proxyproto.Listener)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s at %s", r.RemoteAddr, r.Context().Value(http.LocalAddrContextKey))
		if h := proxyproto.FromContext(r.Context()); h != nil && h.Authority != "" {
			fmt.Fprintf(w, " asks for %s", h.Authority)
		}
	}))
	l := &proxyproto.Listener{Listener: s.Listener, Trusted: loopback, Timeout: patience, Refused: func(net.Addr, error) {}}
	if change != nil {
		change(l)
	}
	s.Listener = l
	s.Config.ConnContext = proxyproto.ConnContext
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if withTLS {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func dial(t testing.TB, s *httptest.Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// ask sends a request on the connection, and returns the answer.
func ask(t testing.TB, c net.Conn) string {
	t.Helper()
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(body)
}

func TestListener_W8_HTTPServer(t *testing.T) {
	s := serve(t, false, nil)
	for name, tt := range worked {
		t.Run(name, func(t *testing.T) {
			c := dial(t, s)
			defer c.Close()
			_, err := c.Write(tt.bytes)
			require.NoError(t, err)
			want := fmt.Sprintf("%s at %s", c.LocalAddr(), c.RemoteAddr())
			if h := tt.header; h.Source != nil {
				want = fmt.Sprintf("%s at %s", h.Source, h.Destination)
			}
			if tt.header.Authority != "" {
				want += " asks for " + tt.header.Authority
			}
			require.Equal(t, want, ask(t, c))
			require.Equal(t, want, ask(t, c), "the second request of the connection")
		})
	}
}

func TestListener_W8_TLS(t *testing.T) {
	s := serve(t, true, nil)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	for _, protocol := range []string{"h2", "http/1.1"} {
		t.Run(protocol, func(t *testing.T) {
			d := proxyproto.Dialer{Header: func(context.Context, net.Conn) (*proxyproto.Header, error) {
				h := worked["v2 ALPN and authority"].header
				return &h, nil
			}}
			transport := &http.Transport{DialContext: d.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: new(http.Protocols)}
			transport.Protocols.SetHTTP1(protocol != "h2")
			transport.Protocols.SetHTTP2(protocol == "h2")
			defer transport.CloseIdleConnections()
			res, err := (&http.Client{Transport: transport, Timeout: patience}).Get(s.URL)
			require.NoError(t, err)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, protocol == "h2", res.ProtoMajor == 2)
			require.Equal(t, "192.168.0.1:56324 at 192.168.0.11:443 asks for example.com", string(body))
		})
	}
}

// Peers that send nothing, or half of a header, delay nobody else.
func TestListener_W8_SlowPeersBlockNobody(t *testing.T) {
	s := serve(t, false, func(l *proxyproto.Listener) { l.Timeout = -1 })
	for i := range 50 {
		c := dial(t, s)
		defer c.Close()
		if i%2 == 0 {
			_, err := io.WriteString(c, "PROXY TCP4")
			require.NoError(t, err)
		}
	}
	c := dial(t, s)
	defer c.Close()
	_, err := c.Write(worked["v1"].bytes)
	require.NoError(t, err)
	require.Equal(t, "192.168.0.1:56324 at 192.168.0.11:443", ask(t, c))
}

// expectClosed expects the end of the connection and no bytes before it.
func expectClosed(t testing.TB, c net.Conn) {
	t.Helper()
	n, err := io.Copy(io.Discard, c)
	require.Zero(t, n, "bytes that were answered")
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// A connection with an invalid header is never served, is reported, and leaves nothing behind.
func TestListener_W8_RefusedLeaveNothing(t *testing.T) {
	var served, told atomic.Int64
	s := serve(t, false, func(l *proxyproto.Listener) {
		l.Timeout = 5 * time.Millisecond
		l.Refused = func(_ net.Addr, err error) {
			if strings.Contains(err.Error(), "proxyproto: ") {
				told.Add(1)
			}
		}
	})
	s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) })
	request := []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	sent := map[string][]byte{"silent": nil, "half": []byte("PROXY TCP4 192."), "half of version 2": worked["v2 TCP4"].bytes[:20]}
	for name, tt := range refused {
		sent[name] = append(bytes.Clone(tt.bytes), request...)
	}
	all := func() {
		for _, b := range sent {
			c := dial(t, s)
			c.Write(b)
			expectClosed(t, c)
			c.Close()
		}
	}
	all()
	before := leaktest.Settled(t)
	for range 10 {
		all()
	}
	leaktest.RequireNoMore(t, before)
	polled(t, "all are told", func() bool { return told.Load() == int64(11*len(sent)) })
	require.Zero(t, served.Load())
}

func polled(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range patience / time.Millisecond {
		if condition() {
			return
		}
		<-tick.C
	}
	require.Fail(t, "not so: "+what)
}
