package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A proxying makes a handler that passes requests on to a target.
type proxying func(t testing.TB, tgt balancer.Target) http.Handler

// reverseProxy is the yardstick: what the standard library does, set up as one would to replace a
// Proxy.
func reverseProxy(t testing.TB, tgt balancer.Target) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy, transport.DisableCompression = nil, true
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(tgt.URL)
			pr.SetXForwarded()
			pr.Out.Host = pr.In.Host
		},
		Transport:     transport,
		FlushInterval: -1,
		BufferPool:    &buffers{},
		ErrorLog:      discardLog,
	}
}

// buffers is a httputil.BufferPool.
type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.Pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.Pool.Put((*[32 << 10]byte)(p)) }

func plainProxy(t testing.TB, tgt balancer.Target) http.Handler {
	pool, _ := newPool(t, tgt)
	return &wsproxy.Proxy{Pool: pool}
}

// stickyProxy has everything on that stands in the way of a response.
func stickyProxy(t testing.TB, tgt balancer.Target) http.Handler {
	pool, _ := newPool(t, tgt)
	return &wsproxy.Proxy{
		Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
		Retry: wsproxy.Retry{Idempotent: true, Buffer: 100},
		Trace: wsproxy.LogAccess(noLog, nil),
	}
}

var proxyings = map[string]proxying{"ReverseProxy": reverseProxy, "Proxy": plainProxy, "sticky Proxy": stickyProxy}

// alike runs a test with a bare ReverseProxy and with proxies, behind a plain and a TLS front. A
// front that is TLS speaks HTTP/2 to a client that does.
func alike(t *testing.T, test func(t *testing.T, serve func(balancer.Target) *httptest.Server, tls bool)) {
	for name, build := range proxyings {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool) {
				test(t, func(tgt balancer.Target) *httptest.Server { return front(t, build(t, tgt)) }, tls)
			})
		})
	}
}

func TestParity_RequestHeaders(t *testing.T) {
	alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
		b := newBackend(t, "a", nil)
		c := dial(t, serve(b.target()))
		c.send("GET / HTTP/1.1\r\nHost: app.example:8080\r\nConnection: X-Hop, keep-alive\r\nConnection: x-other\r\n" +
			"X-Hop: 1\r\nX-Other: 1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\n" +
			"Proxy-Authenticate: Basic\r\nTe: trailers, deflate\r\nTrailer: X-Late\r\nX-Own: 1\r\nX-Own: 2\r\nUser-Agent: me\r\n" +
			"Accept-Encoding: gzip\r\n\r\n")
		require.Equal(t, http.StatusOK, c.response().StatusCode)
		got := b.request()
		require.Equal(t, "app.example:8080", got.Host)
		want := http.Header{
			"X-Own": {"1", "2"}, "User-Agent": {"me"}, "Accept-Encoding": {"gzip"}, "Te": {"trailers"},
			"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"app.example:8080"}, "X-Forwarded-Proto": got.Header["X-Forwarded-Proto"],
		}
		delete(got.Header, "X-Forwarded-Port") // which ReverseProxy does not write
		require.Equal(t, want, got.Header)
	})
}

// Most headers name nothing in Connection. Those go another way through a Proxy than the ones
// above.
func TestParity_RequestHeadersWithoutNames(t *testing.T) {
	for _, connection := range []string{"", "Connection: keep-alive\r\n", "Connection: Keep-Alive\r\n", "Connection: keep-alive\r\nConnection: \r\n"} {
		alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
			b := newBackend(t, "a", nil)
			c := dial(t, serve(b.target()))
			c.send("GET / HTTP/1.1\r\nHost: app.example:8080\r\n" + connection +
				"Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nProxy-Authenticate: Basic\r\n" +
				"Trailer: X-Late\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a\r\n" +
				"X-Forwarded-Proto: b\r\nx-own: 1\r\nX-Own: 2\r\nX-None:\r\nUser-Agent: me\r\n\r\n")
			require.Equal(t, http.StatusOK, c.response().StatusCode)
			got := b.header()
			want := http.Header{
				"X-Own": {"1", "2"}, "X-None": {""}, "User-Agent": {"me"},
				"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"app.example:8080"}, "X-Forwarded-Proto": got["X-Forwarded-Proto"],
			}
			delete(got, "X-Forwarded-Port") // which ReverseProxy does not write
			require.Equal(t, want, got)
		})
	}
}

func TestParity_NoUserAgentIsInvented(t *testing.T) {
	alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
		b := newBackend(t, "a", nil)
		c := dial(t, serve(b.target()))
		c.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
		c.response()
		for _, name := range []string{"User-Agent", "Accept-Encoding", "Cookie"} {
			require.NotContains(t, b.header(), name)
		}
	})
}

func TestParity_ResponseHeaders(t *testing.T) {
	alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
		c := newClient(t, serve(rawBackend(t, "a", answering("HTTP/1.1 299 Own Words\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"+
			"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\nTe: x\r\nUpgrade: h2c\r\n"+
			"X-Own: 1\r\nX-Own: 2\r\nSet-Cookie: of=backend\r\nContent-Type: text/odd\r\nContent-Length: 4\r\n"+
			"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: mine\r\n\r\nbody"))))
		r := c.get("/")
		require.Equal(t, 299, r.StatusCode)
		require.Equal(t, "body", r.body)
		delete(r.Header, "Cache-Control") // a sticky response has one
		require.Equal(t, "of=backend", r.Header["Set-Cookie"][0])
		delete(r.Header, "Set-Cookie")
		require.Equal(t, http.Header{
			"X-Own": {"1", "2"}, "Content-Type": {"text/odd"}, "Content-Length": {"4"},
			"Date": {"Thu, 01 Jan 1970 00:00:00 GMT"}, "Server": {"mine"},
		}, r.Header)
	})
}

// So do most headers of responses, which then meet those of middleware.
func TestParity_ResponseHeadersWithoutNames(t *testing.T) {
	for _, connection := range []string{"", "Connection: keep-alive\r\n"} {
		for name, build := range proxyings {
			t.Run(name, func(t *testing.T) {
				tgt := rawBackend(t, "a", closing("HTTP/1.1 200 OK\r\n"+connection+
					"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n"+
					"X-Own: 1\r\nx-own: 2\r\nX-Both: target\r\nX-Nil: target\r\nContent-Length: 4\r\n\r\nbody"))
				h := build(t, tgt)
				srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header()["X-Both"] = append(make([]string, 0, 8), "middleware")
					w.Header()["X-Nil"], w.Header()["Date"], w.Header()["Content-Type"] = nil, nil, nil
					h.ServeHTTP(w, r)
				}))
				c := newClient(t, srv)
				r := c.get("/")
				require.Equal(t, "body", r.body)
				delete(r.Header, "Cache-Control") // a sticky response has one
				delete(r.Header, "Set-Cookie")
				require.Equal(t, http.Header{
					"X-Own": {"1", "2"}, "X-Both": {"middleware", "target"}, "X-Nil": {"target"}, "Content-Length": {"4"},
				}, r.Header)
			})
		}
	}
}

func TestParity_ResponseTrailers(t *testing.T) {
	tests := map[string]struct {
		handler http.HandlerFunc
		body    string
	}{
		"announced": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum, X-Unused")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		}, "body"},
		"late": {func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			w.Header().Set(http.TrailerPrefix+"X-Sum", "42")
		}, "body"},
		"announced, no body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "42")
		}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
				r := newClient(t, serve(newBackend(t, "a", tt.handler).target())).get("/")
				require.Equal(t, tt.body, r.body)
				require.Equal(t, []string{"42"}, r.Trailer["X-Sum"])
				require.NotContains(t, r.Header, "X-Sum")
			})
		})
	}
}

// Each part of a body reaches the client before the next one is sent.
func TestParity_Streaming(t *testing.T) {
	parts := []string{"one", "two", "three"}
	read := make(chan struct{})
	drip := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		for _, part := range parts {
			select {
			case <-read:
			case <-r.Context().Done():
				return
			}
			io.WriteString(w, part)
			w.(http.Flusher).Flush()
		}
	}
	kinds := map[string]http.Header{
		"unknown length":     {},
		"server-sent events": {"Content-Type": {"text/event-stream; charset=utf-8"}},
		"known length":       {"Content-Length": {fmt.Sprint(len(strings.Join(parts, "")))}},
	}
	for name, header := range kinds {
		t.Run(name, func(t *testing.T) {
			alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
				c := newClient(t, serve(newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
					maps.Copy(w.Header(), header)
					drip(w, r)
				}).target()))
				res, err := c.Get(c.url) // comes before the first part
				require.NoError(t, err)
				defer res.Body.Close()
				require.Equal(t, header.Get("Content-Length"), res.Header.Get("Content-Length"))
				for _, part := range parts {
					read <- struct{}{}
					got := make([]byte, len(part))
					_, err := io.ReadFull(res.Body, got)
					require.NoError(t, err)
					require.Equal(t, part, string(got))
				}
				rest, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Empty(t, rest)
			})
		})
	}
}

func TestParity_CancellationReachesTheBackend(t *testing.T) {
	t.Parallel() // it waits
	tests := map[string]struct {
		body    bool
		handler http.HandlerFunc // until the client shall leave
	}{
		"before the header": {false, func(http.ResponseWriter, *http.Request) {}},
		"within the response": {false, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
		}},
		"within the request": {true, func(_ http.ResponseWriter, r *http.Request) { io.ReadFull(r.Body, make([]byte, 4)) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
				asked, gone := make(chan struct{}), make(chan struct{})
				b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
					tt.handler(w, r)
					close(asked)
					if r.ContentLength != 0 {
						_, err := io.Copy(io.Discard, r.Body)
						require.Error(t, err)
					} else {
						<-r.Context().Done()
					}
					close(gone)
				})
				c := newClient(t, serve(b.target()))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var body io.Reader
				in, out := io.Pipe()
				if tt.body {
					go io.WriteString(out, "part") // and no more
					body = in
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, body)
				require.NoError(t, err)
				over := make(chan error, 1)
				go func() {
					res, err := c.Do(req)
					if err == nil {
						_, err = io.ReadAll(res.Body)
						res.Body.Close()
					}
					over <- err
				}()
				wait(t, asked, "request at the backend")
				cancel()
				wait(t, gone, "the end at the backend")
				in.Close() // http.Transport waits for whoever reads the body
				require.ErrorIs(t, wait(t, over, "the client's end"), context.Canceled)
			})
		})
	}
}

func TestParity_ExpectContinue(t *testing.T) {
	t.Parallel() // it waits
	const request = "POST / HTTP/1.1\r\nHost: app.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
		t.Run("continue", func(t *testing.T) {
			c := dial(t, serve(newBackend(t, "a", echo).target()))
			c.send(request)
			require.Equal(t, http.StatusContinue, c.head().StatusCode)
			c.send("body")
			r := c.final()
			require.Equal(t, http.StatusOK, r.StatusCode)
			require.Equal(t, "body", r.body)
		})
		t.Run("refused unread", func(t *testing.T) {
			b := newBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
			srv := serve(b.target())
			ask := func() (status int, took time.Duration) {
				start := time.Now()
				c := dial(t, srv)
				c.send(request)
				return c.head().StatusCode, time.Since(start)
			}
			status, took := ask()
			for status == http.StatusContinue && took >= time.Second { // the proxy waits no longer for a slow machine
				status, took = ask()
			}
			require.Equal(t, http.StatusForbidden, status, "with no 100 before")
		})
	})
}

func TestParity_SeveralInformationalResponses(t *testing.T) {
	alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
		c := newClient(t, serve(newBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 3 {
				w.Header().Set("Link", fmt.Sprintf("</%d.css>", i))
				w.WriteHeader(http.StatusEarlyHints)
			}
			w.Header().Del("Link")
			w.WriteHeader(http.StatusProcessing)
			w.Header().Set("X-Final", "yes")
			w.WriteHeader(http.StatusAccepted)
			io.WriteString(w, "body")
		}).target()))
		var seen []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				seen = append(seen, fmt.Sprint(code, h.Get("Link"), h.Get("X-Final")))
				return nil
			},
		})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
		require.NoError(t, err)
		r := c.send(req)
		require.Equal(t, []string{"103</0.css>", "103</1.css>", "103</2.css>", "102"}, seen)
		require.Equal(t, http.StatusAccepted, r.StatusCode)
		require.Equal(t, "yes", r.Header.Get("X-Final"))
		require.NotContains(t, r.Header, "Link")
		require.Equal(t, "body", r.body)
	})
}

// A body that breaks off must not look complete.
func TestParity_TruncatedBody(t *testing.T) {
	for name, head := range map[string]string{
		"known length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
		"chunked":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
				c := newClient(t, serve(rawBackend(t, "a", closing(head))))
				res, err := c.Get(c.url)
				if err == nil { // the header went out before the end was seen
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				require.Error(t, err)
			})
		})
	}
}

func TestParity_BodyBreaksOffLate(t *testing.T) {
	for name, head := range map[string]string{
		"known length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
		"chunked":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
				leave := make(chan struct{})
				c := newClient(t, serve(rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
					io.WriteString(conn, head)
					<-leave
				})))
				res, err := c.Get(c.url)
				require.NoError(t, err)
				defer res.Body.Close()
				got := make([]byte, 5)
				_, err = io.ReadFull(res.Body, got)
				require.NoError(t, err)
				require.Equal(t, "12345", string(got))
				close(leave)
				_, err = io.ReadAll(res.Body)
				require.Error(t, err)
			})
		})
	}
}

func TestParity_HandlerPanicsForATruncatedBody(t *testing.T) {
	for name, build := range proxyings {
		t.Run(name, func(t *testing.T) {
			h := quiet(build(t, rawBackend(t, "a", closing("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"))))
			recovered := make(chan any, 1)
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					p := recover()
					recovered <- p
					panic(p)
				}()
				h.ServeHTTP(w, r)
			}))
			if res, err := newClient(t, srv).Get(srv.URL); err == nil {
				res.Body.Close()
			}
			require.Equal(t, http.ErrAbortHandler, wait(t, recovered, "the handler's end"))
		})
	}
}

func TestParity_ResponsesWithoutABody(t *testing.T) {
	alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
		c := newClient(t, serve(newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"x"`)
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(http.StatusNoContent)
			case "/304":
				w.WriteHeader(http.StatusNotModified)
			default:
				w.Header().Set("Content-Length", "12345")
			}
		}).target()))
		for path, want := range map[string]int{"/204": 204, "/304": 304} {
			r := c.get(path)
			require.Equal(t, want, r.StatusCode)
			require.Equal(t, `"x"`, r.Header.Get("Etag"))
			require.Empty(t, r.body)
			require.Empty(t, r.Header["Content-Length"])
		}
		r := c.do(http.MethodHead, "/", nil)
		require.Equal(t, http.StatusOK, r.StatusCode)
		require.EqualValues(t, 12345, r.ContentLength)
		require.Empty(t, r.body)
	})
}

func TestParity_LargeBodies(t *testing.T) {
	const size = 3 << 20
	content := strings.Repeat("0123456789abcdef", size/16)
	want := sha256.Sum256([]byte(content))
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked=%v", chunked), func(t *testing.T) {
			alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
				c := newClient(t, serve(newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
					require.Equal(t, chunked, r.ContentLength < 0)
					h := sha256.New()
					io.Copy(h, r.Body)
					w.Header().Set("X-Sum", fmt.Sprintf("%x", h.Sum(nil)))
					if !chunked {
						w.Header().Set("Content-Length", fmt.Sprint(size))
					}
					io.WriteString(w, content)
				}).target()))
				var body io.Reader = strings.NewReader(content)
				if chunked {
					body = struct{ io.Reader }{body}
				}
				r := c.do(http.MethodPost, "/", body)
				require.Equal(t, fmt.Sprintf("%x", want), r.Header.Get("X-Sum"))
				require.True(t, r.body == content)
			})
		})
	}
}

// A response may begin, and go on, while the request's body does. Over HTTP/1.1 the server has to
// be asked for that.
func TestParity_FullDuplex(t *testing.T) {
	t.Parallel() // it waits
	alike(t, func(t *testing.T, serve func(balancer.Target) *httptest.Server, _ bool) {
		b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			part := make([]byte, 4)
			for {
				if _, err := io.ReadFull(r.Body, part); err != nil {
					return
				}
				w.Write(part)
				w.(http.Flusher).Flush()
			}
		})
		srv := serve(b.target())
		proxy := srv.Config.Handler
		srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			proxy.ServeHTTP(w, r)
		})
		c := newClient(t, srv)
		in, out := io.Pipe()
		res, err := c.Post(c.url, "text/plain", in)
		require.NoError(t, err)
		defer res.Body.Close()
		for i := range 100 {
			part := fmt.Sprintf("%04d", i)
			_, err := io.WriteString(out, part)
			require.NoError(t, err)
			got := make([]byte, 4)
			_, err = io.ReadFull(res.Body, got)
			require.NoError(t, err)
			require.Equal(t, part, string(got))
		}
		out.Close()
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Empty(t, rest)
	})
}
