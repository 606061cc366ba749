package peertest_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// moody are servers as people run them: they give up on a slow body after a second, and destroy upgrades unanswered.
var moody = map[string]func(t *testing.T, addr string){
	"Node":   func(t *testing.T, addr string) { startMoody(t, addr, "node", "moody.js") },
	"Python": func(t *testing.T, addr string) { startMoody(t, addr, "python3", "moody.py") },
	"nginx": func(t *testing.T, addr string) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o644))
		file := filepath.Join(dir, "nginx.conf")
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
daemon off;
master_process off;
pid pid;
error_log stderr;
events { worker_connections 1000; }
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy;
	fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	client_body_timeout 1s;
	server {
		listen %s;
		if ($http_upgrade) { return 444; }
		location / { proxy_pass http://%[1]s/ok; }
		location /ok { return 200 ok; }
		location /big { root %[2]s; }
	}
}
`, addr, dir), 0o600))
		start(t, addr, program(t, "nginx"), "-p", dir+"/", "-c", file, "-e", "stderr")
	},
	"Go": func(t *testing.T, addr string) {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				panic(http.ErrAbortHandler)
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				panic(http.ErrAbortHandler)
			}
			if r.URL.Path == "/big" {
				w.Write(make([]byte, 1<<20))
			}
			io.WriteString(w, "ok")
		}))
		srv.Listener.Close()
		srv.Listener = listen(t, addr)
		srv.Config.ReadTimeout = time.Second
		srv.Config.MaxHeaderBytes = 64 << 10
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.Start()
		t.Cleanup(srv.Close)
	},
}

func startMoody(t *testing.T, addr, interpreter, script string) {
	t.Helper()
	h, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	start(t, addr, program(t, interpreter), filepath.Join("testdata", script), h, port)
}

// A misdeed is a request that ends badly through its client's fault. What is left of the connection is read until its
// end, or reset at once.
type misdeed struct {
	request string
	resets  bool
}

var misdeeds = map[string]misdeed{
	"stalled upload":        {request: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"},
	"expect without a body": {request: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"},
	"header of 900 KB":      {request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: " + strings.Repeat("x", 900<<10) + "\r\n\r\n"},
	"upgrade": {request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"},
	"reset in the response": {request: "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", resets: true},
}

func (m misdeed) do(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, m.request); err != nil {
		return nil // it was refused before that
	}
	if m.resets {
		c.(*net.TCPConn).SetLinger(0)
		c.Read(make([]byte, 100))
		return nil
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		io.Copy(io.Discard, res.Body)
	}
	return nil // be the end of the connection an answer or not
}

// What one visitor does ejects no target and moves nobody's session; a target that has died is ejected.
func TestProxy_B5_OneVisitorHarmsNobody(t *testing.T) {
	const others, bad = 20, 200
	for name, begin := range moody {
		t.Run(name, func(t *testing.T) {
			var targets []balancer.Target
			for i := range 2 {
				addr := newAddr(t)
				begin(t, addr)
				targets = append(targets, backend{id: fmt.Sprint("app-", i), addr: addr}.target())
			}
			pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
			require.NoError(t, err)
			outcomes := &classes{}
			defer pool.Observe(outcomes)()
			registry := &health.Registry{Pool: pool, Logger: slog.New(slog.DiscardHandler)}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { registry.Run(ctx) })
			defer running.Wait()
			defer cancel()
			policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
			require.NoError(t, err)
			p := &wsproxy.Proxy{Pool: pool, Policy: policy, Logger: slog.New(slog.DiscardHandler)}
			t.Cleanup(func() { p.Shutdown(context.Background()) })
			l := newListener(t)
			serve(t, l, p).Config.ErrorLog = log.New(io.Discard, "", 0)
			addr := l.Addr().String()

			var sessions []*session
			for range others {
				s := newSession(t)
				require.NotEmpty(t, visit(t, s, addr), "it is bound")
				sessions = append(sessions, s)
			}
			for what, m := range misdeeds {
				outcomes.reset()
				var doing sync.WaitGroup
				places := make(chan struct{}, 50)
				for range bad {
					places <- struct{}{}
					doing.Go(func() {
						defer func() { <-places }()
						if err := m.do(addr); err != nil {
							t.Error(err)
						}
					})
				}
				doing.Wait()
				moved := 0
				for _, s := range sessions {
					if visit(t, s, addr) != "" {
						moved++
					}
				}
				ejected := 0
				for _, target := range pool.Members() {
					if !target.State().EjectedUntil.IsZero() {
						ejected++
					}
				}
				t.Logf("%s: %d of %d sessions moved, %d targets ejected; %v", what, moved, others, ejected, outcomes)
				require.Zero(t, moved, what)
				require.Zero(t, ejected, what)
			}
		})
	}
}

// visit asks once and returns what binds the session anew; empty if nothing does.
func visit(t *testing.T, s *session, addr string) string {
	t.Helper()
	s.addr = addr
	res, err := s.c.Do(request(t, host, "/"))
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", bytes.TrimSpace(body))
	return res.Header.Get("Set-Cookie")
}

// classes counts outcomes.
type classes struct {
	mu  sync.Mutex
	n   map[string]int
	why []string // the first of each class
}

func (c *classes) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n, c.why = make(map[string]int), nil
}

// Released implements balancer.Observer.
func (c *classes) Released(_ *balancer.Member, o balancer.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[o.Class.String()]++
	if o.Err != nil && c.n[o.Class.String()] == 1 {
		c.why = append(c.why, o.Err.Error())
	}
}

// Changed implements balancer.Observer.
func (c *classes) Changed(*balancer.Member, balancer.State) {}

func (c *classes) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%v %q", c.n, c.why)
}
