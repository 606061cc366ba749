package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

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

// An upgrade takes a kept connection if there is one. If the target turns out to have closed it, the
// upgrade goes again on a fresh one, as a plain request without a body does.
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

// Tunnels know nothing of the walks that started them. The memory of a walk may serve other requests
// while its tunnel lives.
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
