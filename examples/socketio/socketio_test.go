package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/nodejs"
	"github.com/stickylb/stickylb/examples/internal/npmtest"
	"github.com/stickylb/stickylb/wsproxy"
)

const patience = 3 * time.Minute // for what must happen

// clients returns how many clients of each kind connect with each transport: 12, or 200 where the
// environment has SOAK.
func clients() int {
	if os.Getenv("SOAK") != "" {
		return 200
	}
	return 12
}

func TestMain(m *testing.M) { os.Exit(npmtest.Run(m)) }

// A result is what client.js has seen of one kind of client.
type result struct {
	Whole           int
	Nodes, Failures map[string]int
}

// connect has client.js connect clients of each kind through a balancer in front of three nodes.
func connect(t *testing.T, sticky bool, clients int) map[string]result {
	t.Helper()
	s := front(t, sticky)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	results := make(map[string]result)
	npmtest.Play(t, ctx, s.folder, &results, "client.js", s.url, strconv.Itoa(clients), "json")
	require.Len(t, results, 9)
	return results
}

// A site is a balancer in front of three nodes.
type site struct {
	folder *nodejs.Folder
	nodes  []*nodejs.Process
	lb     *wsproxy.Proxy
	url    string
}

func front(t *testing.T, sticky bool) *site {
	t.Helper()
	s := &site{folder: npmtest.Folder(t, "node")}
	var targets []string
	for _, name := range []string{"red", "green", "blue"} {
		node := npmtest.Start(t, s.folder, "server.js", name)
		s.nodes = append(s.nodes, node)
		targets = append(targets, name+"="+node.URL)
	}
	var err error
	s.lb, err = newProxy(sticky, targets...)
	require.NoError(t, err)
	server := httptest.NewServer(s.lb)
	t.Cleanup(server.Close)
	t.Cleanup(func() { s.lb.Close() })
	s.url = server.URL
	return s
}

// Each client of each kind gets all its answers from one node, by each transport, and the clients
// are spread over the nodes.
func TestSticky(t *testing.T) {
	t.Parallel()
	clients := clients()
	for kind, r := range connect(t, true, clients) {
		t.Logf("%s: %d of %d whole: %v", kind, r.Whole, clients, r.Nodes)
		require.Empty(t, r.Failures, kind)
		require.Equal(t, clients, r.Whole, kind)
		require.Greater(t, len(r.Nodes), 1, kind)
	}
}

// Without stickiness, all fail that need more than one request, and they fail as the documentation
// of this program says.
func TestNotSticky(t *testing.T) {
	t.Parallel()
	const clients = 8
	for kind, r := range connect(t, false, clients) {
		t.Logf("%s: %d of %d whole: %v", kind, r.Whole, clients, r.Failures)
		switch kind {
		case "socket.io websocket", "SockJS websocket": // a single request decides
			require.Equal(t, clients, r.Whole, kind)
			continue
		case "socket.io polling", "socket.io upgrade":
			require.Positive(t, r.Failures[`400 "Session ID unknown"`], kind)
		case "SignalR LongPolling", "SignalR ServerSentEvents", "SignalR WebSockets":
			require.Equal(t, clients-r.Whole, r.Failures["404"]+r.Failures[`404 "No Connection with that ID"`]+
				r.Failures[`"The connection could not be found on the server"`], kind)
		}
		require.Less(t, r.Whole, clients, kind)
	}
}

// A visitor is a client of socket.io's polling that keeps cookies.
type visitor struct {
	t   *testing.T
	url string
	jar http.CookieJar
	sid string
}

func newVisitor(t *testing.T, s *site) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &visitor{t: t, url: s.url + "/socket.io/?EIO=4&transport=polling", jar: jar}
}

// begin begins a session, and returns the status of the answer.
func (v *visitor) begin(cookies ...*http.Cookie) (status int) {
	v.t.Helper()
	status, body := v.do(http.MethodGet, v.url, "", cookies...)
	var opened struct {
		SID string `json:"sid"`
	}
	if status == http.StatusOK {
		require.NoError(v.t, json.Unmarshal([]byte(body[1:]), &opened))
		v.sid = opened.SID
	}
	return status
}

// send sends a packet of the session, and returns the answer.
func (v *visitor) send(sid string) (status int, body string) {
	v.t.Helper()
	return v.do(http.MethodPost, v.url+"&sid="+url.QueryEscape(sid), "3")
}

// do sends a request, and again if it fails: on a connection whose end the balancer does not know
// yet, after a node has died. The balancer has few of them.
func (v *visitor) do(method, url, content string, cookies ...*http.Cookie) (status int, body string) {
	v.t.Helper()
	for range 10 {
		if status, body = v.doOnce(method, url, content, cookies...); status != http.StatusBadGateway {
			break
		}
	}
	return status, body
}

func (v *visitor) doOnce(method, url, content string, cookies ...*http.Cookie) (status int, body string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(content))
	require.NoError(v.t, err)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	res, err := (&http.Client{Jar: v.jar}).Do(r)
	require.NoError(v.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(v.t, err)
	return res.StatusCode, string(b)
}

// Clients that forge, and nodes that go.
func TestVisitors(t *testing.T) {
	t.Parallel()
	s := front(t, true)
	t.Run("forged cookies", func(t *testing.T) { forgeCookies(t, s) })
	t.Run("a node goes", func(t *testing.T) { endNode(t, s) })
}

// Sessions stay with nodes that drain, and new ones do not begin there. When a node dies, its
// sessions are unknown to the others. Their clients begin new ones, and all others go on.
func endNode(t *testing.T, s *site) {
	const unknown = `{"code":1,"message":"Session ID unknown"}`
	visitors := make([]*visitor, 40)
	for i := range visitors {
		visitors[i] = newVisitor(t, s)
		require.Equal(t, http.StatusOK, visitors[i].begin())
		status, body := visitors[i].send("forged-" + visitors[i].sid)
		require.Equal(t, http.StatusBadRequest, status)
		require.Equal(t, unknown, body)
	}
	all := func(admin balancer.Admin) {
		for _, m := range s.lb.Pool.Members() {
			m.SetAdmin(admin)
		}
	}
	all(balancer.Draining)
	for _, v := range visitors {
		status, _ := v.send(v.sid)
		require.Equal(t, http.StatusOK, status)
	}
	require.Equal(t, http.StatusServiceUnavailable, newVisitor(t, s).begin())
	all(balancer.Ready)

	s.nodes[0].Kill()
	lost := 0
	for _, v := range visitors {
		status, body := v.send(v.sid)
		if status == http.StatusOK {
			continue
		}
		lost++
		require.Equal(t, http.StatusBadRequest, status)
		require.Equal(t, unknown, body)
		require.Equal(t, http.StatusOK, v.begin())
	}
	require.Positive(t, lost)
	require.Less(t, lost, len(visitors))
	for _, v := range visitors {
		for range 3 {
			status, _ := v.send(v.sid)
			require.Equal(t, http.StatusOK, status)
		}
	}
}

// A forged cookie of the balancer counts as none: the client gets a good one with the answer, and
// its session is whole.
func forgeCookies(t *testing.T, s *site) {
	first := newVisitor(t, s)
	require.Equal(t, http.StatusOK, first.begin())
	at, err := url.Parse(s.url)
	require.NoError(t, err)
	given := first.jar.Cookies(at)
	require.Len(t, given, 1)
	for _, value := range []string{"", "x", "red", given[0].Value + "x", given[0].Value[1:], strings.Repeat("y", 5000)} {
		v := newVisitor(t, s)
		require.Equal(t, http.StatusOK, v.begin(&http.Cookie{Name: given[0].Name, Value: value}))
		require.Len(t, v.jar.Cookies(at), 1, "a new cookie")
		for range 3 {
			status, _ := v.send(v.sid)
			require.Equal(t, http.StatusOK, status)
		}
	}
}

// The session of SockJS is the key, whatever the transport, and nothing else of a path is.
func TestKey(t *testing.T) {
	at := func(path string) string { return key(httptest.NewRequest(http.MethodGet, path, nil)) }
	require.Equal(t, "abcdefgh", at("/sockjs/000/abcdefgh/xhr_send"))
	require.Equal(t, "abcdefgh", at("/sockjs/123/abcdefgh/websocket?t=1"))
	for _, path := range []string{"/", "/sockjs/info", "/sockjs/000/abcdefgh", "/other/000/abcdefgh/xhr", "/hub/1/2/3"} {
		require.NotEqual(t, at(path), at(path), "chance chooses")
	}
}

// Without flags, the program starts its nodes, plays clients, serves the page and leaves nothing
// behind.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(npmtest.WithPackages(t, "node"))
	defer cancel()
	t.Setenv("TMPDIR", t.TempDir())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-listen", "127.0.0.1:0", "-clients", "2"}, in)
		in.Close()
	}()
	lines := bufio.NewReader(out)
	for range 9 {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, " 2 of 2 connected")
	}
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	url := strings.TrimSuffix(strings.TrimPrefix(line, "now open "), " in a browser\n")
	for path, has := range map[string]string{"/": "<title>One session, many requests</title>",
		"/signalr.js": "HubConnectionBuilder", "/sockjs.js": "xhr-streaming", "/socket.io/socket.io.js": "polling"} {
		res, err := http.Get(url + path)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode, path)
		require.Contains(t, string(body), has)
	}
	cancel()
	require.NoError(t, <-ended)
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

// Each error is one line that says what to do.
func TestRun_SaysWhatIsWrong(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for said, args := range map[string][]string{
		"bind: address already in use": {"-listen", taken.Addr().String()},
		"node is not installed":        {"-listen", "127.0.0.1:0"},
		"unexpected argument":          {"more"},
		"listen tcp":                   {"-listen", "127.0.0.1:none"},
	} {
		err := run(t.Context(), args, io.Discard)
		require.ErrorContains(t, err, said)
		require.NotContains(t, err.Error(), "\n")
	}
}
