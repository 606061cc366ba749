package wsproxy_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
)

// benchPosted is the body of the requests of BenchmarkProxyPost.
const benchPosted = 100 << 10

// BenchmarkProxyPost passes sticky requests with a body of 100 KB, as BenchmarkProxy does small
// ones without.
func BenchmarkProxyPost(b *testing.B) {
	kind := benchKinds[len(benchKinds)-1]
	request := strings.Replace(benchRequest(b), "GET ", "POST ", 1)
	request = strings.TrimSuffix(request, "\r\n") + "Content-Length: 102400\r\n\r\n" + strings.Repeat("x", benchPosted)
	for _, own := range []bool{false, true} {
		name := "kind=" + kind.name
		if own {
			name += "-own" // transport
		}
		b.Run(name, func(b *testing.B) {
			tgt := rawBackend(b, "a", benchPostBackend)
			var transport http.RoundTripper
			if !own {
				given := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
				b.Cleanup(given.CloseIdleConnections)
				transport = given
			}
			h := kind.make(b, tgt, transport).(*wsproxy.Proxy)
			b.Cleanup(func() { h.Shutdown(context.Background()) })
			c := newBenchClient(b, serve(b, h).Listener.Addr().String())
			c.request = []byte(request)
			b.ReportAllocs()
			n, before := 0, cputest.Used(b)
			for b.Loop() {
				c.ask()
				n++
			}
			b.ReportMetric(float64(cputest.Used(b)-before)/float64(n), "cpu-ns/op")
		})
	}
}

// benchPostBackend answers each body of that size.
func benchPostBackend(conn net.Conn, r *bufio.Reader, req *http.Request) {
	conn.SetDeadline(time.Time{})
	answer := []byte(benchAnswer)
	if _, err := r.Discard(benchPosted); err != nil { // the rest of the header is in req
		return
	}
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
		if _, err := r.Discard(benchPosted); err != nil {
			return
		}
	}
}

// What the benchmark passes is what it says.
func TestBenchmarkPostsPass(t *testing.T) {
	tgt := rawBackend(t, "a", benchPostBackend)
	srv := serve(t, &wsproxy.Proxy{Pool: benchPool(t, tgt)})
	for range 3 {
		res, err := srv.Client().Post(srv.URL, "text/plain", strings.NewReader(strings.Repeat("x", benchPosted)))
		require.NoError(t, err)
		require.EqualValues(t, 100, res.ContentLength)
		res.Body.Close()
	}
}
