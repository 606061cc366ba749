package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
)

// keeping answers plain requests, and keeps the connection. It plays onUpgrade for an upgrade, with
// the number of its connection.
func keeping(conns *atomic.Int64, onUpgrade func(n int64, conn net.Conn, r *bufio.Reader)) play {
	return func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		n := conns.Add(1)
		for {
			if req.Header.Get("Upgrade") != "" {
				onUpgrade(n, conn, r)
				return
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			var err error
			if req, err = http.ReadRequest(r); err != nil {
				return
			}
		}
	}
}

// An upgrade takes a kept connection if there is one. If the target turns out to have closed it,
// the upgrade goes again on a fresh one, as a plain request without a body does.
func TestProxy_W10_UpgradeOnAKeptConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		kept   func(conn net.Conn) (closes bool) // what the target does when it gets the upgrade on the kept connection
		conns  int64                             // that the target has seen then
		status int
	}{
		"serves":           {func(net.Conn) bool { return false }, 1, http.StatusSwitchingProtocols},
		"closes unread":    {func(net.Conn) bool { return true }, 2, http.StatusSwitchingProtocols},
		"resets":           {func(c net.Conn) bool { c.(*net.TCPConn).SetLinger(0); return true }, 2, http.StatusSwitchingProtocols},
		"closes half-said": {func(c net.Conn) bool { io.WriteString(c, "HTTP/1.1 101"); return true }, 1, http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var conns atomic.Int64
			p, _ := tunnelled(t, rawBackend(t, "a", keeping(&conns, func(n int64, conn net.Conn, r *bufio.Reader) {
				if n == 1 && tt.kept(conn) {
					return
				}
				echoing(conn, r, nil)
			})))
			srv := serve(t, p)
			before := dial(t, srv)
			before.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
			require.Equal(t, "ok", before.response().body)

			c := dial(t, srv)
			c.send(upgrade() + "early")
			if tt.status == http.StatusSwitchingProtocols {
				require.Equal(t, tt.status, c.head().StatusCode)
				c.expect("early")
				c.closeWrite()
				c.expectEnd()
			} else {
				require.Equal(t, tt.status, c.response().StatusCode)
			}
			require.Equal(t, tt.conns, conns.Load())
			idleMember(t, p.Pool, "a")
		})
	}
}

// Tunnels know nothing of the walks that started them. The memory of a walk may serve other
// requests while its tunnel lives.
func TestProxy_W5_TunnelsOutliveTheirWalks(t *testing.T) {
	const tunnels = 20
	var conns atomic.Int64
	p, ends := tunnelled(t, rawBackend(t, "a", keeping(&conns, func(_ int64, conn net.Conn, r *bufio.Reader) {
		echoing(conn, r, nil)
	})))
	done := make(chan wsproxy.Record, 3*tunnels)
	p.Trace.Done = func(_ *http.Request, r wsproxy.Record) { done <- r }
	srv := serve(t, p)
	plain := newClient(t, srv)
	var clients []*wire
	for i := range tunnels {
		c := dial(t, srv)
		path := fmt.Sprintf("/chat/%d", i)
		c.send(strings.Replace(upgrade(), "/chat", path, 1) + path)
		require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
		c.expect(path)
		r := wait(t, done, "the record of the upgrade")
		require.Equal(t, path, r.Path)
		require.Equal(t, "websocket", r.Upgrade)
		clients = append(clients, c)

		require.Equal(t, http.StatusOK, plain.get("/plain").StatusCode)
		r = wait(t, done, "the record of the request")
		require.Equal(t, "/plain", r.Path)
		require.Empty(t, r.Upgrade)
	}
	for i, c := range clients {
		c.send("late")
		c.expect("late")
		c.closeWrite()
		c.expectEnd()
		end := wait(t, ends, "the tunnel's record")
		path := fmt.Sprintf("/chat/%d", i)
		require.Equal(t, path, end.Path)
		require.Equal(t, int64(len(path)+len("late")), end.FromClient)
		require.NoError(t, end.Err)
	}
	idleMember(t, p.Pool, "a")
}

// What a target says on a kept connection before it has the upgrade is not the answer. The target
// is on a Unix socket, where bytes and ends arrive before the call that sends them returns.
func TestProxy_W10_BytesBeforeAnUpgradeAreNotItsAnswer(t *testing.T) {
	const forged = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nforged"
	for name, unasked := range map[string]string{"101": forged, "408": "HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n", "end": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listenUnix(t, socket(t))
			speak, spoken := make(chan struct{}), make(chan struct{})
			var conns atomic.Int64
			app := rawBackendOn(t, "a", l, "http://", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				if conns.Add(1) > 1 {
					echoing(conn, r, req)
					return
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				<-speak
				if unasked == "" {
					conn.Close()
				} else {
					io.WriteString(conn, unasked)
				}
				close(spoken)
				io.Copy(io.Discard, r)
			})
			p, _ := tunnelled(t, app)
			srv := serve(t, p)
			require.Equal(t, "ok", newClient(t, srv).get("/").body)
			close(speak)
			wait(t, spoken, "what the target says")
			c := dial(t, srv)
			c.open()
			c.send("question")
			c.expect("question")
			c.closeWrite()
			c.expectEnd()
			require.EqualValues(t, 2, conns.Load())
			idleMember(t, p.Pool, "a")
		})
	}
}

// An upgrade gets no kept connection that has reached its age. A tunnel outlives the age of its
// connection.
func TestProxy_W16_MaxAgeOfUpgrades(t *testing.T) {
	const age = 20 * time.Millisecond
	var conns atomic.Int64
	numbers := make(chan int64, 2)
	p, _ := tunnelled(t, rawBackend(t, "a", keeping(&conns, func(n int64, conn net.Conn, r *bufio.Reader) {
		numbers <- n
		echoing(conn, r, nil)
	})))
	p.Upstream.MaxAge = age
	srv := serve(t, p)
	require.Equal(t, "ok", newClient(t, srv).get("/").body)
	time.Sleep(age)
	c := dial(t, srv)
	c.open()
	require.EqualValues(t, 2, wait(t, numbers, "the upgrade"))
	time.Sleep(2 * age)
	c.send("question")
	c.expect("question")
	c.closeWrite()
	c.expectEnd()
	idleMember(t, p.Pool, "a")
}

// A Trace.Tunnel that blocks holds up neither other tunnels nor its own place at the target. Only
// Close waits for it.
func TestProxy_W5_TraceTunnelMayBlock(t *testing.T) {
	pool, _ := newPool(t, rawBackend(t, "a", echoing))
	called, free := make(chan struct{}, 1), make(chan struct{})
	var blocked atomic.Bool
	p := &wsproxy.Proxy{Pool: pool, Trace: &wsproxy.Trace{Tunnel: func(wsproxy.TunnelRecord) {
		if blocked.CompareAndSwap(false, true) {
			called <- struct{}{}
			<-free
		}
	}}}
	srv := serve(t, p)
	release := sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	first, second := dial(t, srv), dial(t, srv)
	first.open()
	second.open()
	first.closeWrite()
	first.expectEnd()
	wait(t, called, "the hook")
	require.EqualValues(t, 1, member(t, pool, "a").Tunnels())
	second.send("question")
	second.expect("question")
	second.closeWrite()
	second.expectEnd()
	idleMember(t, pool, "a")
	closed := make(chan error, 1)
	go func() { closed <- p.Close() }()
	release()
	require.NoError(t, wait(t, closed, "Close"))
}
