package main

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHead(t *testing.T) {
	tests := map[string]struct {
		text string
		want head
	}{
		"request": {"GET /small HTTP/1.1\r\nhost: localhost\r\n\r\n", head{first: []byte("GET /small HTTP/1.1")}},
		"length, any case": {"HTTP/1.1 200 OK\r\ncontent-LENGTH:  12 \r\n\r\n",
			head{first: []byte("HTTP/1.1 200 OK"), length: 12}},
		"HTTP/1.0 ends":     {"GET / HTTP/1.0\r\n\r\n", head{first: []byte("GET / HTTP/1.0"), close: true}},
		"Connection: close": {"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", head{first: []byte("GET / HTTP/1.1"), close: true}},
		"keep-alive stays":  {"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", head{first: []byte("GET / HTTP/1.1")}},
		"cookies without attributes": {"HTTP/1.1 200 OK\r\nSet-Cookie: A=1; Path=/\r\nset-cookie: B=2\r\nX-Backend: b\r\n\r\n",
			head{first: []byte("HTTP/1.1 200 OK"), cookies: []byte("A=1; B=2"), backend: []byte("b")}},
		"handshake": {"GET /ws HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k==\r\n\r\n",
			head{first: []byte("GET /ws HTTP/1.1"), socket: true, key: []byte("k==")}},
	}
	var h head
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(tt.text + "rest"))
			require.NoError(t, h.read(r), "into one that was used")
			for _, b := range []*[]byte{&h.backend, &h.cookies, &h.key} {
				if len(*b) == 0 {
					*b = nil
				}
			}
			require.Equal(t, tt.want, h)
			rest, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, "rest", string(rest))
		})
	}
}

func TestHead_Refused(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"end":             {"", "EOF"},
		"end in the line": {"GET / HT", "unexpected EOF"},
		"end in a header": {"GET / HTTP/1.1\r\nHost: x\r\n", "unexpected EOF"},
		"chunked":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer encoding"},
		"length":          {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no content length"},
		"no field":        {"HTTP/1.1 200 OK\r\nwhat\r\n\r\n", `no header field: "what"`},
		"long line":       {"GET /" + strings.Repeat("x", 5000), "buffer full"},
		"long header":     {"GET / HTTP/1.1\r\n" + strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 17) + "\r\n", "too long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var h head
			require.ErrorContains(t, h.read(bufio.NewReader(strings.NewReader(tt.text))), tt.want)
		})
	}
}

func TestHead_Word(t *testing.T) {
	h := head{first: []byte("HTTP/1.1 404 Not Found")}
	require.Equal(t, "HTTP/1.1", string(h.word(0)))
	require.Equal(t, "404", string(h.word(1)))
	require.Equal(t, "Found", string(h.word(3)))
	require.Empty(t, h.word(4))
}

func TestFrame(t *testing.T) {
	for _, length := range []int{0, 1, 125, 126, 0xFFFF, 0x10000, maxPayload} {
		for _, masked := range []bool{false, true} {
			f := frame{opcode: opBinary, masked: masked, length: length}
			if masked {
				f.key = [4]byte{1, 2, 3, 4}
			}
			got, err := readFrame(bufio.NewReader(bytes.NewReader(f.append(nil))))
			require.NoError(t, err)
			require.Equal(t, f, got)
		}
	}
	// The example of RFC 6455, section 5.7: a masked "Hello".
	hello := []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}
	f, err := readFrame(bufio.NewReader(bytes.NewReader(hello)))
	require.NoError(t, err)
	mask(hello[6:], f.key)
	require.Equal(t, "Hello", string(hello[6:]))
}

func TestFrame_Refused(t *testing.T) {
	tests := map[string]struct {
		octets []byte
		want   string
	}{
		"none":         {nil, "EOF"},
		"half":         {[]byte{0x82}, "unexpected EOF"},
		"half length":  {[]byte{0x82, 126, 1}, "unexpected EOF"},
		"half key":     {[]byte{0x82, 0x81, 1}, "unexpected EOF"},
		"fragment":     {[]byte{0x02, 1}, "no whole message"},
		"reserved bit": {[]byte{0xC2, 1}, "no whole message"},
		"too long":     {frame{opcode: opBinary, length: maxPayload + 1}.append(nil), "too long"},
		"huge":         {[]byte{0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255}, "too long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := readFrame(bufio.NewReader(bytes.NewReader(tt.octets)))
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestMask(t *testing.T) {
	key := [4]byte{0x11, 0x22, 0x44, 0x88}
	for length := range 40 {
		payload := slices.Clone(content[:length])
		mask(payload, key)
		for i, b := range payload {
			require.Equal(t, content[i]^key[i%4], b)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frame{opcode: opBinary, length: 5}.append(nil))
	f.Add(frame{opcode: opClose, masked: true, key: [4]byte{1, 2, 3, 4}, length: 126}.append(nil))
	f.Add(frame{opcode: opBinary, masked: true, length: 0x10000}.append(nil))
	f.Add([]byte{0x82, 126, 0, 1}) // not the shortest form
	f.Fuzz(func(t *testing.T, octets []byte) {
		got, err := readFrame(bufio.NewReader(bytes.NewReader(octets)))
		if err != nil {
			return
		}
		require.LessOrEqual(t, got.length, maxPayload)
		again, err := readFrame(bufio.NewReader(bytes.NewReader(got.append(nil))))
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 200 OK\nContent-Length: 7\nSet-Cookie: A=1; Path=/\nSet-Cookie: B\n\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, octets []byte) {
		var fresh, used head
		err := fresh.read(bufio.NewReader(bytes.NewReader(octets)))
		require.NoError(t, used.read(bufio.NewReader(strings.NewReader("HTTP/1.0 200\r\nSet-Cookie: a=b\r\nX-Backend: c\r\n"+
			"Content-Length: 3\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"))))
		again := used.read(bufio.NewReader(bytes.NewReader(octets)))
		require.Equal(t, err, again)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, fresh.length, int64(0))
		require.Equal(t, string(fresh.first), string(used.first), "nothing is left of an earlier message")
		require.Equal(t, string(fresh.cookies), string(used.cookies))
		require.Equal(t, string(fresh.backend), string(used.backend))
		require.Equal(t, string(fresh.key), string(used.key))
		require.Equal(t, []any{fresh.length, fresh.close, fresh.socket}, []any{used.length, used.close, used.socket})
		for i := range 5 {
			fresh.word(i)
		}
	})
}
