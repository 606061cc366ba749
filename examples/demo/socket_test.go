package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A script is a connection whose peer has said everything already.
type script struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// play has a socket read what the peer sends, until its error, and returns the messages and what
// was written.
func play(input []byte) (texts []string, output []byte, err error) {
	conn := &script{in: bytes.NewReader(input)}
	s := &socket{conn: conn, r: bufio.NewReader(conn)}
	for {
		text, err := s.read()
		if err != nil {
			return texts, conn.out.Bytes(), err
		}
		texts = append(texts, text)
	}
}

// masked is a client's frame: first holds FIN, the reserved bits and the opcode.
func masked(first byte, payload string) []byte {
	b := appendFrame(nil, 0, []byte(payload))
	header := len(b) - len(payload)
	b[0], b[1] = first, b[1]|0x80
	mask := []byte{0x37, 0xfa, 0x21, 0x3d}
	frame := append(bytes.Clone(b[:header]), mask...)
	for i := range len(payload) {
		frame = append(frame, payload[i]^mask[i%4])
	}
	return frame
}

// closing is the server's close frame.
func closing(code uint16) []byte {
	return appendFrame(nil, opClose, binary.BigEndian.AppendUint16(nil, code))
}

const (
	final = 0x80
	text  = final | opText

	goingAway = 1001
)

func TestSocketRead(t *testing.T) {
	long := strings.Repeat("x", maxMessage)
	tests := map[string]struct {
		in    []byte
		texts []string
		out   []byte
	}{
		"the frame of RFC 6455, section 5.7": {
			in:    []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58},
			texts: []string{"Hello"},
		},
		"two messages":             {in: join(masked(text, "a"), masked(text, "")), texts: []string{"a", ""}},
		"126 octets":               {in: masked(text, long[:126]), texts: []string{long[:126]}},
		"the longest":              {in: masked(text, long), texts: []string{long}},
		"too long":                 {in: masked(text, long+"x"), out: closing(closeTooBig)},
		"too long in two":          {in: join(masked(opText, long), masked(final, "x")), out: closing(closeTooBig)},
		"fragments":                {in: join(masked(opText, "a"), masked(0, "b"), masked(final, "c")), texts: []string{"abc"}},
		"a ping among fragments":   {in: join(masked(opText, "a"), masked(final|opPing, "?"), masked(final, "b")), texts: []string{"ab"}, out: appendFrame(nil, opPong, []byte("?"))},
		"a rune in two fragments":  {in: join(masked(opText, "\xc3"), masked(final, "\xa4")), texts: []string{"ä"}},
		"a pong unasked":           {in: join(masked(final|opPong, "!"), masked(text, "a")), texts: []string{"a"}},
		"a long ping":              {in: masked(final|opPing, long[:126]), out: closing(closeProtocol)},
		"the longest ping":         {in: masked(final|opPing, long[:125]), out: appendFrame(nil, opPong, []byte(long[:125]))},
		"a fragmented ping":        {in: masked(opPing, ""), out: closing(closeProtocol)},
		"close":                    {in: masked(final|opClose, "\x03\xe9bye"), out: closing(goingAway)},
		"close without a code":     {in: masked(final|opClose, ""), out: closing(closeNormal)},
		"close, then a message":    {in: join(masked(final|opClose, ""), masked(text, "a")), out: closing(closeNormal)},
		"close with half a code":   {in: masked(final|opClose, "\x03"), out: closing(closeProtocol)},
		"close with code 1005":     {in: masked(final|opClose, "\x03\xed"), out: closing(closeProtocol)},
		"close with code 999":      {in: masked(final|opClose, "\x03\xe7"), out: closing(closeProtocol)},
		"close with code 4000":     {in: masked(final|opClose, "\x0f\xa0"), out: closing(4000)},
		"close with odd reason":    {in: masked(final|opClose, "\x03\xe8\xff"), out: closing(closeProtocol)},
		"binary":                   {in: masked(final|opBinary, "a"), out: closing(closeUnsupported)},
		"not UTF-8":                {in: masked(text, "a\xff"), out: closing(closeInvalid)},
		"not masked":               {in: []byte{text, 1, 'a'}, out: closing(closeProtocol)},
		"a reserved bit":           {in: masked(text|0x40, "a"), out: closing(closeProtocol)},
		"a reserved opcode":        {in: masked(final|0x3, "a"), out: closing(closeProtocol)},
		"a reserved control":       {in: masked(final|0xB, ""), out: closing(closeProtocol)},
		"a fragment of nothing":    {in: masked(final, "a"), out: closing(closeProtocol)},
		"text within a message":    {in: join(masked(opText, "a"), masked(text, "b")), out: closing(closeProtocol)},
		"a length in 16 bits":      {in: []byte{text, 0x80 | 126, 0, 125}, out: closing(closeProtocol)},
		"a length in 64 bits":      {in: []byte{text, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}, out: closing(closeProtocol)},
		"a negative length":        {in: []byte{text, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0}, out: closing(closeProtocol)},
		"an unbelievable length":   {in: []byte{text, 0x80 | 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, out: closing(closeTooBig)},
		"the end in a payload":     {in: masked(text, "abc")[:7]},
		"the end in a long length": {in: []byte{text, 0x80 | 126, 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			texts, out, err := play(tt.in)
			require.Error(t, err)
			require.Equal(t, tt.texts, texts)
			require.Equal(t, tt.out, out)
			if strings.HasPrefix(name, "the end") {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
		})
	}
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func TestSocketWrite(t *testing.T) {
	for _, n := range []int{0, 125, 126, 0xFFFF, 0x10000} {
		conn := &script{}
		s := &socket{conn: conn}
		payload := strings.Repeat("x", n)
		require.NoError(t, s.send(payload))
		f, rest := serverFrame(t, conn.out.Bytes())
		require.Equal(t, frame{true, opText, []byte(payload)}, f)
		require.Empty(t, rest)
	}
	conn := &script{}
	s := &socket{conn: conn}
	s.close(goingAway)
	s.close(closeNormal)
	require.ErrorIs(t, s.send("late"), net.ErrClosed)
	require.Equal(t, closing(goingAway), conn.out.Bytes(), "nothing follows a close frame")
}

// serverFrame reads a frame that a server wrote.
func serverFrame(t *testing.T, b []byte) (f frame, rest []byte) {
	t.Helper()
	require.GreaterOrEqual(t, len(b), 2)
	require.Zero(t, b[1]&0x80, "a server does not mask")
	n, header := int(b[1]), 2
	switch n {
	case 126:
		n, header = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		n, header = int(binary.BigEndian.Uint64(b[2:])), 10
	}
	require.GreaterOrEqual(t, len(b), header+n)
	return frame{b[0]&0x80 != 0, b[0] & 0x0F, b[header : header+n]}, b[header+n:]
}

func FuzzSocket(f *testing.F) {
	f.Add(join(masked(opText, "a"), masked(final|opPing, "?"), masked(final, "b")))
	f.Add(masked(text, strings.Repeat("x", 126)))
	f.Add(masked(final|opClose, "\x03\xe9bye"))
	f.Add([]byte{text, 0x80 | 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, input []byte) {
		texts, out, err := play(input)
		require.Error(t, err)
		for _, text := range texts {
			require.LessOrEqual(t, len(text), maxMessage)
			again, _, _ := play(masked(0x80|opText, text))
			require.Equal(t, []string{text}, again)
		}
		closed := false
		for len(out) > 0 {
			require.False(t, closed, "nothing follows a close frame")
			var f frame
			f, out = serverFrame(t, out)
			require.True(t, f.final)
			require.Contains(t, []byte{opPong, opClose}, f.opcode)
			closed = f.opcode == opClose
		}
		_, wrong := errors.AsType[*protocolError](err)
		require.Equal(t, wrong || errors.Is(err, io.EOF) && closed, closed)
	})
}

func TestHandshake(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, err := acceptSocket(w, r); err == nil {
			s.conn.Close()
		}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	tests := map[string]struct {
		change map[string]string
		want   int
	}{
		"as a browser":          {map[string]string{"Origin": server.URL}, http.StatusSwitchingProtocols},
		"as a program":          {nil, http.StatusSwitchingProtocols},
		"of an older fox":       {map[string]string{"Connection": "keep-alive, Upgrade"}, http.StatusSwitchingProtocols},
		"of another origin":     {map[string]string{"Origin": "http://elsewhere.example"}, http.StatusForbidden},
		"of another port":       {map[string]string{"Origin": "http://127.0.0.1:1"}, http.StatusForbidden},
		"of no origin":          {map[string]string{"Origin": "null"}, http.StatusForbidden},
		"no upgrade":            {map[string]string{"Upgrade": ""}, http.StatusUpgradeRequired},
		"another protocol":      {map[string]string{"Upgrade": "h2c"}, http.StatusUpgradeRequired},
		"not of the connection": {map[string]string{"Connection": "keep-alive"}, http.StatusUpgradeRequired},
		"an older version":      {map[string]string{"Sec-WebSocket-Version": "8"}, http.StatusUpgradeRequired},
		"no key":                {map[string]string{"Sec-WebSocket-Key": ""}, http.StatusBadRequest},
		"a short key":           {map[string]string{"Sec-WebSocket-Key": "YWJj"}, http.StatusBadRequest},
		"no base64":             {map[string]string{"Sec-WebSocket-Key": "????"}, http.StatusBadRequest},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
			require.NoError(t, err)
			r.Header = http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
				"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, // of RFC 6455, section 1.3
			}
			for field, value := range tt.change {
				r.Header.Set(field, value)
				if value == "" {
					r.Header.Del(field)
				}
			}
			require.Equal(t, host, r.Host)
			res, err := http.DefaultTransport.RoundTrip(r)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, tt.want, res.StatusCode)
			switch tt.want {
			case http.StatusSwitchingProtocols:
				require.Equal(t, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", res.Header.Get("Sec-WebSocket-Accept"))
			case http.StatusUpgradeRequired:
				require.Equal(t, "13", res.Header.Get("Sec-WebSocket-Version"))
				require.Equal(t, "websocket", res.Header.Get("Upgrade"))
			}
		})
	}
}
