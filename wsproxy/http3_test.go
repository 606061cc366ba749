package wsproxy_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health/wskey"
	"github.com/stickylb/stickylb/wsproxy"
)

// These tests call the handler as a server of HTTP/3 does. Those of examples/http3 have quic-go's.

func over3(method, path string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, path, body)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/3.0", 3, 0
	return r
}

func poolWith(t *testing.T, url string) *balancer.Pool {
	pool, _ := newPool(t, target("a", url))
	return pool
}

// A server of HTTP/3 has no http.ServerContextKey, without which ReverseProxy does not panic.
func TestProxy_W15_BreakOverHTTP3(t *testing.T) {
	t.Parallel()
	for name, length := range map[string]string{"known length": "100", "unknown length": ""} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				io.WriteString(w, "half of it")
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}))
			defer srv.Close()
			p := &wsproxy.Proxy{Pool: poolWith(t, srv.URL)}
			w := httptest.NewRecorder()
			require.PanicsWithValue(t, http.ErrAbortHandler, func() { p.ServeHTTP(w, over3(http.MethodGet, "/", nil)) })
			require.Equal(t, "half of it", w.Body.String())
			require.True(t, w.Flushed)
		})
	}
}

// A lateTrailer sets the trailers of its request as quic-go's server does.
type lateTrailer struct {
	io.Reader
	r *http.Request
}

func (b *lateTrailer) Close() error { return nil }

func (b *lateTrailer) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.r.Trailer = http.Header{"Sum": {"42"}, "Not-Announced": {"1"}}
	}
	return n, err
}

func TestProxy_W7_TrailersInANewMap(t *testing.T) {
	t.Parallel()
	got := make(chan http.Header, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got <- r.Trailer
	}))
	defer srv.Close()
	for name, p := range map[string]*wsproxy.Proxy{"plain": {}, "read ahead": {ReadAhead: 1 << 10}} {
		p.Pool = poolWith(t, srv.URL)
		for _, forged := range []string{"", "X-Forwarded-For"} { // removed from a copy of the request
			r := over3(http.MethodPost, "/", nil)
			r.ContentLength, r.Trailer = -1, http.Header{"Sum": nil}
			r.Body = &lateTrailer{bytes.NewReader([]byte("body")), r}
			if forged != "" {
				r.Header.Set(forged, "192.0.2.1")
			}
			p.ServeHTTP(httptest.NewRecorder(), r)
			require.Equal(t, http.Header{"Sum": {"42"}}, <-got, "%s %s", name, forged)
		}
	}
}

// A stream3 is the writer of a stream of HTTP/3.
type stream3 struct {
	*httptest.ResponseRecorder
}

func (stream3) SetReadDeadline(time.Time) error  { return nil }
func (stream3) SetWriteDeadline(time.Time) error { return nil }

// The :protocol of an extended CONNECT is the Proto of the request.
func TestProxy_W2_ExtendedConnectOverHTTP3(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Accept: "+wskey.Accept(r.Header.Get("Sec-Websocket-Key"))+"\r\n\r\n")
		io.CopyN(conn, rw, 5)
	}))
	defer srv.Close()
	for proto, want := range map[string]int{"websocket": 200, "WebSocket": 200, "connect-udp": 501, "HTTP/3.0": 405, "HTTP/3": 405, "": 405} {
		p := &wsproxy.Proxy{Pool: poolWith(t, srv.URL)}
		r := over3(http.MethodConnect, "/", bytes.NewReader([]byte("hello")))
		r.Proto, r.ContentLength = proto, -1
		r.URL.Path, r.Header["Sec-Websocket-Version"] = "/", []string{"13"}
		w := stream3{httptest.NewRecorder()}
		p.ServeHTTP(w, r)
		require.Equal(t, want, w.Code, proto)
		if want == http.StatusOK {
			require.Equal(t, "hello", w.Body.String())
		}
	}
}
