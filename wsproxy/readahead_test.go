package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// A tellingBody tells each Read before it begins.
type tellingBody struct {
	io.ReadCloser
	reads chan<- struct{}
}

func (b tellingBody) Read(p []byte) (int, error) {
	b.reads <- struct{}{}
	return b.ReadCloser.Read(p)
}

// Uploads that come slowly hold no place at a target when they are read ahead, and else all that
// there are.
func TestProxy_B4_SlowUploads(t *testing.T) {
	t.Parallel() // it waits
	const uploads, places, content = 20, 5, "0123456789"
	for _, ahead := range []int{0, 1 << 10} {
		t.Run(fmt.Sprint("ahead=", ahead), func(t *testing.T) {
			b := newBackend(t, "a", echo)
			tgt := b.target()
			tgt.MaxRequests = places
			pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{tgt}})
			require.NoError(t, err)
			p := &wsproxy.Proxy{Pool: pool, ReadAhead: ahead, Logger: noLog}
			reads := make(chan struct{}, 10*uploads)
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ContentLength > 0 {
					r.Body = tellingBody{r.Body, reads}
				}
				p.ServeHTTP(w, r)
			}))
			t.Cleanup(func() { p.Close() })
			var slow []*wire
			for range uploads {
				c := dial(t, srv)
				c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n" + content[:5])
				slow = append(slow, c)
				if ahead > 0 || len(slow) <= places { // the others are refused, without a Read to wait for
					wait(t, reads, "the first half of the body")
					wait(t, reads, "the second one")
				}
			}
			quick := newClient(t, srv)
			for range 50 {
				if ahead > 0 {
					require.Equal(t, http.StatusOK, quick.get("/").StatusCode)
				} else {
					require.Equal(t, http.StatusServiceUnavailable, quick.get("/").StatusCode)
				}
			}
			if ahead == 0 {
				return
			}
			require.Zero(t, member(t, pool, "a").Load())
			for _, c := range slow {
				c.send(content[5:])
				res := c.response()
				require.Equal(t, http.StatusOK, res.StatusCode)
				require.Equal(t, content, res.body)
			}
		})
	}
}

// What was read ahead can be sent again. There is one buffer: the larger one of both fields.
func TestProxy_W10_ReadAheadIsKept(t *testing.T) {
	const body = "0123456789"
	tests := map[string]struct {
		ahead, buffer int
		asked         []string
	}{
		"fits":                              {100, 0, []string{"a", "b"}},
		"fits just so":                      {len(body), 0, []string{"a", "b"}},
		"does not fit":                      {len(body) - 1, 0, []string{"a"}},
		"fits Retry.Buffer alone":           {3, len(body), []string{"a", "b"}},
		"fits ReadAhead, not Retry.Buffer":  {100, 3, []string{"a", "b"}},
		"fits neither":                      {3, 4, []string{"a"}},
		"fits Retry.Buffer, no ReadAhead":   {0, len(body), []string{"a", "b"}},
		"a negative ReadAhead is none":      {-1, 0, []string{"a"}},
		"a ReadAhead as large as can be":    {int(^uint(0) >> 1), 0, []string{"a", "b"}},
		"Retry.Buffer as large as the rest": {3, len(body) - 3, []string{"a"}},
	}
	for name, tt := range tests {
		for _, length := range []int64{-1, int64(len(body))} {
			for _, replaced := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, length %d, replaced %v", name, length, replaced), func(t *testing.T) {
					s := &script{status: map[string]int{"a": 503}}
					p := &wsproxy.Proxy{Logger: noLog, Pool: ordered(t, "a", "b"), Transport: s, ReadAhead: tt.ahead,
						Retry: wsproxy.Retry{On: []int{503}, Buffer: tt.buffer}}
					want := body
					if replaced {
						want = "abcdefghij"
						p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.Body = asLetters{pr.Out.Body} }
					}
					wsproxy.PatientAhead(p, patience)
					r := httptest.NewRequest(http.MethodPost, "/", iotest.OneByteReader(strings.NewReader(body)))
					r.ContentLength = length
					w := httptest.NewRecorder()
					p.ServeHTTP(w, r)
					require.Equal(t, tt.asked, s.asked)
					require.Equal(t, want, string(s.last))
				})
			}
		}
	}
}

// asLetters has a letter for each digit.
type asLetters struct{ io.ReadCloser }

func (b asLetters) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	for i := range p[:n] {
		p[i] += 'a' - '0'
	}
	return n, err
}

// A received is what a target got.
type received struct {
	body     string
	length   int64
	encoding []string
	trailer  http.Header
}

// Whatever the framing, the length and the protocol: what was read ahead is the body's beginning,
// is known to be complete only if it is, and the target gets the request as it was sent.
func TestProxy_W7_ReadAhead(t *testing.T) {
	const limit = 1000
	got := make(chan received, 1)
	b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- received{body: string(body), length: r.ContentLength, encoding: r.TransferEncoding, trailer: r.Trailer}
	})
	var start string
	var complete bool
	p := &wsproxy.Proxy{ReadAhead: limit, Key: func(r *http.Request) string {
		s, c := wsproxy.PeekBody(r)
		start, complete = string(s), c
		return start
	}}
	p.Pool, _ = newPool(t, b.target())
	wsproxy.PatientAhead(p, patience)
	for _, srv := range []*httptest.Server{serve(t, p), serveTLS(t, p)} {
		c := newClient(t, srv)
		for _, n := range []int{0, 1, limit - 1, limit, limit + 1, 100 * limit} {
			for _, known := range []bool{true, false} {
				for _, trailers := range []bool{false, true} {
					name := fmt.Sprintf("%s, %d bytes, known %v, trailers %v", srv.URL[:5], n, known, trailers)
					content := strings.Repeat("0123456789", n/10+1)[:n]
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, strings.NewReader(content))
					require.NoError(t, err)
					if !known {
						req.Body, req.ContentLength = io.NopCloser(iotest.DataErrReader(strings.NewReader(content))), -1
					}
					if trailers {
						if known {
							continue
						}
						req.Trailer = http.Header{"X-Sum": {"42"}, "X-Forwarded-For": {"9.9.9.9"}}
					}
					require.Equal(t, http.StatusOK, c.send(req).StatusCode, name)
					seen := wait(t, got, name)
					require.Equal(t, content, seen.body, name)
					require.Equal(t, content[:min(n, limit)], start, name)
					require.Equal(t, n <= limit, complete, name)
					if known {
						require.EqualValues(t, n, seen.length, name)
					} else if n > 0 || trailers {
						require.Equal(t, []string{"chunked"}, seen.encoding, name)
					}
					if trailers {
						require.Equal(t, http.Header{"X-Sum": {"42"}}, seen.trailer, name)
					}
				}
			}
		}
	}
}

// A body that fails while it is read ahead fails its request: no target is asked, and the
// connection ends.
func TestProxy_W13_ReadAheadFails(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\n"
	limited := func(h http.Handler) http.Handler { return http.MaxBytesHandler(h, 10) }
	tests := map[string]struct {
		request string
		after   func(c *wire)
		around  func(http.Handler) http.Handler
		timeout time.Duration // http.Server.ReadTimeout
		status  int
		class   wsproxy.Class
	}{
		"the client stalls":            {head + "Content-Length: 10\r\n\r\n0123", nil, nil, time.Second, 408, wsproxy.ClassClientGone},
		"the client stalls in chunks":  {head + "Transfer-Encoding: chunked\r\n\r\n4\r\n0123", nil, nil, time.Second, 408, wsproxy.ClassClientGone},
		"the client sends nothing":     {head + "Content-Length: 10\r\n\r\n", nil, nil, time.Second, 408, wsproxy.ClassClientGone},
		"the client ends":              {head + "Content-Length: 10\r\n\r\n0123", (*wire).closeWrite, nil, 0, 400, wsproxy.ClassClientGone},
		"the client ends in chunks":    {head + "Transfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n", (*wire).closeWrite, nil, 0, 400, wsproxy.ClassClientGone},
		"a broken chunk":               {head + "Transfer-Encoding: chunked\r\n\r\n4\r\n0123\r\nzz\r\n", nil, nil, 0, 400, wsproxy.ClassClientGone},
		"a broken trailer":             {head + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n4\r\n0123\r\n0\r\nX y\r\n\r\n", nil, nil, 0, 400, wsproxy.ClassClientGone},
		"too long":                     {head + "Content-Length: 20\r\n\r\n01234567890123456789", nil, limited, 0, 413, wsproxy.ClassClientGone},
		"too long in chunks":           {head + "Transfer-Encoding: chunked\r\n\r\n" + chunkOf("01234567890123456789") + "0\r\n\r\n", nil, limited, 0, 413, wsproxy.ClassClientGone},
		"a body that panics":           {head + "Content-Length: 4\r\n\r\n0123", nil, panickingBodies, 0, 500, wsproxy.ClassRequest},
		"a body that counts too much":  {head + "Content-Length: 4\r\n\r\n0123", nil, countingBodies(1 << 20), 0, 500, wsproxy.ClassRequest},
		"a body that counts backwards": {head + "Content-Length: 4\r\n\r\n0123", nil, countingBodies(-1), 0, 500, wsproxy.ClassRequest},
		"a deadline of the middleware": {head + "Content-Length: 10\r\n\r\n0123", nil, hastyBodies, 0, 408, wsproxy.ClassClientGone},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan wsproxy.Record, 1)
			seen := &outcomes{}
			pool, _ := newPool(t, newBackend(t, "a", echo).target())
			defer pool.Observe(seen)()
			p := &wsproxy.Proxy{Pool: pool, ReadAhead: 100, Logger: noLog, Trace: &wsproxy.Trace{
				Pick: func(*http.Request, *balancer.Member, error) { panic("no target is asked") },
				Done: func(_ *http.Request, r wsproxy.Record) { done <- r },
			}}
			wsproxy.PatientAhead(p, patience)
			var h http.Handler = p
			if tt.around != nil {
				h = tt.around(p)
			}
			srv := serveWith(t, h, func(s *http.Server) { s.ReadTimeout = tt.timeout })
			t.Cleanup(func() { p.Close() })
			c := dial(t, srv)
			c.send(tt.request)
			if tt.after != nil {
				tt.after(c)
			}
			res := c.response()
			require.Equal(t, tt.status, res.StatusCode)
			require.True(t, res.Close, "Connection: close")
			rec := wait(t, done, "the record")
			require.Equal(t, tt.status, rec.Status)
			require.Zero(t, rec.Attempts)
			failure, ok := errors.AsType[*wsproxy.Error](rec.Err)
			require.True(t, ok)
			require.Equal(t, tt.class.String(), failure.Class.String())
			require.Empty(t, failure.Target)
			if tt.after == nil {
				c.closeWrite() // the rest is not waited for
			}
			c.expectClosed()
			require.Empty(t, seen.classes())
		})
	}
}

func panickingBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = panicsOnRead{r.Body}
		h.ServeHTTP(w, r)
	})
}

type panicsOnRead struct{ io.ReadCloser }

func (panicsOnRead) Read([]byte) (int, error) { panic("a body of mine") }

// countingBodies returns a middleware whose bodies say that each Read has read so many bytes.
func countingBodies(n int) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = miscounts{r.Body, n}
			h.ServeHTTP(w, r)
		})
	}
}

type miscounts struct {
	io.ReadCloser
	n int
}

func (b miscounts) Read([]byte) (int, error) { return b.n, nil }

func hastyBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// A client that is gone meanwhile, over HTTP/1.1 and HTTP/2, costs nothing and blames nobody.
func TestProxy_W13_ClientGoneWhileReadingAhead(t *testing.T) {
	t.Parallel() // it waits
	done, reads := make(chan wsproxy.Record, 1), make(chan struct{}, 100)
	seen := &outcomes{}
	pool, _ := newPool(t, newBackend(t, "a", echo).target())
	defer pool.Observe(seen)()
	p := &wsproxy.Proxy{Pool: pool, ReadAhead: 100, Logger: noLog, Trace: &wsproxy.Trace{
		Done: func(_ *http.Request, r wsproxy.Record) { done <- r }}}
	telling := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = tellingBody{r.Body, reads}
		p.ServeHTTP(w, r)
	})
	gone := func() {
		t.Helper()
		rec := wait(t, done, "the record")
		failure, ok := errors.AsType[*wsproxy.Error](rec.Err)
		require.True(t, ok)
		require.Equal(t, wsproxy.ClassClientGone, failure.Class)
		require.Zero(t, rec.Attempts)
		require.Empty(t, seen.classes())
	}
	c := dial(t, serve(t, telling))
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123")
	wait(t, reads, "a Read")
	wait(t, reads, "a Read")
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Conn.Close()
	gone()

	srv := serveTLS(t, telling)
	t.Cleanup(func() { p.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	in, out := io.Pipe()
	defer out.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, in)
	require.NoError(t, err)
	req.ContentLength = 10
	ended := make(chan error, 1)
	go func() {
		_, err := newClient(t, srv).Do(req)
		ended <- err
	}()
	wait(t, reads, "a Read")
	cancel()
	require.Error(t, wait(t, ended, "the request"))
	gone()
}

// listening is a transport that answers at once, and tells what it reads of the body after that.
type listening struct {
	asked chan time.Time
	body  chan string
}

func (l *listening) RoundTrip(r *http.Request) (*http.Response, error) {
	l.asked <- time.Now()
	all, err := io.ReadAll(r.Body)
	l.body <- string(all)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// No conversation waits for ever: of a body whose length is unknown, what comes without a pause of
// a second is read ahead. The other bytes follow in their order. A declared length is waited for,
// until Shutdown.
func TestProxy_W11_ReadAheadOfConversations(t *testing.T) {
	t.Parallel() // it waits
	tests := map[string]struct {
		length   int64
		content  string        // type
		shutdown time.Duration // after which Shutdown begins; 0: none
		waits    time.Duration
		start    string
		complete bool
	}{
		// The client sends a byte every 400 ms, five of them, then four more after an hour.
		"unknown length":         {-1, "", 0, 1600*time.Millisecond + time.Second, "01234", false},
		"known length":           {9, "", 0, 1600*time.Millisecond + time.Hour, "012345678", true},
		"gRPC":                   {-1, "application/grpc", 0, 0, "", false},
		"gRPC with a codec":      {-1, "Application/grpc+proto; x=y", 0, 0, "", false},
		"Connect":                {-1, "application/connect+json", 0, 0, "", false},
		"gRPC-Web":               {9, "application/grpc-web+proto", 0, 1600*time.Millisecond + time.Hour, "012345678", true},
		"Shutdown in the pause":  {9, "", 10 * time.Second, 10 * time.Second, "01234", false},
		"Shutdown in the middle": {9, "", 500 * time.Millisecond, 1600*time.Millisecond + time.Second, "01234", false},
		"Shutdown before":        {9, "", -1, 1600*time.Millisecond + time.Second, "01234", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &listening{make(chan time.Time, 1), make(chan string, 1)}
				var start string
				var complete bool
				p := &wsproxy.Proxy{Pool: ordered(t, "a"), Transport: l, ReadAhead: 100, Logger: noLog,
					Key: func(r *http.Request) string {
						s, c := wsproxy.PeekBody(r)
						start, complete = string(s), c
						return ""
					}}
				if tt.shutdown < 0 {
					require.NoError(t, p.Shutdown(t.Context()))
				} else if tt.shutdown > 0 {
					time.AfterFunc(tt.shutdown, func() { p.Shutdown(context.Background()) })
				}
				in, out := io.Pipe()
				go func() {
					for i := range 9 {
						if i == 5 {
							time.Sleep(time.Hour)
						} else if 0 < i && i < 5 {
							time.Sleep(400 * time.Millisecond)
						}
						fmt.Fprint(out, i)
					}
					out.Close()
				}()
				r := httptest.NewRequest(http.MethodPost, "/", in)
				r.ContentLength = tt.length
				if tt.content != "" {
					r.Header.Set("Content-Type", tt.content)
				}
				w, began := httptest.NewRecorder(), time.Now()
				p.ServeHTTP(w, r)
				require.Equal(t, http.StatusOK, w.Code)
				require.Equal(t, tt.waits, (<-l.asked).Sub(began))
				require.Equal(t, "012345678", <-l.body)
				require.Equal(t, tt.start, start)
				require.Equal(t, tt.complete, complete)
			})
		})
	}
}

// A stream of gRPC is not held up, and another one over HTTP/2 not for ever.
func TestProxy_W11_ReadAheadOfStreams(t *testing.T) {
	for _, content := range []string{"application/grpc", "application/octet-stream"} {
		t.Run(content, func(t *testing.T) {
			t.Parallel()
			b := makeBackend("a", grpcServer)
			b.h2c = true
			b.start(t)
			p := &wsproxy.Proxy{ReadAhead: 1 << 10}
			p.Pool, _ = newPool(t, b.target())
			c := newClient(t, serveTLS(t, p))
			in, out := io.Pipe()
			defer out.Close()
			go out.Write(message("first"))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, in)
			require.NoError(t, err)
			req.Header.Set("Content-Type", content)
			res, err := c.Do(req)
			require.NoError(t, err)
			defer res.Body.Close()
			for _, text := range []string{"first", "second"} {
				got, err := readMessage(res.Body)
				require.NoError(t, err)
				require.Equal(t, "re: "+text, got)
				if text == "first" {
					_, err = out.Write(message("second"))
					require.NoError(t, err)
				}
			}
		})
	}
}

// A client that declares much and sends little costs little.
func TestProxy_B4_ReadAheadGrowsAsBytesCome(t *testing.T) {
	t.Parallel() // it waits
	const limit = 10 << 20
	for _, length := range []int64{-1, 10, 5000, limit, 10 * limit} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			in := &measuringBody{left: int(length)}
			if length < 0 || length > limit {
				in.left = 3 * limit / 2
			}
			p := &wsproxy.Proxy{Pool: ordered(t, "a"), ReadAhead: limit, Logger: noLog, Transport: roundTripper(
				func(r *http.Request) (*http.Response, error) {
					in.end()
					return nil, errBroken
				})}
			wsproxy.PatientAhead(p, patience)
			r := httptest.NewRequest(http.MethodPost, "/", in)
			r.ContentLength = length
			p.ServeHTTP(httptest.NewRecorder(), r)
			require.True(t, in.over)
			require.LessOrEqual(t, in.read, limit+1)
			require.LessOrEqual(t, in.most, 2.0)
		})
	}
}

// A measuringBody notes the largest buffer that it is given, relative to what it has read by then.
type measuringBody struct {
	left, read int
	most       float64
	over       bool // only dropped from now on
	mu         sync.Mutex
}

func (b *measuringBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}

func (b *measuringBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.most = max(b.most, float64(b.read+len(p))/float64(max(b.read, 512)))
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), b.left)
	b.left -= n
	if !b.over {
		b.read += n
	}
	return n, nil
}

func TestPeekBody_WithoutReadAhead(t *testing.T) {
	start, complete := wsproxy.PeekBody(httptest.NewRequest(http.MethodGet, "/", nil))
	require.Nil(t, start)
	require.True(t, complete)
	start, complete = wsproxy.PeekBody(httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x")))
	require.Nil(t, start)
	require.False(t, complete)
}

// A client that waits for a 100 gets one, and sends its body before a target is asked.
func TestProxy_W13_ReadAheadAndExpect(t *testing.T) {
	pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}))
	p := &wsproxy.Proxy{Pool: pool, ReadAhead: 100}
	c := dial(t, serve(t, p))
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	require.Equal(t, http.StatusContinue, c.response().StatusCode)
	require.Zero(t, member(t, pool, "a").Load())
	c.send("body")
	res := c.response() // the target's own 100 is not for a client that has sent its body
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "body", res.body)
}

// A body that was read to its end leaves the connection to the next request, whatever the target
// reads of it; one that goes on does not.
func TestProxy_W13_ConnectionAfterReadingAhead(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprint("chunked=", chunked), func(t *testing.T) {
			t.Parallel()
			f := newBodyFront(t, false, false, nil, nil)
			f.proxy.ReadAhead = len(smuggled)
			wsproxy.PatientAhead(f.proxy, patience)
			c := dial(t, f.Server)
			for range 3 {
				for _, path := range []string{"/early", "/deaf", "/other"} {
					c.send(framed(path, smuggled, chunked))
					require.NotEqual(t, http.StatusBadGateway, c.final().StatusCode)
				}
			}
			c.send(strings.TrimSuffix(framed("/deaf", smuggled+smuggled, chunked), "0\r\n\r\n")[:len(smuggled)+500])
			require.NotEqual(t, http.StatusBadGateway, c.final().StatusCode)
			c.closeWrite() // the rest does not come
			c.expectClosed()
			require.NotContains(t, f.seen.String(), "smuggled")
			f.noPanic(t)
		})
	}
}

// Without a Key, an upload counts for its client while it is read ahead.
func TestProxy_B4_ReadAheadCountsForTheKey(t *testing.T) {
	reads := make(chan struct{}, 100)
	pool, _ := newPool(t, newBackend(t, "a", echo).target())
	p := &wsproxy.Proxy{Pool: pool, ReadAhead: 100, MaxPerKey: 1, Logger: noLog}
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = tellingBody{r.Body, reads}
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { p.Close() })
	c := dial(t, srv)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
	wait(t, reads, "a Read")
	require.Equal(t, http.StatusServiceUnavailable, newClient(t, srv).get("/").StatusCode)
	c.send("dy")
	require.Equal(t, "body", c.response().body)
}

// Trailing bytes, partial and broken bodies, silent and dead clients: nothing is left of them.
func TestProxy_W5_ReadAheadLeavesNothing(t *testing.T) {
	b := newBackend(t, "a", echo)
	pool, _ := newPool(t, b.target())
	p := &wsproxy.Proxy{Pool: pool, ReadAhead: 1 << 10}
	srv := serveWith(t, http.MaxBytesHandler(quiet(p), 4<<10), nil)
	t.Cleanup(func() { p.Close() })
	vanish := func(text string) func(testing.TB) {
		return func(t testing.TB) {
			c := dialOnce(t, srv)
			c.send(text)
			c.Conn.Close()
		}
	}
	large := strings.Repeat("x", 3<<10)
	kinds := map[string]func(testing.TB){
		"small":         exchange(srv, framed("/", "small", false), 200),
		"small, chunks": exchange(srv, framed("/", "small", true), 200),
		"large":         exchange(srv, framed("/", large, false), 200),
		"large, chunks": exchange(srv, framed("/", large, true), 200),
		"broken":        exchange(srv, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
		"vanishes":      vanish("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123"),
		"vanishes late": vanish("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n" + large[:2000]),
	}
	leavesNothing(t, 10, kinds)
	idleMember(t, pool, "a")
}

// Many at a time: no body is mixed up with another, cut or doubled.
func TestProxy_W11_ReadAheadMixesNothingUp(t *testing.T) {
	b := newBackend(t, "a", echo)
	p := &wsproxy.Proxy{ReadAhead: 2000, Rewrite: func(pr *httputil.ProxyRequest) {
		if start, _ := wsproxy.PeekBody(pr.In); len(start) > 0 {
			pr.Out.Header.Set("X-Start", string(start[:1]))
		}
	}}
	p.Pool, _ = newPool(t, b.target())
	for _, srv := range []*httptest.Server{serve(t, p), serveTLS(t, p)} {
		c := newClient(t, srv)
		var running sync.WaitGroup
		for i := range 16 {
			running.Go(func() {
				for n := range 10 {
					content := bytes.Repeat([]byte{byte('a' + i)}, 1+n*400)
					var in io.Reader = bytes.NewReader(content)
					if n%2 == 1 {
						in = iotest.HalfReader(in) // of unknown length
					}
					res, err := c.Post(srv.URL, "text/plain", in)
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || !bytes.Equal(got, content) {
						t.Errorf("%d bytes of %d: %v", len(got), len(content), err)
					}
				}
			})
		}
		running.Wait()
	}
	require.Len(t, maps.Clone(b.header()).Values("X-Start"), 1)
}
