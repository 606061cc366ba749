package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A connection that its backend has closed, or has spoken on unasked, is found out before it is
// used: even a request that may not be sent twice goes through.
func TestTransport_LooksBeforeItUsesAConnection(t *testing.T) {
	for name, unasked := range map[string]string{"closed": "", "unsolicited": ok, "408": "HTTP/1.1 408 Late\r\n\r\n"} {
		for how, change := range map[string]func(*http.Request) *http.Request{
			"with a body":    func(r *http.Request) *http.Request { r.Body, r.ContentLength = bodyOf("four"), 4; return r },
			"without a body": func(r *http.Request) *http.Request { return r },
			"traced": func(r *http.Request) *http.Request {
				told := httptrace.ClientTrace{WroteHeaders: func() {}}
				return r.WithContext(httptrace.WithClientTrace(r.Context(), &told))
			},
		} {
			t.Run(name+"/"+how, func(t *testing.T) { looksBefore(t, unasked, change) })
		}
	}
}

func looksBefore(t *testing.T, unasked string, change func(*http.Request) *http.Request) {
	var kept net.Conn
	rt := &upstream.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if kept == nil {
			kept = c
		}
		return c, err
	}}
	t.Cleanup(rt.CloseIdleConnections)
	heard, closed := make(chan struct{}), make(chan struct{})
	b := newBackend(t, func(p *peer) {
		if p.n > 1 {
			always(empty)(p)
			return
		}
		p.request()
		p.say(ok)
		<-heard
		if unasked == "" {
			return
		}
		p.say(unasked)
		p.gone()
		close(closed)
	})
	require.Equal(t, "ok", get(t, rt, b.url))
	close(heard)
	require.True(t, leaktest.Polled(func() bool { return readable(t, kept) }))
	_, body := ask(t, rt, change(newRequest(t, http.MethodPost, b.url, nil)))
	require.Empty(t, body)
	require.EqualValues(t, 2, b.conns.Load())
	if unasked != "" {
		wait(t, closed, "close")
	}
}

// A request on a kept connection that breaks before a byte is answered is sent again, where that is
// safe.
func TestTransport_W10_OneMoreTry(t *testing.T) {
	again := func() (io.ReadCloser, error) { return bodyOf("four"), nil }
	tests := map[string]struct {
		change func(*http.Request)
		says   string // before the kept connection breaks
		again  bool
	}{
		"GET":                  {func(*http.Request) {}, "", true},
		"HEAD":                 {func(r *http.Request) { r.Method = "HEAD" }, "", true},
		"OPTIONS":              {func(r *http.Request) { r.Method = "OPTIONS" }, "", true},
		"POST":                 {func(r *http.Request) { r.Method = "POST" }, "", false},
		"POST with a key":      {func(r *http.Request) { r.Method = "POST"; r.Header.Set("Idempotency-Key", "1") }, "", true},
		"POST with an old key": {func(r *http.Request) { r.Method = "POST"; r.Header.Set("X-Idempotency-Key", "1") }, "", true},
		"body":                 {func(r *http.Request) { r.Body, r.ContentLength = bodyOf("four"), 4 }, "", false},
		"body that comes again": {func(r *http.Request) {
			r.Body, r.ContentLength, r.GetBody = bodyOf("four"), 4, again
		}, "", true},
		"chunked body that comes again": {func(r *http.Request) {
			r.Body, r.ContentLength, r.GetBody = bodyOf("four"), -1, again
		}, "", true},
		"body that does not": {func(r *http.Request) {
			r.Body, r.ContentLength = bodyOf("four"), 4
			r.GetBody = func() (io.ReadCloser, error) { return nil, errWhy }
		}, "", false},
		"POST that comes again": {func(r *http.Request) {
			r.Method, r.Body, r.ContentLength, r.GetBody = "POST", bodyOf("four"), 4, again
		}, "", false},
		"a byte was answered": {func(*http.Request) {}, "H", false},
		"a hint came":         {func(*http.Request) {}, "HTTP/1.1 103 X\r\n\r\n", false},
		"nonsense":            {func(*http.Request) {}, "nonsense\r\n\r\n", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			alike(t, usual, func(t *testing.T, rt transport) {
				var requests atomic.Int64
				b := newBackend(t, func(p *peer) {
					if p.request() == nil || p.say(empty) != nil || p.n > 1 {
						return
					}
					if req := p.request(); req != nil {
						requests.Add(1)
						p.say(tt.says)
					}
				})
				get(t, rt, b.url)
				req := newRequest(t, http.MethodGet, b.url, nil)
				tt.change(req)
				res, err := rt.RoundTrip(req)
				require.Equal(t, tt.again, err == nil, "%v", err)
				if err == nil {
					require.Same(t, req, res.Request)
					res.Body.Close()
				}
				require.EqualValues(t, 1, requests.Load())
				require.Equal(t, tt.again, b.conns.Load() == 2)
			})
		})
	}
}

// A body that broke off is not sent again, even if it could be had again: the caller is asked no
// more.
func TestTransport_W10_NoTryMoreWithABrokenBody(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, always(ok))
		get(t, rt, b.url)
		req := newRequest(t, http.MethodGet, b.url, opaque{io.MultiReader(strings.NewReader("part"),
			reader(func([]byte) (int, error) { return 0, errWhy }))})
		req.GetBody = func() (io.ReadCloser, error) { return bodyOf("four"), nil }
		_, err := rt.RoundTrip(req)
		require.ErrorIs(t, err, errWhy)
		require.EqualValues(t, 1, b.conns.Load())
	})
}

// A connection whose end came together with the last bytes is not used again.
func TestTransport_EndWithTheLastByte(t *testing.T) {
	dials := 0
	rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		dials++
		return &lastWord{tape{text: bytes.NewReader([]byte(ok)), piece: len(ok)}}, nil
	}}
	for range 3 {
		_, body := ask(t, rt, newRequest(t, http.MethodPost, "http://a.example", nil))
		require.Equal(t, "ok", body)
	}
	require.Equal(t, 3, dials)
}

// lastWord ends with what it says.
type lastWord struct{ tape }

func (c *lastWord) Read(p []byte) (int, error) {
	n, _ := c.tape.Read(p)
	return n, io.EOF
}

// A new connection that breaks is the target's fault: nothing is sent again.
func TestTransport_W10_NoTryMoreOnANewConnection(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, func(p *peer) { p.request() })
		_, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
		require.Error(t, err)
		require.EqualValues(t, 1, b.conns.Load())
	})
}

// A response's body that is closed early takes its connection with it, unless all is at hand.
func TestTransport_CloseEarly(t *testing.T) {
	for text, kept := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart":               false,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart": false,
		"HTTP/1.1 200 OK\r\n\r\npart":                                    false,
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npart":               true,
	} {
		rt := transports[1].make(usual)
		t.Cleanup(rt.CloseIdleConnections)
		closed := make(chan struct{}, 1)
		b := newBackend(t, func(p *peer) {
			for p.request() != nil {
				p.say(text)
			}
			closed <- struct{}{}
		})
		res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.NoError(t, res.Body.Close())
		_, err = res.Body.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
		if !kept {
			wait(t, closed, "close")
		}
		res, err = rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, kept, b.conns.Load() == 1, text)
	}
}

func TestTransport_CloseDuringARead(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		closed := make(chan struct{})
		b := newBackend(t, func(p *peer) {
			p.request()
			p.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
			p.gone()
			close(closed)
		})
		res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
		require.NoError(t, err)
		part := make([]byte, 4)
		_, err = io.ReadFull(res.Body, part)
		require.NoError(t, err)
		failed := make(chan error, 1)
		reading := make(chan struct{})
		go func() {
			close(reading)
			_, err := res.Body.Read(part)
			failed <- err
		}()
		<-reading
		require.NoError(t, res.Body.Close())
		require.Error(t, wait(t, failed, "end of the Read"))
		wait(t, closed, "close")
	})
}

// A 101 hands the connection over, as it was dialled and with what came with the answer. The
// context of its request has no say in it any more.
func TestTransport_Switch(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	upgrade := func(t *testing.T, rt http.RoundTripper, ctx context.Context) *http.Response {
		b := newBackend(t, func(p *peer) {
			p.header()
			p.say(switching + "early")
			io.Copy(p.Conn, p.r)
		})
		req := newRequest(t, http.MethodGet, b.url, nil).WithContext(ctx)
		req.Header["Connection"], req.Header["Upgrade"] = []string{"Upgrade"}, []string{"echo"}
		res, err := rt.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, 101, res.StatusCode)
		return res
	}
	alike(t, usual, func(t *testing.T, rt transport) {
		ctx, cancel := context.WithCancel(t.Context())
		conn := upgrade(t, rt, ctx).Body.(io.ReadWriteCloser)
		cancel()
		_, err := io.WriteString(conn, ", later")
		require.NoError(t, err)
		require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
		all, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, "early, later", string(all))
		require.NoError(t, conn.Close())
	})
	t.Run("taken", func(t *testing.T) {
		switched := upgrade(t, transports[1].make(usual), t.Context()).Body.(*upstream.Switched)
		two := make([]byte, 2)
		_, err := io.ReadFull(switched, two)
		require.NoError(t, err)
		conn, early := switched.Take()
		require.Equal(t, "rly", string(early))
		require.IsType(t, (*net.TCPConn)(nil), conn)
		require.NoError(t, conn.Close())
	})
	t.Run("before the body is there", func(t *testing.T) {
		closed := make(chan struct{})
		b := newBackend(t, func(p *peer) {
			p.header()
			p.say(switching)
			p.gone()
			close(closed)
		})
		r, w := io.Pipe()
		defer w.Close()
		_, err := transports[1].make(usual).RoundTrip(newRequest(t, http.MethodPost, b.url, r))
		require.Error(t, err)
		wait(t, closed, "close")
	})
}

// A connection that cannot be half-closed says so.
func TestSwitched_CloseWrite(t *testing.T) {
	near, far := net.Pipe()
	rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
	go func() {
		p := newPeer(far)
		p.header()
		p.say("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	}()
	res, err := rt.RoundTrip(newRequest(t, http.MethodGet, "http://a.example", nil))
	require.NoError(t, err)
	defer res.Body.Close()
	require.ErrorIs(t, res.Body.(*upstream.Switched).CloseWrite(), errors.ErrUnsupported)
}

// Addresses are those of http.Transport.
func TestTransport_Addresses(t *testing.T) {
	for url, want := range map[string]string{
		"http://a.example":            "a.example:80",
		"http://a.example:":           "a.example:80",
		"http://a.example:8080":       "a.example:8080",
		"http://[::1]":                "[::1]:80",
		"http://[::1]:81":             "[::1]:81",
		"http://[fe80::1%25en0]:81":   "[fe80::1%en0]:81",
		"http://[fe80::1%25en0]":      "[fe80::1%en0]:80",
		"http://bücher.example:81":    "xn--bcher-kva.example:81",
		"http://bücher.example":       "xn--bcher-kva.example:80",
		"http://xn--bcher-kva.e:8080": "xn--bcher-kva.e:8080",
	} {
		var got [2]string
		for i := range got {
			dial := func(_ context.Context, network, addr string) (net.Conn, error) {
				got[i] = network + " " + addr
				return nil, errWhy
			}
			var rt http.RoundTripper = &upstream.Transport{DialContext: dial}
			if i == 0 {
				rt = &http.Transport{DialContext: dial}
			}
			req := newRequest(t, http.MethodGet, url, nil)
			req.Host = "a"
			_, err := rt.RoundTrip(req)
			require.ErrorIs(t, err, errWhy)
		}
		require.Equal(t, "tcp "+want, got[0])
		require.Equal(t, got[0], got[1])
	}
}

// Whatever goes wrong, nothing stays behind.
func TestTransport_LeavesNothing(t *testing.T) {
	rt := transports[1].make(limits{idle: 4, header: 20 * time.Millisecond, expect: time.Millisecond, headerBytes: 1 << 20})
	kinds := []func(p *peer){always(ok), always("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
		func(p *peer) { p.gone() }, func(p *peer) { p.say("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"); p.gone() }}
	for _, name := range []string{"counted", "chunked", "short", "short chunk", "nothing", "noise", "two answers", "to the end"} {
		kinds = append(kinds, answering(answers[name].text))
	}
	var urls []string
	for _, play := range kinds {
		urls = append(urls, newBackend(t, play).url)
	}
	round := func(i int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req := newRequest(t, http.MethodGet, urls[i%len(urls)], nil).WithContext(ctx)
		switch i % 5 {
		case 1:
			req.Method, req.Body, req.ContentLength = "POST", bodyOf("four"), 4
		case 2:
			req.Method, req.Body, req.ContentLength = "POST", bodyOf(long(300_000)), -1
			req.Header.Set("Expect", "100-continue")
		case 3:
			go cancel()
		}
		res, err := rt.RoundTrip(req)
		if err != nil {
			return
		}
		if i%3 > 0 && res.StatusCode != 101 {
			io.Copy(io.Discard, res.Body)
		}
		if i%7 > 0 || res.StatusCode == 101 { // else the context's end is enough
			res.Body.Close()
		}
	}
	var before leaktest.Held
	for i := range 600 {
		if i == 60 {
			rt.CloseIdleConnections()
			before = leaktest.Settled(t)
		}
		round(i)
	}
	rt.CloseIdleConnections()
	leaktest.RequireNoMore(t, before)
}

// Many at once, of all kinds, each with its own answer.
func TestTransport_Concurrently(t *testing.T) {
	b := newBackend(t, func(p *peer) {
		for {
			req := p.request()
			if req == nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for _, part := range []string{req.URL.Path, string(body)} {
				if part != "" {
					p.say(chunked(part))
				}
			}
			p.say("0\r\n\r\n")
		}
	})
	rt := transports[1].make(usual)
	t.Cleanup(rt.CloseIdleConnections)
	var clients sync.WaitGroup
	for i := range 16 {
		clients.Go(func() {
			for j := range 50 {
				path, text := strings.Repeat("/p", i+j+1), strings.Repeat("x", i*j*50)
				req := newRequest(t, http.MethodPost, b.url+path, nil)
				if text != "" {
					req.Body, req.ContentLength = bodyOf(text), int64(len(text)*(j%2))-int64(1-j%2)
				}
				res, err := rt.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || string(body) != path+text {
					t.Errorf("%v: %.20q instead of %.20q", err, body, path+text)
				}
			}
		})
	}
	clients.Wait()
}

// halfWritten takes a part of what is written, and then fails.
type halfWritten struct {
	net.Conn
	left   int
	closed chan struct{}
}

func (c *halfWritten) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	if c.left -= n; n < len(p) && err == nil {
		err = &net.OpError{Op: "write", Err: syscall.EPIPE}
	}
	return n, err
}

func (c *halfWritten) Close() error {
	close(c.closed)
	return c.Conn.Close()
}

// A request that could be written in part only may have been answered. Else the write is what
// failed; and if nothing was written, a kept connection is not the last word.
func TestTransport_HalfWritten(t *testing.T) {
	tests := map[string]struct {
		left int // bytes of the second request that can be written
		says string
		code int // 0 when a POST fails
	}{
		"nothing":      {0, "", 200},
		"part":         {10, "", 0},
		"part, closed": {10, "close", 0},
		"refused":      {10, "HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n", 408},
	}
	for name, tt := range tests {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+" of "+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var first *halfWritten
					rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
						near, far := net.Pipe()
						c := &halfWritten{near, 1 << 20, make(chan struct{})}
						if first != nil {
							go always(empty)(newPeer(far))
							return c, nil
						}
						first = c
						go func() {
							p := newPeer(far)
							p.request()
							p.say(empty)
							io.ReadFull(p.r, make([]byte, tt.left))
							if tt.says == "close" || tt.left == 0 {
								far.Close()
							} else if p.say(tt.says) == nil {
								p.gone()
							}
						}()
						return c, nil
					}}
					get(t, rt, "http://a.example")
					first.left = tt.left
					res, err := rt.RoundTrip(newRequest(t, method, "http://a.example", nil))
					want := tt.code
					if tt.says == "close" && method == http.MethodGet { // and a GET may be sent again
						want = 200
					}
					if want == 0 {
						e, ok := errors.AsType[*upstream.Error](err)
						require.True(t, ok, "%v", err)
						require.Equal(t, upstream.StageWrite, e.Stage)
					} else {
						require.NoError(t, err)
						require.Equal(t, want, res.StatusCode)
					}
					select {
					case <-first.closed:
					default:
						require.Fail(t, "half a request was written, and the connection is kept")
					}
					rt.CloseIdleConnections()
				})
			})
		}
	}
}

// A body that can be written in part only, to a target that says nothing, is not waited for.
func TestTransport_HalfWrittenBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := &halfWritten{near, 500, make(chan struct{})}
		rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
		go io.Copy(io.Discard, far)
		start := time.Now()
		_, err := rt.RoundTrip(newRequest(t, http.MethodPost, "http://a.example", bodyOf(long(1000))))
		e, ok := errors.AsType[*upstream.Error](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, upstream.StageWrite, e.Stage)
		require.Less(t, time.Since(start), 2*time.Second)
		<-c.closed
	})
}

// A context that ends while the last byte of the response comes in leaves the response whole. If
// the connection is about to be closed for that, it is not used again; but nobody listens to the
// context of a request that is over so soon.
func TestTransport_ContextEndsWithTheLastByte(t *testing.T) {
	for took, conns := range map[time.Duration]int{0: 1, time.Second: 2} {
		synctest.Test(t, func(t *testing.T) {
			dials := 0
			ctx, cancel := context.WithCancel(t.Context())
			end := func() {
				time.Sleep(took)
				cancel()
			}
			rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				dials++
				return &lastRead{tape{text: bytes.NewReader([]byte(ok + ok)), piece: len(ok)}, end}, nil
			}}
			for range 2 {
				res, err := rt.RoundTrip(newRequest(t, http.MethodGet, "http://a.example", nil).WithContext(ctx))
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, "ok", string(body))
				ctx = t.Context()
			}
			require.Equal(t, conns, dials)
			rt.CloseIdleConnections()
		})
	}
}

// lastRead tells of each Read.
type lastRead struct {
	tape
	read func()
}

func (c *lastRead) Read(p []byte) (int, error) {
	n, err := c.tape.Read(p)
	c.read()
	return n, err
}
