package stream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

func TestServer_S22_Drain(t *testing.T) {
	a, b := newBackend(t, "a", nil, greeting("a")), newBackend(t, "b", nil, greeting("b"))
	pool := first(t, a.target(), b.target())
	r := serve(t, &stream.Server{Pool: pool})
	old := r.dial(t)
	expect(t, old, "a")
	m := member(t, pool, "a")
	for _, step := range []balancer.Admin{balancer.Draining, balancer.Moving} {
		m.SetAdmin(step)
		expect(t, r.dial(t), "b")
		chat(t, old)
	}
	m.SetAdmin(balancer.Down)
	expectEnd(t, old)
	rec := r.ended(t)
	require.Equal(t, "moved", rec.EndedBy)
	require.Equal(t, "a", rec.Target)
	require.NoError(t, rec.Err)
	expect(t, r.dial(t), "b")
	m.SetAdmin(balancer.Ready)
	expect(t, r.dial(t), "a")
}

// health.Registry.Drain does not cut connections that end in time.
func TestServer_S22_DrainByRegistry(t *testing.T) {
	a, b := newBackend(t, "a", nil, greeting("a")), newBackend(t, "b", nil, greeting("b"))
	pool := first(t, a.target(), b.target())
	r := serve(t, &stream.Server{Pool: pool})
	drain := func(limit time.Duration) <-chan error {
		done := make(chan error, 1)
		registry := &health.Registry{Pool: pool}
		go func() { done <- registry.Drain(t.Context(), "a", health.Drain{Grace: -1, Limit: limit}) }()
		return done
	}
	old := r.dial(t)
	expect(t, old, "a")
	drained := drain(0)
	until(t, "it is moving", func() bool { return member(t, pool, "a").State().Admin == balancer.Moving })
	chat(t, old)
	require.Empty(t, drained)
	require.NoError(t, old.Close())
	require.NoError(t, wait(t, drained, "the drain"))
	require.Equal(t, "client closed", r.ended(t).EndedBy)

	member(t, pool, "a").SetAdmin(balancer.Ready)
	old = r.dial(t)
	expect(t, old, "a")
	require.ErrorIs(t, wait(t, drain(10*time.Millisecond), "the drain"), context.DeadlineExceeded)
	expectEnd(t, old)
	require.Equal(t, "moved", r.ended(t).EndedBy)
}

// Two servers with one pool follow its states, and so does one server with several pools.
func TestServer_S22_EachPoolIsFollowed(t *testing.T) {
	a, b := newBackend(t, "a", nil, greeting("a")), newBackend(t, "b", nil, greeting("b"))
	pools := []*balancer.Pool{first(t, a.target()), first(t, b.target())}
	next := make(chan *balancer.Pool, 4)
	s := &stream.Server{Route: func(stream.Client) *balancer.Pool { return <-next }}
	r, other := serve(t, s), serve(t, &stream.Server{Pool: pools[0]})
	var conns []net.Conn
	for _, i := range []int{0, 1, 0} {
		next <- pools[i]
		c := r.dial(t)
		expect(t, c, string(rune('a'+i)))
		conns = append(conns, c)
	}
	c := other.dial(t)
	expect(t, c, "a")
	member(t, pools[0], "a").SetAdmin(balancer.Down)
	expectEnd(t, conns[0])
	expectEnd(t, conns[2])
	expectEnd(t, c)
	chat(t, conns[1])
	member(t, pools[1], "b").SetAdmin(balancer.Down)
	expectEnd(t, conns[1])
	until(t, "idle", func() bool { return member(t, pools[0], "a").Load()+member(t, pools[1], "b").Load() == 0 })
}

func TestServer_W6_Shutdown(t *testing.T) {
	b := newBackend(t, "a", nil, echoing)
	s := &stream.Server{Pool: first(t, b.target())}
	l, second := listen(t), listen(t)
	r := serveOn(t, s, l)
	served := make(chan error, 1)
	go func() { served <- s.Serve(second) }()
	c, late := r.dial(t), dialOnce(t, second.Addr().String(), "127.0.0.1")
	defer late.Close()
	chat(t, c)
	chat(t, late)
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	require.ErrorIs(t, wait(t, r.served, "Serve's end"), stream.ErrServerClosed)
	require.ErrorIs(t, wait(t, served, "Serve's end"), stream.ErrServerClosed)
	for _, l := range []net.Listener{l, second} { // to dial might meet the port's next owner
		_, err := l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	}
	chat(t, c)
	require.NoError(t, c.Close())
	chat(t, late)
	require.Empty(t, down)
	require.NoError(t, late.Close())
	require.NoError(t, wait(t, down, "Shutdown's end"))
	again := listen(t)
	require.ErrorIs(t, s.Serve(again), stream.ErrServerClosed)
	_, err := again.Accept()
	require.ErrorIs(t, err, net.ErrClosed, "Serve closes what it was given")
	require.NoError(t, s.Shutdown(t.Context()))
	require.NoError(t, s.Close())
}

func TestServer_W6_ShutdownCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &stream.Server{ReadHello: true, Limits: stream.Limits{Handshake: -1}})
		hello := helloOf(t, trusting("one.example"))
		c, silent := b.dial(), b.dial() // the second has no target yet
		go c.Write(hello)
		far := <-b.far
		go io.Copy(io.Discard, far)
		synctest.Wait() // Serve has begun with both
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, b.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		require.ErrorIs(t, <-b.served, stream.ErrServerClosed)
		require.Len(t, b.records, 2, "Shutdown did not wait for everything")
		for range 2 {
			rec := <-b.records
			if rec.Target == "" {
				failure, ok := errors.AsType[*stream.Error](rec.Err)
				require.True(t, ok)
				require.Equal(t, stream.ClassShutdown, failure.Class)
				continue
			}
			require.Equal(t, "shutdown", rec.EndedBy)
		}
		expectEnd(t, c)
		expectEnd(t, silent)
		idle(t, b.Pool)
	})
}

// Accepted clients are served although Shutdown has begun.
func TestServer_W6_ShutdownLetsConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialling := make(chan net.Conn)
		b := newBubble(t, &stream.Server{Dial: func(context.Context, *balancer.Member) (net.Conn, error) {
			return <-dialling, nil
		}})
		c := b.dial()
		synctest.Wait() // Serve has begun with it
		down := make(chan error, 1)
		go func() { down <- b.Shutdown(t.Context()) }()
		require.ErrorIs(t, <-b.served, stream.ErrServerClosed)
		near, far := newDuplex()
		dialling <- near
		go echoing(far)
		go io.WriteString(c, "ping")
		expect(t, c, "ping")
		require.NoError(t, c.Close())
		require.NoError(t, <-down)
		require.Equal(t, "client closed", (<-b.records).EndedBy)
	})
}

// Shutdown also cuts clients that wait in the queue or for a dial.
func TestServer_W6_CloseInEveryState(t *testing.T) {
	one := target("a", "192.0.2.1:1")
	one.MaxTunnels = 1
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, balancer.Config{Queue: 1}, one)
		b := newBubble(t, &stream.Server{Pool: pool, Dial: func(ctx context.Context, _ *balancer.Member) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		o := observe(t, pool)
		dials := b.dial()
		synctest.Wait()
		waits := b.dial()
		synctest.Wait()
		require.NoError(t, b.Server.Close())
		for range 2 {
			rec := <-b.records
			failure, ok := errors.AsType[*stream.Error](rec.Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassShutdown, failure.Class, rec.Err)
		}
		expectEnd(t, dials)
		expectEnd(t, waits)
		_, class := o.class(t)
		require.Equal(t, balancer.Unjudged, class, "the target is not to blame")
		idle(t, pool)
	})
}

// A failing Accept is repeated after growing pauses, as in net/http.
func TestServer_AcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &stream.Server{})
		began := time.Now()
		for range 10 {
			b.errs <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
		}
		c, far := b.open(t) // 5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000 ms
		require.Equal(t, 3275*time.Millisecond, time.Since(began))
		began = time.Now()
		b.errs <- &net.OpError{Op: "accept", Err: syscall.ENFILE}
		c2, far2 := b.open(t)
		require.Equal(t, 5*time.Millisecond, time.Since(began), "a success ends the growth")
		for _, c := range []net.Conn{c, far, c2, far2} {
			c.Close()
		}
		b.errs <- net.ErrClosed
		require.ErrorIs(t, <-b.served, net.ErrClosed)
	})
}

func TestServer_AcceptPauseEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &stream.Server{})
		for range 10 {
			b.errs <- syscall.EMFILE
		}
		began := time.Now()
		require.NoError(t, b.Server.Close())
		require.ErrorIs(t, <-b.served, stream.ErrServerClosed)
		require.Equal(t, began, time.Now())
	})
}

// However a target leaves, its limit ends its connections: in TCP mode nothing else does. No other
// connection ends, and the loads stay correct.
func TestServer_B3_LimitOfTargetsThatLeave(t *testing.T) {
	short := health.Drain{Grace: -1, Limit: 10 * time.Millisecond}
	for name, leave := range map[string]func(t *testing.T, r *health.Registry, elsewhere balancer.Target){
		"drained, and removed meanwhile": func(t *testing.T, r *health.Registry, _ balancer.Target) {
			a := member(t, r.Pool, "a")
			done := make(chan error, 1)
			go func() { done <- r.Drain(t.Context(), "a", health.Drain{Limit: 300 * time.Millisecond}) }()
			until(t, "it is draining, or on a slow machine down", func() bool { return a.State().Admin != balancer.Ready })
			r.Pool.Remove(a)
			require.ErrorIs(t, wait(t, done, "the drain"), context.DeadlineExceeded)
		},
		"removed, and then drained": func(t *testing.T, r *health.Registry, _ balancer.Target) {
			r.Pool.Remove(member(t, r.Pool, "a"))
			require.ErrorIs(t, r.Drain(t.Context(), "a", short), context.DeadlineExceeded)
		},
		"removed, and then set down": func(t *testing.T, r *health.Registry, _ balancer.Target) {
			r.Pool.Remove(member(t, r.Pool, "a"))
			r.Pool.Leaving()[0].SetAdmin(balancer.Down)
		},
		"missing in the list": func(t *testing.T, r *health.Registry, _ balancer.Target) {
			require.NoError(t, r.Replace([]balancer.Target{member(t, r.Pool, "b").Target()}, short))
			require.NoError(t, r.Settled(t.Context()))
		},
		"another endpoint in the list": func(t *testing.T, r *health.Registry, elsewhere balancer.Target) {
			require.NoError(t, r.Replace([]balancer.Target{elsewhere, member(t, r.Pool, "b").Target()}, short))
			require.NoError(t, r.Settled(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newBackend(t, "a", nil, greeting("a")), newBackend(t, "b", nil, greeting("b"))
			elsewhere := newBackend(t, "a", nil, greeting("a, elsewhere"))
			pool := first(t, a.target(), b.target())
			registry := &health.Registry{Pool: pool, Interval: -1, Logger: noLog}
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- registry.Run(ctx) }()
			t.Cleanup(func() { stop(); require.NoError(t, <-done) })
			require.NoError(t, registry.Ready(t.Context()))

			r := serve(t, &stream.Server{Pool: pool})
			going := []net.Conn{r.dial(t), r.dial(t)}
			expect(t, going[0], "a")
			expect(t, going[1], "a")
			old := member(t, pool, "a")
			old.SetAdmin(balancer.Draining)
			staying := r.dial(t)
			expect(t, staying, "b")
			old.SetAdmin(balancer.Ready)
			require.EqualValues(t, 2, old.Tunnels())

			leave(t, registry, elsewhere.target())
			for _, c := range going {
				expectEnd(t, c)
				rec := r.ended(t)
				require.Equal(t, "moved", rec.EndedBy)
				require.Equal(t, "a", rec.Target)
			}
			until(t, "nothing is left", func() bool { return len(pool.Leaving()) == 0 })
			require.Zero(t, old.Load())
			chat(t, staying)
			require.EqualValues(t, 1, member(t, pool, "b").Tunnels())
			later := r.dial(t)
			if _, ok := pool.Member("a"); ok {
				expect(t, later, "a, elsewhere")
			} else {
				expect(t, later, "b")
			}
		})
	}
}

// In TCP mode a list of targets that changes back and forth ends no connection. A target's limit
// ends only its own connections.
func TestServer_B3_FlappingList(t *testing.T) {
	a, b := newBackend(t, "a", nil, greeting("a")), newBackend(t, "b", nil, greeting("b"))
	pool := first(t, a.target(), b.target())
	registry := &health.Registry{Pool: pool, Interval: -1, Logger: noLog}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- registry.Run(ctx) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-done) })
	require.NoError(t, registry.Ready(t.Context()))
	r := serve(t, &stream.Server{Pool: pool})
	c := r.dial(t)
	expect(t, c, "a")
	both := []balancer.Target{a.target(), b.target()}
	for range 20 {
		require.NoError(t, registry.Replace(both[1:], health.Drain{Limit: time.Hour}))
		during := r.dial(t)
		expect(t, during, "b")
		require.NoError(t, registry.Replace(both, health.Drain{Limit: time.Hour}))
		require.NoError(t, registry.Settled(t.Context()))
		chat(t, c)
		chat(t, during)
	}
	require.EqualValues(t, 1, member(t, pool, "a").Tunnels())
	require.EqualValues(t, 20, member(t, pool, "b").Tunnels())
	require.Empty(t, r.records)
	require.NoError(t, registry.Replace(both[1:], health.Drain{Grace: -1, Limit: time.Millisecond}))
	require.NoError(t, registry.Settled(t.Context()))
	expectEnd(t, c)
	require.Equal(t, "a", r.ended(t).Target)
	require.Empty(t, r.records)
}
