package peertest_test

import (
	"fmt"
	"strings"
)

const (
	refusal      = "HTTP/1.1 413 Content Too Large\nContent-Length: 3\n\n@no"
	refusalClose = "HTTP/1.1 413 Content Too Large\nConnection: close\nContent-Length: 3\n\n@no"
	unauthorized = "HTTP/1.1 401 Unauthorized\nContent-Length: 3\n\n@no"
	plain        = "HTTP/1.1 200 OK\nContent-Length: 3\n\n@ok"
)

var kilobyte = strings.Repeat("x", 1000)

// bodies has requests whose body the backend does not wait for, or the client does not send.
var bodies = []exchange{
	{name: "an early refusal, the body comes at once", tls: true, server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(upload("/a", "hello"))}},
	{name: "an early refusal of chunks that come at once", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(chunked("/a", "5\nhello\n0\n\n"))}},
	{name: "an early refusal, the body comes later", tls: true, server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), clientGot("@no"), send(kilobyte[:990])}},
	{name: "an early refusal, chunks come later", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(chunked("/a", "5\nhello\n")), clientGot("@no"), send("5\nhello\n0\n\n")}},
	{name: "an early refusal, chunks with a request in them come later", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(chunked("/a", "5\nhello\n")), clientGot("@no"), send(fmt.Sprintf("%x\n", sentLength(smuggled)) + smuggled + "\n0\n\n")}},
	{name: "an early 401 and an honest upload", tls: true, server: map[string]reply{"/a": early(send(unauthorized))},
		client: []step{send(requestOf("POST /a", "Content-Length: 50000") + strings.Repeat(kilobyte, 25)), clientGot("@no"),
			send(strings.Repeat(kilobyte, 25))}},
	{name: "an early refusal that closes", tls: true, server: map[string]reply{"/a": early(send(refusalClose), hangUp)},
		client: []step{send(upload("/a", "hello"))}},
	{name: "an early refusal that closes while the client sends", server: map[string]reply{"/a": blind(send(refusalClose), halfClose)},
		client: []step{send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), clientGot("@no"), send(kilobyte[:990])}},
	{name: "an early refusal by a backend that reads nothing, with the next request at once", tls: true,
		server: map[string]reply{"/a": blind(send(refusal))},
		client: []step{send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), clientGot("@no"),
			send(kilobyte[:990] + upload("/b", "next"))}},
	{name: "an early refusal, the rest and two more requests in one write", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), clientGot("@no"),
			send(kilobyte[:990] + upload("/b", "next") + get("/c"))}},
	{name: "an early answer to a body of 300 KB", server: map[string]reply{"/a": early(send(plain))},
		client: []step{send(upload("/a", strings.Repeat(kilobyte, 300)))}},
	{name: "an early answer in two parts", server: map[string]reply{
		"/a": early(send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n"), backendGot("end"), send("5\nagain\n0\n\n"))},
		client: []step{send(requestOf("POST /a", "Content-Length: 8") + "start"), clientGot("@ok"), send("end")}},
	{name: "both sides talk in turns", server: map[string]reply{
		"/a": early(send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n"), backendGot("two"), send("3\ntwo\n"), backendGot("three"), send("5\nthree\n0\n\n"))},
		client: []step{send(chunked("/a", "3\none\n")), clientGot("@ok"), send("3\ntwo\n"), clientGot("two"), send("5\nthree\n0\n\n")}},
	{name: "an early redirect", server: map[string]reply{"/a": early(send("HTTP/1.1 302 Found\nLocation: /b\nContent-Length: 0\n\n"))},
		client: []step{send(requestOf("POST /a", "Content-Length: 100") + kilobyte[:50]), clientGot("302"), send(kilobyte[:50] + get("/b"))}},
	{name: "an early 304", server: map[string]reply{"/a": early(send("HTTP/1.1 304 Not Modified\n\n"))},
		client: []step{send(requestOf("POST /a", "Content-Length: 100") + kilobyte[:50]), clientGot("304"), send(kilobyte[:50])}},
	{name: "an early 204", server: map[string]reply{"/a": early(send("HTTP/1.1 204 No Content\n\n"))},
		client: []step{send(requestOf("POST /a", "Content-Length: 100") + kilobyte[:50]), clientGot("204"), send(kilobyte[:50])}},
	{name: "an early refusal, then broken chunks", tls: true, server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(chunked("/a", "5\nhello\n")), clientGot("@no"), send("+3\n" + smuggled)}},
	{name: "an early refusal, then nothing", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), clientGot("@no"), halfClose}},
	{name: "a body that stops, and the client closes its side", tls: true,
		client: []step{send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), backendGot("xxxxxxxxxx"), halfClose}},
	{name: "chunks that stop, and the client closes its side",
		client: []step{send(chunked("/a", "5\nhello\n")), backendGot("hello"), halfClose}},
	{name: "a chunk that stops in its middle, and the client closes its side",
		client: []step{send(chunked("/a", "5\nhel")), backendGot("hel"), halfClose}},
	{name: "a body that stops, and the client closes", client: []step{
		send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), backendGot("xxxxxxxxxx"), hangUp}},
	{name: "a body that stops, and the client resets", client: []step{
		send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), backendGot("xxxxxxxxxx"), reset}},
	{name: "chunks that break", tls: true, client: []step{send(chunked("/a", "5\nhello\n")), backendGot("hello"), send("nonsense\n" + smuggled)}},
	{name: "chunks that break after a long time", client: []step{
		send(chunked("/a", "3e8\n"+kilobyte+"\n")), backendGot(kilobyte), send("5\nhelloX\n0\n\n" + smuggled)}},
	{name: "a backend that hangs up instead of an answer, two POSTs", tls: true, server: map[string]reply{"/a": after(hangUp), "/b": after(hangUp)},
		client: []step{send(upload("/a", "x") + upload("/b", "x"))}},
	{name: "a backend that hangs up early, two POSTs", server: map[string]reply{"/a": early(hangUp), "/b": early(hangUp)},
		client: []step{send(upload("/a", "x") + upload("/b", "x"))}},
	{name: "a backend that resets in the middle of a body", server: map[string]reply{"/a": early(backendGot("xxxxxxxxxx"), reset)},
		client: []step{send(requestOf("POST /a", "Content-Length: 1000") + kilobyte[:10]), backendGot("xxxxxxxxxx"), send(kilobyte[:990] + get("/b"))}},
	{name: "a body of 1 MB that the backend reads", client: []step{send(upload("/a", strings.Repeat(kilobyte, 1000)))}},
	{name: "a POST with a body and one behind it", tls: true, client: []step{send(upload("/a", "hello") + upload("/b", "world"))}},
	{name: "a body that looks like a request", client: []step{send(upload("/a", smuggled))}},
	{name: "a request behind a body that is one octet short", client: []step{send(requestOf("POST /a", "Content-Length: 4") + "hello" + get("/b"))}},

	{name: "Expect, and the body after 100", tls: true, client: []step{
		send(requestOf("POST /a", "Content-Length: 5", "Expect: 100-continue")), clientGot("100"), send("hello")}},
	{name: "Expect, and the body at once", client: []step{send(upload("/a", "hello", "Expect: 100-continue"))}},
	{name: "Expect without a body", client: []step{send(get("/a", "Expect: 100-continue"))}},
	{name: "Expect with chunks", client: []step{send(chunked("/a", "", "Expect: 100-continue")), clientGot("100"), send("5\nhello\n0\n\n")}},
	{name: "Expect, refused, and no body but the next request", tls: true, server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(requestOf("POST /a", "Content-Length: 5", "Expect: 100-continue")), clientGot("@no"), send(get("/b"))}},
	{name: "Expect, refused, and the body nevertheless", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(requestOf("POST /a", "Content-Length: 5", "Expect: 100-continue")), clientGot("@no"), send("hello")}},
	{name: "Expect, refused, chunks, and the next request", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(chunked("/a", "", "Expect: 100-continue")), clientGot("@no"), send(get("/b"))}},
	{name: "Expect, refused by a backend that closes", server: map[string]reply{"/a": blind(send(refusalClose), halfClose)},
		client: []step{send(requestOf("POST /a", "Content-Length: 5", "Expect: 100-continue")), clientGot("@no"), send(get("/b"))}},
	{name: "Expect, answered with 100 by the backend", server: map[string]reply{"/a": early(send("HTTP/1.1 100 Continue\n\n"), backendGot("hello"), send(plain))},
		client: []step{send(requestOf("POST /a", "Content-Length: 5", "Expect: 100-continue")), clientGot("100"), send("hello")}},
	{name: "Expect, answered with 100 twice", server: map[string]reply{
		"/a": early(send("HTTP/1.1 100 Continue\n\nHTTP/1.1 100 Continue\n\n"), backendGot("hello"), send(plain))},
		client: []step{send(requestOf("POST /a", "Content-Length: 5", "Expect: 100-continue")), clientGot("100"), send("hello")}},
	{name: "Expect of something else", client: []step{send(get("/a", "Expect: the-unexpected"))}},
	{name: "Expect in HTTP/1.0", client: []step{
		send("POST /a HTTP/1.0\nHost: app\nConnection: keep-alive\nExpect: 100-continue\nContent-Length: 5\n\nhello")}},
	{name: "Expect, and the client goes", client: []step{
		send(requestOf("POST /a", "Content-Length: 5", "Expect: 100-continue")), clientGot("100"), halfClose}},

	{name: "a trailer", tls: true, client: []step{send(chunked("/a", "5\nhello\n0\nX-Sum: 1\n\n", "Trailer: X-Sum"))}},
	{name: "a trailer that was not announced", client: []step{send(chunked("/a", "5\nhello\n0\nX-Sum: 1\n\n"))}},
	{name: "a trailer of a sensitive name", tls: true, watch: []string{"Cookie", "Authorization"},
		client: []step{send(chunked("/a", "5\nhello\n0\nCookie: a=b\nAuthorization: Basic eDp5\n\n", "Trailer: Cookie, Authorization"))}},
	{name: "a trailer of a forwarding name",
		client: []step{send(chunked("/a", "5\nhello\n0\nX-Forwarded-For: 1.2.3.4\nForwarded: for=1.2.3.4\nX-Real-Ip: 1.2.3.4\n\n",
			"Trailer: X-Forwarded-For, Forwarded, X-Real-Ip"))}},
	{name: "a trailer of a framing name", client: []step{
		send(chunked("/a", "5\nhello\n0\nContent-Length: 100\nTransfer-Encoding: chunked\n\n"))}},
	{name: "a framing name announced as a trailer", client: []step{
		send(chunked("/a", "5\nhello\n0\nContent-Length: 100\n\n", "Trailer: Content-Length"))}},
	{name: "a trailer of a connection name", client: []step{
		send(chunked("/a", "5\nhello\n0\nConnection: close\nHost: other\nContent-Type: text/html\n\n", "Trailer: Host, Content-Type"))}},
	{name: "a trailer without a colon", client: uploading(send("5\nhello\n0\nnonsense\n\n" + get("/b")))},
	{name: "a trailer of 2 MiB", client: uploading(send("5\nhello\n0\nX-Sum: " + strings.Repeat("a", 2<<20) + "\n\n" + get("/b")))},
	{name: "a trailer that never ends", client: uploading(send("5\nhello\n0\nX-Sum: 1\n"), halfClose)},
	{name: "a folded trailer", client: []step{send(chunked("/a", "5\nhello\n0\nX-Sum: 1\n 2\n\n", "Trailer: X-Sum"))}},
	{name: "what looks like a request as a trailer", client: uploading(send("5\nhello\n0\n" + smuggled + get("/b")))},
	{name: "an early refusal, then a broken trailer", server: map[string]reply{"/a": early(send(refusal))},
		client: []step{send(chunked("/a", "5\nhello\n")), clientGot("@no"), send("0\nnonsense\n\n" + get("/b"))}},
	{name: "a request with TE: trailers", watch: []string{"TE"}, client: []step{send(get("/a", "TE: trailers", "Connection: TE"))}},
}
