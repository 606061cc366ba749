package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health/wskey"
)

// A ws is a WebSocket over a stream of HTTP/3.
type ws struct {
	conn   *quic.Conn
	stream *http3.RequestStream
	read   *bufio.Reader
}

// connect sends an extended CONNECT on a connection of its own, and returns the answer to it.
func (s *site) connect(t *testing.T, protocol, path string, header http.Header) (*ws, *http.Response) {
	t.Helper()
	conf := s.conf.Clone()
	conf.NextProtos, conf.ServerName = []string{http3.NextProtoH3}, "127.0.0.1"
	conn, err := quic.DialAddr(limited(t), s.address, conf, &quic.Config{MaxIdleTimeout: patience})
	require.NoError(t, err)
	t.Cleanup(func() { conn.CloseWithError(0, "") })
	client := (&http3.Transport{DisableCompression: true}).NewClientConn(conn)
	wait(t, client.ReceivedSettings(), "the settings")
	require.True(t, client.Settings().EnableExtendedConnect, "it is announced")
	stream, err := client.OpenRequestStream(limited(t))
	require.NoError(t, err)
	req, err := http.NewRequest(http.MethodConnect, s.url(path), nil)
	require.NoError(t, err)
	req.Proto, req.Header = protocol, http.Header{"Sec-Websocket-Version": {"13"}, "Origin": {s.url("")}}
	maps.Copy(req.Header, header)
	require.NoError(t, stream.SendRequestHeader(req))
	res, err := stream.ReadResponse()
	require.NoError(t, err)
	return &ws{conn, stream, bufio.NewReader(stream)}, res
}

// dial opens a WebSocket.
func (s *site) dial(t *testing.T, path string, header http.Header) *ws {
	t.Helper()
	c, res := s.connect(t, "websocket", path, header)
	require.Equal(t, http.StatusOK, res.StatusCode)
	return c
}

// write sends a frame. Its mask is zero.
func (c *ws) write(t *testing.T, opcode byte, payload string) {
	t.Helper()
	b := []byte{0x80 | opcode, 0x80 | 127}
	b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	if len(payload) < 126 {
		b = []byte{0x80 | opcode, 0x80 | byte(len(payload))}
	} else if len(payload) < 1<<16 {
		b = binary.BigEndian.AppendUint16([]byte{0x80 | opcode, 0x80 | 126}, uint16(len(payload)))
	}
	_, err := c.stream.Write(append(append(b, 0, 0, 0, 0), payload...))
	require.NoError(t, err)
}

func (c *ws) send(t *testing.T, text string) {
	t.Helper()
	c.write(t, 1, text)
}

// frame reads a frame.
func (c *ws) frame(t *testing.T) (opcode byte, payload string) {
	t.Helper()
	head := make([]byte, 2, 10)
	_, err := io.ReadFull(c.read, head)
	require.NoError(t, err)
	length := uint64(head[1])
	more := map[uint64]int{126: 2, 127: 8}[length]
	_, err = io.ReadFull(c.read, head[2:2+more])
	require.NoError(t, err)
	switch more {
	case 2:
		length = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 8:
		length = binary.BigEndian.Uint64(head[2:10])
	}
	body := make([]byte, length)
	_, err = io.ReadFull(c.read, body)
	require.NoError(t, err)
	return head[0] & 15, string(body)
}

func (c *ws) receive(t *testing.T) string {
	t.Helper()
	opcode, payload := c.frame(t)
	require.Equal(t, byte(1), opcode)
	return payload
}

// 10 WebSockets send 20 messages each, up to 100 KB. A session's WebSocket reaches the backend that
// its requests reach.
func TestWebSocket(t *testing.T) {
	s := start(t, newBackend("app-1"), newBackend("app-2"))
	met := make(map[string]bool)
	for range 10 {
		res, home := get(t, s.client(t, 3), s.url("/name"))
		cookie, _, _ := strings.Cut(res.Header.Get("Set-Cookie"), ";")
		c := s.dial(t, "/ws", http.Header{"Cookie": {cookie}})
		for i := range 20 {
			text := strings.Repeat("x", 1+i*i*277)
			c.send(t, text)
			require.Equal(t, home+": "+text, c.receive(t))
		}
		c.write(t, 8, "\x03\xe8")
		_, err := io.ReadAll(c.read)
		require.NoError(t, err, "the stream ends well")
		met[home] = true
	}
	require.Len(t, met, 2)
	require.Eventually(t, func() bool { return s.lb.Pool.Members()[0].Load()+s.lb.Pool.Members()[1].Load() == 0 }, patience, glance)
}

func TestWebSocketRefused(t *testing.T) {
	s := start(t, newBackend("app-1"))
	for protocol, want := range map[string]int{"WebSocket": 200, "connect-udp": 501, "webtransport": 501, "HTTP/1.1": 405} { // quic-go's client sends a plain CONNECT for the last one
		_, res := s.connect(t, protocol, "/ws", nil)
		require.Equal(t, want, res.StatusCode, protocol)
	}
	_, res := s.connect(t, "websocket", "/name", nil)
	require.Equal(t, http.StatusBadGateway, res.StatusCode, "a 2xx instead of a 101")
	_, res = s.connect(t, "websocket", "/none", nil)
	require.Equal(t, http.StatusNotFound, res.StatusCode)
}

// What ends a WebSocket at one side ends it at the other, and looks broken when it is.
func TestWebSocketEnds(t *testing.T) {
	open, ended := make(chan net.Conn, 1), make(chan error, 1)
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			ended <- err
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "+wskey.Accept(r.Header.Get("Sec-Websocket-Key"))+"\r\n\r\n\x81\x02hi")
		open <- conn
		_, err = io.Copy(io.Discard, rw)
		conn.Close()
		ended <- err
	}))
	reset := quic.StreamErrorCode(http3.ErrCodeRequestCanceled)
	for name, play := range map[string]func(c *ws, backend net.Conn){
		"the client ends its stream": func(c *ws, _ net.Conn) {
			require.NoError(t, c.stream.Close())
			require.NoError(t, wait(t, ended, "the end"))
			_, err := io.ReadAll(c.read)
			require.NoError(t, err)
		},
		"the client resets its stream": func(c *ws, _ net.Conn) {
			c.stream.CancelWrite(reset)
			c.stream.CancelRead(reset)
			wait(t, ended, "the end")
		},
		"the client resets only what it sends": func(c *ws, _ net.Conn) {
			c.stream.CancelWrite(reset)
			wait(t, ended, "the end")
		},
		"the client's connection ends": func(c *ws, _ net.Conn) {
			require.NoError(t, c.conn.CloseWithError(0, ""))
			wait(t, ended, "the end")
		},
		"the backend ends": func(c *ws, backend net.Conn) {
			require.NoError(t, backend.(*net.TCPConn).CloseWrite())
			_, err := io.ReadAll(c.read)
			require.NoError(t, err)
			wait(t, ended, "the end")
		},
		"the backend resets": func(c *ws, backend net.Conn) {
			require.NoError(t, backend.(*net.TCPConn).SetLinger(0))
			require.NoError(t, backend.Close())
			_, err := io.ReadAll(c.read)
			require.Error(t, err, "it must not look complete")
			wait(t, ended, "the end")
		},
		"the backend is taken down while the client does not read": func(c *ws, backend net.Conn) {
			var wrote atomic.Int64
			written := make(chan error, 1)
			go func() {
				for {
					n, err := backend.Write(make([]byte, 1<<16))
					if wrote.Add(int64(n)); err != nil {
						written <- err
						return
					}
				}
			}()
			for same, last := 0, int64(-1); same < 50; time.Sleep(glance) { // everything is full
				if now := wrote.Load(); now != last || now == 0 {
					same, last = 0, now
				}
				same++
			}
			m := s.lb.Pool.Members()[0]
			m.SetAdmin(balancer.Down)
			require.Error(t, wait(t, written, "the end of the write"))
			wait(t, ended, "the end")
			_, err := io.ReadAll(c.read)
			require.Error(t, err, "it must not look complete")
			m.SetAdmin(balancer.Ready)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(t, "/", nil)
			backend := wait(t, open, "the backend")
			require.Equal(t, "hi", c.receive(t), "what comes with the 101")
			play(c, backend)
			require.Eventually(t, func() bool { return s.lb.Pool.Members()[0].Load() == 0 }, patience, glance, "a lease is left")
		})
	}
}
