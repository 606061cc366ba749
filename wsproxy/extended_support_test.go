package wsproxy_test

//lint:file-ignore SA1019 http.Transport of Go 1.26 refuses to send :protocol, so the client is of golang.org/x/net.

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// inExtended runs the rest of the test that calls it where net/http offers extended CONNECT: that takes a variable in the
// environment that the process starts with, so it is run in another one. It reports whether this is that process.
func inExtended(t *testing.T) bool {
	t.Helper()
	godebug := os.Getenv("GODEBUG")
	if strings.Contains(godebug, "http2xconnect=1") {
		return true
	}
	runWith(t, strings.TrimPrefix(godebug+",http2xconnect=1", ","))
	return false
}

// runWith runs the test that calls it in another process, which has that GODEBUG.
func runWith(t *testing.T, godebug string) {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	args := []string{"-test.run=^" + t.Name() + "$", "-test.count=1", "-test.v"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GODEBUG="+godebug)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name()+" ", "it has run")
	require.NotContains(t, string(out), "--- SKIP")
}

// An h2Client speaks HTTP/2 over one connection to a server.
type h2Client struct {
	*http2.Transport
	srv *httptest.Server
}

func newH2Client(t testing.TB, srv *httptest.Server) *h2Client {
	t.Helper()
	conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.NextProtos = []string{"h2"}
	transport := &http2.Transport{TLSClientConfig: conf, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &h2Client{Transport: transport, srv: srv}
}

// connect asks for a tunnel with an extended CONNECT, whose body is what the client sends.
func (c *h2Client) connect(t testing.TB, protocol string, body io.ReadCloser, lines ...string) *http.Response {
	t.Helper()
	res, err := c.tryConnect(t.Context(), protocol, body, lines...)
	require.NoError(t, err)
	return res
}

func (c *h2Client) tryConnect(ctx context.Context, protocol string, body io.ReadCloser, lines ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodConnect, c.srv.URL+"/chat?room=1", body)
	if err != nil {
		return nil, err
	}
	req.Host = "app.example"
	if known, ok := body.(interface{ Len() int }); ok {
		req.ContentLength = int64(known.Len())
	}
	req.Header = http.Header{":protocol": {protocol}, "Sec-Websocket-Version": {"13"}}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	return c.RoundTrip(req)
}

// open opens a tunnel. early is sent before its opening is known.
func (c *h2Client) open(t testing.TB, early []byte, lines ...string) *h2Conn {
	t.Helper()
	conn, res, err := c.tryOpen(early, lines...)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	t.Cleanup(func() { conn.Reset() })
	return conn
}

func (c *h2Client) tryOpen(early []byte, lines ...string) (*h2Conn, *http.Response, error) {
	in, out := io.Pipe()
	conn := &h2Conn{out: out}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if len(early) > 0 {
			out.Write(early)
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	res, err := c.tryConnect(ctx, "websocket", in, lines...)
	if err != nil {
		cancel()
		out.Close()
		<-sent
		return nil, nil, err
	}
	<-sent
	conn.res, conn.cancel = res, cancel
	return conn, res, nil
}

// wire makes a wire of it, with patience.
func (c *h2Conn) wire(t testing.TB) *wire {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return &wire{c, bufio.NewReader(c), t}
}

// An h2Conn is the client's end of a tunnel over a stream of HTTP/2.
type h2Conn struct {
	net.Conn // nil: what is not below is not to be called
	res      *http.Response
	out      *io.PipeWriter
	cancel   context.CancelFunc
	late     atomic.Bool
	mu       sync.Mutex
	timer    *time.Timer
}

func (c *h2Conn) Read(p []byte) (int, error) {
	n, err := c.res.Body.Read(p)
	return n, c.because(err)
}

func (c *h2Conn) Write(p []byte) (int, error) {
	if len(p) == 0 { // would wait for a Read
		return 0, nil
	}
	n, err := c.out.Write(p)
	return n, c.because(err)
}

func (c *h2Conn) because(err error) error {
	if err != nil && c.late.Load() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// CloseWrite ends the stream towards the server.
func (c *h2Conn) CloseWrite() error { return c.out.Close() }

// Close ends the stream towards the server, and lets go of what comes from it, as the close of a socket does.
func (c *h2Conn) Close() error {
	c.stopTimer()
	c.out.Close()
	go func() {
		io.Copy(io.Discard, c.res.Body)
		c.cancel()
	}()
	return nil
}

// Reset breaks the stream off.
func (c *h2Conn) Reset() error {
	c.stopTimer()
	c.cancel()
	c.out.CloseWithError(errors.New("reset"))
	return c.res.Body.Close()
}

// NetConn is for who wants to reset the connection: closing it does.
func (c *h2Conn) NetConn() net.Conn { return h2Reset{c} }

type h2Reset struct{ *h2Conn }

func (c h2Reset) Close() error { return c.Reset() }

func (c *h2Conn) SetDeadline(at time.Time) error {
	c.stopTimer()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(time.Until(at), func() {
		c.late.Store(true)
		c.cancel()
		c.out.CloseWithError(os.ErrDeadlineExceeded)
	})
	return nil
}

func (c *h2Conn) stopTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}
