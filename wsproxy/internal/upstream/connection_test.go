package upstream_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// http.ReadResponse removes Connection when it says close, and what it names besides would pass on.
func TestTransport_W7_ConnectionBesideClose(t *testing.T) {
	const start, end = "HTTP/1.1 200 OK\r\nX-Hop: 1\r\n", "\r\nContent-Length: 2\r\n\r\nok"
	large := "X-Large: " + strings.Repeat("x", 6000) + "\r\n"
	for text, want := range map[string][]string{
		start + "Connection: close, X-Hop" + end:                                                            {"close, X-Hop"},
		start + "connection: x-hop,CLOSE" + end:                                                             {"x-hop,CLOSE"},
		start + "Connection: close\r\nA: b\r\nCONNECTION: X-Hop" + end:                                      {"close", "X-Hop"},
		start + "Connection: close,\r\n\t X-Hop" + end:                                                      {"close,\t X-Hop"},
		start + large + "Connection: X-Hop, close" + end:                                                    {"X-Hop, close"},
		start + "Connection: X-Hop, close\r\n" + large + "A: b" + end:                                       {"X-Hop, close"},
		"HTTP/1.1 103 Hints\r\nConnection: close, X-Hop\r\n\r\n" + start + "Connection: close, X-Hop" + end: {"close, X-Hop"},
		"HTTP/1.1 200 OK\nConnection: close, X-Hop\nContent-Length: 2\n\nok":                                {"close, X-Hop"},
		start + "Connection: close" + end:                                                                   nil,
		start + "Connection: X-Hop" + end:                                                                   {"X-Hop"},
		start + "A: Connection: close, X-Hop" + end:                                                         nil,
		start + end[2:] + "\r\nConnection: close, x":                                                        nil, // no header any more
	} {
		for _, piece := range []int{1, 7, 100_000} {
			c := &tape{text: bytes.NewReader([]byte(text)), piece: piece}
			rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
			res, err := rt.RoundTrip(newRequest(t, http.MethodGet, "http://a.example", nil))
			require.NoError(t, err, text)
			res.Body.Close()
			require.Equal(t, want, res.Header["Connection"], "%d %q", piece, text)
		}
	}
}
