package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// sockets sends back what comes through a WebSocket, with its own name in front, and answers plain
// requests too.
func sockets(id string) http.HandlerFunc {
	ws := websocket.Server{Handler: func(c *websocket.Conn) {
		for {
			var message string
			if websocket.Message.Receive(c, &message) != nil {
				return
			}
			if websocket.Message.Send(c, id+":"+message) != nil {
				return
			}
		}
	}}
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			ws.ServeHTTP(w, r)
		}
	}
}

// openSocket is a real WebSocket client's connection.
func openSocket(t testing.TB, srv *httptest.Server, lines ...string) *websocket.Conn {
	t.Helper()
	conf, err := websocket.NewConfig("ws"+strings.TrimPrefix(srv.URL, "http")+"/chat?room=1", "http://app.example")
	require.NoError(t, err)
	if srv.TLS != nil {
		conf.TlsConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		conf.TlsConfig.NextProtos = nil
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		conf.Header.Add(name, value)
	}
	c, err := conf.DialContext(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a message and gives the answer.
func ask(t testing.TB, c *websocket.Conn, message string) string {
	t.Helper()
	require.NoError(t, websocket.Message.Send(c, message))
	var answer string
	require.NoError(t, websocket.Message.Receive(c, &answer))
	return answer
}

// everyWay runs a test with plain and TLS clients and with plain and TLS backends.
func everyWay(t *testing.T, test func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tlsBackend bool)) {
	for _, tlsBackend := range []bool{false, true} {
		t.Run(fmt.Sprintf("tlsBackend=%v", tlsBackend), func(t *testing.T) {
			both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
				test(t, front, tlsBackend)
			})
		})
	}
}

// rawEveryWay is everyWay for a backend of bytes: it gives the front of a proxy to it.
func rawEveryWay(t *testing.T, run func() play, test func(t *testing.T, front *httptest.Server)) {
	server, client := serverTLS(t)
	everyWay(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tlsBackend bool) {
		conf := server
		if !tlsBackend {
			conf = nil
		}
		p, _ := tunnelled(t, rawBackendTLS(t, "a", conf, run()))
		p.BackendTLS = client
		test(t, front(t, p))
	})
}

func TestProxy_W2_WebSocket(t *testing.T) {
	everyWay(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tlsBackend bool) {
		var a *backend
		p := &wsproxy.Proxy{}
		if tlsBackend {
			a = newTLSBackend(t, "a", sockets("a"))
			p.BackendTLS = backendTLS(a)
		} else {
			a = newBackend(t, "a", sockets("a"))
		}
		p.Pool, _ = newPool(t, a.target())
		c := openSocket(t, front(t, p), "X-Own: 1")
		for _, size := range []int{0, 1, 125, 126, 65_535, 65_536, 1 << 20} {
			message := strings.Repeat("x", size)
			require.True(t, ask(t, c, message) == "a:"+message, "message of %d bytes", size)
		}
		r := a.request()
		require.Equal(t, "/chat?room=1", r.RequestURI)
		require.Equal(t, "1", r.Header.Get("X-Own"))
		require.Equal(t, "http://app.example", r.Header.Get("Origin"))
	})
}

func TestProxy_W2_StickyAcrossHTTPAndWebSocket(t *testing.T) {
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool) {
		a, b := newBackend(t, "a", sockets("a")), newBackend(t, "b", sockets("b"))
		pool, picker := newPool(t, a.target(), b.target())
		srv := front(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})

		picker.to("b")
		c := newClient(t, srv)
		session := lbLines(c.get("/").Header)[0]
		picker.to("a")
		require.Equal(t, "b:hi", ask(t, openSocket(t, srv, "Cookie: AWSELB="+valueOf(session)), "hi"), "a request binds a WebSocket")
		require.Empty(t, b.header()["Cookie"])
		require.Equal(t, "a:hi", ask(t, openSocket(t, srv), "hi"))

		picker.to("b")
		res := dial(t, srv).open()
		lines := lbLines(res.Header)
		want := 1
		if tls {
			want = 2
		}
		require.Len(t, lines, want, "S19: the 101 binds as well")
		require.Equal(t, "b", open(t, lines[0]).Target)
		picker.to("a")
		require.Equal(t, "b", newClient(t, srv).get("/", "Cookie: AWSELB="+valueOf(lines[0])).backend(), "a WebSocket binds a request")
		require.Empty(t, dial(t, srv).open("Cookie: AWSELB=" + valueOf(lines[0])).Header["Set-Cookie"])
	})
}

func TestProxy_W2_DeadBoundTargetOfAnUpgrade(t *testing.T) {
	a, b := newBackend(t, "a", sockets("a")), newBackend(t, "b", sockets("b"))
	pool, _ := newPool(t, a.target(), b.target())
	srv := serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})
	b.stop()
	lines := lbLines(dial(t, srv).open("Cookie: AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "b"})).Header)
	require.Len(t, lines, 1)
	require.Equal(t, "a", open(t, lines[0]).Target)
}

// Bytes that the client sends before it has its 101 belong to the tunnel: those of the request's
// own segment are in the server's reader then, of those after it the server may have taken one.
func TestProxy_W4_EarlyClientBytes(t *testing.T) {
	const more = "sent before the 101"
	got := make(chan string, 1)
	asked, answer := make(chan struct{}), make(chan struct{})
	hold := func() play {
		return func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
			asked <- struct{}{}
			<-answer
			io.WriteString(conn, switching())
			all, _ := io.ReadAll(r)
			got <- string(all)
		}
	}
	rawEveryWay(t, hold, func(t *testing.T, front *httptest.Server) {
		for _, size := range []int{0, 1, 10, 3000, 4096, 5000, 100_000} {
			for _, late := range []string{"", more[:1], more} {
				early := strings.Repeat("0123456789", size/10+1)[:size]
				c := dial(t, front)
				sent := make(chan struct{})
				go func() { // what is larger than the buffers on the way waits for the tunnel
					defer close(sent)
					c.send(upgrade() + early)
				}()
				wait(t, asked, "request at the backend")
				if size <= 5000 {
					wait(t, sent, "early bytes out")
					c.send(late)
				} else {
					late = ""
				}
				answer <- struct{}{}
				wait(t, sent, "early bytes out")
				require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
				c.send("after")
				c.closeWrite()
				require.True(t, wait(t, got, "all bytes") == early+late+"after", "%d early bytes and %q", size, late)
				c.expectClosed()
			}
		}
	})
}

func TestProxy_W4_BytesGluedToThe101(t *testing.T) {
	for _, size := range []int{1, 100, 4000, 4096, 5000, 200_000} {
		glued := strings.Repeat("0123456789", size/10+1)[:size]
		run := func() play {
			return func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
				io.WriteString(conn, switching()+glued)
				io.Copy(io.Discard, r)
			}
		}
		rawEveryWay(t, run, func(t *testing.T, front *httptest.Server) {
			c := dial(t, front)
			c.open()
			c.expect(glued)
			c.closeWrite()
			c.expectEnd()
		})
	}
}

func TestProxy_W5_HalfClose(t *testing.T) {
	t.Run("client first", func(t *testing.T) {
		run := func() play {
			return func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
				io.WriteString(conn, switching())
				question, err := io.ReadAll(r)
				fmt.Fprintf(conn, "%s: %v", question, err)
			}
		}
		rawEveryWay(t, run, func(t *testing.T, front *httptest.Server) {
			c := dial(t, front)
			c.open()
			c.send("question")
			c.closeWrite()
			c.expect("question: <nil>")
			c.expectEnd()
		})
	})
	t.Run("backend first", func(t *testing.T) {
		got := make(chan string, 1)
		run := func() play {
			return func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
				io.WriteString(conn, switching()+"all of it")
				conn.(interface{ CloseWrite() error }).CloseWrite()
				rest, err := io.ReadAll(r)
				got <- fmt.Sprint(string(rest), err)
			}
		}
		rawEveryWay(t, run, func(t *testing.T, front *httptest.Server) {
			c := dial(t, front)
			c.open()
			c.expect("all of it")
			c.expectEnd()
			c.send("and an answer")
			c.closeWrite()
			require.Equal(t, "and an answer<nil>", wait(t, got, "the answer"))
		})
	})
}

func TestProxy_W3_HeaderOfThe101(t *testing.T) {
	rawEveryWay(t, func() play {
		return answering(switching("Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat", "X-Own: 1",
			"X-Own: 2", "Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "Connection: X-Hop", "X-Hop: secret",
			"Proxy-Connection: keep-alive", "Trailer: X-Late", "Te: trailers", "Content-Length: 5", "Set-Cookie: of=backend"))
	}, func(t *testing.T, front *httptest.Server) {
		c := dial(t, front)
		c.send(upgrade())
		var lines []string
		for {
			line, err := c.ReadString('\n')
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(line, "\r\n"))
			if line == "\r\n" {
				break
			}
			lines = append(lines, strings.TrimSuffix(line, "\r\n"))
		}
		require.Equal(t, "HTTP/1.1 101 Switching Protocols", lines[0])
		require.ElementsMatch(t, []string{"Connection: Upgrade", "Upgrade: websocket",
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "Sec-WebSocket-Extensions: permessage-deflate",
			"Sec-WebSocket-Protocol: chat", "X-Own: 1", "X-Own: 2", "Set-Cookie: of=backend"}, lines[1:])
	})
}

func TestProxy_W3_HeaderOfTheUpgrade(t *testing.T) {
	b := newBackend(t, "a", sockets("a"))
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
	res := c.open("Connection: X-Hop, keep-alive, Cookie", "X-Hop: 1", "Keep-Alive: 5", "Proxy-Connection: keep-alive",
		"Cookie: a=1", "X-Own: 1", "Sec-WebSocket-Extensions: permessage-deflate")
	require.NotContains(t, res.Header, "Sec-Websocket-Protocol", "nothing is invented that nobody has sent")
	got := b.request()
	require.Equal(t, "app.example", got.Host)
	require.Equal(t, []string{"Upgrade"}, got.Header["Connection"])
	require.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
	require.Equal(t, []string{"a=1"}, got.Header["Cookie"], "what the backend decides by is protected")
	require.Equal(t, []string{"1"}, got.Header["X-Own"])
	require.Equal(t, []string{"permessage-deflate"}, got.Header["Sec-Websocket-Extensions"])
	for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Connection", "Sec-Websocket-Protocol"} {
		require.NotContains(t, got.Header, name)
	}
}

// What is no upgrade to an allowed protocol goes on as a plain request, body included.
func TestProxy_W3_OtherUpgradesAreDropped(t *testing.T) {
	tests := map[string]string{ // header lines
		"h2c":                     "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"h2c in other case":       "Connection: upgrade, http2-settings\r\nupgrade: H2C\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
		"h2c, settings not named": "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"settings alone":          "HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"two tokens":              "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
		"two tokens, turned":      "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
		"two lines":               "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
		"not named in Connection": "Upgrade: websocket\r\n",
		"another protocol":        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
		"a version":               "Connection: Upgrade\r\nUpgrade: websocket/13\r\n",
		"empty":                   "Connection: Upgrade\r\nUpgrade:\r\n",
	}
	bodies := map[string]string{
		"length":  "Content-Length: 4\r\n\r\nbody",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
	}
	b := newBackend(t, "a", echo)
	pool, _ := newPool(t, b.target())
	srv := serve(t, &wsproxy.Proxy{Pool: pool})
	for name, lines := range tests {
		for kind, body := range bodies {
			t.Run(name+", "+kind, func(t *testing.T) {
				c := dial(t, srv)
				c.send("POST /x HTTP/1.1\r\nHost: app.example\r\nX-Own: 1\r\n" + lines + body)
				r := c.response()
				require.Equal(t, http.StatusOK, r.StatusCode)
				require.Equal(t, "body", r.body)
				got := b.header()
				require.Equal(t, "1", got.Get("X-Own"))
				for _, name := range []string{"Upgrade", "Connection", "Http2-Settings"} {
					require.NotContains(t, got, name)
				}
			})
		}
	}
}

func TestProxy_W3_UpgradeOfHTTP10IsDropped(t *testing.T) {
	b := newBackend(t, "a", echo)
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
	c.send(strings.Replace(upgrade(), "HTTP/1.1", "HTTP/1.0", 1))
	require.Equal(t, http.StatusOK, c.response().StatusCode)
	require.NotContains(t, b.header(), "Upgrade")
}

func TestProxy_W3_AllowedProtocols(t *testing.T) {
	tests := map[string]struct {
		allowed []string
		asks    string
		passes  bool
	}{
		"default":            {nil, "websocket", true},
		"default, any case":  {nil, "WebSocket", true},
		"named":              {[]string{"Chat"}, "chat", true},
		"websocket unnamed":  {[]string{"chat"}, "websocket", false},
		"none":               {[]string{}, "websocket", false},
		"several, second":    {[]string{"websocket", "chat"}, "chat", true},
		"several, not there": {[]string{"websocket", "chat"}, "h2c", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, _ := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				token := req.Header.Get("Upgrade")
				if token == "" {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
					return
				}
				io.WriteString(conn, strings.Replace(switching(), "websocket", token, 1))
				io.Copy(conn, r)
			}))
			p.Upgrades = tt.allowed
			c := dial(t, serve(t, p))
			c.send(strings.Replace(upgrade(), "websocket", tt.asks, 1))
			res := c.head()
			if !tt.passes {
				require.Equal(t, http.StatusOK, res.StatusCode)
				return
			}
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			require.Equal(t, strings.ToLower(tt.asks), res.Header.Get("Upgrade"))
			c.send("through")
			c.expect("through")
		})
	}
}

// HTTP/2 has no upgrades: whatever a backend that speaks it can switch to, it is asked over
// HTTP/1.1.
func TestProxy_W2_HTTP2BackendsAreForPlainRequests(t *testing.T) {
	b := makeBackend("a", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "chat" {
			sockets("a")(w, r)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			io.WriteString(conn, strings.Replace(switching(), "websocket", "chat", 1))
			conn.Close()
		}
	})
	b.tls, b.http2 = true, true
	b.start(t)
	pool, _ := newPool(t, b.target())
	conf := backendTLS(b)
	given := &http.Transport{TLSClientConfig: conf.Clone(), ForceAttemptHTTP2: true}
	t.Cleanup(given.CloseIdleConnections)
	tokens := []string{"websocket", "chat"}
	for name, p := range map[string]*wsproxy.Proxy{
		"own transport":   {Pool: pool, Upgrades: tokens, BackendTLS: conf},
		"given transport": {Pool: pool, Upgrades: tokens, Transport: given},
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, p)
			require.Equal(t, http.StatusOK, newClient(t, srv).get("/").StatusCode)
			require.Equal(t, 2, b.request().ProtoMajor)
			require.Equal(t, "a:hi", ask(t, openSocket(t, srv), "hi"))
			require.Equal(t, 1, b.request().ProtoMajor)
			c := dial(t, srv)
			c.send(strings.Replace(upgrade(), "websocket", "chat", 1))
			require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
		})
	}
	require.Empty(t, conf.NextProtos, "the caller's configuration is the caller's")
}
