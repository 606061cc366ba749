package wsproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// released has what a pool was told of its members.
type released struct{ classes chan balancer.Class }

func (o released) Released(_ *balancer.Member, out balancer.Outcome) { o.classes <- out.Class }

func (released) Changed(*balancer.Member, balancer.State) {}

// A request on a kept connection that turns out closed, with no byte answered, goes again on a
// fresh connection to the same target, and that is no failed attempt: if it may be sent twice,
// which a POST may not.
func TestProxy_W10_ReusedConnectionTurnsOutClosed(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	tests := map[string]struct {
		method, body string
		lines        []string
		answer       string // on the reused connection, before it closes
		again        bool
	}{
		"GET":                          {method: "GET", again: true},
		"HEAD":                         {method: "HEAD", again: true},
		"GET, a part of an answer":     {method: "GET", answer: "HTTP/1.1 2"},
		"POST":                         {method: "POST", body: "body"},
		"POST without a body":          {method: "POST"},
		"POST with an idempotency key": {method: "POST", lines: []string{"Idempotency-Key: 1"}, again: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var connections, requests atomic.Int64
			closing := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				connections.Add(1)
				for {
					io.Copy(io.Discard, req.Body)
					if requests.Add(1) == 2 {
						io.WriteString(conn, tt.answer)
						return
					}
					answer := ok
					if req.Method == http.MethodHead {
						answer = strings.TrimSuffix(ok, "hi")
					}
					io.WriteString(conn, answer)
					var err error
					if req, err = http.ReadRequest(r); err != nil {
						return
					}
				}
			})
			other := newBackend(t, "b", nil)
			pool, _ := newPool(t, closing, other.target())
			told := released{make(chan balancer.Class, 10)}
			pool.Observe(told)
			records := make(chan wsproxy.Record, 10)
			p := &wsproxy.Proxy{Pool: pool, Trace: &wsproxy.Trace{
				Done:  func(_ *http.Request, r wsproxy.Record) { records <- r },
				Retry: func(*http.Request, *wsproxy.Error) { t.Error("a retry") },
			}}
			c := newClient(t, serve(t, p))
			require.Equal(t, http.StatusOK, c.get("/").StatusCode)
			wait(t, records, "the first record")
			require.Equal(t, balancer.OK, wait(t, told.classes, "the first outcome"))

			var body io.Reader
			if tt.body != "" {
				body = strings.NewReader(tt.body)
			}
			res := c.do(tt.method, "/", body, tt.lines...)
			record := wait(t, records, "the second record")
			require.Equal(t, 1, record.Attempts)
			require.Equal(t, "a", record.Target)
			class := wait(t, told.classes, "the second outcome")
			if tt.again {
				require.Equal(t, http.StatusOK, res.StatusCode)
				require.Equal(t, balancer.OK, class)
				require.EqualValues(t, 2, connections.Load())
				require.EqualValues(t, 3, requests.Load())
			} else {
				require.Equal(t, http.StatusBadGateway, res.StatusCode)
				require.Equal(t, balancer.HeaderFailed, class)
				require.EqualValues(t, 1, connections.Load())
			}
			require.Zero(t, other.asked.Load())
		})
	}
}

// A crowd of idle connections of which the target ends most, in every way, costs no request. All
// connections are closed when the target is removed.
func TestProxy_W16_CrowdOfIdleConnections(t *testing.T) {
	const crowd = 100
	ends := []func(*net.TCPConn){
		func(c *net.TCPConn) { c.Close() },
		func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		func(c *net.TCPConn) { c.CloseWrite() },
		func(*net.TCPConn) {},
	}
	var conns, open atomic.Int64
	var ended sync.WaitGroup
	ended.Add(crowd)
	together, end := make(chan struct{}), make(chan struct{})
	endThem := sync.OnceFunc(func() { close(end) })
	pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		open.Add(1)
		defer open.Add(-1)
		n := conns.Add(1)
		if n == crowd {
			close(together)
		}
		select {
		case <-together:
		case <-end:
		}
		for err := error(nil); err == nil; req, err = http.ReadRequest(r) {
			if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
			if n <= crowd && req.URL.Path == "/first" {
				<-end
				ends[n%4](conn.(*net.TCPConn))
				ended.Done()
			}
		}
	}))
	t.Cleanup(endThem)
	p := &wsproxy.Proxy{Pool: pool, Upstream: wsproxy.Upstream{MaxIdle: crowd}}
	c := newClient(t, serve(t, p))
	ask := func(path string) {
		answers := make(chan string, crowd)
		for range crowd {
			go func() {
				res, err := c.Get(c.url + path)
				if err != nil {
					answers <- err.Error()
					return
				}
				defer res.Body.Close()
				body, _ := io.ReadAll(res.Body)
				answers <- string(body)
			}()
		}
		for range crowd {
			require.Equal(t, "ok", wait(t, answers, "an answer"))
		}
	}
	ask("/first")
	endThem()
	ended.Wait()
	ask("/second")
	require.NoError(t, pool.Update(newBackend(t, "b", nil).target()))
	require.Eventually(t, func() bool { return open.Load() == 0 }, patience, time.Millisecond)
}
