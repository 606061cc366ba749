package main

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
)

const (
	patience = time.Minute
	glance   = 5 * time.Millisecond
)

// A backend answers with its name, over a WebSocket with what it hears, and can be sick.
type backend struct {
	*httptest.Server
	sick    atomic.Bool
	checked atomic.Int64
}

func newBackend(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	mux.Handle("/ws", websocket.Handler(func(ws *websocket.Conn) { io.Copy(ws, ws) }))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		b.checked.Add(1)
		if b.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	b.Server = httptest.NewServer(mux)
	t.Cleanup(b.Close)
	return b
}

// start runs the program until end is called, which returns what run does.
func start(t *testing.T, backends ...string) (base string, end func() error) {
	t.Helper()
	own := netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))}) // nobody else listens there
	listener, err := net.Listen("tcp", netip.AddrPortFrom(own, 0).String())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, listener, backends) }()
	end = func() error {
		cancel()
		select {
		case err := <-done:
			done <- err
			return err
		case <-time.After(patience):
			return os.ErrDeadlineExceeded
		}
	}
	t.Cleanup(func() { end() })
	return "http://" + listener.Addr().String(), end
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	res, err := client.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(body)
}

func newClient(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar}
}

func TestSessionsStick(t *testing.T) {
	one, two := newBackend(t, "one"), newBackend(t, "two")
	base, _ := start(t, one.URL, two.URL)
	met := map[string]bool{}
	require.Eventually(t, func() bool {
		client := newClient(t)
		home := get(t, client, base)
		for range 3 {
			require.Equal(t, home, get(t, client, base))
		}
		met[home] = true
		return len(met) == 2
	}, patience, glance, "fresh sessions spread")
}

func TestSickBackend(t *testing.T) {
	one, two := newBackend(t, "one"), newBackend(t, "two")
	one.sick.Store(true)
	base, _ := start(t, one.URL, two.URL)
	require.Eventually(t, func() bool {
		for range 20 {
			if get(t, newClient(t), base) != "two" {
				return false
			}
		}
		return one.checked.Load() > 0
	}, patience, glance)
}

func TestShutdown(t *testing.T) {
	one := newBackend(t, "one")
	base, end := start(t, one.URL)
	ws, err := websocket.Dial(strings.Replace(base, "http", "ws", 1)+"/ws", "", base)
	require.NoError(t, err)
	require.NoError(t, websocket.Message.Send(ws, "hello"))
	var heard string
	require.NoError(t, websocket.Message.Receive(ws, &heard))
	require.Equal(t, "hello", heard)

	ended := make(chan error, 1)
	go func() { ended <- end() }()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, patience, glance, "nothing more is accepted")
	require.NoError(t, websocket.Message.Send(ws, "still here"))
	if err := websocket.Message.Receive(ws, &heard); err != io.EOF { // else its turn to be asked to end came first
		require.NoError(t, err)
		require.Equal(t, "still here", heard)
	}
	require.Empty(t, ended, "it waits for the client")
	require.NoError(t, ws.Close())
	require.NoError(t, <-ended)
	_, err = net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	for _, backend := range []string{"http://[::1", "127.0.0.1:9001", "ftp://127.0.0.1"} {
		require.Error(t, run(t.Context(), listener, []string{backend}), backend)
	}
}
