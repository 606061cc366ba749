package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/nodejs"
	"github.com/stickylb/stickylb/examples/internal/npmtest"
)

const (
	patience = 3 * time.Minute // for what must happen
	clients  = 20              // of each kind, with each transport
)

func TestMain(m *testing.M) { os.Exit(npmtest.Run(m)) }

// A result is what client.js has seen of one kind of client.
type result struct {
	Whole           int
	Nodes, Failures map[string]int
}

// connect has client.js connect clients of each kind through a balancer in front of three nodes.
func connect(t *testing.T, sticky bool, clients int) map[string]result {
	t.Helper()
	folder, url := front(t, sticky)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	results := make(map[string]result)
	npmtest.Play(t, ctx, folder, &results, "client.js", url, strconv.Itoa(clients), "json")
	require.Len(t, results, 9)
	return results
}

func front(t *testing.T, sticky bool) (folder *nodejs.Folder, url string) {
	t.Helper()
	folder = npmtest.Folder(t, "node")
	var nodes []string
	for _, name := range []string{"red", "green", "blue"} {
		nodes = append(nodes, name+"="+npmtest.Start(t, folder, "server.js", name).URL)
	}
	lb, err := newProxy(sticky, nodes...)
	require.NoError(t, err)
	server := httptest.NewServer(lb)
	t.Cleanup(server.Close)
	t.Cleanup(func() { lb.Close() })
	return folder, server.URL
}

// Each client of each kind gets all its answers from one node, by each transport, and the clients
// are spread over the nodes.
func TestSticky(t *testing.T) {
	for kind, r := range connect(t, true, clients) {
		t.Logf("%s: %d of %d whole: %v", kind, r.Whole, clients, r.Nodes)
		require.Empty(t, r.Failures, kind)
		require.Equal(t, clients, r.Whole, kind)
		require.Greater(t, len(r.Nodes), 1, kind)
	}
}

// Without stickiness, all fail that need more than one request, and they fail as the documentation of
// this program says.
func TestNotSticky(t *testing.T) {
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
	for said, args := range map[string][]string{
		"node is not installed": {"-listen", "127.0.0.1:0"},
		"unexpected argument":   {"more"},
		"listen tcp":            {"-listen", "127.0.0.1:none"},
	} {
		err := run(t.Context(), args, io.Discard)
		require.ErrorContains(t, err, said)
		require.NotContains(t, err.Error(), "\n")
	}
}
