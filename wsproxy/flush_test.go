package wsproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
)

// A flushCounter tells of each Flush, and how much had been written before it.
type flushCounter struct {
	*httptest.ResponseRecorder
	flushed []int
	told    chan struct{}
}

func (c *flushCounter) Flush() {
	c.flushed = append(c.flushed, c.Body.Len())
	c.told <- struct{}{}
}

// A body of known length is flushed when the target keeps back what is missing, and only then: one that came together
// with its header goes out with it.
func TestProxy_W11_FlushesWhenItWaits(t *testing.T) {
	const header = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
	for name, tt := range map[string]struct {
		parts   []string
		flushed []int
	}{
		"all at hand":    {[]string{header + "one,two,tri."}, nil},
		"header alone":   {[]string{header, "one,two,tri."}, []int{0}},
		"part by part":   {[]string{header + "one,", "two,", "tri."}, []int{4, 8}},
		"header, parts":  {[]string{header, "one,", "two,tri."}, []int{0, 4}},
		"hint, then all": {[]string{"HTTP/1.1 103 X\r\n\r\n" + header + "one,two,tri."}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan struct{}, 10)
			tgt := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
				for i, part := range tt.parts {
					if i > 0 {
						<-told // else what follows is not kept back
					}
					io.WriteString(conn, part)
				}
				io.Copy(io.Discard, r)
			})
			pool, _ := newPool(t, tgt)
			p := &wsproxy.Proxy{Pool: pool}
			w := &flushCounter{ResponseRecorder: httptest.NewRecorder(), told: told}
			p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			require.Equal(t, "one,two,tri.", w.Body.String())
			require.Equal(t, tt.flushed, w.flushed)
			require.NoError(t, p.Shutdown(t.Context()))
		})
	}
}

// What http.Transport's bodies cannot say is found out by waiting.
func TestProxy_W11_FlushesWhenOthersWait(t *testing.T) {
	told := make(chan struct{}, 10)
	tgt := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\none,")
		<-told
		io.WriteString(conn, "two.")
		io.Copy(io.Discard, r)
	})
	pool, _ := newPool(t, tgt)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	w := &flushCounter{ResponseRecorder: httptest.NewRecorder(), told: told}
	(&wsproxy.Proxy{Pool: pool, Transport: transport}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, "one,two.", w.Body.String())
	require.NotEmpty(t, w.flushed)
}
