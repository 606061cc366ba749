package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
)

// page asks for the name of its backend, by requests and by a WebSocket, and reports all answers.
// It reports once more when the WebSocket is closed.
const page = `<!doctype html><script type=module>
const report = (text) => fetch("/report", {method: "POST", body: text})
const names = []
for (let i = 0; i < 10; i++) names.push(await (await fetch("/name", {cache: "no-store"})).text())
const socket = new WebSocket("ws://" + location.host + "/socket")
socket.onopen = () => socket.send("hello")
socket.onmessage = (event) => report([...names, event.data].join(" "))
socket.onclose = (event) => report("closed " + event.code)
</script>`

// A real browser keeps its session and its WebSocket, and gets a close frame when its backend is
// removed.
func TestBrowser(t *testing.T) {
	redis := startRedis(t)
	reports := make(chan string, 10)
	site := func(name string) string {
		mux := http.NewServeMux()
		mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, page) })
		mux.HandleFunc("/name", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name) })
		mux.HandleFunc("/report", func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			reports <- string(text)
		})
		mux.Handle("/socket", websocket.Handler(func(c *websocket.Conn) {
			for word := ""; websocket.Message.Receive(c, &word) == nil; {
				websocket.Message.Send(c, name)
			}
		}))
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		return s.URL
	}
	sites := map[string]string{"a": site("a"), "b": site("b"), "c": site("c")}
	replace(redis, "www.dotcloud.com", sites["a"], sites["b"], sites["c"])
	b := start(t, redis)
	browse(t, b, "www.dotcloud.com")

	answers := strings.Fields(next(t, reports))
	require.Len(t, answers, 11)
	name := answers[0]
	for _, answer := range answers {
		require.Equal(t, name, answer)
	}
	delete(sites, name)
	var left []string
	for _, url := range sites {
		left = append(left, url)
	}
	replace(redis, "www.dotcloud.com", left...)
	require.Equal(t, "closed 1012", next(t, reports))
}

func next(t *testing.T, reports <-chan string) string {
	t.Helper()
	select {
	case r := <-reports:
		return r
	case <-time.After(patience):
		require.FailNow(t, "the browser reports nothing")
		return ""
	}
}

// browse opens the page of a host in Chromium until the end of the test.
func browse(t *testing.T, b *instance, host string) {
	t.Helper()
	_, port, err := net.SplitHostPort(b.http)
	require.NoError(t, err)
	profile, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	cmd := exec.Command(redisserver.Program(t, "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--no-proxy-server", "--remote-debugging-port=0", "--host-resolver-rules=MAP * 127.0.0.1",
		"--user-data-dir="+profile, "http://"+net.JoinHostPort(host, port)+"/")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(profile) // its other processes may still write there
	})
}
