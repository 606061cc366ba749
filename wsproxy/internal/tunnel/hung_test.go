package tunnel_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// A hung tunnel is a tunnel in which one side ends while the other side takes nothing.
type hung struct {
	*opened
	name        string
	ends, hangs net.Conn
	failed      tunnel.Reason // how the end is named if it is a reset
}

// waiting is more than the tight sockets of a side take, and not so much that the end behind it
// stays with its sender.
const waiting = 80 << 10

// everyHung makes tunnels of every kind that are about to hang. room is the room in the sockets of
// the side that hangs.
func everyHung(t *testing.T, o tunnel.Options, room int) (all []*hung) {
	t.Helper()
	for engine, newEngine := range engines {
		for links, pair := range map[string][2]link{
			"tcp": {tcpLink, tcpLink}, "tls": {tlsLink, tlsLink}, "tls to tcp": {tlsLink, tcpLink},
			"tcp to hidden": {tcpLink, hiddenLink}, "tcp to hidden tls": {tcpLink, hiddenTLSLink},
		} {
			for _, way := range []string{"client ends", "backend ends"} {
				client, near := pair[0].make(t, nil)
				backend, far := pair[1].make(t, nil)
				h := &hung{name: engine + ", " + links + ", " + way}
				inner := far.Conn
				h.ends, h.hangs, h.failed = client, backend, tunnel.ClientReadFailed
				if way == "backend ends" {
					h.ends, h.hangs, h.failed = backend, client, tunnel.BackendReadFailed
					inner = near.Conn
				}
				tight(t, h.hangs, room)
				tight(t, inner, room)
				h.opened = startOn(newEngine(), near, far, o)
				t.Cleanup(func() {
					client.Close()
					backend.Close()
					shutdown(t, h.engine)
				})
				all = append(all, h)
			}
		}
	}
	return all
}

func tight(t testing.TB, conn any, room int) {
	if c, ok := conn.(tunnel.Body); ok {
		conn = c.Below
	}
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = c.NetConn()
	}
	c := conn.(*net.TCPConn)
	require.NoError(t, c.SetReadBuffer(room))
	require.NoError(t, c.SetWriteBuffer(room))
}

// If a side is reset while the other side takes nothing, the tunnel ends, even without a Linger.
func TestTunnel_W5_ResetBehindAFullPipe(t *testing.T) {
	t.Parallel() // it waits
	all := everyHung(t, tunnel.Options{}, 4<<10)
	for _, h := range all {
		flood(h.ends)
		tunneltest.Reset(t, h.ends)
	}
	for _, h := range all {
		end := h.end(t)
		require.Equal(t, h.failed, end.By, h.name)
		require.ErrorIs(t, end.Err, syscall.ECONNRESET, h.name)
	}
}

// The same for a connection that is closed, behind bytes that nobody takes: from then on Linger
// counts.
func TestTunnel_W5_EndBehindAFullPipe(t *testing.T) {
	t.Parallel() // it waits
	all := everyHung(t, tunnel.Options{Linger: time.Second}, 4<<10)
	for _, h := range all {
		_, err := h.ends.Write(make([]byte, waiting))
		require.NoError(t, err, h.name)
		require.NoError(t, h.ends.Close(), h.name)
	}
	for _, h := range all {
		// A session ticket of TLS that was not read makes it a reset.
		require.Contains(t, []tunnel.Reason{tunnel.Linger, h.failed}, h.end(t).By, h.name)
	}
}

// A tunnel that makes progress is not cut, however long it takes.
func TestTunnel_W5_SlowReaderAfterTheEnd(t *testing.T) {
	t.Parallel() // it waits
	all := everyHung(t, tunnel.Options{Linger: 3 * time.Second}, 32<<10)
	sent := tunneltest.Bytes(1, 256<<10)
	for _, h := range all {
		_, err := h.ends.Write(sent)
		require.NoError(t, err, h.name)
		halfClose(t, h.ends)
	}
	var reading sync.WaitGroup
	for _, h := range all {
		reading.Go(func() {
			got := make([]byte, len(sent))
			for rest := got; len(rest) > 0; rest = rest[len(sent)/8:] {
				time.Sleep(500 * time.Millisecond)
				if _, err := io.ReadFull(h.hangs, rest[:len(sent)/8]); err != nil {
					t.Errorf("%s: %v with %d bytes to come", h.name, err, len(rest))
					return
				}
			}
			if !bytes.Equal(sent, got) {
				t.Errorf("%s: other bytes", h.name)
			}
			if _, err := h.hangs.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: %v instead of the end", h.name, err)
			}
			h.hangs.Close()
		})
	}
	reading.Wait()
	for _, h := range all {
		h.end(t)
	}
}

// teller is a connection that can tell of its reset alone.
type teller struct {
	*duplex
	reset atomic.Bool
}

func (c *teller) PeerReset() bool { return c.reset.Load() }

// A connection that is no socket may tell of its reset. What it has sent before has five seconds
// without progress.
func TestTunnel_W5_ToldOfAReset(t *testing.T) {
	inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
		b.Close(0)
		b.end()
		client, near := newDuplex()
		backend, far := newDuplex()
		told := &teller{duplex: near}
		o := start(t, tunnel.Side{Conn: told}, tunnel.Side{Conn: far}, tunnel.Options{})
		write(t, client, "abc") // and nobody reads it
		time.Sleep(time.Minute)
		told.reset.Store(true)
		time.Sleep(4 * time.Second)
		expect(t, backend, "a")
		end := <-o.ended
		require.Equal(t, tunnel.ClientReadFailed, end.By)
		require.ErrorIs(t, end.Err, syscall.ECONNRESET)
		require.InDelta(t, time.Minute+5*time.Second, end.Duration, float64(time.Second))
		client.Close()
		backend.Close()
	})
}

// Where nobody can see the end of a side, a write may make no progress for five minutes; but a
// tunnel in which nothing is stuck is left alone.
func TestTunnel_W5_Blind(t *testing.T) {
	inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
		time.Sleep(time.Hour)
		write(t, b.client, "one")
		time.Sleep(5*time.Minute - 2*time.Second)
		expect(t, b.backend, "one")
		time.Sleep(time.Hour)
		write(t, b.client, "two")
		end := b.end()
		require.Equal(t, tunnel.BackendWriteFailed, end.By)
		require.EqualError(t, end.Err, "tunnel: backend write failed: the write makes no progress")
		require.InDelta(t, 2*time.Hour+10*time.Minute, end.Duration, float64(3*time.Second))
	})
}
