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
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// moody are servers as people run them: they give up on a slow body after a second, and destroy
// upgrades unanswered.
var moody = map[string]func(t *testing.T, addr string){
	"Node":   func(t *testing.T, addr string) { startMoody(t, addr, "node", "moody.js") },
	"Python": func(t *testing.T, addr string) { startMoody(t, addr, "python3", "moody.py") },
	"nginx": func(t *testing.T, addr string) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o644))
		file := nginxConf(t, dir, "", fmt.Sprintf(`
	client_body_timeout 1s;
	server {
		listen %s;
		if ($http_upgrade) { return 444; }
		location / { proxy_pass http://%[1]s/ok; }
		location /ok { return 200 ok; }
		location /big { root %[2]s; }
	}
`, addr, dir))
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
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetHTTP1(true)
		srv.Config.Protocols.SetUnencryptedHTTP2(true) // for the targets with the scheme h2c
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

// A misdeed is a request that ends badly through its client's fault. What is left of the connection
// is read until its end, or reset at once.
type misdeed struct {
	request string
	http2   bool // the request is frames of stream 1
	resets  bool
}

var misdeeds = map[string]misdeed{
	"stalled upload":        {request: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"},
	"expect without a body": {request: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"},
	"header of 900 KB":      {request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: " + strings.Repeat("x", 900<<10) + "\r\n\r\n"},
	"upgrade": {request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"},
	"reset in the response": {request: "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", resets: true},
	"fields that HTTP/2 does not have": {request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\nTE: gzip\r\n" +
		"Keep-Alive: 5\r\nProxy-Connection: a\r\nTransfer_Encoding: b\r\nHTTP2-Settings: c\r\nX-Odd: \x80\r\n\r\n"},
	"trailer that HTTP/2 does not have": {request: "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n" +
		"Trailer: X-Odd\r\n\r\n1\r\na\r\n0\r\nX-Odd: a\x01b\r\n\r\n"},
	":protocol without CONNECT": {http2: true, request: framed(headers(1, "GET /", ":protocol: websocket").end())},
	"invalid trailer over HTTP/2": {http2: true, request: framed(headers(1, "POST /", "trailer: x-odd"), data(1, "abc"),
		trailers(1, "x-odd: a\x01b"))},
	"pseudo-header among the trailers": {http2: true, request: framed(headers(1, "POST /"), data(1, "abc"), trailers(1, ":path: /"))},
}

// finalResponse reads a response, and those of 1xx before it.
func finalResponse(c net.Conn) (*http.Response, error) {
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode >= 200 {
			return res, err
		}
	}
}

// framed returns what a client of HTTP/2 with prior knowledge sends.
func framed(frames ...frame) string {
	var all, block bytes.Buffer
	all.WriteString(http2.ClientPreface)
	framer, encoder := http2.NewFramer(&all, nil), hpack.NewEncoder(&block)
	framer.WriteSettings()
	for _, f := range frames {
		payload := f.data
		if f.kind == http2.FrameHeaders {
			block.Reset()
			for _, field := range f.fields {
				encoder.WriteField(hpack.HeaderField{Name: field.name, Value: field.value})
			}
			payload = block.Bytes()
		}
		framer.WriteRawFrame(f.kind, f.flags, f.stream, payload)
	}
	return all.String()
}

// readStream reads frames until stream 1 has ended.
func readStream(c net.Conn) {
	framer := http2.NewFramer(io.Discard, c)
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		h := f.Header()
		if h.StreamID == 1 && (h.Type == http2.FrameRSTStream || h.Type != http2.FrameWindowUpdate && h.Flags.Has(http2.FlagDataEndStream)) {
			return
		}
	}
}

func (m misdeed) do(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second)) // Go's HTTP/2 waits for ever
	if _, err := io.WriteString(c, m.request); err != nil {
		return nil // it was refused before that
	}
	if m.resets {
		c.(*net.TCPConn).SetLinger(0)
		c.Read(make([]byte, 100))
		return nil
	}
	if m.http2 {
		readStream(c)
		return nil
	}
	res, err := finalResponse(c)
	if err == nil {
		io.Copy(io.Discard, res.Body)
	}
	return nil // be the end of the connection an answer or not
}

// What one visitor does ejects no target and moves nobody's session.
func TestProxy_B5_OneVisitorHarmsNobody(t *testing.T) {
	t.Parallel() // much of the time is waiting
	const others = 20
	bad := soaktest.Times(40, 200)
	for _, on := range []string{"Node", "nginx", "Python", "Go", "Go over HTTP/2"} {
		t.Run(on, func(t *testing.T) {
			t.Parallel()
			name, version, _ := strings.Cut(on, " over ")
			var targets []balancer.Target
			for i := range 2 {
				addr := newAddr(t)
				moody[name](t, addr)
				target := backend{id: fmt.Sprint("app-", i), addr: addr}.target()
				if version != "" {
					target.URL.Scheme = "h2c"
				}
				targets = append(targets, target)
			}
			pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
			require.NoError(t, err)
			outcomes := &classes{}
			defer pool.Observe(outcomes)()
			var events records // what ejects, and why
			registry := &health.Registry{Pool: pool, Logger: slog.New(slog.NewTextHandler(&events, nil))}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { registry.Run(ctx) })
			defer running.Wait()
			defer cancel()
			policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
			require.NoError(t, err)
			p := &wsproxy.Proxy{Pool: pool, Policy: policy, Logger: slog.New(slog.DiscardHandler)}
			t.Cleanup(func() { p.Shutdown(context.Background()) })
			srv := httptest.NewUnstartedServer(p)
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetHTTP1(true)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			t.Cleanup(srv.Close)
			addr := srv.Listener.Addr().String()

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
				require.Zero(t, moved, "%s: %s", what, &events)
				require.Zero(t, ejected, "%s: %s", what, &events)
			}
		})
	}
}

// records is a log that may be read while it is written.
type records struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// A target that fails on its own is ejected after the five failures that are documented, whatever
// fails: with connections that are refused, or upgrades of a target that serves nothing else, one
// client is enough.
func TestProxy_B5_TargetsThatFailAreEjected(t *testing.T) {
	const upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	const plain = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	over := make(chan struct{})
	defer close(over)
	tests := map[string]struct {
		behaves func(c *net.TCPConn) // nil: nobody listens
		request string
		clients int
	}{
		"refusing":     {nil, plain, 1},
		"resetting":    {func(c *net.TCPConn) { c.SetLinger(0) }, plain, 2},
		"slow":         {func(*net.TCPConn) { <-over }, plain, 2},
		"half-closing": {func(c *net.TCPConn) { c.CloseWrite(); <-over }, plain, 2},
		"upgrade-only": {func(c *net.TCPConn) { c.Read(make([]byte, 1000)) }, upgrade, 1},
		"for ever 1xx": {func(c *net.TCPConn) {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 102 Processing\r\n\r\n"); err != nil {
					return
				}
			}
		}, plain, 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bad := newListener(t)
			go func() {
				for {
					c, err := bad.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						tt.behaves(c.(*net.TCPConn))
					}()
				}
			}()
			if tt.behaves == nil {
				bad.Close()
			}
			t.Cleanup(func() { bad.Close() })
			good := newBackend(t, "good")
			pool, err := balancer.New(balancer.Config{Picker: balancer.First{},
				Targets: []balancer.Target{backend{id: "bad", addr: bad.Addr().String()}.target(), good.target()}})
			require.NoError(t, err)
			registry := &health.Registry{Pool: pool, Logger: slog.New(slog.DiscardHandler), Interval: -1}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { registry.Run(ctx) })
			defer running.Wait()
			defer cancel()
			until(t, "the registry runs", func() bool { return registry.Status().Running })
			p := &wsproxy.Proxy{Pool: pool, Logger: slog.New(slog.DiscardHandler),
				Transport: &http.Transport{ResponseHeaderTimeout: 300 * time.Millisecond}}
			l := newListener(t)
			serve(t, l, p)
			member := pool.Members()[0]
			for i := range 5 {
				require.True(t, member.State().EjectedUntil.IsZero(), "after %d failures", i)
				from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i%tt.clients))}
				c, err := (&net.Dialer{LocalAddr: from}).Dial("tcp", l.Addr().String())
				require.NoError(t, err)
				c.SetDeadline(time.Now().Add(patience))
				_, err = io.WriteString(c, tt.request)
				require.NoError(t, err)
				_, err = finalResponse(c)
				require.NoError(t, err)
				c.Close()
			}
			until(t, "it is ejected", func() bool { return !member.State().EjectedUntil.IsZero() })
			require.NoError(t, p.Shutdown(context.Background()))
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
