package wsproxy_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// readiness serves requests and WebSockets that echo, and is ready or not.
func readiness(t *testing.T, id string) (b *backend, unready *atomic.Bool) {
	unready = new(atomic.Bool)
	return newBackend(t, id, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/ready" && unready.Load():
			http.NotFound(w, r)
		case r.Header.Get("Upgrade") != "":
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			io.WriteString(conn, accepting(r, "Backend: "+id))
			echoFrames(t, conn, buffered.Reader)
		}
	}), unready
}

func echoFrames(t *testing.T, w io.Writer, r *bufio.Reader) {
	for {
		if _, err := r.Peek(2); err != nil {
			return
		}
		f := readFrame(t, r)
		w.Write(append([]byte{f.head, byte(len(f.payload))}, f.payload...))
	}
}

// A session is a client with its cookie and its WebSocket.
type session struct {
	cookie, where string
	conn          *wire
}

// together calls f for n indices, 20 at a time, and waits for all.
func together(n int, f func(i int)) {
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	work.Wait()
}

// A readiness that answers 404 moves no session and no WebSocket, and keeps new ones away, over
// real sockets. When it answers 200 again, they come again.
func TestProxy_B6_ReservedUnderSessionsAndWebSockets(t *testing.T) {
	t.Parallel()
	const sessions = 100
	ids := []string{"a", "b", "c", "d"}
	var targets []balancer.Target
	unready := map[string]*atomic.Bool{}
	for _, id := range ids {
		var b *backend
		b, unready[id] = readiness(t, id)
		targets = append(targets, b.target())
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	require.NoError(t, err)
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(t, err)

	registry := &health.Registry{Pool: pool, Interval: 20 * time.Millisecond, Timeout: patience, Logger: noLog,
		Check: health.HTTP{Path: "/ready", ReservedStatuses: []int{http.StatusNotFound}}}
	events, unsubscribe := registry.Subscribe(100)
	defer unsubscribe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- registry.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()
	become := func(want balancer.Health, which ...string) {
		for range which {
			e := wait(t, events, "a change of health")
			require.Equal(t, health.HealthChanged, e.Kind)
			require.Contains(t, which, e.Target)
			require.Equal(t, want, e.State.Health)
		}
	}
	become(balancer.Healthy, ids...)

	proxy := &wsproxy.Proxy{Pool: pool, Policy: policy}
	front := serve(t, proxy)
	browser := newClient(t, front).withoutCookies()
	browser.Transport.(*http.Transport).MaxIdleConnsPerHost = 20
	all := make([]session, sessions)
	together(sessions, func(i int) {
		s := &all[i]
		r := browser.get("/")
		s.cookie, _, _ = strings.Cut(r.Header.Get("Set-Cookie"), ";")
		s.where = r.backend()
		s.conn = dial(t, front)
		require.Equal(t, s.where, s.conn.open("Cookie: "+s.cookie).Header.Get("Backend"))
	})

	// stay has every session ask once more, on its WebSocket and by a request.
	stay := func() {
		together(sessions, func(i int) {
			s := &all[i]
			s.conn.send(maskedFrame(0x81, "hello"))
			require.Equal(t, wsFrame{head: 0x81, payload: []byte("hello")}, readFrame(t, s.conn))
			r := browser.get("/", "Cookie: "+s.cookie)
			require.Equal(t, http.StatusOK, r.StatusCode)
			require.Equal(t, s.where, r.backend())
			require.Empty(t, r.Header["Set-Cookie"])
		})
	}
	// comeBack has every session open its WebSocket anew.
	comeBack := func() {
		together(sessions, func(i int) {
			s := &all[i]
			s.conn.Conn.Close()
			s.conn = dial(t, front)
			res := s.conn.open("Cookie: " + s.cookie)
			require.Equal(t, s.where, res.Header.Get("Backend"))
			require.Empty(t, res.Header["Set-Cookie"])
		})
	}
	// arrive returns where as many new sessions and WebSockets go.
	arrive := func() map[string]int {
		var mu sync.Mutex
		where := map[string]int{}
		together(sessions, func(int) {
			r := browser.get("/")
			conn := dial(t, front)
			defer conn.Conn.Close()
			res := conn.open()
			mu.Lock()
			defer mu.Unlock()
			where[r.backend()]++
			where[res.Header.Get("Backend")]++
		})
		return where
	}

	unready["a"].Store(true)
	unready["b"].Store(true)
	become(balancer.Reserved, "a", "b")
	stay()
	got := arrive()
	require.Equal(t, 2*sessions, got["c"]+got["d"], "new ones, of which none may come to a and b: %v", got)
	comeBack()

	unready["c"].Store(true)
	unready["d"].Store(true)
	become(balancer.Reserved, "c", "d")
	refused := browser.get("/")
	require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))
	stay()

	for _, id := range ids {
		unready[id].Store(false)
	}
	become(balancer.Healthy, ids...)
	got = arrive()
	for _, id := range ids {
		require.Positive(t, got[id], "new ones come again: %v", got)
	}
	stay()
}
