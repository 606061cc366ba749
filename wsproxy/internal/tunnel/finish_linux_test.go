package tunnel_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A socket that somebody else holds open stays in the epoll instance after its tunnel has ended.
// Its events do no harm to the tunnel that has its descriptor number now.
func TestEngine_SocketIsHeldElsewhere(t *testing.T) {
	e := new(tunnel.Engine)
	keeps := openOn(t, e, tunnel.Options{}) // keeps the engine's epoll instance
	client, near := tcpPair(t)
	held, err := near.(*net.TCPConn).File()
	require.NoError(t, err)
	defer held.Close()
	_, backendSide := makeTCP(t, nil)
	cut := startOn(e, tunnel.Side{Conn: near}, backendSide, tunnel.Options{})
	cut.Close(tunnel.Closed)
	cut.end(t)

	next := openOn(t, e, tunnel.Options{})
	for range 10 {
		write(t, client, "noise")
		echo(t, next)
	}
	echo(t, keeps)
	for _, o := range []*opened{keeps, next} {
		o.Close(tunnel.Closed)
	}
	shutdown(t, e)
}
