package clienttest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// nodeDir has peer.js and the ws package when it is not empty.
var nodeDir string

// cleanNode removes what installed has made.
func cleanNode() {
	if nodeDir != "" {
		os.RemoveAll(nodeDir)
	}
}

// installed fills nodeDir, once.
var installed = sync.OnceValue(func() (err error) {
	if nodeDir, err = os.MkdirTemp("", "clienttest-node"); err != nil {
		return err
	}
	if err := os.CopyFS(nodeDir, os.DirFS(filepath.Join("testdata", "node"))); err != nil {
		return err
	}
	for pause := range 4 { // the registry may be out of reach for a moment
		time.Sleep(time.Duration(5*pause) * time.Second)
		if err = npmCI(); err == nil {
			return nil
		}
	}
	return err
})

func npmCI() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts")
	npm.Dir = nodeDir
	npm.WaitDelay = time.Second // for what it has started
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
}

// A peer is a process of Node.js that says lines of JSON.
type peer struct {
	t     *testing.T
	lines chan []byte // closed when the process has ended
	said  bytes.Buffer
}

// node starts peer.js. It is killed at the end of the test.
func node(t *testing.T, part string, options map[string]any) *peer {
	t.Helper()
	program(t, "npm")
	path := program(t, "node")
	require.NoError(t, installed())
	arg, err := json.Marshal(options)
	require.NoError(t, err)
	cmd := exec.Command(path, "peer.js", part, string(arg))
	cmd.Dir = nodeDir
	endsWithTests(cmd, syscall.SIGKILL)
	p := &peer{t: t, lines: make(chan []byte, 100)}
	cmd.Stderr = &p.said // read when it has ended
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- bytes.Clone(s.Bytes())
		}
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range p.lines {
		}
	})
	return p
}

// next reads a line into v.
func (p *peer) next(v any, what string) {
	p.t.Helper()
	line := wait(p.t, p.lines, what)
	if line == nil {
		require.FailNow(p.t, "node has ended", "instead of %s:\n%s", what, &p.said)
	}
	require.NoError(p.t, json.Unmarshal(line, v), "%s", line)
}

// nodeServer is peer.js as a backend. The closings of those who were at /echo come from it.
func nodeServer(t *testing.T, deflate bool) (*httptest.Server, *peer) {
	t.Helper()
	p := node(t, "server", map[string]any{"deflate": deflate})
	var port int
	p.next(&port, "the server's port")
	return &httptest.Server{URL: fmt.Sprintf("http://127.0.0.1:%d", port)}, p
}

// TestNode_W2_Client has the client of Node.js play its scenes with a server of Go, and one of
// Node.js, behind the proxy.
func TestNode_W2_Client(t *testing.T) {
	t.Parallel()
	for _, deflate := range []bool{false, true} {
		mode, extension := websocket.CompressionDisabled, ""
		if deflate {
			mode, extension = websocket.CompressionContextTakeover, "permessage-deflate"
		}
		for _, scheme := range []string{"http", "https"} {
			t.Run(fmt.Sprintf("coder over %s, deflate %t", scheme, deflate), func(t *testing.T) {
				closed := make(chan closing, 10)
				plays(t, newSite(t, scheme, serve(t, scheme, echoing(mode, closed))), deflate, extension, func(what string) closing {
					return wait(t, closed, what)
				})
			})
			t.Run(fmt.Sprintf("node over %s, deflate %t", scheme, deflate), func(t *testing.T) {
				backend, p := nodeServer(t, deflate)
				plays(t, newSite(t, scheme, backend), deflate, extension, func(what string) closing {
					var c closing
					p.next(&c, what)
					return c
				})
			})
		}
	}
}

// plays runs the client, and ends its last WebSocket by a shutdown. closed is how the backend has
// seen the next one end.
func plays(t *testing.T, s *site, deflate bool, extension string, closed func(what string) closing) {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	options := map[string]any{"deflate": deflate, "sizes": sizes}
	if s.TLS != nil {
		options["ca"] = rootsFile(t, s.Server)
	}
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	options["url"] = u.String()
	client := node(t, "client", options)

	var seen struct {
		Extensions, Protocol, Fragments, Pong, Hello, Ponged string

		Pinged           bool
		Wrong            [][]any // size and whether it was binary
		Answered, Closed closing
	}
	client.next(&seen, "what the client has seen")
	require.Equal(t, extension, seen.Extensions)
	require.Equal(t, "v2.echo", seen.Protocol)
	require.Empty(t, seen.Wrong)
	require.Equal(t, "in three frames", seen.Fragments)
	require.Equal(t, "me", seen.Pong)
	require.Equal(t, closing{4001, "enough"}, seen.Answered)
	require.Equal(t, "hello", seen.Hello)
	require.Equal(t, closing{4002, "not today"}, seen.Closed)
	require.True(t, seen.Pinged)
	require.Equal(t, "ponged", seen.Ponged)
	require.Equal(t, closing{4001, "enough"}, closed("the client's close frame"))
	require.NotEqual(t, 1000, closed("the end of a client that breaks off").Code)

	var waiting string
	client.next(&waiting, "the client waits")
	require.NoError(t, s.proxy.Shutdown(t.Context()))
	var end closing
	client.next(&end, "the close frame of the shutdown")
	require.Equal(t, closing{Code: 1001}, end)
	require.Equal(t, closing{Code: 1001}, closed("the close frame of the shutdown"))
	s.idle(t)
}
