package wsproxy_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// message is one of gRPC: a flag, a length and the content.
func message(content string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(content))), content...)
}

func readMessage(r io.Reader) (string, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	content := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err := io.ReadFull(r, content)
	return string(content), err
}

// grpcServer answers like a server of gRPC. By path: each message at once, or a status alone.
func grpcServer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	if r.URL.Path == "/fails" {
		w.Header().Set("Grpc-Status", "7")
		return
	}
	w.Header().Set("Trailer", "Grpc-Status")
	w.WriteHeader(http.StatusOK)
	http.NewResponseController(w).Flush()
	n := 0
	for ; ; n++ {
		content, err := readMessage(r.Body)
		if err != nil {
			break
		}
		w.Write(message("re: " + content))
		http.NewResponseController(w).Flush()
	}
	w.Header().Set("Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", fmt.Sprintf("%d messages, trailers %q", n, r.Trailer.Get("X-Sum")))
}

// http2Backends runs a test with both kinds of backends that speak HTTP/2, and with transports of
// ours and of the caller.
func http2Backends(t *testing.T, handler http.HandlerFunc, test func(t *testing.T, p *wsproxy.Proxy, b *backend)) {
	for _, h2c := range []bool{false, true} {
		for _, given := range []bool{false, true} {
			t.Run(fmt.Sprintf("h2c=%v given=%v", h2c, given), func(t *testing.T) {
				b := makeBackend("a", handler)
				b.tls, b.http2, b.h2c = !h2c, !h2c, h2c
				b.start(t)
				p := &wsproxy.Proxy{}
				p.Pool, _ = newPool(t, b.target())
				switch {
				case given && h2c:
					p.Transport = &http.Transport{}
				case given:
					p.Transport = &http.Transport{TLSClientConfig: backendTLS(b), ForceAttemptHTTP2: true}
				case !h2c:
					p.BackendTLS = backendTLS(b)
				}
				if own, ok := p.Transport.(*http.Transport); ok {
					t.Cleanup(own.CloseIdleConnections)
				}
				test(t, p, b)
			})
		}
	}
}

// gRPC: messages there and back in turn on one stream, trailers both ways, and responses of
// trailers alone.
func TestProxy_W11_GRPC(t *testing.T) {
	http2Backends(t, grpcServer, func(t *testing.T, p *wsproxy.Proxy, b *backend) {
		c := newClient(t, serveTLS(t, p))
		call := func(path string, body io.Reader) *http.Response {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+path, body)
			require.NoError(t, err)
			req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
			req.Trailer = http.Header{"X-Sum": {"1234"}}
			res, err := c.Do(req)
			require.NoError(t, err)
			t.Cleanup(func() { res.Body.Close() })
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, 2, res.ProtoMajor)
			return res
		}
		in, out := io.Pipe()
		res := call("/talks", in) // the header comes before any message does
		require.Equal(t, "application/grpc", res.Header.Get("Content-Type"))
		for i := range 50 {
			content := strings.Repeat("x", 1000*i)
			_, err := out.Write(message(content))
			require.NoError(t, err)
			answer, err := readMessage(res.Body)
			require.NoError(t, err)
			require.True(t, answer == "re: "+content, "message %d", i)
		}
		out.Close()
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, "0", res.Trailer.Get("Grpc-Status"))
		require.Equal(t, `50 messages, trailers "1234"`, res.Trailer.Get("Grpc-Message"))
		require.Equal(t, 2, b.request().ProtoMajor)
		require.Equal(t, "trailers", b.header().Get("Te"))

		res = call("/fails", strings.NewReader("x"))
		rest, err = io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, "7", res.Header.Get("Grpc-Status"))
	})
}

// A stream that the client gives up is given up at the backend, and one that breaks at the backend
// does not look complete.
func TestProxy_W11_GRPCEndsEarly(t *testing.T) {
	gone := make(chan struct{}, 1)
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Write(message("hello"))
		http.NewResponseController(w).Flush()
		if r.URL.Path == "/breaks" {
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
		gone <- struct{}{}
	}
	http2Backends(t, handler, func(t *testing.T, p *wsproxy.Proxy, _ *backend) {
		c := newClient(t, serveTLS(t, p))
		for _, path := range []string{"/waits", "/breaks"} {
			in, out := io.Pipe()
			res, err := c.Post(c.url+path, "application/grpc", in)
			require.NoError(t, err)
			content, err := readMessage(res.Body)
			require.NoError(t, err)
			require.Equal(t, "hello", content)
			if path == "/breaks" {
				_, err = io.ReadAll(res.Body)
				require.Error(t, err)
			}
			res.Body.Close()
			out.Close()
			if path == "/waits" {
				wait(t, gone, "the end at the backend")
			}
			idleMember(t, p.Pool, "a")
		}
	})
}

// Whatever HTTP/2 a backend speaks, it is asked for a WebSocket over HTTP/1.1, for clients of
// either version.
func TestProxy_W2_WebSocketsToHTTP2Backends(t *testing.T) {
	http2Backends(t, sockets("a"), func(t *testing.T, p *wsproxy.Proxy, b *backend) {
		for name, front := range map[string]func() string{
			"plain": func() string { return ask(t, openSocket(t, serve(t, p)), "hi") },
			"TLS":   func() string { return ask(t, openSocket(t, serveTLS(t, p)), "hi") },
		} {
			require.Equal(t, "a:hi", front(), name)
			require.Equal(t, 1, b.request().ProtoMajor)
		}
		require.Equal(t, http.StatusOK, newClient(t, serve(t, p)).get("/").StatusCode)
		require.Equal(t, 2, b.request().ProtoMajor, "a plain request")
	})
}

func TestProxy_W2_ExtendedConnectToHTTP2Backends(t *testing.T) {
	if !inExtended(t) {
		return
	}
	http2Backends(t, sockets("a"), func(t *testing.T, p *wsproxy.Proxy, b *backend) {
		w := h2Front(t, p).open(t, nil, "Origin: http://app.example").wire(t)
		require.Equal(t, 1, b.request().ProtoMajor)
		w.send(maskedFrame(0x81, "hi"))
		require.Equal(t, "a:hi", string(readFrame(t, w).payload))
	})
}

// A header that is larger than a target says it takes is the client's fault: nobody can have
// targets ejected with it.
func TestProxy_W12_HeaderTooLargeForTarget(t *testing.T) {
	http2Backends(t, func(http.ResponseWriter, *http.Request) {}, func(t *testing.T, p *wsproxy.Proxy, b *backend) {
		outcomes := new(outcomes)
		defer p.Pool.Observe(outcomes)()
		var failures []error
		p.Trace = &wsproxy.Trace{Done: func(_ *http.Request, rec wsproxy.Record) {
			if rec.Err != nil {
				failures = append(failures, rec.Err)
			}
		}}
		for _, size := range []int{1, http.DefaultMaxHeaderBytes + 1<<10, 1} { // the limit is known from the first answer on
			w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
			r.Header.Set("X-Large", strings.Repeat("x", size))
			p.ServeHTTP(w, r)
			want := http.StatusOK
			if size > 1 {
				want = http.StatusRequestHeaderFieldsTooLarge
			}
			require.Equal(t, want, w.Code)
		}
		require.Equal(t, []balancer.Class{balancer.OK, balancer.Unjudged, balancer.OK}, outcomes.classes())
		require.Len(t, failures, 1)
		failure, ok := errors.AsType[*wsproxy.Error](failures[0])
		require.True(t, ok)
		require.Equal(t, wsproxy.ClassRequest, failure.Class)
	})
}

// The limit on a response's header holds for every kind of target.
func TestProxy_W12_ResponseHeaderTooLarge(t *testing.T) {
	for _, tt := range []struct{ tls, http2, h2c bool }{{}, {tls: true}, {tls: true, http2: true}, {h2c: true}} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			b := makeBackend("a", func(w http.ResponseWriter, r *http.Request) {
				size, _ := strconv.Atoi(r.URL.Query().Get("size"))
				w.Header().Set("X-Large", strings.Repeat("x", size))
			})
			b.tls, b.http2, b.h2c = tt.tls, tt.http2, tt.h2c
			b.start(t)
			p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler)}
			p.Pool, _ = newPool(t, b.target())
			if b.tls {
				p.BackendTLS = backendTLS(b)
			}
			for size, want := range map[int]int{900 << 10: http.StatusOK, 1100 << 10: http.StatusBadGateway} {
				w := httptest.NewRecorder()
				p.ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprint("/?size=", size), nil))
				require.Equal(t, want, w.Code, size)
			}
		})
	}
}
