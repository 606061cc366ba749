package wsproxy_test

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// declining is an h2c target that declines the first request, unprocessed, and answers 200 to others.
func declining(t *testing.T, decline func(f *http2.Framer, stream uint32)) balancer.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	requests := make(chan struct{}, 1)
	requests <- struct{}{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
					return
				}
				f := http2.NewFramer(c, c)
				f.WriteSettings()
				for {
					frame, err := f.ReadFrame()
					if err != nil {
						return
					}
					if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
						f.WriteSettingsAck()
					}
					if !frame.Header().Flags.Has(http2.FlagDataEndStream) || frame.Header().Type > http2.FrameHeaders {
						continue // of headers the flag is the same
					}
					select {
					case <-requests:
						decline(f, frame.Header().StreamID)
					default:
						var block strings.Builder
						hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
						f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.Header().StreamID,
							BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true})
					}
				}
			}()
		}
	}()
	return balancer.Target{ID: "a", URL: &url.URL{Scheme: "h2c", Host: l.Addr().String()}}
}

// What an HTTP/2 target says it has not processed goes again, to the same target, as far as its body can be sent again
// (RFC 9113 section 8.7). If it cannot be, the target is not to blame.
func TestProxy_W10_NotProcessed(t *testing.T) {
	declines := map[string]func(f *http2.Framer, stream uint32){
		"REFUSED_STREAM": func(f *http2.Framer, stream uint32) { f.WriteRSTStream(stream, http2.ErrCodeRefusedStream) },
		"GOAWAY":         func(f *http2.Framer, _ uint32) { f.WriteGoAway(0, http2.ErrCodeNo, nil) },
	}
	tests := map[string]struct {
		method, body string
		buffer       int
		status       int
	}{
		"without a body":           {http.MethodPost, "", 0, http.StatusOK},
		"with a body that is kept": {http.MethodPost, "body", 4, http.StatusOK},
		"with a body that is not":  {http.MethodPost, "body", 0, http.StatusBadGateway},
	}
	for how, decline := range declines {
		for name, tt := range tests {
			t.Run(how+" "+name, func(t *testing.T) {
				pool, _ := newPool(t, declining(t, decline))
				told := &told{ended: make(chan balancer.Outcome, 1)}
				defer pool.Observe(told)()
				p := &wsproxy.Proxy{Pool: pool, Retry: wsproxy.Retry{Buffer: tt.buffer}}
				res := newClient(t, serve(t, p)).do(tt.method, "/", strings.NewReader(tt.body))
				require.Equal(t, tt.status, res.StatusCode)
				want := balancer.OK
				if tt.status != http.StatusOK {
					want = balancer.Unjudged
				}
				require.Equal(t, want, wait(t, told.ended, "the outcome").Class)
			})
		}
	}
}
