package wsproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
)

// benchAnswer is what the backend of the benchmarks says to everything: 100 bytes.
var benchAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n" +
	"Content-Length: 100\r\n\r\n" + strings.Repeat("x", 100)

// benchRequest is what a browser might ask, bound to target a.
func benchRequest(t testing.TB) string {
	return "GET /some/path?with=query HTTP/1.1\r\nHost: app.example\r\nUser-Agent: bench\r\nAccept: */*\r\n" +
		"Accept-Encoding: gzip\r\nCookie: session=0123456789abcdef; AWSELB=" +
		seal(t, "", key, cookie.Ticket{Target: "a"}) + "; theme=dark\r\n\r\n"
}

// benchKinds are what is compared, all with a transport of the same kind and the same request.
var benchKinds = []struct {
	name string
	make func(t testing.TB, tgt balancer.Target, transport http.RoundTripper) http.Handler
}{
	{"reverseproxy", func(_ testing.TB, tgt balancer.Target, transport http.RoundTripper) http.Handler {
		return &httputil.ReverseProxy{
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(tgt.URL)
				pr.SetXForwarded()
				pr.Out.Host = pr.In.Host
			},
			Transport:  transport,
			BufferPool: &buffers{},
		}
	}},
	{"proxy", func(t testing.TB, tgt balancer.Target, transport http.RoundTripper) http.Handler {
		return &wsproxy.Proxy{Pool: benchPool(t, tgt), Transport: transport}
	}},
	{"proxy-sticky", func(t testing.TB, tgt balancer.Target, transport http.RoundTripper) http.Handler {
		return &wsproxy.Proxy{Pool: benchPool(t, tgt), Transport: transport, Policy: lbCookie(t, stickiness.LBCookieOptions{})}
	}},
}

// benchPool has the target and three others, that nobody has to answer for.
func benchPool(t testing.TB, tgt balancer.Target) *balancer.Pool {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{tgt, target("b", tgt.URL.String()),
		target("c", tgt.URL.String()), target("d", tgt.URL.String())}})
	require.NoError(t, err)
	return pool
}

// BenchmarkProxy passes small requests over kept connections from a client of bytes to a backend of
// bytes, which cost as little as they can: kind=direct is what they cost without a proxy between.
// cpu-ns/op is of the whole process. Each run has a server and connections of its own: what others
// keep would cost it. The kinds that end in -own use the transport of the proxy instead of
// http.Transport.
func BenchmarkProxy(b *testing.B) {
	for _, clients := range []int{1, 64} {
		measure := benchSerial
		if clients > 1 {
			measure = func(b *testing.B, addr string) { benchParallel(b, addr, clients) }
		}
		b.Run(fmt.Sprintf("kind=direct/clients=%d", clients), func(b *testing.B) {
			measure(b, rawBackend(b, "a", benchBackend).URL.Host)
		})
		for _, kind := range benchKinds {
			b.Run(fmt.Sprintf("kind=%s/clients=%d", kind.name, clients), func(b *testing.B) {
				tgt := rawBackend(b, "a", benchBackend)
				transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
				b.Cleanup(transport.CloseIdleConnections)
				measure(b, serve(b, kind.make(b, tgt, transport)).Listener.Addr().String())
			})
			if kind.name == "reverseproxy" {
				continue
			}
			b.Run(fmt.Sprintf("kind=%s-own/clients=%d", kind.name, clients), func(b *testing.B) { // transport
				h := kind.make(b, rawBackend(b, "a", benchBackend), nil).(*wsproxy.Proxy)
				b.Cleanup(func() { h.Shutdown(context.Background()) })
				measure(b, serve(b, h).Listener.Addr().String())
			})
		}
	}
}

func benchSerial(b *testing.B, addr string) {
	c := newBenchClient(b, addr)
	b.ReportAllocs()
	n, before := 0, cputest.Used(b)
	for b.Loop() {
		c.ask()
		n++
	}
	b.ReportMetric(float64(cputest.Used(b)-before)/float64(n), "cpu-ns/op")
}

func benchParallel(b *testing.B, addr string, clients int) {
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(clients / runtime.GOMAXPROCS(0))
	before := cputest.Used(b)
	b.RunParallel(func(pb *testing.PB) {
		c := newBenchClient(b, addr)
		asked := int64(0)
		for pb.Next() {
			c.ask()
			asked++
		}
		n.Add(asked)
	})
	b.ReportMetric(float64(cputest.Used(b)-before)/float64(n.Load()), "cpu-ns/op")
}

// benchBackend answers each header that it sees.
func benchBackend(conn net.Conn, r *bufio.Reader, _ *http.Request) {
	conn.SetDeadline(time.Time{})
	answer := []byte(benchAnswer)
	for {
		if _, err := conn.Write(answer); err != nil {
			return
		}
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				break
			}
		}
	}
}

// A benchClient asks the same again and again.
type benchClient struct {
	b       testing.TB
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

func newBenchClient(b testing.TB, addr string) *benchClient {
	conn, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	b.Cleanup(func() { conn.Close() })
	return &benchClient{b, conn, bufio.NewReader(conn), []byte(benchRequest(b))}
}

func (c *benchClient) ask() {
	if _, err := c.conn.Write(c.request); err != nil {
		panic(err)
	}
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			panic(err)
		}
		if len(line) == 2 {
			break
		}
	}
	if _, err := c.r.Discard(100); err != nil {
		panic(err)
	}
}

// A benchWriter is a ResponseWriter that can be used again.
type benchWriter struct{ header http.Header }

func (w *benchWriter) Header() http.Header         { return w.header }
func (w *benchWriter) WriteHeader(int)             {}
func (w *benchWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *benchWriter) Flush()                      {}

// BenchmarkProxyServeHTTP has no sockets: what is left is what the proxies themselves do.
func BenchmarkProxyServeHTTP(b *testing.B) {
	body := strings.Repeat("x", 100)
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: r, ContentLength: 100,
			Body:   io.NopCloser(strings.NewReader(body)),
			Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Date": {"Thu, 01 Jan 1970 00:00:00 GMT"}, "Content-Length": {"100"}},
		}, nil
	})
	for _, kind := range benchKinds {
		b.Run("kind="+kind.name, func(b *testing.B) {
			h := kind.make(b, target("a", "http://127.0.0.1:1"), transport)
			w := &benchWriter{make(http.Header)}
			r := benchServed(b)
			b.ReportAllocs()
			n, before := 0, cputest.Used(b)
			for b.Loop() {
				h.ServeHTTP(w, r)
				clear(w.header)
				n++
			}
			b.ReportMetric(float64(cputest.Used(b)-before)/float64(n), "cpu-ns/op")
		})
	}
}

// benchServed is the request as a server hands it to a handler.
func benchServed(b *testing.B) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(benchRequest(b))))
	require.NoError(b, err)
	r.RemoteAddr = "192.0.2.1:4711"
	ctx, cancel := context.WithCancel(context.WithValue(b.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 80}))
	b.Cleanup(cancel)
	return r.WithContext(ctx)
}

// What the benchmarks compare is the same work.
func TestBenchmarksPassTheSame(t *testing.T) {
	tgt := rawBackend(t, "a", benchBackend)
	for _, kind := range benchKinds {
		transport := &http.Transport{DisableCompression: true}
		t.Cleanup(transport.CloseIdleConnections)
		var seen *url.URL
		spy := roundTripper(func(r *http.Request) (*http.Response, error) {
			seen = r.URL
			return transport.RoundTrip(r)
		})
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/some/path?with=query", nil)
		r.Header.Set("Cookie", "AWSELB="+seal(t, "", key, cookie.Ticket{Target: "a"}))
		kind.make(t, tgt, spy).ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code, kind.name)
		require.Len(t, w.Body.String(), 100)
		require.Empty(t, w.Header()["Set-Cookie"])
		require.Equal(t, tgt.URL.Host, seen.Host)
	}
}
