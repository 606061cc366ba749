package wsproxy_test

import (
	"bufio"
	"crypto/fips140"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health/wskey"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/h2test"
)

// accept answers the key of a request (RFC 6455 section 4.2.2).
func accept(req *http.Request) string {
	return wskey.Accept(req.Header.Get("Sec-WebSocket-Key"))
}

// accepting is the 101 to a request, with more header lines.
func accepting(req *http.Request, lines ...string) string {
	return strings.Replace(switching(lines...), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", accept(req), 1)
}

// acceptingEcho is echoing for clients that send keys of their own.
func acceptingEcho(conn net.Conn, r *bufio.Reader, req *http.Request) {
	io.WriteString(conn, accepting(req))
	io.Copy(conn, r)
}

// h2Front serves a proxy to one target over TLS, for a client of HTTP/2.
func h2Front(t testing.TB, p *wsproxy.Proxy) *h2Client { return newH2Client(t, serveTLS(t, p)) }

// FIPS 140 has no SHA-1, and a WebSocket needs it for no protection.
func TestProxy_W2_WebSocketsUnderFIPS(t *testing.T) {
	if !fips140.Enforced() {
		runWith(t, "fips140=only,http2xconnect=1")
		return
	}
	p, _ := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		io.WriteString(conn, accepting(req))
		io.Copy(conn, r)
	}))
	p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
	conn := newH2Client(t, serveTLS(t, p)).open(t, nil)
	io.WriteString(conn, "hello")
	conn.wire(t).expect("hello")
}

func TestProxy_W2_ExtendedConnect(t *testing.T) {
	if !inExtended(t) {
		return
	}
	for _, tlsBackend := range []bool{false, true} {
		t.Run(fmt.Sprintf("tlsBackend=%v", tlsBackend), func(t *testing.T) {
			b := makeBackend("a", sockets("a"))
			p := &wsproxy.Proxy{Policy: lbCookie(t, stickiness.LBCookieOptions{})}
			if b.tls, b.http2 = tlsBackend, tlsBackend; tlsBackend {
				b.start(t)
				p.BackendTLS = backendTLS(b)
			} else {
				b.start(t)
			}
			p.Pool, _ = newPool(t, b.target())
			c := h2Front(t, p).open(t, nil, "Origin: http://app.example", "X-Own: 1", "Cookie: a=1", "Sec-Websocket-Protocol: ",
				"Sec-Websocket-Key: bm90IGEga2V5IG9mIG91cnM=", "Sec-Websocket-Extensions: x")

			require.Equal(t, 2, c.res.ProtoMajor)
			for _, name := range []string{"Upgrade", "Connection", "Sec-Websocket-Accept", "Content-Length"} {
				require.NotContains(t, c.res.Header, name)
			}
			lines := lbLines(c.res.Header)
			require.Len(t, lines, 2, "S19, and the twin")
			require.Equal(t, "a", open(t, lines[0]).Target)

			got := b.request()
			require.Equal(t, "GET /chat?room=1 HTTP/1.1", got.Method+" "+got.RequestURI+" "+got.Proto)
			require.Equal(t, "app.example", got.Host)
			require.Equal(t, []string{"Upgrade"}, got.Header["Connection"])
			require.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
			require.Equal(t, []string{"13"}, got.Header["Sec-Websocket-Version"])
			require.Equal(t, []string{"a=1"}, got.Header["Cookie"])
			require.Equal(t, []string{"1"}, got.Header["X-Own"])
			require.Zero(t, got.ContentLength)
			require.NotContains(t, got.Header, ":protocol")
			key, err := base64.StdEncoding.DecodeString(got.Header.Get("Sec-Websocket-Key"))
			require.NoError(t, err)
			require.Len(t, key, 16)
			require.NotEqual(t, "bm90IGEga2V5IG9mIG91cnM=", got.Header.Get("Sec-Websocket-Key"))

			w := c.wire(t)
			w.send(maskedFrame(0x81, "hello"))
			require.Equal(t, "a:hello", string(readFrame(t, w).payload))
		})
	}
}

func TestProxy_W2_ExtendedConnectRefused(t *testing.T) {
	if !inExtended(t) {
		return
	}
	b := newBackend(t, "a", sockets("a"))
	pool, _ := newPool(t, b.target())
	tests := map[string]struct {
		protocol string
		upgrades []string
		lines    []string
		status   int
	}{
		"another protocol":        {"connect-udp", nil, nil, 501},
		"another that is allowed": {"chat", []string{"chat"}, nil, 501},
		"websocket not allowed":   {"websocket", []string{"chat"}, nil, 501},
		"nothing allowed":         {"websocket", []string{}, nil, 501},
		"with a length":           {"websocket", nil, []string{"Content-Length: 5"}, 400},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := h2Front(t, &wsproxy.Proxy{Pool: pool, Upgrades: tt.upgrades})
			require.Equal(t, tt.status, c.connect(t, tt.protocol, tt.lines...).res.StatusCode)
		})
	}
	require.Zero(t, b.asked.Load())
}

// What a target may answer to the handshake, and what the client of an extended CONNECT gets.
func TestProxy_W2_ExtendedConnectAnswers(t *testing.T) {
	if !inExtended(t) {
		return
	}
	text := func(lines string) play {
		return answering(strings.ReplaceAll(lines, "\n", "\r\n"))
	}
	with := func(change func(good string) string) play {
		return func(conn net.Conn, r *bufio.Reader, req *http.Request) {
			answering(change(accepting(req)))(conn, r, req)
		}
	}
	tests := map[string]struct {
		play   play
		status int
	}{
		"accepted": {with(func(good string) string { return good }), 200},
		"accepted, odd spelling": {with(func(good string) string {
			return strings.NewReplacer("Sec-WebSocket-Accept: ", "sec-websocket-accept:\t ", "websocket\r", "WebSocket\r").Replace(good)
		}), 200},
		"wrong accept": {answering(switching()), 502},
		"no accept": {with(func(good string) string {
			return strings.Replace(good, "Sec-WebSocket-Accept", "X-Accept", 1)
		}), 502},
		"two accepts": {with(func(good string) string {
			return strings.Replace(good, "\r\n\r\n", "\r\nSec-WebSocket-Accept: x\r\n\r\n", 1)
		}), 502},
		"no upgrade": {with(func(good string) string {
			return strings.Replace(good, "Upgrade: websocket\r\n", "", 1)
		}), 502},
		"200":             {text("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi"), 502},
		"200 without end": {text("HTTP/1.1 200 OK\n\nhi"), 502},
		"204":             {text("HTTP/1.1 204 No Content\n\n"), 502},
		"299":             {text("HTTP/1.1 299 Odd\nContent-Length: 0\n\n"), 502},
		"302":             {text("HTTP/1.1 302 Found\nLocation: /x\nContent-Length: 2\n\nhi"), 302},
		"401":             {text("HTTP/1.1 401 No\nContent-Length: 2\n\nhi"), 401},
		"426":             {text("HTTP/1.1 426 No\nUpgrade: websocket\nContent-Length: 2\n\nhi"), 426},
		"503":             {text("HTTP/1.1 503 No\nContent-Length: 2\n\nhi"), 503},
		"gone":            {func(net.Conn, *bufio.Reader, *http.Request) {}, 502},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, _ := tunnelled(t, rawBackend(t, "a", tt.play))
			p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
			told := &told{ended: make(chan balancer.Outcome, 1)}
			defer p.Pool.Observe(told)()
			conn := h2Front(t, p).connect(t, "websocket")
			res := conn.res
			require.Equal(t, tt.status, res.StatusCode)
			switch {
			case tt.status == 502:
				require.Empty(t, res.Header["Set-Cookie"])
			case tt.status >= 300:
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, "hi", string(body))
				require.Len(t, lbLines(res.Header), 2, "S19")
			}
			conn.CloseWrite()
			conn.Reset()
			idleMember(t, p.Pool, "a")
			if status, err := strconv.Atoi(name); err == nil { // an answer in full, whatever the client gets
				o := wait(t, told.ended, "the outcome")
				require.Equal(t, balancer.OK, o.Class, "B5: %v", o.Err)
				require.Equal(t, status, o.Status)
				require.Less(t, o.Latency, patience)
			}
		})
	}
}

// Without the variable in the environment nothing is offered, and clients do not ask.
func TestProxy_W2_ExtendedConnectIsOptIn(t *testing.T) {
	if godebug := os.Getenv("GODEBUG"); strings.Contains(godebug, "http2xconnect=1") {
		runWith(t, strings.ReplaceAll(godebug, "http2xconnect=1", "http2xconnect=0"))
		return
	}
	p, _ := tunnelled(t, rawBackend(t, "a", acceptingEcho))
	_, _, err := h2Front(t, p).tryOpen(nil)
	require.ErrorIs(t, err, h2test.ErrNotOffered)
}

// The handler ends when the tunnel does, in each of the ways in which that can end.
func TestProxy_W5_ExtendedConnectEnds(t *testing.T) {
	if !inExtended(t) {
		return
	}
	front := func(t *testing.T, run play) (*h2Client, <-chan wsproxy.TunnelRecord, *wsproxy.Proxy) {
		p, ends := tunnelled(t, rawBackend(t, "a", run))
		return h2Front(t, p), ends, p
	}
	t.Run("client ends first", func(t *testing.T) {
		c, ends, _ := front(t, func(conn net.Conn, r *bufio.Reader, req *http.Request) {
			io.WriteString(conn, accepting(req))
			question, err := io.ReadAll(r)
			fmt.Fprintf(conn, "%s: %v", question, err)
		})
		w := c.open(t, []byte("early ")).wire(t)
		w.send("question")
		w.closeWrite()
		w.expect("early question: <nil>")
		w.expectEnd()
		end := wait(t, ends, "the end")
		require.Equal(t, "client closed", end.EndedBy)
		require.NoError(t, end.EndErr)
		require.EqualValues(t, len("early question"), end.FromClient)
	})
	t.Run("backend ends first", func(t *testing.T) {
		glued := strings.Repeat("0123456789", 30_000)
		c, ends, _ := front(t, func(conn net.Conn, _ *bufio.Reader, req *http.Request) {
			io.WriteString(conn, accepting(req)+glued)
		})
		w := c.open(t, nil).wire(t)
		w.expect(glued)
		w.expectEnd() // clean
		require.Equal(t, "backend closed", wait(t, ends, "the end").EndedBy)
	})
	t.Run("backend breaks", func(t *testing.T) {
		c, ends, _ := front(t, func(conn net.Conn, r *bufio.Reader, req *http.Request) {
			io.WriteString(conn, accepting(req)+"glued")
			io.ReadFull(r, make([]byte, 2))
			conn.(*net.TCPConn).SetLinger(0)
		})
		w := c.open(t, nil).wire(t)
		w.expect("glued")
		w.send("go")
		_, err := io.Copy(io.Discard, w.Reader)
		require.ErrorContains(t, err, "INTERNAL_ERROR", "no clean end")
		require.Equal(t, "backend read failed", wait(t, ends, "the end").EndedBy)
	})
	t.Run("client breaks", func(t *testing.T) {
		ended := make(chan struct{})
		c, ends, _ := front(t, func(conn net.Conn, r *bufio.Reader, req *http.Request) {
			acceptingEcho(conn, r, req)
			close(ended)
		})
		conn := c.open(t, nil)
		w := conn.wire(t)
		w.send("hello")
		w.expect("hello")
		conn.Reset()
		wait(t, ended, "the end at the backend")
		require.Equal(t, "client read failed", wait(t, ends, "the end").EndedBy)
	})
}
