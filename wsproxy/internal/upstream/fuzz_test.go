package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A tape is a connection to a target that says what is on it, in pieces of a size, and hears
// nothing.
type tape struct {
	net.Conn
	text   *bytes.Reader
	piece  int
	closed atomic.Bool
}

func (c *tape) Read(p []byte) (int, error)       { return c.text.Read(p[:min(len(p), c.piece)]) }
func (c *tape) Write(p []byte) (int, error)      { return len(p), nil }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }
func (c *tape) Close() error {
	c.closed.Store(true)
	return nil
}

// expected is what net/http makes of the bytes of a target: the first response that is not a 1xx,
// or a switch of protocols with all that follows.
func expected(t *testing.T, text []byte, method string) result {
	r := bufio.NewReaderSize(bytes.NewReader(text), 4<<10)
	if len(text) == 0 {
		return result{Failed: true}
	}
	for {
		res, err := http.ReadResponse(r, newRequest(t, method, "http://a.example", nil))
		if err != nil {
			return result{Failed: true}
		}
		switch {
		case res.StatusCode == http.StatusSwitchingProtocols && res.Header.Get("Upgrade") != "" && hasUpgrade(res.Header):
			res.Body = readWriter{r}
		case res.StatusCode/100 == 1 && res.StatusCode != http.StatusSwitchingProtocols:
			continue
		}
		return resultOf(res, nil)
	}
}

type readWriter struct{ io.Reader }

func (readWriter) Write(p []byte) (int, error) { return len(p), nil }
func (readWriter) Close() error                { return nil }

func hasUpgrade(h http.Header) bool {
	for _, line := range h["Connection"] {
		for token := range bytes.SplitSeq([]byte(line), []byte(",")) {
			if bytes.EqualFold(bytes.Trim(token, " \t"), []byte("upgrade")) {
				return true
			}
		}
	}
	return false
}

// FuzzTransport_ReadsWhatNetHTTPReads lets a target say anything. Whatever the pieces in which it
// comes, the result is that of http.ReadResponse, and the connection is closed or idle afterwards.
func FuzzTransport_ReadsWhatNetHTTPReads(f *testing.F) {
	for _, a := range answers {
		if len(a.text) < 10_000 {
			f.Add([]byte(a.text), uint16(7), a.method == http.MethodHead)
		}
	}
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nA: 1\r\nb: 2\r\nA:3 \r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n\r\no",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, close\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPragma: no-cache\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n folded\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA : b\r\nÄ: \u00e9\r\n\r\nok",
		"HTTP/1.1 200 O\tK\r\nContent-Length: 2\r\nA: \t b\tc \r\n\r\nok",
		"HTTP/1.1 200 OK\r\nA: b\r\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 99999 OK\r\nContent-Length: 2\r\n\r\nok",
	} {
		f.Add([]byte(text), uint16(1000), false)
	}
	f.Add([]byte("HTTP/1.1 101 X\r\nConnection: x, Upgrade\r\nUpgrade: x\r\n\r\nmore"), uint16(100), false)
	f.Add([]byte("HTTP/1.1 101 X\r\nConnection: Upgrade\r\n\r\nmore"), uint16(1), false)
	f.Fuzz(func(t *testing.T, text []byte, piece uint16, head bool) {
		if len(text) > 100_000 { // the limit of headers is not net/http's
			return
		}
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		var scratch upstream.Scratch
		require.Equal(t, "ok", play(t, []byte(ok), 1000, http.MethodGet, &scratch).Body)
		want := expected(t, text, method)
		for _, into := range []*upstream.Scratch{nil, &scratch} {
			require.Equal(t, want, play(t, text, int(piece)+1, method, into))
		}
	})
}

// play is the result of a request to a target that says the text.
func play(t *testing.T, text []byte, piece int, method string, into *upstream.Scratch) result {
	c := &tape{text: bytes.NewReader(text), piece: piece}
	rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	got := resultOf(rt.RoundTripTo(newRequest(t, method, "http://a.example", nil), upstream.Address{}, into))
	if got.Failed || got.BodyFailed || got.Close || got.Switched {
		require.True(t, c.closed.Load())
	}
	rt.CloseIdleConnections()
	require.True(t, c.closed.Load())
	if into != nil {
		into.Reset()
	}
	return got
}
