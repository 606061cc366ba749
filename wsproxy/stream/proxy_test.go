package stream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// trusted returns a listener that reads PROXY headers from all peers and has a long timeout.
func trusted(l net.Listener) *proxyproto.Listener {
	return &proxyproto.Listener{
		Listener: l, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: patience, Logger: noLog,
	}
}

// told is a backend that reads a PROXY header, does a handshake if it has a TLS configuration, and
// then echoes.
func told(t *testing.T, conf *tls.Config) (balancer.Target, <-chan *proxyproto.Header) {
	t.Helper()
	l, headers := trusted(listen(t)), make(chan *proxyproto.Header, 10)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if h, err := c.(*proxyproto.Conn).Header(); err == nil {
					headers <- h
				}
				if conf != nil {
					c = tls.Server(c, conf)
				}
				echoing(c)
			}()
		}
	}()
	return target("a", l.Addr().String()), headers
}

// Of two pools behind one server, only the targets of one get a header: those of the other could
// not read it. A retry goes by the target that it comes to.
func TestServer_W8_SendProxyTo(t *testing.T) {
	knows, headers := told(t, serverTLS("one"))
	knows.Labels = map[string]string{"proxy": "yes"}
	plain := newBackend(t, "plain", serverTLS("one"), echoing).target()
	gone := dead(t, "gone")
	gone.Labels = knows.Labels
	pools := map[string]*balancer.Pool{"one.example": first(t, knows), "two.example": first(t, gone, plain)}
	r := serve(t, &stream.Server{
		ReadHello: true, SendProxy: 2,
		Route:       func(c stream.Client) *balancer.Pool { return pools[c.ServerName] },
		SendProxyTo: func(m *balancer.Member) bool { return m.Label("proxy") == "yes" },
	})
	for name, attempts := range map[string]int{"one.example": 1, "two.example": 2} {
		c := r.dialTLS(t, name, "one")
		chat(t, c)
		closeWrite(t, c)
		expectEnd(t, c)
		c.Close()
		require.Equal(t, attempts, r.ended(t).Attempts)
	}
	require.Equal(t, "one.example", wait(t, headers, "a header").Authority)
	require.Empty(t, headers)
}

func TestServer_W8_SendProxy(t *testing.T) {
	tests := map[string]struct {
		server  *stream.Server
		far     *tls.Config // of the backend
		version int
		check   func(t *testing.T, h *proxyproto.Header)
	}{
		"v1": {server: &stream.Server{SendProxy: 1}, version: 1},
		"v2": {server: &stream.Server{SendProxy: 2}, version: 2},
		"v2 with a hook": {
			server: &stream.Server{SendProxy: 2, ProxyHeader: func(h *proxyproto.Header, c stream.Client) {
				h.Checksum, h.UniqueID = true, []byte(c.Addr.String())
			}},
			version: 2,
			check: func(t *testing.T, h *proxyproto.Header) {
				require.True(t, h.Checksum)
				require.Equal(t, "127.0.3.1", string(h.UniqueID))
			},
		},
		"v2 before TLS": {
			server:  &stream.Server{SendProxy: 2, BackendTLS: trusting("")},
			far:     serverTLS(),
			version: 2,
			check:   func(t *testing.T, h *proxyproto.Header) { require.Nil(t, h.TLS, "the client has none") },
		},
		"v2, TLS terminated": {
			server:  &stream.Server{SendProxy: 2, TLS: serverTLS("one")},
			version: 2,
			check: func(t *testing.T, h *proxyproto.Header) {
				require.Equal(t, "one.example", h.Authority)
				require.Equal(t, "one", h.ALPN)
				require.NotNil(t, h.TLS)
				require.Equal(t, "TLSv1.3", h.TLS.Version)
			},
		},
		"v2, TLS passed on": {
			server:  &stream.Server{SendProxy: 2, ReadHello: true},
			far:     serverTLS("one"),
			version: 2,
			check: func(t *testing.T, h *proxyproto.Header) {
				require.Equal(t, "one.example", h.Authority)
				require.Nil(t, h.TLS, "it is the backend's to see")
				require.Empty(t, h.ALPN)
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			to, headers := told(t, tt.far)
			s := tt.server
			s.Pool = first(t, to)
			r := serve(t, s)
			c := r.dialFrom(t, "127.0.3.1")
			local, remote := c.LocalAddr(), c.RemoteAddr()
			if s.TLS != nil || s.ReadHello {
				c = shake(t, c, "one.example", "one")
			}
			chat(t, c)
			h := wait(t, headers, "a header")
			require.Equal(t, tt.version, h.Version)
			require.Equal(t, local.String(), h.Source.String())
			require.Equal(t, remote.String(), h.Destination.String())
			if tt.check != nil {
				tt.check(t, h)
			}
		})
	}
}

// The address and the other fields pass two servers in a row, whatever TLS is between them.
func TestServer_W8_Chain(t *testing.T) {
	to, headers := told(t, nil)
	seen := make(chan stream.Client, 1)
	inner := serveOn(t, &stream.Server{
		Pool: first(t, to), TLS: serverTLS(), SendProxy: 2,
		Key: func(c stream.Client) string { seen <- c; return "" },
	}, trusted(listen(t)))
	outer := serve(t, &stream.Server{
		Pool: first(t, target("inner", inner.addr)), TLS: serverTLS("one"), BackendTLS: trusting("two.example"), SendProxy: 2,
		ProxyHeader: func(h *proxyproto.Header, _ stream.Client) { h.UniqueID = []byte("42") },
	})
	c := outer.dialFrom(t, "127.0.3.2")
	from := c.LocalAddr().String()
	c = shake(t, c, "one.example", "one")
	chat(t, c)
	client := wait(t, seen, "a client")
	require.Equal(t, netip.MustParseAddr("127.0.3.2"), client.Addr)
	require.Equal(t, "two.example", client.ServerName, "TLS that was seen rules")
	require.Equal(t, "one.example", client.Proxy.Authority)
	h := wait(t, headers, "a header")
	require.Equal(t, from, h.Source.String())
	require.Equal(t, "42", string(h.UniqueID))
	require.NoError(t, c.Close())
	require.Equal(t, netip.MustParseAddr("127.0.3.2"), inner.ended(t).Client)
}

// The TLS fields of a header count if the server sees no TLS itself.
func TestServer_W8_HeaderTells(t *testing.T) {
	b := newBackend(t, "a", nil, echoing)
	seen := make(chan stream.Client, 1)
	r := serveOn(t, &stream.Server{
		Pool: first(t, b.target()), Key: func(c stream.Client) string { seen <- c; return "" },
	}, trusted(listen(t)))
	header := func(h proxyproto.Header) string {
		text, err := h.AppendBinary(nil)
		require.NoError(t, err)
		return string(text)
	}
	source := &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1}
	tests := map[string]struct {
		header string
		want   stream.Client // Proxy aside
		proxy  bool
	}{
		"v1": {"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", stream.Client{Addr: netip.MustParseAddr("192.0.2.1")}, true},
		"v2": {header(proxyproto.Header{Source: source, Destination: source, Authority: "One.Example", ALPN: "h2"}),
			stream.Client{Addr: netip.MustParseAddr("2001:db8::1"), ServerName: "one.example", Protocols: []string{"h2"}}, true},
		"unknown": {"PROXY UNKNOWN\r\n", stream.Client{Addr: netip.MustParseAddr("127.0.0.1")}, true},
		"local":   {header(proxyproto.Header{Local: true}), stream.Client{Addr: netip.MustParseAddr("127.0.0.1")}, false},
	}
	for name, tt := range tests {
		for _, early := range []string{"", "early", strings.Repeat("much", 2000)} {
			t.Run(name, func(t *testing.T) {
				c := r.dial(t)
				send(t, c, tt.header+early)
				expect(t, c, early)
				chat(t, c)
				got := wait(t, seen, "a client")
				require.Equal(t, tt.proxy, got.Proxy != nil)
				got.Proxy = nil
				require.Equal(t, tt.want, got)
				require.NoError(t, c.Close())
				require.Equal(t, tt.want.Addr, r.ended(t).Client)
			})
		}
	}
}

// Without a header a connection gets no target.
func TestServer_W8_Refused(t *testing.T) {
	b := newBackend(t, "a", nil, nil)
	for name, s := range map[string]*stream.Server{
		"plain": {}, "passed on": {ReadHello: true}, "terminated": {TLS: serverTLS()},
	} {
		t.Run(name, func(t *testing.T) {
			s.Pool = first(t, b.target())
			r := serveOn(t, s, trusted(listen(t)))
			c := r.dial(t)
			send(t, c, "no header at all")
			expectEnd(t, c)
			failure, ok := errors.AsType[*stream.Error](r.ended(t).Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassProxyHeader, failure.Class)
			require.ErrorIs(t, failure, proxyproto.ErrNoHeader)
			c = r.dial(t)
			closeWrite(t, c)
			failure, ok = errors.AsType[*stream.Error](r.ended(t).Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassClientGone, failure.Class)
			require.Empty(t, b.conns, "a target was asked")
		})
	}
}

// Close does not wait for a header.
func TestServer_W8_CloseWhileTheHeaderIsAwaited(t *testing.T) {
	calls := &acceptCalls{Listener: listen(t), calls: make(chan struct{}, 10)}
	l := trusted(calls)
	l.Timeout = -1
	r := serveOn(t, &stream.Server{Pool: newPool(t, balancer.Config{})}, l)
	c := r.dial(t)
	send(t, c, "PROXY ")
	for range 2 { // the second comes when the connection is under way
		wait(t, calls.calls, "a call of Accept")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.Shutdown(ctx), context.DeadlineExceeded)
	failure, ok := errors.AsType[*stream.Error](r.ended(t).Err)
	require.True(t, ok)
	require.Equal(t, stream.ClassShutdown, failure.Class)
	expectEnd(t, c)
}

// acceptCalls reports the beginning of each call of Accept.
type acceptCalls struct {
	net.Listener
	calls chan struct{}
}

func (a *acceptCalls) Accept() (net.Conn, error) {
	a.calls <- struct{}{}
	return a.Listener.Accept()
}

// Clients choose the server name, which may be too long for a header.
func TestServer_W8_LongServerName(t *testing.T) {
	to, headers := told(t, nil)
	r := serve(t, &stream.Server{Pool: first(t, to), ReadHello: true, SendProxy: 2})
	hello := helloOf(t, &tls.Config{ServerName: strings.Repeat("x.", 5000) + "example", InsecureSkipVerify: true})
	c := r.dial(t)
	send(t, c, string(hello))
	expect(t, c, string(hello))
	require.Empty(t, wait(t, headers, "a header").Authority)
}

// A target that does not take the header has failed.
func TestServer_W8_HeaderNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := first(t, target("a", "192.0.2.1:1"), target("b", "192.0.2.2:1"))
		b := newBubble(t, &stream.Server{Pool: pool, SendProxy: 1})
		o := observe(t, pool)
		began := time.Now()
		c := b.dial()
		stuck, far := <-b.far, <-b.far // nobody reads from the first
		require.Equal(t, 3*time.Second, time.Since(began))
		go io.Copy(io.Discard, far)
		id, class := o.class(t)
		require.Equal(t, "a", id)
		require.Equal(t, balancer.ConnectFailed, class)
		expectEnd(t, stuck)
		c.Close()
		far.Close()
		<-b.records
	})
}

func TestServer_PanicsWithUnknownVersion(t *testing.T) {
	for _, version := range []int{-1, 3} {
		require.PanicsWithValue(t, "stream: SendProxy is no version of the PROXY protocol", func() {
			(&stream.Server{Pool: newPool(t, balancer.Config{}), SendProxy: version}).Serve(nil)
		})
	}
}
