package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A small body behind an error page of the proxy's is read before the page is written, and the
// connection goes on.
func TestProxy_W13_SmallBodiesKeepTheirConnection(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		f.proxy.Pool, _ = newPool(t, deadTarget(t, "a"))
		c, closed := dial(t, f.Server), 0
		for range 20 {
			for _, chunked := range []bool{false, true} {
				c.send(framed("/a", "x", chunked))
				r := c.response()
				require.Equal(t, http.StatusBadGateway, r.StatusCode)
				if r.Close {
					closed++
					c = dial(t, f.Server)
				}
			}
		}
		require.Less(t, closed, 10, "it is not kept, even by a machine that stalls for 50 ms now and then")
		f.noPanic(t)
	})
}

// A target that answers at once and reads nothing, and a client that sends the rest and its next
// request in one write.
func TestProxy_W13_NextRequestBehindAnUnwantedBody(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		for i := range 20 {
			chunked := i%2 == 0
			size := []int{100, 100 << 10, 3 << 20}[i%3]
			request := framed("/deaf", strings.Repeat(smuggled, size/len(smuggled)+1), chunked)
			c := dial(t, f.Server)
			half := strings.Index(request, "\r\n\r\n") + 4 + size/3
			c.send(request[:half])
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				io.WriteString(c.Conn, request[half:]+framed("/next", "more", chunked))
			}()
			var statuses []int
			for _, r := range c.upTo(2) {
				statuses = append(statuses, r.StatusCode)
			}
			c.Conn.Close()
			<-wrote
			if size < 1<<20 {
				require.NotEmpty(t, statuses)
			}
			for _, status := range statuses[:min(1, len(statuses))] {
				require.Contains(t, []int{413, 502}, status)
			}
		}
		require.NotContains(t, f.seen.String(), "smuggled")
		f.noPanic(t)
	})
}

// upTo reads at most so many responses, and stops at the connection's end.
func (w *wire) upTo(most int) []*reply {
	var all []*reply
	for range most {
		res, err := http.ReadResponse(w.Reader, nil)
		if err != nil {
			return all
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return all
		}
		all = append(all, &reply{res, string(body)})
		if res.Close {
			return all
		}
	}
	return all
}

// An honest client that uploads slowly and is answered early gets the whole answer, is told that
// the connection ends, and nothing of its body is taken for a request.
func TestProxy_W13_EarlyAnswerToASlowUpload(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		for _, path := range []string{"/early", "/chunked"} {
			for _, chunked := range []bool{false, true} {
				c := dial(t, f.Server)
				head, pieces := slowly(path, chunked)
				c.send(head)
				for _, piece := range pieces[:len(pieces)-1] {
					time.Sleep(5 * time.Millisecond) // as a client does that has no more yet
					c.send(piece)
				}
				c.awaitAnswer()
				c.send(pieces[len(pieces)-1] + framed("/next", "x", chunked))
				all := c.replies() // only now: what it had to send has gone out
				require.Len(t, all, 1)
				if path == "/early" {
					require.Equal(t, http.StatusUnauthorized, all[0].StatusCode)
					require.Equal(t, "login", all[0].body)
				} else {
					require.Equal(t, "hello", all[0].body)
				}
				require.True(t, all[0].Close)
			}
		}
		require.NotContains(t, f.seen.String(), "smuggled")
		f.noPanic(t)
		idleMember(t, f.proxy.Pool, "a")
	})
}

// slowly is a request of some 50 KB in pieces.
func slowly(path string, chunked bool) (head string, pieces []string) {
	body := strings.Repeat(smuggled, 3)
	whole := framed(path, strings.Repeat(body, 20), chunked)
	head = whole[:strings.Index(whole, "\r\n\r\n")+4]
	for range 20 {
		if chunked {
			pieces = append(pieces, chunkOf(body))
		} else {
			pieces = append(pieces, body)
		}
	}
	if chunked {
		pieces[19] += "0\r\n\r\n"
	}
	return head, pieces
}

// unreadable are bodies that cannot be read to their end. What follows them in the same write must
// not be served.
var unreadable = map[string]string{
	"sign before the size":     "+3\r\nabc\r\n0\r\n\r\n",
	"minus":                    "-3\r\nabc\r\n0\r\n\r\n",
	"hexadecimal prefix":       "0x3\r\nabc\r\n0\r\n\r\n",
	"17 digits":                "00000000000000003\r\nabc\r\n0\r\n\r\n",
	"no size":                  "\r\nabc\r\n0\r\n\r\n",
	"not a number":             "g\r\nabc\r\n0\r\n\r\n",
	"space before the size":    " 3\r\nabc\r\n0\r\n\r\n",
	"space in the size":        "3 3\r\nabc\r\n0\r\n\r\n",
	"longer than its size":     "3\r\nabcdef\r\n0\r\n\r\n",
	"shorter than its size":    "5\r\nabc\r\n0\r\n\r\n",
	"trailer without a colon":  "3\r\nabc\r\n0\r\nX-Sum\r\n\r\n",
	"folded trailer":           "3\r\nabc\r\n0\r\n folded: 1\r\n\r\n",
	"endless trailer":          "3\r\nabc\r\n0\r\nX-Sum: " + strings.Repeat("x", 8<<10) + "\r\n\r\n",
	"chunk extension too long": "3;" + strings.Repeat("x", 8<<10) + "\r\nabc\r\n0\r\n\r\n",
	"line feed in the size":    "3\n\nabc\r\n0\r\n\r\n",
	"overflow":                 "ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
}

func TestProxy_W13_UnreadableBodiesEndTheConnection(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		for name, body := range unreadable {
			for _, path := range []string{"/pub", "/early", "/chunked", "/deaf"} {
				for _, begun := range []bool{false, true} {
					c := dial(t, f.Server)
					head := "POST " + path + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
					if begun {
						head += chunkOf("a good chunk")
					}
					c.send(head + body + "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")
					all := c.replies()
					require.Len(t, all, 1, "%s, %s", name, path)
					require.True(t, all[0].Close, "%s, %s: %d", name, path, all[0].StatusCode)
				}
			}
		}
		require.NotContains(t, f.seen.String(), "admin")
		f.noPanic(t)
	})
}

// Whatever a middleware does to the body: what is left of it is never taken for a request.
func TestProxy_W13_BodiesThatMiddlewareReplaces(t *testing.T) {
	replace := map[string]func(w http.ResponseWriter, r *http.Request) *http.Request{
		"limit": func(w http.ResponseWriter, r *http.Request) *http.Request {
			return withBody(r, http.MaxBytesReader(bare{w}, r.Body, 10))
		},
		"limit-in-place": func(w http.ResponseWriter, r *http.Request) *http.Request {
			return inPlace(r, http.MaxBytesReader(bare{w}, r.Body, 10))
		},
		"early-end":          func(_ http.ResponseWriter, r *http.Request) *http.Request { return withBody(r, endsEarly(r.Body)) },
		"early-end-in-place": func(_ http.ResponseWriter, r *http.Request) *http.Request { return inPlace(r, endsEarly(r.Body)) },
		"nothing-in-place":   func(_ http.ResponseWriter, r *http.Request) *http.Request { return inPlace(r, http.NoBody) },
		"failure": func(_ http.ResponseWriter, r *http.Request) *http.Request {
			return withBody(r, failing{r.Body, errors.New("x")})
		},
		"failure-in-place": func(_ http.ResponseWriter, r *http.Request) *http.Request {
			return inPlace(r, failing{r.Body, errors.New("x")})
		},
		"panic":          func(_ http.ResponseWriter, r *http.Request) *http.Request { return withBody(r, failing{r.Body, nil}) },
		"panic-in-place": func(_ http.ResponseWriter, r *http.Request) *http.Request { return inPlace(r, failing{r.Body, nil}) },
		"deadline": func(w http.ResponseWriter, r *http.Request) *http.Request {
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			return r
		},
		"deadline-in-the-past": func(w http.ResponseWriter, r *http.Request) *http.Request {
			http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
			return r
		},
	}
	around := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, replace[r.URL.RawQuery](w, r)) })
	}
	eachBodyFront(t, around, func(t *testing.T, f *bodyFront) {
		for name := range replace {
			for i, size := range []int{20, 4 << 10, 600 << 10} {
				path, chunked := []string{"/all", "/early", "/chunked"}[i], i%2 == 0
				c := dial(t, f.Server)
				request := framed(path+"?"+name, strings.Repeat("x", 10)+strings.Repeat(smuggled, size/len(smuggled)+1), chunked)
				c.send(request[:len(request)/2])
				wrote := make(chan struct{})
				go func() {
					defer close(wrote)
					io.WriteString(c.Conn, request[len(request)/2:])
				}()
				c.upTo(1)
				c.Conn.Close()
				<-wrote
			}
		}
		require.NotContains(t, f.seen.String(), "smuggled")
		require.NotContains(t, f.log.String(), "concurrent")
	})
}

func withBody(r *http.Request, body io.ReadCloser) *http.Request {
	r = r.WithContext(r.Context())
	r.Body = body
	return r
}

func inPlace(r *http.Request, body io.ReadCloser) *http.Request {
	r.Body = body
	return r
}

// endsEarly is a body that is shorter than it was.
func endsEarly(body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, 10), body}
}

// failing is a body that breaks after its first bytes; without an error it panics.
type failing struct {
	io.ReadCloser
	err error
}

func (f failing) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p[:min(len(p), 10)])
	if err == nil && f.err == nil {
		panic("a middleware's body")
	}
	if err == nil {
		err = f.err
	}
	return n, err
}

// The server's ReadTimeout ends a body as well, and its connection.
func TestProxy_W13_ReadTimeout(t *testing.T) {
	for _, given := range []bool{false, true} {
		for _, path := range []string{"/all", "/early", "/chunked"} {
			t.Run(fmt.Sprintf("%s, given=%v", path, given), func(t *testing.T) {
				t.Parallel()
				f := newBodyFront(t, false, given, nil, func(s *http.Server) { s.ReadTimeout = time.Second })
				c := dial(t, f.Server)
				c.send("POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nGET")
				all := c.upTo(1)
				c.Conn.Write([]byte(" /admin HTTP/1.1\r\nHost: a\r\n\r\n"))
				c.expectClosed()
				if path != "/chunked" {
					require.Len(t, all, 1)
					require.True(t, all[0].Close)
				}
				require.NotContains(t, f.seen.String(), "admin")
				f.noPanic(t)
			})
		}
	}
}

// A panic of a body ends its request, not the process, wherever it is read; and who is told learns
// what it was.
func TestProxy_W13_BodyThatPanics(t *testing.T) {
	t.Parallel() // it waits
	type change = func(p *wsproxy.Proxy)
	broken := func(b io.ReadCloser) io.ReadCloser { return failing{b, nil} }
	for name, tt := range map[string]struct {
		around func(http.Handler) http.Handler
		change change
	}{
		"middleware": {around: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, withBody(r, broken(r.Body))) })
		}},
		"Rewrite": {change: func(p *wsproxy.Proxy) {
			p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.Body = broken(pr.Out.Body) }
		}},
		"Target": {change: func(p *wsproxy.Proxy) {
			p.Target = func(out *http.Request, _ *balancer.Member) { out.Body = broken(out.Body) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			eachBodyFront(t, tt.around, func(t *testing.T, f *bodyFront) {
				told := make(chan error, 1)
				f.proxy.Trace = &wsproxy.Trace{Done: func(_ *http.Request, r wsproxy.Record) { told <- r.Err }}
				if tt.change != nil {
					tt.change(f.proxy)
				}
				c := dial(t, f.Server)
				c.send("POST /all HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkOf("0123456789abc"))
				all := c.upTo(1)
				require.Len(t, all, 1)
				require.GreaterOrEqual(t, all[0].StatusCode, 500)
				require.True(t, all[0].Close)
				require.ErrorContains(t, wait(t, told, "the end"), "a middleware's body")
				f.noPanic(t)
				idleMember(t, f.proxy.Pool, "a")
			})
		})
	}
}

// A hook that panics takes its connection with it, unless a middleware answers for it; the body is
// nobody's request.
func TestProxy_W13_HooksThatPanic(t *testing.T) {
	around := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if v := recover(); v != nil && r.URL.Query().Has("recovered") {
					w.WriteHeader(http.StatusInternalServerError)
				} else if v != nil {
					panic(http.ErrAbortHandler)
				}
			}()
			h.ServeHTTP(w, r)
		})
	}
	eachBodyFront(t, around, func(t *testing.T, f *bodyFront) {
		hooks := panicking(f.proxy)
		for i, hook := range append(hooks, "none") {
			for _, more := range []string{"", "&recovered"} {
				for _, n := range []int{1, 300, 1500} {
					c := dial(t, f.Server)
					request := framed("/early?panic="+hook+more, strings.Repeat(smuggled, n), i%2 == 0)
					c.send(request[:200])
					wrote := make(chan struct{})
					go func() {
						defer close(wrote)
						io.WriteString(c.Conn, request[200:])
					}()
					c.upTo(1)
					c.Conn.Close()
					<-wrote
				}
			}
		}
		require.NotContains(t, f.seen.String(), "smuggled")
		f.noPanic(t)
		idleMember(t, f.proxy.Pool, "a")
	})
}

// panicking gives a proxy hooks that panic if the request's query names them, and returns their
// names.
func panicking(p *wsproxy.Proxy) []string {
	boom := func(r *http.Request, hook string) {
		if r.URL.Query().Get("panic") == hook {
			panic("hook")
		}
	}
	p.Rewrite = func(pr *httputil.ProxyRequest) { boom(pr.In, "Rewrite") }
	p.Target = func(out *http.Request, _ *balancer.Member) { boom(out, "Target") }
	p.Key = func(r *http.Request) string {
		boom(r, "Key")
		return ""
	}
	p.Policy = panickingPolicy(boom)
	p.OnMiss = func(r *http.Request, _ string, _ error) wsproxy.Miss {
		boom(r, "OnMiss")
		return wsproxy.Fail
	}
	p.ErrorPage = func(_ http.ResponseWriter, r *http.Request, _ *wsproxy.Error) { boom(r, "ErrorPage") } // else it is silent
	p.Trace = &wsproxy.Trace{
		Pick:    func(r *http.Request, _ *balancer.Member, _ error) { boom(r, "Pick") },
		Attempt: func(r *http.Request, _ wsproxy.Attempt) { boom(r, "Attempt") },
		Done:    func(r *http.Request, _ wsproxy.Record) { boom(r, "Done") },
	}
	return []string{"Rewrite", "Target", "Key", "Lookup", "Bind", "OnMiss", "ErrorPage", "silent", "Pick", "Attempt", "Done"}
}

type panickingPolicy func(r *http.Request, hook string)

func (p panickingPolicy) Lookup(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	p(r, "Lookup")
	switch r.URL.Query().Get("panic") {
	case "OnMiss", "ErrorPage", "silent":
		found = append(found, stickiness.Candidate{Target: "gone"})
	}
	return found
}

func (p panickingPolicy) Bind(b *stickiness.Binding) { p(b.Request, "Bind") }

// A counting body knows whether it is read after the handler has returned.
type countingBody struct {
	io.ReadCloser
	under atomic.Int64
	over  atomic.Bool
	late  atomic.Bool
}

func (b *countingBody) Read(p []byte) (int, error) {
	b.under.Add(1)
	defer b.under.Add(-1)
	if b.over.Load() {
		b.late.Store(true)
	}
	return b.ReadCloser.Read(p)
}

// Nobody reads a request's body after ServeHTTP has returned, whatever the client and the target
// do.
func TestProxy_W13_NobodyReadsAfterServeHTTP(t *testing.T) {
	served := make(chan *countingBody, 1)
	around := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := &countingBody{ReadCloser: r.Body}
			defer func() {
				body.over.Store(true)
				if body.under.Load() > 0 {
					body.late.Store(true)
				}
				served <- body
			}()
			h.ServeHTTP(w, withBody(r, body))
		})
	}
	eachBodyFront(t, around, func(t *testing.T, f *bodyFront) {
		for _, path := range []string{"/early", "/chunked", "/deaf"} {
			for _, chunked := range []bool{false, true} {
				c := dial(t, f.Server)
				head, pieces := slowly(path, chunked)
				c.send(head + pieces[0])
				c.upTo(1) // and the client is silent then
				if path != "/chunked" {
					c.Conn.Close()
				}
				require.False(t, wait(t, served, "the handler").late.Load(), path)
			}
		}
	})
}

// What the server has begun to say reaches a client that still sends, and so does what comes after;
// through a middleware that limits bodies, too.
func TestProxy_W13_BothWaysAtOnce(t *testing.T) {
	t.Parallel() // it waits
	limits := func(h http.Handler) http.Handler { return http.MaxBytesHandler(h, 1<<20) }
	for name, around := range map[string]func(http.Handler) http.Handler{"bare": nil, "limited": limits} {
		t.Run(name, func(t *testing.T) {
			eachBodyFront(t, around, func(t *testing.T, f *bodyFront) {
				f.proxy.Pool, _ = newPool(t, rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, req *http.Request) {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
					buf := make([]byte, 100)
					for {
						n, err := req.Body.Read(buf)
						if n > 0 {
							io.WriteString(conn, chunkOf(string(buf[:n])))
						}
						if err != nil {
							io.WriteString(conn, "0\r\n\r\n")
							return
						}
					}
				}))
				c := dial(t, f.Server)
				c.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
				res := c.head()
				require.Equal(t, 200, res.StatusCode)
				for range 20 {
					c.send(chunkOf("hello"))
					got := make([]byte, 5)
					_, err := io.ReadFull(res.Body, got)
					require.NoError(t, err)
					require.Equal(t, "hello", string(got))
				}
				c.send("0\r\n\r\n")
				rest, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Empty(t, rest)
				c.expectClosed()
				f.noPanic(t)
			})
		})
	}
}

// The end of a response reaches a client that never ends its request, and soon: long before the
// proxy gives it up.
func TestProxy_W13_EndOfResponseToASilentClient(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		for _, path := range []string{"/early", "/chunked"} {
			c := dial(t, f.Server)
			c.send("POST " + path + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkOf("hello"))
			r := c.response()
			require.True(t, r.Close)
			idleMember(t, f.proxy.Pool, "a") // the target is free, while the client may take its time
			c.Conn.Close()
		}
	})
}

// A client that sends everything before it reads gets the whole response: the connection is not
// reset under it.
func TestProxy_W13_AnswerSurvivesWhatComesLate(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		for _, path := range []string{"/early", "/deaf", "/chunked"} {
			for _, version := range []string{"1.1", "1.0"} {
				c := dial(t, f.Server)
				c.send(fmt.Sprintf("POST %s HTTP/%s\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n", path, version, 10*(60<<10)))
				for range 9 {
					c.send(strings.Repeat("x", 60<<10))
					time.Sleep(5 * time.Millisecond) // as a client does that has no more yet
				}
				c.awaitAnswer()
				c.send(strings.Repeat("x", 60<<10))
				all := c.replies()
				require.Len(t, all, 1, path)
				require.True(t, all[0].Close)
				require.NotEmpty(t, all[0].body)
			}
		}
	})
}

// A refused CONNECT ends the connection, as what an optimistic client has sent behind it is no
// request.
func TestProxy_W13_RefusedConnectCloses(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		for _, head := range []string{
			"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
			"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nContent-Length: 3\r\n\r\nabc",
			"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nConnection: keep-alive\r\n\r\n",
			"CONNECT a.example:443 HTTP/1.0\r\nHost: a.example:443\r\nConnection: keep-alive\r\n\r\n",
			"CONNECT /path HTTP/1.1\r\nHost: a\r\n\r\n",
		} {
			c := dial(t, f.Server)
			c.send(head + "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")
			all := c.replies()
			require.Len(t, all, 1, head)
			require.Equal(t, http.StatusMethodNotAllowed, all[0].StatusCode)
			require.True(t, all[0].Close, head)
		}
		require.Empty(t, f.seen.String())
	})
}

// Refusals of the proxy's own obey the rule as well.
func TestProxy_W13_Refusals(t *testing.T) {
	for name, tt := range map[string]struct {
		lines  string
		status int
	}{
		"upgrade with a body": {"POST /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 400},
		"asterisk":            {"POST * HTTP/1.1\r\nHost: a\r\n", 400},
		"opaque target":       {"POST x:secret HTTP/1.1\r\nHost: a\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newBodyFront(t, false, false, nil, nil)
			small, closed := dial(t, f.Server), 0
			for range 10 {
				small.send(tt.lines + "Content-Length: 3\r\n\r\nabc")
				r := small.response()
				require.Equal(t, tt.status, r.StatusCode)
				if r.Close {
					closed++
					small = dial(t, f.Server)
				}
			}
			require.Less(t, closed, 5, "it is not kept, even by a machine that stalls for 50 ms now and then")
			large := dial(t, f.Server)
			large.send(tt.lines + "Content-Length: 100000\r\n\r\n" + smuggled)
			all := large.upTo(2)
			require.Len(t, all, 1)
			require.Equal(t, tt.status, all[0].StatusCode)
			require.True(t, all[0].Close)
			large.Conn.Close()
			require.Empty(t, f.seen.String())
		})
	}
}

// A body that waits for a 100 is not asked for by an answer that has no use for it, and its
// connection ends.
func TestProxy_W13_BodyThatNobodyAskedFor(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		f.proxy.Pool, _ = newPool(t, deadTarget(t, "a"))
		for _, framing := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
			c := dial(t, f.Server)
			c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + framing + "\r\n\r\n")
			r := c.response()
			require.Equal(t, http.StatusBadGateway, r.StatusCode)
			require.True(t, r.Close)
			c.Conn.Close()
		}
	})
}

// The rule holds with targets of https, and behind a middleware's writer that gives no access to
// the server's.
func TestProxy_W13_EarlyAnswersElsewhere(t *testing.T) {
	t.Parallel() // it waits
	hides := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(bare{w}, r) })
	}
	for name, around := range map[string]func(http.Handler) http.Handler{"https": nil, "no Unwrap": hides} {
		t.Run(name, func(t *testing.T) {
			eachBodyFront(t, around, func(t *testing.T, f *bodyFront) {
				if name == "https" {
					server, client := serverTLS(t)
					f.proxy.Pool, _ = newPool(t, rawBackendTLS(t, "a", server, f.answersBodies))
					if own, ok := f.proxy.Transport.(*http.Transport); ok {
						own.TLSClientConfig = client
					} else {
						f.proxy.BackendTLS = client
					}
				}
				for _, chunked := range []bool{false, true} {
					kept := dial(t, f.Server)
					for range 3 {
						kept.send(framed("/all", "hello", chunked))
						require.False(t, kept.response().Close)
					}
					for path, status := range map[string]int{"/early": 401, "/chunked": 200, "/deaf": 413} {
						c := dial(t, f.Server)
						head, pieces := slowly(path, chunked)
						c.send(head + pieces[0])
						time.Sleep(100 * time.Millisecond) // longer than the rest of a body is waited for
						c.send(strings.Join(pieces[1:], "") + framed("/next", "x", chunked))
						all := c.upTo(2)
						require.NotEmpty(t, all, path)
						// http.Transport misses an answer when a write to a target that does not
						// read fails first.
						over := name == "https" || f.proxy.Transport != nil
						if !over || path != "/deaf" || all[0].StatusCode != http.StatusBadGateway {
							require.Equal(t, status, all[0].StatusCode)
						}
						require.Equal(t, all[0].Close, len(all) == 1) // a machine that was slow may have had it all in time
					}
				}
				require.NotContains(t, f.seen.String(), "smuggled")
				f.noPanic(t)
				idleMember(t, f.proxy.Pool, "a")
			})
		})
	}
}

// A target that says nothing in time, with a body under way: the client hears of it, and nothing is
// taken for a request.
func TestProxy_W13_NoAnswerInTime(t *testing.T) {
	t.Parallel() // it waits
	f := newBodyFront(t, false, false, nil, nil)
	asked := make(chan struct{}, 2)
	f.proxy.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		asked <- struct{}{}
		go func() {
			defer r.Body.Close()
			io.Copy(io.Discard, r.Body) // as http.Transport goes on when the limit has passed
		}()
		return nil, &net.OpError{Op: "read", Err: context.DeadlineExceeded}
	})
	for _, chunked := range []bool{false, true} {
		c := dial(t, f.Server)
		head, pieces := slowly("/", chunked)
		c.send(head + pieces[0])
		wait(t, asked, "the attempt")
		c.send(strings.Join(pieces[1:19], ""))
		time.Sleep(100 * time.Millisecond) // longer than the rest of a body is waited for
		c.send(pieces[19] + framed("/next", "x", chunked))
		all := c.upTo(1)
		require.Len(t, all, 1)
		require.Equal(t, http.StatusGatewayTimeout, all[0].StatusCode)
		require.Equal(t, "Gateway Timeout\n", all[0].body)
		c.Conn.Close()
	}
	idleMember(t, f.proxy.Pool, "a")
	f.noPanic(t)
}

// An error page tells its length, so that a client which still sends need not wait for the end of
// the connection.
func TestProxy_W13_ErrorPageTellsItsLength(t *testing.T) {
	eachBodyFront(t, nil, func(t *testing.T, f *bodyFront) {
		f.proxy.Pool, _ = newPool(t, deadTarget(t, "a"))
		c := dial(t, f.Server)
		for _, method := range []string{"GET", "HEAD"} {
			c.send(method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
			res, err := http.ReadResponse(c.Reader, &http.Request{Method: method})
			require.NoError(t, err)
			require.EqualValues(t, len("Bad Gateway\n"), res.ContentLength, method)
			_, err = io.ReadAll(res.Body)
			require.NoError(t, err)
		}
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhello")
		r := c.response()
		require.EqualValues(t, len("Bad Gateway\n"), r.ContentLength)
		require.Equal(t, "Bad Gateway\n", r.body)
		require.True(t, r.Close)
		c.Conn.Close()
	})
}

// http.Server.Shutdown waits for no client that sends without an end.
func TestProxy_W13_ShutdownWhileDropping(t *testing.T) {
	t.Parallel() // it waits
	f := newBodyFront(t, false, false, nil, nil)
	c := dial(t, f.Server)
	c.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhello")
	require.Equal(t, http.StatusUnauthorized, c.response().StatusCode)
	idleMember(t, f.proxy.Pool, "a")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, f.proxy.Shutdown(ctx))
	require.NoError(t, f.Config.Shutdown(ctx))
}

// A body that never returns from Read, and a writer that knows no deadlines: the handler returns
// all the same.
func TestProxy_W13_ReadThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		p := &wsproxy.Proxy{Pool: ordered(t, "a"), Logger: noLog}
		p.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			go io.Copy(io.Discard, r.Body)
			return &http.Response{StatusCode: 401, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		})
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/", readerFunc(func([]byte) (int, error) {
			<-stuck
			return 0, io.EOF
		}))
		began := time.Now()
		p.ServeHTTP(w, r)
		require.Equal(t, 401, w.Code)
		require.Equal(t, "close", w.Header().Get("Connection"))
		require.Less(t, time.Since(began), 10*time.Second)
		close(stuck)
	})
}

// Clients that do as they like with bodies that nobody wants leave nothing behind.
func TestProxy_W13_UnreadBodiesLeaveNothing(t *testing.T) {
	kinds := make(map[string]func(testing.TB))
	for _, given := range []bool{false, true} {
		f := newBodyFront(t, false, given, nil, nil)
		for i, path := range []string{"/early", "/chunked", "/deaf", "/all"} {
			kinds[fmt.Sprint(path, given)] = func(t testing.TB) {
				c := dialOnce(t, f.Server)
				head, pieces := slowly(path, given == (i%2 == 0))
				c.send(head + pieces[0])
				if path != "/all" {
					c.upTo(1)
				} else {
					c.Conn.(*net.TCPConn).SetLinger(0)
				}
				c.Conn.Close()
			}
		}
	}
	leavesNothing(t, 1, kinds) // net/http waits for half a second before it closes the connection
}

// A stream of HTTP/2 whose body nobody wants ends alone, with NO_ERROR, and the connection serves
// the next one.
func TestProxy_W13_HTTP2StreamsEndAlone(t *testing.T) {
	f := newBodyFront(t, false, false, nil, nil)
	srv := serveTLS(t, f.proxy)
	w := dialFrames(t, srv)
	for i, path := range []string{"/early", "/chunked", "/deaf"} {
		id := uint32(2*i + 1)
		w.post(id, path)
		for ended := false; ; {
			frame, err := w.ReadFrame()
			require.NoError(t, err)
			if frame.Header().StreamID != id {
				continue
			}
			if reset, ok := frame.(*http2.RSTStreamFrame); ok {
				require.Equal(t, http2.ErrCodeNo, reset.ErrCode)
				require.True(t, ended, "the response comes first")
				break
			}
			ended = ended || frame.Header().Flags.Has(http2.FlagDataEndStream)
		}
	}
	idleMember(t, f.proxy.Pool, "a")
}

// An http.Client of Go that uploads slowly and is answered early loses no request, neither that one
// nor the next.
func TestProxy_W13_HonestUploadsLoseNothing(t *testing.T) {
	for _, given := range []bool{false, true} {
		f := newBodyFront(t, false, given, nil, nil)
		var running sync.WaitGroup
		for worker := range 20 {
			c := newClient(t, f.Server)
			running.Go(func() {
				for i := range 5 {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+"/early", drip(10, 5<<10))
					if err != nil || worker%2 == 0 {
						req.ContentLength = 50 << 10
					}
					res, err := c.Do(req)
					if err != nil || res.StatusCode != http.StatusUnauthorized {
						t.Errorf("upload %d: %v, %v", i, res, err)
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res, err = c.Post(c.url+"/next", "text/plain", strings.NewReader("next")); err != nil || res.StatusCode != 200 {
						t.Errorf("next %d: %v, %v", i, res, err)
						return
					}
					res.Body.Close()
				}
			})
		}
		running.Wait()
		f.noPanic(t)
	}
}

// drip is a body that comes in pieces.
func drip(pieces, size int) io.Reader {
	return io.LimitReader(readerFunc(func(p []byte) (int, error) {
		time.Sleep(5 * time.Millisecond)
		p = p[:min(len(p), size)]
		clear(p)
		return len(p), nil
	}), int64(pieces*size))
}

// post begins a request with a body on a stream of its own, and does not end it.
func (w *h2Wire) post(id uint32, path string) {
	w.t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", path}, {":authority", "app.example"}} {
		require.NoError(w.t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	require.NoError(w.t, w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}))
	require.NoError(w.t, w.WriteData(id, false, []byte("hello")))
}
