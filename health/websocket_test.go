package health_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/wskey"
)

func TestWebSocket_B5_HandshakeWithARealServer(t *testing.T) {
	ends := make(chan error, 10)
	requests := make(chan *http.Request, 10)
	handler := websocket.Handler(func(ws *websocket.Conn) {
		requests <- ws.Request()
		_, err := ws.Read(make([]byte, 1))
		ends <- err
	})
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(handler)
	t.Cleanup(secure.Close)

	check := health.WebSocket{
		Path:   "/socket?x=1",
		Header: http.Header{"Origin": {"http://app.example"}, "Upgrade": {"nonsense"}, "Sec-Websocket-Key": {"nonsense"}},
		TLS:    secure.Client().Transport.(*http.Transport).TLSClientConfig,
	}
	for _, s := range []*httptest.Server{plain, secure} {
		require.NoError(t, probe(t, check, serverTarget(t, s), patience))
		got := <-requests
		require.Equal(t, "/socket?x=1", got.RequestURI)
		require.Equal(t, "http://app.example", got.Header.Get("Origin"))
		require.ErrorIs(t, <-ends, io.EOF, "the server sees a close frame and no broken connection")
	}
}

func TestWebSocket_B5_CloseFrameIsMaskedAndNormal(t *testing.T) {
	frames := make(chan []byte, 1)
	target := backend(t, "http", func(conn net.Conn) {
		accept(conn)
		frame, _ := io.ReadAll(conn)
		frames <- frame
	})
	require.NoError(t, probe(t, health.WebSocket{}, target, patience))
	frame := <-frames
	require.Len(t, frame, 8)
	require.Equal(t, []byte{0x88, 0x82}, frame[:2])
	require.Equal(t, []byte{0x03, 0xe8}, []byte{frame[6] ^ frame[2], frame[7] ^ frame[3]}) // 1000
}

// accept answers a WebSocket handshake as RFC 6455 requires, but replaces some of its text. pairs
// has old and new texts in turn.
func accept(conn net.Conn, pairs ...string) {
	var key string
	buf := make([]byte, 4096)
	n, _ := conn.Read(buf)
	for line := range strings.SplitSeq(string(buf[:n]), "\r\n") {
		if name, value, _ := strings.Cut(line, ": "); strings.EqualFold(name, "Sec-WebSocket-Key") {
			key = value
		}
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + wskey.Accept(key) + "\r\n\r\n"
	if len(pairs) > 1 {
		answer = strings.NewReplacer(pairs...).Replace(answer)
	}
	io.WriteString(conn, answer)
}

func TestWebSocket_B5_JudgesTheAnswer(t *testing.T) {
	answers := func(pairs ...string) func(net.Conn) {
		return func(conn net.Conn) { accept(conn, pairs...) }
	}
	tests := []struct {
		name  string
		serve func(net.Conn)
		want  string
	}{
		{"as it should be", answers(), ""},
		{"names in other cases, more tokens", answers("Upgrade: websocket", "upgrade: WebSocket", "Connection: Upgrade", "connection: keep-alive, upgrade"), ""},
		{"not found", says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "status 404, expected 101"},
		{"a plain page", says(ok), "status 200, expected 101"},
		{"another protocol", answers("Upgrade: websocket", "Upgrade: h2c"), "switched to something that is not a WebSocket"},
		{"no Connection", answers("Connection: Upgrade\r\n", ""), "switched to something that is not a WebSocket"},
		{"no key", answers("Sec-WebSocket-Accept", "X"), "the WebSocket accept key is wrong"},
		{"a cached answer", answers("Accept: ", "Accept: A"), "the WebSocket accept key is wrong"},
		{"closes", says(""), "connection closed without an answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := probe(t, health.WebSocket{}, backend(t, "http", tt.serve), patience)
			if tt.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, "health: "+tt.want)
			}
		})
	}
}
