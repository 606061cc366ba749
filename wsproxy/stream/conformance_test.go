package stream_test

import (
	"crypto/tls"
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
			s := &stream.Server{Pool: newPool(t, balancer.Config{}, b.target())}
			mode.configure(s)
			r := serve(t, s)
			open := func(t testing.TB, early, glued []byte) (net.Conn, net.Conn) {
				client := r.dial(t)
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
				}
				_, err := far.Write(glued)
				require.NoError(t, err)
				require.NoError(t, <-sent)
				return client, far
			}
			tunneltest.Suite{Open: open, ToBackend: true, ToClient: true}.Run(t)
		})
	}
}
