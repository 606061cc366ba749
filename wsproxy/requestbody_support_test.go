package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
)

// A bodyFront is a proxy in front of one target that answers according to the path; see
// answersBodies.
type bodyFront struct {
	*httptest.Server
	proxy *wsproxy.Proxy
	log   *logtest.Buffer // of the server
	seen  *logtest.Buffer // request lines at the target
}

// eachBodyFront runs a test over plain connections with the transport of the proxy, and over TLS
// with an http.Transport. It makes the test parallel, as most of the time net/http waits before it
// closes a connection.
func eachBodyFront(t *testing.T, around func(http.Handler) http.Handler, test func(t *testing.T, f *bodyFront)) {
	t.Helper()
	t.Parallel()
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprintf("other=%v", other), func(t *testing.T) {
			t.Parallel()
			test(t, newBodyFront(t, other, other, around, nil))
		})
	}
}

func newBodyFront(t testing.TB, secure, given bool, around func(http.Handler) http.Handler, configure func(*http.Server)) *bodyFront {
	t.Helper()
	f := &bodyFront{log: &logtest.Buffer{}, seen: &logtest.Buffer{}}
	pool, _ := newPool(t, rawBackend(t, "a", f.answersBodies))
	f.proxy = &wsproxy.Proxy{Pool: pool, Logger: noLog}
	if given {
		own := &http.Transport{}
		t.Cleanup(own.CloseIdleConnections)
		f.proxy.Transport = own
	}
	var h http.Handler = f.proxy
	if around != nil {
		h = around(h)
	}
	f.Server = httptest.NewUnstartedServer(h)
	prepare(f.Server, configure)
	f.Config.ErrorLog = log.New(f.log, "", 0)
	if secure {
		f.StartTLS()
	} else {
		f.Start()
	}
	cleanUp(t, f.Server, f.proxy)
	return f
}

// noPanic checks that nothing went wrong unseen.
func (f *bodyFront) noPanic(t testing.TB) {
	t.Helper()
	require.NotContains(t, f.log.String(), "panic")
}

const (
	early401 = "HTTP/1.1 401 No\r\nContent-Length: 5\r\n\r\nlogin"
	early413 = "HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch"
	early200 = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
)

// answersBodies is a play whose answer is a matter of the path: /early and /chunked are answered
// before the body is read, which then is, as nginx does it; /deaf is answered, and the body never
// read; any other when all is read.
func (f *bodyFront) answersBodies(conn net.Conn, r *bufio.Reader, req *http.Request) {
	for {
		fmt.Fprintln(f.seen, req.Method, req.URL.Path)
		switch req.URL.Path {
		case "/early":
			io.WriteString(conn, early401)
		case "/chunked":
			io.WriteString(conn, early200)
		case "/deaf":
			io.WriteString(conn, early413)
			return
		}
		_, err := io.Copy(io.Discard, req.Body)
		if err != nil {
			return
		}
		if req.URL.Path != "/early" && req.URL.Path != "/chunked" {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		if req, err = http.ReadRequest(r); err != nil {
			return
		}
	}
}

// framed is a POST with that body.
func framed(path, body string, chunked bool) string {
	head := "POST " + path + " HTTP/1.1\r\nHost: app.example\r\n"
	if chunked {
		return head + "Transfer-Encoding: chunked\r\n\r\n" + chunkOf(body) + "0\r\n\r\n"
	}
	return head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
}

func chunkOf(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

// smuggled is a body that would be a request if it was read as one.
var smuggled = strings.Repeat("GET /smuggled HTTP/1.1\r\nHost: app.example\r\n\r\n", 20)

// replies reads responses until the connection ends.
func (w *wire) replies() []*reply {
	w.t.Helper()
	var all []*reply
	for {
		if _, err := w.Peek(1); err != nil {
			require.False(w.t, isTimeout(err), "still open")
			return all
		}
		all = append(all, w.final())
	}
}

// awaitAnswer waits until a response has begun, and reads nothing of it.
func (w *wire) awaitAnswer() {
	w.t.Helper()
	_, err := w.Peek(1)
	require.NoError(w.t, err)
}

// deadTarget has nobody who listens.
func deadTarget(t testing.TB, id string) balancer.Target {
	gone := newBackend(t, id, nil)
	gone.stop()
	return gone.target()
}
