package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

var loopbackNet = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// A greeted backend wants a PROXY header on each connection, and notes what they say.
type greeted struct {
	*httptest.Server
	mu    sync.Mutex
	seen  []*proxyproto.Header // of every connection that made a request
	errs  []error              // of the connections that were refused
	major int                  // version of HTTP of the latest request
}

type connKey struct{}

func newGreeted(t testing.TB, withTLS bool) *greeted {
	t.Helper()
	b := &greeted{}
	connections := make(map[net.Conn]bool)
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.Copy(w, r.Body)
			fmt.Fprint(w, r.RemoteAddr)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, switching())
		io.Copy(conn, rw)
	}))
	b.Config.ErrorLog = discardLog
	b.Config.Protocols = new(http.Protocols)
	b.Config.Protocols.SetHTTP1(true)
	b.Config.Protocols.SetHTTP2(true)
	b.Config.Protocols.SetUnencryptedHTTP2(true)
	b.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(proxyproto.ConnContext(ctx, c), connKey{}, c)
	}
	next := b.Config.Handler
	b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.major = r.ProtoMajor
		if c := r.Context().Value(connKey{}).(net.Conn); !connections[c] {
			connections[c] = true
			b.seen = append(b.seen, proxyproto.FromContext(r.Context()))
		}
		b.mu.Unlock()
		next.ServeHTTP(w, r)
	})
	b.Listener = &proxyproto.Listener{Listener: b.Listener, Trusted: loopbackNet, Timeout: patience, Refused: func(_ net.Addr, err error) {
		b.mu.Lock()
		b.errs = append(b.errs, err)
		b.mu.Unlock()
	}}
	if withTLS {
		b.EnableHTTP2 = true
		b.StartTLS()
	} else {
		b.Start()
	}
	t.Cleanup(b.Close)
	return b
}

// headers are those that came since the last call.
func (b *greeted) headers(t testing.TB) []*proxyproto.Header {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(t, b.errs)
	seen := b.seen
	b.seen = nil
	return seen
}

func (b *greeted) proxy(t testing.TB, version int) *wsproxy.Proxy {
	t.Helper()
	pool, _ := newPool(t, target("a", b.URL))
	p := &wsproxy.Proxy{Pool: pool, SendProxy: version, Logger: noLog, Trusted: tenNet}
	if b.TLS != nil {
		p.BackendTLS = b.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		p.BackendTLS.ServerName = "example.com"
	}
	return p
}

// A header tells of one client, so no other client's request comes on the same connection, nor does
// the next one.
func TestProxy_W8_SendProxyOncePerConnection(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprintf("tls=%v, version %d", withTLS, version), func(t *testing.T) {
				b := newGreeted(t, withTLS)
				front := serve(t, b.proxy(t, version))
				var want []string
				for range 3 {
					c := dial(t, front)
					for range 2 {
						c.send("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 4\r\n\r\nbody")
						r := c.response()
						require.Equal(t, http.StatusOK, r.StatusCode)
						require.Equal(t, "body"+c.LocalAddr().String(), r.body)
						require.False(t, r.Close, "the client's own connection is kept")
						want = append(want, c.LocalAddr().String())
					}
					c.Close()
				}
				up := dial(t, front)
				up.send(upgrade() + "early")
				require.Equal(t, http.StatusSwitchingProtocols, up.head().StatusCode)
				up.expect("early")
				up.send("late")
				up.expect("late")
				want = append(want, up.LocalAddr().String())
				var got []string
				for _, h := range b.headers(t) {
					require.Equal(t, version, h.Version)
					require.Equal(t, front.Listener.Addr().String(), h.Destination.String())
					require.Equal(t, version == 2, h.Checksum)
					require.Nil(t, h.TLS)
					got = append(got, h.Source.String())
				}
				require.Equal(t, want, got)
			})
		}
	}
}

func TestProxy_W8_SendProxyTellsTheClientAfterTrust(t *testing.T) {
	first := &proxyproto.Header{UniqueID: []byte("id"), ALPN: "h2", Authority: "sni.example",
		TLS: &proxyproto.TLS{Version: "TLSv1.2", CertOnConn: true, CommonName: "cn"}}
	state := &tls.ConnectionState{Version: tls.VersionTLS13,
		NegotiatedProtocol: "http/1.1", ServerName: "app.example"}
	ours := proxyproto.DescribeTLS(state)
	unknown := &proxyproto.TLS{Verify: 1}
	tests := map[string]struct {
		remote string
		local  net.Addr
		header http.Header
		first  *proxyproto.Header
		tls    *tls.ConnectionState
		want   proxyproto.Header
	}{
		"untrusted": {remote: "192.0.2.7:4711", header: http.Header{"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Proto": {"https"}},
			want: proxyproto.Header{Source: tcpAddr("192.0.2.7:4711")}},
		"trusted": {remote: "10.0.0.1:4711", header: http.Header{"X-Forwarded-For": {"192.0.2.9"}},
			want: proxyproto.Header{Source: tcpAddr("192.0.2.9:0")}},
		"trusted, with a port": {remote: "10.0.0.1:4711", header: http.Header{"X-Forwarded-For": {"[2001:db8::9]:99"}},
			want: proxyproto.Header{Source: tcpAddr("[2001:db8::9]:99")}},
		"Forwarded, with a port": {remote: "10.0.0.1:4711", header: http.Header{"Forwarded": {`for="192.0.2.9:99"`}},
			want: proxyproto.Header{Source: tcpAddr("192.0.2.9:99")}},
		"nothing said": {remote: "10.0.0.1:4711", want: proxyproto.Header{Source: tcpAddr("10.0.0.1:4711")}},
		"IPv6":         {remote: "[2001:db8::1]:1", want: proxyproto.Header{Source: tcpAddr("[2001:db8::1]:1")}},
		"zone":         {remote: "[fe80::1%eth0]:1", want: proxyproto.Header{Source: tcpAddr("[fe80::1]:1")}},
		"mapped":       {remote: "[::ffff:192.0.2.7]:1", want: proxyproto.Header{Source: tcpAddr("192.0.2.7:1")}},
		"local address": {remote: "192.0.2.7:1", local: tcpAddr("198.51.100.1:443"),
			want: proxyproto.Header{Source: tcpAddr("192.0.2.7:1"), Destination: tcpAddr("198.51.100.1:443")}},
		"local address of the other family": {remote: "192.0.2.7:1", local: tcpAddr("[2001:db8::2]:443"),
			want: proxyproto.Header{Source: tcpAddr("192.0.2.7:1"), Destination: tcpAddr("[2001:db8::2]:443")}},
		"Unix socket": {remote: "@", want: proxyproto.Header{Local: true}},
		"our TLS": {remote: "192.0.2.7:1", tls: state,
			want: proxyproto.Header{Source: tcpAddr("192.0.2.7:1"), TLS: ours, ALPN: "http/1.1", Authority: "app.example"}},
		"TLS of the proxy in front": {remote: "192.0.2.7:1", first: first,
			want: proxyproto.Header{Source: tcpAddr("192.0.2.7:1"), TLS: first.TLS, ALPN: "h2", Authority: "sni.example", UniqueID: []byte("id")}},
		"both TLS": {remote: "192.0.2.7:1", first: first, tls: state,
			want: proxyproto.Header{Source: tcpAddr("192.0.2.7:1"), TLS: first.TLS, ALPN: "h2", Authority: "sni.example", UniqueID: []byte("id")}},
		"TLS passed through": {remote: "192.0.2.7:1", first: &proxyproto.Header{UniqueID: []byte("id")}, tls: state,
			want: proxyproto.Header{Source: tcpAddr("192.0.2.7:1"), TLS: ours, ALPN: "http/1.1", Authority: "app.example", UniqueID: []byte("id")}},
		"TLS of a trusted peer": {remote: "10.0.0.1:1", tls: state, header: http.Header{"X-Forwarded-For": {"192.0.2.9"}},
			want: proxyproto.Header{Source: tcpAddr("192.0.2.9:0"), TLS: unknown}},
		"TLS that a trusted peer denies": {remote: "10.0.0.1:1", tls: state,
			header: http.Header{"X-Forwarded-For": {"192.0.2.9"}, "X-Forwarded-Proto": {"http"}},
			want:   proxyproto.Header{Source: tcpAddr("192.0.2.9:0")}},
		"TLS that a trusted peer tells of": {remote: "10.0.0.1:1",
			header: http.Header{"X-Forwarded-For": {"192.0.2.9"}, "X-Forwarded-Proto": {"https"}},
			want:   proxyproto.Header{Source: tcpAddr("192.0.2.9:0"), TLS: unknown}},
	}
	b := newGreeted(t, false)
	p := b.proxy(t, 2)
	p.RFC7239 = true
	v1 := b.proxy(t, 1)
	v1.RFC7239 = true
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
			r.RemoteAddr, r.TLS = tt.remote, tt.tls
			if tt.header != nil {
				r.Header = tt.header
			}
			if tt.local != nil {
				r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, tt.local))
			}
			if tt.first != nil {
				r = r.WithContext(behind(t, r.Context(), tt.first))
			}
			want := tt.want
			want.Version, want.Checksum = 2, !want.Local
			if want.Destination == nil && !want.Local {
				want.Destination = tcpAddr("0.0.0.0:0")
				if want.Source.(*net.TCPAddr).IP.To4() == nil {
					want.Destination = tcpAddr("[::]:0")
				}
			}
			p.ServeHTTP(httptest.NewRecorder(), r)
			require.Equal(t, []*proxyproto.Header{&want}, b.headers(t))
			v1.ServeHTTP(httptest.NewRecorder(), r)
			require.Equal(t, []*proxyproto.Header{{Version: 1, Source: want.Source, Destination: want.Destination}}, b.headers(t))
		})
	}
}

func tcpAddr(s string) *net.TCPAddr { // as a header has it: four bytes for IPv4
	a := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))
	return a
}

// behind is the context of a request that came on a connection with that header.
func behind(t testing.TB, ctx context.Context, h *proxyproto.Header) context.Context {
	t.Helper()
	first := *h
	first.Source, first.Destination = tcpAddr("192.0.2.7:1"), tcpAddr("198.51.100.1:443")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	d := proxyproto.Dialer{Header: func(context.Context, net.Conn) (*proxyproto.Header, error) { return &first, nil }}
	c, err := d.DialContext(ctx, "tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	accepted, err := (&proxyproto.Listener{Listener: l, Trusted: loopbackNet, Timeout: patience}).Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return proxyproto.ConnContext(ctx, accepted)
}

// What the caller adds is sent, and the header of the connection in front is not what it adds to.
func TestProxy_W8_SendProxyHeaderHook(t *testing.T) {
	b := newGreeted(t, false)
	p := b.proxy(t, 2)
	p.ProxyHeader = func(h *proxyproto.Header, r *http.Request) {
		h.UniqueID = []byte(r.Header.Get("X-Request-Id"))
		h.TLS.Version = "changed"
		h.Other = []proxyproto.TLV{{Type: 0xe1, Value: []byte("ours")}}
	}
	r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
	r.RemoteAddr = "192.0.2.7:1"
	r = r.WithContext(behind(t, r.Context(), &proxyproto.Header{UniqueID: []byte("first"), TLS: &proxyproto.TLS{Version: "TLSv1.3"}}))
	r.Header.Set("X-Request-Id", "request")
	p.ServeHTTP(httptest.NewRecorder(), r)
	seen := b.headers(t)
	require.Len(t, seen, 1)
	require.Equal(t, "request", string(seen[0].UniqueID))
	require.Equal(t, "changed", seen[0].TLS.Version)
	require.Equal(t, []proxyproto.TLV{{Type: 0xe1, Value: []byte("ours")}}, seen[0].Other)
	first := proxyproto.FromContext(r.Context())
	require.Equal(t, "first", string(first.UniqueID))
	require.Equal(t, "TLSv1.3", first.TLS.Version)
}

// A hook that makes a header which cannot be written fails the request, and no target is blamed for
// it.
func TestProxy_W8_SendProxyHeaderThatCannotBe(t *testing.T) {
	b := newGreeted(t, false)
	p := b.proxy(t, 2)
	p.ProxyHeader = func(h *proxyproto.Header, _ *http.Request) { h.UniqueID = make([]byte, 129) }
	var failure *wsproxy.Error
	p.ErrorPage = func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) { failure = e; w.WriteHeader(e.Status) }
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://app.example/", nil))
	require.Equal(t, http.StatusBadGateway, w.Code)
	require.Equal(t, wsproxy.ClassRequest, failure.Class)
	require.ErrorContains(t, failure, "unique ID")
	require.Empty(t, b.headers(t))
}

// A retry tells the other target the same.
func TestProxy_W8_SendProxyWithRetry(t *testing.T) {
	gone := newBackend(t, "gone", nil)
	gone.stop()
	b := newGreeted(t, false)
	pool, _ := newPool(t, gone.target(), target("a", b.URL))
	front := serve(t, &wsproxy.Proxy{Pool: pool, SendProxy: 1})
	c := dial(t, front)
	c.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
	require.Equal(t, c.LocalAddr().String(), c.response().body)
	require.Len(t, b.headers(t), 1)
}

// Over h2c too, and at the same time: no request is on a connection that begins with another
// client's address.
func TestProxy_W8_SendProxyOverH2C(t *testing.T) {
	b := newGreeted(t, false)
	for _, transport := range []http.RoundTripper{nil, &http.Transport{}} {
		p := b.proxy(t, 2)
		pool, _ := newPool(t, target("a", strings.Replace(b.URL, "http:", "h2c:", 1)))
		p.Pool, p.Transport = pool, transport
		front := serve(t, p)
		answers := make(chan string, 24)
		for range 8 {
			c := dial(t, front)
			go func() {
				for range 3 {
					answers <- strings.Replace(bodyOf(c), "body"+c.LocalAddr().String(), "own", 1)
				}
			}()
		}
		for range 24 {
			require.Equal(t, "own", wait(t, answers, "an answer"))
		}
		require.Len(t, b.headers(t), 24, "connections")
		b.mu.Lock()
		require.Equal(t, 2, b.major)
		b.mu.Unlock()
		idleMember(t, pool, "a")
	}
}

// bodyOf asks with a body on the connection, and returns that of the answer or what went wrong.
func bodyOf(c *wire) string {
	if _, err := io.WriteString(c.Conn, "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 4\r\n\r\nbody"); err != nil {
		return err.Error()
	}
	res, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// The caller's own transport is used, and its connections to other places are not.
func TestProxy_W8_SendProxyOverTheCallersTransport(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		b := newGreeted(t, withTLS)
		p := b.proxy(t, 2)
		var dialled []string
		own := &http.Transport{TLSClientConfig: p.BackendTLS, ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialled = append(dialled, addr)
				return new(net.Dialer).DialContext(ctx, network, addr)
			}}
		p.Transport, p.BackendTLS = own, nil
		front := serve(t, p)
		c := dial(t, front)
		for range 2 {
			c.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
			require.Equal(t, c.LocalAddr().String(), c.response().body)
		}
		c.send(upgrade())
		require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
		require.Len(t, b.headers(t), 3)
		require.Len(t, dialled, 3)
		require.False(t, own.DisableKeepAlives, "the caller's own stays as it is")
	}
}

func TestProxy_W8_SendProxyRefusesWhatItCannotDo(t *testing.T) {
	pool, _ := newPool(t, target("a", "http://192.0.2.1"))
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }
	for name, p := range map[string]*wsproxy.Proxy{
		"version":         {SendProxy: 3},
		"below":           {SendProxy: -1},
		"a RoundTripper":  {SendProxy: 1, Transport: roundTripper(http.DefaultTransport.RoundTrip)},
		"a proxy":         {SendProxy: 1, Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{})}},
		"TLS of its own":  {SendProxy: 1, Transport: &http.Transport{DialTLSContext: dial}},
		"an older dialer": {SendProxy: 1, Transport: olderTransport()},
	} {
		t.Run(name, func(t *testing.T) {
			p.Pool = pool
			for range 2 {
				require.Panics(t, func() {
					p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://app.example/", nil))
				})
			}
		})
	}
}

func olderTransport() *http.Transport {
	//lint:ignore SA1019 it may be set all the same
	return &http.Transport{Dial: func(string, string) (net.Conn, error) { return nil, io.EOF }}
}

// Health checks greet the targets too.
func TestProxy_W8_ChecksSendAHeader(t *testing.T) {
	b := newGreeted(t, false)
	check := health.HTTP{Dial: (&proxyproto.Dialer{}).DialContext}
	require.NoError(t, check.Check(t.Context(), target("a", b.URL)))
	require.Equal(t, []*proxyproto.Header{{Version: 2, Local: true}}, b.headers(t))
}

// The address of a client behind a proxy that speaks the protocol goes on to the target: in the
// header that we send, in X-Forwarded-For, and to the picker.
func TestProxy_W8_HeaderInHeaderOut(t *testing.T) {
	b := newGreeted(t, false)
	picker := &addrPicker{}
	pool, err := balancer.New(balancer.Config{Picker: picker, Targets: []balancer.Target{target("a", b.URL)}})
	require.NoError(t, err)
	p := &wsproxy.Proxy{Pool: pool, SendProxy: 2, Logger: noLog}
	forwarded := make(chan http.Header, 1)
	p.Target = func(out *http.Request, _ *balancer.Member) { forwarded <- out.Header.Clone() }
	front := httptest.NewUnstartedServer(p)
	front.Listener = &proxyproto.Listener{Listener: front.Listener, Trusted: loopbackNet, Timeout: patience}
	front.Config.ConnContext = proxyproto.ConnContext
	front.Start()
	t.Cleanup(front.Close)
	h := proxyproto.Header{Version: 2, Source: tcpAddr("203.0.113.9:4711"), Destination: tcpAddr("198.51.100.1:443"),
		UniqueID: []byte("id"), TLS: &proxyproto.TLS{Version: "TLSv1.3"}, Checksum: true}
	var greeting bytes.Buffer
	_, err = h.WriteTo(&greeting)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	c := &wire{conn, bufio.NewReader(conn), t}
	t.Cleanup(func() { c.Conn.Close() })
	c.send(greeting.String() + "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
	require.Equal(t, "203.0.113.9:4711", c.response().body)
	require.Equal(t, []*proxyproto.Header{&h}, b.headers(t))
	require.Equal(t, "203.0.113.9", picker.client.String())
	got := wait(t, forwarded, "the request")
	require.Equal(t, "203.0.113.9", got.Get("X-Forwarded-For"))
	require.Equal(t, "https", got.Get("X-Forwarded-Proto"), "as the header says")
	require.Equal(t, "443", got.Get("X-Forwarded-Port"))
	c.send(upgrade() + "early")
	require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
	c.expect("early")
	require.Equal(t, []*proxyproto.Header{&h}, b.headers(t))
}

func TestProxy_W8_SendProxyLeavesNothing(t *testing.T) {
	kinds := make(map[string]func(testing.TB))
	var pools []*balancer.Pool
	for _, withTLS := range []bool{false, true} {
		b := newGreeted(t, withTLS)
		p := b.proxy(t, 2)
		srv := serve(t, p)
		pools = append(pools, p.Pool)
		name := fmt.Sprintf("tls=%v ", withTLS)
		kinds[name+"request"] = exchange(srv, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", http.StatusOK)
		kinds[name+"upgrade"] = func(t testing.TB) {
			c := dialOnce(t, srv)
			defer c.Close()
			c.send(upgrade() + "early")
			require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
			c.expect("early")
		}
		kinds[name+"client leaves"] = func(t testing.TB) {
			c := dialOnce(t, srv)
			c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n" + strings.Repeat("x", 4))
			c.Close()
		}
	}
	h2c := newGreeted(t, false)
	p := h2c.proxy(t, 2)
	p.Pool, _ = newPool(t, target("a", strings.Replace(h2c.URL, "http:", "h2c:", 1)))
	pools = append(pools, p.Pool)
	kinds["h2c"] = exchange(serve(t, p), "GET / HTTP/1.1\r\nHost: a\r\n\r\n", http.StatusOK)
	leavesNothing(t, 10, kinds) // each with a handshake, or two
	for _, p := range pools {
		idleMember(t, p, "a")
	}
}
