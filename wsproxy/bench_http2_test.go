package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
)

// BenchmarkProxyHTTP2 is BenchmarkProxy with a client of HTTP/2 over TLS, which keeps one or more
// streams of its only connection busy. kind=handler is a handler that answers by itself: what the
// server costs without a proxy.
func BenchmarkProxyHTTP2(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("kind=handler/streams=%d", streams), func(b *testing.B) {
			benchHTTP2(b, http.HandlerFunc(benchHandler), streams)
		})
		for _, kind := range benchKinds {
			b.Run(fmt.Sprintf("kind=%s/streams=%d", kind.name, streams), func(b *testing.B) {
				transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
				b.Cleanup(transport.CloseIdleConnections)
				benchHTTP2(b, kind.make(b, rawBackend(b, "a", benchBackend), transport), streams)
			})
			if kind.name == "reverseproxy" {
				continue
			}
			b.Run(fmt.Sprintf("kind=%s-own/streams=%d", kind.name, streams), func(b *testing.B) { // transport
				p := kind.make(b, rawBackend(b, "a", benchBackend), nil).(*wsproxy.Proxy)
				b.Cleanup(func() { p.Shutdown(context.Background()) })
				benchHTTP2(b, p, streams)
			})
		}
	}
}

// benchHandler answers as the backend of the benchmarks does.
func benchHandler(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h["Content-Type"], h["Content-Length"] = []string{"text/plain; charset=utf-8"}, []string{"100"}
	h["Date"] = []string{"Thu, 01 Jan 1970 00:00:00 GMT"}
	io.WriteString(w, benchAnswer[len(benchAnswer)-100:])
}

func benchHTTP2(b *testing.B, h http.Handler, streams int) {
	c := newBenchClientHTTP2(b, serveTLS(b, h))
	for range streams {
		c.ask()
	}
	b.ReportAllocs()
	n, before := 0, cputest.Used(b)
	for b.Loop() {
		c.await()
		c.ask()
		n++
	}
	b.ReportMetric(float64(cputest.Used(b)-before)/float64(n), "cpu-ns/op")
	for range streams {
		c.await()
	}
}

// A benchClientHTTP2 asks the same again and again, over the streams of one connection.
type benchClientHTTP2 struct {
	conn   *tls.Conn
	r      *bufio.Reader
	stream uint32
	first  []byte // the header block of the first request, which fills the server's dynamic table
	block  []byte // of each later one
	out    []byte // what is not sent yet
}

func newBenchClientHTTP2(b testing.TB, srv *httptest.Server) *benchClientHTTP2 {
	conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName, conf.NextProtos = "example.com", []string{"h2"}
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), conf)
	require.NoError(b, err)
	b.Cleanup(func() { conn.Close() })
	c := &benchClientHTTP2{conn: conn, r: bufio.NewReader(conn)}
	var start bytes.Buffer
	start.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&start, nil)
	require.NoError(b, f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}))
	require.NoError(b, f.WriteSettingsAck())
	require.NoError(b, f.WriteWindowUpdate(0, 1<<30))
	c.out, c.stream = start.Bytes(), 1
	c.first, c.block = benchBlocks(b)
	return c
}

// benchBlocks returns the header blocks of benchRequest.
func benchBlocks(b testing.TB) (first, later []byte) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(benchRequest(b))))
	require.NoError(b, err)
	fields := []hpack.HeaderField{{Name: ":method", Value: r.Method}, {Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: r.Host}, {Name: ":path", Value: r.RequestURI}}
	for name, values := range r.Header {
		fields = append(fields, hpack.HeaderField{Name: strings.ToLower(name), Value: values[0]})
	}
	var blocks [2]bytes.Buffer
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range blocks {
		for _, field := range fields {
			require.NoError(b, encoder.WriteField(field))
		}
		blocks[i].ReadFrom(&block)
	}
	return blocks[0].Bytes(), blocks[1].Bytes()
}

// ask opens a stream. await sends what it asks.
func (c *benchClientHTTP2) ask() {
	block := c.block
	if c.stream == 1 {
		block = c.first
	}
	n := len(block)
	c.out = append(c.out, byte(n>>16), byte(n>>8), byte(n), byte(http2.FrameHeaders),
		byte(http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream))
	c.out = append(binary.BigEndian.AppendUint32(c.out, c.stream), block...)
	c.stream += 2
}

// await waits for the end of any answer.
func (c *benchClientHTTP2) await() {
	for {
		if len(c.out) > 0 && c.r.Buffered() == 0 {
			if _, err := c.conn.Write(c.out); err != nil {
				panic(err)
			}
			c.out = c.out[:0]
		}
		head, err := c.r.Peek(9)
		if err != nil {
			panic(err)
		}
		n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		kind, flags := http2.FrameType(head[3]), http2.Flags(head[4])
		if kind == http2.FrameRSTStream || kind == http2.FrameGoAway {
			panic(fmt.Sprint("the server sent ", kind))
		}
		if _, err := c.r.Discard(9 + n); err != nil {
			panic(err)
		}
		if kind == http2.FrameData && flags.Has(http2.FlagDataEndStream) {
			return
		}
	}
}
