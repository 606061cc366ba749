package wsproxy_test

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// judged serves one request over that transport and returns what the pool is told of its only
// target, and the answer.
func judged(t *testing.T, rt roundTripper, w http.ResponseWriter, r *http.Request) balancer.Outcome {
	t.Helper()
	seen := &outcomes{}
	p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler), Pool: ordered(t, "a"), Transport: rt}
	defer p.Pool.Observe(seen)()
	p.ServeHTTP(w, r)
	require.Len(t, seen.all, 1)
	return seen.all[0]
}

// What a transport refuses to send, and what this machine has not the means for, is no failure of
// the target's.
func TestProxy_B5_NeverSent(t *testing.T) {
	tests := map[string]struct {
		err    error
		status int
	}{
		"a header of HTTP/1.1":  {errors.New(`net/http: invalid header field name "a b"`), http.StatusBadRequest},
		"a trailer":             {errors.New(`net/http: invalid trailer field value for "A"`), http.StatusBadRequest},
		"a header of HTTP/2":    {errors.New(`http2: invalid Upgrade request header: ["x"]`), http.StatusBadRequest},
		"a trailer of HTTP/2":   {errors.New(`invalid Trailer key "Content-Length"`), http.StatusBadRequest},
		"descriptors are short": {errShort, http.StatusServiceUnavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/", nil)
			o := judged(t, func(*http.Request) (*http.Response, error) {
				time.Sleep(time.Millisecond)
				return nil, tt.err
			}, w, r)
			require.Equal(t, tt.status, w.Code)
			require.Equal(t, balancer.Unjudged, o.Class)
			require.Zero(t, o.Latency)
			require.Equal(t, netip.MustParseAddr("192.0.2.1"), o.Client)
			if tt.err == error(errShort) {
				require.ErrorContains(t, o.Err, "this machine is short of file descriptors")
				require.Equal(t, "5", w.Header().Get("Retry-After"))
			}
		})
	}
}

// A field that only HTTP/2 can bring, and no server should let through, is refused without asking
// anybody.
func TestProxy_B5_ProtocolWithoutConnect(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.Header[":protocol"] = []string{"websocket"}
	w := httptest.NewRecorder()
	s := &script{}
	p := &wsproxy.Proxy{Logger: noLog, Pool: ordered(t, "a"), Transport: s}
	p.ServeHTTP(w, r)
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Empty(t, s.asked)
}

// A trailer that HTTP/2 cannot carry is the client's mistake; net/http's server does not look at
// it.
func TestProxy_B5_InvalidTrailer(t *testing.T) {
	r := httptest.NewRequest("POST", "/", strings.NewReader("body"))
	r.Trailer = http.Header{"Checksum": {"a\x01b"}}
	w := httptest.NewRecorder()
	o := judged(t, func(r *http.Request) (*http.Response, error) {
		_, err := io.ReadAll(r.Body)
		return nil, err
	}, w, r)
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Equal(t, balancer.ClientGone, o.Class)
}

// A target that gives up while we wait for the client's body is not to blame, nor as slow as that
// client.
func TestProxy_B5_StalledUpload(t *testing.T) {
	t.Parallel() // it waits
	tests := map[string]struct{ line, body string }{
		"plain":  {"X: 1", "abc"},
		"expect": {"Expect: 100-continue", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			stalls := make(chan struct{})
			target := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				if req.Header.Get("Expect") != "" {
					io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
				}
				io.CopyN(io.Discard, req.Body, int64(len(tt.body)))
				wait(t, stalls, "the proxy waiting for the client")
			})
			pool, _ := newPool(t, target)
			told := &told{ended: make(chan balancer.Outcome, 1)}
			defer pool.Observe(told)()
			srv := serve(t, announceStall(&wsproxy.Proxy{Pool: pool}, len(tt.body), stalls))
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n"+tt.line+"\r\n\r\n"+tt.body)
			require.NoError(t, err)
			o := wait(t, told.ended, "the outcome")
			require.Equal(t, balancer.Unjudged, o.Class, "%v", o.Err)
			require.Zero(t, o.Latency)
		})
	}
}

// told passes on how leases ended.
type told struct{ ended chan balancer.Outcome }

func (o *told) Released(_ *balancer.Member, out balancer.Outcome) { o.ended <- out }

func (*told) Changed(*balancer.Member, balancer.State) {}

// The time that a client takes for its body is not the target's.
func TestProxy_B5_LatencyWithoutTheUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := readerFunc(func(p []byte) (int, error) {
			time.Sleep(time.Minute)
			return 0, io.EOF
		})
		r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("body"), slow))
		o := judged(t, func(r *http.Request) (*http.Response, error) {
			io.ReadAll(r.Body)
			time.Sleep(time.Second)
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}, httptest.NewRecorder(), r)
		require.Equal(t, balancer.OK, o.Class)
		require.Equal(t, time.Second, o.Latency)
	})
}

// A response that breaks off is the target's failure, unless the client has held it up: targets
// have limits for that.
func TestProxy_B5_ResponseHeldUp(t *testing.T) {
	t.Parallel() // it waits
	for takes, want := range map[time.Duration]balancer.Class{
		0:                      balancer.BodyFailed,
		600 * time.Millisecond: balancer.Unjudged, // twice
	} {
		body := io.MultiReader(strings.NewReader("a"), strings.NewReader("b"), iotest.ErrReader(io.ErrUnexpectedEOF))
		w := &slowWriter{httptest.NewRecorder(), takes}
		o := judged(t, func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body), ContentLength: -1, Request: r}, nil
		}, w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, want, o.Class, "%v", takes)
	}
}

// slowWriter is a client that takes its time.
type slowWriter struct {
	*httptest.ResponseRecorder
	takes time.Duration
}

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(w.takes)
	return w.ResponseRecorder.Write(p)
}

// What becomes of an upgrade teaches nothing about plain requests.
func TestProxy_B5_FailedUpgrades(t *testing.T) {
	tests := map[string]struct {
		answer string
		status int
		want   balancer.Class
	}{
		"destroyed unanswered": {"", http.StatusBadGateway, balancer.UpgradeFailed},
		"garbage":              {"ugh\r\n\r\n", http.StatusBadGateway, balancer.UpgradeFailed},
		"another protocol": {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
			http.StatusBadGateway, balancer.UpgradeFailed},
		"declined": {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", http.StatusOK, balancer.OK},
		"refused":  {"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", http.StatusInternalServerError, balancer.OK},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			target := rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, _ *http.Request) { io.WriteString(conn, tt.answer) })
			pool, _ := newPool(t, target)
			told := &told{ended: make(chan balancer.Outcome, 1)}
			defer pool.Observe(told)()
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: pool}))
			res := c.get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
				"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
			require.Equal(t, tt.status, res.StatusCode)
			o := wait(t, told.ended, "the outcome")
			require.Equal(t, tt.want, o.Class)
			require.True(t, o.Tunnel)
		})
	}
}

// A target that refuses a request whose header it has not read to its end closes the connection
// with the rest unread, and so resets it: that is an answer, even where the reset overtakes a part
// of it.
func TestProxy_B5_RefusedHeader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	answered := make(chan struct{})
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Read(make([]byte, 100))
		io.WriteString(conn, "HTTP/1.1 431 Too Large\r\nConnection: close\r\n\r\n")
		<-answered
		conn.Close()
	}()
	pool, _ := newPool(t, target("a", "http://"+l.Addr().String()))
	told := &told{ended: make(chan balancer.Outcome, 1)}
	defer pool.Observe(told)()
	trace := &wsproxy.Trace{Attempt: func(*http.Request, wsproxy.Attempt) { close(answered) }}
	srv := serve(t, &wsproxy.Proxy{Pool: pool, Trace: trace})
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nX-Long: "+strings.Repeat("x", 900<<10)+"\r\n\r\n")
	require.NoError(t, err)
	o := wait(t, told.ended, "the outcome")
	require.Equal(t, balancer.OK, o.Class, "%v", o.Err)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, o.Status)
}
