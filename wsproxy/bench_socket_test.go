package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
)

// A visit's frames, without and with the client's mask.
var (
	visitEcho  = append([]byte{0x82, 32}, strings.Repeat("x", 32)...)
	visitClose = []byte{0x88, 2, 0x03, 0xe8}

	visitMaskedEcho  = append([]byte{0x82, 0x80 | 32, 0, 0, 0, 0}, strings.Repeat("x", 32)...)
	visitMaskedClose = []byte{0x88, 0x80 | 2, 0, 0, 0, 0, 0x03, 0xe8}
)

const (
	visitAnswer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
	visitUpgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

// visited is the backend of a visit: it sends one message back, and answers the closing handshake.
func visited(conn net.Conn, r *bufio.Reader, _ *http.Request) {
	frame := make([]byte, len(visitMaskedEcho))
	for _, step := range []struct{ answer, expect []byte }{
		{[]byte(visitAnswer), visitMaskedEcho}, {visitEcho, visitMaskedClose}, {visitClose, nil},
	} {
		if _, err := conn.Write(step.answer); err != nil {
			return
		}
		if _, err := io.ReadFull(r, frame[:len(step.expect)]); err != nil {
			return
		}
	}
}

// A caller opens WebSockets, one after the other.
type caller struct {
	addr    string
	request []byte
	r       *bufio.Reader
	frame   [64]byte
}

func newCaller(t testing.TB, addr string) *caller {
	request := strings.TrimSuffix(benchRequest(t), "\r\n") + visitUpgrade
	return &caller{addr: addr, request: []byte(request), r: bufio.NewReader(nil)}
}

// visit opens a WebSocket, has one message sent back, does the closing handshake, and waits for the
// end of the connection.
func (c *caller) visit() {
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	c.r.Reset(conn)
	c.send(conn, c.request)
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		switch {
		case err != nil:
			panic(err)
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 101 ")):
			panic(string(line))
		}
		if len(line) == 2 {
			break
		}
	}
	c.send(conn, visitMaskedEcho)
	c.expect(visitEcho)
	c.send(conn, visitMaskedClose)
	c.expect(visitClose)
	if _, err := c.r.ReadByte(); err != io.EOF {
		panic(err)
	}
}

func (c *caller) send(conn net.Conn, p []byte) {
	if _, err := conn.Write(p); err != nil {
		panic(err)
	}
}

func (c *caller) expect(frame []byte) {
	got := c.frame[:len(frame)]
	if _, err := io.ReadFull(c.r, got); err != nil {
		panic(err)
	}
	if !bytes.Equal(got, frame) {
		panic(string(got))
	}
}

// BenchmarkProxyNewSocket opens a WebSocket, has one message sent back and does the closing
// handshake, each time on new connections. kind=direct is what client and backend cost without a
// proxy between. cpu-ns/op is of the whole process.
func BenchmarkProxyNewSocket(b *testing.B) {
	b.Run("kind=direct", func(b *testing.B) {
		benchVisits(b, rawBackend(b, "a", visited).URL.Host)
	})
	for _, kind := range benchKinds {
		b.Run("kind="+kind.name, func(b *testing.B) {
			tgt := rawBackend(b, "a", visited)
			var transport http.RoundTripper // the proxy's own
			if kind.name == "reverseproxy" {
				transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
			}
			h := kind.make(b, tgt, transport)
			if p, ok := h.(*wsproxy.Proxy); ok {
				b.Cleanup(func() { p.Shutdown(context.Background()) })
			}
			benchVisits(b, serve(b, h).Listener.Addr().String())
		})
	}
}

// callers is how many WebSockets there are at a time.
const callers = 8

func benchVisits(b *testing.B, addr string) {
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(callers)
	before := cputest.Used(b)
	b.RunParallel(func(pb *testing.PB) {
		c := newCaller(b, addr)
		for pb.Next() {
			c.visit()
			n.Add(1)
		}
	})
	b.ReportMetric(float64(cputest.Used(b)-before)/float64(n.Load()), "cpu-ns/op")
}

// What the benchmark compares is the same work.
func TestVisitsPassTheSame(t *testing.T) {
	for _, kind := range benchKinds {
		t.Run(kind.name, func(t *testing.T) {
			tgt := rawBackend(t, "a", visited)
			transport := &http.Transport{DisableCompression: true}
			t.Cleanup(transport.CloseIdleConnections)
			newCaller(t, serve(t, kind.make(t, tgt, transport)).Listener.Addr().String()).visit()
		})
	}
}
