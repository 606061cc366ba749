package wsproxy_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
)

// Two pools may be nested. Each binds its own cookie, also to an upgraded connection, which has a
// lease of both. The functions for the handler are about the inner one.
func TestSticky_S15_StickyInSticky(t *testing.T) {
	t.Parallel()
	outerPool, _ := shards(t, "cell")
	innerPool, _ := shards(t, "shard")
	outer, inner := sticky(t, outerPool), sticky(t, innerPool)
	outer.Policy = lbCookie(t, stickiness.LBCookieOptions{Scope: "cells", CORS: stickiness.CORSNever})
	learned, other := observed(t, innerPool), observed(t, outerPool)
	shard := inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "shard", shardOf(t, r.Context()))
		require.NotContains(t, r.Header.Get("Cookie"), "AWSELB")
		if r.Header.Get("Upgrade") == "" {
			require.True(t, wsproxy.Report(r.Context(), balancer.Outcome{Status: 299}))
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		rw.WriteString(switching())
		rw.Flush()
		io.Copy(conn, rw)
	}))
	srv := serve(t, outer.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "cell", shardOf(t, r.Context()))
		shard.ServeHTTP(w, r)
	})))
	names := func(h http.Header) (all []string) {
		for _, line := range lbLines(h) {
			name, _, _ := strings.Cut(line, "=")
			all = append(all, name)
		}
		return all
	}
	c := newClient(t, srv)
	both := names(c.get("/").Header)
	require.Len(t, both, 2)
	require.NotEqual(t, both[0], both[1])
	require.Empty(t, names(c.get("/").Header), "both are bound")
	require.Equal(t, 299, learned.next(t).Status)
	require.Equal(t, http.StatusOK, other.next(t).Status)

	ws := dial(t, srv)
	ws.send(upgrade() + "early")
	res := ws.head()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.ElementsMatch(t, both, names(res.Header))
	ws.expect("early")
	require.EqualValues(t, 1, member(t, outerPool, "cell").Tunnels())
	require.EqualValues(t, 1, member(t, innerPool, "shard").Tunnels())
	ws.closeWrite()
	ws.expectEnd()
	require.Zero(t, settledLoad(t, outerPool, "cell"))
	require.Zero(t, settledLoad(t, innerPool, "shard"))
}

// A Proxy is a handler like any other: its targets are behind those of the Sticky.
func TestSticky_S15_ProxyInSticky(t *testing.T) {
	t.Parallel()
	pool, _ := newPool(t, rawBackend(t, "backend", echoing))
	cells, _ := shards(t, "cell")
	p := &wsproxy.Proxy{Pool: pool, Logger: noLog,
		Policy: lbCookie(t, stickiness.LBCookieOptions{Scope: "backends", CORS: stickiness.CORSNever})}
	t.Cleanup(func() { p.Close() })
	s := sticky(t, cells)
	c := dial(t, serve(t, s.Handler(p)))
	c.send(upgrade())
	res := c.head()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Len(t, lbLines(res.Header), 2)
	c.send("hello")
	c.expect("hello")
	require.EqualValues(t, 1, member(t, cells, "cell").Tunnels())
	member(t, cells, "cell").SetAdmin(balancer.Down)
	c.expectClosed()
	require.Zero(t, settledLoad(t, cells, "cell"))
	require.Zero(t, settledLoad(t, pool, "backend"))
}

// Middleware that answers panics with a page binds the session if it is inside the Sticky, where
// the page is the target's answer. Outside, the target has not answered, and nothing is bound.
func TestSticky_S19_RecoveringMiddleware(t *testing.T) {
	t.Parallel()
	recovering := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if recover() != nil {
					w.WriteHeader(http.StatusInternalServerError)
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
	buggy := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a bug") })
	for _, inside := range []bool{true, false} {
		pool, _ := shards(t, "a")
		v := observed(t, pool)
		h, want := recovering(sticky(t, pool).Handler(buggy)), balancer.HeaderFailed
		if inside {
			h, want = sticky(t, pool).Handler(recovering(buggy)), balancer.OK
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		require.Equal(t, http.StatusInternalServerError, w.Code)
		require.Equal(t, inside, len(lbLines(w.Header())) == 1)
		require.Equal(t, want.String(), v.next(t).Class.String())
	}
}

// If an http.TimeoutHandler outside ends the request, it counts as a client that has gone away.
func TestSticky_W1_TimeoutHandlerOutside(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	v, answered := observed(t, pool), make(chan struct{})
	h := http.TimeoutHandler(sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _, err := http.NewResponseController(w).Hijack()
		require.ErrorIs(t, err, http.ErrNotSupported)
		<-answered
		require.Error(t, r.Context().Err())
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "late")
	})), time.Millisecond, "timeout")
	r := newClient(t, serve(t, h)).get("/")
	close(answered)
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	require.Equal(t, "timeout", r.body)
	require.Empty(t, lbLines(r.Header))
	require.Equal(t, balancer.ClientGone.String(), v.next(t).Class.String())
	require.Zero(t, member(t, pool, "a").Load())
}

// A header may be written on another goroutine while the handler waits for that, and while the
// client leaves.
func TestSticky_S2_HeaderFromAnotherGoroutine(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	v := observed(t, pool)
	h := sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var writing sync.WaitGroup
		writing.Go(func() {
			w.WriteHeader(http.StatusAccepted)
			wsproxy.Report(r.Context(), balancer.Outcome{})
		})
		writing.Wait()
	}))
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		w := httptest.NewRecorder()
		var leaving sync.WaitGroup
		leaving.Go(cancel)
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
		leaving.Wait()
		require.Len(t, lbLines(w.Header()), 1)
		require.Equal(t, http.StatusAccepted, v.next(t).Status)
	}
}

// Clients, targets and operators do all they can at the same time. No lease and no goroutine is
// left.
func TestSticky_LeavesNothing(t *testing.T) {
	before := leaktest.Settled(t)
	t.Run("load", func(t *testing.T) {
		a, b := rawBackend(t, "a", echoing), rawBackend(t, "b", echoing)
		pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{a, b}})
		require.NoError(t, err)
		s := sticky(t, pool)
		s.Tunnels.Window, s.Tunnels.Rebalance, s.MaxPerKey = -1, 100, 1000
		proxy := balancedProxy(t, nil)
		proxy.ErrorLog = discardLog
		var handlers atomic.Int64
		srv := serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			switch {
			case rand.N(8) == 0:
				panic(http.ErrAbortHandler)
			case rand.N(4) == 0:
				wsproxy.OnLeave(r.Context(), func(uint16) {})
			}
			proxy.ServeHTTP(w, r)
		})))
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for ctx.Err() == nil {
					c := dialOnce(t, srv)
					io.WriteString(c.Conn, upgrade()[:rand.N(len(upgrade())+1)])
					if rand.N(2) == 0 {
						io.WriteString(c.Conn, upgrade())
					}
					c.SetReadDeadline(time.Now().Add(time.Duration(rand.N(20)) * time.Millisecond))
					io.Copy(io.Discard, c.Conn)
					c.Close()
				}
			})
		}
		for i := 0; ctx.Err() == nil; i++ {
			m := member(t, pool, "a")
			m.SetAdmin([]balancer.Admin{balancer.Moving, balancer.Down, balancer.Ready}[i%3])
			if i%5 == 0 {
				require.NoError(t, pool.Update(b))
				require.NoError(t, pool.Update(a, b))
			}
			time.Sleep(5 * time.Millisecond)
		}
		all.Wait()
		require.Positive(t, handlers.Load())
		down, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer stop()
		all.Go(func() { s.Close() })
		s.Shutdown(down)
		all.Wait()
		require.Zero(t, settledLoad(t, pool, "a"))
		require.Zero(t, settledLoad(t, pool, "b"))
	})
	leaktest.RequireNoMore(t, before)
}
