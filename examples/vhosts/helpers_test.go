package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
)

const (
	patience = time.Minute
	glance   = 5 * time.Millisecond
)

// eventually waits until a condition holds.
func eventually(t *testing.T, holds func() bool, what string, args ...any) {
	t.Helper()
	require.Eventually(t, holds, patience, glance, append([]any{what}, args...)...)
}

// startRedis starts a Redis server, with its programs.
func startRedis(t *testing.T, args ...string) *redisserver.Server {
	t.Helper()
	for _, program := range []string{"redis-server", "redis-cli"} {
		redisserver.Program(t, program)
	}
	return redisserver.Start(t, args...)
}

// An instance is the program, with its addresses.
type instance struct {
	http, https, admin string
	log                *logged
}

// A logged holds what the program logs.
type logged struct {
	mu sync.Mutex
	strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.String()
}

// start runs the program on one Redis server until the end of the test.
func start(t *testing.T, redis *redisserver.Server, flags ...string) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	b := &instance{log: &logged{}}
	args := append([]string{"-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0", "-admin", "127.0.0.1:0",
		"-interval", "20ms", "-window", "10ms", "-grace", "-1s", "-redis", "redis://" + redis.Addr,
		"-seal-key", strings.Repeat("c0", 32)}, flags...)
	go func() {
		err := run(ctx, args, in, slog.New(slog.NewTextHandler(b.log, nil)))
		in.CloseWithError(io.EOF)
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	for lines := bufio.NewScanner(out); b.admin == "" && lines.Scan(); {
		name, address, _ := strings.Cut(lines.Text(), " on ")
		*map[string]*string{"http": &b.http, "https": &b.https, "admin": &b.admin}[name] = address
	}
	require.NotEmpty(t, b.admin, "the program has not started: %s", b.log)
	go io.Copy(io.Discard, out)
	return b
}

// backend starts a server that answers with its name and the path of the request.
func backend(t *testing.T, name string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := r.URL.Query().Get("status"); status != "" {
			var code int
			fmt.Sscan(status, &code)
			w.WriteHeader(code)
		}
		fmt.Fprint(w, name)
	}))
	t.Cleanup(s.Close)
	return s
}

// refusing returns the URL of a backend that refuses connections.
func refusing(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(nil)
	s.Close()
	return s.URL
}

// An answer is what a client got.
type answer struct {
	status int
	body   string
	header http.Header
}

var client = &http.Client{Timeout: patience}

// get asks for a path of a virtual host.
func (b *instance) get(t *testing.T, host, path string, headers ...string) answer {
	t.Helper()
	return getWith(t, client, b.http, host, path, headers...)
}

func getWith(t *testing.T, c *http.Client, address, host, path string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+address+path, nil)
	require.NoError(t, err)
	req.Host = host
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, strings.TrimSpace(string(body)), res.Header}
}

// browser returns a client that keeps cookies, as one virtual host's: its requests go to the
// address, whatever their host.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar, Timeout: patience}
}
