package clienttest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// uploadSize is that of uploads which the backend answers before it has them.
const uploadSize = 50_000

// started is a program that runs until the test ends, with its standard output.
func started(t *testing.T, path string, args ...string) io.Reader {
	t.Helper()
	cmd := exec.Command(path, args...)
	endsWithTests(cmd, syscall.SIGKILL)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return out
}

// earlyBackends start servers that answer every upload with 401 at once, and return their address.
var earlyBackends = map[string]func(t *testing.T) string{
	"Go": func(t *testing.T) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no", http.StatusUnauthorized)
		}))
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	},
	"Node.js": func(t *testing.T) string {
		out := bufio.NewScanner(started(t, program(t, "node"), filepath.Join("testdata", "uploads.js"), "server"))
		require.True(t, out.Scan())
		return "127.0.0.1:" + out.Text()
	},
	"nginx": func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr, dir := l.Addr().String(), t.TempDir()
		l.Close()
		conf := fmt.Sprintf(`
daemon off;
master_process off;
pid pid;
error_log stderr;
events { worker_connections 200; }
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy;
	fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server { listen %s; return 401; }
}
`, addr)
		file := filepath.Join(dir, "nginx.conf")
		require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
		started(t, program(t, "nginx"), "-p", dir, "-c", file)
		until(t, "nginx listens", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		return addr
	},
}

// uploaders upload so many times over connections that they keep, and return how many were answered
// with 401; said is what became of the others.
var uploaders = map[string]func(t *testing.T, url, file string, times int) (answered int, said string){
	"curl": func(t *testing.T, url, file string, times int) (int, string) {
		config := fmt.Sprintf("%s?[1-%d]", url, times)
		cmd := exec.CommandContext(t.Context(), program(t, "curl"), "-sS", "--max-time", "500", "-o", "/dev/null", "-w", "%{http_code}\\n",
			"-H", "Expect:", "--limit-rate", "1M", "--data-binary", "@"+file, config)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Sprintf("%v: %s", err, out)
		}
		return bytes.Count(out, []byte("401\n")), string(out)
	},
	"Node.js": func(t *testing.T, url, _ string, times int) (int, string) {
		cmd := exec.CommandContext(t.Context(), program(t, "node"), filepath.Join("testdata", "uploads.js"), "client", url,
			strconv.Itoa(times), strconv.Itoa(uploadSize))
		out, err := cmd.CombinedOutput()
		results := make(map[string]int)
		if err != nil || json.Unmarshal(out, &results) != nil {
			return 0, fmt.Sprintf("%v: %s", err, out)
		}
		return results["401"], string(out)
	},
	"Go": func(t *testing.T, url, _ string, times int) (int, string) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
		defer client.CloseIdleConnections()
		var left, answered atomic.Int64
		var said logtest.Buffer
		left.Store(int64(times))
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for n := left.Add(-1); n >= 0; n = left.Add(-1) {
					half := strings.Repeat("x", uploadSize/2)
					r, _ := http.NewRequest(http.MethodPost, url, io.MultiReader(strings.NewReader(half), pauses[n%int64(len(pauses))], strings.NewReader(half)))
					r.ContentLength = uploadSize
					res, err := client.Do(r)
					if err != nil {
						fmt.Fprintln(&said, err)
						continue
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode == http.StatusUnauthorized {
						answered.Add(1)
					} else {
						fmt.Fprintln(&said, res.Status)
					}
				}
			})
		}
		all.Wait()
		return int(answered.Load()), said.String()
	},
	"ab": func(t *testing.T, url, file string, times int) (int, string) {
		cmd := exec.CommandContext(t.Context(), program(t, "ab"), "-k", "-l", "-p", file, "-T", "text/plain", "-c", "8", "-n", strconv.Itoa(times), url)
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("Failed requests:        0\n")) {
			return 0, fmt.Sprintf("%v: %s", err, out)
		}
		n := regexp.MustCompile(`Non-2xx responses: +(\d+)`).FindSubmatch(out)
		if n == nil {
			return 0, string(out)
		}
		answered, _ := strconv.Atoi(string(n[1]))
		return answered, string(out)
	},
}

// A pause reads nothing, after a while: the second half of an upload comes later than the answer.
type pause time.Duration

func (p pause) Read([]byte) (int, error) {
	time.Sleep(time.Duration(p))
	return 0, io.EOF
}

// pauses are taken in turn. After 50 ms a client of net/http does not keep the connection.
var pauses = []pause{pause(5 * time.Millisecond), pause(40 * time.Millisecond), pause(200 * time.Millisecond)}

// Honest clients of every kind upload to backends of every kind that answer at once. Each upload
// has its answer: no connection is lost under a request, whether it is kept or not.
func TestUploads_W13_AnsweredEarly(t *testing.T) {
	times := soaktest.Times(20, 1000)
	file := filepath.Join(t.TempDir(), "upload")
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("x"), uploadSize), 0o600))
	for server, start := range earlyBackends {
		backend := start(t)
		for client, upload := range uploaders {
			t.Run(client+" to "+server, func(t *testing.T) {
				s := siteOf(t, "http", nil, nil, target(t, "a", "http://"+backend))
				answered, said := upload(t, s.URL+"/", file, times)
				require.Equal(t, times, answered, "%.2000s", said)
				t.Logf("%d of %d uploads were answered", answered, times)
				s.idle(t)
			})
		}
	}
}
