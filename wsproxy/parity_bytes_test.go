package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// What the request line says reaches the backend byte for byte, more of it than ReverseProxy lets
// through.
func TestProxy_W11_RequestTargetPassesAsSent(t *testing.T) {
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
	for _, sent := range []string{
		"/", "/?", "/a?b", "/a?b=1&b=2&c", "/a?b;c=1;d", "/a?b=%zz", "/a?b=100%", "/a?%3Bb=%20+%2B", "/a?b=é\"|^`{}",
		"/a?b=http://c/d?e", "/a%2Fb", "/a%2fb", "/a%7Eb~", "/%61", "/a%20b", "/a%25b", "/a%2F..%2Fb", "//a//b//", "/a/./b/../c",
		"/a;b=c;d", "/a:b@c!$&'()*+,=", "/%C3%A9", "/a+b", "/a/", "/a%00b",
	} {
		c.send("GET " + sent + " HTTP/1.1\r\nHost: app.example\r\n\r\n")
		require.Equal(t, http.StatusOK, c.response().StatusCode, sent)
		require.Equal(t, sent, b.request().RequestURI)
	}
}

// Whichever spelling of a target's URL an update brings, the backend gets the same request, and so
// does its check.
func TestProxy_B3_SpellingsOfAPrefixAreOneRequest(t *testing.T) {
	b := newBackend(t, "a", nil)
	for prefix, spellings := range map[string][]string{
		"":            {"", "/"},
		"/app":        {"/app", "/app/", "/%61pp", "/a%70p/"},
		"/app/":       {"/app//"},
		"/":           {"//"},
		"/x%2Fy":      {"/x%2Fy", "/x%2fy", "/%78%2fy/"},
		"/x%2F":       {"/x%2F", "/x%2f/"},
		"/x%20y":      {"/x%20y", "/x%20y/"},
		"/%C3%BC%2F!": {"/%C3%BC%2F!", "/ü%2f!", "/%c3%bc%2f!/"},
	} {
		pool, _ := newPool(t, target("a", "http://"+b.addr+spellings[0]))
		m := member(t, pool, "a")
		c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
		for _, spelling := range spellings {
			require.NoError(t, pool.Update(target("a", "http://"+b.addr+spelling)))
			require.Same(t, m, member(t, pool, "a"), spelling)
			for _, path := range []string{"/", "/x", "/x%2fy", "/%61", "//x/"} {
				c.send("GET " + path + " HTTP/1.1\r\nHost: app.example\r\n\r\n")
				require.Equal(t, http.StatusOK, c.response().StatusCode, spelling)
				require.Equal(t, prefix+path, b.request().RequestURI, spelling)
				require.NoError(t, health.HTTP{Path: path}.Check(t.Context(), m.Target()))
				require.Equal(t, prefix+path, b.request().RequestURI, "check of %s", spelling)
			}
		}
	}
}

// Bytes that RFC 3986 does not allow in a path go on as well, as long as net/http takes them.
func TestProxy_W11_OddPathBytesPassAsSent(t *testing.T) {
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
	for _, sent := range []string{"/a|b", "/a^b", "/a`b", "/a{b}", "/a\"b", "/a<b>", "/a\\b", "/a[b]", "/é", "/é%2F|", "/a|b?", "/a|b?c|d"} {
		c.send("GET " + sent + " HTTP/1.1\r\nHost: app.example\r\n\r\n")
		require.Equal(t, http.StatusOK, c.response().StatusCode, sent)
		require.Equal(t, sent, b.request().RequestURI)
	}
	c.send("GET //a|b HTTP/1.1\r\nHost: app.example\r\n\r\n")
	require.Equal(t, http.StatusOK, c.response().StatusCode)
	require.Equal(t, "//a%7Cb", b.request().RequestURI, "what would be taken for a host is escaped")
}

// A raw "#" reaches no backend, wherever in the request target it stands, whoever put it there and
// however the request goes on: what would take it for the end of the path is not asked for another
// one than the guards on the way saw.
func TestProxy_W15_NoRawHash(t *testing.T) {
	sent := map[string]string{
		"/secret#": "/secret%23", "/secret#.png": "/secret%23.png", "/#": "/%23", "/a#b#c": "/a%23b%23c", "/a?b#c": "/a?b%23c",
		"/a?#": "/a?%23", "/a#b?c#d": "/a%23b?c%23d", "/a%2Fb#": "/a%2Fb%23", "/a|b#": "/a|b%23", "/a%23b": "/a%23b",
		"//a#b": "//a%23b", "/a%#": "", "/é#": "/é%23",
	}
	for _, l := range []leg{legs[0], legs[1], legs[4], legs[6]} {
		for _, prefix := range []string{"", "/app"} {
			t.Run(l.name+prefix, func(t *testing.T) {
				p, b := l.to(t, nil)
				to := b.target()
				to.URL.Path = prefix
				p.Pool, _ = newPool(t, to)
				h1, h2 := serve(t, p), newClient(t, serveTLS(t, p))
				for sent, want := range sent {
					for _, form := range []string{"", "http://app.example"} {
						c := dial(t, h1)
						c.send("GET " + form + sent + " HTTP/1.1\r\nHost: app.example\r\n\r\n")
						r := c.response()
						if want == "" {
							require.Equal(t, http.StatusBadRequest, r.StatusCode)
							continue
						}
						require.Equal(t, http.StatusOK, r.StatusCode, sent)
						requireTarget(t, prefix+want, b)
					}
					if want == "" || strings.HasPrefix(sent, "//") { // which net/http's client takes for a host
						continue
					}
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h2.url, nil)
					require.NoError(t, err)
					req.URL.Opaque = sent
					r := h2.send(req)
					require.Equal(t, 2, r.ProtoMajor)
					require.Equal(t, http.StatusOK, r.StatusCode, sent)
					requireTarget(t, prefix+want, b)
				}
			})
		}
	}
}

// requireTarget compares what a backend was asked for, bytes that HTTP/2 of net/http escapes aside.
func requireTarget(t *testing.T, want string, b *backend) {
	t.Helper()
	got := b.request().RequestURI
	require.NotContains(t, got, "#")
	if want != got {
		u, err := url.ParseRequestURI(want)
		require.NoError(t, err)
		require.Equal(t, u.RequestURI(), got)
	}
}

func TestProxy_W15_NoRawHashInUpgrades(t *testing.T) {
	for _, given := range []bool{false, true} {
		targets := make(chan string, 1)
		p, _ := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
			targets <- req.RequestURI
			echoing(conn, r, req)
		}))
		if given {
			p.Transport = &http.Transport{}
		}
		c := dial(t, serve(t, p))
		c.send(strings.Replace(upgrade(), " /", " /secret#/", 1))
		require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
		require.NotContains(t, wait(t, targets, "the request"), "#")
	}
}

func TestProxy_W15_NoRawHashInExtendedCONNECT(t *testing.T) {
	if !inExtended(t) {
		return
	}
	targets := make(chan string, 1)
	p, _ := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		targets <- req.RequestURI
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, accepting(req))
	}))
	c := newH2Client(t, serveTLS(t, p))
	c.path = "/secret#/chat"
	c.connect(t, "websocket").Reset()
	require.NotContains(t, wait(t, targets, "the request"), "#")
}

// What hooks put in is sent without one, too.
func TestProxy_W15_NoRawHashOfHooks(t *testing.T) {
	for _, l := range []leg{legs[0], legs[1]} {
		p, b := l.to(t, nil)
		p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.URL.RawQuery = "a#b" }
		p.Target = func(out *http.Request, _ *balancer.Member) { out.URL.Path += "#" }
		c := dial(t, serve(t, p))
		c.send("GET /x HTTP/1.1\r\nHost: app.example\r\n\r\n")
		require.Equal(t, http.StatusOK, c.response().StatusCode)
		require.Equal(t, "/x%23?a%23b", b.request().RequestURI)
	}
}

// What a hook puts in may be anybody's: it is not edited, by concurrent requests either, and not by
// retries.
func TestProxy_W15_WhatHooksPutInIsCopied(t *testing.T) {
	b := newBackend(t, "b", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	shared := &url.URL{Path: "/shared#|", RawPath: "/shared#|", RawQuery: "q#"}
	header := http.Header{"X-Shared": {"1"}}
	request := &http.Request{Method: http.MethodGet, URL: shared, Header: header, Host: "app.example", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	want := fmt.Sprint(*shared, header)
	hooks := map[string]func(*wsproxy.Proxy){
		"Rewrite, URL": func(p *wsproxy.Proxy) { p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.URL = shared } },
		"Rewrite, header": func(p *wsproxy.Proxy) {
			p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.URL, pr.Out.Header = shared, header }
		},
		"Rewrite, request": func(p *wsproxy.Proxy) { p.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out = request } },
		"Target": func(p *wsproxy.Proxy) {
			p.Target = func(out *http.Request, m *balancer.Member) {
				u := *shared // which this hook has to point at the member itself
				u.Scheme, u.Host = m.Target().URL.Scheme, m.Target().URL.Host
				out.URL, out.Header = memberURL(m, &u), header
			}
		},
	}
	for name, hook := range hooks {
		for _, given := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, given=%v", name, given), func(t *testing.T) {
				pool, err := balancer.New(balancer.Config{Picker: order{}, Targets: []balancer.Target{
					target("a", "http://127.0.0.1:1/dead"), target("b", "http://"+b.addr+"/alive")}})
				require.NoError(t, err)
				p := &wsproxy.Proxy{Pool: pool, Retry: wsproxy.Retry{Budget: -1}}
				if given {
					p.Transport = &http.Transport{}
				}
				hook(p)
				srv := serve(t, p)
				var all sync.WaitGroup
				for range 8 {
					c := newClient(t, srv)
					all.Go(func() {
						for range 5 {
							res, err := c.Get(c.url)
							if !assert.NoError(t, err) {
								return
							}
							got, _ := io.ReadAll(res.Body)
							res.Body.Close()
							assert.Contains(t, []string{"/alive/shared%23|?q%23", "/shared%23|?q%23"}, string(got))
						}
					})
				}
				all.Wait()
				require.Equal(t, want, fmt.Sprint(*shared, header))
			})
		}
	}
}

// memberURL is one URL for each member, shared by all requests.
var memberURLs sync.Map

func memberURL(m *balancer.Member, u *url.URL) *url.URL {
	shared, _ := memberURLs.LoadOrStore(m, u)
	return shared.(*url.URL)
}

// Hooks that change the path are not overruled by what was sent.
func TestProxy_W11_ChangedPathsGoOut(t *testing.T) {
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	change := func(u *url.URL) { u.Path = "/changed" }
	tests := map[string]http.Handler{
		"middleware": http.StripPrefix("/a|b", &wsproxy.Proxy{Pool: pool}),
		"Rewrite":    &wsproxy.Proxy{Pool: pool, Rewrite: func(pr *httputil.ProxyRequest) { change(pr.Out.URL) }},
		"Target":     &wsproxy.Proxy{Pool: pool, Target: func(out *http.Request, _ *balancer.Member) { change(out.URL) }},
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			c := dial(t, serve(t, h))
			c.send("GET /a|b/changed HTTP/1.1\r\nHost: app.example\r\n\r\n")
			require.Equal(t, http.StatusOK, c.response().StatusCode)
			require.Equal(t, "/changed", b.request().RequestURI)
		})
	}
}

func TestProxy_W11_TargetsPathIsPutInFront(t *testing.T) {
	b := newBackend(t, "a", nil)
	tests := []struct{ target, sent, want string }{
		{"", "/x", "/x"},
		{"/", "/x", "/x"},
		{"/app", "/x?y", "/app/x?y"},
		{"/app/", "/x", "/app/x"},
		{"/app", "/", "/app/"},
		{"/app", "//x", "/app//x"},
		{"/app", "/a%2Fb", "/app/a%2Fb"},
		{"/a%2Fb", "/x", "/a%2Fb/x"},
		{"/a%2Fb", "/c%2Fd", "/a%2Fb/c%2Fd"},
		{"/app", "/a|b", "/app/a|b"},
		{"/a%2Fb", "/a|b%2F", "/a%2Fb/a|b%2F"},
		{"/app", "//a|b", "/app//a|b"},
	}
	for _, tt := range tests {
		pool, _ := newPool(t, target("a", "http://"+b.addr+tt.target))
		c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
		c.send("GET " + tt.sent + " HTTP/1.1\r\nHost: app.example\r\n\r\n")
		require.Equal(t, http.StatusOK, c.response().StatusCode)
		require.Equal(t, tt.want, b.request().RequestURI, "%q at %q", tt.sent, tt.target)
	}
}

func TestProxy_W11_OptionsOfTheServer(t *testing.T) {
	b := newBackend(t, "a", nil)
	for _, path := range []string{"", "/", "/app"} {
		pool, _ := newPool(t, target("a", "http://"+b.addr+path))
		c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
		c.send("OPTIONS * HTTP/1.1\r\nHost: app.example\r\n\r\n")
		require.Equal(t, http.StatusOK, c.response().StatusCode)
		require.Equal(t, "*", b.request().RequestURI)
		require.Equal(t, http.MethodOptions, b.request().Method)
	}
}

// HTTP/2 can carry a space in a path or a query. In a request line of HTTP/1.1 it would end the
// URL, and what follows would be taken for the protocol.
func TestProxy_W11_SpacesOfHTTP2(t *testing.T) {
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	c := newClient(t, serveTLS(t, &wsproxy.Proxy{Pool: pool}))
	for sent, want := range map[string]string{
		"/?x y": "/?x%20y", "/?x HTTP/1.0": "/?x%20HTTP/1.0", "/? ": "/?%20", "/x y": "/x%20y", "/x|y z": "/x%7Cy%20z",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, nil)
		require.NoError(t, err)
		req.URL.Opaque = sent
		r := c.send(req)
		require.Equal(t, 2, r.ProtoMajor)
		require.Equal(t, http.StatusOK, r.StatusCode)
		require.Equal(t, want, b.request().RequestURI)
	}
}

// A request that no target could be asked with is the client's fault: else clients could have
// targets ejected.
func TestProxy_B5_MalformedRequestsBlameNoTarget(t *testing.T) {
	t.Parallel() // it waits
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	seen := &outcomes{}
	defer pool.Observe(seen)()
	srv := serve(t, &wsproxy.Proxy{Pool: pool})
	for name, rest := range map[string]string{
		"trailer with a space":    "Transfer-Encoding: chunked\r\nTrailer: X Y\r\n\r\n0\r\n\r\n",
		"trailer in quotes":       "Transfer-Encoding: chunked\r\nTrailer: \"X\"\r\n\r\n0\r\n\r\n",
		"one trailer of two":      "Transfer-Encoding: chunked\r\nTrailer: X, (Y)\r\n\r\n0\r\n\r\n",
		"chunk that is none":      "Transfer-Encoding: chunked\r\n\r\nnothing\r\n",
		"chunk with no end":       "Transfer-Encoding: chunked\r\n\r\n4\r\nbodybody\r\n",
		"chunked twice":           "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
		"unknown expectation":     "Expect: miracles\r\nContent-Length: 0\r\n\r\n",
		"body and an upgrade":     "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
		"forbidden trailer":       "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
		"trailer that is no line": "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nno line\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, srv)
			c.send("POST / HTTP/1.1\r\nHost: app.example\r\n" + rest)
			r := c.response()
			require.GreaterOrEqual(t, r.StatusCode, 400)
			require.NotEqual(t, http.StatusBadGateway, r.StatusCode)
			idleMember(t, pool, "a")
			for _, class := range seen.classes() {
				require.Contains(t, []balancer.Class{balancer.OK, balancer.ClientGone}, class)
			}
		})
	}
}

// A request line that names the whole URL is for this server, whatever host it names.
func TestProxy_W11_AbsoluteForm(t *testing.T) {
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
	c.send("GET http://other.example/x?y;z HTTP/1.1\r\nHost: app.example\r\n\r\n")
	require.Equal(t, http.StatusOK, c.response().StatusCode)
	require.Equal(t, "/x?y;z", b.request().RequestURI)
	require.Equal(t, "other.example", b.request().Host, "RFC 9112 section 3.2.2")
}

func TestProxy_W11_HostIsPreserved(t *testing.T) {
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	p := &wsproxy.Proxy{Pool: pool}
	c := newClient(t, serve(t, p))
	for _, host := range []string{"app.example", "APP.example:8080", "[2001:db8::1]:80"} {
		c.get("/", "Host: "+host)
		require.Equal(t, host, b.request().Host)
	}
}

func TestProxy_W11_RequestTrailersPass(t *testing.T) {
	for _, length := range []int{0, 5, 100_000} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			trailer := make(chan http.Header, 1)
			b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
				echo(w, r)
				trailer <- r.Trailer
			})
			pool, _ := newPool(t, b.target())
			c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
			body := ""
			if length > 0 {
				body = fmt.Sprintf("%x\r\n%0*d\r\n", length, length, 7)
			}
			c.send("POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Unsent\r\n\r\n" +
				body + "0\r\nX-Sum: 42\r\n\r\n")
			r := c.response()
			require.Equal(t, http.StatusOK, r.StatusCode)
			require.Len(t, r.body, length)
			require.Equal(t, []string{"42"}, wait(t, trailer, "the trailer")["X-Sum"])
		})
	}
}

// An answer does not wait for the end of the request's body, and what of the body is on its way is
// not lost.
func TestProxy_W11_AnswerBeforeTheEndOfTheBody(t *testing.T) {
	t.Parallel() // it waits
	for name, framing := range map[string]string{
		"known length": "Content-Length: 8\r\n\r\npart",
		"chunked":      "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			rest := make(chan string, 1)
			pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
				all, _ := io.ReadAll(req.Body)
				rest <- string(all)
				io.WriteString(conn, "4\r\nlate\r\n0\r\n\r\n")
			}))
			c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
			c.send("POST / HTTP/1.1\r\nHost: app.example\r\n" + framing)
			res := c.head()
			require.Equal(t, http.StatusOK, res.StatusCode)
			early := make([]byte, 5)
			_, err := io.ReadFull(res.Body, early)
			require.NoError(t, err)
			require.Equal(t, "early", string(early))
			if name == "chunked" {
				c.send("4\r\nrest\r\n0\r\n\r\n")
			} else {
				c.send("rest")
			}
			require.Equal(t, "partrest", wait(t, rest, "the body"))
			late, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, "late", string(late))
		})
	}
}
