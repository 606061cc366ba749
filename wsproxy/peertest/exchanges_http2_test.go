package peertest_test

import (
	"strings"

	"golang.org/x/net/http2"
)

// h2get is a GET that is complete.
func h2get(stream uint32, target string, fields ...string) frame {
	return headers(stream, "GET "+target, fields...).end()
}

// h2answered is an exchange of one GET over HTTP/2 and its answer.
func h2answered(name string, steps ...step) exchange {
	return exchange{name: "HTTP/2: " + name, frames: []frame{h2get(1, "/a")}, server: map[string]reply{"/a": after(steps...)}}
}

// overHTTP2 has exchanges over HTTP/2.
var overHTTP2 = []exchange{
	{name: "HTTP/2: one GET", frames: []frame{h2get(1, "/a")}},
	{name: "HTTP/2: three GETs at once", frames: []frame{h2get(1, "/a"), endedOn(1), h2get(3, "/b"), endedOn(3), h2get(5, "/c")}},
	{name: "HTTP/2: a POST", frames: []frame{headers(1, "POST /a"), data(1, "hello").end()}},
	{name: "HTTP/2: a POST with a length", frames: []frame{headers(1, "POST /a", "content-length: 5"), data(1, "hello").end()}},
	{name: "HTTP/2: a body shorter than its length", frames: []frame{headers(1, "POST /a", "content-length: 10"), data(1, "hello").end()}},
	{name: "HTTP/2: a body longer than its length", frames: []frame{headers(1, "POST /a", "content-length: 3"), data(1, "hello").end()}},
	{name: "HTTP/2: a length without a body", frames: []frame{headers(1, "POST /a", "content-length: 5").end()}},
	{name: "HTTP/2: two lengths", frames: []frame{headers(1, "POST /a", "content-length: 5", "content-length: 6"), data(1, "hello").end()}},
	{name: "HTTP/2: a length that is no number", frames: []frame{headers(1, "POST /a", "content-length: five"), data(1, "hello").end()}},
	{name: "HTTP/2: a body that looks like a request", frames: []frame{headers(1, "POST /a"), data(1, smuggled).end()}},
	{name: "HTTP/2: Transfer-Encoding", frames: []frame{headers(1, "POST /a", "transfer-encoding: chunked"), data(1, "0\r\n\r\n"+smuggled).end()}},
	{name: "HTTP/2: Connection", frames: []frame{h2get(1, "/a", "connection: close")}},
	{name: "HTTP/2: Upgrade", frames: []frame{h2get(1, "/a", "upgrade: websocket")}},
	{name: "HTTP/2: TE: trailers", frames: []frame{h2get(1, "/a", "te: trailers")}, watch: []string{"TE"}},
	{name: "HTTP/2: TE of something else", frames: []frame{h2get(1, "/a", "te: gzip")}},
	{name: "HTTP/2: a line end in a value", frames: []frame{h2get(1, "/a", "x-a: b\r\nx-smuggled: c")}, watch: []string{"X-Smuggled"}},
	{name: "HTTP/2: a line end in a name", frames: []frame{h2get(1, "/a", "x-a\r\nx-b: c")}},
	{name: "HTTP/2: a line end in the path", frames: []frame{headers(1, "GET /a", ":path: /a HTTP/1.1\r\nHost: app\r\n\r\nGET /smuggled").end()}},
	{name: "HTTP/2: a line end in the method", frames: []frame{headers(1, "GET /a", ":method: GET /smuggled HTTP/1.1\r\nX: ").end()}},
	{name: "HTTP/2: a line end in the authority", frames: []frame{headers(1, "GET /a", ":authority: app\r\nX-A: b").end()}},
	{name: "HTTP/2: a name in capitals", frames: []frame{h2get(1, "/a", "X-A: b")}},
	{name: "HTTP/2: a name with a space", frames: []frame{h2get(1, "/a", "x a: b")}},
	{name: "HTTP/2: an empty name", frames: []frame{{kind: http2.FrameHeaders, flags: http2.FlagHeadersEndHeaders | http2.FlagHeadersEndStream, stream: 1,
		fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", "app"}, {":path", "/a"}, {"", "b"}}}}},
	{name: "HTTP/2: a space around a value", frames: []frame{h2get(1, "/a", "x-a:  b ")}, watch: []string{"X-A"}},
	{name: "HTTP/2: a space in the path", frames: []frame{headers(1, "GET /a", ":path: /a b").end()}},
	{name: "HTTP/2: a fragment in the path", frames: []frame{h2get(1, "/a#b")}},
	{name: "HTTP/2: a path that is no path", frames: []frame{headers(1, "GET /a", ":path: a").end()}},
	{name: "HTTP/2: an empty path", frames: []frame{headers(1, "GET /a", ":path: ").end()}},
	{name: "HTTP/2: an absolute target", frames: []frame{headers(1, "GET /a", ":path: http://other/a").end()}},
	{name: "HTTP/2: no path", frames: []frame{headers(1, "GET /a", ":path: -").end()}},
	{name: "HTTP/2: no method", frames: []frame{headers(1, "GET /a", ":method: -").end()}},
	{name: "HTTP/2: no scheme", frames: []frame{headers(1, "GET /a", ":scheme: -").end()}},
	{name: "HTTP/2: another scheme", frames: []frame{headers(1, "GET /a", ":scheme: http").end()}},
	{name: "HTTP/2: no authority but a Host", frames: []frame{headers(1, "GET /a", ":authority: -", "host: app").end()}, watch: []string{"Host"}},
	{name: "HTTP/2: neither authority nor Host", frames: []frame{headers(1, "GET /a", ":authority: -").end()}},
	{name: "HTTP/2: an authority and another Host", frames: []frame{h2get(1, "/a", "host: other")}, watch: []string{"Host"}},
	{name: "HTTP/2: an unknown pseudo-header", frames: []frame{h2get(1, "/a", ":unknown: b")}},
	{name: "HTTP/2: a pseudo-header behind a field", frames: []frame{h2get(1, "/a", "x-a: b", ":late: c")}},
	{name: "HTTP/2: Cookie in three pieces", frames: []frame{h2get(1, "/a", "cookie: a=1", "cookie: b=2", "cookie: c=3")}, watch: []string{"Cookie"}},
	{name: "HTTP/2: Expect", frames: []frame{headers(1, "POST /a", "expect: 100-continue", "content-length: 5"), asked("POST"), data(1, "hello").end()}},
	{name: "HTTP/2: a trailer", frames: []frame{headers(1, "POST /a", "trailer: x-sum"), data(1, "hello"), trailers(1, "x-sum: 1")}},
	{name: "HTTP/2: a trailer that was not announced", frames: []frame{headers(1, "POST /a"), data(1, "hello"), trailers(1, "x-sum: 1")}},
	{name: "HTTP/2: a trailer of a sensitive name", frames: []frame{headers(1, "POST /a", "trailer: cookie, x-forwarded-for, host"), data(1, "hello"),
		trailers(1, "cookie: a=b", "x-forwarded-for: 1.2.3.4", "host: other")}},
	{name: "HTTP/2: a pseudo-header as a trailer", frames: []frame{headers(1, "POST /a"), data(1, "hello"), trailers(1, ":path: /smuggled")}},
	{name: "HTTP/2: CONNECT", frames: []frame{headers(1, "CONNECT -", ":path: -", ":scheme: -", ":authority: app:443")}},
	{name: "HTTP/2: CONNECT with a path", frames: []frame{headers(1, "CONNECT /a")}},
	{name: "HTTP/2: a stream that the client resets", frames: []frame{headers(1, "POST /a"), data(1, "hello"), asked("hello"), resetStream(1)}},
	{name: "HTTP/2: a stream that the client resets while the backend waits", frames: []frame{h2get(1, "/a"), asked("\r\n\r\n"), resetStream(1)},
		server: map[string]reply{"/a": after(clientGot("nothing"))}},
	{name: "HTTP/2: an early refusal", frames: []frame{headers(1, "POST /a"), data(1, "hello"), answeredOn(1)},
		server: map[string]reply{"/a": early(send(refusal))}},
	{name: "HTTP/2: an early refusal, and the rest of the body", frames: []frame{headers(1, "POST /a", "content-length: 10"), data(1, "hello"), answeredOn(1), data(1, "world").end()},
		server: map[string]reply{"/a": early(send(refusal))}},
	{name: "HTTP/2: an early refusal by a backend that reads nothing", frames: []frame{headers(1, "POST /a"), data(1, strings.Repeat("x", 16000)), answeredOn(1), data(1, "more").end()},
		server: map[string]reply{"/a": blind(send(refusalClose), halfClose)}},
	{name: "HTTP/2: both sides talk in turns", frames: []frame{headers(1, "POST /a"), data(1, "one"), answeredOn(1), data(1, "two").end()},
		server: map[string]reply{"/a": early(backendGot("one"), send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n"), backendGot("two"), send("3\ntwo\n0\n\n"))}},
	{name: "HTTP/2: data behind the end of a stream", frames: []frame{h2get(1, "/a"), endedOn(1), data(1, "late")}},
	{name: "HTTP/2: data on a stream that was never opened", frames: []frame{h2get(1, "/a"), endedOn(1), data(5, "stray")}},
	{name: "HTTP/2: an even stream", frames: []frame{headers(2, "GET /a").end()}},
	{name: "HTTP/2: a stream with a lower number", frames: []frame{h2get(5, "/a"), endedOn(5), h2get(3, "/b")}},
	{name: "HTTP/2: HEAD", frames: []frame{headers(1, "HEAD /a").end()}, watch: []string{"Content-Length"},
		server: map[string]reply{"/a": after(send("HTTP/1.1 200 OK\nContent-Length: 3\n\n"))}},
	h2answered("chunks", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\n\n")),
	h2answered("a length and an early end", send("HTTP/1.1 200 OK\nContent-Length: 100\n\n@hello"), hangUp),
	h2answered("chunks that stop", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n6\n@hello\n"), hangUp),
	h2answered("a trailer in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n3\n@ok\n0\nX-Sum: 1\n\n")),
	h2answered("a 103", send("HTTP/1.1 103 Early Hints\nLink: </s>\n\n"+plain)),
	h2answered("a 103 with connection fields", send("HTTP/1.1 103 Early Hints\nLink: </s>\nConnection: X-A\nX-A: 1\nKeep-Alive: timeout=5\nUpgrade: h2c\n\n"+plain)),
	h2answered("connection fields in the answer", send("HTTP/1.1 200 OK\nConnection: X-A\nX-A: 1\nKeep-Alive: timeout=5\nUpgrade: h2c\nContent-Length: 3\n\n@ok")),
	h2answered("a 101 that nobody asked for", send(switching)),
	h2answered("the backend hangs up instead of an answer", hangUp),
	h2answered("an answer without a type", send(plain)).watching("Content-Type"),
	h2answered("a 204", send("HTTP/1.1 204 No Content\n\n")),
	h2answered("a 304 with a length", send("HTTP/1.1 304 Not Modified\nContent-Length: 3\n\n")),
}
