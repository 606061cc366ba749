package wsproxy_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

func TestProxy_W3_UpgradeWithABodyIsRefused(t *testing.T) {
	tests := map[string]string{
		"length":  upgrade("Content-Length: 4") + "body",
		"chunked": upgrade("Transfer-Encoding: chunked") + "4\r\nbody\r\n0\r\n\r\n",
	}
	for name, request := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "a", sockets("a"))
			pool, _ := newPool(t, b.target())
			c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
			c.send(request)
			r := c.response()
			require.Equal(t, http.StatusBadRequest, r.StatusCode)
			require.Empty(t, r.Header["Set-Cookie"])
			require.Zero(t, b.asked.Load())
		})
	}
}

func TestProxy_W3_EmptyBodyIsNone(t *testing.T) {
	p, _ := tunnelled(t, rawBackend(t, "a", echoing))
	dial(t, serve(t, p)).open("Content-Length: 0")
}

func TestProxy_W3_ConnectIsRefused(t *testing.T) {
	t.Parallel() // it waits
	b := newBackend(t, "a", nil)
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
	c.send("CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: elsewhere.example:443\r\n\r\n")
	require.Equal(t, http.StatusMethodNotAllowed, c.response().StatusCode)
	require.Zero(t, b.asked.Load())
}

// bare hides every method of a ResponseWriter but the three of the interface.
type bare struct{ http.ResponseWriter }

// unwrapping hides them as well, but says where they are.
type unwrapping struct{ bare }

func (w unwrapping) Unwrap() http.ResponseWriter { return w.bare.ResponseWriter }

// refusingWriter has a Hijack that fails.
type refusingWriter struct{ http.ResponseWriter }

func (w refusingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("not today")
}

func wrapped(h http.Handler, wrap func(http.ResponseWriter) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(wrap(w), r) })
}

func TestProxy_W3_WriterThatCannotBeHijacked(t *testing.T) {
	tests := map[string]struct {
		wrap   func(http.ResponseWriter) http.ResponseWriter
		status int
		asked  bool
	}{
		"bare":       {func(w http.ResponseWriter) http.ResponseWriter { return bare{w} }, http.StatusNotImplemented, false},
		"bare below": {func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{bare{bare{w}}} }, http.StatusNotImplemented, false},
		"unwrapping": {func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{bare{w}} }, http.StatusSwitchingProtocols, true},
		"refusing":   {func(w http.ResponseWriter) http.ResponseWriter { return refusingWriter{w} }, http.StatusNotImplemented, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			asked, ended := make(chan struct{}, 16), make(chan struct{}, 16)
			p, _ := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				asked <- struct{}{}
				echoing(conn, r, req)
				ended <- struct{}{}
			}))
			p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
			p.Logger = slog.New(slog.DiscardHandler)
			c := dial(t, serve(t, wrapped(p, tt.wrap)))
			c.send(upgrade())
			res := c.head()
			require.Equal(t, tt.status, res.StatusCode)
			if !tt.asked {
				require.Empty(t, asked)
				return
			}
			wait(t, asked, "request at the backend")
			if res.StatusCode != http.StatusSwitchingProtocols {
				require.Empty(t, res.Header["Set-Cookie"], "an error page of the proxy's own binds nobody")
				require.True(t, res.Close, "nobody knows what has become of the connection")
				wait(t, ended, "the end of the backend's connection")
			}
			c.Close()
			idleMember(t, p.Pool, "a")
		})
	}
}

// brokenHandshakes are the ways in which a backend can answer an upgrade otherwise than it should.
var brokenHandshakes = map[string]struct {
	play   play
	status int
	class  wsproxy.Class // of the error; only when status is the proxy's own
	own    bool
}{
	"200":            {repeating("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nBackend: a\r\n\r\nplain"), 200, 0, false},
	"200, no length": {closing("HTTP/1.1 200 OK\r\nConnection: close\r\nBackend: a\r\n\r\nplain"), 200, 0, false},
	"403":            {repeating("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nBackend: a\r\n\r\nplain"), 403, 0, false},
	"500, Upgrade":   {repeating("HTTP/1.1 500 Oops\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\nBackend: a\r\n\r\nplain"), 500, 0, false},
	"426":            {repeating("HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 5\r\nBackend: a\r\n\r\nplain"), 426, 0, false},

	"101 without Connection": {answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"), 502, wsproxy.ClassUpgrade, true},
	"101 without Upgrade":    {answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n"), 502, wsproxy.ClassUpgrade, true},
	"101 with nothing":       {answering("HTTP/1.1 101 Switching Protocols\r\n\r\n"), 502, wsproxy.ClassUpgrade, true},
	"101 to another":         {answering(strings.Replace(switching(), "websocket", "h2c", 1)), 502, wsproxy.ClassUpgrade, true},
	"101 to two":             {answering(strings.Replace(switching(), "websocket", "websocket, h2c", 1)), 502, wsproxy.ClassUpgrade, true},
	"garbage":                {answering("\x16\x03\x01 this is no HTTP\r\n\r\n"), 502, wsproxy.ClassHeader, true},
	"half a header":          {closing("HTTP/1.1 101 Switching Pro"), 502, wsproxy.ClassHeader, true},
	"closed":                 {closing(""), 502, wsproxy.ClassHeader, true},
	"reset":                  {resetting, 502, wsproxy.ClassHeader, true},
	"silence":                {answering(""), 504, wsproxy.ClassHeaderTimeout, true},
	"half a header, silence": {answering("HTTP/1.1 101 Switching Pro"), 504, wsproxy.ClassHeaderTimeout, true},
}

// closing is a play that writes some text and closes the connection.
func closing(text string) play {
	return func(conn net.Conn, _ *bufio.Reader, _ *http.Request) { io.WriteString(conn, text) }
}

// resetting is a play that breaks the connection.
func resetting(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
	conn.(*net.TCPConn).SetLinger(0)
}

func TestProxy_W5_BrokenHandshakes(t *testing.T) {
	for name, tt := range brokenHandshakes {
		t.Run(name, func(t *testing.T) {
			var playing atomic.Int64
			pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				playing.Add(1)
				defer playing.Add(-1)
				tt.play(conn, r, req)
			}))
			seen := &outcomes{}
			defer pool.Observe(seen)()
			done := make(chan wsproxy.Record, 1)
			p := &wsproxy.Proxy{
				Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
				Retry: wsproxy.Retry{Max: -1},
				Trace: &wsproxy.Trace{
					Done:   func(_ *http.Request, r wsproxy.Record) { done <- r },
					Tunnel: func(wsproxy.TunnelRecord) { panic("there is no tunnel") },
				},
			}
			if tt.status == http.StatusGatewayTimeout {
				p.Tunnels.Handshake = 30 * time.Millisecond
			}
			c := dial(t, serve(t, p))
			c.send(upgrade())
			r := c.response()
			require.Equal(t, tt.status, r.StatusCode)
			record := wait(t, done, "the record")
			require.Equal(t, tt.status, record.Status)
			if tt.own {
				require.Empty(t, r.Header["Set-Cookie"])
				require.Equal(t, http.StatusText(tt.status)+"\n", r.body)
				failure, ok := errors.AsType[*wsproxy.Error](record.Err)
				require.True(t, ok)
				require.Equal(t, tt.class.String(), failure.Class.String())
				require.Equal(t, "a", failure.Target)
				require.Equal(t, []balancer.Class{balancer.UpgradeFailed}, seen.classes())
				// On a slow machine the limit may pass before the request is at the backend: then
				// none begins.
				require.Eventually(t, func() bool { return playing.Load() == 0 }, patience, time.Millisecond,
					"the end of the backend's connection")
			} else {
				require.NoError(t, record.Err)
				require.Equal(t, "plain", r.body)
				require.Equal(t, "a", r.backend())
				requireBound(t, r, "a")
				require.Equal(t, []balancer.Class{balancer.OK}, seen.classes())
			}
			idleMember(t, pool, "a")
		})
	}
}

func TestProxy_W5_UpgradeToADeadTarget(t *testing.T) {
	b := newBackend(t, "a", nil)
	b.stop()
	pool, _ := newPool(t, b.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool}))
	c.send(upgrade())
	require.Equal(t, http.StatusBadGateway, c.response().StatusCode)
}

func TestProxy_W3_UnaskedSwitch(t *testing.T) {
	for name, head := range map[string]string{
		"websocket": switching(),
		"h2c":       strings.Replace(switching(), "websocket", "h2c", 1),
		"nothing":   "HTTP/1.1 101 Switching Protocols\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{})
			pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				defer close(closed)
				answering(head+"bytes of another protocol")(conn, r, req)
			}))
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
			r := c.get("/")
			require.Equal(t, http.StatusBadGateway, r.StatusCode)
			require.Empty(t, r.Header["Set-Cookie"])
			require.NotContains(t, r.Header, "Upgrade")
			wait(t, closed, "the end of the backend's connection")
			idleMember(t, pool, "a")
		})
	}
}

// A client that goes away while the target thinks takes the attempt with it.
func TestProxy_W5_ClientLeavesDuringTheHandshake(t *testing.T) {
	asked, closed := make(chan struct{}), make(chan struct{})
	pool, _ := newPool(t, rawBackend(t, "a", func(_ net.Conn, r *bufio.Reader, _ *http.Request) {
		close(asked)
		io.Copy(io.Discard, r)
		close(closed)
	}))
	done := make(chan wsproxy.Record, 1)
	p := &wsproxy.Proxy{Pool: pool, Trace: &wsproxy.Trace{Done: func(_ *http.Request, r wsproxy.Record) { done <- r }}}
	c := dial(t, serve(t, p))
	c.send(upgrade())
	wait(t, asked, "request at the backend")
	c.Close()
	wait(t, closed, "the end of the backend's connection")
	failure, ok := errors.AsType[*wsproxy.Error](wait(t, done, "the record").Err)
	require.True(t, ok)
	require.Equal(t, wsproxy.ClassClientGone, failure.Class)
	idleMember(t, pool, "a")
}

// noting is a middleware's ResponseWriter that counts what is written through it.
type noting struct {
	http.ResponseWriter
	written *atomic.Int64
}

func (w noting) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w noting) WriteHeader(code int) {
	w.written.Add(1)
	w.ResponseWriter.WriteHeader(code)
}

func (w noting) Write(p []byte) (int, error) {
	w.written.Add(1)
	return w.ResponseWriter.Write(p)
}

func TestProxy_W1_MiddlewareSeesTheHandlerEndAtTheSwitch(t *testing.T) {
	var written atomic.Int64
	ended := make(chan struct{})
	p, _ := tunnelled(t, rawBackend(t, "a", echoing))
	p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
	p.Logger = noLog
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("X-Middleware", "yes")
		w.Header().Add("Set-Cookie", "of=middleware")
		p.ServeHTTP(noting{w, &written}, r)
	})
	c := dial(t, serve(t, h))
	res := c.open()
	wait(t, ended, "the end of the handler")
	require.Zero(t, written.Load())
	require.Equal(t, "yes", res.Header.Get("X-Middleware"), "its headers are on the 101")
	require.Equal(t, append([]string{"of=middleware"}, lbLines(res.Header)...), res.Header["Set-Cookie"])
	require.Len(t, lbLines(res.Header), 1)
	c.send("still open")
	c.expect("still open")
}

// A client that resets a WebSocket resets the target too, and the other way round, whatever
// transport the upgrade was sent over: what broke off does not look complete.
func TestProxy_W5_ResetsArePassedOn(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, given := range []bool{false, true} {
			for _, byClient := range []bool{false, true} {
				t.Run(fmt.Sprintf("secure=%t/given=%t/byClient=%t", secure, given, byClient), func(t *testing.T) {
					opened, seen := make(chan struct{}), make(chan error, 1)
					run := func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
						io.WriteString(conn, switching()+"begun")
						if byClient {
							_, err := r.ReadByte()
							seen <- err
							return
						}
						<-opened
						tunneltest.Reset(t, conn)
					}
					tgt := rawBackend(t, "a", run)
					var client *tls.Config
					if secure {
						var server *tls.Config
						server, client = serverTLS(t)
						tgt = rawBackendTLS(t, "a", server, run)
					}
					p, ends := tunnelled(t, tgt)
					if given {
						p.Transport = &http.Transport{TLSClientConfig: client}
					} else {
						p.BackendTLS = client
					}
					c := dial(t, serve(t, p))
					c.open()
					c.expect("begun")
					if byClient {
						tunneltest.Reset(t, c.Conn)
					} else {
						close(opened)
						_, err := c.ReadByte()
						seen <- err
					}
					require.ErrorIs(t, wait(t, seen, "end of the connection"), syscall.ECONNRESET)
					require.ErrorIs(t, wait(t, ends, "end of the tunnel").EndErr, syscall.ECONNRESET)
				})
			}
		}
	}
}
