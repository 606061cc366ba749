package wsproxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// MaxConnsPerHost of http.Transport does not bound WebSockets.
func TestProxy_W5_MaxTunnels(t *testing.T) {
	asked, answer := make(chan struct{}, 1), make(chan string)
	slow := rawBackend(t, "slow", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		asked <- struct{}{}
		io.WriteString(conn, <-answer)
		io.Copy(conn, r)
	})
	pool, picker := newPool(t, rawBackend(t, "a", echoing), slow, rawBackend(t, "b", echoing))
	done := make(chan wsproxy.Record, 16)
	p := &wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{Max: 2}, Trace: &wsproxy.Trace{
		Done: func(_ *http.Request, r wsproxy.Record) {
			select {
			case done <- r:
			default: // those who ask again and again at the end
			}
		},
	}}
	srv := serve(t, p)
	refused := func() {
		t.Helper()
		c := dial(t, srv)
		c.send(upgrade())
		res := c.response()
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "5", res.Header.Get("Retry-After"))
		e, ok := wait(t, done, "the record").Err.(*wsproxy.Error)
		require.True(t, ok)
		require.Equal(t, wsproxy.ClassLimit, e.Class)
		require.Empty(t, e.Target)
	}
	a := dial(t, srv)
	chat(t, a)
	require.NoError(t, wait(t, done, "the record").Err)
	picker.to("slow")
	waiting := dial(t, srv)
	waiting.send(upgrade())
	wait(t, asked, "request at the backend")
	picker.to("b")
	refused() // who waits for an answer counts

	answer <- "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
	require.Equal(t, http.StatusForbidden, waiting.response().StatusCode)
	wait(t, done, "the record")
	b := dial(t, srv)
	chat(t, b) // a refused one gives its place back
	wait(t, done, "the record")
	refused()

	a.Close() // and so does one that has ended
	require.Eventually(t, func() bool { return member(t, pool, "a").Load() == 0 }, patience, time.Millisecond)
	require.Eventually(t, func() bool {
		c := dial(t, srv)
		c.send(upgrade())
		return c.head().StatusCode == http.StatusSwitchingProtocols
	}, patience, time.Millisecond)
}

// Each way in which an upgrade does not become a tunnel gives its place back: more of them than
// there are places. MaxConnsPerHost of http.Transport does not bound WebSockets.
func TestProxy_W5_MaxTunnelsCountsTunnelsAlone(t *testing.T) {
	t.Parallel() // it waits
	for name, tt := range brokenHandshakes {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "b", sockets("b"))
			pool, picker := newPool(t, rawBackend(t, "a", tt.play), b.target())
			p := &wsproxy.Proxy{Pool: pool, Retry: wsproxy.Retry{Max: -1}, Tunnels: wsproxy.TunnelLimits{Max: 1}}
			rounds := 3
			if tt.status == http.StatusGatewayTimeout {
				rounds, p.Tunnels.Handshake = 1, 500*time.Millisecond
			}
			srv := serve(t, p)
			for range rounds {
				c := dial(t, srv)
				c.send(upgrade())
				require.Equal(t, tt.status, c.head().StatusCode)
				idleMember(t, pool, "a")
			}
			picker.to("b")
			require.Eventually(t, func() bool { // once, unless the machine is too slow for the limit
				c := dial(t, srv)
				c.send(upgrade())
				return c.head().StatusCode == http.StatusSwitchingProtocols
			}, patience, time.Millisecond)
		})
	}
}

// MaxConnsPerHost of http.Transport does not bound WebSockets.
func TestProxy_W5_MaxTunnelsOverHTTP2(t *testing.T) {
	if !inExtended(t) {
		return
	}
	p, ends := tunnelled(t, rawBackend(t, "a", acceptingEcho))
	p.Tunnels.Max = 1
	c := h2Front(t, p)
	first := c.open(t, nil)
	for range 2 {
		_, res, err := c.tryOpen(nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "5", res.Header.Get("Retry-After"))
	}
	first.Close()
	wait(t, ends, "the end")
	c.open(t, nil)
}

// Several proxies are shut down side by side, over one window, and each error is told.
func TestShutdown_W6_SeveralProxies(t *testing.T) {
	const window = 300 * time.Millisecond
	var all []wsproxy.Shutdowner
	var pools []*balancer.Pool
	for range 3 {
		p, _ := tunnelled(t, chatter(t, "a"))
		p.Tunnels.Window = window
		chat := dial(t, serve(t, p))
		chat.open()
		go func() {
			f := readFrame(t, chat)
			chat.Conn.Write([]byte(maskedFrame(0x88, string(f.payload))))
			chat.Conn.Close()
		}()
		all, pools = append(all, p), append(pools, p.Pool)
	}
	pool, _ := shards(t, "a")
	wrapper := sticky(t, pool)
	wrapper.Tunnels.Window = window
	joined(t, wrapper, nil)
	all, pools = append(all, wrapper), append(pools, pool)
	require.NoError(t, wsproxy.Shutdown(t.Context(), all...))
	for _, pool := range pools {
		idleMember(t, pool, "a")
	}
	require.NoError(t, wsproxy.Shutdown(t.Context()), "nobody to shut down")

	stuck, _ := tunnelled(t, rawBackend(t, "a", echoing))
	stuck.Tunnels.Window = -1
	chat(t, dial(t, serve(t, stuck)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, wsproxy.Shutdown(ctx, all[0], stuck), context.Canceled)
	idleMember(t, stuck.Pool, "a")
}
