package stream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// helloOf returns the ClientHello that crypto/tls sends, in one record.
func helloOf(t testing.TB, conf *tls.Config) []byte {
	t.Helper()
	var sent bytes.Buffer
	err := tls.Client(&scripted{out: &sent}, conf).Handshake()
	require.ErrorIs(t, err, io.EOF)
	return sent.Bytes()
}

// A scripted connection reads the given bytes, at most size at a time unless size is zero, and then
// the end of stream.
type scripted struct {
	net.Conn
	in     []byte
	size   int
	out    io.Writer
	closed bool
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := len(s.in)
	if s.size > 0 {
		n = min(n, s.size)
	}
	n = copy(p, s.in[:n])
	s.in = s.in[n:]
	return n, nil
}

func (s *scripted) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s *scripted) Close() error                { s.closed = true; return nil }

// records puts a handshake message into TLS records of at most size bytes.
func records(hello []byte, size int) []byte {
	var out []byte
	for chunk := range slices.Chunk(hello[5:], size) {
		out = append(out, hello[0], hello[1], hello[2], byte(len(chunk)>>8), byte(len(chunk)))
		out = append(out, chunk...)
	}
	return out
}

func TestReadHello_W9(t *testing.T) {
	hello := helloOf(t, trusting("One.Example", "h2", "http/1.1"))
	want := stream.Client{ServerName: "one.example", Protocols: []string{"h2", "http/1.1"}}
	nameless := helloOf(t, &tls.Config{InsecureSkipVerify: true})
	old := helloOf(t, &tls.Config{ServerName: "one.example", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
	tests := map[string]struct {
		in   []byte
		want stream.Client
	}{
		"one record":             {hello, want},
		"tiny records":           {records(hello, 7), want},
		"more after it":          {append(slices.Clone(hello), "early data"...), want},
		"no name":                {nameless, stream.Client{}},
		"a version of long ago":  {old, stream.Client{ServerName: "one.example"}},
		"a long list of offers":  {helloOf(t, trusting("one.example", offers(60)...)), stream.Client{ServerName: "one.example", Protocols: offers(60)}},
		"an address is no name":  {helloOf(t, trusting("192.0.2.1")), stream.Client{}},
		"a future version of it": {future(hello), want},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 1, 5, 6, 100} {
				var c stream.Client
				var out bytes.Buffer
				conn := &scripted{in: slices.Clone(tt.in), size: size, out: &out}
				read, err := stream.ReadHello(t.Context(), conn, &c)
				require.NoError(t, err)
				require.Equal(t, tt.want, c)
				require.Equal(t, tt.in, append(read, conn.in...), "a byte was lost")
				require.Empty(t, out.Bytes(), "something was written")
				require.False(t, conn.closed)
			}
		})
	}
}

func offers(n int) []string {
	var all []string
	for i := range n {
		all = append(all, strings.Repeat("p", 100+i))
	}
	return all
}

// future returns a ClientHello with a legacy_version that does not exist (RFC 8446 section 4.1.2
// forbids its use).
func future(hello []byte) []byte {
	hello = slices.Clone(hello)
	hello[9], hello[10] = 3, 9
	return hello
}

// named returns a ClientHello with that server name, valid or not.
func named(hello []byte, name string) []byte {
	const old = "one.example"
	more := len(name) - len(old)
	at := bytes.Index(hello, []byte(old))
	hello = slices.Clone(hello)
	add := func(at int) { // two octets of a length
		n := int(hello[at])<<8 | int(hello[at+1])
		hello[at], hello[at+1] = byte((n+more)>>8), byte(n+more)
	}
	add(3)      // of the record
	add(7)      // of the message, its lower octets
	add(at - 2) // of the name
	add(at - 5) // of the list
	add(at - 7) // of the extension
	session := 43 + 1 + int(hello[43])
	suites := session + 2 + int(hello[session])<<8 + int(hello[session+1])
	add(suites + 1 + int(hello[suites])) // of the extensions
	return slices.Replace(hello, at, at+len(old), []byte(name)...)
}

// Python, for example, sends the name as the program gave it.
func TestReadHello_W9_Names(t *testing.T) {
	hello := helloOf(t, trusting("one.example", "h2"))
	for name, want := range map[string]string{
		"one.example":                     "one.example",
		"two.example":                     "two.example",
		"two.example.":                    "two.example",
		"TWO.Example.":                    "two.example",
		"a.":                              "a",
		".":                               "",
		"..":                              "",
		"two.example..":                   "",
		"192.0.2.1":                       "192.0.2.1",
		"192.0.2.1.":                      "192.0.2.1",
		"xn--bcher-kva.test.":             "xn--bcher-kva.test",
		"b\u00fccher.test.":               "b\u00fccher.test",
		strings.Repeat("long-label.", 30): strings.Repeat("long-label.", 29) + "long-label",
	} {
		for _, size := range []int{0, 7, 1000} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				in := named(hello, name)
				if size > 0 {
					in = records(in, size)
				}
				in = append(in, "early data"...)
				var c stream.Client
				var out bytes.Buffer
				conn := &scripted{in: slices.Clone(in), out: &out}
				read, err := stream.ReadHello(t.Context(), conn, &c)
				require.NoError(t, err)
				require.Equal(t, stream.Client{ServerName: want, Protocols: []string{"h2"}}, c)
				require.Equal(t, in, append(read, conn.in...), "passed on as it was sent")
				require.Empty(t, out.Bytes())
			})
		}
	}
}

func TestReadHello_W9_Refused(t *testing.T) {
	hello := helloOf(t, trusting("one.example"))
	tests := map[string]struct {
		in   []byte
		want string
	}{
		"nothing":           {nil, "EOF"},
		"cut off":           {hello[:len(hello)-1], "unexpected EOF"},
		"cut off in header": {hello[:3], "unexpected EOF"},
		"HTTP":              {[]byte("GET / HTTP/1.1\r\n\r\n"), "tls: first record does not look like a TLS handshake"},
		"SSH":               {[]byte("SSH-2.0-OpenSSH_9.2\r\n"), "tls: first record does not look like a TLS handshake"},
		"SSL 2.0":           {[]byte{0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10}, "tls: unsupported SSLv2 handshake received"},
		"a Finished":        {[]byte{22, 3, 1, 0, 4, 20, 0, 0, 0}, "unexpected"},
		"a length that lies": {[]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff},
			"tls: handshake message of length 16777215 bytes exceeds maximum of 65536 bytes"},
		"empty records":       {bytes.Repeat([]byte{22, 3, 1, 0, 0}, 5000), "tls:"},
		"garbage in it":       {append(slices.Clone(hello[:40]), bytes.Repeat([]byte{0xff}, len(hello)-40)...), "tls:"},
		"more than is read":   {records(huge(hello), 1<<14), "no TLS ClientHello in 16384 bytes"},
		"one byte in each":    {records(huge(hello), 1), "no TLS ClientHello in 16384 bytes"},
		"alerts in its place": {bytes.Repeat([]byte{21, 3, 1, 0, 2, 1, 90}, 3000), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 1, 100} {
				var c stream.Client
				var out bytes.Buffer
				conn := &scripted{in: slices.Clone(tt.in), size: size, out: &out}
				_, err := stream.ReadHello(t.Context(), conn, &c)
				require.ErrorContains(t, err, tt.want)
				require.Zero(t, c)
				require.Empty(t, out.Bytes())
				require.LessOrEqual(t, len(tt.in)-len(conn.in), 16<<10, "read too much")
			}
		})
	}
}

// huge returns a ClientHello whose extensions claim to have 60,000 bytes.
func huge(hello []byte) []byte {
	const size = 60_000
	out := append([]byte{22, 3, 1, 0, 0, 1, 0, size >> 8, size & 0xff}, hello[9:]...)
	return append(out, make([]byte, size)...)
}

func FuzzReadHello(f *testing.F) {
	hello := helloOf(f, trusting("one.example", "h2"))
	f.Add(hello, uint8(0))
	f.Add(records(hello, 3), uint8(1))
	f.Add(named(hello, "one.example."), uint8(9))
	f.Add(helloOf(f, &tls.Config{InsecureSkipVerify: true}), uint8(3))
	f.Add(future(hello), uint8(100))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(2))
	f.Add(bytes.Repeat([]byte{22, 3, 1, 0, 0}, 20), uint8(5))
	f.Add([]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, uint8(0))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		type result struct {
			client stream.Client
			failed bool
		}
		parse := func(size int) result {
			var c stream.Client
			conn := &scripted{in: in, size: size, out: io.Discard}
			read, err := stream.ReadHello(context.Background(), conn, &c)
			if err == nil && !bytes.Equal(in, append(read, conn.in...)) {
				t.Fatalf("bytes were lost: %x of %x", read, in)
			}
			if used := len(in) - len(conn.in); used > 16<<10 {
				t.Fatalf("%d bytes were read", used)
			}
			if err != nil && (c.ServerName != "" || c.Protocols != nil) {
				t.Fatalf("%+v in spite of %v", c, err)
			}
			return result{c, err != nil}
		}
		// However it is cut, it says the same.
		whole, pieces := parse(0), parse(max(1, int(size)))
		require.Equal(t, whole, pieces)
	})
}

// byName returns a Route that chooses a target by the server name.
func byName(t *testing.T, names ...string) (func(stream.Client) *balancer.Pool, []*backend) {
	t.Helper()
	pools := make(map[string]*balancer.Pool)
	var backends []*backend
	for _, name := range names {
		b := newBackend(t, name, serverTLS("two", "one"), func(c net.Conn) { greeting(name)(c) })
		pools[name] = newPool(t, balancer.Config{}, b.target())
		backends = append(backends, b)
	}
	return func(c stream.Client) *balancer.Pool { return pools[c.ServerName] }, backends
}

func TestServer_W9_RouteByServerName(t *testing.T) {
	route, _ := byName(t, "one.example", "two.example")
	for name, s := range map[string]*stream.Server{
		"passed on":    {Route: route, ReadHello: true},
		"re-encrypted": {Route: route, TLS: serverTLS("one"), BackendTLS: trusting("")},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, s)
			for _, name := range []string{"one.example", "two.example"} {
				c := r.dialTLS(t, name, "one")
				expect(t, c, name)
				chat(t, c)
				require.Equal(t, "one", c.ConnectionState().NegotiatedProtocol)
				closeWrite(t, c) // a Close might leave a session ticket unread, and so be a reset
				expectEnd(t, c)
				require.NoError(t, c.Close())
				rec := r.ended(t)
				require.Equal(t, name, rec.ServerName)
				require.Equal(t, name, rec.Target)
				require.NoError(t, rec.Err)
			}
			c := tls.Client(r.dial(t), &tls.Config{ServerName: "three.example", InsecureSkipVerify: true})
			if c.Handshake() == nil {
				expectEnd(t, c)
			}
			rec := r.ended(t)
			failure, ok := errors.AsType[*stream.Error](rec.Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassNoTarget, failure.Class)
			require.Equal(t, "three.example", rec.ServerName)
			require.Zero(t, rec.Attempts)
		})
	}
}

// The backend is offered the protocol that was negotiated with the client.
func TestServer_W9_ProtocolToBackend(t *testing.T) {
	got := make(chan string, 1)
	b := newBackend(t, "a", serverTLS("two", "one"), func(c net.Conn) {
		if err := c.(*tls.Conn).Handshake(); err == nil {
			got <- c.(*tls.Conn).ConnectionState().NegotiatedProtocol
		}
		c.Close()
	})
	for want, conf := range map[string]*tls.Config{"one": trusting(""), "two": trusting("", "two")} {
		seen := make(chan stream.Client, 1)
		r := serve(t, &stream.Server{
			Pool: newPool(t, balancer.Config{}, b.target()), TLS: serverTLS("one"), BackendTLS: conf,
			Key: func(c stream.Client) string { seen <- c; return "" },
		})
		c := r.dialTLS(t, "one.example", "one", "two")
		require.Equal(t, want, wait(t, got, "a handshake"))
		expectEnd(t, c)
		require.Equal(t, stream.Client{
			Addr: netip.MustParseAddr("127.0.0.1"), ServerName: "one.example", Protocols: []string{"one"},
		}, <-seen)
	}
}

func TestServer_W9_KeyByServerName(t *testing.T) {
	var targets []balancer.Target
	for id := range strings.SplitSeq("abcdefgh", "") {
		targets = append(targets, newBackend(t, id, serverTLS(), greeting(id)).target())
	}
	r := serve(t, &stream.Server{
		Pool: newPool(t, balancer.Config{Picker: &balancer.Rendezvous{}}, targets...), ReadHello: true,
		Key: func(c stream.Client) string { return c.ServerName },
	})
	first := make(map[string]string)
	for i := range 60 {
		name := string(rune('a'+i%12)) + ".example"
		c := tls.Client(r.dialFrom(t, netip.AddrFrom4([4]byte{127, 0, 2, byte(i + 1)}).String()),
			&tls.Config{ServerName: name, InsecureSkipVerify: true})
		id := make([]byte, 1)
		_, err := io.ReadFull(c, id)
		require.NoError(t, err)
		if first[name] == "" {
			first[name] = string(id)
		}
		require.Equal(t, first[name], string(id), name)
	}
	met := make(map[string]bool)
	for _, id := range first {
		met[id] = true
	}
	require.Greater(t, len(met), 2, "all names came to the same targets")
}

// A client that is slow to send its ClientHello takes nothing of a target, and is closed after 5 s.
func TestServer_W9_SlowHello(t *testing.T) {
	for name, s := range map[string]*stream.Server{
		"passed on":  {ReadHello: true},
		"terminated": {TLS: serverTLS()},
	} {
		t.Run(name, func(t *testing.T) {
			hello := helloOf(t, trusting("one.example"))
			synctest.Test(t, func(t *testing.T) {
				s := &stream.Server{ReadHello: s.ReadHello, TLS: s.TLS}
				b := newBubble(t, s)
				began := time.Now()
				c := b.dial()
				var writing sync.WaitGroup
				writing.Go(func() {
					for i := range hello { // one byte a second
						time.Sleep(time.Second)
						if _, err := c.Write(hello[i : i+1]); err != nil {
							return
						}
					}
				})
				defer writing.Wait()
				rec := <-b.records
				require.Equal(t, 5*time.Second, time.Since(began))
				failure, ok := errors.AsType[*stream.Error](rec.Err)
				require.True(t, ok)
				require.Equal(t, stream.ClassHandshake, failure.Class)
				require.ErrorContains(t, failure, "in time")
				require.Zero(t, rec.Attempts)
				require.Empty(t, b.far)
				expectEnd(t, c)
			})
		})
	}
}

// The limit for the ClientHello does not apply after it.
func TestServer_W9_HelloLimitEnds(t *testing.T) {
	hello := helloOf(t, trusting("one.example"))
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &stream.Server{ReadHello: true})
		c := b.dial()
		go c.Write(hello)
		far := <-b.far
		got := make([]byte, len(hello))
		_, err := io.ReadFull(far, got)
		require.NoError(t, err)
		require.Equal(t, hello, got)
		time.Sleep(time.Hour)
		go io.WriteString(c, "later")
		expect(t, far, "later")
		c.Close()
		far.Close()
		<-b.records
	})
}

func TestServer_W9_NoTLSInTLS(t *testing.T) {
	for name, s := range map[string]*stream.Server{
		"passed on":  {ReadHello: true},
		"terminated": {TLS: serverTLS()},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "a", nil, nil)
			s.Pool = newPool(t, balancer.Config{}, b.target())
			r := serve(t, s)
			c := r.dial(t)
			send(t, c, strings.Repeat("no TLS at all ", 100))
			_, err := io.Copy(io.Discard, c)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			failure, ok := errors.AsType[*stream.Error](r.ended(t).Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassHandshake, failure.Class)
			require.Empty(t, b.conns, "the backend was asked")
		})
	}
}
