package stream_test

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// A target is reached at its Addr, with TLS for its ServerName and with its certificate.
func TestServer_W16_Addr(t *testing.T) {
	dir, err := os.MkdirTemp("", "s")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "app.sock")
	conf := serverTLS()
	asked := make(chan *tls.ConnectionState, 10)
	conf.ClientAuth = tls.RequireAnyClientCert
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		asked <- &s
		return nil
	}
	for _, network := range []string{"tcp", "unix"} {
		for _, secure := range []bool{false, true} {
			addr := map[string]string{"tcp": "127.0.0.1:0", "unix": socket}[network]
			l, err := net.Listen(network, addr)
			require.NoError(t, err)
			tgt := target("a", "app.internal:4711")
			tgt.Addr = l.Addr().String()
			if network == "unix" {
				tgt.Addr = "unix:" + tgt.Addr
			}
			s := &stream.Server{}
			if secure {
				l = tls.NewListener(l, conf)
				tgt.URL.Scheme, tgt.ServerName, tgt.Certificate = "https", "one.example", &conf.Certificates[0]
				s.BackendTLS = trusting("other.example")
			}
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go echoing(conn)
				}
			}()
			s.Pool = newPool(t, balancer.Config{}, tgt)
			conn := serve(t, s).dial(t)
			chat(t, conn)
			if secure {
				state := wait(t, asked, "a handshake")
				require.Equal(t, "one.example", state.ServerName)
				require.Equal(t, conf.Certificates[0].Certificate[0], state.PeerCertificates[0].Raw)
			}
			conn.Close()
			l.Close()
		}
	}
}

// The error of a failed dial names the address that was dialed, and the client gets another target.
func TestServer_W10_UnixSocketRefuses(t *testing.T) {
	missing := target("gone", "app.internal:80")
	missing.Addr = "unix:/nowhere/app.sock"
	b := newBackend(t, "b", nil, greeting("b"))
	failures := make(chan *stream.Error, 1)
	s := &stream.Server{Pool: first(t, missing, b.target()),
		Trace: &stream.Trace{Retry: func(_ stream.Client, e *stream.Error) { failures <- e }}}
	expect(t, serve(t, s).dial(t), "b")
	require.ErrorContains(t, wait(t, failures, "retry"), "/nowhere/app.sock")
}
