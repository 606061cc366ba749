package tunnel_test

import (
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// A connection that cannot be waited for without a buffer is waited for with a small one; large
// ones are for streams.
func TestTunnel_BufferSizes(t *testing.T) {
	const small, large = 2 << 10, 32 << 10
	synctest.Test(t, func(t *testing.T) {
		reads := []struct{ size, offers int }{ // what a read is given room for, what it gets
			{small, 100},
			{small, small - 1},
			{small, small}, // filled: probably there is more
			{large, large},
			{large, large / 4}, // still a stream
			{large, large/4 - 1},
			{small, 1},
			{small, small},
			{large, 1},
			{small, 0},
		}
		c := &scripted{gaveRoom: make(chan int), offer: make(chan int)}
		backend, far := newDuplex()
		o := start(t, tunnel.Side{Conn: c}, tunnel.Side{Conn: far}, tunnel.Options{})
		go io.Copy(io.Discard, backend)
		for i, r := range reads {
			require.Equal(t, r.size, <-c.gaveRoom, "read %d", i)
			c.offer <- r.offers
		}
		require.NoError(t, backend.Close())
		<-o.ended
	})
}

// scripted is a connection whose reads say how much room they have and take what they are told
// to, 0 for the end.
type scripted struct{ gaveRoom, offer chan int }

func (s *scripted) Read(p []byte) (int, error) {
	s.gaveRoom <- len(p)
	if n := <-s.offer; n > 0 {
		return n, nil
	}
	return 0, io.EOF
}

func (*scripted) Write(p []byte) (int, error) { return len(p), nil }
func (*scripted) CloseWrite() error           { return nil }
func (*scripted) Close() error                { return nil }

// Tunnels between TCP sockets hold no buffer while nothing moves. Where they are parked they hold
// no goroutine either, elsewhere no third one.
func TestTunnel_IdleHoldsNothing(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testIdleHoldsNothing(t, tunnel.NewPlainEngine(), 4<<10, 2) })
	if runtime.GOOS == "linux" {
		t.Run("parking", func(t *testing.T) { testIdleHoldsNothing(t, new(tunnel.Engine), 2<<10, 0) })
	}
}

func testIdleHoldsNothing(t *testing.T, e *tunnel.Engine, bytes int64, goroutinesEach int) {
	const n = 200
	type pair struct {
		o         opened
		near, far net.Conn
	}
	pairs := make([]pair, n)
	for i := range pairs {
		p := &pairs[i]
		p.o.client, p.near = tcpPair(t)
		p.o.backend, p.far = tcpPair(t)
	}
	goroutines, before := runtime.NumGoroutine(), heap()
	for _, p := range pairs {
		e.Start(tunnel.Side{Conn: p.near}, tunnel.Side{Conn: p.far}, tunnel.Options{})
		echo(t, &p.o)
	}
	require.Less(t, heap()-before, n*bytes)
	settled(t, func() bool { return runtime.NumGoroutine() <= goroutines+n*goroutinesEach+1 }) // one poller
	for _, p := range pairs {
		p.o.client.Close()
		p.o.backend.Close()
	}
	shutdown(t, e)
}

// heap returns the bytes that are in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // pools keep their contents through one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A backend that answers and closes resets what comes to it later. Its answer, which waits in
// our receive buffer for a slow client, must arrive nevertheless.
func TestTunnel_W5_AnswerThenReset(t *testing.T) {
	t.Parallel() // it waits
	onEachEngine(t, testAnswerThenReset)
}

func testAnswerThenReset(t *testing.T, e *tunnel.Engine) {
	client, near := tcpPair(t)
	backend, far := tcpPair(t)
	// The way to the client has little room, so that the answer stays on the backend's side.
	require.NoError(t, client.(*net.TCPConn).SetReadBuffer(16<<10))
	require.NoError(t, near.(*net.TCPConn).SetWriteBuffer(16<<10))
	require.NoError(t, far.(*net.TCPConn).SetReadBuffer(200_000))
	// No limit ends the tunnel: TCP may pause for longer than Linger while the client's window is
	// closed.
	o := startOn(e, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{Linger: -1})
	answer := tunneltest.Bytes(1, 150_000)
	_, err := backend.Write(answer)
	require.NoError(t, err)
	require.NoError(t, backend.Close())
	_, err = client.Write(make([]byte, 16<<20)) // more than the buffers take: it is dropped
	require.NoError(t, err)
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, answer, got)
	require.NoError(t, client.Close())
	end := o.end(t)
	require.Contains(t, []tunnel.Reason{tunnel.BackendWriteFailed, tunnel.BackendClosed}, end.By, "what was seen first")
	require.EqualValues(t, len(answer), end.FromBackend)
}
