package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// canTell reports whether the system tells what a target has taken.
var canTell = runtime.GOOS == "linux"

// A target that is alive and does not read holds no upload for ever, nor a header that is too long
// for the sockets.
func TestTransport_W5_TargetThatDoesNotRead(t *testing.T) {
	for name, request := range map[string]func(url string) *http.Request{
		"upload": func(url string) *http.Request { return newRequest(t, http.MethodPost, url, endless{}) },
		"long header": func(url string) *http.Request {
			r := newRequest(t, http.MethodGet, url, nil)
			r.Header["Long"] = []string{strings.Repeat("x", 16<<20)}
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			hung := make(chan struct{})
			b := newBackend(t, func(*peer) { <-hung })
			defer close(hung)
			rt := &upstream.Transport{WriteTimeout: 300 * time.Millisecond}
			_, err := rt.RoundTrip(request(b.url))
			failure, ok := errors.AsType[*upstream.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, upstream.StageWrite, failure.Stage)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.True(t, failure.Timeout())
		})
	}
}

// A target that reads slowly makes progress.
func TestTransport_W5_SlowReaderMakesProgress(t *testing.T) {
	// A machine that stops for as long as the limit makes the target one that does not read.
	var err error
	for limit := 400 * time.Millisecond; limit < 10*time.Second; limit *= 2 {
		if err = uploadSlowly(t, limit); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

// uploadSlowly sends a body to a target that reads it for longer than limit, with short pauses.
func uploadSlowly(t *testing.T, limit time.Duration) error {
	total := 0
	const size = 6 << 20
	b := newBackend(t, func(p *peer) {
		p.header()
		for {
			n, err := io.CopyN(io.Discard, p.r, size/6)
			if err != nil || n < size/6 {
				return
			}
			time.Sleep(limit / 4)
			if total += int(n); total == size {
				p.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		}
	})
	rt := &upstream.Transport{WriteTimeout: limit}
	defer rt.CloseIdleConnections()
	req := newRequest(t, http.MethodPost, b.url, bodyOf(strings.Repeat("x", size)))
	req.ContentLength = size
	res, err := rt.RoundTrip(req)
	if err == nil {
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	return err
}

// A counted connection counts how often its write deadline is set.
type counted struct {
	net.Conn
	sets int
}

func (c *counted) SetWriteDeadline(d time.Time) error {
	c.sets++
	return c.Conn.SetWriteDeadline(d)
}

// However long ago the write before was, a target has the whole time to take the next request, and
// not much more.
func TestTransport_W5_EachWriteHasItsTime(t *testing.T) {
	const limit = 8 * time.Second
	errAgain := errors.New("another connection")
	for _, pause := range []time.Duration{0, 1, limit / 8 / 64, limit/8/64 + 1, limit / 16, limit / 8, limit/8 + limit/8/64, limit, 3 * limit} {
		for _, silent := range []time.Duration{0, limit / 8, limit - 1, limit + limit/64 + 1} {
			t.Run(fmt.Sprintf("%v %v", pause, silent), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near, far := net.Pipe()
					defer far.Close()
					conns := []net.Conn{near}
					rt := &upstream.Transport{WriteTimeout: limit, DialContext: func(context.Context, string, string) (net.Conn, error) {
						if len(conns) == 0 {
							return nil, errAgain
						}
						defer func() { conns = nil }()
						return conns[0], nil
					}}
					defer rt.CloseIdleConnections()
					var target sync.WaitGroup
					defer target.Wait()
					target.Go(func() {
						p := newPeer(far)
						p.request()
						p.say(empty)
						time.Sleep(pause + silent)
						p.request()
						p.say(empty)
					})
					get(t, rt, "http://a.example")
					time.Sleep(pause)
					begin := time.Now()
					_, err := rt.RoundTrip(newRequest(t, http.MethodPost, "http://a.example", nil))
					if silent < limit {
						require.NoError(t, err)
						return
					}
					require.ErrorIs(t, err, errAgain) // nothing of the request was written
					require.GreaterOrEqual(t, time.Since(begin), limit)
					require.LessOrEqual(t, time.Since(begin), limit+limit/64)
				})
			})
		}
	}
}

// Requests one after the other share a deadline.
func TestTransport_WritesShareADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := &counted{Conn: near}
		rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
		defer rt.CloseIdleConnections()
		go func() {
			p := newPeer(far)
			for p.request() != nil {
				p.say(empty)
			}
		}()
		for range 10 {
			get(t, rt, "http://a.example")
		}
		require.Equal(t, 1, c.sets)
	})
}

// A request that met a kept connection just when the target closed it goes again whatever its
// method if the target's system has not taken any of it (RFC 9110 section 9.2.2).
func TestTransport_W10_UntakenRequest(t *testing.T) {
	tests := map[string]struct {
		method string
		body   string
		getter bool
		again  bool
	}{
		"GET":                        {method: http.MethodGet, again: true},
		"PUT":                        {method: http.MethodPut, again: true},
		"POST":                       {method: http.MethodPost, again: canTell},
		"POST with a body":           {method: http.MethodPost, body: "body"},
		"POST with a body and a way": {method: http.MethodPost, body: "body", getter: true, again: canTell},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			conns := make(chan net.Conn, 10)
			b := newBackend(t, func(p *peer) {
				conns <- p.Conn
				for p.request() != nil {
					p.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			var kept net.Conn
			rt := dialling(t, func(c *net.TCPConn) {
				if kept == nil {
					kept = c
				}
			})
			ask(t, rt, newRequest(t, http.MethodGet, b.url, nil))

			req := newRequest(t, tt.method, b.url, nil)
			if tt.body != "" {
				req.Body = bodyOf(tt.body)
				req.ContentLength = int64(len(tt.body))
			}
			if tt.getter {
				req.GetBody = func() (io.ReadCloser, error) { return bodyOf(tt.body), nil }
			}
			readable(t, kept) // skips the test where idle connections are not looked at
			rt.AfterLooks(func() {
				(<-conns).Close()
				require.True(t, leaktest.Polled(func() bool { return readable(t, kept) }))
			})
			res, err := rt.RoundTrip(req)
			if !tt.again {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.EqualValues(t, 2, b.conns.Load())
		})
	}
}

// Other than with http.Transport, all idempotent methods go again (RFC 9110 section 9.2.2),
// although the target has read the request.
func TestTransport_W10_OneMoreTryIfIdempotent(t *testing.T) {
	for method, again := range map[string]bool{http.MethodPut: true, http.MethodDelete: true, http.MethodPatch: false} {
		b := newBackend(t, func(p *peer) {
			if p.request() == nil || p.say(empty) != nil || p.n > 1 {
				return
			}
			p.request()
		})
		rt := &upstream.Transport{}
		defer rt.CloseIdleConnections()
		get(t, rt, b.url)
		res, err := rt.RoundTrip(newRequest(t, method, b.url, nil))
		require.Equal(t, again, err == nil, "%s: %v", method, err)
		if err == nil {
			res.Body.Close()
		}
	}
}

// A request whose header is too long for the caller's goroutine is whole when it is sent again.
func TestTransport_W10_OneMoreTryWithALongHeader(t *testing.T) {
	long := strings.Repeat("x", 20<<10)
	for name, body := range map[string]string{"without a body": "", "with a body": "body"} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, func(p *peer) {
				if p.n == 1 {
					p.request()
					p.say(empty)
					p.request() // and closes
					return
				}
				if req := p.request(); req != nil {
					got, _ := io.ReadAll(req.Body)
					if p.n == 2 && string(got) == body && req.Header.Get("X-Long") == long {
						p.say(ok)
					}
				}
			})
			rt := dialling(t, func(*net.TCPConn) {})
			require.Empty(t, get(t, rt, b.url))
			req := newRequest(t, http.MethodPut, b.url, nil)
			req.Header.Set("X-Long", long)
			if body != "" {
				req.Body, req.ContentLength = bodyOf(body), int64(len(body))
				req.GetBody = func() (io.ReadCloser, error) { return bodyOf(body), nil }
			}
			_, answer := ask(t, rt, req)
			require.Equal(t, "ok", answer)
		})
	}
}
