package underway_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

func TestClientSide_ConnectionBelowAPROXYHeader(t *testing.T) {
	for name, told := range map[string]bool{"header read before": true, "header not read": false} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			client, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			defer client.Close()
			_, err = io.WriteString(client, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\nbehind it")
			require.NoError(t, err)

			conn, err := (&proxyproto.Listener{Listener: l, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}).Accept()
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
			if told {
				require.Equal(t, "203.0.113.9:4711", conn.RemoteAddr().String())
			}
			side := underway.ClientSide(conn, []byte("early "))
			require.IsType(t, &net.TCPConn{}, side.Conn)
			_, err = io.WriteString(client, ", and later")
			require.NoError(t, err)
			require.NoError(t, client.(*net.TCPConn).CloseWrite())
			rest, err := io.ReadAll(side.Conn)
			require.NoError(t, err)
			require.Equal(t, "early behind it, and later", string(side.Early)+string(rest))
		})
	}
	plain, other := net.Pipe()
	defer plain.Close()
	defer other.Close()
	require.Equal(t, plain, underway.ClientSide(plain, nil).Conn)
}
