package health_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// piped returns a DialFunc to a peer that serves one connection in memory.
func piped(peer func(net.Conn)) health.DialFunc {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			peer(server)
		}()
		return client, nil
	}
}

// For any answer, a check ends with a result, and its error is in the package's own words. A target
// is healthy only if its final status is.
func FuzzHTTPAnswer(f *testing.F) {
	for _, seed := range []string{
		ok, "", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 200\r\n\r\nx", "HTTP/1.1 503 X\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"220 mail\r\n", "\x16\x03\x01\x00\x00", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20),
		"HTTP/1.1 200 OK\r\nCont", "HTTP/0.0  200 \n\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		check := health.HTTP{Dial: piped(func(conn net.Conn) {
			readRequest(conn)
			io.WriteString(conn, answer)
		})}
		err := probe(t, check, target("a"), 10*time.Second)
		if err != nil {
			require.Regexp(t, "^health: [a-z]", err.Error())
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			return
		}
		require.Regexp(t, `(?s)HTTP/\d\.\d +[23]\d\d`, answer)
	})
}

// A path is either refused, or requested as it was written, below the path of the target.
func FuzzHTTPPath(f *testing.F) {
	for _, seed := range []string{"", "/", "/healthz", "/a%2Fb", "/?", "/?q=1&r=%zz", "/a b", "/%zz", "//host/x", "/../x", "/a#b", "*", "http://x/", "/\x00", "/é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		lines := make(chan string, 1)
		check := health.HTTP{Path: path, Dial: piped(func(conn net.Conn) {
			line, _ := bufio.NewReader(conn).ReadString('\n')
			lines <- line
		})}
		err := check.Check(t.Context(), balancer.Target{URL: &url.URL{Scheme: "http", Host: "a.invalid", Path: "/base"}})
		if strings.Contains(err.Error(), "check: path") {
			return
		}
		if path == "" {
			path = "/"
		}
		require.Equal(t, "GET /base"+path+" HTTP/1.1\r\n", <-lines)
	})
}
