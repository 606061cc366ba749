package peertest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// newHung starts a backend that opens WebSockets, reads the headers of other requests, and nothing
// after that. Its sockets, and those of who talks to it, have little room. It returns its address,
// and what ends its connections.
func newHung(t *testing.T) (addr string, end func()) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1000)
		})
	}}
	l, err := config.Listen(t.Context(), "tcp", newAddr(t))
	require.NoError(t, err)
	over := make(chan struct{})
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err == nil && req.Header.Get("Upgrade") != "" {
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
						"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n")
				}
				<-over
			})
		}
	})
	end = sync.OnceFunc(func() {
		l.Close()
		close(over)
		open.Wait()
	})
	t.Cleanup(end)
	return l.Addr().String(), end
}

// A process is a peer's.
type process struct {
	addr string
	pid  int
	had  int // descriptors before the trial
}

// launchPeer starts a peer of which only one process listens.
func launchPeer(t *testing.T, addr, path string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(path, args...)
	launch(t, addr, syscall.SIGKILL, cmd)
	p := &process{addr: addr, pid: cmd.Process.Pid}
	p.had = p.descriptors(t)
	return p
}

func (p *process) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	require.NoError(t, err)
	return len(open)
}

// dies opens a WebSocket, sends more than a hung backend and its proxy take or, if it is to end
// properly, a little more than is sure to get through, and dies.
func dies(addr string, properly bool) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	size := 512 << 10
	if properly {
		size = 96 << 10
	} else {
		c.(*net.TCPConn).SetLinger(0)
	}
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	c.Write(make([]byte, size)) // of a frame without an end
	return nil
}

// Clients of WebSockets that die while the backend does not read are held for Options.Linger. What
// HAProxy and nginx do with the same is in the log.
func TestPeers_W5_DeadTunnelsToAHungBackend(t *testing.T) {
	const tunnels, linger = 400, 5 * time.Second
	backends, ends := make(map[string]string), []func(){}
	for _, name := range []string{"stickylb", "HAProxy", "nginx"} {
		addr, end := newHung(t)
		backends[name], ends = addr, append(ends, end)
	}
	peers := map[string]*process{"HAProxy": hungHAProxy(t, backends["HAProxy"]), "nginx": hungNginx(t, backends["nginx"])}
	for name, p := range peers {
		require.NoError(t, dieAll(p.addr, tunnels), name)
	}
	before := leaktest.Settled(t)
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{backend{addr: backends["stickylb"]}.target()}})
	require.NoError(t, err)
	p := &wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{Linger: linger}}
	l := newListener(t)
	srv := &http.Server{Handler: p}
	go srv.Serve(l)
	began := time.Now()
	require.NoError(t, dieAll(l.Addr().String(), tunnels))
	until(t, "all dead tunnels are gone", func() bool { return pool.Members()[0].Tunnels() == 0 })
	t.Logf("%d dead tunnels, half of them reset: with stickylb all were gone after %v; by then HAProxy held %d descriptors, nginx %d",
		tunnels, time.Since(began).Round(time.Second), peers["HAProxy"].descriptors(t)-peers["HAProxy"].had,
		peers["nginx"].descriptors(t)-peers["nginx"].had)
	require.NoError(t, p.Shutdown(context.Background()))
	srv.Close()
	for _, end := range ends {
		end()
	}
	leaktest.RequireNoMore(t, before)
}

func dieAll(addr string, n int) error {
	return dieEach(n, func(i int) error { return dies(addr, i%2 == 0) })
}

// dieEach has n clients die, 50 at a time.
func dieEach(n int, die func(i int) error) error {
	failed := make(chan error, n)
	places := make(chan struct{}, 50)
	for i := range n {
		places <- struct{}{}
		go func() {
			failed <- die(i)
			<-places
		}()
	}
	for range n {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

// Clients that die in an upload which the backend does not read are held for the 60 s in which it
// may take nothing, or until the backend ends. What HAProxy and nginx do with the same is in the
// log.
func TestPeers_W5_DeadUploadsToAHungBackend(t *testing.T) {
	const uploads, limit = 100, 60 * time.Second
	backends, ends := make(map[string]string), []func(){}
	for _, name := range []string{"stickylb", "HAProxy", "nginx"} {
		addr, end := newHung(t)
		backends[name], ends = addr, append(ends, end)
	}
	peers := map[string]*process{"HAProxy": hungHAProxy(t, backends["HAProxy"]), "nginx": hungNginx(t, backends["nginx"])}
	began := time.Now()
	for name, p := range peers {
		require.NoError(t, dieEach(uploads, func(int) error { return diesUploading(p.addr) }), name)
	}
	before := leaktest.Settled(t)
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{backend{addr: backends["stickylb"]}.target()}})
	require.NoError(t, err)
	p := &wsproxy.Proxy{Pool: pool, Logger: slog.New(slog.DiscardHandler)}
	l := newListener(t)
	srv := &http.Server{Handler: p}
	go srv.Serve(l)
	require.NoError(t, dieEach(uploads, func(int) error { return diesUploading(l.Addr().String()) }))
	ours := time.Now()
	held := func(when string) {
		t.Logf("%d dead uploads, %s: stickylb %d; of HAProxy %d descriptors and of nginx %d, after %v", uploads, when,
			pool.Members()[0].Load(), peers["HAProxy"].descriptors(t)-peers["HAProxy"].had,
			peers["nginx"].descriptors(t)-peers["nginx"].had, time.Since(began).Round(time.Second))
	}
	held("at first")
	if soaktest.Times(0, 1) == 0 { // only .ci/soak has the time: else they end with their backends
		for _, end := range ends {
			end()
		}
		ends = nil
	}
	deadline := time.After(limit + limit/2) // a slow machine's
	for pool.Members()[0].Load() > 0 {
		select {
		case <-deadline:
			require.FailNow(t, "uploads are held for ever", "%d", pool.Members()[0].Load())
		case <-time.After(time.Second):
		}
	}
	held(fmt.Sprintf("all of stickylb's gone after %v", time.Since(ours).Round(time.Second)))
	require.NoError(t, p.Shutdown(context.Background()))
	srv.Close()
	for _, end := range ends {
		end()
	}
	leaktest.RequireNoMore(t, before)
}

// diesUploading sends more of a body than a hung backend and its proxy take, and resets the
// connection.
func diesUploading(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.(*net.TCPConn).SetLinger(0)
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"); err != nil {
		return err
	}
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	c.Write(make([]byte, 8<<20)) // not all of it: that is the point
	return nil
}

// hungHAProxy starts HAProxy as its manual recommends it for WebSockets, in front of one server.
func hungHAProxy(t *testing.T, server string) *process {
	t.Helper()
	addr := newAddr(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
global
	maxconn 1000
	nbthread 1
defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout client-fin 30s
	timeout server 30s
	timeout tunnel 1h
listen app
	bind %s
	server app %s
`, addr, server), 0o600))
	return launchPeer(t, addr, program(t, "haproxy"), "-db", "-f", file)
}

// hungNginx starts nginx as its manual recommends it for WebSockets, in front of one server.
func hungNginx(t *testing.T, server string) *process {
	t.Helper()
	addr := newAddr(t)
	dir := t.TempDir()
	file := nginxConf(t, dir, "", fmt.Sprintf(`
	client_max_body_size 0; proxy_request_buffering off;
	server {
		listen %s;
		location / {
			proxy_pass http://%s;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_read_timeout 1h;
		}
	}
`, addr, server))
	return launchPeer(t, addr, program(t, "nginx"), "-p", dir+"/", "-c", file, "-e", "stderr")
}
