package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
)

// speaking posts a body that the test writes piece by piece, over HTTP/2, and returns the response,
// whose header comes before the body.
func speaking(t *testing.T, p *wsproxy.Proxy) (*io.PipeWriter, *http.Response) {
	t.Helper()
	c := newClient(t, serveTLS(t, p))
	in, out := io.Pipe()
	t.Cleanup(func() { out.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, in)
	require.NoError(t, err)
	res, err := c.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { res.Body.Close() })
	require.Equal(t, 2, res.ProtoMajor)
	return out, res
}

// A body may go on after the response has begun, to a target that speaks HTTP/1.1, too.
func TestProxy_W11_BothWaysOverHTTP1(t *testing.T) {
	for name, given := range map[string]http.RoundTripper{"ours": nil, "given": &http.Transport{}} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
				stream := http.NewResponseController(w)
				stream.EnableFullDuplex()
				stream.Flush()
				for buf := make([]byte, 32); ; {
					n, err := r.Body.Read(buf)
					w.Write(buf[:n])
					stream.Flush()
					if err != nil {
						return
					}
				}
			})
			pool, _ := newPool(t, b.target())
			out, res := speaking(t, &wsproxy.Proxy{Pool: pool, Transport: given})
			for range 20 {
				_, err := io.WriteString(out, "hello")
				require.NoError(t, err)
				got := make([]byte, 5)
				_, err = io.ReadFull(res.Body, got)
				require.NoError(t, err)
				require.Equal(t, "hello", string(got))
			}
			out.Close()
			rest, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Empty(t, rest)
			idleMember(t, pool, "a")
		})
	}
}

// The rest of an early answer reaches the client whole when the target sends it before it has the
// end of the request's body: the end of the response meets the last that the client sends.
func TestProxy_W11_AnswerEndsWithTheUpload(t *testing.T) {
	t.Parallel() // it waits
	transport := &http.Transport{}
	for name, given := range map[string]http.RoundTripper{"ours": nil, "given": transport} {
		for _, ended := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, ended=%v", name, ended), func(t *testing.T) {
				defer transport.CloseIdleConnections()
				target := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
					for err := error(nil); err == nil; req, err = http.ReadRequest(r) {
						word := make([]byte, 3)
						io.ReadFull(req.Body, word)
						io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
						io.ReadFull(req.Body, word)
						io.WriteString(conn, "3\r\ntwo\r\n0\r\n\r\n")
						io.Copy(io.Discard, req.Body)
					}
				})
				pool, _ := newPool(t, target)
				c := newClient(t, serveTLS(t, &wsproxy.Proxy{Pool: pool, Transport: given}))
				for range 10 {
					in, out := io.Pipe()
					go io.WriteString(out, "one")
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, in)
					require.NoError(t, err)
					res, err := c.Do(req)
					require.NoError(t, err)
					_, err = io.WriteString(out, "two")
					require.NoError(t, err)
					if ended {
						out.Close()
					}
					got, err := io.ReadAll(res.Body)
					require.NoError(t, err)
					require.Equal(t, "onetwo", string(got))
					res.Body.Close()
					out.Close()
				}
				idleMember(t, pool, "a")
			})
		}
	}
}

// A response breaks off when its HTTP/2 target does, although the client's side of the stream is
// open and silent: the transport waits for a Read of the request's body then.
func TestProxy_W11_TargetDiesWhileTheClientIsSilent(t *testing.T) {
	http2Backends(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "here")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(t *testing.T, p *wsproxy.Proxy, b *backend) {
		p.Logger = noLog
		_, res := speaking(t, p)
		here := make([]byte, 4)
		_, err := io.ReadFull(res.Body, here)
		require.NoError(t, err)
		b.server.CloseClientConnections()
		ended := make(chan error, 1)
		go func() {
			_, err := io.ReadAll(res.Body)
			ended <- err
		}()
		require.Error(t, wait(t, ended, "the end of the response"), "it must not look complete")
		idleMember(t, p.Pool, "a")
	})
}
