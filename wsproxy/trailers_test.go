package wsproxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A leg is one of the ways on which a message reaches a backend: its protocol, and whose transport.
type leg struct {
	name            string
	tls, http2, h2c bool
	given           bool
}

var legs = []leg{
	{name: "http"},
	{name: "http, given", given: true},
	{name: "https", tls: true},
	{name: "https, given", tls: true, given: true},
	{name: "h2", tls: true, http2: true},
	{name: "h2, given", tls: true, http2: true, given: true},
	{name: "h2c", h2c: true},
	{name: "h2c, given", h2c: true, given: true},
}

// overHTTP2 reports whether requests reach the backend over HTTP/2.
func (l leg) overHTTP2() bool { return l.http2 || l.h2c }

// to makes a backend and a proxy to it.
func (l leg) to(t testing.TB, handler http.HandlerFunc) (*wsproxy.Proxy, *backend) {
	b := makeBackend("a", handler)
	b.tls, b.http2, b.h2c = l.tls, l.http2, l.h2c
	b.start(t)
	p := &wsproxy.Proxy{Logger: noLog}
	p.Pool, _ = newPool(t, b.target())
	var conf *tls.Config
	if l.tls {
		conf = backendTLS(b)
	}
	if l.given {
		own := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: l.http2, DisableCompression: true}
		t.Cleanup(own.CloseIdleConnections)
		p.Transport = own
	} else {
		p.BackendTLS = conf
	}
	return p, b
}

// fronts are the ways on which a client reaches a proxy.
var fronts = map[string]func(testing.TB, http.Handler) *httptest.Server{
	"HTTP/1.1": serve,
	"HTTP/2":   serveTLS,
	"h2c": func(t testing.TB, h http.Handler) *httptest.Server {
		srv := serveWith(t, h, func(s *http.Server) {
			s.Protocols = new(http.Protocols)
			s.Protocols.SetUnencryptedHTTP2(true)
		})
		client := srv.Client().Transport.(*http.Transport)
		client.Protocols = new(http.Protocols)
		client.Protocols.SetUnencryptedHTTP2(true)
		return srv
	},
}

// overLegs runs a test for every front and every leg.
func overLegs(t *testing.T, test func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, over2 bool, l leg)) {
	for name, front := range fronts {
		for _, l := range legs {
			t.Run(name+" to "+l.name, func(t *testing.T) { test(t, front, name != "HTTP/1.1", l) })
		}
	}
}

// A rule about headers is a rule about trailers, in both directions and over every protocol.
func TestProxy_W7_Trailers(t *testing.T) {
	// What HTTP/2 of net/http lets through, and what it does not.
	forged := []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "X_forwarded_for", "Cookie", "User-Agent", "Origin",
		"Sec-Fetch-Site", "Content-Disposition", "Upgrade", "Set-Cookie", "Http2-Settings", "Proxy"}
	refused := []string{"Authorization", "Host", "Connection", "Content-Type", "Content-Encoding", "Keep-Alive", "Te",
		"Proxy-Authorization", "Proxy-Connection", "X-Hop"}
	honest := map[string]string{"X-Sum": "42", "Grpc-Status": "0", "Grpc-Message": "fine", "Content-Digest": "sha-256=:x:"}
	overLegs(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, over2 bool, l leg) {
		type seen struct {
			announced []string
			trailer   http.Header
		}
		got := make(chan seen, 1)
		p, _ := l.to(t, func(w http.ResponseWriter, r *http.Request) {
			s := seen{announced: slices.Sorted(maps.Keys(r.Trailer))}
			w.Header().Set("Trailer", "X-Sum, Set-Cookie, X-Forwarded-For")
			if !l.overHTTP2() {
				w.Header().Set("Connection", "X-Hop")
				w.Header().Add("Trailer", "X-Hop")
			}
			echo(w, r)
			s.trailer = r.Trailer.Clone()
			got <- s
			w.Header().Set("X-Sum", "42")
			w.Header().Set("Set-Cookie", "AWSELB=theirs")
			w.Header().Set("X-Forwarded-For", "forged")
			if !l.overHTTP2() {
				w.Header().Set("X-Hop", "forged")
			}
			for name, value := range honest {
				if name != "X-Sum" {
					w.Header().Set(http.TrailerPrefix+name, value)
				}
			}
			for _, name := range slices.Concat(forged, refused[:len(refused)-1]) {
				if name != "Set-Cookie" && name != "X-Forwarded-For" {
					w.Header().Set(http.TrailerPrefix+name, "forged")
				}
			}
		})
		p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
		c := newClient(t, front(t, p))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, struct{ io.Reader }{strings.NewReader("body")})
		require.NoError(t, err)
		req.Trailer = make(http.Header)
		names := forged
		if !over2 {
			names = slices.Concat(forged, refused)
			req.Header.Set("Connection", "X-Hop")
		}
		for _, name := range names {
			req.Trailer[name] = []string{"forged"}
		}
		for name, value := range honest {
			req.Trailer[name] = []string{value}
		}
		res, err := c.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		require.Equal(t, over2, res.ProtoMajor == 2)
		require.Equal(t, []string{"X-Sum"}, slices.Collect(maps.Keys(res.Trailer)), "announced to the client")
		all, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "body", string(all))
		want := make(http.Header)
		for name, value := range honest {
			want.Set(name, value)
		}
		require.Equal(t, want, res.Trailer)
		s := wait(t, got, "the request's trailers")
		require.Equal(t, slices.Sorted(maps.Keys(want)), s.announced, "announced to the target")
		require.Equal(t, want, s.trailer)
	})
}

// What an HTTP/1.1 client sends without having announced it does not pass, and what it announces and does not send neither.
func TestProxy_W7_TrailersAsTheyAreOnTheWire(t *testing.T) {
	for _, given := range []bool{false, true} {
		t.Run(fmt.Sprintf("given=%v", given), func(t *testing.T) {
			requests := make(chan string, 1)
			tgt := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
				io.Copy(io.Discard, req.Body)
				dump, _ := httputil.DumpRequest(req, false)
				requests <- string(dump) + fmt.Sprint(req.Trailer)
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x-hop\r\nTrailer: X-Sum, x-hop, set-cookie\r\n\r\n"+
					"4\r\nbody\r\n0\r\nX-Sum: 1\r\nX-Hop: 2\r\nset-cookie: AWSELB=theirs\r\nX-Late: 3\r\nCookie: 4\r\nContent-Length: 5\r\n"+
					"Transfer-Encoding: chunked\r\nX_Forwarded_For: 6\r\nx.hop: 7\r\nSet_Cookie: 8\r\n\r\n")
			})
			p := &wsproxy.Proxy{}
			p.Pool, _ = newPool(t, tgt)
			if given {
				p.Transport = &http.Transport{}
			}
			c := dial(t, serve(t, p))
			c.send("POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n" +
				"Trailer: X-Sum, x-forwarded-for\r\nTrailer: cookie\r\n\r\n4\r\nbody\r\n0\r\n" +
				"X-Sum: 42\r\nX-Forwarded-For: 6.6.6.6\r\nCookie: a=b\r\nForwarded: for=6.6.6.6\r\nX-Late: 1\r\n\r\n")
			answer, err := io.ReadAll(c)
			require.NoError(t, err)
			request := wait(t, requests, "the request")
			require.Contains(t, request, "map[X-Sum:[42]]")
			require.NotContains(t, request, "6.6.6.6")
			require.NotContains(t, request, "a=b")
			head, rest, _ := strings.Cut(string(answer), "\r\n\r\n")
			require.Contains(t, head, "\r\nTrailer: X-Sum\r\n")
			require.Contains(t, rest, "X-Sum: 1\r\n")
			require.Contains(t, rest, "X-Late: 3\r\n")
			for _, name := range []string{"X-Hop", "Cookie", "Content-Length", "Transfer-Encoding", "Forwarded", "x.hop"} {
				require.NotContains(t, strings.ToLower(rest), strings.ToLower(name))
			}
		})
	}
}

// Rewrite may take trailers out and put its own in, but lets no forged one through.
func TestProxy_W7_TrailersAndRewrite(t *testing.T) {
	for _, l := range legs {
		t.Run(l.name, func(t *testing.T) {
			trailers := make(chan http.Header, 1)
			p, _ := l.to(t, func(w http.ResponseWriter, r *http.Request) {
				echo(w, r)
				trailers <- r.Trailer
			})
			p.Rewrite = func(pr *httputil.ProxyRequest) {
				delete(pr.Out.Trailer, "X-Out")
				pr.Out.Trailer["X-Own"] = []string{"ours"}
				pr.Out.Trailer["X-Sum"] = []string{"ours"}
				pr.Out.Trailer["X-Forwarded-For"] = nil
			}
			c := dial(t, serve(t, p))
			c.send("POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n" +
				"Trailer: X-Sum, X-Out, X-Forwarded-For, X-Own, X-Next\r\n\r\n4\r\nbody\r\n0\r\n" +
				"X-Sum: 1\r\nX-Out: 2\r\nX-Forwarded-For: 6.6.6.6\r\nX-Next: 4\r\n\r\n")
			require.Equal(t, "body", c.response().body)
			got := wait(t, trailers, "the trailers")
			maps.DeleteFunc(got, func(_ string, values []string) bool { return len(values) == 0 })
			require.Equal(t, http.Header{"X-Sum": {"ours"}, "X-Own": {"ours"}, "X-Next": {"4"}}, got)
		})
	}
}

// A body of known length may have trailers over HTTP/2, but not over HTTP/1.1: there it goes on in chunks.
func TestProxy_W11_TrailersOfABodyOfKnownLength(t *testing.T) {
	for _, l := range legs {
		t.Run(l.name, func(t *testing.T) {
			trailers := make(chan http.Header, 1)
			p, _ := l.to(t, func(w http.ResponseWriter, r *http.Request) {
				echo(w, r)
				trailers <- r.Trailer
			})
			c := newClient(t, serveTLS(t, p))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, strings.NewReader("body"))
			require.NoError(t, err)
			req.Trailer = http.Header{"X-Sum": {"42"}}
			r := c.send(req)
			require.Equal(t, 2, r.ProtoMajor)
			require.Equal(t, "body", r.body)
			require.Equal(t, http.Header{"X-Sum": {"42"}}, wait(t, trailers, "the trailers"))
		})
	}
}

// What Connection names beside close ends here as well, in the header, in the trailers and in a 1xx.
func TestProxy_W7_FieldsNamedBesideClose(t *testing.T) {
	tgt := rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nLink: </a>\r\n\r\n"+
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x-hop, close\r\nX-Hop: 2\r\nTrailer: X-Hop, X-Sum\r\n\r\n"+
			"4\r\nbody\r\n0\r\nX-Hop: 3\r\nX-Sum: 4\r\n\r\n")
	})
	p := &wsproxy.Proxy{}
	p.Pool, _ = newPool(t, tgt)
	c := dial(t, serve(t, p))
	c.send("GET / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(answer), "Link: </a>\r\n")
	require.Contains(t, string(answer), "X-Sum: 4\r\n")
	require.NotContains(t, string(answer), "X-Hop")
}
