package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
)

const mcpSessions = 200

// installed installs the MCP SDK, once, and returns the directory of its programs.
var installed = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(dir, "mcp")
	if err := os.CopyFS(path, os.DirFS(filepath.Join("testdata", "mcp"))); err != nil {
		return "", err
	}
	for pause := range 4 { // the registry may be out of reach for a moment
		time.Sleep(time.Duration(5*pause) * time.Second)
		if err = npmCI(path); err == nil {
			return path, nil
		}
	}
	return "", err
})

func npmCI(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts")
	npm.Dir = path
	npm.WaitDelay = time.Second // for what it has started
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
}

// mcpServer starts a server, which ends with the test, and returns its URL.
func mcpServer(t *testing.T, path string) string {
	t.Helper()
	cmd := exec.Command(program(t, "node"), "server.js")
	cmd.Dir = path
	cmd.Stderr = os.Stderr
	endWithParent(cmd)
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // the signal that ends it is no news
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	port, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	return fmt.Sprintf("http://127.0.0.1:%d", port)
}

// TestMCP has clients of the MCP SDK send each request of a session to the other one of two
// balancers, in front of two servers that keep their sessions to themselves. With a store that the
// balancers share, each session is whole: initialize, the stream of notifications, tools, DELETE.
// With a store for each they are not.
func TestMCP(t *testing.T) {
	program(t, "npm")
	redis := redisserver.Start(t)
	path, err := installed()
	require.NoError(t, err)
	targets := []string{"a=" + mcpServer(t, path), "b=" + mcpServer(t, path)}

	t.Run("one store", func(t *testing.T) {
		var stores []stickiness.Store
		for range 2 {
			client, err := dialRedis(t.Context(), redis.Addr)
			require.NoError(t, err)
			t.Cleanup(client.Close)
			store, err := redisstore.New(client, redisstore.Options{})
			require.NoError(t, err)
			stores = append(stores, store)
		}
		p := playMCP(t, path, mcpSessions, stores, targets)
		require.Empty(t, p.Errors)
		require.Zero(t, p.NotFound)
		require.Equal(t, mcpSessions, p.Whole)
		require.Equal(t, 2, p.Servers)
	})
	t.Run("a store each", func(t *testing.T) {
		p := playMCP(t, path, mcpSessions/10, []stickiness.Store{&stickiness.MemoryStore{}, &stickiness.MemoryStore{}}, targets)
		require.Positive(t, p.NotFound)
		require.Less(t, p.Whole, mcpSessions/10)
	})
}

// A played is the output of client.js about its sessions.
type played struct {
	Whole, NotFound, Servers int
	Errors                   []string
}

// playMCP has client.js play sessions through a balancer for each store.
func playMCP(t *testing.T, path string, sessions int, stores []stickiness.Store, targets []string) (p played) {
	t.Helper()
	args := []string{"client.js", strconv.Itoa(sessions)}
	for _, store := range stores {
		proxy, err := newProxy(store, "Mcp-Session-Id", targets...)
		require.NoError(t, err)
		t.Cleanup(func() { proxy.Close() })
		front := httptest.NewServer(proxy)
		t.Cleanup(front.Close)
		args = append(args, front.URL)
	}
	cmd := exec.CommandContext(t.Context(), program(t, "node"), args...)
	cmd.Dir = path
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, said.String())
	require.NoError(t, json.Unmarshal(out, &p), "%s", out)
	t.Logf("%d of %d sessions were whole, %d answers said that there is no session", p.Whole, sessions, p.NotFound)
	return p
}
