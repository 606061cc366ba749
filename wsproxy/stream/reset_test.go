package stream_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// A reset on one side is passed on as a reset, and an end of stream as an end of stream, with and
// without TLS.
func TestServer_W9_ResetIsPassedOn(t *testing.T) {
	for _, front := range []bool{false, true} {
		for _, back := range []bool{false, true} {
			for _, fromClient := range []bool{false, true} {
				for _, reset := range []bool{false, true} {
					t.Run(fmt.Sprintf("front=%t/back=%t/client=%t/reset=%t", front, back, fromClient, reset), func(t *testing.T) {
						var conf *tls.Config
						s := &stream.Server{}
						if front {
							s.TLS = serverTLS()
						}
						if back {
							conf, s.BackendTLS = serverTLS(), trusting("one.example")
						}
						b := newBackend(t, "a", conf, nil)
						s.Pool = newPool(t, balancer.Config{}, b.target())
						r := serve(t, s)
						client := r.dial(t)
						if front {
							client = tls.Client(client, trusting("one.example"))
						}
						greeted := make(chan error, 1)
						go func() {
							_, err := io.WriteString(client, "hello")
							greeted <- err
						}()
						backend := wait(t, b.conns, "a connection")
						expect(t, backend, "hello")
						require.NoError(t, <-greeted)
						send(t, backend, "hello")
						expect(t, client, "hello")

						breaks, learns := backend, client
						if fromClient {
							breaks, learns = client, backend
						}
						send(t, breaks, "last words")
						expect(t, learns, "last words")
						if reset {
							resetConn(t, breaks)
						} else {
							breaks.Close()
						}
						_, err := learns.Read(make([]byte, 1))
						if reset {
							require.ErrorIs(t, err, syscall.ECONNRESET)
						} else {
							require.Equal(t, io.EOF, err)
						}
						learns.Close()
						rec := r.ended(t)
						require.Equal(t, reset, rec.Err != nil, rec)
					})
				}
			}
		}
	}
}

// resetConn breaks the connection, below TLS.
func resetConn(t testing.TB, c net.Conn) {
	t.Helper()
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	require.NoError(t, c.Close())
}
