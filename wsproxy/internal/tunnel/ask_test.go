package tunnel_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// fleet is many tunnels in a bubble, of one engine.
type fleet struct {
	engine            tunnel.Engine
	tunnels           []*tunnel.Tunnel
	clients, backends []*duplex
	ends              []tunnel.End
	began             time.Time
}

// newFleet starts n tunnels. Their Done takes a second.
func newFleet(n int) *fleet {
	f := &fleet{ends: make([]tunnel.End, n), began: time.Now()}
	for i := range n {
		client, near := newDuplex()
		backend, far := newDuplex()
		f.clients, f.backends = append(f.clients, client), append(f.backends, backend)
		f.tunnels = append(f.tunnels, f.engine.Start(tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{
			WebSocket: true,
			Done: func(e tunnel.End) {
				time.Sleep(time.Second)
				f.ends[i] = e
			},
		}))
	}
	return f
}

// drain asks the tunnels to end and waits until they have.
func (f *fleet) drain(ctx context.Context, w tunnel.Farewell, tunnels []*tunnel.Tunnel) {
	tunnel.Ask(ctx, w, tunnels...)
	for _, tun := range tunnels {
		<-tun.Ended()
	}
}

// answer makes the peers of tunnel i behave: they answer a close frame and close. It notes when
// the client's came.
func (f *fleet) answer(i int, when *time.Duration) {
	go func() {
		got := make([]byte, 200)
		if n, _ := f.clients[i].Read(got); n == 0 {
			return
		}
		*when = time.Since(f.began)
		f.clients[i].Write(closeFrame(binary.BigEndian.Uint16(got[2:]), "", true))
		io.Copy(io.Discard, f.clients[i])
		f.clients[i].Close()
	}()
	go func() {
		if n, _ := f.backends[i].Read(make([]byte, 200)); n == 0 {
			return
		}
		f.backends[i].Write(closeFrame(1000, "", false))
		io.Copy(io.Discard, f.backends[i])
		f.backends[i].Close()
	}()
}

// Each tunnel is asked in its share of the window, at different moments of the shares. No other
// tunnel is touched.
func TestAsk_W6_Spreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, window, share = 50, 100 * time.Second, 2 * time.Second
		f := newFleet(n + 1)
		when := make([]time.Duration, n)
		for i := range n {
			f.answer(i, &when[i])
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		f.drain(ctx, tunnel.Farewell{Code: 1012, By: tunnel.Moved, Window: window}, f.tunnels[:n])
		require.LessOrEqual(t, time.Since(f.began), window+time.Second, "it waits for what is not there")
		offsets := make(map[time.Duration]bool)
		for i := range n {
			require.GreaterOrEqual(t, when[i], time.Duration(i)*share, "tunnel %d", i)
			require.Less(t, when[i], time.Duration(i+1)*share, "tunnel %d", i)
			offsets[when[i]%share] = true
			require.Equal(t, tunnel.Moved, f.ends[i].By)
			require.Equal(t, uint16(1012), f.ends[i].ClientCode)
		}
		require.Greater(t, len(offsets), n/2, "no jitter")
		require.False(t, isOver(f.tunnels[n]))
		write(t, f.clients[n], "alive")
		expect(t, f.backends[n], "alive")
		f.tunnels[n].Close(tunnel.Closed)
		<-f.tunnels[n].Ended()
	})
}

// Ask does not wait for tunnels that have ended meanwhile. Without a window it asks all at once.
func TestAsk_W6_TheGone(t *testing.T) {
	for _, window := range []time.Duration{-1, 0, 3, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(10)
			for _, tun := range f.tunnels[1:] {
				tun.Close(tunnel.Closed)
			}
			if window > 3 {
				f.tunnels[0].Close(tunnel.Closed)
			} else {
				f.answer(0, new(time.Duration))
			}
			f.drain(t.Context(), tunnel.Farewell{Window: window}, f.tunnels)
			require.LessOrEqual(t, time.Since(f.began), time.Second+5*time.Second+3)
		})
	}
}

// Ask only asks. It does not wait for the ends, and when ctx ends it leaves alone the tunnels that
// it has not asked yet.
func TestAsk_W6_OnlyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(4)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var asked [4]bool
		for i, c := range f.clients {
			go func() {
				n, _ := c.Read(make([]byte, 200)) // and does not answer
				asked[i] = n > 0
			}()
			go io.Copy(io.Discard, f.backends[i])
		}
		tunnel.Ask(ctx, tunnel.Farewell{Code: 1012, Window: 4 * time.Minute}, f.tunnels...)
		require.Equal(t, 2*time.Minute, time.Since(f.began))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, [4]bool{true, true, false, false}, asked)
		require.False(t, slices.ContainsFunc(f.tunnels, isOver), "somebody was cut")
		tunnel.Ask(t.Context(), tunnel.Farewell{Code: 1012}, f.tunnels...)
		require.Equal(t, time.Hour+2*time.Minute, time.Since(f.began))
		synctest.Wait()
		require.Equal(t, [4]bool{true, true, true, true}, asked)
		for _, tun := range f.tunnels {
			tun.Close(tunnel.Closed)
			<-tun.Ended()
		}
	})
}

// Eight tunnels over TCP stream frames of all sizes both ways while all are asked to end: every
// peer finds whole frames, then the close frame, then nothing.
func TestAsk_W6_UnderLoad(t *testing.T) {
	onEachEngine(t, testAskUnderLoad)
}

func testAskUnderLoad(t *testing.T, e *tunnel.Engine) {
	const n = 8
	var clean atomic.Int64
	var peers, busy sync.WaitGroup
	var conns [][2]net.Conn
	var tunnels []*tunnel.Tunnel
	for i := range n {
		client, near := tcpPair(t)
		backend, far := tcpPair(t)
		conns = append(conns, [2]net.Conn{client, backend})
		var other io.ReadWriteCloser = far
		if i%2 == 0 {
			other = newBody(far, nil)
		}
		tunnels = append(tunnels, begin(e, tunnel.Side{Conn: near}, tunnel.Side{Conn: other}, tunnel.Options{
			WebSocket: true,
			Done: func(end tunnel.End) {
				if end.By == tunnel.Shutdown && end.ClientCode == 1001 && end.BackendCode == 1001 && end.Err == nil {
					clean.Add(1)
				}
			},
		}))
	}
	for i, c := range conns {
		busy.Add(2)
		peers.Go(func() { stream(t, c[0], true, i, busy.Done) })
		peers.Go(func() { stream(t, c[1], false, i, busy.Done) })
	}
	busy.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	f := tunnel.Farewell{Code: 1001, Text: "going away", By: tunnel.Shutdown, Window: 300 * time.Millisecond}
	tunnel.Ask(ctx, f, tunnels...)
	shutdown(t, e)
	peers.Wait()
	require.EqualValues(t, n, clean.Load())
}

// streamed are the frames that peers send, by whether they are masked.
var streamed = map[bool][][]byte{}

func init() {
	for _, masked := range []bool{false, true} {
		for _, size := range []int{0, 1, 125} {
			streamed[masked] = append(streamed[masked], frame(text, make([]byte, size), 0, masked))
		}
		for _, size := range []int{126, 1000, 32_000, 65_535} {
			streamed[masked] = append(streamed[masked], frame(continuation, make([]byte, size), 2, masked))
		}
		for _, size := range []int{7, 65_536, 100_000} {
			streamed[masked] = append(streamed[masked], frame(fin|continuation, make([]byte, size), 8, masked))
		}
	}
}

// stream sends frames until a close frame comes, answers it and closes when it is told the end.
// It calls busy when it has received a few.
func stream(t *testing.T, c net.Conn, masked bool, seed int, busy func()) {
	defer c.Close()
	random := rand.New(rand.NewPCG(uint64(seed), uint64(len(streamed[masked]))))
	var stop atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		for !stop.Load() {
			c.Write(streamed[masked][random.IntN(len(streamed[masked]))])
		}
		c.Write(closeFrame(1001, "", masked))
	})
	defer writer.Wait()
	defer stop.Store(true)
	r := bufio.NewReader(c)
	for n := 0; ; n++ {
		if n == 5 {
			busy()
		}
		f, err := readFrame(r)
		if err != nil {
			t.Errorf("after %d whole frames: %v", n, err)
			return
		}
		if f[0]&0xf != closing {
			continue
		}
		if p := parse(f); len(p.codes) != 1 || p.codes[0] != 1001 || p.text != "going away" {
			t.Errorf("close frame %q", f)
		}
		break
	}
	stop.Store(true)
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Errorf("%d octets after the close frame, then %v", len(rest), err)
	}
}

// readFrame reads a frame and returns it if it is small, else its header. It must be one of
// those that are streamed, or a close frame.
func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return nil, err
	}
	size := 2 + int(head[1]&0x7f)
	if head[1]&0x80 != 0 {
		size += 4
	}
	if head[0]&0xf == closing {
		f := make([]byte, size)
		_, err := io.ReadFull(r, f)
		return f, err
	}
	for _, f := range streamed[head[1]&0x80 != 0] {
		if got, err := r.Peek(min(len(f), 14)); err == nil && bytes.Equal(got, f[:min(len(f), 14)]) {
			_, err := r.Discard(len(f))
			return f[:min(len(f), 14)], err
		}
	}
	return nil, fmt.Errorf("not one of the frames: % x", head)
}
