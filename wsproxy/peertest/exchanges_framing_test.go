package peertest_test

import (
	"fmt"
	"strings"
)

// requestOf is a request with these fields.
func requestOf(line string, fields ...string) string {
	fields = append([]string{line + " HTTP/1.1", "Host: app"}, fields...)
	return strings.Join(fields, "\n") + "\n\n"
}

func get(target string, fields ...string) string { return requestOf("GET "+target, fields...) }

// upload is a POST whose body has a length.
func upload(target, body string, fields ...string) string {
	return requestOf("POST "+target, append(fields, fmt.Sprintf("Content-Length: %d", sentLength(body)))...) + body
}

// sentLength is how much a text is on the wire.
func sentLength(text string) int { return len(text) + strings.Count(text, "\n") }

// chunked is a POST whose body is what these chunks make, as they stand: "5\nhello\n0\n\n".
func chunked(target, chunks string, fields ...string) string {
	return requestOf("POST "+target, append(fields, "Transfer-Encoding: chunked")...) + chunks
}

// uploading is a POST whose chunks, as these steps have them, come when the backend has its header: until then a proxy
// may or may not have asked it when it sees that they are broken.
func uploading(chunks ...step) []step {
	return append([]step{send(chunked("/a", "")), backendGot("\r\n\r\n")}, chunks...)
}

// smuggled is what must never be taken for a request: it stands in bodies.
const smuggled = "GET /smuggled HTTP/1.1\nHost: app\n\n"

// framing has bodies whose length is said in every way, right and wrong.
var framing = []exchange{
	{name: "one GET", tls: true, client: []step{send(get("/a"))}},
	{name: "a POST with a length", tls: true, client: []step{send(upload("/a", "hello"))}},
	{name: "a POST with chunks", tls: true, client: []step{send(chunked("/a", "5\nhello\n0\n\n"))}},
	{name: "a POST without a body", client: []step{send(requestOf("POST /a"))}},
	{name: "a POST with the length 0", client: []step{send(upload("/a", ""))}},
	{name: "a GET with a body", client: []step{send(requestOf("GET /a", "Content-Length: 5") + "hello")}},
	{name: "a DELETE with a chunked body", client: []step{send(requestOf("DELETE /a", "Transfer-Encoding: chunked") + "5\nhello\n0\n\n")}},
	{name: "a HEAD with a body", client: []step{send(requestOf("HEAD /a", "Content-Length: 5") + "hello")}},
	{name: "length and chunks, the length covers all", client: []step{
		send(requestOf("POST /a", "Content-Length: 10", "Transfer-Encoding: chunked") + "5\nhello\n0\n\n")}},
	{name: "length and chunks, the length is too short", client: []step{
		send(requestOf("POST /a", "Content-Length: 4", "Transfer-Encoding: chunked") + "5e\n" + strings.Repeat("x", 94) + "\n0\n\n")}},
	{name: "length and chunks, a request behind the chunks", tls: true, client: []step{
		send(requestOf("POST /a", "Content-Length: 33", "Transfer-Encoding: chunked") + "0\n\n" + get("/b"))}},
	{name: "chunks and length in the other order", client: []step{
		send(requestOf("POST /a", "Transfer-Encoding: chunked", "Content-Length: 3") + "5\nhello\n0\n\n")}},
	{name: "two equal lengths", client: []step{send(requestOf("POST /a", "Content-Length: 5", "Content-Length: 5") + "hello")}},
	{name: "two lengths", tls: true, client: []step{send(requestOf("POST /a", "Content-Length: 5", "Content-Length: 6") + "hello")}},
	{name: "a list of equal lengths", client: []step{send(requestOf("POST /a", "Content-Length: 5, 5") + "hello")}},
	{name: "a list of lengths", client: []step{send(requestOf("POST /a", "Content-Length: 5, 6") + "hello")}},
	{name: "a length with a plus", client: []step{send(requestOf("POST /a", "Content-Length: +5") + "hello")}},
	{name: "a negative length", client: []step{send(requestOf("POST /a", "Content-Length: -5") + "hello")}},
	{name: "a length in hex", client: []step{send(requestOf("POST /a", "Content-Length: 0x5") + "hello")}},
	{name: "a length with a space inside", client: []step{send(requestOf("POST /a", "Content-Length: 5 0") + "hello")}},
	{name: "a length with leading zeros", client: []step{send(requestOf("POST /a", "Content-Length: 0005") + "hello")}},
	{name: "an empty length", client: []step{send(requestOf("POST /a", "Content-Length:") + "hello")}},
	{name: "a length of 2^63", client: []step{send(requestOf("POST /a", "Content-Length: 9223372036854775808") + "hello")}},
	{name: "a length of 2^64+5", client: []step{send(requestOf("POST /a", "Content-Length: 18446744073709551621") + "hello")}},
	{name: "a length that is no number", client: []step{send(requestOf("POST /a", "Content-Length: five") + "hello")}},
	{name: "a name and a space before its colon", client: []step{send(requestOf("POST /a", "Content-Length : 5") + "hello")}},
	{name: "Transfer-Encoding and a space before its colon", tls: true, client: []step{
		send(requestOf("POST /a", "Transfer-Encoding : chunked") + "5\nhello\n0\n\n")}},
	{name: "Transfer-Encoding after a tab", client: []step{send(requestOf("POST /a", "Transfer-Encoding:\tchunked") + "5\nhello\n0\n\n")}},
	{name: "Transfer-Encoding after a vertical tab", client: []step{send(requestOf("POST /a", "Transfer-Encoding: \vchunked") + "5\nhello\n0\n\n")}},
	{name: "Transfer-Encoding in capitals", client: []step{send(requestOf("POST /a", "TRANSFER-ENCODING: CHUNKED") + "5\nhello\n0\n\n")}},
	{name: "Transfer-Encoding: identity", client: []step{send(requestOf("POST /a", "Transfer-Encoding: identity", "Content-Length: 5") + "hello")}},
	{name: "Transfer-Encoding: xchunked", client: []step{send(requestOf("POST /a", "Transfer-Encoding: xchunked") + "5\nhello\n0\n\n")}},
	{name: "Transfer-Encoding: gzip, chunked", client: []step{send(requestOf("POST /a", "Transfer-Encoding: gzip, chunked") + "5\nhello\n0\n\n")}},
	{name: "Transfer-Encoding: chunked, identity", client: []step{send(requestOf("POST /a", "Transfer-Encoding: chunked, identity") + "5\nhello\n0\n\n")}},
	{name: "chunked twice in a list", client: []step{send(requestOf("POST /a", "Transfer-Encoding: chunked, chunked") + "5\nhello\n0\n\n")}},
	{name: "chunked twice in two lines", client: []step{send(requestOf("POST /a", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "5\nhello\n0\n\n")}},
	{name: "an empty Transfer-Encoding", client: []step{send(requestOf("POST /a", "Transfer-Encoding:", "Content-Length: 5") + "hello")}},
	{name: "chunked in quotes", client: []step{send(requestOf("POST /a", `Transfer-Encoding: "chunked"`) + "5\nhello\n0\n\n")}},
	{name: "Transfer_Encoding", watch: []string{"Transfer_Encoding"}, client: []step{
		send(requestOf("POST /a", "Transfer_Encoding: chunked", "Content-Length: 5") + "hello")}},
	{name: "Transfer-Encoding in HTTP/1.0", tls: true, client: []step{
		send("POST /a HTTP/1.0\nHost: app\nConnection: keep-alive\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n")}},
	{name: "Transfer-Encoding and a length in HTTP/1.0", client: []step{
		send("POST /a HTTP/1.0\nHost: app\nConnection: keep-alive\nTransfer-Encoding: chunked\nContent-Length: 5\n\n0\n\n" + get("/b"))}},
	{name: "Transfer-Encoding named in Connection", client: []step{
		send(requestOf("POST /a", "Connection: Transfer-Encoding", "Transfer-Encoding: chunked") + "5\nhello\n0\n\n")}},
	{name: "Content-Length named in Connection", client: []step{send(upload("/a", "hello", "Connection: Content-Length"))}},

	{name: "a chunk size in capitals", client: []step{send(chunked("/a", "A\n0123456789\n0\n\n"))}},
	{name: "a chunk size with leading zeros", client: []step{send(chunked("/a", "0005\nhello\n000\n\n"))}},
	{name: "a chunk size of 17 digits", tls: true, client: uploading(send(strings.Repeat("0", 16) + "5\nhello\n0\n\n"))},
	{name: "a chunk size of 17 digits before what looks like a request", client: uploading(send(fmt.Sprintf("%017x\n", sentLength(smuggled)) + smuggled + "\n0\n\n"))},
	{name: "a chunk size of 2^64+5", client: uploading(send("10000000000000005\nhello\n0\n\n" + get("/b")))},
	{name: "a chunk size with a plus", tls: true, client: uploading(send("+5\nhello\n0\n\n" + get("/b")))},
	{name: "a chunk size with a plus, then what looks like a request", client: uploading(send("+3\n" + smuggled))},
	{name: "a negative chunk size", client: uploading(send("-5\nhello\n0\n\n" + get("/b")))},
	{name: "a chunk size with 0x", client: uploading(send("0x5\nhello\n0\n\n" + get("/b")))},
	{name: "an empty chunk size", client: uploading(send("\nhello\n0\n\n" + get("/b")))},
	{name: "a chunk size that is no number", client: uploading(send("five\nhello\n0\n\n" + get("/b")))},
	{name: "a chunk size and spaces", client: []step{send(chunked("/a", "5  \nhello\n0\n\n"))}},
	{name: "a space before a chunk size", client: uploading(send(" 5\nhello\n0\n\n"))},
	{name: "chunk extensions", tls: true, client: []step{send(chunked("/a", "5;name=value;other=\"quoted\"\nhello\n0;last\n\n"))}},
	{name: "a chunk extension of 5000 octets", client: uploading(send("5;" + strings.Repeat("x", 5000) + "\nhello\n0\n\n" + get("/b")))},
	{name: "a bare LF in a chunk extension", tls: true, client: uploading(raw("5;x\nhello\r\n0\r\n\r\n"), send(get("/b")))},
	{name: "a bare LF after a chunk size", client: uploading(raw("5\nhello\r\n0\r\n\r\n"), send(get("/b")))},
	{name: "a bare CR after a chunk size", client: uploading(raw("5\rhello\r\n0\r\n\r\n"), send(get("/b")))},
	{name: "a bare LF after a chunk", client: uploading(raw("5\r\nhello\n0\r\n\r\n"), send(get("/b")))},
	{name: "no line end after a chunk", client: uploading(raw("5\r\nhello0\r\n\r\n"), send(get("/b")))},
	{name: "a chunk that is longer than its size", client: uploading(send("5\nhelloGET /smuggled HTTP/1.1\nHost: app\n\n0\n\n"))},
	{name: "a last chunk alone", client: []step{send(chunked("/a", "0\n\n"))}},
	{name: "a bare LF ends the chunked body", client: []step{send(chunked("/a", "5\nhello\n0\n")), raw("\n"), send(get("/b"))}},
	{name: "200 chunks of one octet", client: []step{send(chunked("/a", strings.Repeat("1\nx\n", 200)+"0\n\n"))}},
	{name: "a chunk in three writes", client: []step{send(chunked("/a", "5\nhe")), backendGot("he"), send("llo\n"), backendGot("llo"), send("0\n\n")}},

	{name: "bare LF in the header section", client: []step{raw("GET /a HTTP/1.1\nHost: app\n\n")}},
	{name: "bare LF after the request line", client: []step{raw("GET /a HTTP/1.1\nHost: app\r\n\r\n")}},
	{name: "bare CR in the header section", client: []step{raw("GET /a HTTP/1.1\rHost: app\r\r")}},
	{name: "bare CR in a value", client: []step{raw("GET /a HTTP/1.1\r\nHost: app\r\nX-A: a\rGET /smuggled HTTP/1.1\r\n\r\n")}},
	{name: "NUL in a value", client: []step{send(get("/a", "X-A: a\x00b"))}},
	{name: "NUL in a name", client: []step{send(get("/a", "X-\x00A: b"))}},
	{name: "a high octet in a value", watch: []string{"X-A"}, client: []step{send(get("/a", "X-A: caf\xe9"))}},
	{name: "a folded field", tls: true, watch: []string{"X-A"}, client: []step{send(get("/a", "X-A: one\n two"))}},
	{name: "a folded length", client: []step{send(requestOf("POST /a", "Content-Length:\n 5") + "hello")}},
	{name: "a folded first line", client: []step{send("GET /a HTTP/1.1\n Host: app\n\n")}},
	{name: "a folded Transfer-Encoding", client: []step{send(requestOf("POST /a", "Transfer-Encoding:\n chunked") + "5\nhello\n0\n\n")}},
	{name: "a line without a colon", client: []step{send(get("/a", "nonsense"))}},
	{name: "an empty name", client: []step{send(get("/a", ": value"))}},
	{name: "a name with a space", client: []step{send(get("/a", "X A: value"))}},
	{name: "a name with parentheses", client: []step{send(get("/a", "X(A): value"))}},
	{name: "an empty line before the request", client: []step{send("\n" + get("/a"))}},
	{name: "five empty lines before the request", client: []step{send("\n\n\n\n\n" + get("/a"))}},
	{name: "a bare LF before the request", client: []step{raw("\n"), send(get("/a"))}},
	{name: "no Host", client: []step{send("GET /a HTTP/1.1\n\n")}},
	{name: "an empty Host", client: []step{send("GET /a HTTP/1.1\nHost:\n\n")}},
	{name: "two Hosts", tls: true, client: []step{send(get("/a", "Host: other"))}},
	{name: "two equal Hosts", client: []step{send(get("/a", "Host: app"))}},
	{name: "a Host with a path", client: []step{send("GET /a HTTP/1.1\nHost: app/b\n\n")}},
	{name: "a Host with a user", client: []step{send("GET /a HTTP/1.1\nHost: user@app\n\n")}},
	{name: "a Host with a space", client: []step{send("GET /a HTTP/1.1\nHost: app other\n\n")}},
	{name: "an absolute target", watch: []string{"Host"}, client: []step{send("GET http://app/a HTTP/1.1\nHost: app\n\n")}},
	{name: "an absolute target and another Host", watch: []string{"Host"}, client: []step{send("GET http://app/a HTTP/1.1\nHost: other\n\n")}},
	{name: "two spaces in the request line", client: []step{send("GET  /a HTTP/1.1\nHost: app\n\n")}},
	{name: "a tab in the request line", client: []step{send("GET\t/a\tHTTP/1.1\nHost: app\n\n")}},
	{name: "a space after the request line", client: []step{send("GET /a HTTP/1.1 \nHost: app\n\n")}},
	{name: "a request line without a version", client: []step{send("GET /a\n\n")}},
	{name: "a space in the target", client: []step{send("GET /a b HTTP/1.1\nHost: app\n\n")}},
	{name: "a fragment in the target", tls: true, client: []step{send(get("/a#b"))}},
	{name: "a fragment in the query", client: []step{send(get("/a?b#c"))}},
	{name: "a fragment in an absolute target", client: []step{send("GET http://app/a#.png HTTP/1.1\nHost: app\n\n")}},
	{name: "a high octet in the target", client: []step{send(get("/caf\xe9"))}},
	{name: "a control octet in the target", client: []step{send(get("/a\x01"))}},
	{name: "an escaped line end in the target", client: []step{send(get("/a%0d%0aX-A:%20b"))}},
	{name: "an escaped NUL in the target", client: []step{send(get("/a%00"))}},
	{name: "a broken escape in the target", client: []step{send(get("/a%zz"))}},
	{name: "a broken escape in the query", client: []step{send(get("/a?b=%zz"))}},
	{name: "dots in the target", client: []step{send(get("/a/../b"))}},
	{name: "a target that climbs out", client: []step{send(get("/../../b"))}},
	{name: "two slashes in the target", client: []step{send(get("//a//b"))}},
	{name: "a backslash in the target", client: []step{send(get(`/a\b`))}},
	{name: "quotes and brackets in the target", client: []step{send(get(`/a"<>[]{}|^` + "`"))}},
	{name: "a semicolon in the query", client: []step{send(get("/a?b=1;c=2"))}},
	{name: "an empty query", client: []step{send(get("/a?"))}},
	{name: "a target of 7000 octets", client: []step{send(get("/" + strings.Repeat("a", 7000)))}},
	{name: "a target of 2 MiB", client: []step{send(get("/" + strings.Repeat("a", 2<<20)))}},
	{name: "a target that is no path", client: []step{send("GET a HTTP/1.1\nHost: app\n\n")}},
	{name: "an asterisk with GET", client: []step{send(get("*"))}},
	{name: "OPTIONS and an asterisk", client: []step{send(requestOf("OPTIONS *"))}},
	{name: "a lower-case method", client: []step{send(requestOf("get /a"))}},
	{name: "a method of one's own", client: []step{send(requestOf("BREW /a"))}},
	{name: "a method with a quote", client: []step{send(requestOf(`G"T /a`))}},
	{name: "TRACE", client: []step{send(requestOf("TRACE /a"))}},
	{name: "HTTP/1.2", client: []step{send("GET /a HTTP/1.2\nHost: app\n\n")}},
	{name: "HTTP/2.0 in the request line", client: []step{send("GET /a HTTP/2.0\nHost: app\n\n")}},
	{name: "HTTP/0.9 in the request line", client: []step{send("GET /a HTTP/0.9\nHost: app\n\n")}},
	{name: "HTTP/01.1", client: []step{send("GET /a HTTP/01.1\nHost: app\n\n")}},
	{name: "a lower-case version", client: []step{send("GET /a http/1.1\nHost: app\n\n")}},
	{name: "the preface of HTTP/2", client: []step{send("PRI * HTTP/2.0\n\nSM\n\n")}},
	{name: "a TLS handshake in plain text", client: []step{raw("\x16\x03\x01\x00\x05hello\r\n\r\n")}},
	{name: "100 fields", client: []step{send(get("/a", strings.Split(strings.TrimSpace(strings.Repeat("X-A: b\n", 90)), "\n")...))}},
	{name: "a field of 6000 octets", client: []step{send(get("/a", "X-A: "+strings.Repeat("b", 6000)))}},
	{name: "a header section of 2 MiB", client: []step{send(get("/a", "X-A: "+strings.Repeat("b", 2<<20)))}},
}
