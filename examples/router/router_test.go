package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/redisserver"
	"github.com/stickylb/stickylb/health"
)

const (
	patience = time.Minute
	glance   = 5 * time.Millisecond
	password = "correct horse"
)

// A program is a run of the program, until the end of the test.
type program struct {
	t    *testing.T
	addr string
	end  func() // asks it to end, as an interrupt does
	done chan error
	logs *buffer
}

// A buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start starts the program, at an address on which nobody else listens. After the test none of its
// goroutines is left.
func start(t *testing.T) *program {
	t.Helper()
	before := runtime.NumGoroutine()
	own := netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))})
	listener, err := net.Listen("tcp", netip.AddrPortFrom(own, 0).String())
	require.NoError(t, err)
	p := &program{t: t, addr: listener.Addr().String(), done: make(chan error, 1), logs: &buffer{}}
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(context.Background())
	p.end = cancel
	go func() { p.done <- run(ctx, listener, password, io.Discard) }()
	t.Cleanup(func() {
		cancel()
		p.ended()
		slog.SetDefault(old)
		settle(t, before)
	})
	for _, pool := range []string{"api", "sockets", "assets"} { // until then, one backend may be the only healthy one
		require.Eventually(t, func() bool {
			for _, target := range p.status(pool).Targets {
				if target.Health != balancer.Healthy {
					return false
				}
			}
			return true
		}, patience, glance, "both backends of %s are healthy", pool)
	}
	return p
}

// settle waits until there are no more goroutines than before.
func settle(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(glance) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			require.FailNow(t, "goroutines are left", "%s", stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// ended waits for the end of the program, which has to be one without an error.
func (p *program) ended() {
	p.t.Helper()
	select {
	case err := <-p.done:
		require.NoError(p.t, err)
		p.done <- nil
	case <-time.After(patience):
		require.FailNow(p.t, "the program does not end")
	}
}

// client returns a client with connections and cookies of its own.
func (p *program) client(http2 bool) *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(p.t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, Timeout: patience}
}

// do sends a request. change, if not nil, changes it before.
func (p *program) do(c *http.Client, method, path string, body io.Reader, change func(*http.Request)) (*http.Response, string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, "https://"+p.addr+path, body)
	require.NoError(p.t, err)
	if change != nil {
		change(r)
	}
	res, err := c.Do(r)
	require.NoError(p.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(p.t, err)
	return res, string(text)
}

func operator(r *http.Request) { r.SetBasicAuth("operator", password) }

func decode(t *testing.T, text string) (a answer) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &a), text)
	return a
}

// 12 sessions of 5 requests each stick over HTTP/1.1 and HTTP/2, with an ID for each request that
// no client chooses. The assets come from both backends in turn.
func TestRouter_S3_SessionsAndRequestIDs(t *testing.T) {
	p := start(t)
	ids, met := map[string]bool{}, map[string]int{}
	for i := range 12 {
		c := p.client(i%2 == 0)
		home := ""
		for range 5 {
			res, text := p.do(c, http.MethodPost, "/api/orders", strings.NewReader("12345"), func(r *http.Request) {
				r.Header.Set("X-Request-Id", "forged")
			})
			a := decode(t, text)
			require.Equal(t, 2-i%2, res.ProtoMajor)
			require.Equal(t, []string{a.Request}, res.Header["X-Request-Id"])
			require.False(t, ids[a.Request], "an ID comes twice")
			require.EqualValues(t, 5, a.Received)
			require.True(t, home == "" || home == a.Backend, "the session has moved")
			ids[a.Request], home = true, a.Backend
		}
		met[home]++
	}
	require.Len(t, ids, 60)
	require.Len(t, met, 2, "all sessions are at one backend")

	c := p.client(true)
	for range 20 {
		res, id := p.do(c, http.MethodGet, "/asset", nil, nil)
		require.Empty(t, res.Cookies())
		met[id]++
	}
	require.Equal(t, 10, met["assets-1"])
	require.Equal(t, 10, met["assets-2"])
	_, text := p.do(c, http.MethodGet, "/", nil, nil)
	require.Contains(t, text, "<h1>Three pools</h1>")
}

// curl speaks HTTP/2 and HTTP/1.1, and its cookies keep the session.
func TestRouter_S3_Curl(t *testing.T) {
	path := redisserver.Program(t, "curl")
	p := start(t)
	jar := t.TempDir() + "/jar"
	backend := ""
	for _, version := range []string{"--http2", "--http1.1", "--http2", "--http1.1"} {
		cmd := exec.CommandContext(t.Context(), path, "-q", "-sS", "--insecure", "--noproxy", "*", "--max-time", "60",
			version, "-c", jar, "-b", jar, "-w", "\n%{http_version} %{http_code}", "https://"+p.addr+"/api/")
		out, err := cmd.Output()
		require.NoError(t, err)
		body, status, _ := strings.Cut(strings.TrimSpace(string(out)), "\n\n")
		require.Equal(t, map[string]string{"--http2": "2 200", "--http1.1": "1.1 200"}[version], status)
		a := decode(t, body)
		require.True(t, backend == "" || backend == a.Backend)
		backend = a.Backend
	}
}

// The status page and the metrics are for operators only, and so is everything else that their
// browsers send the password to. No log has it.
func TestRouter_Operators(t *testing.T) {
	p := start(t)
	c := p.client(true)
	for range 7 {
		p.do(c, http.MethodGet, "/api/", nil, nil)
	}
	for name, change := range map[string]func(*http.Request){
		"no password":         nil,
		"another password":    func(r *http.Request) { r.SetBasicAuth("operator", "battery staple") },
		"a longer password":   func(r *http.Request) { r.SetBasicAuth("operator", password+"s") },
		"an empty password":   func(r *http.Request) { r.SetBasicAuth("operator", "") },
		"another name":        func(r *http.Request) { r.SetBasicAuth("Operator", password) },
		"another scheme":      func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+password) },
		"no base64":           func(r *http.Request) { r.Header.Set("Authorization", "Basic ?"+password) },
		"the colon elsewhere": func(r *http.Request) { r.SetBasicAuth("operator:correct", " horse") },
	} {
		for _, path := range []string{"/operators/status", "/operators/metrics", "/operators/", "/operators/asset", "/operators/status/"} {
			res, text := p.do(c, http.MethodGet, path, nil, change)
			require.Equal(t, http.StatusUnauthorized, res.StatusCode, "%s: %s", name, path)
			require.Equal(t, `Basic realm="operators", charset="UTF-8"`, res.Header.Get("WWW-Authenticate"))
			require.Equal(t, "Unauthorized\n", text)
		}
	}
	res, text := p.do(c, http.MethodGet, "/operators/asset", nil, operator)
	require.Equal(t, http.StatusNotFound, res.StatusCode, "no backend is below /operators/: %s", text)

	// The metrics are what they should be, for Prometheus's own parser.
	_, text = p.do(c, http.MethodGet, "/operators/metrics", nil, operator)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	require.NoError(t, err)
	bindings := map[string]float64{} // by result
	for _, m := range families["stickylb_policy_bindings_total"].GetMetric() {
		for _, label := range m.GetLabel() {
			if label.GetName() == "result" {
				bindings[label.GetValue()] += m.GetCounter().GetValue()
			}
		}
	}
	require.EqualValues(t, 1, bindings["bound"], "one session has begun: %v", bindings)
	require.EqualValues(t, 6, bindings["kept"], "and has gone on: %v", bindings)
	pools := map[string]bool{}
	for _, m := range families["stickylb_targets_serving"].GetMetric() {
		pools[m.GetLabel()[0].GetValue()] = true
	}
	require.Equal(t, map[string]bool{"api": true, "sockets": true, "assets": true}, pools)

	// A button works for an operator, under the operator's name, and for no page of another site.
	press := func(change func(*http.Request)) int {
		form := url.Values{"pool": {"api"}, "target": {"api-1"}, "action": {"down"}}
		res, _ := p.do(c, http.MethodPost, "/operators/status", strings.NewReader(form.Encode()), func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			operator(r)
			change(r)
		})
		return res.StatusCode
	}
	require.Equal(t, http.StatusForbidden, press(func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }))
	require.Equal(t, http.StatusForbidden, press(func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }))
	require.Equal(t, http.StatusMisdirectedRequest, press(func(r *http.Request) { r.Host = "evil.example" }))
	require.Equal(t, http.StatusUnauthorized, press(func(r *http.Request) { r.Header.Del("Authorization") }))
	require.Empty(t, p.status("api").Presses)
	require.Equal(t, http.StatusOK, press(func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") }))
	status := p.status("api")
	require.Len(t, status.Presses, 1)
	require.Equal(t, "operator", status.Presses[0].By)
	for range 4 {
		_, text := p.do(p.client(true), http.MethodGet, "/api/", nil, nil)
		require.Equal(t, "api-2", decode(t, text).Backend)
	}

	p.end()
	p.ended()
	logs := p.logs.String()
	require.Contains(t, logs, "request_id=")
	require.NotContains(t, logs, password)
	require.NotContains(t, logs, "Basic ")
	require.NotContains(t, logs, "b3BlcmF0b3I6") // operator: in base64
}

// status returns a pool's part of the status page.
func (p *program) status(pool string) health.Status {
	p.t.Helper()
	_, text := p.do(p.client(false), http.MethodGet, "/operators/status?pool="+pool, nil, operator)
	var status health.PageStatus
	require.NoError(p.t, json.Unmarshal([]byte(text), &status))
	require.Len(p.t, status.Pools, 1)
	return status.Pools[0]
}

// At the end the WebSockets are asked to leave while a request is still in flight. Both end in an
// orderly way, and nothing else is accepted.
func TestRouter_W6_ShutdownEndsWebSocketsFirst(t *testing.T) {
	p := start(t)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	ws, res, err := websocket.Dial(t.Context(), "wss://"+p.addr+"/ws/chat", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}})
	require.NoError(t, err)
	defer ws.CloseNow()
	require.Len(t, res.Header.Values("X-Request-Id"), 1)
	hear := func(want string) {
		t.Helper()
		_, got, err := ws.Read(t.Context())
		require.NoError(t, err)
		require.Contains(t, string(got), want)
	}
	hear("hello from sockets-")
	for range 3 {
		require.NoError(t, ws.Write(t.Context(), websocket.MessageBinary, []byte("an echo")))
		hear("an echo")
	}

	body, more := io.Pipe()
	answered := make(chan answer, 1)
	c := p.client(true)
	go func() {
		defer close(answered)
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+p.addr+"/api/upload", body)
		res, err := c.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		var a answer
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
			t.Error(err)
			return
		}
		answered <- a
	}()
	_, err = more.Write([]byte("half "))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		targets := p.status("api").Targets
		return targets[0].Load+targets[1].Load == 1
	}, patience, glance, "the request is at its backend")

	p.end()
	_, _, err = ws.Read(t.Context())
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), "%v", err)
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, patience, glance, "nothing more is accepted")
	require.Empty(t, p.done, "the program waits for the request")
	require.Empty(t, answered)
	_, err = more.Write([]byte("and half"))
	require.NoError(t, err)
	require.NoError(t, more.Close())
	a, ok := <-answered
	require.True(t, ok)
	require.EqualValues(t, len("half and half"), a.Received)
	p.ended()
	_, err = net.Dial("tcp", p.addr)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// Without a password one is made, and written to the terminal but not to the log.
func TestRouter_GeneratedPassword(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var said strings.Builder
	require.NoError(t, run(ctx, listener, "", &said))
	lines := strings.Split(said.String(), "\n")
	require.Regexp(t, `^the password of operator is [A-Z2-7]{26}$`, lines[0])
	require.Regexp(t, `^open https://127\.0\.0\.1:\d+ and, as operator, https://127\.0\.0\.1:\d+/operators/status$`, lines[1])
}
