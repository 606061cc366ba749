package wsproxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stickylb/stickylb/wsproxy"
)

// ask sends a request without a body on a stream of its own.
func (w *h2Wire) ask(stream uint32, method, path string) {
	w.t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", method}, {":scheme", "https"}, {":path", path}, {":authority", "app.example"}} {
		require.NoError(w.t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	require.NoError(w.t, w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(),
		EndHeaders: true, EndStream: true}))
}

// frames reads a stream to its end, and returns its frames: H for HEADERS, D and its length for
// DATA, each with a dot if it ends the stream, and RST.
func (w *h2Wire) frames(stream uint32) (seen []string) {
	w.t.Helper()
	for {
		f, err := w.ReadFrame()
		require.NoError(w.t, err)
		if f.Header().StreamID != stream {
			continue
		}
		frame := ""
		switch f := f.(type) {
		case *http2.HeadersFrame:
			frame = "H"
		case *http2.DataFrame:
			frame = fmt.Sprint("D", len(f.Data()))
		case *http2.RSTStreamFrame:
			return append(seen, "RST")
		default:
			continue
		}
		if f.Header().Flags.Has(http2.FlagDataEndStream) {
			return append(seen, frame+".")
		}
		seen = append(seen, frame)
	}
}

// An answer that is at hand takes no more frames over HTTP/2 than net/http's server needs for it:
// no flush of the proxy's splits it. A break resets the stream.
func TestProxy_W11_FramesOfHTTP2(t *testing.T) {
	t.Parallel()
	known := func(n int) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n))
	}
	for name, tt := range map[string]struct{ method, answer, frames string }{
		"small":         {"GET", known(100), "H D100."},
		"empty":         {"GET", known(0), "H."},
		"HEAD":          {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "H."},
		"204":           {"GET", "HTTP/1.1 204 No Content\r\n\r\n", "H."},
		"304":           {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", "H."},
		"the buffer":    {"GET", known(3900), "H D3900."},
		"hint":          {"GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + known(100), "H H D100."},
		"with trailers": {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n", "H D4 H."},
		"without any":   {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "H D4 D0."},
		"broken off":    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbody", "H D4 RST"},
		"broken chunk":  {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n4\r\nbo", "H D6 RST"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
				io.WriteString(conn, tt.answer)
			}))
			w := dialFrames(t, serveTLS(t, &wsproxy.Proxy{Pool: pool}))
			w.ask(1, tt.method, "/")
			require.Equal(t, tt.frames, strings.Join(w.frames(1), " "))
		})
	}
}

// A client that gives a stream no more window, and then resets it, delays no other stream of its
// connection, and the target learns of the reset.
func TestProxy_W11_StreamsOfHTTP2AreIndependent(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 1)
	pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, r *http.Request) {
		if r.URL.Path != "/endless" {
			io.WriteString(conn, benchAnswer)
			return
		}
		conn.SetDeadline(time.Time{})
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		chunk := make([]byte, 64<<10)
		for {
			if _, err := conn.Write(chunk); err != nil {
				gone <- struct{}{}
				return
			}
		}
	}))
	w := dialFrames(t, serveTLS(t, &wsproxy.Proxy{Pool: pool}))
	require.NoError(t, w.WriteWindowUpdate(0, 1<<20)) // for all streams together
	w.ask(1, http.MethodGet, "/endless")
	w.drink(firstWindow)
	w.ask(3, http.MethodGet, "/")
	require.Equal(t, []string{"H", "D100."}, w.frames(3))
	require.NoError(t, w.WriteRSTStream(1, http2.ErrCodeCancel))
	wait(t, gone, "the end of the target's connection")
	w.ask(5, http.MethodGet, "/")
	require.Equal(t, []string{"H", "D100."}, w.frames(5))
}
