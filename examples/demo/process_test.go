package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
)

const (
	patience = time.Minute          // for what must happen
	glance   = 5 * time.Millisecond // between two looks
)

// A process is a demo that runs inside the test.
type process struct {
	lines  []string // of standard output, up to the last listener's
	http   string   // base URLs
	https  string
	admin  string
	tcp    []string // addresses
	stderr *buffer

	stop context.CancelFunc
	code chan int
}

// start runs the demo, on free ports unless the flags say otherwise, until the test ends.
func start(t *testing.T, flags ...string) *process {
	t.Helper()
	last := "balancer accepts on https://"
	if slices.Contains(flags, "-admin") {
		last = "admin accepts on "
	}
	return startUntil(t, last, append([]string{"-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0", "-check-interval", "20ms"}, flags...)...)
}

// startUntil runs the demo and returns when it has printed a line that begins so. On a machine that
// stalls it does so again, because the demo does not wait any longer for backends that it has not
// probed yet.
func startUntil(t *testing.T, last string, args ...string) *process {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		began := time.Now()
		p := launch(t, last, args...)
		if time.Since(began) < firstRound || time.Now().After(deadline) {
			return p
		}
		p.end(t)
	}
}

// launch runs the demo and returns when it has printed a line that begins so.
func launch(t *testing.T, last string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	p := &process{stderr: &buffer{}, stop: cancel, code: make(chan int, 1)}
	go func() {
		p.code <- run(ctx, args, w, p.stderr)
		w.Close()
	}()
	t.Cleanup(func() { p.end(t) })
	for out := bufio.NewScanner(r); out.Scan(); {
		p.note(out.Text())
		if strings.HasPrefix(out.Text(), last) {
			go io.Copy(io.Discard, r)
			return p
		}
	}
	require.FailNow(t, "the demo has not started", p.stderr.String())
	return nil
}

// note reads a line of the demo's standard output.
func (p *process) note(line string) {
	p.lines = append(p.lines, line)
	name, rest, _ := strings.Cut(line, " accepts on ")
	addr, _, _ := strings.Cut(rest, " ")
	switch {
	case name == "admin":
		p.admin = addr
	case name == "balancer" && strings.HasPrefix(addr, "https:"):
		p.https = addr
	case name == "balancer":
		p.http = addr
	case name == "tcp":
		p.tcp = append(p.tcp, strings.TrimPrefix(addr, "tcp://"))
	}
}

// end stops the demo and returns its exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	p.stop()
	select {
	case code := <-p.code:
		p.code <- code // for the next one who asks
		return code
	case <-time.After(patience):
		require.FailNow(t, "the demo does not end")
		return -1
	}
}

// press does what a button of the page does.
func (p *process) press(t *testing.T, path string) {
	t.Helper()
	res, err := http.Post(p.http+"/demo/"+path, "", nil)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, res.StatusCode, string(body))
}

// restart starts a backend once more. Somebody else may have its port for a moment.
func (p *process) restart(t *testing.T, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		res, err := http.Post(p.http+"/demo/backends/"+id+"/start", "", nil)
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusNoContent
	}, patience, glance)
}

// own is a port of a loopback address that nobody else uses: nobody listens there when the demo
// does not any more.
func own() string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))}), 0).String()
}

// A shown is what the page shows of a backend.
type shown struct {
	ID, Health, Admin string
	Running, Ejected  bool
	Tunnels           int
}

func (p *process) shows(t *testing.T, id string) shown {
	t.Helper()
	res, err := http.Get(p.http + "/demo/state")
	require.NoError(t, err)
	defer res.Body.Close()
	var all []shown
	require.NoError(t, json.NewDecoder(res.Body).Decode(&all))
	i := slices.IndexFunc(all, func(s shown) bool { return s.ID == id })
	require.NotEqual(t, -1, i, "%s is not among %v", id, all)
	return all[i]
}

// healthy waits until the checks find the backend so, or not so.
func (p *process) healthy(t *testing.T, id, health string) {
	t.Helper()
	require.Eventually(t, func() bool { return p.shows(t, id).Health == health }, patience, glance)
}

// A visitor has a browser's cookies. It believes every certificate.
type visitor struct{ http.Client }

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &visitor{http.Client{Jar: jar, Transport: transport, Timeout: patience}}
}

func (v *visitor) get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	res, err := v.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

// An answer is that of an embedded backend to /whoami.
type answer struct{ Backend, Client, Proto string }

func (v *visitor) ask(t *testing.T, base string) answer {
	t.Helper()
	res, body := v.get(t, base+"/whoami")
	require.Equal(t, http.StatusOK, res.StatusCode, body)
	var a answer
	require.NoError(t, json.Unmarshal([]byte(body), &a))
	return a
}

// dial opens the page's WebSocket and returns it with the backend that greets.
func (v *visitor) dial(t *testing.T, base string) (ws *websocket.Conn, backend string) {
	t.Helper()
	config, err := websocket.NewConfig(strings.Replace(base, "http", "ws", 1)+"/ws", base)
	require.NoError(t, err)
	config.TlsConfig = &tls.Config{InsecureSkipVerify: true}
	u, err := url.Parse(base)
	require.NoError(t, err)
	for _, c := range v.Jar.Cookies(u) {
		config.Header.Add("Cookie", c.String())
	}
	ws, err = config.DialContext(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { ws.Close() })
	hello := receive(t, ws)
	require.Equal(t, "hello", hello.Text)
	return ws, hello.Backend
}

func receive(t *testing.T, ws *websocket.Conn) message {
	t.Helper()
	var m message
	require.NoError(t, ws.SetReadDeadline(time.Now().Add(patience)))
	require.NoError(t, websocket.JSON.Receive(ws, &m))
	return m
}

// A buffer may be written to and read at the same time.
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
