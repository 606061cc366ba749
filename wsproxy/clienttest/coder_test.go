package clienttest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

func closeError(err error) (websocket.CloseError, bool) {
	return errors.AsType[websocket.CloseError](err)
}

// modes of compression, with the extension that both sides agree on.
var modes = map[string]struct {
	mode      websocket.CompressionMode
	extension string
}{
	"no compression":      {websocket.CompressionDisabled, ""},
	"context takeover":    {websocket.CompressionContextTakeover, "permessage-deflate"},
	"no context takeover": {websocket.CompressionNoContextTakeover, "permessage-deflate; client_no_context_takeover; server_no_context_takeover"},
}

// dial opens a WebSocket at the site.
func dial(t *testing.T, s *site, path string, o *websocket.DialOptions) (*websocket.Conn, *http.Response) {
	t.Helper()
	o.HTTPClient = &http.Client{Transport: onlyHTTP1(s)}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, s.URL+path, o)
	for err != nil && ctx.Err() == nil && res != nil && res.StatusCode == http.StatusGatewayTimeout {
		// The machine has stalled for longer than the proxy waits for a connection.
		c, res, err = websocket.Dial(ctx, s.URL+path, o)
	}
	require.NoError(t, err)
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(2 << 20)
	return c, res
}

// onlyHTTP1 is a transport for the site that keeps no connection.
func onlyHTTP1(s *site) *http.Transport {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots(s.Server)},
		Protocols:         new(http.Protocols),
		DisableKeepAlives: true,
	}
	tr.Protocols.SetHTTP1(true)
	return tr
}

// echo sends a message and requires it back.
func echo(t *testing.T, c *websocket.Conn, kind websocket.MessageType, message []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, c.Write(ctx, kind, message))
	expect(t, c, kind, message)
}

func expect(t *testing.T, c *websocket.Conn, kind websocket.MessageType, message []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	gotKind, got, err := c.Read(ctx)
	require.NoError(t, err)
	require.Equal(t, kind, gotKind)
	if string(message) != string(got) { // without a page of bytes
		require.FailNow(t, "another message", "%d bytes instead of %d", len(got), len(message))
	}
}

// expectClosing reads the end of the WebSocket.
func expectClosing(t *testing.T, c *websocket.Conn, want closing) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, _, err := c.Read(ctx)
	require.Equal(t, want, closingOf(err), "%v", err)
}

// TestCoder_W2_Conversation has coder/websocket on both ends.
func TestCoder_W2_Conversation(t *testing.T) {
	t.Parallel()
	for name, tt := range modes {
		t.Run(name, func(t *testing.T) {
			for _, scheme := range []string{"http", "https"} {
				closed := make(chan closing, 1)
				s := newSite(t, scheme, serve(t, scheme, echoing(tt.mode, closed)))
				c, res := dial(t, s, "/echo", &websocket.DialOptions{CompressionMode: tt.mode, Subprotocols: []string{"v1.echo", "v2.echo"}})
				require.Equal(t, tt.extension, res.Header.Get("Sec-WebSocket-Extensions"))
				require.Equal(t, "v2.echo", c.Subprotocol())
				for _, size := range sizes {
					echo(t, c, websocket.MessageBinary, noise(size))
					echo(t, c, websocket.MessageText, prose(size))
				}
				require.NoError(t, c.Close(4001, "enough"))
				require.Equal(t, closing{4001, "enough"}, wait(t, closed, "the close frame at the backend"))
				wait(t, s.ends, "the tunnel's end")

				c, _ = dial(t, s, "/close?code=4002&reason=not+today", &websocket.DialOptions{CompressionMode: tt.mode})
				expect(t, c, websocket.MessageText, []byte("hello"))
				expectClosing(t, c, closing{4002, "not today"})
				wait(t, s.ends, "the tunnel's end")
				s.idle(t)
			}
		})
	}
}

// TestCoder_W4_BothWaysAtOnce sends messages as fast as the connection takes them, and reads what comes back meanwhile.
func TestCoder_W4_BothWaysAtOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range modes {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "https", serve(t, "http", echoing(tt.mode, make(chan closing, 1))))
			c, _ := dial(t, s, "/echo", &websocket.DialOptions{CompressionMode: tt.mode})
			sent := make(chan error, 1)
			message := func(i int) []byte { return fmt.Appendf(noise(i*1777%(64<<10)), "message %d", i) }
			const n = 100
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				var err error
				for i := 0; i < n && err == nil; i++ {
					err = c.Write(ctx, websocket.MessageBinary, message(i))
				}
				sent <- err
			}()
			for i := range n {
				expect(t, c, websocket.MessageBinary, message(i))
			}
			require.NoError(t, wait(t, sent, "the last message is sent"))
		})
	}
}

// TestCoder_W2_PingPong pings from either end.
func TestCoder_W2_PingPong(t *testing.T) {
	t.Parallel()
	schemes(t, func(t *testing.T, front, back string) {
		s := newSite(t, front, serve(t, back, echoing(websocket.CompressionDisabled, make(chan closing, 1))))
		pings := make(chan string, 1)
		c, _ := dial(t, s, "/ping", &websocket.DialOptions{OnPingReceived: func(_ context.Context, payload []byte) bool {
			pings <- string(payload)
			return true
		}})
		expect(t, c, websocket.MessageText, []byte("ponged"))
		require.NotEmpty(t, wait(t, pings, "the backend's ping"))

		c, _ = dial(t, s, "/echo", &websocket.DialOptions{})
		ctx, cancel := context.WithTimeout(c.CloseRead(t.Context()), patience)
		defer cancel()
		for range 3 {
			require.NoError(t, c.Ping(ctx))
		}
	})
}

// TestCoder_W2_CompressionCounts looks at what went through the tunnel: with context takeover a message that is sent
// again costs next to nothing, although nothing can be saved within it.
func TestCoder_W2_CompressionCounts(t *testing.T) {
	t.Parallel()
	const times, size = 20, 4 << 10
	talk := func(t *testing.T, mode websocket.CompressionMode, message []byte) wsproxy.TunnelRecord {
		closed := make(chan closing, 1)
		s := newSite(t, "http", serve(t, "http", echoing(mode, closed)))
		c, _ := dial(t, s, "/echo", &websocket.DialOptions{CompressionMode: mode})
		for range times {
			echo(t, c, websocket.MessageBinary, message)
		}
		require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))
		return wait(t, s.ends, "the tunnel's end")
	}
	for name, tt := range map[string]struct {
		mode     websocket.CompressionMode
		message  []byte
		from, to int64
	}{
		"noise, no compression":      {websocket.CompressionDisabled, noise(size), times * size, times*size + 1000},
		"noise, no context takeover": {websocket.CompressionNoContextTakeover, noise(size), times * size, times*size + 1000},
		"noise, context takeover":    {websocket.CompressionContextTakeover, noise(size), size, times * size / 4},
		"prose, no compression":      {websocket.CompressionDisabled, prose(size), times * size, times*size + 1000},
		"prose, no context takeover": {websocket.CompressionNoContextTakeover, prose(size), times * 10, times * 100},
		"prose, context takeover":    {websocket.CompressionContextTakeover, prose(size), times * 5, times * 50},
	} {
		t.Run(name, func(t *testing.T) {
			end := talk(t, tt.mode, tt.message)
			for _, moved := range []int64{end.FromClient, end.FromBackend} {
				require.GreaterOrEqual(t, moved, tt.from)
				require.LessOrEqual(t, moved, tt.to)
			}
		})
	}
}

// TestCoder_W6_Farewell has the proxy end compressed connections: both sides see its code, and no message is cut.
func TestCoder_W6_Farewell(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		want closing
		end  func(t *testing.T, s *site)
	}{
		"shutdown": {closing{1001, ""}, func(t *testing.T, s *site) { require.NoError(t, s.proxy.Shutdown(t.Context())) }},
		"moving":   {closing{1012, ""}, func(_ *testing.T, s *site) { s.member().SetAdmin(balancer.Moving) }},
	} {
		t.Run(name, func(t *testing.T) {
			schemes(t, func(t *testing.T, front, back string) {
				closed := make(chan closing, 1)
				s := newSite(t, front, serve(t, back, echoing(websocket.CompressionContextTakeover, closed)))
				c, _ := dial(t, s, "/echo", &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
				echo(t, c, websocket.MessageText, prose(1<<16))
				seen := make(chan error, 1)
				go func() {
					_, _, err := c.Read(t.Context())
					seen <- err
				}()
				tt.end(t, s)
				require.Equal(t, tt.want, closingOf(wait(t, seen, "the close frame at the client")))
				require.Equal(t, tt.want, wait(t, closed, "the close frame at the backend"))
				s.idle(t)
			})
		})
	}
}
