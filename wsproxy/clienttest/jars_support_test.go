package clienttest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/browsertest"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A farmed is an application on three targets, behind proxies that a host name tells apart.
type farmed struct {
	targets    []balancer.Target
	plain, tls *httptest.Server
	forward    *httptest.Server // an HTTP proxy to both, whatever the host
	roots      string           // file

	mu    sync.Mutex
	count int
	sites map[string]*farmSite
}

type farmSite struct {
	proxy *wsproxy.Proxy
	last  string // Cookie lines of the last request
}

func newFarm(t *testing.T) *farmed {
	t.Helper()
	f := &farmed{sites: make(map[string]*farmSite)}
	for _, id := range []string{"app-1", "app-2", "app-3"} {
		f.targets = append(f.targets, target(t, id, serve(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, line := range r.URL.Query()["set"] {
				w.Header().Add("Set-Cookie", line)
			}
			fmt.Fprintln(w, id)
		})).URL))
	}
	f.plain, f.tls = serve(t, "http", f), serve(t, "https", f)
	f.forward = serve(t, "http", http.HandlerFunc(f.relay))
	f.roots = rootsFile(t, f.tls)
	return f
}

// site adds a proxy for a host of its own.
func (f *farmed) site(t *testing.T, policy stickiness.Policy) (host string, pool *balancer.Pool, remove func()) {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: f.targets, Picker: &balancer.RoundRobin{}})
	require.NoError(t, err)
	proxy := &wsproxy.Proxy{Pool: pool, Policy: policy, Logger: slog.New(slog.DiscardHandler)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	host = fmt.Sprintf("s%d.example.com", f.count) // of the certificate of httptest
	f.sites[host] = &farmSite{proxy: proxy}
	return host, pool, func() {
		f.mu.Lock()
		delete(f.sites, host)
		f.mu.Unlock()
		require.NoError(t, proxy.Shutdown(context.Background()))
	}
}

// cookies are those of the last request to a host.
func (f *farmed) cookies(host string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sites[host].last
}

func (f *farmed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	s := f.sites[r.Host]
	if s != nil {
		s.last = strings.Join(r.Header["Cookie"], "; ")
	}
	f.mu.Unlock()
	if s == nil || r.URL.Path == "/blank" || r.URL.Path == "/favicon.ico" {
		w.Header().Set("Content-Type", "text/html")
		return
	}
	s.proxy.ServeHTTP(w, r)
}

// relay makes the farm look like the internet to clients that are told of a proxy.
func (f *farmed) relay(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		r.URL.Scheme, r.URL.Host, r.RequestURI = "", "", r.URL.RequestURI()
		r.Header.Del("Proxy-Connection")
		f.ServeHTTP(w, r)
		return
	}
	back, err := net.Dial("tcp", f.tls.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer back.Close()
	front, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer front.Close()
	io.WriteString(front, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		io.Copy(back, buffered)
		back.Close()
	}()
	io.Copy(front, back)
}

func portOf(s *httptest.Server) string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

// A jarClient gets URLs in turn, with the cookies of a jar that it knows by name, and returns the
// bodies.
type jarClient interface {
	get(t *testing.T, jar string, urls ...string) []string
}

type jarFunc func(t *testing.T, jar string, urls ...string) []string

func (f jarFunc) get(t *testing.T, jar string, urls ...string) []string {
	t.Helper()
	return f(t, jar, urls...)
}

func startGoJars(t *testing.T, f *farmed) jarClient {
	proxy, err := url.Parse(f.forward.URL)
	require.NoError(t, err)
	transport := f.tls.Client().Transport.(*http.Transport).Clone()
	transport.Proxy = http.ProxyURL(proxy)
	transport.DialContext = nil // httptest's goes to its server for example.com
	t.Cleanup(transport.CloseIdleConnections)
	jars := make(map[string]*http.Client)
	return jarFunc(func(t *testing.T, jar string, urls ...string) (bodies []string) {
		if jars[jar] == nil {
			j, err := cookiejar.New(nil)
			require.NoError(t, err)
			jars[jar] = &http.Client{Jar: j, Transport: transport}
		}
		for _, u := range urls {
			res, err := jars[jar].Get(u)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			require.NoError(t, err)
			bodies = append(bodies, strings.TrimSpace(string(body)))
		}
		return bodies
	})
}

func startCurl(t *testing.T, f *farmed) jarClient {
	path, dir := program(t, "curl"), t.TempDir()
	return jarFunc(func(t *testing.T, jar string, urls ...string) []string {
		file := filepath.Join(dir, jar)
		args := []string{"-sS", "-q", "-g", "-x", f.forward.URL, "--noproxy", "", "--cacert", f.roots, "-b", file, "-c", file, "--max-time", "60"}
		out, err := exec.CommandContext(t.Context(), path, append(args, urls...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.Fields(string(out))
	})
}

func startPython(t *testing.T, f *farmed) jarClient {
	return startProcess(t, exec.Command(program(t, "python3"), filepath.Join("testdata", "jars", "jar.py"), portOf(f.forward), f.roots))
}

func startTough(t *testing.T, f *farmed) jarClient {
	program(t, "npm")
	path := program(t, "node")
	require.NoError(t, installed())
	cmd := exec.Command(path, "jar.js", portOf(f.plain), portOf(f.tls), f.roots)
	cmd.Dir = nodeDir
	return startProcess(t, cmd)
}

func startJava(client string) func(t *testing.T, f *farmed) jarClient {
	return func(t *testing.T, f *farmed) jarClient {
		program(t, "javac") // which is in the package that can run a source file
		source := filepath.Join("testdata", "jars", "Jar.java")
		return startProcess(t, exec.Command(program(t, "java"), "-Xshare:auto", source, client, portOf(f.forward), f.roots))
	}
}

// startProcess starts a client that reads and writes lines.
func startProcess(t *testing.T, cmd *exec.Cmd) jarClient {
	t.Helper()
	endsWithTests(cmd, syscall.SIGKILL)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var said bytes.Buffer // read when it has ended
	cmd.Stderr = &said
	require.NoError(t, cmd.Start())
	lines := make(chan string, 1)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
		cmd.Wait()
	}()
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		for range lines {
		}
	})
	return jarFunc(func(t *testing.T, jar string, urls ...string) []string {
		_, err := fmt.Fprintln(in, jar, strings.Join(urls, " "))
		require.NoError(t, err)
		answers := strings.Fields(wait(t, lines, "an answer of "+cmd.Path))
		if len(answers) != len(urls) {
			in.Close()
			for range lines {
			}
			require.FailNow(t, "the client has ended", "%s", &said)
		}
		return answers
	})
}

func startChromium(t *testing.T, f *farmed) jarClient {
	tab := browsertest.Start(t, chromedp.Flag("proxy-server", f.forward.URL), chromedp.Flag("no-proxy-server", false),
		chromedp.Flag("disable-features", "HttpsUpgrades,HttpsFirstBalancedModeAutoEnable"))
	open := ""
	return jarFunc(func(t *testing.T, jar string, urls ...string) []string {
		u, err := url.Parse(urls[0])
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(tab, patience)
		defer cancel()
		if blank := u.Scheme + "://" + u.Host + "/blank"; open != blank {
			require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(blank)))
			open = blank
		}
		list, err := json.Marshal(urls)
		require.NoError(t, err)
		answers, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](fmt.Sprintf(`(async urls => {
			const answers = [];
			for (const url of urls) {
				answers.push((await (await fetch(url, {cache: "no-store"})).text()).trim());
			}
			return answers;
		})(%s)`, list), chromedp.EvalAwaitPromise))
		require.NoError(t, err)
		return answers
	})
}
