package upstream_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
)

// benchBackend answers requests of a known length with 100 bytes, at as little cost as it can.
func benchBackend(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	b.Cleanup(func() { l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go benchAnswers(c, answer)
		}
	}()
	return "http://" + l.Addr().String()
}

func benchAnswers(c net.Conn, answer []byte) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 32<<10)
	for {
		length := 0
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(n)))
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := r.Discard(length); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// BenchmarkTransportRoundTrip asks over kept connections. cpu-ns/op is of the whole process, the
// backend included.
func BenchmarkTransportRoundTrip(b *testing.B) {
	payload := make([]byte, 100<<10)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, clients := range []int{1, 64} {
			for _, tr := range transports {
				b.Run(fmt.Sprintf("method=%s/clients=%d/kind=%s", method, clients, tr.name), func(b *testing.B) {
					url, rt := benchBackend(b), tr.make(usual)
					b.Cleanup(rt.CloseIdleConnections)
					ask := func() { benchAsk(b, rt, method, url, payload) }
					b.ReportAllocs()
					var n atomic.Int64
					before := cputest.Used(b)
					if clients == 1 {
						for b.Loop() {
							ask()
							n.Add(1)
						}
					} else {
						b.SetParallelism(clients / runtime.GOMAXPROCS(0))
						b.RunParallel(func(pb *testing.PB) {
							for pb.Next() {
								ask()
								n.Add(1)
							}
						})
					}
					b.ReportMetric(float64(cputest.Used(b)-before)/float64(n.Load()), "cpu-ns/op")
				})
			}
		}
	}
}

func benchAsk(b *testing.B, rt http.RoundTripper, method, url string, payload []byte) {
	req, err := http.NewRequestWithContext(b.Context(), method, url+"/some/path?with=query", nil)
	if err != nil {
		panic(err)
	}
	req.Header = http.Header{"User-Agent": {"bench"}, "Accept": {"*/*"}, "X-Forwarded-For": {"192.0.2.1"},
		"X-Forwarded-Host": {"app.example"}, "X-Forwarded-Proto": {"http"}, "Cookie": {"session=0123456789abcdef"}}
	if method == http.MethodPost {
		req.Body, req.ContentLength = opaque{bytes.NewReader(payload)}, int64(len(payload))
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		panic(err)
	}
	if n, err := io.Copy(io.Discard, res.Body); n != 100 || err != nil {
		panic(fmt.Sprint(n, err))
	}
	res.Body.Close()
}
