package stream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// An outcomes records the outcomes that a pool gets.
type outcomes struct {
	released chan released
}

type released struct {
	id string
	balancer.Outcome
}

func observe(t testing.TB, p *balancer.Pool) *outcomes {
	t.Helper()
	o := &outcomes{make(chan released, 100)}
	t.Cleanup(p.Observe(o))
	return o
}

func (o *outcomes) Released(m *balancer.Member, out balancer.Outcome) {
	o.released <- released{m.ID(), out}
}
func (o *outcomes) Changed(*balancer.Member, balancer.State) {}

// class waits for the next outcome.
func (o *outcomes) class(t testing.TB) (id string, class balancer.Class) {
	t.Helper()
	r := wait(t, o.released, "a release")
	return r.id, r.Class
}

// first picks the first target that has not failed.
func first(t testing.TB, targets ...balancer.Target) *balancer.Pool {
	t.Helper()
	return newPool(t, balancer.Config{Picker: balancer.First{}}, targets...)
}

func TestServer_W10_RetryOnAnotherTarget(t *testing.T) {
	hung := newBackend(t, "c", nil, func(c net.Conn) { c.Close() }) // no TLS there
	tests := map[string]struct {
		first  func(t *testing.T) balancer.Target
		class  stream.Class
		learnt balancer.Class
		tls    bool
	}{
		"refused":  {func(t *testing.T) balancer.Target { return dead(t, "a") }, stream.ClassDial, balancer.ConnectFailed, false},
		"not TLS":  {func(t *testing.T) balancer.Target { return target("a", hung.Addr().String()) }, stream.ClassTLS, balancer.TLSFailed, true},
		"bad name": {func(t *testing.T) balancer.Target { return target("a", "nosuchhost.invalid:1") }, stream.ClassDial, balancer.ConnectFailed, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := &stream.Server{Limits: stream.Limits{Connect: patience / 3}} // a resolver may be silent
			var conf *tls.Config
			if tt.tls {
				conf, s.BackendTLS = serverTLS(), trusting("")
			}
			b := newBackend(t, "b", conf, echoing)
			s.Pool = first(t, tt.first(t), b.target())
			o := observe(t, s.Pool)
			var picks []string // read after the end
			var retried []*stream.Error
			s.Trace = &stream.Trace{
				Pick:  func(_ stream.Client, m *balancer.Member, _ error) { picks = append(picks, m.ID()) },
				Retry: func(_ stream.Client, failed *stream.Error) { retried = append(retried, failed) },
			}
			r := serve(t, s)
			c := r.dial(t)
			chat(t, c) // sent before the second attempt: nothing is lost
			require.NoError(t, c.Close())
			rec := r.ended(t)
			require.NoError(t, rec.Err)
			require.Equal(t, "b", rec.Target)
			require.Equal(t, 2, rec.Attempts)
			require.Equal(t, []string{"a", "b"}, picks)
			require.Len(t, retried, 1)
			require.Equal(t, tt.class, retried[0].Class)
			require.Equal(t, "a", retried[0].Target)
			require.Equal(t, 1, retried[0].Attempt)
			given := wait(t, o.released, "a release")
			require.Equal(t, "a", given.id)
			require.Equal(t, tt.learnt, given.Class)
			require.True(t, given.Retried)
			given = wait(t, o.released, "a release")
			require.False(t, given.Retried)
			id, class := given.id, given.Class
			require.Equal(t, "b", id)
			require.Equal(t, balancer.OK, class)
			require.Empty(t, o.released, "a lease was given back twice")
		})
	}
}

func TestServer_W10_Retries(t *testing.T) {
	tests := map[string]struct{ retries, attempts int }{
		"default": {0, 2}, "none": {-1, 1}, "two": {2, 3}, "more than targets": {9, 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pool := first(t, dead(t, "a"), dead(t, "b"), dead(t, "c"))
			o := observe(t, pool)
			r := serve(t, &stream.Server{Pool: pool, Retries: tt.retries})
			expectEnd(t, r.dial(t))
			rec := r.ended(t)
			require.Equal(t, tt.attempts, rec.Attempts)
			failure, ok := errors.AsType[*stream.Error](rec.Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassDial, failure.Class)
			require.Equal(t, tt.attempts, failure.Attempt)
			require.Equal(t, rec.Target, failure.Target)
			require.ErrorIs(t, failure, syscall.ECONNREFUSED)
			for i := range tt.attempts {
				id, class := o.class(t)
				require.Equal(t, string(rune('a'+i)), id)
				require.Equal(t, balancer.ConnectFailed, class)
			}
			require.Empty(t, o.released)
		})
	}
}

// Nothing is retried after a target has accepted the connection.
func TestServer_W10_NoRetryOnceConnected(t *testing.T) {
	a, b := newBackend(t, "a", nil, nil), newBackend(t, "b", nil, nil)
	pool := first(t, a.target(), b.target())
	o := observe(t, pool)
	r := serve(t, &stream.Server{Pool: pool})
	c := r.dial(t)
	far := wait(t, a.conns, "a connection")
	send(t, far, "x")
	expect(t, c, "x") // earlier, a reset might still make the dial fail
	tunneltest.Reset(t, far)
	expectEnd(t, c)
	require.NoError(t, c.Close())
	rec := r.ended(t)
	require.Equal(t, "backend read failed", rec.EndedBy)
	require.ErrorIs(t, rec.Err, syscall.ECONNRESET)
	require.Equal(t, 1, rec.Attempts)
	_, class := o.class(t)
	require.Equal(t, balancer.TunnelEarly, class, "passive health has to learn of it")
	require.Empty(t, b.conns)
}

// Bytes of the client may have broken the target's side, so nothing is learnt.
func TestServer_BrokenByTheClient(t *testing.T) {
	a := newBackend(t, "a", nil, func(c net.Conn) {
		c.Read(make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	})
	pool := first(t, a.target())
	o := observe(t, pool)
	r := serve(t, &stream.Server{Pool: pool})
	c := r.dial(t)
	send(t, c, "x")
	expectEnd(t, c)
	require.NoError(t, c.Close())
	_, class := o.class(t)
	require.Equal(t, balancer.OK, class)
}

func TestServer_W9_ConnectTimeout(t *testing.T) {
	for name, tt := range map[string]struct {
		limits stream.Limits
		after  time.Duration
	}{
		"default": {stream.Limits{}, 6 * time.Second},
		"set":     {stream.Limits{Connect: time.Minute}, 2 * time.Minute},
		"none":    {stream.Limits{Connect: -1}, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := first(t, target("a", "192.0.2.1:1"), target("b", "192.0.2.2:1"), target("c", "192.0.2.3:1"))
				o := observe(t, pool)
				b := newBubble(t, &stream.Server{
					Pool: pool, Limits: tt.limits,
					Dial: func(ctx context.Context, _ *balancer.Member) (net.Conn, error) {
						select {
						case <-ctx.Done():
							return nil, ctx.Err()
						case <-time.After(time.Hour):
							return nil, io.ErrUnexpectedEOF
						}
					},
				})
				began := time.Now()
				c := b.dial()
				rec := <-b.records
				require.Equal(t, tt.after, time.Since(began))
				if name != "none" {
					require.ErrorContains(t, rec.Err, "not connected in time")
				}
				expectEnd(t, c)
				for range 2 {
					_, class := o.class(t)
					require.Equal(t, balancer.ConnectFailed, class)
				}
			})
		})
	}
}

// The server gives up a target that accepts but does not complete the handshake after 5 s.
func TestServer_W9_BackendHandshakeTimeout(t *testing.T) {
	conf := trusting("one.example")
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &stream.Server{BackendTLS: conf, Retries: -1})
		began := time.Now()
		c, far := b.open(t)
		go io.Copy(io.Discard, far)
		rec := <-b.records
		require.Equal(t, 5*time.Second, time.Since(began))
		failure, ok := errors.AsType[*stream.Error](rec.Err)
		require.True(t, ok)
		require.Equal(t, stream.ClassTLS, failure.Class)
		require.ErrorContains(t, failure, "no TLS handshake in time")
		expectEnd(t, c)
	})
}

// A backend's certificate must be valid.
func TestServer_W9_BackendCertificate(t *testing.T) {
	b := newBackend(t, "a", serverTLS(), func(c net.Conn) { c.(*tls.Conn).Handshake(); c.Close() })
	for name, conf := range map[string]*tls.Config{"unknown authority": {}, "other name": trusting("three.example")} {
		r := serve(t, &stream.Server{Pool: first(t, b.target()), BackendTLS: conf})
		expectEnd(t, r.dial(t))
		failure, ok := errors.AsType[*stream.Error](r.ended(t).Err)
		require.True(t, ok, name)
		require.Equal(t, stream.ClassTLS, failure.Class, name)
	}
}

// The scheme of a target says whether it gets TLS.
func TestServer_W9_Schemes(t *testing.T) {
	plain, secure := newBackend(t, "plain", nil, echoing), newBackend(t, "secure", serverTLS(), echoing)
	tests := map[string]struct {
		backend *backend
		scheme  string
		conf    *tls.Config
		fails   bool
	}{
		"tcp":                           {plain, "tcp", nil, false},
		"tcp with TLS":                  {secure, "tcp", trusting(""), false},
		"http":                          {plain, "http", nil, false},
		"http is never encrypted":       {plain, "http", trusting(""), false},
		"https":                         {secure, "https", trusting(""), false},
		"https with the system's roots": {secure, "https", nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			to := tt.backend.target()
			u := *to.URL
			u.Scheme = tt.scheme
			to.URL = &u
			r := serve(t, &stream.Server{Pool: first(t, to), BackendTLS: tt.conf})
			c := r.dial(t)
			if tt.fails {
				expectEnd(t, c)
				require.ErrorContains(t, r.ended(t).Err, "certificate")
				return
			}
			chat(t, c)
		})
	}
}

func TestServer_B4_FullTargets(t *testing.T) {
	one := newBackend(t, "a", nil, greeting("a")).target()
	one.MaxTunnels = 1
	r := serve(t, &stream.Server{Pool: first(t, one)})
	c := r.dial(t)
	expect(t, c, "a")
	expectEnd(t, r.dial(t))
	rec := r.ended(t)
	require.ErrorIs(t, rec.Err, balancer.ErrFull)
	require.ErrorIs(t, rec.Err, balancer.ErrNoTarget)
	chat(t, c)
	require.NoError(t, c.Close())
	r.ended(t)
	expect(t, r.dial(t), "a")
}

// waiting returns a server whose only place is taken, and the connection that has it.
func waiting(t *testing.T, conf balancer.Config, s *stream.Server) (*running, net.Conn) {
	t.Helper()
	one := newBackend(t, "a", nil, greeting("a")).target()
	one.MaxTunnels = 1
	s.Pool = newPool(t, conf, one)
	r := serve(t, s)
	c := r.dial(t)
	if s.TLS != nil {
		c = shake(t, c, "one.example")
	}
	expect(t, c, "a")
	return r, c
}

func TestServer_B4_Queue(t *testing.T) {
	for name, conf := range map[string]*tls.Config{"plain": nil, "TLS": serverTLS()} {
		for size, early := range map[string]string{"silent": "", "early": "early", "much": string(make([]byte, 100_000))} {
			t.Run(name+"/"+size, func(t *testing.T) {
				picker := new(counting)
				r, c := waiting(t, balancer.Config{Queue: 1, Picker: picker}, &stream.Server{TLS: conf})
				before := picker.picks.Load()
				next := r.dial(t)
				if conf != nil {
					next = shake(t, next, "one.example")
				}
				sent := make(chan error, 1)
				go func() { // in two parts, so that the second may come when the first is read
					_, err := io.WriteString(next, early[:len(early)/2])
					if err == nil {
						_, err = io.WriteString(next, early[len(early)/2:])
					}
					sent <- err
				}()
				// It looks for a place before it waits, and when it has joined the queue: once to
				// learn that it has to wait, and then as long as the client does.
				until(t, "it waits", func() bool { return picker.picks.Load() == before+4 })
				refused := r.dial(t)
				if conf != nil {
					refused = shake(t, refused, "one.example")
				}
				expectEnd(t, refused)
				require.ErrorIs(t, r.ended(t).Err, balancer.ErrFull, "more wait than may")
				require.NoError(t, c.Close())
				expect(t, next, "a"+early)
				require.NoError(t, <-sent)
				chat(t, next)
			})
		}
	}
}

// counting counts how often its picker is called.
type counting struct {
	balancer.First
	picks atomic.Int64
}

func (c *counting) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	defer c.picks.Add(1)
	return c.First.Pick(q, s)
}

// A client that goes away loses its place in the queue.
func TestServer_B4_QueueOnlyWhileTheClientIsThere(t *testing.T) {
	leave := map[string]func(testing.TB, net.Conn){
		"closes":     func(t testing.TB, c net.Conn) { require.NoError(t, c.Close()) },
		"breaks":     func(_ testing.TB, c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() },
		"half":       closeWrite,
		"with bytes": func(t testing.TB, c net.Conn) { send(t, c, "bytes"); c.Close() },
	}
	for name, leave := range leave {
		t.Run(name, func(t *testing.T) {
			r, c := waiting(t, balancer.Config{Queue: 1}, &stream.Server{})
			leave(t, r.dial(t))
			failure, ok := errors.AsType[*stream.Error](r.ended(t).Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassClientGone, failure.Class)
			require.Zero(t, failure.Attempt)
			next := r.dial(t) // has the place in the queue
			require.NoError(t, c.Close())
			expect(t, next, "a")
		})
	}
}

func TestServer_B4_QueueTimeout(t *testing.T) {
	r, _ := waiting(t, balancer.Config{Queue: 1, QueueTimeout: 10 * time.Millisecond}, &stream.Server{})
	next := r.dial(t)
	send(t, next, "early")
	expectEnd(t, next)
	require.ErrorIs(t, r.ended(t).Err, balancer.ErrFull)
}

// The dial to a target ends when the target goes down, and does not count against it.
func TestServer_S22_DownWhileDialling(t *testing.T) {
	b := newBackend(t, "b", nil, echoing)
	pool := first(t, target("a", "192.0.2.1:1"), b.target())
	o := observe(t, pool)
	var dials atomic.Int32
	dialling := make(chan struct{})
	r := serve(t, &stream.Server{
		Pool: pool, Limits: stream.Limits{Connect: -1},
		Dial: func(ctx context.Context, m *balancer.Member) (net.Conn, error) {
			dials.Add(1)
			if m.ID() == "a" {
				close(dialling)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, "tcp", m.Target().URL.Host)
		},
	})
	c := r.dial(t)
	wait(t, dialling, "a dial")
	member(t, pool, "a").SetAdmin(balancer.Down)
	chat(t, c)
	id, class := o.class(t)
	require.Equal(t, "a", id)
	require.Equal(t, balancer.Unjudged, class)
	require.EqualValues(t, 2, dials.Load())
}
