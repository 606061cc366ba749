package wsproxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// chatter is a backend whose WebSockets echo frames, and say who it is.
func chatter(t *testing.T, id string) balancer.Target {
	return rawBackend(t, id, func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		conn.SetDeadline(time.Time{}) // its client has one
		io.WriteString(conn, accepting(req, "Backend: "+id))
		for {
			if _, err := r.Peek(2); err != nil {
				return
			}
			f := readFrame(t, r)
			conn.Write(append([]byte{f.head, byte(len(f.payload))}, f.payload...)) // a close frame is answered so
		}
	})
}

// A visitor holds a WebSocket and its cookie, and comes back with it whenever it is asked to leave.
type visitor struct {
	open   func(cookie string) *wire
	conn   *wire
	cookie string
	where  string
	moves  []string // targets that it was asked to leave
	codes  []uint16 // with which code
}

func (v *visitor) connect(t *testing.T) {
	v.conn = v.open(v.cookie)
	res := v.conn.head()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	v.where = res.Header.Get("Backend")
	if lines := res.Header["Set-Cookie"]; len(lines) > 0 {
		v.cookie, _, _ = strings.Cut(lines[0], ";")
	}
}

// echo passes a frame there and back, or moves when a close frame comes instead.
func (v *visitor) echo(t *testing.T) {
	v.conn.send(maskedFrame(0x81, "hello"))
	f := readFrame(t, v.conn)
	if f.head == 0x81 {
		require.Equal(t, "hello", string(f.payload))
		return
	}
	code, _ := f.closing(t)
	v.moves, v.codes = append(v.moves, v.where), append(v.codes, code)
	v.conn.send(maskedFrame(0x88, string(f.payload)))
	v.conn.Conn.Close()
	v.connect(t)
}

// A drain ends although its sessions come back again and again: everybody is moved exactly once, with a close frame
// and not before, and the target reaches zero.
func TestProxy_S22_DrainMovesEverybodyOnce(t *testing.T) {
	const visitors = 24
	pool, err := balancer.New(balancer.Config{
		Picker:  &balancer.RoundRobin{},
		Targets: []balancer.Target{chatter(t, "a"), chatter(t, "b"), chatter(t, "c")},
	})
	require.NoError(t, err)
	const window = 300 * time.Millisecond
	front := serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
		Tunnels: wsproxy.TunnelLimits{Window: window}})

	var all []*visitor
	for range visitors {
		v := &visitor{open: func(cookie string) *wire {
			c := dial(t, front)
			if cookie == "" {
				c.send(upgrade())
			} else {
				c.send(upgrade("Cookie: " + cookie))
			}
			return c
		}}
		v.connect(t)
		all = append(all, v)
	}
	before := map[*visitor]string{}
	for _, v := range all {
		before[v] = v.where
	}

	stop := make(chan struct{})
	var busy sync.WaitGroup
	for _, v := range all {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					v.echo(t)
				}
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	start := time.Now()
	registry := &health.Registry{Pool: pool}
	require.NoError(t, registry.Drain(ctx, "a", health.Drain{Grace: 100 * time.Millisecond}))
	require.Less(t, time.Since(start), patience, "nobody was cut at the deadline")
	require.Zero(t, member(t, pool, "a").Load())
	close(stop)
	busy.Wait()

	for _, v := range all {
		if before[v] != "a" {
			require.Empty(t, v.moves)
			require.Equal(t, before[v], v.where)
			continue
		}
		require.Equal(t, []string{"a"}, v.moves, "moved exactly once")
		require.Equal(t, []uint16{1012}, v.codes)
		require.NotEqual(t, "a", v.where)
	}
}
