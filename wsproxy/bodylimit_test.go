package wsproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
)

// limited is http.MaxBytesHandler, with a header of its own in each response.
func limited(n int64) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		named := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Middleware", "m")
			h.ServeHTTP(w, r)
		})
		return http.MaxBytesHandler(named, n)
	}
}

// A client passes a middleware's limit in the moment in which the target answers. net/http then
// writes to the header map that the handler uses, which must end neither the process nor be seen by
// the race detector.
func TestProxy_W13_LimitPassedWhileTheAnswerBegins(t *testing.T) {
	t.Parallel() // it waits
	for name, around := range map[string]func(http.Handler) http.Handler{
		"one":     limited(100),
		"in each": func(h http.Handler) http.Handler { return limited(100)(limited(200)(h)) },
	} {
		t.Run(name, func(t *testing.T) {
			eachBodyFront(t, around, func(t *testing.T, f *bodyFront) {
				f.proxy.Pool, _ = newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
					io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+early401)
					io.Copy(io.Discard, req.Body)
				}))
				var running sync.WaitGroup
				for worker := range 8 {
					running.Go(func() {
						for i := range 10 {
							c := dial(t, f.Server)
							head := "POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
							c.Conn.Write([]byte(head + chunkOf(strings.Repeat("x", 100))))
							for range (worker*10 + i) * 20 { // some time
								runtime.Gosched()
							}
							c.Conn.Write([]byte(chunkOf("more") + "0\r\n\r\n"))
							c.upTo(2)
							c.Conn.Close()
						}
					})
				}
				running.Wait()
				f.noPanic(t)
			})
		})
	}
}

// A body that is as long as a limit of middleware allows is read to its end, whatever it waits for
// meanwhile.
func TestProxy_W13_LimitThatIsReached(t *testing.T) {
	eachBodyFront(t, limited(100), func(t *testing.T, f *bodyFront) {
		full := strings.Repeat("x", 100)
		c := dial(t, f.Server)
		for range 3 {
			for _, chunked := range []bool{false, true} {
				for _, path := range []string{"/all", "/early"} {
					c.send(framed(path, full, chunked))
					r := c.response()
					require.Equal(t, map[string]int{"/all": 200, "/early": 401}[path], r.StatusCode)
					require.False(t, r.Close)
					require.Equal(t, []string{"m"}, r.Header["X-Middleware"])
				}
			}
		}
		c.send(framed("/all", full+"x", true)) // too long
		r := c.response()
		require.Equal(t, http.StatusRequestEntityTooLarge, r.StatusCode)
		require.True(t, r.Close)
		require.Equal(t, []string{"m"}, r.Header["X-Middleware"])

		silent := dial(t, f.Server) // neither more nor the end
		silent.send("POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkOf(full))
		r = silent.response()
		require.Equal(t, http.StatusUnauthorized, r.StatusCode)
		require.Equal(t, "login", r.body)
		require.True(t, r.Close)
		silent.expectClosed()
		f.noPanic(t)
	})
}

// The end of such a body reaches a target that has begun to answer before, and both have the whole.
func TestProxy_W13_LimitThatIsReachedBothWays(t *testing.T) {
	eachBodyFront(t, limited(100), func(t *testing.T, f *bodyFront) {
		f.proxy.Pool, _ = newPool(t, rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, req *http.Request) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkOf("begun"))
			body, err := io.ReadAll(req.Body)
			if err == nil {
				io.WriteString(conn, chunkOf(string(body))+"0\r\n\r\n")
			}
		}))
		c := dial(t, f.Server)
		c.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkOf("hello"))
		res := c.head()
		got := make([]byte, 5)
		_, err := io.ReadFull(res.Body, got)
		require.NoError(t, err)
		c.send(chunkOf(strings.Repeat("x", 95)))
		c.send("0\r\n\r\n")
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "hello"+strings.Repeat("x", 95), string(rest))
		f.noPanic(t)
	})
}

// A 1xx shows none of a middleware's header, the final response all, and so does what a middleware
// says when a hook has panicked.
func TestProxy_W13_LimitKeepsHeaders(t *testing.T) {
	recovers := func(h http.Handler) http.Handler {
		return limited(100)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if recover() != nil {
					w.WriteHeader(http.StatusInternalServerError)
				}
			}()
			h.ServeHTTP(w, r)
		}))
	}
	eachBodyFront(t, recovers, func(t *testing.T, f *bodyFront) {
		f.proxy.Pool, _ = newPool(t, rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, req *http.Request) {
			io.Copy(io.Discard, req.Body)
			io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nX-Target: t\r\n\r\n")
		}))
		f.proxy.Policy = panicsInBind{}
		c := dial(t, f.Server)
		c.send(framed("/", "hello", true))
		hint := c.head()
		require.Equal(t, 103, hint.StatusCode)
		require.Equal(t, http.Header{"Link": {"</a>"}}, hint.Header)
		r := c.response()
		require.Equal(t, 200, r.StatusCode)
		require.Equal(t, "m", r.Header.Get("X-Middleware"))
		require.Equal(t, "t", r.Header.Get("X-Target"))
		require.Empty(t, r.Header.Get("Link"))

		c.send(framed("/panic", "hello", true))
		require.Equal(t, 103, c.head().StatusCode)
		r = c.response()
		require.Equal(t, 500, r.StatusCode)
		f.noPanic(t)
	})
}

// panicsInBind is a policy whose Bind panics for /panic.
type panicsInBind struct{}

func (panicsInBind) Lookup(*http.Request, []stickiness.Candidate) []stickiness.Candidate { return nil }

func (panicsInBind) Bind(b *stickiness.Binding) {
	if b.Request.URL.Path == "/panic" {
		panic("Bind")
	}
}
