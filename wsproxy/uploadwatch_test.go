package wsproxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
)

// A target that hangs up is told by 502 while the client's upload stalls, whatever carries the
// request: http.Transport waits for the client then. It is not to blame, and the request is not
// sent to another target without the bytes that are lost.
func TestProxy_B5_TargetHangsUpWhileTheUploadStalls(t *testing.T) {
	before := leaktest.Settled(t)
	hangsUp := map[string]string{
		"before an answer":    "",
		"in the header":       "HTTP/1.1 200 OK\r\nContent-",
		"after an answer":     "HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n",
		"after what is wrong": "what?\r\n\r\n",
	}
	type way struct {
		name         string
		secure, ours bool
	}
	for what, answer := range hangsUp {
		for _, w := range []way{{"http, ours", false, true}, {"http, given", false, false}, {"https, ours", true, true}, {"https, given", true, false}} {
			for _, client := range []string{"HTTP/1.1", "HTTP/2"} {
				t.Run(what+", "+w.name+", "+client, func(t *testing.T) {
					t.Parallel()
					conf := (*tls.Config)(nil)
					front := newTLSBackend(t, "certificate", nil)
					if w.secure {
						conf = &tls.Config{Certificates: front.server.TLS.Certificates}
					}
					stalls := make(chan struct{})
					target := rawBackendTLS(t, "a", conf, func(conn net.Conn, r *bufio.Reader, req *http.Request) {
						io.ReadFull(req.Body, make([]byte, 3))
						wait(t, stalls, "the proxy waiting for the client")
						io.WriteString(conn, answer)
					})
					pool, to := newPool(t, target, newBackend(t, "b", echo).target())
					to.to("a")
					told := &told{ended: make(chan balancer.Outcome, 2)}
					defer pool.Observe(told)()
					p := &wsproxy.Proxy{Pool: pool, Logger: noLog, BackendTLS: backendTLS(front),
						Retry: wsproxy.Retry{Idempotent: true, Buffer: 1 << 10}}
					if !w.ours {
						given := &http.Transport{TLSClientConfig: backendTLS(front)}
						defer given.CloseIdleConnections()
						p.Transport, p.BackendTLS = given, nil
					}
					watched := announceStall(p, 3, stalls)
					srv := serve(t, watched)
					if client == "HTTP/2" {
						srv = serveTLS(t, watched)
					}
					c := newClient(t, srv)
					in, out := io.Pipe()
					defer out.Close()
					go io.WriteString(out, "abc")
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.url, in)
					require.NoError(t, err)
					answered := make(chan *http.Response, 1)
					go func() {
						res, err := c.Do(req)
						if err != nil {
							t.Error(err)
						}
						answered <- res
					}()
					res := wait(t, answered, "the answer")
					require.NotNil(t, res)
					require.Equal(t, http.StatusBadGateway, res.StatusCode)
					require.Equal(t, client == "HTTP/1.1", res.Close, "the connection has the rest of a body")
					page, err := io.ReadAll(res.Body)
					require.NoError(t, err)
					require.Equal(t, "Bad Gateway\n", string(page))
					res.Body.Close()
					o := wait(t, told.ended, "the outcome")
					require.Equal(t, balancer.Unjudged, o.Class, "%v", o.Err)
					require.Zero(t, o.Latency)
					require.Empty(t, told.ended, "one attempt")
					idleMember(t, pool, "a")
				})
			}
		}
	}
	t.Cleanup(func() { leaktest.RequireNoMore(t, before) })
}

// announceStall closes stalls when next reads a request's body beyond its first n bytes.
func announceStall(next http.Handler, n int, stalls chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		derived := r.WithContext(r.Context())
		derived.Body = &stallingBody{ReadCloser: r.Body, left: n, stalls: stalls}
		next.ServeHTTP(w, derived)
	})
}

// A stallingBody closes stalls before the Read that has to wait for more than the bytes that are
// left.
type stallingBody struct {
	io.ReadCloser
	left   int
	stalls chan struct{}
	once   sync.Once
}

func (b *stallingBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.once.Do(func() { close(b.stalls) })
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	return n, err
}
