package peertest_test

import "strings"

// answered1 is an exchange of one GET and its answer.
func answered1(name string, steps ...step) exchange {
	return exchange{name: name, client: []step{send(get("/a"))}, server: map[string]reply{"/a": after(steps...)}}
}

// overTLS is the exchange over TLS as well.
func (x exchange) overTLS() exchange { x.tls = true; return x }

func (x exchange) watching(names ...string) exchange { x.watch = names; return x }

func (x exchange) from(client ...step) exchange { x.client = client; return x }

// responses has responses of backends that are broken, slow or odd.
var responses = []exchange{
	answered1("chunks", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\n\n")).overTLS(),
	answered1("until the end", send("HTTP/1.1 200 OK\n\n@ok"), hangUp).overTLS(),
	answered1("until a reset", send("HTTP/1.1 200 OK\n\n@ok"), clientGot("@ok"), reset),
	answered1("a length and an early end", send("HTTP/1.1 200 OK\nContent-Length: 100\n\n@hello"), hangUp).overTLS(),
	answered1("a length and an early end, after a while", send("HTTP/1.1 200 OK\nContent-Length: 100\n\n@hello"), clientGot("@hello"), hangUp),
	answered1("a length and a reset, after a while", send("HTTP/1.1 200 OK\nContent-Length: 100\n\n@hello"), clientGot("@hello"), reset),
	answered1("a length and nothing of the body", send("HTTP/1.1 200 OK\nContent-Length: 100\n\n"), hangUp),
	answered1("chunks that stop", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n6\n@hello\n"), hangUp).overTLS(),
	answered1("a chunk that stops", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n64\n@hello"), hangUp),
	answered1("broken chunks in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n6\n@hello\nnonsense\n")),
	answered1("chunks without the last line", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n6\n@hello\n0\n"), hangUp),
	answered1("a header that stops", send("HTTP/1.1 200 OK\nContent-Le"), hangUp),
	answered1("a status line that stops", send("HTTP/1.1 20"), hangUp),
	answered1("a header in single octets", single("HTTP/1.1 200 OK\nContent-Length: 3\n\n@ok")...),
	answered1("a body in single octets", append([]step{send("HTTP/1.1 200 OK\nContent-Length: 9\n\n")}, single("@12345678")...)...),
	answered1("a slow body", send("HTTP/1.1 200 OK\nContent-Length: 9\n\n@123"), clientGot("@123"), send("45678")),
	answered1("slow chunks", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n@123\n"), clientGot("@123"), send("5\n45678\n0\n\n")),
	answered1("no reason phrase", send("HTTP/1.1 200\nContent-Length: 3\n\n@ok")),
	answered1("no reason phrase but a space", send("HTTP/1.1 200 \nContent-Length: 3\n\n@ok")),
	answered1("a reason of many words", send("HTTP/1.1 200 All is well: really\nContent-Length: 3\n\n@ok")),
	answered1("bare LF", raw("HTTP/1.1 200 OK\nContent-Length: 3\n\n@ok")),
	answered1("status 99", send("HTTP/1.1 99 Low\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("status 999", send("HTTP/1.1 999 High\nContent-Length: 3\n\n@ok")),
	answered1("status 1000", send("HTTP/1.1 1000 Higher\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("status 299", send("HTTP/1.1 299 Odd\nContent-Length: 3\n\n@ok")),
	answered1("a status that is no number", send("HTTP/1.1 abc OK\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("a negative status", send("HTTP/1.1 -200 OK\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("a version of 2.0", send("HTTP/2.0 200 OK\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("a version of 1.0", send("HTTP/1.0 200 OK\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("a version of 1.0, until the end", send("HTTP/1.0 200 OK\n\n@ok"), hangUp),
	answered1("a version of 1.0 with keep-alive", send("HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 3\n\n@ok")),
	answered1("a version of 1.0 with chunks", send("HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\n\n"), hangUp),
	answered1("HTTP/0.9", send("@ok"), hangUp),
	answered1("an empty line and an answer", send("\nHTTP/1.1 200 OK\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("another protocol", send("SSH-2.0-OpenSSH_9.2\n"), hangUp),
	answered1("a line without a colon in the answer", send("HTTP/1.1 200 OK\nnonsense\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("a folded field in the answer", send("HTTP/1.1 200 OK\nX-A: one\n two\nContent-Length: 3\n\n@ok")).watching("X-A"),
	answered1("a space before a colon in the answer", send("HTTP/1.1 200 OK\nContent-Length : 3\n\n@ok"), hangUp),
	answered1("NUL in a value of the answer", send("HTTP/1.1 200 OK\nX-A: a\x00b\nContent-Length: 3\n\n@ok")),
	answered1("two lengths in the answer", send("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Length: 4\n\n@ok!"), hangUp).overTLS(),
	answered1("two equal lengths in the answer", send("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Length: 3\n\n@ok")),
	answered1("a list of lengths in the answer", send("HTTP/1.1 200 OK\nContent-Length: 3, 3\n\n@ok"), hangUp),
	answered1("a negative length in the answer", send("HTTP/1.1 200 OK\nContent-Length: -3\n\n@ok"), hangUp),
	answered1("a length with a plus in the answer", send("HTTP/1.1 200 OK\nContent-Length: +3\n\n@ok"), hangUp),
	answered1("length and chunks in the answer", send("HTTP/1.1 200 OK\nContent-Length: 100\nTransfer-Encoding: chunked\n\n3\n@ok\n0\n\n")),
	answered1("an unknown coding in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\n@ok"), hangUp),
	answered1("chunked twice in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked, chunked\n\n3\n@ok\n0\n\n"), hangUp),
	answered1("an answer behind the answer", send(plain+"HTTP/1.1 200 OK\nContent-Length: 8\n\n@foreign")).from(send(get("/a") + get("/b"))).overTLS(),
	answered1("garbage behind the answer", send(plain+"garbage\n\n")).from(send(get("/a") + get("/b"))),
	answered1("garbage behind the chunks", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\n\ngarbage\n\n")).from(send(get("/a") + get("/b"))),
	answered1("a body longer than its length", send("HTTP/1.1 200 OK\nContent-Length: 3\n\n@ok and more")).from(send(get("/a") + get("/b"))),
	answered1("204 with a body", send("HTTP/1.1 204 No Content\nContent-Length: 3\n\n@no")).from(send(get("/a") + get("/b"))),
	answered1("204 with chunks", send("HTTP/1.1 204 No Content\nTransfer-Encoding: chunked\n\n3\n@no\n0\n\n")).from(send(get("/a") + get("/b"))),
	answered1("304 with a body", send("HTTP/1.1 304 Not Modified\nContent-Length: 3\n\n@no")).from(send(get("/a") + get("/b"))),
	answered1("304 with a length", send("HTTP/1.1 304 Not Modified\nContent-Length: 3\n\n")),
	answered1("205 with a body", send("HTTP/1.1 205 Reset Content\nContent-Length: 3\n\n@no")),
	answered1("HEAD with a length", send("HTTP/1.1 200 OK\nContent-Length: 3\n\n")).from(send(requestOf("HEAD /a"))).watching("Content-Length"),
	answered1("HEAD with a body", send("HTTP/1.1 200 OK\nContent-Length: 3\n\n@no")).from(send(requestOf("HEAD /a") + get("/b"))).overTLS(),
	answered1("HEAD with chunks", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n")).from(send(requestOf("HEAD /a") + get("/b"))),
	answered1("HEAD with a chunked body", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@no\n0\n\n")).from(send(requestOf("HEAD /a") + get("/b"))),
	answered1("a 103", send("HTTP/1.1 103 Early Hints\nLink: </s>\n\n"+plain)).watching("Link").overTLS(),
	answered1("a 103, then nothing for a while", send("HTTP/1.1 103 Early Hints\nLink: </s>\n\n"), clientGot("103"), send(plain)),
	answered1("a 103 with connection fields", send("HTTP/1.1 103 Early Hints\nLink: </s>\nConnection: X-A\nX-A: 1\nKeep-Alive: timeout=5\nUpgrade: h2c\n\n"+plain)).
		watching("Connection", "X-A", "Keep-Alive", "Upgrade").overTLS(),
	answered1("a 102 and a 103 and a 103", send("HTTP/1.1 102 Processing\n\nHTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 103 Early Hints\nLink: </b>\n\n"+plain)),
	answered1("a 100 that nobody asked for", send("HTTP/1.1 100 Continue\n\n"+plain)),
	answered1("fifty 103s", send(strings.Repeat("HTTP/1.1 103 Early Hints\nLink: </s>\n\n", 50)+plain)),
	answered1("a 103 with a length", send("HTTP/1.1 103 Early Hints\nContent-Length: 3\n\n"+plain)),
	answered1("a 103 to HTTP/1.0", send("HTTP/1.1 103 Early Hints\nLink: </s>\n\n"+plain)).from(send("GET /a HTTP/1.0\nHost: app\n\n")),
	answered1("a 103 and the end", send("HTTP/1.1 103 Early Hints\nLink: </s>\n\n"), hangUp),
	answered1("a 199", send("HTTP/1.1 199 Odd\n\n"+plain)),
	answered1("a trailer in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n3\n@ok\n0\nX-Sum: 1\n\n")).overTLS(),
	answered1("a trailer in the answer that was not announced", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\nX-Sum: 1\n\n")),
	answered1("a trailer of a sensitive name in the answer",
		send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: Set-Cookie, Content-Length\n\n3\n@ok\n0\nSet-Cookie: a=b\nContent-Length: 7\n\n")),
	answered1("a broken trailer in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\nnonsense\n\n"), hangUp),
	answered1("chunks to HTTP/1.0", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\n\n")).from(send("GET /a HTTP/1.0\nHost: app\n\n")),
	answered1("chunks to HTTP/1.0 with keep-alive", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\n\n")).
		from(send("GET /a HTTP/1.0\nHost: app\nConnection: keep-alive\n\n")),
	answered1("chunk extensions in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3;a=b\n@ok\n0;c\n\n")),
	answered1("a chunk size of 17 digits in the answer", send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"+strings.Repeat("0", 16)+"3\n@ok\n0\n\n")),
	answered1("a bare LF after a chunk size in the answer", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\n@ok\r\n0\r\n\r\n")),
	answered1("connection fields in the answer", send("HTTP/1.1 200 OK\nConnection: X-A\nX-A: 1\nKeep-Alive: timeout=5\nProxy-Authenticate: Basic\nContent-Length: 3\n\n@ok")).
		watching("X-A", "Keep-Alive", "Proxy-Authenticate"),
	answered1("an answer without a type", send(plain)).watching("Content-Type"),
	answered1("an answer that looks like a page, without a type", send("HTTP/1.1 200 OK\nContent-Length: 14\n\n@<html></html>")).watching("Content-Type"),
	answered1("two Locations", send("HTTP/1.1 302 Found\nLocation: /b\nLocation: /c\nContent-Length: 0\n\n")),
	answered1("a header of 60 KB in the answer", send("HTTP/1.1 200 OK\nX-A: "+strings.Repeat("a", 60<<10)+"\nContent-Length: 3\n\n@ok")),
	answered1("a header of 3 MB in the answer", send("HTTP/1.1 200 OK\nX-A: "+strings.Repeat("a", 3<<20)+"\nContent-Length: 3\n\n@ok"), hangUp),
	answered1("an answer of 1 MB", send("HTTP/1.1 200 OK\nContent-Length: 1000001\n\n@"+strings.Repeat(kilobyte, 1000))),
	answered1("an answer before the request is sent", send(plain)).from(send(requestOf("POST /a", "Content-Length: 0"))),
}
