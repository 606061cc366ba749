package peertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// patience bounds every wait for something that has to happen.
const patience = time.Minute

// program returns the path of a program. Without it the test is skipped, or fails where CI is set.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name)
	}
	return path
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		require.FailNow(t, "not installed", what)
	}
	t.Skipf("%s is not installed", what)
}

// start runs a program until the test ends, and waits for it to listen at addr.
func start(t *testing.T, addr, path string, args ...string) {
	t.Helper()
	launch(t, addr, syscall.SIGKILL, exec.Command(path, args...))
}

// launch starts a program and waits for it to listen at addr. The program gets the signal when the
// test ends, or earlier from kill, which waits for its end.
func launch(t *testing.T, addr string, signal syscall.Signal, cmd *exec.Cmd) (kill func()) {
	t.Helper()
	path := cmd.Path
	var out bytes.Buffer // read after Wait alone
	cmd.Stdout, cmd.Stderr = &out, &out
	endsWithTests(cmd, signal)
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		cmd.Wait() // the signal that ends it is no news
		close(ended)
	}()
	kill = func() {
		cmd.Process.Signal(signal)
		<-ended
	}
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", path, &out)
		}
	})
	until(t, path+" listens", func() bool {
		select {
		case <-ended:
			require.FailNow(t, path+" has ended")
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return kill
}

// nginxConf writes the configuration of an nginx that stays in the foreground and keeps its files
// in dir, and returns the file. main goes into the main section, lines into that of http.
func nginxConf(t *testing.T, dir, main, lines string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
%s
daemon off;
master_process off;
pid pid;
error_log stderr;
events { worker_connections 4000; }
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy;
	fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
%s
}
`, main, lines), 0o600))
	return file
}

// until looks again and again whether something has happened.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-deadline:
			require.FailNow(t, "not so: "+what)
		case <-tick.C:
		}
	}
}

// newAddr returns an address that nobody uses, on a loopback net that nobody else looks at.
func newAddr(t *testing.T) string {
	t.Helper()
	l := newListener(t)
	l.Close()
	return l.Addr().String()
}

func newListener(t *testing.T) net.Listener {
	t.Helper()
	addr := netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))})
	return listen(t, netip.AddrPortFrom(addr, 0).String())
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	return l
}

// serve serves until the test ends.
func serve(t *testing.T, l net.Listener, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// serveTLS serves on a port of the usual loopback address until the test ends.
func serveTLS(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // browsers break off connections that they have opened in advance
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// A seen is what a backend tells of a request.
type seen struct {
	ID      string   // of the backend
	Cookies []string // the Cookie lines, as they came
}

// A backend is an application's server. It answers with a [seen] and with what the path asks for
// ([setting], [answering]), tells its ID to whoever opens a WebSocket at ".../ws", and at
// ".../frame" posts a [seen] to the page around it.
type backend struct {
	id, addr string
	server   *httptest.Server
}

func newBackend(t *testing.T, id string) backend {
	t.Helper()
	return newBackendAt(t, id, newListener(t))
}

func newBackendAt(t *testing.T, id string, l net.Listener) backend {
	t.Helper()
	socket := websocket.Server{Handler: func(c *websocket.Conn) { websocket.Message.Send(c, id) }}
	h := func(w http.ResponseWriter, r *http.Request) {
		told, _ := json.Marshal(seen{id, r.Header["Cookie"]})
		switch {
		case strings.HasSuffix(r.URL.Path, "/ws"):
			socket.ServeHTTP(w, r)
		case strings.HasSuffix(r.URL.Path, "/frame"):
			fmt.Fprintf(w, "<!doctype html><script>parent.postMessage(%s, '*')</script>", told)
		default:
			for _, line := range r.URL.Query()["header"] {
				name, value, _ := strings.Cut(line, ": ")
				w.Header().Add(name, value)
			}
			w.Write(told)
		}
	}
	return backend{id, l.Addr().String(), serve(t, l, http.HandlerFunc(h))}
}

// answering is a path to which backends answer with these header lines.
func answering(headers ...string) string { return "/?" + url.Values{"header": headers}.Encode() }

// setting is a path to which backends answer with these Set-Cookie lines.
func setting(lines ...string) string {
	var headers []string
	for _, line := range lines {
		headers = append(headers, "Set-Cookie: "+line)
	}
	return answering(headers...)
}

func newBackends(t *testing.T, ids ...string) []backend {
	t.Helper()
	var all []backend
	for _, id := range ids {
		all = append(all, newBackend(t, id))
	}
	return all
}

func (b backend) target() balancer.Target {
	return balancer.Target{ID: b.id, URL: &url.URL{Scheme: "http", Host: b.addr}}
}

// newProxy returns a proxy that takes targets in turn unless the policy knows better.
func newProxy(t *testing.T, policy stickiness.Policy, targets ...balancer.Target) *wsproxy.Proxy {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	require.NoError(t, err)
	p := &wsproxy.Proxy{Pool: pool, Policy: policy}
	t.Cleanup(func() { p.Shutdown(context.Background()) })
	return p
}

// serveProxy starts a proxy and returns its address.
func serveProxy(t *testing.T, p *wsproxy.Proxy) string {
	t.Helper()
	l := newListener(t)
	serve(t, l, p)
	return l.Addr().String()
}

// An answer is what a client gets to see.
type answer struct {
	seen
	SetCookie []string
	Header    http.Header
}

// ask sends one request with these Cookie lines to the balancer at addr.
func ask(t *testing.T, addr, path string, cookies ...string) answer {
	t.Helper()
	r := request(t, addr, path)
	r.Header["Cookie"] = cookies
	return do(t, http.DefaultClient, r)
}

func request(t *testing.T, host, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+path, nil)
	require.NoError(t, err)
	return r
}

func do(t *testing.T, c *http.Client, r *http.Request) answer {
	t.Helper()
	res, err := c.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", body)
	a := answer{SetCookie: res.Header["Set-Cookie"], Header: res.Header}
	require.NoError(t, json.Unmarshal(body, &a.seen))
	return a
}

// A session is a client that keeps its cookies while the balancer in front of one host name
// changes.
type session struct {
	addr string // of the balancer
	c    http.Client
}

// host is the name that sessions know.
const host = "app.example"

func newSession(t *testing.T) *session {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	s := &session{}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.addr)
	}
	s.c = http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	return s
}

// set stores a cookie as if it had been set for the whole host.
func (s *session) set(name, value string) {
	s.c.Jar.SetCookies(&url.URL{Scheme: "http", Host: host}, []*http.Cookie{{Name: name, Value: value, Path: "/"}})
}

// get asks for a path through the balancer at addr.
func (s *session) get(t *testing.T, addr, path string) answer {
	t.Helper()
	s.addr = addr
	return do(t, &s.c, request(t, host, path))
}

// upgrade opens a WebSocket through the balancer at addr, and returns the ID that it is told.
func (s *session) upgrade(t *testing.T, addr string) string {
	t.Helper()
	s.addr = addr
	r := request(t, host, "/ws")
	r.Header = http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Origin":                {"http://" + host},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"AAAAAAAAAAAAAAAAAAAAAA=="},
	}
	res, err := s.c.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	frame := make([]byte, 2)
	_, err = io.ReadFull(res.Body, frame)
	require.NoError(t, err)
	id := make([]byte, frame[1])
	_, err = io.ReadFull(res.Body, id)
	require.NoError(t, err)
	return string(id)
}

// continues shows that sessions which begin at one of two balancers continue at the other. login is
// a path that begins one; app has the Cookie lines that backends see from then on, by the answer to
// it, and is nil if there are none.
func continues(t *testing.T, both map[string]string, login string, app func(answer) []string, ids ...string) {
	t.Helper()
	for begin, addr := range both {
		met := make(map[string]bool)
		for range 2 * len(ids) {
			s := newSession(t)
			first := s.get(t, addr, login)
			require.Len(t, first.SetCookie, 1, begin)
			met[first.ID] = true
			want := seen{ID: first.ID}
			if app != nil {
				want.Cookies = app(first)
			}
			line := first.SetCookie[0]
			for range 2 {
				for name, addr := range both {
					line = s.stays(t, addr, want, line, len(ids)+1, fmt.Sprintf("begun at %s, at %s", begin, name))
				}
			}
		}
		require.ElementsMatch(t, ids, slices.Collect(maps.Keys(met)), "sessions on every backend")
	}
}

// stays asks so many times. (More often than there are backends: without the cookie each of them
// would have its turn.) It returns the line that has set the cookie last, which may be another if
// four seconds have passed.
func (s *session) stays(t *testing.T, addr string, want seen, line string, times int, what string) string {
	t.Helper()
	for range times {
		a := s.get(t, addr, "/")
		require.Equal(t, want, a.seen, what)
		if len(a.SetCookie) > 0 {
			before, rest := cutLast(t, line)
			last, same := cutLast(t, a.SetCookie[0])
			require.Equal(t, rest, same, what)
			require.NotEqual(t, before, last, what)
			line = a.SetCookie[0]
		}
	}
	return line
}
