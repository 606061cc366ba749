package peertest_test

import "strings"

const (
	webSocket = "Upgrade: websocket"
	upgrading = "Connection: Upgrade"
	version   = "Sec-WebSocket-Version: 13"
	key       = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
	switching = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\n\n"
)

func upgrade(target string, fields ...string) string {
	return get(target, append([]string{upgrading, webSocket, version, key}, fields...)...)
}

// connections has several requests on one connection, and what ends it.
var connections = []exchange{
	{name: "three requests in one write", tls: true, client: []step{send(get("/a") + get("/b") + get("/c"))}},
	{name: "twenty requests in one write", client: []step{send(strings.Repeat(get("/a"), 20))}},
	{name: "one request after the other", client: []step{send(get("/a")), clientGot("@ok"), send(get("/b")), clientGot("@ok"), send(get("/c"))}},
	{name: "a request in single octets", client: single(get("/a"))},
	{name: "two requests, the second half a request", client: []step{send(get("/a") + "GET /b HT"), clientGot("@ok"), send("TP/1.1\nHost: app\n\n")}},
	{name: "a request that never ends", tls: true, client: []step{send("GET /a HTTP/1.1\nHost: app\n"), halfClose}},
	{name: "a connection without a request", client: []step{halfClose}},
	{name: "a request, and the client resets", client: []step{send(get("/a")), backendGot("\r\n\r\n"), reset}},
	{name: "a request, its answer, and the end of the client's side", client: []step{send(get("/a")), clientGot("@ok"), halfClose}},
	{name: "Connection: close", tls: true, client: []step{send(get("/a", "Connection: close"))}},
	{name: "Connection: close and a request behind it", client: []step{send(get("/a", "Connection: close") + get("/b"))}},
	{name: "Connection: close in a list", client: []step{send(get("/a", "Connection: keep-alive, close"))}},
	{name: "Connection: Close", client: []step{send(get("/a", "Connection: Close"))}},
	{name: "Connection: keep-alive", watch: []string{"Connection", "Keep-Alive"}, client: []step{send(get("/a", "Connection: keep-alive", "Keep-Alive: timeout=5"))}},
	{name: "Proxy-Connection", watch: []string{"Proxy-Connection"}, client: []step{send(get("/a", "Proxy-Connection: keep-alive"))}},
	{name: "a field named in Connection", watch: []string{"X-A", "X-B"}, client: []step{send(get("/a", "Connection: X-A", "X-A: 1", "X-B: 2"))}},
	{name: "Host named in Connection", watch: []string{"Host"}, client: []step{send(get("/a", "Connection: Host"))}},
	{name: "Cookie named in Connection", watch: []string{"Cookie"}, client: []step{send(get("/a", "Connection: Cookie", "Cookie: a=b"))}},
	{name: "HTTP/1.0", tls: true, client: []step{send("GET /a HTTP/1.0\nHost: app\n\n")}},
	{name: "HTTP/1.0 with keep-alive", client: []step{send("GET /a HTTP/1.0\nHost: app\nConnection: keep-alive\n\n")}},
	{name: "HTTP/1.0 without Host", client: []step{send("GET /a HTTP/1.0\n\n")}},
	{name: "HTTP/1.0 with two requests", client: []step{send("GET /a HTTP/1.0\nHost: app\n\n" + get("/b"))}},
	{name: "HTTP/1.0 with a body", client: []step{send("POST /a HTTP/1.0\nHost: app\nContent-Length: 5\n\nhello")}},
	{name: "a good request behind a bad one", client: []step{send(get("/a", "nonsense") + get("/b"))}},
	{name: "a bad request behind a good one", tls: true, client: []step{send(get("/a") + get("/b", "nonsense"))}},
	{name: "the backend closes after each answer", server: map[string]reply{"/a": after(send(plain), hangUp), "/b": after(send(plain), hangUp)},
		client: []step{send(get("/a")), clientGot("@ok"), send(get("/b"))}},
	{name: "the backend says that it closes", server: map[string]reply{
		"/a": after(send("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 3\n\n@ok"), hangUp)},
		client: []step{send(get("/a") + get("/b"))}},
	{name: "the backend hangs up instead of an answer", tls: true, server: map[string]reply{"/a": after(hangUp)}, client: []step{send(get("/a"))}},
	{name: "the backend resets instead of an answer", server: map[string]reply{"/a": after(reset)}, client: []step{send(get("/a"))}},
	{name: "the backend ends its side instead of an answer", server: map[string]reply{"/a": after(halfClose)}, client: []step{send(get("/a"))}},

	{name: "CONNECT", tls: true, client: []step{send("CONNECT app:443 HTTP/1.1\nHost: app:443\n\n")}},
	{name: "CONNECT and what looks like a request", client: []step{send("CONNECT app:443 HTTP/1.1\nHost: app:443\n\n" + smuggled)}},
	{name: "CONNECT with a path", client: []step{send("CONNECT /a HTTP/1.1\nHost: app\n\n" + smuggled)}},
	{name: "CONNECT with a body", client: []step{send("CONNECT app:443 HTTP/1.1\nHost: app:443\nContent-Length: 5\n\nhello")}},
	{name: "CONNECT in HTTP/1.0", client: []step{send("CONNECT app:443 HTTP/1.0\n\n" + smuggled)}},
}

// single sends a text octet by octet.
func single(text string) (steps []step) {
	for i := range strings.ReplaceAll(text, "\n", "\r\n") {
		steps = append(steps, raw(strings.ReplaceAll(text, "\n", "\r\n")[i:i+1]))
	}
	return steps
}

// upgrades has upgrades, accepted and refused.
var upgrades = []exchange{
	{name: "a WebSocket", tls: true, server: map[string]reply{"/a": after(send(switching), backendGot("ping"), send("pong"))},
		client: []step{send(upgrade("/a")), clientGot("101"), send("ping"), clientGot("pong"), halfClose}},
	{name: "a WebSocket whose frames come before the 101", server: map[string]reply{"/a": after(send(switching), backendGot("ping"), send("pong"))},
		client: []step{send(upgrade("/a") + "ping"), clientGot("pong"), halfClose}},
	{name: "a WebSocket whose frames are glued to the 101", server: map[string]reply{"/a": after(send(switching+"hello"), backendGot("bye"))},
		client: []step{send(upgrade("/a")), clientGot("hello"), send("bye"), backendGot("bye"), halfClose}},
	{name: "a WebSocket whose backend closes", server: map[string]reply{"/a": after(send(switching+"hello"), hangUp)}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade refused with 200", tls: true, server: map[string]reply{"/a": after(send(plain))}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade refused with 403", server: map[string]reply{"/a": after(send("HTTP/1.1 403 Forbidden\nContent-Length: 3\n\n@no"))}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade refused with 403, and frames behind it", server: map[string]reply{"/a": after(send("HTTP/1.1 403 Forbidden\nContent-Length: 3\n\n@no"))},
		client: []step{send(upgrade("/a") + "\x81\x85\x00\x00\x00\x00hello\r\n\r\n" + smuggled)}},
	{name: "an upgrade refused with 426", watch: []string{"Upgrade"}, server: map[string]reply{
		"/a": after(send("HTTP/1.1 426 Upgrade Required\nUpgrade: websocket\nConnection: Upgrade\nContent-Length: 3\n\n@no"))}, client: []step{send(get("/a"))}},
	{name: "an upgrade refused with 302", server: map[string]reply{"/a": after(send("HTTP/1.1 302 Found\nLocation: /b\nContent-Length: 0\n\n"))},
		client: []step{send(upgrade("/a")), clientGot("302"), send(get("/b"))}},
	{name: "an upgrade refused with chunks", server: map[string]reply{"/a": after(send("HTTP/1.1 400 Bad Request\nTransfer-Encoding: chunked\n\n3\n@no\n0\n\n"))},
		client: []step{send(upgrade("/a"))}},
	{name: "an upgrade refused until the end", server: map[string]reply{"/a": after(send("HTTP/1.1 400 Bad Request\n\n@no"), hangUp)}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade refused with 204", server: map[string]reply{"/a": after(send("HTTP/1.1 204 No Content\n\n"))}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade that the backend hangs up on", tls: true, server: map[string]reply{"/a": after(hangUp)}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade that the backend resets", server: map[string]reply{"/a": after(reset)}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade answered with garbage", server: map[string]reply{"/a": after(send("hello\n\n"), hangUp)}, client: []step{send(upgrade("/a"))}},
	{name: "an upgrade, and a 103 before the 101", server: map[string]reply{
		"/a": after(send("HTTP/1.1 103 Early Hints\nLink: </s>\n\n"+switching), backendGot("ping"), send("pong"))},
		client: []step{send(upgrade("/a")), clientGot("101"), send("ping"), clientGot("pong"), halfClose}},
	{name: "an upgrade to another protocol than asked", server: map[string]reply{
		"/a": after(send("HTTP/1.1 101 Switching Protocols\nUpgrade: other\nConnection: Upgrade\n\n"))}, client: []step{send(upgrade("/a"))}},
	{name: "a 101 without Upgrade", server: map[string]reply{"/a": after(send("HTTP/1.1 101 Switching Protocols\n\n"))}, client: []step{send(upgrade("/a"))}},
	{name: "a 101 with a length", server: map[string]reply{
		"/a": after(send("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nContent-Length: 3\n\nabc"))},
		client: []step{send(upgrade("/a")), clientGot("abc"), halfClose}},
	{name: "a 101 that nobody asked for", tls: true, server: map[string]reply{"/a": after(send(switching))}, client: []step{send(get("/a"))}},
	{name: "a 101 that nobody asked for, and what looks like an answer", server: map[string]reply{"/a": after(send(switching + plain))},
		client: []step{send(get("/a") + get("/b"))}},
	{name: "an upgrade with a body", client: []step{send(upgrade("/a", "Content-Length: 5") + "hello")}},
	{name: "an upgrade with chunks", client: []step{send(upgrade("/a", "Transfer-Encoding: chunked") + "5\nhello\n0\n\n")}},
	{name: "an upgrade with POST", client: []step{send(requestOf("POST /a", upgrading, webSocket, version, key))}},
	{name: "an upgrade in HTTP/1.0", client: []step{send("GET /a HTTP/1.0\nHost: app\nConnection: Upgrade\nUpgrade: websocket\n\n")}},
	{name: "an upgrade without Connection", watch: []string{"Upgrade"}, client: []step{send(get("/a", webSocket, version, key))}},
	{name: "Connection: Upgrade without Upgrade", watch: []string{"Connection"}, client: []step{send(get("/a", upgrading))}},
	{name: "an upgrade to h2c", watch: []string{"Upgrade", "HTTP2-Settings"},
		client: []step{send(get("/a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"))}},
	{name: "an upgrade to h2c that a backend accepts", server: map[string]reply{
		"/a": after(send("HTTP/1.1 101 Switching Protocols\nUpgrade: h2c\nConnection: Upgrade\n\n"))},
		client: []step{send(get("/a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__") + get("/b"))}},
	{name: "an upgrade to two protocols", watch: []string{"Upgrade"}, client: []step{send(get("/a", upgrading, "Upgrade: websocket, h2c", version, key))}},
	{name: "an upgrade in capitals", server: map[string]reply{"/a": after(send(switching), backendGot("ping"), send("pong"))},
		client: []step{send(get("/a", "Connection: UPGRADE", "Upgrade: WebSocket", version, key)), clientGot("101"), send("ping"), clientGot("pong"), halfClose}},
	{name: "an upgrade to TLS", watch: []string{"Upgrade"}, client: []step{send(get("/a", upgrading, "Upgrade: TLS/1.0"))}},
	{name: "an upgrade with a wrong version", server: map[string]reply{
		"/a": after(send("HTTP/1.1 426 Upgrade Required\nSec-WebSocket-Version: 13\nContent-Length: 3\n\n@no"))},
		client: []step{send(get("/a", upgrading, webSocket, "Sec-WebSocket-Version: 99", key))}},
	{name: "two upgrades in one write, the first refused", server: map[string]reply{"/a": after(send(refusal)), "/b": after(send(switching), backendGot("ping"), send("pong"))},
		client: []step{send(upgrade("/a") + upgrade("/b") + "ping"), clientGot("pong"), halfClose}},
}
