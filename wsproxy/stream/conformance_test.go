package stream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// modes are the ways that TLS can be handled.
var modes = map[string]struct {
	configure   func(*stream.Server)
	client, far bool // TLS at that end
}{
	"plain":        {func(*stream.Server) {}, false, false},
	"terminated":   {func(s *stream.Server) { s.TLS = serverTLS() }, true, false},
	"passed on":    {func(s *stream.Server) { s.ReadHello = true }, true, true},
	"re-encrypted": {func(s *stream.Server) { s.TLS, s.BackendTLS = serverTLS(), trusting("") }, true, true},
}

func TestServer_W9_Conformance(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is waiting
			var conf *tls.Config
			if mode.far {
				conf = serverTLS()
			}
			b := newBackend(t, "a", conf, nil)
			s := &stream.Server{
				Pool: newPool(t, balancer.Config{}, b.target()),
				Dial: func(ctx context.Context, m *balancer.Member) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, "tcp", m.Target().URL.Host)
					if err != nil {
						return nil, err
					}
					return c, narrow(c)
				},
			}
			mode.configure(s)
			r := serveOn(t, s, narrowing{listen(t)})
			open := func(t testing.TB, early, glued []byte) (net.Conn, net.Conn) {
				client := r.dial(t)
				require.NoError(t, narrow(client))
				if mode.client {
					client = tls.Client(client, trusting("one.example"))
				}
				sent := make(chan error, 1)
				go func() {
					_, err := client.Write(early)
					sent <- err
				}()
				far := wait(t, b.conns, "a connection at the backend")
				t.Cleanup(func() { far.Close() })
				require.NoError(t, far.SetDeadline(time.Now().Add(patience)))
				if mode.far {
					require.NoError(t, far.(*tls.Conn).Handshake())
					require.NoError(t, narrow(far.(*tls.Conn).NetConn()))
				} else {
					require.NoError(t, narrow(far))
				}
				_, err := far.Write(glued)
				require.NoError(t, err)
				require.NoError(t, <-sent)
				return client, far
			}
			tunneltest.Suite{Open: open, ToBackend: true, ToClient: true, Room: 8 << 20}.Run(t)
		})
	}
}

// narrow gives a connection small buffers. Buffers whose size is set do not grow, on any system.
func narrow(c net.Conn) error {
	tcp := c.(*net.TCPConn)
	return errors.Join(tcp.SetReadBuffer(256<<10), tcp.SetWriteBuffer(256<<10))
}

// narrowing accepts narrow connections.
type narrowing struct{ net.Listener }

func (l narrowing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return c, narrow(c)
}
