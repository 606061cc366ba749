package tunnel_test

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A last message that arrives together with the end of stream is delivered before it. Both sides
// see a clean end, whichever ends first.
func TestTunnel_W5_LastMessageAndEnd(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		for _, by := range []tunnel.Reason{tunnel.ClientClosed, tunnel.BackendClosed} {
			for _, ahead := range []bool{true, false} {
				client, clientSide := makeTCP(t, nil)
				backend, backendSide := makeTCP(t, nil)
				first, second := client, backend
				if by == tunnel.BackendClosed {
					first, second = backend, client
				}
				last := func() {
					write(t, first, "last")
					halfClose(t, first)
				}
				if ahead { // then one read cannot get both
					last()
				}
				o := startOn(e, clientSide, backendSide, tunnel.Options{})
				if !ahead {
					last()
				}
				expect(t, second, "last")
				expectEOF(t, second)
				write(t, second, "answer")
				require.NoError(t, second.Close())
				expect(t, first, "answer")
				expectEOF(t, first)
				end := o.end(t)
				require.Equal(t, by, end.By)
				require.Equal(t, int64(len("last")+len("answer")), end.FromClient+end.FromBackend)
				require.NoError(t, end.Err)
			}
		}
		shutdown(t, e)
	})
}

// Both sides see a clean end if both ends of stream are there when the tunnel starts.
func TestTunnel_W5_BothEndAtOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		client, clientSide := makeTCP(t, []byte("early"))
		backend, backendSide := makeTCP(t, nil)
		for _, outer := range []net.Conn{client, backend} {
			halfClose(t, outer)
		}
		o := startOn(e, clientSide, backendSide, tunnel.Options{})
		expect(t, backend, "early")
		expectEOF(t, backend)
		expectEOF(t, client)
		require.NoError(t, o.end(t).Err)
		shutdown(t, e)
	})
}

// A side that is slow to close does not delay the end of stream for the other side.
func TestTunnel_W5_SlowCloseDelaysNoEnd(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		client, near := tcpPair(t)
		slow := slowToClose{near.(*net.TCPConn), make(chan struct{})}
		backend, backendSide := makeTCP(t, nil)
		release := sync.OnceFunc(func() { close(slow.free) })
		defer release()
		o := startOn(e, tunnel.Side{Conn: slow}, backendSide, tunnel.Options{})
		halfClose(t, backend)
		expectEOF(t, client)
		halfClose(t, client)
		expectEOF(t, backend)
		release()
		require.NoError(t, o.end(t).Err)
		shutdown(t, e)
	})
}

// slowToClose is a connection whose Close waits for free.
type slowToClose struct {
	*net.TCPConn
	free chan struct{}
}

func (c slowToClose) Close() error {
	<-c.free
	return c.TCPConn.Close()
}

// A Done that blocks delays no other tunnel of the engine.
func TestEngine_DoneMayBlock(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		client, clientSide := makeTCP(t, nil)
		backend, backendSide := makeTCP(t, nil)
		called, free := make(chan struct{}), make(chan struct{})
		begin(e, clientSide, backendSide, tunnel.Options{Done: func(tunnel.End) {
			close(called)
			<-free
		}})
		other := openOn(t, e, tunnel.Options{})
		halfClose(t, client)
		halfClose(t, backend)
		<-called
		echo(t, other)
		close(free)
		other.Close(tunnel.Closed)
		shutdown(t, e)
	})
}
