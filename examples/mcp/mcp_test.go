package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/nodejs"
	"github.com/stickylb/stickylb/examples/internal/npmtest"
	"github.com/stickylb/stickylb/examples/internal/redisserver"
	"github.com/stickylb/stickylb/stickiness"
)

const (
	patience = 2 * time.Minute // for what must happen
	resumed  = 30              // sessions that are open during a restart
	runMain  = "STICKYLB_TEST_RUN_MAIN"
)

// count returns how many sessions are played: 50, or 1000 where the environment has SOAK.
func count() int {
	if os.Getenv("SOAK") != "" {
		return 1000
	}
	return 50
}

// TestMain runs the program itself in a process that a test has started as a balancer.
func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	os.Exit(npmtest.Run(m))
}

// soon returns a context that ends with the test, or before if that takes long.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// twoServers starts two servers of the SDK.
func twoServers(t *testing.T) (sdk *nodejs.Folder, servers []*nodejs.Process, targets string) {
	t.Helper()
	sdk = npmtest.Folder(t, "node")
	a, b := npmtest.Start(t, sdk, "server.js", "a"), npmtest.Start(t, sdk, "server.js", "b")
	return sdk, []*nodejs.Process{a, b}, "a=" + a.URL + " b=" + b.URL
}

// front serves a balancer with a store until the test ends.
func front(t *testing.T, store stickiness.Store, targets string) string {
	t.Helper()
	lb, err := newProxy(store, targets)
	require.NoError(t, err)
	t.Cleanup(func() { lb.Close() })
	server := httptest.NewServer(lb)
	t.Cleanup(server.Close)
	return server.URL + "/mcp"
}

// redisStore returns a store of a connection of its own.
func redisStore(t *testing.T, redis *redisserver.Server) stickiness.Store {
	t.Helper()
	store, closeStore, err := newStore(redis.Addr)
	require.NoError(t, err)
	t.Cleanup(closeStore)
	return store
}

// A played is the output of the clients about their sessions.
type played struct {
	Whole, NotFound, Resumed int
	Servers                  map[string]int // sessions by server
	Errors                   []string
}

// TestMCP has clients of the SDK send each request of a session to the other one of two balancers,
// in front of two servers that keep their sessions to themselves. With a store that the balancers
// share, each session is whole: initialize, the stream of notifications, tools, DELETE. With a
// store for each they are not.
func TestMCP(t *testing.T) {
	t.Parallel()
	sdk, _, targets := twoServers(t)
	play := func(t *testing.T, n int, one, two stickiness.Store) (p played) {
		npmtest.Play(t, soon(t), sdk, &p, "client.js", strconv.Itoa(n), front(t, one, targets), front(t, two, targets))
		t.Logf("%d of %d sessions were whole, %d answers said that there is no session", p.Whole, n, p.NotFound)
		return p
	}
	t.Run("one store", func(t *testing.T) {
		t.Parallel()
		redis, sessions := redisserver.Start(t), count()
		p := play(t, sessions, redisStore(t, redis), redisStore(t, redis))
		require.Empty(t, p.Errors)
		require.Equal(t, sessions, p.Whole)
		require.Zero(t, p.NotFound)
		require.Len(t, p.Servers, 2)
	})
	t.Run("a store each", func(t *testing.T) {
		t.Parallel()
		const sessions = 10
		p := play(t, sessions, &stickiness.MemoryStore{}, &stickiness.MemoryStore{})
		require.Positive(t, p.NotFound)
		require.Less(t, p.Whole, sessions)
	})
}

// TestMCP_Restart kills the balancer while each session has a stream of a GET and one of a tool's
// POST. The servers go on and send more than half of the tool's notifications meanwhile. A new
// balancer starts at the same address, and all clients resume both streams: no notification is
// lost, repeated or out of order.
func TestMCP_Restart(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	sdk, servers, targets := twoServers(t)
	addr := freeAddr()
	first := startBalancer(t, addr, redis.Addr, targets)

	client := sdk.Command(soon(t), "resume.js", strconv.Itoa(resumed), "http://"+addr+"/mcp")
	client.Stderr = os.Stderr
	stdout, err := client.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	defer client.Wait()
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "waiting\n", line)

	first()
	for _, server := range servers {
		res, err := http.Get(server.URL + "/release")
		require.NoError(t, err)
		res.Body.Close()
	}
	startBalancer(t, addr, redis.Addr, targets)
	var p played
	require.NoError(t, json.NewDecoder(out).Decode(&p))
	t.Logf("%d of %d sessions were whole, %d had resumed a stream", p.Whole, resumed, p.Resumed)
	require.Empty(t, p.Errors)
	require.Equal(t, resumed, p.Whole)
	require.Equal(t, resumed, p.Resumed)
	require.Len(t, p.Servers, 2)
}

// freeAddr returns an address that nobody listens on. It does not look, because a listener that is
// closed keeps its port while a child process that was just forked has it. The port is below those
// of outgoing connections: a client that tries to connect again and again while nobody listens
// could otherwise be given that very port and connect to itself.
func freeAddr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+mathrand.N(20000))) }

// startBalancer starts the program in a process of its own. kill kills it, as kill -9 does.
func startBalancer(t *testing.T, addr, redis, targets string) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-listen", addr, "-redis", redis, "-servers", targets)
	cmd.Env = append(os.Environ(), runMain+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = func() {
		cmd.Process.Kill()
		cmd.Wait() // the signal that has ended it is no news
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "balancing")
	return kill
}

// A counting is a MemoryStore that counts its calls.
type counting struct {
	stickiness.MemoryStore
	gets, puts atomic.Int32
}

func (s *counting) Get(ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
	s.gets.Add(1)
	return s.MemoryStore.Get(ctx, key, ttl)
}

func (s *counting) Put(ctx context.Context, key, target string, ttl time.Duration) error {
	s.puts.Add(1)
	return s.MemoryStore.Put(ctx, key, target, ttl)
}

// do sends a request of a revision and a session, which may be empty.
func do(t *testing.T, method, url, revision, session, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(soon(t), method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Mcp-Protocol-Version", revision)
	if session != "" {
		r.Header.Set("Mcp-Session-Id", session)
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { res.Body.Close() })
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	return res
}

const (
	revision   = "2025-11-25"
	initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},` +
		`"clientInfo":{"name":"test","version":"1"}}}`
	listTools = `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`
)

// A session that has ended, and one that never began, get the 404 that has clients begin a new one.
// An ID that a client has invented is not learned.
func TestMCP_EndedAndForged(t *testing.T) {
	t.Parallel()
	_, _, targets := twoServers(t)
	store := &counting{}
	url := front(t, store, targets)
	for range 4 {
		learned := store.puts.Load()
		res := do(t, http.MethodPost, url, revision, "", initialize)
		require.Equal(t, http.StatusOK, res.StatusCode)
		id, server := res.Header.Get("Mcp-Session-Id"), res.Header.Get("Answered-By")
		require.NotEmpty(t, id)
		require.Equal(t, learned+1, store.puts.Load())
		for range 4 {
			res = do(t, http.MethodPost, url, revision, id, listTools)
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, server, res.Header.Get("Answered-By"))
		}
		require.Equal(t, http.StatusOK, do(t, http.MethodDelete, url, revision, id, "").StatusCode)
		for range 2 {
			res = do(t, http.MethodPost, url, revision, id, listTools)
			require.Equal(t, http.StatusNotFound, res.StatusCode)
		}
		held := store.Len()
		for _, forged := range []string{id + "x", "a", "red", strings.Repeat("f", 10000), "\xff%00"} {
			res = do(t, http.MethodPost, url, revision, forged, listTools)
			require.Equal(t, http.StatusNotFound, res.StatusCode)
		}
		require.Equal(t, http.StatusNotFound, do(t, http.MethodPost, url, revision, strings.Repeat("f, ", 4)+id, listTools).StatusCode)
		require.Equal(t, held, store.Len())
	}
}

// The sessions of a server that has died are unknown to the other one, whose 404 has their clients
// begin new ones. All other sessions go on.
func TestMCP_ServerDies(t *testing.T) {
	t.Parallel()
	_, servers, targets := twoServers(t)
	url := front(t, &stickiness.MemoryStore{}, targets)
	// A request fails on a connection whose end the balancer does not know yet. It has few of them.
	ask := func(session, body string) (res *http.Response) {
		for range 10 {
			if res = do(t, http.MethodPost, url, revision, session, body); res.StatusCode != http.StatusBadGateway {
				break
			}
		}
		return res
	}
	begin := func() (id, server string) {
		res := ask("", initialize)
		require.Equal(t, http.StatusOK, res.StatusCode)
		return res.Header.Get("Mcp-Session-Id"), res.Header.Get("Answered-By")
	}
	sessions := make(map[string]string)
	for range 8 {
		id, server := begin()
		sessions[id] = server
	}
	servers[0].Kill()
	for id, server := range sessions {
		res := ask(id, listTools)
		if server == "b" {
			require.Equal(t, http.StatusOK, res.StatusCode)
			continue
		}
		require.Equal(t, http.StatusNotFound, res.StatusCode)
		again, other := begin()
		require.Equal(t, "b", other)
		require.Equal(t, http.StatusOK, do(t, http.MethodPost, url, revision, again, listTools).StatusCode)
	}
}

// simple serves a balancer in front of two servers that know the sessions of a set, and repeat the
// ID of every request in the response. They give a new ID to a request without one, unless it is of
// a revision without sessions.
func simple(t *testing.T, store stickiness.Store) (url string) {
	t.Helper()
	var targets []string
	for _, name := range []string{"a", "b"} {
		var known sync.Map
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id := r.Header.Get("Mcp-Session-Id")
			if id == "" && r.Header.Get("Mcp-Protocol-Version") == revision {
				id = rand.Text()
				known.Store(id, true)
			}
			w.Header().Set("Answered-By", name)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Mcp-Session-Id", id)
			if _, ok := known.Load(id); !ok && r.Header.Get("Mcp-Protocol-Version") == revision {
				w.WriteHeader(http.StatusNotFound)
			}
			io.WriteString(w, `{"jsonrpc":"2.0","id":2,"result":{"tools":[]}}`)
		}))
		t.Cleanup(server.Close)
		targets = append(targets, name+"="+server.URL)
	}
	return front(t, store, strings.Join(targets, " "))
}

// A request of revision 2026-07-28, which has no sessions, goes to any server. It costs no call of
// the store, and binds nobody. It does not matter whether it has the ID of a session, known or not.
func TestMCP_WithoutSessions(t *testing.T) {
	t.Parallel()
	store := &counting{}
	url := simple(t, store)
	old := do(t, http.MethodPost, url, revision, "", initialize)
	begun, server := old.Header.Get("Mcp-Session-Id"), old.Header.Get("Answered-By")
	gets, puts := store.gets.Load(), store.puts.Load()
	for _, session := range []string{"", begun, "invented"} {
		answered := make(map[string]int)
		for range 20 {
			res := do(t, http.MethodPost, url, "2026-07-28", session, listTools)
			require.Equal(t, http.StatusOK, res.StatusCode)
			answered[res.Header.Get("Answered-By")]++
		}
		require.Equal(t, map[string]int{"a": 10, "b": 10}, answered)
	}
	require.Equal(t, gets, store.gets.Load())
	require.Equal(t, puts, store.puts.Load())
	for range 4 { // the session of the older revision goes on
		require.Equal(t, server, do(t, http.MethodPost, url, revision, begun, listTools).Header.Get("Answered-By"))
	}
}

// A server that repeats the ID of a request in its 404 does not make the balancer learn it.
func TestMCP_IDsOfErrors(t *testing.T) {
	t.Parallel()
	store := &counting{}
	url := simple(t, store)
	for n := range 20 {
		require.Equal(t, http.StatusNotFound, do(t, http.MethodPost, url, revision, "invented-"+strconv.Itoa(n), listTools).StatusCode)
	}
	require.Zero(t, store.puts.Load())
}

// Each error is one line that says what to do.
func TestRun_SaysWhatIsWrong(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	nobody := freeAddr()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for said, args := range map[string][]string{
		"bind: address already in use": {"-listen", taken.Addr().String()},
		"node is not installed":        {"-listen", "127.0.0.1:0"},
		"-redis " + nobody:             {"-redis", nobody},
		"unexpected argument":          {"more"},
		"listen tcp":                   {"-listen", "127.0.0.1:none"},
		"target":                       {"-listen", "127.0.0.1:0", "-servers", "://"},
	} {
		err := run(t.Context(), args, io.Discard)
		require.ErrorContains(t, err, said)
		require.NotContains(t, err.Error(), "\n")
	}
}

// Without flags, the program starts servers of its own and plays sessions, and it leaves nothing
// behind.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(npmtest.WithPackages(t, "node"))
	defer cancel()
	t.Setenv("TMPDIR", t.TempDir())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-listen", "127.0.0.1:0"}, in)
		in.Close()
	}()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "balancing red=http://127.0.0.1:")
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, `sixty sessions: {"Whole":60,"NotFound":0,`)
	cancel()
	require.NoError(t, <-ended)
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}
