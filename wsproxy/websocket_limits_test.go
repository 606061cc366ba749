package wsproxy_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// chat opens a tunnel and passes some bytes both ways.
func chat(t testing.TB, c *wire) {
	t.Helper()
	c.open()
	c.send("hello")
	c.expect("hello")
}

// A tunnel outlives the server's own timeouts, and that of its handshake: it goes on until thrice
// their time has passed.
func TestProxy_W5_TunnelOutlivesTheServersTimeouts(t *testing.T) {
	t.Parallel() // it waits
	const timeout = 200 * time.Millisecond
	p, _ := tunnelled(t, rawBackend(t, "a", echoing))
	p.Tunnels.Handshake = timeout
	srv := serveWith(t, p, func(s *http.Server) { s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = timeout, timeout, timeout })
	var c *wire
	require.Eventually(t, func() bool { // a slow machine may need more than one handshake
		c = dial(t, srv)
		if _, err := c.Conn.Write([]byte(upgrade())); err != nil {
			return false
		}
		res, err := http.ReadResponse(c.Reader, nil)
		return err == nil && res.StatusCode == http.StatusSwitchingProtocols
	}, patience, time.Millisecond)
	for start := time.Now(); time.Since(start) < 3*timeout; {
		c.send("more")
		c.expect("more")
	}
}

// That bytes in either direction keep a tunnel open is pinned in package tunnel, where time is at
// hand.
func TestProxy_W5_IdleLimit(t *testing.T) {
	p, ends := tunnelled(t, rawBackend(t, "a", echoing))
	const idle = 200 * time.Millisecond
	p.Tunnels.Idle = idle
	c := dial(t, serve(t, p))
	c.open()
	c.expectClosed()
	end := wait(t, ends, "the end")
	require.Equal(t, "idle", end.EndedBy)
	require.GreaterOrEqual(t, end.Open, idle)
}

func TestProxy_W5_LifetimeLimit(t *testing.T) {
	const lifetime = 100 * time.Millisecond
	for name, jitter := range map[string]int{"default jitter": 0, "no jitter": -1, "all of it": 100} {
		t.Run(name, func(t *testing.T) {
			p, ends := tunnelled(t, rawBackend(t, "a", echoing))
			p.Tunnels.Lifetime, p.Tunnels.Jitter = lifetime, jitter
			c := dial(t, serve(t, p))
			c.open()
			for { // bytes do not keep it open
				if _, err := c.Conn.Write([]byte("hello")); err != nil {
					break
				}
				if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
					break
				}
			}
			end := wait(t, ends, "the end")
			require.Equal(t, "lifetime", end.EndedBy)
			switch jitter {
			case -1:
				require.GreaterOrEqual(t, end.Open, lifetime)
			case 0:
				require.GreaterOrEqual(t, end.Open, lifetime*9/10)
			}
		})
	}
}

// One side that has ended does not hold the tunnel for longer than the linger limit.
func TestProxy_W5_LingerLimit(t *testing.T) {
	p, ends := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, switching())
		io.Copy(io.Discard, r)
		<-t.Context().Done() // hears of the client's end, and does not end itself
	}))
	p.Tunnels.Linger = 50 * time.Millisecond
	c := dial(t, serve(t, p))
	c.open()
	c.closeWrite()
	c.expectClosed()
	require.Equal(t, "linger", wait(t, ends, "the end").EndedBy)
}

func TestProxy_W5_TunnelRecord(t *testing.T) {
	p, ends := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, switching()+"glued")
		all, _ := io.ReadAll(r)
		conn.Write(all[:3])
	}))
	done := make(chan wsproxy.Record, 1)
	p.Trace.Done = func(_ *http.Request, r wsproxy.Record) { done <- r }
	c := dial(t, serve(t, p))
	c.send(upgrade() + "early")
	c.head()
	record := wait(t, done, "the record")
	require.Equal(t, http.StatusSwitchingProtocols, record.Status)
	require.NoError(t, record.Err)
	c.send(" and late")
	c.closeWrite()
	c.expect("gluedear")
	c.expectEnd()
	end := wait(t, ends, "the end")
	require.EqualValues(t, len("early and late"), end.FromClient)
	require.EqualValues(t, len("gluedear"), end.FromBackend)
	require.Equal(t, "client closed", end.EndedBy)
	require.NoError(t, end.EndErr)
	require.Equal(t, "a", end.Target)
	require.Equal(t, "/chat", end.Path)
	require.Equal(t, http.StatusSwitchingProtocols, end.Status)
}

func TestProxy_B1_TunnelCountsUntilItCloses(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	p, ends := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		asked <- struct{}{}
		<-answer
		echoing(conn, r, req)
	}))
	m := member(t, p.Pool, "a")
	srv := serve(t, p)
	c := dial(t, srv)
	c.send(upgrade())
	wait(t, asked, "request at the backend")
	require.EqualValues(t, 1, m.Load())
	answer <- struct{}{}
	require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
	c.send("hello")
	c.expect("hello")
	require.EqualValues(t, 1, m.Load())
	require.EqualValues(t, 1, m.Tunnels())

	other := dial(t, srv)
	other.send(upgrade())
	wait(t, asked, "request at the backend")
	answer <- struct{}{}
	require.Equal(t, http.StatusSwitchingProtocols, other.head().StatusCode)
	require.EqualValues(t, 2, m.Load())
	require.EqualValues(t, 2, m.Tunnels())

	for left := int64(1); left >= 0; left-- {
		c.Close()
		wait(t, ends, "the end")
		require.Equal(t, left, m.Load())
		require.Equal(t, left, m.Tunnels())
		c = other
	}
}

func TestProxy_B1_RequestCountsWhileItIsServed(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	b := newBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		asked <- struct{}{}
		<-answer
	})
	pool, _ := newPool(t, b.target())
	m := member(t, pool, "a")
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: pool}))
	done := make(chan *reply, 1)
	go func() { done <- c.get("/") }()
	wait(t, asked, "request at the backend")
	require.EqualValues(t, 1, m.Load())
	require.Zero(t, m.Tunnels())
	close(answer)
	wait(t, done, "the answer")
	idleMember(t, pool, "a")
}

func TestProxy_W6_DownCutsItsOwnTunnelsOnly(t *testing.T) {
	a, b := rawBackend(t, "a", echoing), rawBackend(t, "b", echoing)
	pool, picker := newPool(t, a, b)
	ends := make(chan wsproxy.TunnelRecord, 16)
	srv := serve(t, &wsproxy.Proxy{Pool: pool, Trace: &wsproxy.Trace{Tunnel: func(r wsproxy.TunnelRecord) { ends <- r }}})
	stay := dial(t, srv)
	chat(t, stay)
	picker.to("b")
	one, two := dial(t, srv), dial(t, srv)
	chat(t, one)
	chat(t, two)
	gone := member(t, pool, "b")
	require.EqualValues(t, 2, gone.Tunnels())

	gone.SetAdmin(balancer.Down)
	one.expectClosed()
	two.expectClosed()
	for range 2 {
		end := wait(t, ends, "the end")
		require.Equal(t, "b", end.Target)
		require.Equal(t, "moved", end.EndedBy)
	}
	require.Zero(t, gone.Load())
	stay.send("still there")
	stay.expect("still there")
	require.EqualValues(t, 1, member(t, pool, "a").Tunnels())
	require.Empty(t, ends)
}

// Draining, moving, failing checks and leaving the pool leave tunnels alone, and so does an update
// with an equal set.
func TestProxy_W6_OtherChangesCutNothing(t *testing.T) {
	a, b := rawBackend(t, "a", echoing), rawBackend(t, "b", echoing)
	tests := map[string]func(t testing.TB, p *balancer.Pool){
		"draining":      func(t testing.TB, p *balancer.Pool) { member(t, p, "a").SetAdmin(balancer.Draining) },
		"unhealthy":     func(t testing.TB, p *balancer.Pool) { member(t, p, "a").SetHealth(balancer.Unhealthy) },
		"ejected":       func(t testing.TB, p *balancer.Pool) { member(t, p, "a").Eject(time.Now().Add(time.Hour)) },
		"equal set":     func(t testing.TB, p *balancer.Pool) { require.NoError(t, p.Update(a, b)) },
		"other removed": func(t testing.TB, p *balancer.Pool) { require.NoError(t, p.Update(a)) },
		"other down":    func(t testing.TB, p *balancer.Pool) { member(t, p, "b").SetAdmin(balancer.Down) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			pool, _ := newPool(t, a, b)
			c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
			chat(t, c)
			change(t, pool)
			c.send("still there")
			c.expect("still there")
			require.EqualValues(t, 1, member(t, pool, "a").Tunnels())
		})
	}
}

func TestProxy_W6_ShutdownWaits(t *testing.T) {
	p, ends := tunnelled(t, rawBackend(t, "a", echoing))
	p.Tunnels.Window = farAway // nobody is asked to end meanwhile
	srv := serve(t, p)
	c := dial(t, srv)
	chat(t, c)
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(t.Context()) }()
	require.Eventually(t, func() bool { // until it has begun
		late := dial(t, srv)
		late.send(upgrade())
		res := late.head()
		if res.StatusCode == http.StatusSwitchingProtocols {
			late.Close()
			return false
		}
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "5", res.Header.Get("Retry-After"))
		return true
	}, patience, time.Millisecond)
	require.Empty(t, done, "it waits")
	c.send("still there")
	c.expect("still there")
	c.closeWrite()
	c.expectEnd()
	require.NoError(t, wait(t, done, "the end of Shutdown"))
	end := wait(t, ends, "the end")
	for end.FromClient == 0 { // one of those that came before it had begun
		end = wait(t, ends, "the end")
	}
	require.Equal(t, "client closed", end.EndedBy)
	require.NotEqual(t, http.StatusServiceUnavailable, newClient(t, srv).get("/").StatusCode, "plain requests are the server's")
}

func TestProxy_W6_ShutdownCutsAtTheEndOfItsContext(t *testing.T) {
	p, ends := tunnelled(t, rawBackend(t, "a", echoing))
	srv := serve(t, p)
	for range 3 {
		chat(t, dial(t, srv))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Shutdown(ctx), context.Canceled)
	require.Zero(t, member(t, p.Pool, "a").Tunnels(), "it has waited for what it cut")
	require.Len(t, ends, 3)
	for range 3 {
		require.Equal(t, "shutdown", (<-ends).EndedBy)
	}
	require.NoError(t, p.Shutdown(t.Context()), "nothing is left")
}

func TestProxy_W6_ShutdownBeforeTheFirstRequest(t *testing.T) {
	p, _ := tunnelled(t, rawBackend(t, "a", echoing))
	require.NoError(t, p.Shutdown(t.Context()))
	c := dial(t, serve(t, p))
	c.send(upgrade())
	require.Equal(t, http.StatusServiceUnavailable, c.response().StatusCode)
}

// A switch that the target grants after Shutdown has begun is refused, and counted nowhere.
func TestProxy_W6_SwitchDuringShutdown(t *testing.T) {
	asked, answer, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	p, ends := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		close(asked)
		<-answer
		echoing(conn, r, req)
		close(gone)
	}))
	c := dial(t, serve(t, p))
	c.send(upgrade())
	wait(t, asked, "request at the backend")
	require.NoError(t, p.Shutdown(t.Context()), "there is no tunnel to wait for yet")
	close(answer)
	require.Equal(t, http.StatusServiceUnavailable, c.response().StatusCode)
	wait(t, gone, "the end at the backend")
	require.Empty(t, ends)
	idleMember(t, p.Pool, "a")
}

// haltingWriter gives a connection whose first Write says that it is reached, and goes on when it
// may.
type haltingWriter struct {
	http.ResponseWriter
	reached chan<- struct{}
	goOn    <-chan struct{}
}

type haltingConn struct {
	net.Conn
	halt func()
}

func (w haltingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	return haltingConn{conn, sync.OnceFunc(func() { w.reached <- struct{}{}; <-w.goOn })}, rw, err
}

func (c haltingConn) Write(p []byte) (int, error) {
	c.halt()
	return c.Conn.Write(p)
}

// Whoever is being sent the 101 while Shutdown begins has a WebSocket, and so gets a close frame,
// and is waited for. Nobody else has to wait for that.
func TestProxy_W6_ShutdownAtTheSwitch(t *testing.T) {
	reached, goOn := make(chan struct{}), make(chan struct{})
	p, ends := tunnelled(t, chatter(t, "a"))
	p.Tunnels.Window = -1
	other := dial(t, serve(t, p))
	other.send(upgrade())
	require.Equal(t, http.StatusSwitchingProtocols, other.head().StatusCode)
	late := dial(t, serve(t, wrapped(p, func(w http.ResponseWriter) http.ResponseWriter {
		return haltingWriter{w, reached, goOn}
	})))
	late.send(upgrade())
	wait(t, reached, "the 101")
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(t.Context()) }()
	farewell := func(c *wire) {
		t.Helper()
		f := readFrame(t, c)
		require.Equal(t, byte(0x88), f.head)
		require.EqualValues(t, 1001, binary.BigEndian.Uint16(f.payload))
		c.send(maskedFrame(0x88, string(f.payload)))
		c.expectClosed()
		c.Close()
	}
	farewell(other)
	require.Equal(t, "shutdown", wait(t, ends, "the end").EndedBy)
	require.Empty(t, done, "it waits")
	close(goOn)
	require.Equal(t, http.StatusSwitchingProtocols, late.head().StatusCode)
	farewell(late)
	require.NoError(t, wait(t, done, "the end of Shutdown"))
	require.Equal(t, "shutdown", wait(t, ends, "the end").EndedBy)
}

// A client that does not take its 101 holds Shutdown up until its context ends.
func TestProxy_W6_ShutdownGivesUpTheSwitch(t *testing.T) {
	reached, goOn := make(chan struct{}), make(chan struct{})
	p, ends := tunnelled(t, chatter(t, "a"))
	c := dial(t, serve(t, wrapped(p, func(w http.ResponseWriter) http.ResponseWriter {
		return haltingWriter{w, reached, goOn}
	})))
	c.send(upgrade())
	wait(t, reached, "the 101")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Shutdown(ctx)
	close(goOn)
	c.expectClosed()
	require.Equal(t, "shutdown", wait(t, ends, "the end").EndedBy)
	idleMember(t, p.Pool, "a")
}

// The limit of an attempt that has failed otherwise says nothing to the next one, even if it is
// over at that very moment: the race detector sees it if it does.
func TestProxy_W5_HandshakeLimitIsOfOneAttempt(t *testing.T) {
	t.Parallel() // it waits
	const limit = time.Millisecond
	var first atomic.Bool
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		if first.Swap(false) {
			<-time.After(limit)
			return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
		}
		return &http.Response{StatusCode: http.StatusForbidden, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
	})
	pool, _ := newPool(t, target("a", "http://a"), target("b", "http://b"))
	p := &wsproxy.Proxy{Pool: pool, Transport: transport, Logger: noLog, Tunnels: wsproxy.TunnelLimits{Handshake: limit}}
	srv := serve(t, p)
	for range 300 {
		first.Store(true)
		c := dialOnce(t, srv)
		c.send(upgrade())
		require.Contains(t, []int{http.StatusForbidden, http.StatusGatewayTimeout}, c.response().StatusCode)
		c.Close()
	}
}
