package stream_test

import (
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// rounds is how many connections are made before the test looks for leaks.
const rounds = 2000

// A kind is a way for a connection to end. All connections of a kind use one server.
type kind struct {
	server *stream.Server
	listen func(net.Listener) net.Listener // nil: as it is
	use    func(t testing.TB, c net.Conn)
	after  func(t testing.TB) // nil: nothing
}

func TestServer_W5_NothingLeaks(t *testing.T) {
	echo, secure := newBackend(t, "a", nil, echoing), newBackend(t, "a", serverTLS(), echoing)
	greet := newBackend(t, "a", nil, func(c net.Conn) {
		io.WriteString(c, "bye")
		c.Close()
	})
	breaking := newBackend(t, "a", nil, func(c net.Conn) {
		c.Read(make([]byte, 1))
		tunneltest.Reset(t, c)
	})
	full := echo.target()
	full.MaxTunnels = 1
	queue := newPool(t, balancer.Config{Queue: 1}, full)
	blocker, err := queue.Acquire(t.Context(), &balancer.Request{Tunnel: true})
	require.NoError(t, err)
	defer blocker.Release(balancer.Outcome{})
	to := func(b *backend) *balancer.Pool { return newPool(t, balancer.Config{}, b.target()) }
	secured := func(t testing.TB, c net.Conn, use func(c net.Conn)) {
		s := shake(t, c, "one.example")
		defer s.Close()
		use(s)
	}
	ends := func(t testing.TB, c net.Conn) { expectEnd(t, c) }
	down := to(echo)
	kinds := map[string]kind{
		"client closes":         {server: &stream.Server{Pool: to(echo)}, use: func(t testing.TB, c net.Conn) { chat(t, c) }},
		"client closes at once": {server: &stream.Server{Pool: to(echo)}, use: func(testing.TB, net.Conn) {}},
		"client breaks": {server: &stream.Server{Pool: to(echo)}, use: func(t testing.TB, c net.Conn) {
			chat(t, c)
			tunneltest.Reset(t, c)
		}},
		"client ends first": {server: &stream.Server{Pool: to(echo)}, use: func(t testing.TB, c net.Conn) {
			closeWrite(t, c)
			expectEnd(t, c)
		}},
		"target closes": {server: &stream.Server{Pool: to(greet)}, use: func(t testing.TB, c net.Conn) { expect(t, c, "bye") }},
		"target breaks": {server: &stream.Server{Pool: to(breaking)}, use: func(t testing.TB, c net.Conn) {
			send(t, c, "x")
			expectEnd(t, c)
		}},
		"target goes down": {server: &stream.Server{Pool: down}, use: func(t testing.TB, c net.Conn) {
			chat(t, c)
			member(t, down, "a").SetAdmin(balancer.Down)
			expectEnd(t, c)
		}, after: func(t testing.TB) { member(t, down, "a").SetAdmin(balancer.Ready) }},
		"TLS terminated": {server: &stream.Server{Pool: to(echo), TLS: serverTLS()}, use: func(t testing.TB, c net.Conn) {
			secured(t, c, func(c net.Conn) { chat(t, c) })
		}},
		"TLS passed on": {server: &stream.Server{Pool: to(secure), ReadHello: true}, use: func(t testing.TB, c net.Conn) {
			secured(t, c, func(c net.Conn) { chat(t, c) })
		}},
		"TLS to the target": {server: &stream.Server{Pool: to(secure), BackendTLS: trusting("")},
			use: func(t testing.TB, c net.Conn) { chat(t, c) }},
		"no target":               {server: &stream.Server{Pool: newPool(t, balancer.Config{})}, use: ends},
		"dead targets":            {server: &stream.Server{Pool: newPool(t, balancer.Config{}, dead(t, "a"), dead(t, "b"))}, use: ends},
		"no TLS at the target":    {server: &stream.Server{Pool: to(greet), BackendTLS: trusting("")}, use: ends},
		"no certificate to trust": {server: &stream.Server{Pool: to(secure), BackendTLS: &tls.Config{ServerName: "a"}}, use: ends},
		"garbage for a hello": {server: &stream.Server{Pool: to(echo), ReadHello: true}, use: func(t testing.TB, c net.Conn) {
			send(t, c, strings.Repeat("garbage", 10))
			expectEnd(t, c)
		}},
		"garbage for a handshake": {server: &stream.Server{Pool: to(echo), TLS: serverTLS()}, use: func(t testing.TB, c net.Conn) {
			send(t, c, strings.Repeat("garbage", 10))
			io.Copy(io.Discard, c)
		}},
		"half a hello": {server: &stream.Server{Pool: to(echo), ReadHello: true}, use: func(t testing.TB, c net.Conn) {
			send(t, c, "\x16\x03\x01")
		}},
		"a slow hello": {server: &stream.Server{Pool: to(echo), ReadHello: true, Limits: stream.Limits{Handshake: time.Millisecond}},
			use: ends},
		"a slow handshake": {server: &stream.Server{Pool: to(echo), TLS: serverTLS(), Limits: stream.Limits{Handshake: time.Millisecond}},
			use: ends},
		"a slow dial": {server: &stream.Server{Pool: to(echo), Limits: stream.Limits{Connect: time.Millisecond},
			Dial: func(ctx context.Context, _ *balancer.Member) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}}, use: ends},
		"idle":                         {server: &stream.Server{Pool: to(echo), Limits: stream.Limits{Idle: time.Millisecond}}, use: ends},
		"client gives up in the queue": {server: &stream.Server{Pool: queue}, use: func(testing.TB, net.Conn) {}},
		"no header": {server: &stream.Server{Pool: to(echo)}, use: func(t testing.TB, c net.Conn) {
			send(t, c, "garbage instead of it")
			expectEnd(t, c)
		}, listen: func(l net.Listener) net.Listener { return trusted(l) }},
		"a header": {server: &stream.Server{Pool: to(echo), SendProxy: 2}, use: func(t testing.TB, c net.Conn) {
			send(t, c, "PROXY UNKNOWN\r\n")
			chat(t, readPast(t, c))
		}, listen: func(l net.Listener) net.Listener { return trusted(l) }},
	}
	var runs []func()
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		k := kinds[name]
		l := listen(t)
		if k.listen != nil {
			l = k.listen(l)
		}
		r := serveOn(t, k.server, l)
		runs = append(runs, func() {
			c := dialOnce(t, r.addr, "127.0.0.1")
			k.use(t, c)
			c.Close()
			r.ended(t)
			if k.after != nil {
				k.after(t)
			}
		})
	}
	for _, run := range runs {
		run()
	}
	before := leaktest.Settled(t)
	for i := range rounds {
		runs[i%len(runs)]()
	}
	leaktest.RequireNoMore(t, before)
	for name, k := range kinds {
		if name != "client gives up in the queue" {
			idle(t, k.server.Pool)
		}
	}
}

// readPast drops the header that an echo sends back.
func readPast(t testing.TB, c net.Conn) net.Conn {
	t.Helper()
	head := make([]byte, 16)
	_, err := io.ReadFull(c, head)
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, c, int64(head[14])<<8|int64(head[15]))
	require.NoError(t, err)
	return c
}
