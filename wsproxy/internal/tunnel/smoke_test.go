package tunnel_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

func tcpPair(t testing.TB) (a, b net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	b, err = l.Accept()
	require.NoError(t, err)
	return a, b
}

func TestStart_W4_EarlyBytesGoFirst(t *testing.T) {
	client, near := tcpPair(t)
	far, backend := tcpPair(t)
	var e tunnel.Engine
	ended := make(chan tunnel.End, 1)
	e.Start(tunnel.Side{Conn: near, Early: []byte("early ")}, tunnel.Side{Conn: far, Early: []byte("glued ")},
		tunnel.Options{Linger: time.Minute, Done: func(end tunnel.End) { ended <- end }})
	for _, c := range []net.Conn{client, backend} {
		_, err := io.WriteString(c, "hello")
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
	}
	got, err := io.ReadAll(backend)
	require.NoError(t, err)
	require.Equal(t, "early hello", string(got))
	got, err = io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "glued hello", string(got))
	end := <-ended
	require.Equal(t, int64(11), end.FromClient)
	require.Equal(t, int64(11), end.FromBackend)
	require.NoError(t, end.Err)
}
