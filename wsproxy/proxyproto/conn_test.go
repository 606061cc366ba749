package proxyproto_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A pipe is an in-memory connection whose peer has the address of a proxy.
type pipe struct {
	net.Conn
	remote net.Addr
	closed sync.Once
	done   chan struct{}
}

func (p *pipe) RemoteAddr() net.Addr { return p.remote }
func (p *pipe) LocalAddr() net.Addr  { return tcp("10.0.0.9:80") }
func (p *pipe) CloseWrite() error    { return errors.New("half closed") }
func (p *pipe) Close() error {
	p.closed.Do(func() { close(p.done) })
	return p.Conn.Close()
}

// one is a net.Listener that accepts one connection.
type one chan net.Conn

func (o one) Accept() (net.Conn, error) { return <-o, nil }
func (o one) Close() error              { return nil }
func (o one) Addr() net.Addr            { return tcp("10.0.0.9:80") }

// refusals records the connections that a listener refuses.
type refusals struct {
	peers []net.Addr
	errs  []error
}

// accepted returns both ends of a connection from that address. It is accepted by a listener that
// trusts 10/8 and fe80/10 and has a long timeout.
func accepted(t *testing.T, remote net.Addr, change func(*proxyproto.Listener)) (*proxyproto.Conn, net.Conn, *pipe, *refusals) {
	t.Helper()
	peer, conn := net.Pipe()
	raw := &pipe{Conn: conn, remote: remote, done: make(chan struct{})}
	t.Cleanup(func() { peer.Close(); conn.Close() })
	from := make(one, 1)
	from <- raw
	var no refusals
	l := &proxyproto.Listener{
		Listener: from,
		Trusted:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")},
		Timeout:  patience,
		Refused: func(peer net.Addr, err error) {
			no.peers, no.errs = append(no.peers, peer), append(no.errs, err)
		},
	}
	if change != nil {
		change(l)
	}
	c, err := l.Accept()
	require.NoError(t, err)
	return c.(*proxyproto.Conn), peer, raw, &no
}

var proxy = tcp("10.0.0.1:1234")

func TestConn_W8_Addresses(t *testing.T) {
	mapped := &net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1"), Port: 1}
	tests := map[string]struct {
		remote         net.Addr
		header         string
		source, target string
	}{
		"v1":               {proxy, "v1", "192.168.0.1:56324", "192.168.0.11:443"},
		"v1 IPv6":          {proxy, "v1 TCP6", "[2001:db8::1]:0", "[2001:db8::2]:65535"},
		"v2":               {proxy, "v2 CRC32C, TLS and a certificate", "192.168.0.1:56324", "192.168.0.11:443"},
		"v2 Unix":          {proxy, "v2 Unix", "/run/a", "@"},
		"mapped peer":      {mapped, "v2 TCP4", "192.168.0.1:56324", "192.168.0.11:443"},
		"peer with a zone": {&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, "v1", "192.168.0.1:56324", "192.168.0.11:443"},
		"LOCAL":            {proxy, "v2 LOCAL", "10.0.0.1:1234", "10.0.0.9:80"},
		"unknown":          {proxy, "v1 unknown", "10.0.0.1:1234", "10.0.0.9:80"},
		"UNSPEC":           {proxy, "v2 UNSPEC with fields", "10.0.0.1:1234", "10.0.0.9:80"},
	}
	for name, tt := range tests {
		for _, first := range []string{"RemoteAddr", "LocalAddr", "Read", "Header"} {
			t.Run(name+", "+first, func(t *testing.T) {
				c, peer, raw, no := accepted(t, tt.remote, nil)
				_, ok := c.Unwrap()
				require.False(t, ok, "before the header")
				go peer.Write(append(bytes.Clone(worked[tt.header].bytes), "PROXY data"...))
				switch first {
				case "RemoteAddr":
					require.Equal(t, tt.source, c.RemoteAddr().String())
				case "LocalAddr":
					require.Equal(t, tt.target, c.LocalAddr().String())
				case "Read":
					got := make([]byte, 5)
					_, err := io.ReadFull(c, got)
					require.NoError(t, err)
					require.Equal(t, "PROXY", string(got))
					_, ok := c.Unwrap()
					require.False(t, ok, "with some of it left")
					_, err = io.ReadFull(c, got)
					require.NoError(t, err)
					require.Equal(t, " data", string(got))
					below, ok := c.Unwrap()
					require.True(t, ok)
					require.Equal(t, raw, below)
				case "Header":
					h, err := c.Header()
					require.NoError(t, err)
					require.Equal(t, worked[tt.header].header, *h)
				}
				require.Equal(t, tt.source, c.RemoteAddr().String())
				require.Equal(t, tt.target, c.LocalAddr().String())
				require.Empty(t, no.errs)
			})
		}
	}
}

func TestConn_W8_HeadersOfOthersAreData(t *testing.T) {
	for name, remote := range map[string]net.Addr{
		"untrusted":   tcp("192.0.2.1:1"),
		"IPv6":        tcp("[2001:db8::1]:1"),
		"Unix socket": &net.UnixAddr{Net: "unix", Name: "10.0.0.1:80"},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer, raw, no := accepted(t, remote, nil)
			require.Equal(t, remote, c.RemoteAddr(), "without a byte")
			require.Equal(t, raw.LocalAddr(), c.LocalAddr())
			h, err := c.Header()
			require.NoError(t, err)
			require.Nil(t, h)
			below, ok := c.Unwrap()
			require.True(t, ok)
			require.Equal(t, raw, below)
			forged := worked["v1"].bytes
			go peer.Write(forged)
			got := make([]byte, len(forged))
			_, err = io.ReadFull(c, got)
			require.NoError(t, err)
			require.Equal(t, forged, got)
			require.Equal(t, remote, c.RemoteAddr())
			require.Empty(t, no.errs)
		})
	}
	c, _, _, _ := accepted(t, proxy, func(l *proxyproto.Listener) { l.Trusted = nil })
	require.Equal(t, proxy, c.RemoteAddr(), "nobody is trusted by default")
}

func TestConn_W8_ByteByByte(t *testing.T) {
	for name, tt := range worked {
		t.Run(name, func(t *testing.T) {
			c, peer, _, _ := accepted(t, proxy, nil)
			go func() {
				for _, b := range append(bytes.Clone(tt.bytes), "data"...) {
					peer.Write([]byte{b})
				}
				peer.Close()
			}()
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "data", string(got))
			h, err := c.Header()
			require.NoError(t, err)
			require.Equal(t, &tt.header, h)
		})
	}
}

// Every refused header closes the connection, is reported once, and makes all calls fail that can
// fail.
func TestConn_W8_Refused(t *testing.T) {
	for name, tt := range refused {
		t.Run(name, func(t *testing.T) {
			c, peer, raw, no := accepted(t, proxy, nil)
			go peer.Write(append(bytes.Clone(tt.bytes), "GET / HTTP/1.1\r\n\r\n"...))
			require.Equal(t, proxy, c.RemoteAddr())
			<-raw.done
			requireRefused(t, c, tt.err)
			require.Len(t, no.errs, 1)
			require.ErrorIs(t, no.errs[0], tt.err)
			require.Equal(t, []net.Addr{proxy}, no.peers)
		})
	}
}

func requireRefused(t *testing.T, c *proxyproto.Conn, want error) {
	t.Helper()
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, want)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, want)
	_, err = c.ReadFrom(strings.NewReader("x"))
	require.ErrorIs(t, err, want)
	_, err = c.WriteTo(io.Discard)
	require.ErrorIs(t, err, want)
	_, err = c.Header()
	require.ErrorIs(t, err, want)
	require.ErrorIs(t, c.CloseWrite(), want)
	_, ok := c.Unwrap()
	require.False(t, ok)
}

func TestConn_W8_TruncatedHeader(t *testing.T) {
	for _, name := range []string{"v1", "v2 CRC32C, TLS and a certificate"} {
		whole := worked[name].bytes
		for n := range whole {
			c, peer, raw, no := accepted(t, proxy, nil)
			go func() {
				peer.Write(whole[:n])
				peer.Close()
			}()
			_, err := c.Write([]byte("answer"))
			require.ErrorIs(t, err, proxyproto.ErrTruncated)
			require.ErrorIs(t, err, io.EOF)
			<-raw.done
			requireRefused(t, c, proxyproto.ErrTruncated)
			require.Len(t, no.errs, 1)
		}
	}
}

func TestConn_W8_Timeout(t *testing.T) {
	tests := map[string]struct {
		timeout time.Duration
		set     func(c net.Conn, at func(time.Duration) time.Time) // before the wait
		during  func(c net.Conn, at func(time.Duration) time.Time) // a second into it
		want    time.Duration                                      // zero: the header is read after an hour
	}{
		"default":  {want: 3 * time.Second},
		"longer":   {timeout: time.Minute, want: time.Minute},
		"for ever": {timeout: -1},
		"earlier to read": {set: func(c net.Conn, at func(time.Duration) time.Time) { c.SetReadDeadline(at(2 * time.Second)) },
			want: 2 * time.Second},
		"earlier to write": {set: func(c net.Conn, at func(time.Duration) time.Time) { c.SetWriteDeadline(at(2 * time.Second)) },
			want: 2 * time.Second},
		"later": {set: func(c net.Conn, at func(time.Duration) time.Time) { c.SetDeadline(at(time.Hour)) }, want: 3 * time.Second},
		"instead of for ever": {timeout: -1, set: func(c net.Conn, at func(time.Duration) time.Time) { c.SetDeadline(at(time.Minute)) },
			want: time.Minute},
		"earlier while it waits": {during: func(c net.Conn, at func(time.Duration) time.Time) { c.SetReadDeadline(at(2 * time.Second)) },
			want: 2 * time.Second},
		"earlier to write while it waits": {during: func(c net.Conn, at func(time.Duration) time.Time) { c.SetDeadline(at(2 * time.Second)) },
			want: 2 * time.Second},
		"later while it waits": {during: func(c net.Conn, at func(time.Duration) time.Time) { c.SetReadDeadline(at(time.Hour)) },
			want: 3 * time.Second},
		"given up while it waits": {
			set:    func(c net.Conn, at func(time.Duration) time.Time) { c.SetDeadline(at(2 * time.Second)) },
			during: func(c net.Conn, at func(time.Duration) time.Time) { c.SetDeadline(time.Time{}) },
			want:   3 * time.Second,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer, raw, no := accepted(t, proxy, func(l *proxyproto.Listener) { l.Timeout = tt.timeout })
				time.Sleep(time.Hour) // as long as nobody asks
				start := time.Now()
				at := func(d time.Duration) time.Time { return start.Add(d) }
				if tt.set != nil {
					tt.set(c, at)
				}
				var sender sync.WaitGroup
				defer sender.Wait()
				sender.Go(func() {
					peer.Write([]byte("PROXY"))
					time.Sleep(time.Second)
					if tt.during != nil {
						tt.during(c, at)
					}
					time.Sleep(time.Hour - 2*time.Second)
					peer.Write([]byte(" UNKNOWN\r\n"))
				})
				_, err := c.Header()
				if tt.want == 0 {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.Equal(t, tt.want, time.Since(start))
				<-raw.done
				c.SetDeadline(time.Time{})
				requireRefused(t, c, proxyproto.ErrTruncated)
				require.Len(t, no.errs, 1)
			})
		})
	}
}

func TestConn_W8_DeadlinesAfterTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, _, _ := accepted(t, proxy, nil)
		start := time.Now()
		require.NoError(t, c.SetReadDeadline(start.Add(time.Minute)))
		go peer.Write(append(bytes.Clone(worked["v1"].bytes), "rest"...))
		one := make([]byte, 1)
		_, err := c.Read(one)
		require.NoError(t, err)
		require.Equal(t, "r", string(one))
		time.Sleep(time.Minute)
		_, err = c.Read(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "what is left is not read late either")
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		three := make([]byte, 3)
		_, err = io.ReadFull(c, three)
		require.NoError(t, err)
		require.Equal(t, "est", string(three))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
		start = time.Now()
		_, err = c.Read(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Hour, time.Since(start), "the listener's timeout is over")
	})
}

func TestConn_W8_CloseEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _, no := accepted(t, proxy, func(l *proxyproto.Listener) { l.Timeout = -1 })
		var waits sync.WaitGroup
		for range 3 {
			waits.Go(func() { c.Read(make([]byte, 1)) })
		}
		require.NoError(t, c.Close())
		waits.Wait()
		requireRefused(t, c, proxyproto.ErrTruncated)
		require.Len(t, no.errs, 1)
	})
}

func TestConn_W8_CopiesWhatCameWithTheHeaderFirst(t *testing.T) {
	c, peer, _, _ := accepted(t, proxy, nil)
	go func() {
		peer.Write(append(bytes.Clone(worked["v1"].bytes), "rest and "...))
		peer.Write([]byte("more"))
		peer.Close()
	}()
	var got strings.Builder
	n, err := c.WriteTo(&got)
	require.NoError(t, err)
	require.Equal(t, "rest and more", got.String())
	require.EqualValues(t, 13, n)
	_, ok := c.Unwrap()
	require.True(t, ok)
}

func TestConn_W8_WritesWaitForTheHeader(t *testing.T) {
	c, peer, _, _ := accepted(t, proxy, nil)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("hello "))
		if err == nil {
			_, err = c.ReadFrom(strings.NewReader("world"))
		}
		written <- err
	}()
	peer.Write(worked["v1"].bytes)
	got := make([]byte, 11)
	_, err := io.ReadFull(peer, got)
	require.NoError(t, err)
	require.NoError(t, <-written)
	require.Equal(t, "hello world", string(got))
	require.EqualError(t, c.CloseWrite(), "half closed")
}

// Two proxies in a row each send a header: each listener trusts the peer that its header comes
// from.
func TestConn_W8_TwoHeaders(t *testing.T) {
	peer, conn := net.Pipe()
	t.Cleanup(func() { peer.Close(); conn.Close() })
	raw := &pipe{Conn: conn, remote: proxy, done: make(chan struct{})}
	from := make(one, 1)
	from <- raw
	l := &proxyproto.Listener{
		Listener: &proxyproto.Listener{Listener: from, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, Timeout: patience},
		Trusted:  []netip.Prefix{netip.MustParsePrefix("192.168.0.1/32")},
		Timeout:  patience,
	}
	accepted, err := l.Accept() // without a byte
	require.NoError(t, err)
	c := accepted.(*proxyproto.Conn)
	go peer.Write(append(bytes.Clone(worked["v2 TCP4"].bytes), worked["v2 TCP6"].bytes...))
	require.Equal(t, "[2001:db8::1]:56324", c.RemoteAddr().String())
	below, ok := c.Unwrap()
	require.True(t, ok)
	require.Equal(t, raw, below)
}

func TestListener_W8_Logs(t *testing.T) {
	tests := map[string]struct{ sent, want string }{
		"closed without a byte": {"", "DEBUG"},
		"closed within":         {"PROXY", "WARN"},
		"malformed":             {"GET /", "WARN"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			c, peer, _, _ := accepted(t, proxy, func(l *proxyproto.Listener) {
				l.Refused = nil
				l.Logger = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			go func() {
				peer.Write([]byte(tt.sent))
				peer.Close()
			}()
			c.Header()
			require.Contains(t, said.String(), "level="+tt.want)
			require.Contains(t, said.String(), "peer=10.0.0.1:1234")
		})
	}
}

// All callers get the same answer, whoever asks first.
func TestConn_W8_AskedByManyAtOnce(t *testing.T) {
	for range 50 {
		c, peer, _, no := accepted(t, proxy, nil)
		start := make(chan struct{})
		var asking sync.WaitGroup
		ask := func(f func()) {
			asking.Go(func() {
				<-start
				f()
			})
		}
		var source, target net.Addr
		var header *proxyproto.Header
		got := make([]byte, 4)
		ask(func() { peer.Write(append(bytes.Clone(worked["v1"].bytes), "data"...)) })
		ask(func() { source = c.RemoteAddr() })
		ask(func() { target = c.LocalAddr() })
		ask(func() { header, _ = c.Header() })
		ask(func() { io.ReadFull(c, got) })
		ask(func() { c.SetDeadline(time.Now().Add(patience)) })
		ask(func() { c.SetReadDeadline(time.Time{}) })
		ask(func() { c.Unwrap() })
		close(start)
		asking.Wait()
		require.Equal(t, "192.168.0.1:56324", source.String())
		require.Equal(t, "192.168.0.11:443", target.String())
		require.Equal(t, worked["v1"].header, *header)
		require.Equal(t, "data", string(got))
		_, ok := c.Unwrap()
		require.True(t, ok)
		require.Empty(t, no.errs)
	}
}

func TestContains(t *testing.T) {
	for _, tt := range []struct {
		prefix, addr string
		want         bool
	}{
		{"127.0.0.0/8", "127.0.0.1", true},
		{"127.0.0.0/8", "::ffff:127.0.0.1", true},
		{"::ffff:127.0.0.0/104", "127.0.0.1", true},
		{"::ffff:127.0.0.0/104", "::ffff:127.0.0.1", true},
		{"::ffff:127.0.0.0/104", "128.0.0.1", false},
		{"::ffff:0.0.0.0/96", "203.0.113.9", true},
		{"::ffff:10.0.0.1/128", "10.0.0.2", false},
		{"::/0", "127.0.0.1", false},
		{"0.0.0.0/0", "::1", false},
		{"fe80::/10", "fe80::1%eth0", true},
	} {
		got := proxyproto.Contains([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix(tt.prefix)}, netip.MustParseAddr(tt.addr))
		require.Equal(t, tt.want, got, "%s in %s", tt.addr, tt.prefix)
	}
	require.False(t, proxyproto.Contains([]netip.Prefix{{}}, netip.Addr{}))
	require.False(t, proxyproto.Contains(nil, netip.MustParseAddr("::1")))
}
