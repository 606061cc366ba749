package wsproxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// What does not pass in the header of the final response does not pass in that of a 1xx either,
// whatever comes after it.
func TestProxy_W7_S20_InformationalHeaders(t *testing.T) {
	app, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "app", Name: "MINE"})
	require.NoError(t, err)
	prefix, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "pre", Codec: &cookie.InsecureTable{}})
	require.NoError(t, err)
	policy := stickiness.First(lbCookie(t, stickiness.LBCookieOptions{}), app, prefix)
	overLegs(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, over2 bool, l leg) {
		p, _ := l.to(t, func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			for range 2 {
				h["Link"] = []string{"</a.css>; rel=preload"}
				h["Set-Cookie"] = []string{"AWSELB=theirs", " AWSELB = theirs; Path=/x", "AWSELBCORS=theirs", "MINE=theirs", "pre=value", "own=1"}
				h["Proxy-Authenticate"], h["Content-Length"] = []string{"Basic"}, []string{"4"}
				if !l.overHTTP2() {
					h["Connection"], h["X-Hop"] = []string{"keep-alive, X-Hop"}, []string{"gone"}
					h["Keep-Alive"], h["Upgrade"], h["Te"] = []string{"timeout=5"}, []string{"h2c"}, []string{"trailers"}
					h["Transfer-Encoding"], h["Proxy-Connection"] = []string{"chunked"}, []string{"keep-alive"}
				}
				w.WriteHeader(http.StatusEarlyHints)
			}
			clear(h)
			w.WriteHeader(http.StatusProcessing)
			io.WriteString(w, "done")
		})
		p.Policy = policy
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Middleware", "last")
			p.ServeHTTP(w, r)
		})
		seen, r := newClient(t, front(t, h)).informed("/")
		require.Equal(t, "done", r.body)
		require.Equal(t, over2, r.ProtoMajor == 2)
		require.Equal(t, "last", r.Header.Get("X-Middleware"))
		require.Len(t, seen, 3)
		for _, got := range seen[:2] {
			delete(got, "Date")
			delete(got, "Backend")
			require.Equal(t, http.Header{"Link": {"</a.css>; rel=preload"}, "Set-Cookie": {"own=1"}}, got)
		}
	})
}

// Nor do they in a 1xx that comes before a 101, and what the 101 names in Connection does not take
// our cookie away.
func TestProxy_W7_S19_InformationalHeadersBeforeASwitch(t *testing.T) {
	for _, given := range []bool{false, true} {
		t.Run(fmt.Sprintf("given=%v", given), func(t *testing.T) {
			tgt := rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
				io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"+
					"Set-Cookie: AWSELB=theirs\r\nLink: </a>\r\n\r\n"+
					switching("Connection: Set-Cookie, x-hop", "X-Hop: 1", "Set-Cookie: own=1", "X-Own: 2"))
				io.Copy(conn, r)
			})
			p, _ := tunnelled(t, tgt)
			p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
			if given {
				p.Transport = &http.Transport{}
			}
			c := dial(t, serve(t, p))
			c.send(upgrade())
			hints := c.head()
			require.Equal(t, http.StatusEarlyHints, hints.StatusCode)
			require.Equal(t, http.Header{"Link": {"</a>"}}, hints.Header)
			res := c.head()
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			require.Equal(t, "2", res.Header.Get("X-Own"))
			require.NotContains(t, res.Header, "X-Hop")
			require.Len(t, lbLines(res.Header), 1)
		})
	}
}

// The proxy adds no Content-Type, on whatever protocol, and keeps the one that is there. Its own
// pages have theirs.
func TestProxy_W7_NoContentTypeIsInvented(t *testing.T) {
	overLegs(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool, l leg) {
		p, b := l.to(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			switch r.URL.Path {
			case "/typed":
				w.Header().Set("Content-Type", "text/odd")
			case "/hinted":
				w.WriteHeader(http.StatusEarlyHints)
			case "/404":
				w.WriteHeader(http.StatusNotFound)
			case "/304":
				w.WriteHeader(http.StatusNotModified)
				return
			case "/flushed":
				http.NewResponseController(w).Flush()
			}
			io.WriteString(w, "<html><script>alert(1)</script>")
			if r.URL.Path == "/later" {
				http.NewResponseController(w).Flush()
				io.WriteString(w, "more")
			}
		})
		p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
		typed := false
		srv := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if typed {
				w.Header().Set("Content-Type", "text/ours")
			}
			p.ServeHTTP(w, r)
		}))
		c := newClient(t, srv)
		for _, path := range []string{"/", "/hinted", "/404", "/304", "/flushed", "/later"} {
			r := c.get(path)
			require.NotContains(t, r.Header, "Content-Type", path)
			require.NotContains(t, c.do(http.MethodHead, path, nil).Header, "Content-Type", path)
		}
		require.Equal(t, []string{"text/odd"}, c.get("/typed").Header["Content-Type"])
		typed = true
		require.Equal(t, []string{"text/ours"}, c.get("/").Header["Content-Type"])
		require.Equal(t, []string{"text/ours"}, c.get("/hinted").Header["Content-Type"])
		typed = false
		b.stop()
		r := c.get("/")
		require.Equal(t, http.StatusBadGateway, r.StatusCode)
		require.Equal(t, "text/plain; charset=utf-8", r.Header.Get("Content-Type"))
	})
}

// An error page that sets no type gets the one that the server finds.
func TestProxy_W12_ErrorPagesKeepTheirType(t *testing.T) {
	pool, _ := newPool(t, target("a", "http://127.0.0.1:1"))
	p := &wsproxy.Proxy{Pool: pool, ErrorPage: func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
		w.WriteHeader(e.Status)
		io.WriteString(w, "<html>")
	}}
	require.Equal(t, "text/html; charset=utf-8", newClient(t, serve(t, p)).get("/").Header.Get("Content-Type"))
}

// A 426 tells which protocols its target wants (RFC 9110 section 15.5.22), where they can be told.
func TestProxy_W11_UpgradeRequiredKeepsItsUpgrade(t *testing.T) {
	for _, connection := range []string{"", "Connection: Upgrade\r\n", "Connection: close, upgrade\r\n"} {
		for _, given := range []bool{false, true} {
			pool, _ := newPool(t, rawBackend(t, "a", closing("HTTP/1.1 426 Upgrade Required\r\n"+connection+
				"Upgrade: websocket, IRC/6.9\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nno")))
			p := &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}
			if given {
				p.Transport = &http.Transport{}
			}
			c := dial(t, serve(t, p))
			c.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
			r := c.response()
			require.Equal(t, http.StatusUpgradeRequired, r.StatusCode)
			require.Equal(t, []string{"websocket, IRC/6.9"}, r.Header["Upgrade"])
			require.Equal(t, []string{"Upgrade"}, r.Header["Connection"])
			require.NotContains(t, r.Header, "Keep-Alive")
			require.Equal(t, "no", r.body)

			r = newClient(t, serveTLS(t, p)).get("/")
			require.Equal(t, 2, r.ProtoMajor)
			require.Equal(t, http.StatusUpgradeRequired, r.StatusCode)
			require.NotContains(t, r.Header, "Upgrade")
			require.Equal(t, "no", r.body)
		}
	}
}

// A length without a body passes as far as net/http lets it: in the answer to a HEAD, and over
// HTTP/2 in a 304.
func TestProxy_W11_LengthsWithoutABody(t *testing.T) {
	overLegs(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, over2 bool, l leg) {
		p, _ := l.to(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "12345")
			w.Header().Set("Etag", `"x"`)
			status, err := strconv.Atoi(r.URL.Path[1:])
			require.NoError(t, err)
			w.WriteHeader(status)
		})
		p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
		broken := make(chan error, 1)
		p.Trace = &wsproxy.Trace{Done: func(_ *http.Request, rec wsproxy.Record) { broken <- rec.Err }}
		c := newClient(t, front(t, p))
		ask := func(method, path string) http.Header {
			req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, nil)
			require.NoError(t, err)
			res, err := c.Do(req)
			require.NoError(t, err)
			res.Body.Close() // unread: net/http's client misses the body of a 304 of HTTP/2 that has a length
			require.Equal(t, path[1:], strconv.Itoa(res.StatusCode))
			require.Equal(t, `"x"`, res.Header.Get("Etag"))
			require.NoError(t, wait(t, broken, "the record"))
			return res.Header
		}
		for _, status := range []string{"/200", "/206", "/301", "/404", "/500"} {
			require.Equal(t, []string{"12345"}, ask(http.MethodHead, status)["Content-Length"], status)
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			h := ask(method, "/304")
			if over2 && l.overHTTP2() { // net/http's server of HTTP/1.1 sends none
				require.Equal(t, []string{"12345"}, h["Content-Length"], method)
			}
		}
	})
}

// So it does in a 304 of an HTTP/1.1 target.
func TestProxy_W11_LengthOfNotModified(t *testing.T) {
	for _, given := range []bool{false, true} {
		pool, _ := newPool(t, rawBackend(t, "a", closing("HTTP/1.1 304 x\r\nContent-Length: 12345\r\nEtag: \"x\"\r\n\r\n")))
		p := &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}
		if given {
			p.Transport = &http.Transport{}
		}
		for name, front := range fronts {
			res, err := newClient(t, front(t, p)).Get(front(t, p).URL)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, http.StatusNotModified, res.StatusCode)
			require.Equal(t, name != "HTTP/1.1", res.Header.Get("Content-Length") == "12345", name)
		}
	}
}

// A 204 has no length, and a client of HTTP/2 would miss the body.
func TestProxy_W11_LengthOfNoContent(t *testing.T) {
	for _, text := range []string{"\r\n", "Connection: close\r\n\r\n"} {
		for _, given := range []bool{false, true} {
			pool, _ := newPool(t, rawBackend(t, "a", closing("HTTP/1.1 204 x\r\nContent-Length: 2\r\n"+text)))
			p := &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}
			if given {
				p.Transport = &http.Transport{}
			}
			for name, front := range fronts {
				c := newClient(t, front(t, p))
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					r := c.do(method, "/", nil)
					require.Equal(t, http.StatusNoContent, r.StatusCode)
					require.NotContains(t, r.Header, "Content-Length", name)
				}
			}
		}
	}
}

// What the target has sent before it breaks off reaches the client before the break, and the record
// tells it.
func TestProxy_W15_ResponsesCutShort(t *testing.T) {
	kinds := map[string]struct{ text, body string }{
		"known length":         {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 100\r\n\r\n12345", "12345"},
		"no byte":              {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 100\r\n\r\n", ""},
		"chunked":              {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "12345"},
		"within a chunk":       {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n12345", "12345"},
		"chunked, no byte":     {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
		"chunk that is none":   {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nzz\r\n", "12345"},
		"trailer that is none": {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\nno line\r\n\r\n", "12345"},
		"larger than a buffer": {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 90000\r\n\r\n" + strings.Repeat("x", 70_001), strings.Repeat("x", 70_001)},
		"an error page's":      {"HTTP/1.1 500 x\r\nX-Own: 1\r\nContent-Length: 100\r\n\r\n12345", "12345"},
		"server-sent events":   {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "12345"},
		"after early hints":    {"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 100\r\n\r\n12345", "12345"},
		"no end":               {"HTTP/1.1 200 OK\r\nX-Own: 1\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n", "12345"},
	}
	for kind, tt := range kinds {
		for name, front := range fronts {
			for _, given := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s given=%v", kind, name, given), func(t *testing.T) {
					pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
						io.WriteString(conn, tt.text)
					}))
					records := make(chan wsproxy.Record, 1)
					p := &wsproxy.Proxy{Pool: pool, Trace: &wsproxy.Trace{Done: func(_ *http.Request, rec wsproxy.Record) { records <- rec }}}
					if given {
						p.Transport = &http.Transport{}
					}
					res, err := newClient(t, front(t, p)).Get(front(t, p).URL)
					require.NoError(t, err)
					defer res.Body.Close()
					require.Equal(t, "1", res.Header.Get("X-Own"))
					got, err := io.ReadAll(res.Body)
					require.Error(t, err, "it must not look complete")
					require.Equal(t, tt.body, string(got))
					rec := wait(t, records, "the record")
					require.Equal(t, res.StatusCode, rec.Status)
					require.EqualValues(t, len(tt.body), rec.Bytes)
					require.Error(t, rec.Err)
				})
			}
		}
	}
}

// A RoundTripper of the caller's may leave out what http.Response says it must not.
func TestProxy_RoundTrippersThatLeaveThingsOut(t *testing.T) {
	for name, tt := range map[string]struct {
		res  *http.Response
		want int
	}{
		"no header":       {&http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("body"))}, 200},
		"no body":         {&http.Response{StatusCode: 200, Header: http.Header{}}, 200},
		"neither":         {&http.Response{StatusCode: 404}, 404},
		"nothing":         {nil, 502},
		"no status":       {&http.Response{}, 502},
		"negative length": {&http.Response{StatusCode: 200, ContentLength: -7, Body: io.NopCloser(strings.NewReader("body"))}, 200},
		"below 100":       {&http.Response{StatusCode: 99}, 502},
		"over 999":        {&http.Response{StatusCode: 1000}, 502},
		"negative":        {&http.Response{StatusCode: -1}, 502},
		"unasked switch":  {&http.Response{StatusCode: 101, Header: http.Header{"Upgrade": {"x"}}}, 502},
		"no final status": {&http.Response{StatusCode: 103}, 502},
	} {
		t.Run(name, func(t *testing.T) {
			for _, policy := range []stickiness.Policy{nil, lbCookie(t, stickiness.LBCookieOptions{})} {
				p := &wsproxy.Proxy{Pool: ordered(t, "a"), Policy: policy, Logger: noLog, Transport: roundTripper(
					func(*http.Request) (*http.Response, error) { return tt.res, nil })}
				w := httptest.NewRecorder()
				p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
				require.Equal(t, tt.want, w.Code)
				require.Equal(t, policy != nil && tt.want < 500, len(w.Header()["Set-Cookie"]) > 0)
			}
		})
	}
}

// Of a Cookie line that most targets refuse the log tells once, and no value of it.
func TestProxy_W12_LargeCookiesAreWarnedOf(t *testing.T) {
	var log bytes.Buffer
	p := &wsproxy.Proxy{Pool: ordered(t, "a"), Transport: &script{}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Policy: lbCookie(t, stickiness.LBCookieOptions{})}
	ask := func(cookies ...string) {
		r := httptest.NewRequest(http.MethodGet, "/path?query", nil)
		r.Header["Cookie"] = cookies
		p.ServeHTTP(httptest.NewRecorder(), r)
	}
	ask("a="+strings.Repeat("x", 16<<10-2), "b="+strings.Repeat("x", 16<<10-2))
	ask("a=1; AWSELB=" + strings.Repeat("x", 16<<10)) // which the target does not get
	require.Empty(t, log.String())
	ask("a=" + strings.Repeat("x", 16<<10-1))
	ask("a=" + strings.Repeat("x", 16<<10-1))
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"))
	for _, told := range []string{"bytes=16385", "host=example.com", "path=/path ", "431"} {
		require.Contains(t, log.String(), told)
	}
	require.NotContains(t, log.String(), "xx")
}
