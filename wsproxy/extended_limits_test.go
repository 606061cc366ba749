package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// An h2Wire is a client of HTTP/2 that writes its own frames, and gives no more window than every
// stream has at first.
type h2Wire struct {
	*http2.Framer
	conn net.Conn
	t    testing.TB
}

// dialFrames connects and exchanges the settings.
func dialFrames(t testing.TB, srv *httptest.Server) *h2Wire {
	t.Helper()
	conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName, conf.NextProtos = "example.com", []string{"h2"}
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), conf)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	w := &h2Wire{http2.NewFramer(conn, conn), conn, t}
	require.NoError(t, w.WriteSettings())
	return w
}

// connect opens a tunnel on the connection's first stream.
func (w *h2Wire) connect() {
	w.t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"},
		{":path", "/chat"}, {":authority", "app.example"}} {
		require.NoError(w.t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	require.NoError(w.t, w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
}

// next is the next frame of the stream.
func (w *h2Wire) next() (http2.Frame, error) {
	for {
		f, err := w.ReadFrame()
		if err != nil || f.Header().StreamID == 1 {
			return f, err
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			if err := w.WriteSettingsAck(); err != nil {
				return nil, err
			}
		}
	}
}

// drink reads what the window has room for, and gives none back.
func (w *h2Wire) drink(window int) {
	w.t.Helper()
	f, err := w.next()
	require.NoError(w.t, err)
	require.IsType(w.t, &http2.HeadersFrame{}, f)
	for window > 0 {
		f, err := w.next()
		require.NoError(w.t, err)
		window -= len(f.(*http2.DataFrame).Data())
	}
	require.Zero(w.t, window)
}

// expectReset reads to the reset of the stream, with no end before it.
func (w *h2Wire) expectReset() {
	w.t.Helper()
	for {
		f, err := w.next()
		require.NoError(w.t, err)
		if _, ok := f.(*http2.RSTStreamFrame); ok {
			return
		}
		require.False(w.t, f.Header().Flags.Has(http2.FlagDataEndStream), "%v", f)
	}
}

const firstWindow = 65_535 // RFC 9113 section 6.9.2

// flooding opens a tunnel and sends without an end.
func flooding(conn net.Conn, _ *bufio.Reader, req *http.Request) {
	conn.SetDeadline(time.Time{})
	io.WriteString(conn, accepting(req))
	chunk := make([]byte, 64<<10)
	for {
		if _, err := conn.Write(chunk); err != nil {
			return
		}
	}
}

// answersLast is a play that echoes frames, but answers a close frame only when the client has. A
// stream whose target has ended waits for its client for no longer than a second, and a slow
// machine may need more than that.
func answersLast(conn net.Conn, r *bufio.Reader, req *http.Request) {
	io.WriteString(conn, accepting(req))
	var farewell []byte
	for {
		head, payload, err := readAnyFrame(r)
		if err != nil {
			conn.Write(farewell)
			return
		}
		answer := append([]byte{head, byte(len(payload))}, payload...)
		if head == 0x88 {
			farewell = answer
		} else {
			conn.Write(answer)
		}
	}
}

// A client that gives no window is cut, by each of those who may: the stream is reset, and the
// handler returns.
func TestProxy_W6_StuckStreamIsAborted(t *testing.T) {
	if !inExtended(t) {
		return
	}
	for name, cut := range map[string]struct {
		limits wsproxy.TunnelLimits
		do     func(t *testing.T, p *wsproxy.Proxy)
		by     string
	}{
		"Shutdown": {by: "shutdown", do: func(t *testing.T, p *wsproxy.Proxy) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, p.Shutdown(ctx), context.DeadlineExceeded)
		}},
		"down":     {by: "moved", do: func(t *testing.T, p *wsproxy.Proxy) { member(t, p.Pool, "a").SetAdmin(balancer.Down) }},
		"lifetime": {by: "lifetime", limits: wsproxy.TunnelLimits{Lifetime: time.Second, Jitter: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			p, ends := tunnelled(t, rawBackend(t, "a", flooding))
			p.Tunnels = cut.limits
			returned := make(chan struct{})
			w := dialFrames(t, serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(returned)
				p.ServeHTTP(w, r)
			})))
			w.connect()
			if cut.do != nil { // else the end may come before the window is used up
				w.drink(firstWindow)
				cut.do(t, p)
			}
			require.Equal(t, cut.by, wait(t, ends, "the end").EndedBy)
			w.expectReset()
			wait(t, returned, "the handler's end")
			idleMember(t, p.Pool, "a")
		})
	}
}

// One stuck stream delays no other one on its connection, and a shutdown asks that one politely.
func TestProxy_W6_StuckStreamHoldsUpNobody(t *testing.T) {
	if !inExtended(t) {
		return
	}
	flood := rawBackend(t, "flood", flooding)
	pool, picker := newPool(t, flood, rawBackend(t, "a", answersLast))
	p := &wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{Window: -1}}
	c := h2Front(t, p)
	c.open(t, nil) // and is not read from
	picker.to("a")
	w := c.open(t, nil).wire(t)
	w.send(maskedFrame(0x81, "hello"))
	require.Equal(t, "hello", string(readFrame(t, w).payload))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(ctx) }()
	code, _ := readFrame(t, w).closing(t)
	require.EqualValues(t, 1001, code)
	w.send(maskedFrame(0x88, "\x03\xe9"))
	w.expectEnd()
	idleMember(t, pool, "a")
	require.Empty(t, done, "the stuck one is waited for")
	cancel()
	require.ErrorIs(t, wait(t, done, "the end of Shutdown"), context.Canceled)
	idleMember(t, pool, "flood")
	_, res, err := c.tryOpen(nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "5", res.Header.Get("Retry-After"))
}

// A client whose connection takes nothing any more delays no tunnel's end, although its handler has
// to wait.
func TestProxy_W6_StuckConnectionHoldsUpNobody(t *testing.T) {
	if !inExtended(t) {
		return
	}
	p, ends := tunnelled(t, rawBackend(t, "a", flooding))
	switched := make(chan struct{})
	p.Trace.Done = func(*http.Request, wsproxy.Record) { close(switched) }
	w := dialFrames(t, serveTLS(t, p))
	require.NoError(t, w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}))
	require.NoError(t, w.WriteWindowUpdate(0, 1<<30))
	w.connect() // and then reads nothing
	wait(t, switched, "the switch")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Shutdown(ctx), context.DeadlineExceeded)
	require.Equal(t, "shutdown", wait(t, ends, "the end").EndedBy)
	idleMember(t, p.Pool, "a")
	w.conn.Close()
}

// A target that is moving says goodbye to streams as to connections.
func TestProxy_W6_MovingTargetSaysGoodbyeToStreams(t *testing.T) {
	if !inExtended(t) {
		return
	}
	p, ends := tunnelled(t, rawBackend(t, "a", answersLast))
	p.Tunnels.Window = -1
	w := h2Front(t, p).open(t, nil).wire(t)
	w.send(maskedFrame(0x81, "hello"))
	require.Equal(t, "hello", string(readFrame(t, w).payload))
	member(t, p.Pool, "a").SetAdmin(balancer.Moving)
	code, _ := readFrame(t, w).closing(t)
	require.EqualValues(t, 1012, code)
	w.send(maskedFrame(0x88, "\x03\xf4"))
	w.expectEnd()
	end := wait(t, ends, "the end")
	require.Equal(t, "moved", end.EndedBy)
	require.EqualValues(t, 1012, end.ClientCode)
	require.EqualValues(t, 1012, end.BackendCode)
}

// The server's deadlines are for requests and responses.
func TestProxy_W5_StreamOutlivesTheServersTimeouts(t *testing.T) {
	if !inExtended(t) {
		return
	}
	const timeout = time.Second
	p, _ := tunnelled(t, rawBackend(t, "a", acceptingEcho))
	p.Tunnels.Handshake = timeout
	srv := httptest.NewUnstartedServer(quiet(p))
	prepare(srv, func(s *http.Server) { s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = timeout, timeout, timeout })
	srv.EnableHTTP2 = true
	srv.StartTLS()
	cleanUp(t, srv, p)
	var c *h2Conn
	require.Eventually(t, func() bool { // a slow machine may need more than one handshake
		conn, res, err := newH2Client(t, srv).tryOpen(nil)
		c = conn
		return err == nil && res.StatusCode == http.StatusOK
	}, patience, time.Millisecond)
	t.Cleanup(func() { c.Reset() })
	w := c.wire(t)
	for start := time.Now(); time.Since(start) < 2*timeout; {
		w.send("more")
		w.expect("more")
	}
}

// What a stream's tunnel needs of a ResponseWriter is asked for before the target is.
func TestProxy_W3_WriterThatCannotStream(t *testing.T) {
	if !inExtended(t) {
		return
	}
	for name, tt := range map[string]struct {
		wrap   func(http.ResponseWriter) http.ResponseWriter
		status int
	}{
		"bare":       {func(w http.ResponseWriter) http.ResponseWriter { return bare{w} }, http.StatusNotImplemented},
		"flushes":    {func(w http.ResponseWriter) http.ResponseWriter { return flushing{bare{w}, w.(http.Flusher)} }, http.StatusNotImplemented},
		"unwrapping": {func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{bare{w}} }, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 1)
			p, _ := tunnelled(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				asked <- struct{}{}
				acceptingEcho(conn, r, req)
			}))
			p.Logger = noLog
			conn := newH2Client(t, serveTLS(t, wrapped(p, tt.wrap))).connect(t, "websocket")
			require.Equal(t, tt.status, conn.res.StatusCode)
			require.Equal(t, tt.status == http.StatusOK, len(asked) == 1)
			conn.CloseWrite()
			conn.Reset()
			idleMember(t, p.Pool, "a")
		})
	}
}

type flushing struct {
	bare
	http.Flusher
}

// A middleware that panics in the middle of a tunnel takes nobody with it.
func TestProxy_W5_PanickingWriterEndsTheTunnel(t *testing.T) {
	if !inExtended(t) {
		return
	}
	p, ends := tunnelled(t, rawBackend(t, "a", acceptingEcho))
	p.Logger = noLog
	recovered := make(chan any, 1)
	srv := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			recovered <- recover()
			panic(http.ErrAbortHandler)
		}()
		p.ServeHTTP(panicsOnWrite{w}, r)
	}))
	w := newH2Client(t, srv).open(t, nil).wire(t)
	w.send("hello")
	require.Equal(t, "no Write", wait(t, recovered, "the panic"))
	wait(t, ends, "the end")
	w.expectClosed()
	idleMember(t, p.Pool, "a")
}

type panicsOnWrite struct{ http.ResponseWriter }

func (w panicsOnWrite) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (panicsOnWrite) Write([]byte) (int, error) { panic("no Write") }

// A pattern of http.ServeMux without a method matches a CONNECT, one with GET does not.
func TestProxy_W2_ExtendedConnectThroughServeMux(t *testing.T) {
	if !inExtended(t) {
		return
	}
	p, _ := tunnelled(t, rawBackend(t, "a", acceptingEcho))
	p.Logger = noLog
	for pattern, status := range map[string]int{"/chat": 200, "CONNECT /chat": 200, "GET /chat": 405} {
		mux := http.NewServeMux()
		mux.Handle(pattern, p)
		conn := newH2Client(t, serveTLS(t, mux)).connect(t, "websocket")
		require.Equal(t, status, conn.res.StatusCode, pattern)
		conn.CloseWrite()
		conn.Reset()
	}
	idleMember(t, p.Pool, "a")
}
