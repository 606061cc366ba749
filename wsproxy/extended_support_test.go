package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/h2test"
)

// inExtended runs the rest of the test that calls it where net/http offers extended CONNECT: that
// takes a variable in the environment that the process starts with, so it is run in another one. It
// reports whether this is that process.
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

// An h2Client opens tunnels over HTTP/2, on as few connections to a server as that allows.
type h2Client struct {
	*h2test.Client
	path string
}

func newH2Client(t testing.TB, srv *httptest.Server) *h2Client {
	t.Helper()
	conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName, conf.NextProtos = "example.com", []string{"h2"}
	dialer := &tls.Dialer{Config: conf}
	c := &h2Client{path: "/chat?room=1", Client: &h2test.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}}}
	t.Cleanup(c.Close)
	return c
}

func (c *h2Client) request(protocol string, lines []string) h2test.Request {
	header := http.Header{"Sec-Websocket-Version": {"13"}}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		header.Add(name, value)
	}
	return h2test.Request{Protocol: protocol, Authority: "app.example", Path: c.path, Header: header}
}

// connect asks for a tunnel with an extended CONNECT, and returns when it is answered.
func (c *h2Client) connect(t testing.TB, protocol string, lines ...string) *h2Conn {
	t.Helper()
	s, err := c.Connect(t.Context(), c.request(protocol, lines))
	require.NoError(t, err)
	return &h2Conn{s, s.Response()}
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
	s, err := c.Open(context.Background(), c.request("websocket", lines))
	if err != nil {
		return nil, nil, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.Write(early)
	}()
	if err = s.Await(); err != nil {
		s.Reset()
	}
	<-sent
	return &h2Conn{s, s.Response()}, s.Response(), err
}

// An h2Conn is the client's end of a tunnel over a stream of HTTP/2, and the response that opened
// it.
type h2Conn struct {
	*h2test.Stream
	res *http.Response
}

// wire makes a wire of it, with patience.
func (c *h2Conn) wire(t testing.TB) *wire {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return &wire{c, bufio.NewReader(c), t}
}
