package tunnel_test

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// states are what a tunnel can be in when it is cut. Each leaves it in that state for as long as
// nobody cuts it.
var states = map[string]func(t *testing.T, o *opened){
	"new":  func(*testing.T, *opened) {},
	"used": func(t *testing.T, o *opened) { echo(t, o) },
	"client stuck": func(t *testing.T, o *opened) {
		flood(o.backend)
	},
	"backend stuck": func(t *testing.T, o *opened) {
		flood(o.client)
	},
	"both stuck": func(t *testing.T, o *opened) {
		flood(o.client)
		flood(o.backend)
	},
	"client half-closed": func(t *testing.T, o *opened) {
		halfClose(t, o.client)
		expectEnd(t, o.backend)
	},
	"backend half-closed": func(t *testing.T, o *opened) {
		halfClose(t, o.backend)
		expectEnd(t, o.client)
	},
	"client half-closed and stuck": func(t *testing.T, o *opened) {
		halfClose(t, o.client)
		expectEnd(t, o.backend)
		flood(o.backend)
	},
	"client gone": func(t *testing.T, o *opened) {
		tunneltest.Reset(t, o.client)
		expectEnd(t, o.backend)
	},
	"backend gone": func(t *testing.T, o *opened) {
		tunneltest.Reset(t, o.backend)
		expectEnd(t, o.client)
	},
}

func echo(t testing.TB, o *opened) {
	t.Helper()
	for _, way := range [][2]net.Conn{{o.client, o.backend}, {o.backend, o.client}} {
		write(t, way[0], "hello")
		expect(t, way[1], "hello")
	}
}

// flood sends until the tunnel ends, and returns when nothing is taken any more.
func flood(c net.Conn) {
	stuck := make(chan struct{})
	go func() {
		timer := time.AfterFunc(50*time.Millisecond, sync.OnceFunc(func() { close(stuck) }))
		p := make([]byte, 64<<10)
		for {
			if _, err := c.Write(p); err != nil {
				return
			}
			timer.Reset(50 * time.Millisecond)
		}
	}()
	<-stuck
}

func halfClose(t testing.TB, c net.Conn) {
	t.Helper()
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
}

// expectEnd reads an end of any kind.
func expectEnd(t testing.TB, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestTunnel_W5_CloseInEveryState(t *testing.T) {
	testStates(t, func(o *opened) { o.Close(tunnel.Moved) }, tunnel.Moved)
}

func TestTunnel_W6_ShutdownInEveryState(t *testing.T) {
	testStates(t, func(o *opened) {
		o.Close(tunnel.Shutdown)
		<-o.Ended()
	}, tunnel.Shutdown)
}

// testStates cuts tunnels in every state over every kind of connection: both outer ends must see
// it.
func testStates(t *testing.T, cut func(*opened), by tunnel.Reason) {
	for _, pair := range [][2]link{{tcpLink, tcpLink}, {keptLink, keptLink}, {tlsLink, tlsBodyLink}, {tlsLink, tcpLink}} {
		for name, enter := range states {
			t.Run(pair[0].name+" to "+pair[1].name+"/"+name, func(t *testing.T) {
				t.Parallel()
				o := open(t, pair[0], pair[1], tunnel.Options{}, nil, nil)
				enter(t, o)
				cut(o)
				end := o.end(t)
				switch name {
				case "client gone":
					require.Equal(t, tunnel.ClientReadFailed, end.By)
				case "backend gone":
					require.Equal(t, tunnel.BackendReadFailed, end.By)
				default:
					require.Equal(t, by, end.By)
					require.NoError(t, end.Err)
				}
				for _, c := range []net.Conn{o.client, o.backend} {
					c.SetReadDeadline(time.Now().Add(30 * time.Second))
					_, err := io.Copy(io.Discard, c)
					require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				}
				require.Empty(t, o.ended, "Done was called twice")
				o.Close(tunnel.Closed) // after the end nothing happens
				require.Empty(t, o.ended)
			})
		}
	}
}

// Closing a TLS connection writes an alert. A peer that does not read must not hold that up for the
// five seconds that crypto/tls gives it, even if no Write is under way that would tell crypto/tls
// so. A machine that stalls is slow once; who waits is slow each time.
func TestTunnel_W5_CloseTLSWithFullSocket(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		t.Parallel() // it only waits
		var took []time.Duration
		for range 4 {
			d := closeTLSWithFullSocket(t, e)
			if d > 900*time.Millisecond && d < 3*time.Second {
				return
			}
			took = append(took, d)
		}
		require.Fail(t, "the socket was not full, or the close is not cut short", took)
	})
}

// closeTLSWithFullSocket returns how long it takes to cut a tunnel whose client takes nothing any
// more.
func closeTLSWithFullSocket(t *testing.T, e *tunnel.Engine) time.Duration {
	outer, near := tlsPair(t)
	defer outer.Close()
	backend, far := tcpPair(t)
	defer backend.Close()
	under := near.NetConn().(*net.TCPConn)
	require.NoError(t, under.SetWriteBuffer(4096)) // a size that is set does not grow
	require.NoError(t, outer.NetConn().(*net.TCPConn).SetReadBuffer(4096))
	fill(t, under)

	o := startOn(e, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{})
	began := time.Now()
	o.Close(tunnel.Closed)
	expectEnd(t, backend)
	o.end(t)
	return time.Since(began)
}

// fill writes to c until the system has not taken a byte for half a second: an acknowledgement that
// makes room again may be delayed by a tenth of that, and a lost one comes again after two.
func fill(t testing.TB, c *net.TCPConn) {
	t.Helper()
	p := make([]byte, 64<<10)
	for full := 0; full < 50; full++ {
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
		if n, _ := c.Write(p); n > 0 {
			full = 0
		}
	}
	require.NoError(t, c.SetWriteDeadline(time.Time{}))
}

// A tunnel that is refused moves no byte: not even the early ones.
func TestEngine_W6_Refuse(t *testing.T) {
	onEachEngine(t, testRefuse)
}

func testRefuse(t *testing.T, e *tunnel.Engine) {
	client, near := tcpPair(t)
	defer client.Close()
	backend, far := tcpPair(t)
	defer backend.Close()
	ended := make(chan tunnel.End, 1)
	o := tunnel.Options{Idle: time.Hour, Done: func(end tunnel.End) { ended <- end }}
	refused := e.Refuse(tunnel.Side{Conn: near, Early: []byte("x")}, tunnel.Side{Conn: far}, o)
	end := <-ended
	require.Equal(t, tunnel.End{By: tunnel.Shutdown, Duration: end.Duration}, end)
	expectEnd(t, client)
	expectEnd(t, backend)
	awaitEnds(t, refused.Ended())
	shutdown(t, e)
}

// Done may use the engine and the tunnel: no lock is held while it runs.
func TestTunnel_DoneHoldsNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e tunnel.Engine
		started := make(chan *tunnel.Tunnel, 1)
		ended := make(chan tunnel.End, 1)
		begin := func(o tunnel.Options) *tunnel.Tunnel {
			_, near := newDuplex()
			_, far := newDuplex()
			return e.Start(tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, o)
		}
		started <- begin(tunnel.Options{Idle: time.Second, Done: func(tunnel.End) {
			first := <-started
			first.Close(tunnel.Closed)
			first.CloseFrame(tunnel.Farewell{}, time.Time{})
			second := begin(tunnel.Options{Done: func(end tunnel.End) { ended <- end }})
			second.Close(tunnel.Moved)
		}})
		require.Equal(t, tunnel.Moved, (<-ended).By)
	})
}

// Nothing refers to a tunnel that has ended, not even the timer of its limits.
func TestTunnel_EndedIsForgotten(t *testing.T) {
	client, near := newDuplex()
	_, far := newDuplex()
	o := start(t, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{Lifetime: time.Hour})
	gone := weak.Make(o.Tunnel)
	o.Close(tunnel.Closed)
	o.end(t)
	o.Tunnel = nil
	settled(t, func() bool { runtime.GC(); return gone.Value() == nil })
	expectEOF(t, client)
}

// Hundreds of tunnels end in every way, or thousands under .ci/soak; descriptors and goroutines are
// back where they were.
func TestEngine_W5_NothingLeaks(t *testing.T) {
	onEachEngine(t, testNothingLeaks)
}

func testNothingLeaks(t *testing.T, e *tunnel.Engine) {
	const workers = 8
	total := soaktest.Times(400, 4000)
	goroutines, descriptors := held(t)
	var done sync.WaitGroup
	done.Add(total)
	jobs := make(chan int)
	var pool sync.WaitGroup
	for range workers {
		pool.Go(func() {
			for i := range jobs {
				oneLife(t, e, i, done.Done)
			}
		})
	}
	for i := range total {
		jobs <- i
	}
	close(jobs)
	pool.Wait()
	done.Wait()
	shutdown(t, e)
	settled(t, func() bool { return runtime.NumGoroutine() <= goroutines })
	require.LessOrEqual(t, openDescriptors(t), descriptors)
}

// oneLife opens a tunnel, uses it and ends it in the i-th way.
func oneLife(t *testing.T, e *tunnel.Engine, i int, done func()) {
	client, near := tcpPair(t)
	backend, far := tcpPair(t)
	defer client.Close()
	defer backend.Close()
	side := tunnel.Side{Conn: far, Early: []byte("glued")}
	if i%2 == 0 {
		side.Conn = newBody(far, nil)
	}
	tun := begin(e, tunnel.Side{Conn: near, Early: []byte("early")}, side, tunnel.Options{
		Idle: time.Hour, Done: func(tunnel.End) { done() },
	})
	expect(t, backend, "early")
	expect(t, client, "glued")
	for _, c := range []net.Conn{client, backend} {
		c.(*net.TCPConn).SetLinger(0) // thousands of ports in TIME_WAIT help nobody
	}
	switch i % 5 {
	case 0:
		halfClose(t, client)
		expectEnd(t, backend)
	case 1:
		halfClose(t, backend)
		expectEnd(t, client)
	case 2:
		client.Close()
		expectEnd(t, backend)
	case 3:
		tun.Close(tunnel.Closed)
		expectEnd(t, client)
		expectEnd(t, backend)
	}
}

// held is what the process has, with what its first connection opens for good.
func held(t testing.TB) (goroutines, descriptors int) {
	t.Helper()
	outer, near := tcpPair(t)
	outer.Close()
	near.Close()
	return runtime.NumGoroutine(), openDescriptors(t)
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// settled waits until ok holds: the last instructions of a goroutine are nobody's to wait for.
func settled(t testing.TB, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); runtime.Gosched() {
		require.Less(t, time.Since(began), 30*time.Second)
	}
}
