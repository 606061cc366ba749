package tunnel_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// openOn makes a tunnel between TCP sockets on e, which may have others.
func openOn(t testing.TB, e *tunnel.Engine, o tunnel.Options) *opened {
	t.Helper()
	client, near := tcpPair(t)
	backend, far := tcpPair(t)
	t.Cleanup(func() {
		client.Close()
		backend.Close()
	})
	r := startOn(e, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, o)
	r.client, r.backend = client, backend
	return r
}

// A tunnel whose peers read nothing, or send as fast as they can, delays no other tunnel.
func TestEngine_StuckTunnelsAlone(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		var tunnels []*opened
		for range 3 {
			stuck := openOn(t, e, tunnel.Options{})
			tunnels = append(tunnels, stuck)
			flood(stuck.client)
			flood(stuck.backend)
		}
		busy := openOn(t, e, tunnel.Options{})
		go io.Copy(io.Discard, busy.backend)
		go func() {
			for p := make([]byte, 1<<20); ; {
				if _, err := busy.client.Write(p); err != nil {
					return
				}
			}
		}()
		free := openOn(t, e, tunnel.Options{})
		limit(t, free)
		for range 100 {
			echo(t, free)
		}
		for _, o := range append(tunnels, busy, free) {
			require.False(t, isOver(o.Tunnel))
			o.Close(tunnel.Shutdown)
		}
		shutdown(t, e)
	})
}

// limit makes what waits for ever fail.
func limit(t testing.TB, o *opened) {
	t.Helper()
	for _, c := range []net.Conn{o.client, o.backend} {
		require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	}
}

// An engine without tunnels has no goroutine.
func TestEngine_GoroutinesEndWithTunnels(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		before, descriptors := held(t)
		for range 50 {
			o := openOn(t, e, tunnel.Options{})
			echo(t, o)
			o.client.Close()
			o.backend.Close()
			o.end(t)
		}
		settled(t, func() bool { return runtime.NumGoroutine() <= before })
		require.LessOrEqual(t, openDescriptors(t), descriptors)
		shutdown(t, e)
	})
}

// The limits also end tunnels that are idle.
func TestTunnel_W5_LimitsOfIdleSockets(t *testing.T) {
	const limit = 30 * time.Millisecond
	half := func(t *testing.T, o *opened) { halfClose(t, o.client) }
	tests := map[string]struct {
		o    tunnel.Options
		then func(t *testing.T, o *opened)
		by   tunnel.Reason
	}{
		"idle":     {tunnel.Options{Idle: limit}, echoOnce, tunnel.Idle},
		"lifetime": {tunnel.Options{Lifetime: limit}, nil, tunnel.Lifetime},
		"linger":   {tunnel.Options{Linger: limit}, half, tunnel.Linger},
	}
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		for name, tt := range tests {
			o := openOn(t, e, tt.o)
			if tt.then != nil {
				tt.then(t, o)
			}
			end := o.end(t)
			require.Equal(t, tt.by, end.By, name)
			require.NoError(t, end.Err, name)
			require.GreaterOrEqual(t, end.Duration, limit, name)
			expectEnd(t, o.client)
			expectEnd(t, o.backend)
		}
		shutdown(t, e)
	})
}

// echoOnce is an echo of a tunnel whose idle limit may end it on the way. It leaves nothing to be
// read.
func echoOnce(_ *testing.T, o *opened) {
	p := []byte("x")
	for _, way := range [][2]net.Conn{{o.client, o.backend}, {o.backend, o.client}} {
		way[0].Write(p)
		way[1].Read(p)
	}
}

// CloseFrame on an idle tunnel.
func TestTunnel_W6_CloseFrameToIdleSockets(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		o := openOn(t, e, webSocket)
		message := frame(fin|text, []byte("hello"), 0, true)
		write(t, o.client, string(message))
		expect(t, o.backend, string(message))
		o.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, o.client, false, 1012, "restart")
		expectClose(t, o.backend, true, 1012, "restart")
		write(t, o.client, string(closeFrame(4001, "", true)))
		write(t, o.backend, string(closeFrame(4002, "", false)))
		expectEOF(t, o.client)
		expectEOF(t, o.backend)
		o.client.Close()
		o.backend.Close()
		end := o.end(t)
		want := tunnel.End{By: tunnel.Moved, FromClient: int64(len(message)), ClientCode: 4001, BackendCode: 4002,
			Duration: end.Duration}
		require.Equal(t, want, end)
		shutdown(t, e)
	})
}

// A message and the end right after it both arrive, whatever the order of events.
func TestTunnel_W5_LastWords(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		for range 500 {
			o := openOn(t, e, tunnel.Options{})
			limit(t, o)
			write(t, o.client, "first")
			expect(t, o.backend, "first")
			write(t, o.backend, "last words")
			require.NoError(t, o.backend.Close())
			got, err := io.ReadAll(o.client)
			require.NoError(t, err)
			require.Equal(t, "last words", string(got))
			require.NoError(t, o.client.Close())
			end := o.end(t)
			require.Equal(t, tunnel.BackendClosed, end.By)
			require.Equal(t, []int64{5, 10}, []int64{end.FromClient, end.FromBackend})
		}
		shutdown(t, e)
	})
}

// A parked socket returns the same errors as a net.Conn.
func TestTunnel_W5_ResetIsNamed(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		o := openOn(t, e, tunnel.Options{})
		echo(t, o)
		tunneltest.Reset(t, o.backend)
		expectEnd(t, o.client)
		o.client.Close()
		end := o.end(t)
		require.Equal(t, tunnel.BackendReadFailed, end.By)
		require.ErrorIs(t, end.Err, syscall.ECONNRESET)
		op, ok := errors.AsType[*net.OpError](end.Err)
		require.True(t, ok)
		require.Equal(t, "read", op.Op)
		shutdown(t, e)
	})
}

// A hundred tunnels of one engine move numbered words in chunks of all sizes, to readers that
// pause, and end in every way at any moment. Nobody receives anything but the words in order, and
// after an end that was announced all of them.
func TestEngine_W5_ChaosKeepsOrder(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		var workers sync.WaitGroup
		for worker := range soaktest.Times(32, 128) {
			workers.Go(func() {
				for i := range 3 {
					seed := uint64(worker*3 + i)
					if err := chaos(openOn(t, e, tunnel.Options{}), rand.New(rand.NewPCG(seed, 1))); err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
				}
			})
		}
		workers.Wait()
		shutdown(t, e)
	})
}

// chaos uses and ends a tunnel as random says.
func chaos(o *opened, random *rand.Rand) error {
	ends := [2]*numbered{
		{Conn: o.client, random: rand.New(rand.NewPCG(random.Uint64(), 2)), words: random.IntN(1 << random.IntN(18))},
		{Conn: o.backend, random: rand.New(rand.NewPCG(random.Uint64(), 3)), words: random.IntN(1 << random.IntN(18))},
	}
	ends[0].peer, ends[1].peer = ends[1], ends[0]
	way := random.IntN(4)
	var halves sync.WaitGroup
	for _, n := range ends {
		n.clean = way == 0
		n.SetDeadline(time.Now().Add(60 * time.Second))
		halves.Go(n.send)
		halves.Go(n.receive)
	}
	time.AfterFunc(time.Duration(random.IntN(5000))*time.Microsecond, func() {
		switch way {
		case 1:
			o.Close(tunnel.Closed)
		case 2:
			ends[random.IntN(2)].Conn.Close() // with unread bytes it is a reset
		case 3:
			c := ends[random.IntN(2)].Conn
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	})
	halves.Wait()
	for _, n := range ends {
		n.Conn.Close()
	}
	select {
	case end := <-o.ended:
		if way == 0 && (end.Err != nil || end.FromClient != int64(8*ends[0].words) || end.FromBackend != int64(8*ends[1].words)) {
			return fmt.Errorf("a clean tunnel reports %+v", end)
		}
	case <-time.After(30 * time.Second):
		return errors.New("the tunnel does not end")
	}
	return errors.Join(ends[0].err, ends[1].err)
}

// numbered is an outer end of a tunnel that sends the numbers from 0 and expects the same.
type numbered struct {
	net.Conn
	random *rand.Rand // of the sender
	words  int        // to send
	clean  bool       // nothing may be missing
	peer   *numbered
	err    error // of the receiver
}

// send sends in chunks, mostly small ones, not on the limits of the words.
func (n *numbered) send() {
	p := make([]byte, 0, 8*n.words)
	for i := range n.words {
		p = binary.BigEndian.AppendUint64(p, uint64(i))
	}
	for len(p) > 0 {
		chunk := min(len(p), 1+n.random.IntN(1<<n.random.IntN(18)))
		if _, err := n.Write(p[:chunk]); err != nil {
			return
		}
		p = p[chunk:]
		if n.random.IntN(8) == 0 {
			runtime.Gosched()
		}
	}
	n.Conn.(*net.TCPConn).CloseWrite()
}

func (n *numbered) receive() {
	random := rand.New(rand.NewPCG(uint64(n.words), 4))
	p := make([]byte, 64<<10)
	held, next := 0, 0
	for {
		got, err := n.Read(p[held : held+1+random.IntN(len(p)-held)])
		held += got
		whole := held / 8 * 8
		for at := 0; at < whole; at += 8 {
			if word := binary.BigEndian.Uint64(p[at:]); word != uint64(next) {
				n.err = fmt.Errorf("word %d is %x", next, word)
				return
			}
			next++
		}
		held = copy(p, p[whole:held])
		if err == nil {
			continue
		}
		short := n.clean && (err != io.EOF || held != 0 || next != n.peer.words)
		if short || errors.Is(err, os.ErrDeadlineExceeded) {
			n.err = fmt.Errorf("%v after %d words of %d", err, next, n.peer.words)
		}
		return
	}
}
