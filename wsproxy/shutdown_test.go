package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// frameStream is a backend that sends large messages all the time, until it is sent a close frame,
// which it answers behind the frame that is on its way. It tells the close frame's code.
func frameStream(codes chan<- uint16) play {
	return func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		conn.SetDeadline(time.Time{})
		io.WriteString(conn, accepting(req))
		asked := make(chan []byte, 1)
		go func() {
			for {
				head, payload, err := readAnyFrame(r)
				if err != nil || head == 0x88 {
					asked <- payload
					return
				}
			}
		}()
		frame := largeFrame(50_021, 0)
		pace := time.NewTicker(pause)
		defer pace.Stop()
		for {
			select {
			case payload := <-asked:
				if len(payload) >= 2 {
					codes <- binary.BigEndian.Uint16(payload)
					conn.Write(append([]byte{0x88, byte(len(payload))}, payload...))
				}
				return
			case <-pace.C:
			}
			if err := writeHalves(conn, frame, pace); err != nil {
				codes <- 0
				return
			}
		}
	}
}

// pause is what a stream of large messages leaves between them.
const pause = 100 * time.Millisecond

// writeHalves pauses in the middle of the frame: that is where a close frame must not go.
func writeHalves(conn net.Conn, frame []byte, pace *time.Ticker) error {
	if _, err := conn.Write(frame[:len(frame)/2]); err != nil {
		return err
	}
	<-pace.C
	_, err := conn.Write(frame[len(frame)/2:])
	return err
}

// largeFrame is a frame of that many octets of payload, all alike, unmasked or under the mask of
// all zeros.
func largeFrame(size int, mask byte) []byte {
	frame := binary.BigEndian.AppendUint64([]byte{0x82, mask | 127}, uint64(size))
	if mask != 0 {
		frame = append(frame, 0, 0, 0, 0)
	}
	return append(frame, bytes.Repeat([]byte("x"), size)...)
}

// readAnyFrame reads a frame of any size, and checks that the payload of a message is as it was
// sent.
func readAnyFrame(r *bufio.Reader) (head byte, payload []byte, err error) {
	var first [2]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(first[1] & 0x7f)
	switch size {
	case 126:
		var more [2]byte
		_, err = io.ReadFull(r, more[:])
		size = uint64(binary.BigEndian.Uint16(more[:]))
	case 127:
		var more [8]byte
		_, err = io.ReadFull(r, more[:])
		size = binary.BigEndian.Uint64(more[:])
	}
	var mask [4]byte
	if err == nil && first[1]&0x80 != 0 {
		_, err = io.ReadFull(r, mask[:])
	}
	if err != nil {
		return 0, nil, errors.New("an end within a frame's header")
	}
	if size > 1<<20 {
		return 0, nil, fmt.Errorf("a frame of %d octets: the count of frames is lost", size)
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, errors.New("an end within a frame")
	}
	if mask != [4]byte{} { // that of a close frame of the proxy's
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
	}
	if first[0] == 0x82 && bytes.Count(payload, []byte("x")) != len(payload) {
		return 0, nil, errors.New("other octets in a message")
	}
	return first[0], payload, nil
}

// A goodbye is what a client was told at the end.
type goodbye struct {
	code uint16
	at   time.Time
	err  error
}

// stay reads frames until the close frame, answers it, and reads to the end. A busy client sends
// large messages meanwhile.
func stay(conn net.Conn, r *bufio.Reader, busy bool) goodbye {
	stop := make(chan struct{})
	var sending sync.WaitGroup
	if busy {
		sending.Go(func() {
			frame := largeFrame(70_003, 0x80)
			pace := time.NewTicker(pause)
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				if writeHalves(conn, frame, pace) != nil {
					return
				}
			}
		})
	}
	for {
		head, payload, err := readAnyFrame(r)
		if err != nil {
			close(stop)
			conn.Close()
			sending.Wait()
			return goodbye{err: err}
		}
		if head != 0x88 {
			continue
		}
		g := goodbye{code: binary.BigEndian.Uint16(payload), at: time.Now()}
		close(stop)
		sending.Wait() // the frame that is on its way
		io.WriteString(conn, maskedFrame(0x88, string(payload)))
		if n, _ := io.Copy(io.Discard, r); n > 0 {
			g.err = fmt.Errorf("%d bytes after the close frame", n)
		}
		conn.Close()
		return g
	}
}

// shutDownMany opens so many tunnels, shuts the proxy down, and checks what everybody was told. A
// fiftieth of them streams large messages both ways all the while.
func shutDownMany(t *testing.T, tunnels int, half bool, front func(testing.TB, http.Handler) *httptest.Server,
	dial func(*httptest.Server) func([]byte) (net.Conn, error)) {
	const window = 3 * time.Second
	codes := make(chan uint16, tunnels)
	quiet, busy := chatter(t, "quiet"), rawBackend(t, "busy", frameStream(codes))
	pool, picker := newPool(t, quiet, busy)
	ends := make(chan wsproxy.TunnelRecord, tunnels)
	p := &wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{Window: window}, Trace: &wsproxy.Trace{
		Tunnel: func(r wsproxy.TunnelRecord) { ends <- r },
	}}
	open := dial(front(t, p))
	goodbyes := make(chan goodbye, tunnels)
	streaming := 0
	var conns []net.Conn
	for i := range tunnels {
		streams := i >= tunnels-tunnels/50
		if picker.to("quiet"); streams {
			streaming++
			picker.to("busy")
		}
		conn, err := open(nil)
		require.NoError(t, err)
		conns = append(conns, conn)
		r, ok := conn.(interface{ buffered() *bufio.Reader })
		reader := bufio.NewReader(conn)
		if ok {
			reader = r.buffered()
		}
		go func() { goodbyes <- stay(conn, reader, streams) }()
	}
	idle := func() bool {
		return member(t, pool, "quiet").Tunnels()+member(t, pool, "busy").Tunnels() == int64(tunnels)
	}
	require.Eventually(t, idle, patience, time.Millisecond)
	for _, conn := range conns { // not before: a slow machine takes long to open a thousand
		require.NoError(t, conn.SetDeadline(time.Now().Add(4*patience)))
	}

	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	require.NoError(t, p.Shutdown(ctx))

	var late int
	first, last := time.Now(), start
	for range tunnels {
		g := wait(t, goodbyes, "a goodbye")
		require.NoError(t, g.err)
		require.EqualValues(t, 1001, g.code)
		if g.at.Sub(start) >= window/2 {
			late++
		}
		if g.at.Before(first) {
			first = g.at
		}
		if g.at.After(last) {
			last = g.at
		}
		end := wait(t, ends, "an end")
		require.Equal(t, "shutdown", end.EndedBy)
		if end.ClientCode != 0 || half { // over HTTP/2 nobody waits for the answer for longer than a second
			require.EqualValues(t, 1001, end.ClientCode)
		}
		require.EqualValues(t, 1001, end.BackendCode)
	}
	require.Greater(t, last.Sub(first), window/8, "not all at the end, even if the machine stands still for most of it")
	require.GreaterOrEqual(t, late, tunnels/2-1, "nobody is asked before the turn that comes in the second half")
	for range streaming {
		require.EqualValues(t, 1001, wait(t, codes, "the code at a backend"))
	}
	for _, m := range []*balancer.Member{member(t, pool, "quiet"), member(t, pool, "busy")} {
		require.Zero(t, m.Load())
	}
}

// manyTunnels returns how many tunnels there are to shut down: a thousand under .ci/soak, or fewer
// where the process may not have the four descriptors for each.
func manyTunnels(t testing.TB) int {
	t.Helper()
	return min(soaktest.Times(200, 1000), (descriptorLimit(t)-96)/4)
}

func TestProxy_W6_ShutdownOfManyTunnels(t *testing.T) {
	t.Parallel() // it waits
	shutDownMany(t, manyTunnels(t), true, serve, dialH1)
}

func TestProxy_W6_ShutdownOfManyStreams(t *testing.T) {
	if inExtended(t) {
		shutDownMany(t, manyTunnels(t), false, serveTLS, dialH2(t))
	}
}
