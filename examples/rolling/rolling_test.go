package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/balancer"
)

var summary = regexp.MustCompile(`(\d+) requests, (\d+) sessions \((\d+) moved\), (\d+) WebSockets \((\d+) asked to leave\): (\d+) lost\n$`)

// small makes a small update that does not take long.
func small(more ...string) []string {
	return append([]string{"-targets", "2", "-visitors", "8", "-grace", "150ms", "-limit", "2m"}, more...)
}

// A whole fleet of two targets is replaced in three ways under 8 clients with sessions and 8 with
// WebSockets. All WebSockets are asked to leave, and nothing is lost.
func TestRolling_W6_NothingIsLost(t *testing.T) {
	for name, tt := range map[string]struct {
		args  []string
		steps []string
	}{
		"one by one": {nil, []string{"v2-1 takes over from v1-1", "v2-2 takes over from v1-2"}},
		"blue/green": {[]string{"-blue-green"}, []string{"v2-2 takes over from v1-2"}},
		"canary": {[]string{"-canary", "60"}, []string{"the canary v2-1 gets 60% of the new sessions", "the canary has answered 1",
			"v2-1 takes over from v1-1", "v2-2 takes over from v1-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr strings.Builder
			require.Equal(t, exitOK, run(t.Context(), small(tt.args...), &stdout, &stderr), "%s%s", &stdout, &stderr)
			require.Empty(t, stderr.String())
			last := summary.FindStringSubmatch(stdout.String())
			require.NotNil(t, last, stdout.String())
			require.Equal(t, "0", last[6])
			require.NotEqual(t, "0", last[1])
			require.GreaterOrEqual(t, atoi(t, last[5]), 8, "each WebSocket was at v1")
			rest := stdout.String()
			for _, step := range tt.steps {
				_, after, found := strings.Cut(rest, step)
				require.True(t, found, "%q is not in order in %s", step, &stdout)
				rest = after
			}
			require.NotContains(t, stdout.String(), "\x1b", "this is no terminal")
		})
	}
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	for _, c := range s {
		n = 10*n + int(c-'0')
	}
	return n
}

// A crash in the middle of the update costs the WebSockets that were there, and the program says
// so. The update goes on to its end.
func TestRolling_W6_ACrashIsCounted(t *testing.T) {
	t.Parallel()
	var stdout, stderr strings.Builder
	require.Equal(t, exitFailed, run(t.Context(), small("-fault", "crash"), &stdout, &stderr))
	require.Contains(t, stdout.String(), "v1-2 crashes")
	require.Contains(t, stdout.String(), "v2-2 takes over from v1-2")
	require.Contains(t, stderr.String(), "a WebSocket: cut without being asked to leave")
	require.NotContains(t, stderr.String(), "still serves")
	require.NotContains(t, stderr.String(), "deadline")
	require.NotContains(t, stderr.String(), "wrong octet")
}

// A canary that answers wrongly is taken out again, and no other target is replaced. Nothing of the
// program is left.
func TestRolling_ABadCanaryIsTakenOut(t *testing.T) {
	before := runtime.NumGoroutine()
	var stdout, stderr strings.Builder
	require.Equal(t, exitFailed, run(t.Context(), small("-canary", "50", "-fault", "wrong"), &stdout, &stderr))
	require.Contains(t, stdout.String(), "the canary is taken out")
	require.NotContains(t, stdout.String(), "takes over")
	require.Contains(t, stderr.String(), "a wrong octet")
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			require.FailNow(t, "goroutines are left", "%s", stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// An update that does not end in time fails, and so does one that is interrupted.
func TestRolling_NotInTime(t *testing.T) {
	t.Parallel()
	var stdout, stderr strings.Builder
	require.Equal(t, exitFailed, run(t.Context(), small("-grace", "1h", "-limit", "300ms"), &stdout, &stderr))
	require.Equal(t, "rolling: the update has not ended within 300ms\n", stderr.String())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, exitFailed, run(ctx, small(), &stdout, &stderr))
	require.Contains(t, stderr.String(), "canceled")
}

func TestRolling_Terminal(t *testing.T) {
	t.Parallel()
	f, err := newFleet(options{targets: 2, visitors: 2, grace: 20 * time.Millisecond, limit: patience})
	require.NoError(t, err)
	defer f.close()
	var out strings.Builder
	require.NoError(t, f.run(t.Context(), &out, true))
	require.Regexp(t, `target +state +requests +WebSockets +answers`, out.String())
	require.Regexp(t, `\n +v1-2 +healthy, ready +\d+ +\d+ +\d+\n`, out.String())
	require.Contains(t, out.String(), "\x1b[6A\x1b[J", "it is drawn again")
	require.Regexp(t, summary, out.String())
}

func TestRolling_CommandLine(t *testing.T) {
	var stdout, stderr strings.Builder
	require.Equal(t, exitOK, run(t.Context(), []string{"-help"}, &stdout, &stderr))
	require.Contains(t, stdout.String(), "-blue-green")
	require.Empty(t, stderr.String())
	for _, args := range [][]string{{"-targets", "0"}, {"-visitors", "1001"}, {"-canary", "101"}, {"-canary", "-1"}, {"-grace", "0"},
		{"-limit", "-1s"}, {"-fault", "fire"}, {"-fault", "crash", "-targets", "1"}, {"more"}, {"-nothing"}} {
		stderr.Reset()
		require.Equal(t, exitUsage, run(t.Context(), args, &stdout, &stderr), "%q", args)
		require.Equal(t, 1, strings.Count(stderr.String(), "\n"), "%q", args)
	}
}

// An update without a request to the new targets shows nothing: it does not end well.
func TestTraffic_MeetsTheNewTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &traffic{answers: map[string]int64{"v1-1": 1}}
		targets := []balancer.Target{{ID: "v2-1"}, {ID: "v2-2"}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, c.meet(ctx, targets), context.DeadlineExceeded)
		time.AfterFunc(time.Second, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.answers["v2-2"] = 1
		})
		require.NoError(t, c.meet(t.Context(), targets))
	})
}

// What counts as lost, by servers that lie, reset and stop.
func TestTraffic_Lost(t *testing.T) {
	for name, tt := range map[string]struct {
		post func(n int, w http.ResponseWriter, body []byte)
		want string // empty: nothing is lost
	}{
		"right":         {func(n int, w http.ResponseWriter, body []byte) { w.Write(body) }, ""},
		"moved":         {func(n int, w http.ResponseWriter, body []byte) { w.Header().Set(targetHeader, "gone"); w.Write(body) }, ""},
		"a status":      {func(n int, w http.ResponseWriter, body []byte) { w.WriteHeader(502) }, "a request: 502 Bad Gateway"},
		"wrong":         {func(n int, w http.ResponseWriter, body []byte) { body[0]++; w.Write(body) }, "a wrong octet"},
		"an octet more": {func(n int, w http.ResponseWriter, body []byte) { w.Write(append(body, 1)) }, "a wrong octet"},
		"nothing":       {func(n int, w http.ResponseWriter, body []byte) {}, "a wrong octet"},
		"cut":           {func(n int, w http.ResponseWriter, body []byte) { panic(http.ErrAbortHandler) }, "EOF"},
		"cut later": {func(n int, w http.ResponseWriter, body []byte) {
			w.Write(body[:len(body)/2])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "EOF"},
		"moved for nothing": {func(n int, w http.ResponseWriter, body []byte) {
			w.Header().Set(targetHeader, string(rune('a'+n%2)))
			w.Write(body)
		}, "a session has moved from"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var requests atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := requests.Add(1)
				if n == 3 {
					cancel() // this is the last request
				}
				if body, err := io.ReadAll(r.Body); err == nil {
					tt.post(int(n), w, body)
				}
			}))
			defer srv.Close()
			c := &traffic{addr: strings.TrimPrefix(srv.URL, "http://"), answers: map[string]int64{},
				serves: func(id string) bool { return id != "gone" }}
			c.visit(ctx)
			requireLost(t, c, tt.want)
			require.GreaterOrEqual(t, c.requests.Load(), int64(3))
		})
	}
}

func requireLost(t *testing.T, c *traffic, want string) {
	t.Helper()
	if want == "" {
		require.NoError(t, c.err())
		return
	}
	require.ErrorContains(t, c.err(), want)
	require.Positive(t, c.lost.Load())
}

func TestTraffic_LostWebSockets(t *testing.T) {
	closing := func(payload string) func(*websocket.Conn, []byte) bool {
		return func(ws *websocket.Conn, _ []byte) bool {
			w, err := ws.NewFrameWriter(websocket.CloseFrame)
			if err != nil {
				return false
			}
			io.WriteString(w, payload)
			w.Close()
			ws.NewFrameReader() // waits for the client's close frame
			return false
		}
	}
	for name, tt := range map[string]struct {
		reply func(*websocket.Conn, []byte) bool // reports whether it goes on
		want  string
		asked int
	}{
		"right":     {func(ws *websocket.Conn, m []byte) bool { return websocket.Message.Send(ws, m) == nil }, "", 0},
		"asked":     {closing("\x03\xf4"), "", 3},
		"gone away": {closing("\x03\xe9"), "a close frame with the code 1001", 0},
		"no code":   {closing(""), "a close frame without a code", 0},
		"wrong":     {func(ws *websocket.Conn, m []byte) bool { m[0]++; return websocket.Message.Send(ws, m) == nil }, "a wrong octet", 0},
		"cut": {func(ws *websocket.Conn, _ []byte) bool {
			panic(http.ErrAbortHandler) // closes the connection
		}, "cut without being asked to leave", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var messages atomic.Int64
			srv := httptest.NewServer(websocket.Handler(func(ws *websocket.Conn) {
				for {
					var m []byte
					if websocket.Message.Receive(ws, &m) != nil {
						return
					}
					if messages.Add(1) == 3 {
						cancel() // the client waits for the answer
					}
					if !tt.reply(ws, m) {
						return
					}
				}
			}))
			defer srv.Close()
			c := &traffic{addr: strings.TrimPrefix(srv.URL, "http://")}
			c.chat(ctx)
			requireLost(t, c, tt.want)
			require.GreaterOrEqual(t, c.asked.Load(), int64(tt.asked))
		})
	}
}
