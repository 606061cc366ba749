package wsproxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// Uploads to a target that is alive and does not read end, and so do those whose clients are dead:
// nobody can see that, because nobody reads from them.
func TestProxy_W5_UploadsToAHungTarget(t *testing.T) {
	uploads := soaktest.Times(20, 100)
	before := leaktest.Settled(t)
	t.Run("trial", func(t *testing.T) {
		hung := make(chan struct{})
		target := rawBackend(t, "a", func(net.Conn, *bufio.Reader, *http.Request) { <-hung })
		defer close(hung)
		pool, _ := newPool(t, target)
		failures := make(chan error, uploads)
		p := &wsproxy.Proxy{Pool: pool, Logger: noLog, Upstream: wsproxy.Upstream{DialTimeout: -1}, // the machine may be slow
			Trace: &wsproxy.Trace{Done: func(_ *http.Request, r wsproxy.Record) { failures <- r.Err }}}
		wsproxy.LimitUploads(p, time.Second)
		srv := serve(t, p)
		var sending sync.WaitGroup
		for range uploads {
			sending.Go(func() {
				conn, err := net.Dial("tcp", srv.Listener.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				conn.(*net.TCPConn).SetLinger(0)
				io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
				piece := make([]byte, 1<<20)
				for err == nil { // until nobody takes more
					conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
					_, err = conn.Write(piece)
				}
			})
		}
		sending.Wait()
		for range uploads {
			failure, ok := errors.AsType[*wsproxy.Error](wait(t, failures, "the end of an upload"))
			require.True(t, ok)
			if failure.Class != wsproxy.ClassClientGone { // as some are found to be that were still being read from
				require.Equal(t, wsproxy.ClassWrite, failure.Class, "%v", failure)
				require.Equal(t, http.StatusGatewayTimeout, failure.Status)
			}
		}
		idleMember(t, pool, "a")
	})
	leaktest.RequireNoMore(t, before)
}

// A target of HTTP/2 that reads its connection and opens no window to a stream makes no progress
// either.
func TestProxy_W5_UploadWithoutAWindow(t *testing.T) {
	t.Parallel() // it waits
	http2Backends(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(t *testing.T, p *wsproxy.Proxy, b *backend) {
		if p.Transport != nil {
			return // its limits are the caller's
		}
		told := &told{ended: make(chan balancer.Outcome, 1)}
		defer p.Pool.Observe(told)()
		p.Logger = noLog
		wsproxy.LimitUploads(p, 300*time.Millisecond)
		c := newClient(t, serve(t, p))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, io.LimitReader(zeros{}, 100<<20))
		require.NoError(t, err)
		res, err := c.Do(req)
		if err == nil { // else the connection was closed while the client still wrote
			res.Body.Close()
			require.Equal(t, http.StatusGatewayTimeout, res.StatusCode)
		}
		require.Equal(t, balancer.WriteFailed, wait(t, told.ended, "the outcome").Class)
	})
}

// zeros reads as zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
