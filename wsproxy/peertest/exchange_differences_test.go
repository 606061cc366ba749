package peertest_test

// differences are all that is left between a Proxy and its peers, each with its reason.
var differences = []difference{
	{
		because: "ReverseProxy passes CONNECT and PRI on; a Proxy refuses them and closes the connection.",
		peer:    peerReverse, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"CONNECT",
			"CONNECT and what looks like a request",
			"CONNECT in HTTP/1.0",
			"CONNECT with a body",
			"CONNECT with a path",
			"CONNECT, over TLS",
			"HTTP/2: CONNECT",
			"the preface of HTTP/2",
		},
	},
	{
		because: "ReverseProxy lets a client name Cookie in Connection, and drops it then.",
		peer:    peerReverse, in: inBackend,
		exchanges: []string{
			"Cookie named in Connection",
		},
	},
	{
		because: "ReverseProxy answers 502 when the client's body is at fault; a Proxy answers 400.",
		peer:    peerReverse, in: inAnswers,
		exchanges: []string{
			"Expect, and the client goes",
			"HTTP/2: a body shorter than its length",
			"a bare CR after a chunk size",
			"a bare LF after a chunk",
			"a bare LF after a chunk size",
			"a bare LF in a chunk extension",
			"a bare LF in a chunk extension, over TLS",
			"a body that stops, and the client closes its side",
			"a body that stops, and the client closes its side, over TLS",
			"a chunk extension of 5000 octets",
			"a chunk size of 17 digits",
			"a chunk size of 17 digits before what looks like a request",
			"a chunk size of 17 digits, over TLS",
			"a chunk size of 2^64+5",
			"a chunk size that is no number",
			"a chunk size with 0x",
			"a chunk size with a plus",
			"a chunk size with a plus, over TLS",
			"a chunk size with a plus, then what looks like a request",
			"a chunk that is longer than its size",
			"a chunk that stops in its middle, and the client closes its side",
			"a negative chunk size",
			"a space before a chunk size",
			"a trailer of 2 MiB",
			"a trailer that never ends",
			"a trailer without a colon",
			"an empty chunk size",
			"chunks that break",
			"chunks that break after a long time",
			"chunks that break, over TLS",
			"chunks that stop, and the client closes its side",
			"no line end after a chunk",
			"what looks like a request as a trailer",
		},
	},
	{
		because: "ReverseProxy with Rewrite drops the trailers of requests.",
		peer:    peerReverse, in: inBackend,
		exchanges: []string{
			"HTTP/2: a trailer",
			"a folded trailer",
			"a trailer",
			"a trailer, over TLS",
		},
	},
	{
		because: "ReverseProxy sends 1xx to clients of HTTP/1.0, which take it for the answer.",
		peer:    peerReverse, in: inAnswers,
		exchanges: []string{
			"a 103 to HTTP/1.0",
		},
	},
	{
		because: "ReverseProxy passes the connection fields of a 1xx on.",
		peer:    peerReverse, in: inAnswers,
		exchanges: []string{
			"a 103 with connection fields",
			"a 103 with connection fields, over TLS",
		},
	},
	{
		because: "ReverseProxy loses what the client has sent before the 101 (golang/go#32763's kind).",
		peer:    peerReverse, in: inBackend,
		exchanges: []string{
			"a WebSocket whose frames come before the 101",
			"two upgrades in one write, the first refused",
		},
	},
	{
		because: "ReverseProxy escapes targets anew and drops queries that it cannot parse; a Proxy sends them as they came, but for a raw #.",
		peer:    peerReverse, in: inBackend,
		exchanges: []string{
			"a backslash in the target",
			"a broken escape in the query",
			"a fragment in the query",
			"a high octet in the target",
			"a semicolon in the query",
			"quotes and brackets in the target",
		},
	},
	{
		because: "net/http makes up a Content-Type; a Proxy adds none.",
		peer:    peerReverse, in: inAnswers,
		exchanges: []string{
			"HTTP/2: an answer without a type",
			"an answer that looks like a page, without a type",
			"an answer without a type",
		},
	},
	{
		because: "ReverseProxy loses what a backend has sent before it broke off; a Proxy passes it on.",
		peer:    peerReverse, in: inAnswers,
		exchanges: []string{
			"HTTP/2: a length and an early end",
			"a bare LF after a chunk size in the answer",
			"a chunk size of 17 digits in the answer",
			"a length and a reset, after a while",
			"a length and an early end",
			"a length and an early end, after a while",
			"a length and an early end, over TLS",
			"a length and nothing of the body",
		},
	},
	{
		because: "A Proxy passes an early answer on at once, with Connection: close; net/http without full duplex holds it back until it has read the body.",
		peer:    peerReverse, in: inConnection,
		exchanges: []string{
			"an early 204",
			"an early 304",
			"an early 401 and an honest upload",
			"an early 401 and an honest upload, over TLS",
			"an early answer in two parts",
			"an early refusal that closes while the client sends",
			"an early refusal, chunks come later",
			"an early refusal, chunks with a request in them come later",
			"an early refusal, the body comes later",
			"an early refusal, the body comes later, over TLS",
			"both sides talk in turns",
		},
	},
	{
		because: "A Proxy passes an early answer on at once, with Connection: close; net/http without full duplex holds it back until it has read the body.",
		peer:    peerReverse, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"an early redirect",
			"an early refusal by a backend that reads nothing, with the next request at once",
			"an early refusal by a backend that reads nothing, with the next request at once, over TLS",
			"an early refusal, the rest and two more requests in one write",
		},
	},
	{
		because: "ReverseProxy passes every upgrade on; a Proxy passes those that it was told of.",
		peer:    peerReverse, in: inBackend,
		exchanges: []string{
			"an upgrade to TLS",
			"an upgrade to h2c",
			"an upgrade to two protocols",
		},
	},
	{
		because: "ReverseProxy passes every upgrade on; a Proxy passes those that it was told of.",
		peer:    peerReverse, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"an upgrade to h2c that a backend accepts",
		},
	},
	{
		because: "A Proxy refuses an upgrade with a body, since nobody could tell the body from what follows the switch.",
		peer:    peerReverse, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"an upgrade with a body",
			"an upgrade with chunks",
		},
	},
	{
		because: "ReverseProxy asks for the path /%2A; a Proxy refuses * for anything but OPTIONS.",
		peer:    peerReverse, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"an asterisk with GET",
		},
	},
	{
		because: "ReverseProxy drops the Upgrade of a 426.",
		peer:    peerReverse, in: inAnswers,
		exchanges: []string{
			"an upgrade refused with 426",
		},
	},
	{
		because: "A Proxy drops fields that differ from framing fields in an underscore only.",
		peer:    peerReverse, in: inBackend,
		exchanges: []string{
			"Transfer_Encoding",
		},
	},
	{
		because: "A Proxy's own transport takes 1 MiB of a backend's header, a bare http.Transport 10 MiB.",
		peer:    peerReverse, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a header of 3 MB in the answer",
		},
	},
	{
		because: "A Proxy drops fields that differ from framing fields in an underscore only.",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"Transfer_Encoding",
		},
	},
	{
		because: "HAProxy passes CONNECT on as a tunnel; a Proxy refuses it and closes the connection.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"CONNECT",
			"CONNECT and what looks like a request",
			"CONNECT in HTTP/1.0",
			"CONNECT with a body",
			"CONNECT, over TLS",
		},
	},
	{
		because: "HAProxy passes CONNECT on as a tunnel; a Proxy refuses it and closes the connection.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: CONNECT",
		},
	},
	{
		because: "HAProxy sends 1xx to clients of HTTP/1.0, which take it for the answer.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"a 103 to HTTP/1.0",
		},
	},
	{
		because: "HAProxy 2.6 does not take an upgrade whose 101 comes after a 103.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"an upgrade, and a 103 before the 101",
		},
	},
	{
		because: "HAProxy passes some fields of the connection on; a Proxy drops all of RFC 9110 section 7.6.1.",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"Connection: Upgrade without Upgrade",
			"Connection: keep-alive",
			"Proxy-Connection",
			"a field named in Connection",
			"an upgrade without Connection",
		},
	},
	{
		because: "HAProxy passes some fields of the connection on; a Proxy drops all of RFC 9110 section 7.6.1.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"a 103 with connection fields",
			"a 103 with connection fields, over TLS",
			"connection fields in the answer",
		},
	},
	{
		because: "HAProxy passes every upgrade on; a Proxy passes those that it was told of.",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"an upgrade to TLS",
			"an upgrade to h2c",
			"an upgrade to two protocols",
		},
	},
	{
		because: "HAProxy passes every upgrade on; a Proxy passes those that it was told of.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"an upgrade to h2c that a backend accepts",
		},
	},
	{
		because: "A Proxy refuses a 101 to another protocol than was asked for, and ignores its length; HAProxy the other way round.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a 101 with a length",
			"an upgrade to another protocol than asked",
		},
	},
	{
		because: "A Proxy refuses an upgrade with a body, since nobody could tell the body from what follows the switch.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"an upgrade with a body",
			"an upgrade with chunks",
		},
	},
	{
		because: "HAProxy refuses an upgrade in HTTP/1.0; a Proxy drops what asks for it.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"an upgrade in HTTP/1.0",
		},
	},
	{
		because: "net/http answers an unknown expectation with 417 (RFC 9110 section 10.1.1); HAProxy passes it on.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"Expect of something else",
		},
	},
	{
		because: "A Proxy closes the connection after a refused expectation, since it cannot know whether the body follows; net/http asks for the body when the backend reads it.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"Expect, and the client goes",
			"Expect, refused by a backend that closes",
			"Expect, refused, and no body but the next request",
			"Expect, refused, and no body but the next request, over TLS",
			"HTTP/2: Expect",
		},
	},
	{
		because: "A Proxy closes the connection after a refused expectation, since it cannot know whether the body follows; net/http asks for the body when the backend reads it.",
		peer:    peerHAProxy, in: inConnection,
		exchanges: []string{
			"Expect, refused, and the body nevertheless",
		},
	},
	{
		because: "net/http ignores Transfer-Encoding in HTTP/1.0, and a handler cannot see it.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"Transfer-Encoding and a length in HTTP/1.0",
		},
	},
	{
		because: "net/http ignores Transfer-Encoding in HTTP/1.0, and a handler cannot see it.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"Transfer-Encoding in HTTP/1.0",
			"Transfer-Encoding in HTTP/1.0, over TLS",
		},
	},
	{
		because: "net/http answers 501 to a coding that it does not know, HAProxy 400.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"Transfer-Encoding: chunked, identity",
			"Transfer-Encoding: gzip, chunked",
			"Transfer-Encoding: identity",
			"Transfer-Encoding: xchunked",
			"an empty Transfer-Encoding",
			"chunked in quotes",
			"chunked twice in a list",
			"chunked twice in two lines",
		},
	},
	{
		because: "net/http takes Transfer-Encoding and drops Content-Length without a word to the handler; HAProxy closes the connection besides.",
		peer:    peerHAProxy, in: inConnection,
		exchanges: []string{
			"chunks and length in the other order",
			"length and chunks, the length covers all",
			"length and chunks, the length is too short",
		},
	},
	{
		because: "net/http takes Transfer-Encoding and drops Content-Length without a word to the handler; HAProxy closes the connection besides.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"length and chunks, a request behind the chunks",
			"length and chunks, a request behind the chunks, over TLS",
		},
	},
	{
		because: "HAProxy and net/http forgive different things in and around a request line; neither passes them on.",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"HTTP/0.9 in the request line",
		},
	},
	{
		because: "HAProxy and net/http forgive different things in and around a request line; neither passes them on.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"HTTP/2.0 in the request line",
			"a bare LF before the request",
			"a tab in the request line",
			"an empty line before the request",
			"five empty lines before the request",
			"two spaces in the request line",
		},
	},
	{
		because: "HAProxy speaks HTTP/2 in plain text to whoever begins with its preface.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"the preface of HTTP/2",
		},
	},
	{
		because: "HAProxy is more forgiving with fields and targets than net/http, which refuses what is no host, text or number.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"NUL in a value",
			"a Host with a path",
			"a Host with a space",
			"a Host with a user",
			"a high octet in the target",
			"a list of equal lengths",
			"an absolute target and another Host",
			"no Host",
			"two equal Hosts",
		},
	},
	{
		because: "HAProxy is more forgiving with fields and targets than net/http, which refuses what is no host, text or number.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"NUL in a value of the answer",
		},
	},
	{
		because: "HAProxy is more forgiving with fields and targets than net/http, which refuses what is no host, text or number.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"OPTIONS and an asterisk",
			"an asterisk with GET",
		},
	},
	{
		because: "HAProxy passes an absolute target on as it is, and refuses one that does not agree with Host; a Proxy sends the path and the target's host (RFC 9112 section 3.2.2).",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: an absolute target",
		},
	},
	{
		because: "HAProxy passes an absolute target on as it is, and refuses one that does not agree with Host; a Proxy sends the path and the target's host (RFC 9112 section 3.2.2).",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a fragment in an absolute target",
		},
	},
	{
		because: "HAProxy passes an absolute target on as it is, and refuses one that does not agree with Host; a Proxy sends the path and the target's host (RFC 9112 section 3.2.2).",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"an absolute target",
		},
	},
	{
		because: "HAProxy refuses a raw #; a Proxy escapes it.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: a fragment in the path",
		},
	},
	{
		because: "HAProxy refuses a raw #; a Proxy escapes it.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a fragment in the query",
			"a fragment in the target",
			"a fragment in the target, over TLS",
		},
	},
	{
		because: "HAProxy does not look at escapes and refuses spaces; net/http refuses a broken escape, and a Proxy escapes the space that HTTP/2 allows.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: a space in the path",
		},
	},
	{
		because: "HAProxy does not look at escapes and refuses spaces; net/http refuses a broken escape, and a Proxy escapes the space that HTTP/2 allows.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a broken escape in the target",
		},
	},
	{
		because: "HAProxy puts the spaces of a folded line in place of its end; net/http puts one.",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"a folded field",
			"a folded field, over TLS",
		},
	},
	{
		because: "HAProxy puts the spaces of a folded line in place of its end; net/http puts one.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"a folded field in the answer",
		},
	},
	{
		because: "HAProxy closes the client's connection after a backend that failed in the middle of a body; a Proxy has read the body to its end and keeps it.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a backend that hangs up early, two POSTs",
			"a backend that hangs up instead of an answer, two POSTs",
			"a backend that hangs up instead of an answer, two POSTs, over TLS",
		},
	},
	{
		because: "HAProxy closes the client's connection after a backend that failed in the middle of a body; a Proxy has read the body to its end and keeps it.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a backend that resets in the middle of a body",
		},
	},
	{
		because: "net/http and the Proxy's transports refuse bare LF in chunks, sizes of 17 digits and long extensions (golang/go#71988); HAProxy takes them.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a bare LF after a chunk",
			"a bare LF after a chunk size",
			"a bare LF in a chunk extension",
			"a bare LF in a chunk extension, over TLS",
			"a chunk extension of 5000 octets",
			"a chunk size of 17 digits",
			"a chunk size of 17 digits before what looks like a request",
			"a chunk size of 17 digits, over TLS",
			"a framing name announced as a trailer",
		},
	},
	{
		because: "net/http and the Proxy's transports refuse bare LF in chunks, sizes of 17 digits and long extensions (golang/go#71988); HAProxy takes them.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a bare LF after a chunk size in the answer",
			"a chunk size of 17 digits in the answer",
		},
	},
	{
		because: "HAProxy looks at the first part of a body before it asks the backend; a Proxy asks with the header alone.",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"a chunk that is longer than its size",
			"a trailer without a colon",
			"chunks that break after a long time",
			"no line end after a chunk",
			"what looks like a request as a trailer",
		},
	},
	{
		because: "HAProxy looks at the first part of a body before it asks the backend; a Proxy asks with the header alone.",
		peer:    peerHAProxy, in: inConnection,
		exchanges: []string{
			"an early 401 and an honest upload",
			"an early 401 and an honest upload, over TLS",
			"an early refusal that closes while the client sends",
			"an early refusal, chunks come later",
			"an early refusal, chunks with a request in them come later",
			"an early refusal, the body comes later",
			"an early refusal, the body comes later, over TLS",
		},
	},
	{
		because: "HAProxy looks at the first part of a body before it asks the backend; a Proxy asks with the header alone.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"an early refusal, the rest and two more requests in one write",
		},
	},
	{
		because: "net/http answers 400 to what ends in its middle; HAProxy closes without a word, or the other way round.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"a body that stops, and the client closes its side",
			"a body that stops, and the client closes its side, over TLS",
			"a chunk that stops in its middle, and the client closes its side",
			"a connection without a request",
			"a trailer that never ends",
			"chunks that stop, and the client closes its side",
		},
	},
	{
		because: "HAProxy passes trailers on as they are and in their order; a Proxy passes those that were announced and that RFC 9110 section 6.5.1 allows.",
		peer:    peerHAProxy, in: inBackend,
		exchanges: []string{
			"HTTP/2: a pseudo-header as a trailer",
			"HTTP/2: a trailer of a sensitive name",
			"HTTP/2: a trailer that was not announced",
			"a trailer of a connection name",
			"a trailer of a forwarding name",
			"a trailer of a framing name",
			"a trailer of a sensitive name",
			"a trailer of a sensitive name, over TLS",
			"a trailer that was not announced",
		},
	},
	{
		because: "HAProxy passes trailers on as they are and in their order; a Proxy passes those that were announced and that RFC 9110 section 6.5.1 allows.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a broken trailer in the answer",
		},
	},
	{
		because: "HAProxy passes trailers on as they are and in their order; a Proxy passes those that were announced and that RFC 9110 section 6.5.1 allows.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"a trailer of a sensitive name in the answer",
		},
	},
	{
		because: "HAProxy refuses an answer whose trailer or chunks are broken where the whole answer comes at once; a Proxy has passed the body on by then.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"broken chunks in the answer",
		},
	},
	{
		because: "A Proxy ends the connection after an answer that came before the end of the body (W13); HAProxy reads the rest.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"HTTP/2: a length and an early end",
		},
	},
	{
		because: "A Proxy ends the connection after an answer that came before the end of the body (W13); HAProxy reads the rest.",
		peer:    peerHAProxy, in: inConnection,
		exchanges: []string{
			"an early 204",
			"an early 304",
			"an early answer in two parts",
			"both sides talk in turns",
		},
	},
	{
		because: "A Proxy ends the connection after an answer that came before the end of the body (W13); HAProxy reads the rest.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"an early redirect",
		},
	},
	{
		because: "HAProxy takes 16 KiB of a backend's header, a Proxy's own transport 1 MiB, a bare http.Transport 10 MiB.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a header of 3 MB in the answer",
		},
	},
	{
		because: "HAProxy takes 16 KiB of a backend's header, a Proxy's own transport 1 MiB, a bare http.Transport 10 MiB.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"a header of 60 KB in the answer",
		},
	},
	{
		because: "HAProxy passes the end of a connection on as the end of the answer; net/http writes chunks, and marks what broke off.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a version of 1.0 with chunks",
		},
	},
	{
		because: "HAProxy passes the end of a connection on as the end of the answer; net/http writes chunks, and marks what broke off.",
		peer:    peerHAProxy, in: inConnection,
		exchanges: []string{
			"a version of 1.0, until the end",
			"an upgrade refused until the end",
			"chunks to HTTP/1.0 with keep-alive",
			"until the end",
			"until the end, over TLS",
		},
	},
	{
		because: "HAProxy passes the end of a connection on as the end of the answer; net/http writes chunks, and marks what broke off.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"until a reset",
		},
	},
	{
		because: "HAProxy and net/http forgive different things in a backend's header.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"a list of lengths in the answer",
			"a space before a colon in the answer",
			"an empty line and an answer",
		},
	},
	{
		because: "HAProxy and net/http forgive different things in a backend's header.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"status 1000",
			"status 99",
		},
	},
	{
		because: "HAProxy resets a stream that is malformed, or that its backend has failed; net/http answers it.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"HTTP/2: Connection",
			"HTTP/2: TE of something else",
			"HTTP/2: Upgrade",
			"HTTP/2: the backend hangs up instead of an answer",
		},
	},
	{
		because: "HAProxy resets a stream that is malformed, or that its backend has failed; net/http answers it.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"HTTP/2: Transfer-Encoding",
		},
	},
	{
		because: "HAProxy resets a stream that is malformed, or that its backend has failed; net/http answers it.",
		peer:    peerHAProxy, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: a body shorter than its length",
		},
	},
	{
		because: "HAProxy resets a stream that is malformed, or that its backend has failed; net/http answers it.",
		peer:    peerHAProxy, in: inConnection,
		exchanges: []string{
			"HTTP/2: a length that is no number",
			"HTTP/2: an empty name",
		},
	},
	{
		because: "HAProxy resets a stream that is malformed, or that its backend has failed; net/http answers it.",
		peer:    peerHAProxy, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"HTTP/2: two lengths",
		},
	},
	{
		because: "HAProxy ends an HTTP/2 stream whose backend broke off as if it were complete; a Proxy resets it.",
		peer:    peerHAProxy, in: inAnswers,
		exchanges: []string{
			"HTTP/2: chunks that stop",
		},
	},
	{
		because: "nginx answers 400 where net/http resets the stream.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"HTTP/2: CONNECT with a path",
		},
	},
	{
		because: "nginx 1.22 takes a 103 for the final answer, and passes a 101 on that nobody has asked for.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"HTTP/2: a 101 that nobody asked for",
			"HTTP/2: a 103",
			"HTTP/2: a 103 with connection fields",
		},
	},
	{
		because: "nginx 1.22 takes a 1xx for the final answer, and passes a 101 on that nobody has asked for.",
		peer:    peerNginx, in: inConnection,
		exchanges: []string{
			"Expect, answered with 100 by the backend",
			"Expect, answered with 100 twice",
			"a 100 that nobody asked for",
			"a 102 and a 103 and a 103",
			"a 103",
			"a 103, over TLS",
			"a 103, then nothing for a while",
			"a 199",
			"fifty 103s",
		},
	},
	{
		because: "nginx 1.22 takes a 1xx for the final answer, and passes a 101 on that nobody has asked for.",
		peer:    peerNginx, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a 101 that nobody asked for",
			"a 101 that nobody asked for, over TLS",
			"a 101 without Upgrade",
			"a 103 to HTTP/1.0",
			"a 103 with a length",
			"a 103 with connection fields",
			"a 103 with connection fields, over TLS",
			"status 1000",
		},
	},
	{
		because: "nginx 1.22 takes a 1xx for the final answer, and passes a 101 on that nobody has asked for.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a 101 that nobody asked for, and what looks like an answer",
		},
	},
	{
		because: "nginx 1.22 takes a 1xx for the final answer, and passes a 101 on that nobody has asked for.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"a 103 and the end",
		},
	},
	{
		because: "nginx passes any 101 on; a Proxy refuses one that nobody has asked for.",
		peer:    peerNginx, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"an upgrade to another protocol than asked",
		},
	},
	{
		because: "nginx passes every upgrade on; a Proxy passes those that it was told of.",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"an upgrade to TLS",
			"an upgrade to h2c",
			"an upgrade to two protocols",
			"an upgrade without Connection",
		},
	},
	{
		because: "nginx passes every upgrade on; a Proxy passes those that it was told of.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"an upgrade to h2c that a backend accepts",
		},
	},
	{
		because: "A Proxy refuses an upgrade with a body, since nobody could tell the body from what follows the switch.",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"an upgrade with a body",
			"an upgrade with chunks",
		},
	},
	{
		because: "net/http answers an unknown expectation with 417 (RFC 9110 section 10.1.1); nginx passes the request on without it.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"Expect of something else",
		},
	},
	{
		because: "nginx answers 100 itself and waits for the body; a Proxy does so when the backend reads it, and closes the connection after a refusal.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"Expect, and the client goes",
			"HTTP/2: Expect",
		},
	},
	{
		because: "net/http ignores Transfer-Encoding in HTTP/1.0, and a handler cannot see it.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"Transfer-Encoding and a length in HTTP/1.0",
		},
	},
	{
		because: "net/http ignores Transfer-Encoding in HTTP/1.0, and a handler cannot see it.",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"Transfer-Encoding in HTTP/1.0",
			"Transfer-Encoding in HTTP/1.0, over TLS",
		},
	},
	{
		because: "net/http takes Transfer-Encoding and drops Content-Length without a word to the handler, and takes a length that is said twice; nginx refuses both.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"chunks and length in the other order",
			"length and chunks, a request behind the chunks",
			"length and chunks, a request behind the chunks, over TLS",
			"length and chunks, the length covers all",
			"length and chunks, the length is too short",
			"two equal lengths",
		},
	},
	{
		because: "net/http and nginx refuse different spellings of Transfer-Encoding, with 400 or 501.",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: Transfer-Encoding",
		},
	},
	{
		because: "net/http and nginx refuse different spellings of Transfer-Encoding, with 400 or 501.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"Transfer-Encoding after a tab",
			"a folded Transfer-Encoding",
		},
	},
	{
		because: "net/http and nginx refuse different spellings of Transfer-Encoding, with 400 or 501.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"Transfer-Encoding after a vertical tab",
			"chunked twice in the answer",
			"chunked twice in two lines",
		},
	},
	{
		because: "nginx drops a field line that it does not understand; net/http refuses the request.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a bad request behind a good one",
			"a bad request behind a good one, over TLS",
			"a good request behind a bad one",
			"a line without a colon",
			"a name with parentheses",
			"a trailer without a colon",
		},
	},
	{
		because: "nginx refuses folded lines, and drops trailers; net/http unfolds them.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a folded field",
			"a folded field, over TLS",
			"a folded length",
		},
	},
	{
		because: "nginx refuses folded lines, and drops trailers; net/http unfolds them.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"a folded field in the answer",
		},
	},
	{
		because: "nginx refuses folded lines, and drops trailers; net/http unfolds them.",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"a folded trailer",
		},
	},
	{
		because: "nginx passes the fields of the connection on that it was not told of, and writes keep-alive; a Proxy drops and passes them by RFC 9110 section 7.6.1.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"Connection: Upgrade without Upgrade",
			"Connection: keep-alive",
			"connection fields in the answer",
		},
	},
	{
		because: "nginx passes the fields of the connection on that it was not told of, and writes keep-alive; a Proxy drops and passes them by RFC 9110 section 7.6.1.",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"HTTP/2: TE: trailers",
			"Proxy-Connection",
			"a field named in Connection",
			"a request with TE: trailers",
		},
	},
	{
		because: "nginx and net/http forgive different things in and around a request line, and nginx refuses TRACE, * and lower-case methods itself.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"HTTP/0.9 in the request line",
		},
	},
	{
		because: "nginx and net/http forgive different things in and around a request line, and nginx refuses TRACE, * and lower-case methods itself.",
		peer:    peerNginx, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"OPTIONS and an asterisk",
		},
	},
	{
		because: "nginx and net/http forgive different things in and around a request line, and nginx refuses TRACE, * and lower-case methods itself.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"TRACE",
			"a bare LF before the request",
			"a lower-case method",
			"a space after the request line",
			"an empty line before the request",
			"five empty lines before the request",
			"two spaces in the request line",
		},
	},
	{
		because: "nginx and net/http forgive different things in and around a request line, and nginx refuses TRACE, * and lower-case methods itself.",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"a request line without a version",
		},
	},
	{
		because: "nginx and net/http forgive different things in and around a request line, and nginx refuses TRACE, * and lower-case methods itself.",
		peer:    peerNginx, in: inConnection,
		exchanges: []string{
			"an asterisk with GET",
		},
	},
	{
		because: "nginx refuses lower-case letters in a method.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a request behind a body that is one octet short",
		},
	},
	{
		because: "nginx and net/http disagree on what is a host: an empty one, a user in it, one beside an absolute target.",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: an authority and another Host",
			"HTTP/2: neither authority nor Host",
		},
	},
	{
		because: "nginx and net/http disagree on what is a host: an empty one, a user in it, one beside an absolute target.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a Host with a user",
			"an empty Host",
		},
	},
	{
		because: "nginx and net/http disagree on what is a host: an empty one, a user in it, one beside an absolute target.",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"an absolute target and another Host",
		},
	},
	{
		because: "nginx keeps a Host that does not agree with the target; a Proxy sends the target's host (RFC 9112 section 3.2.2).",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: an absolute target",
		},
	},
	{
		because: "nginx keeps a Host that does not agree with the target; a Proxy sends the target's host (RFC 9112 section 3.2.2).",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"a fragment in an absolute target",
		},
	},
	{
		because: "nginx refuses targets that are unsafe for files, and cuts a fragment off; a Proxy sends them as they came, but for a raw #, which it escapes.",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"HTTP/2: a fragment in the path",
			"a fragment in the query",
			"a fragment in the target",
			"a fragment in the target, over TLS",
		},
	},
	{
		because: "nginx refuses targets that are unsafe for files, and cuts a fragment off; a Proxy sends them as they came, but for a raw #, which it escapes.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"HTTP/2: a path that is no path",
			"HTTP/2: an empty path",
			"HTTP/2: no path",
		},
	},
	{
		because: "nginx refuses targets that are unsafe for files, and cuts a fragment off; a Proxy sends them as they came, but for a raw #, which it escapes.",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: a space in the path",
		},
	},
	{
		because: "nginx refuses targets that are unsafe for files, and cuts a fragment off; a Proxy sends them as they came, but for a raw #, which it escapes.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a target that climbs out",
			"an escaped NUL in the target",
		},
	},
	{
		because: "nginx closes the client's connection after a backend that failed in the middle of a body; a Proxy has read the body to its end and keeps it.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a backend that resets in the middle of a body",
		},
	},
	{
		because: "net/http and the Proxy's transports refuse bare LF in chunks, sizes of 17 digits and long extensions (golang/go#71988); nginx takes them.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"a bare LF after a chunk",
			"a bare LF after a chunk size",
			"a bare LF in a chunk extension",
			"a bare LF in a chunk extension, over TLS",
			"a chunk extension of 5000 octets",
			"a chunk size of 17 digits",
			"a chunk size of 17 digits before what looks like a request",
			"a chunk size of 17 digits, over TLS",
			"a framing name announced as a trailer",
		},
	},
	{
		because: "net/http and the Proxy's transports refuse bare LF in chunks, sizes of 17 digits and long extensions (golang/go#71988); nginx takes them.",
		peer:    peerNginx, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a bare LF after a chunk size in the answer",
			"a chunk size of 17 digits in the answer",
		},
	},
	{
		because: "nginx 1.22 drops trailers, and does not look at them.",
		peer:    peerNginx, in: inConnection,
		exchanges: []string{
			"HTTP/2: a pseudo-header as a trailer",
			"HTTP/2: a trailer of a sensitive name",
		},
	},
	{
		because: "nginx 1.22 drops trailers, and does not look at them.",
		peer:    peerNginx, in: inAnswers + " " + inConnection + " " + inBackend,
		exchanges: []string{
			"HTTP/2: a trailer",
			"HTTP/2: a trailer that was not announced",
			"a trailer of 2 MiB",
			"what looks like a request as a trailer",
		},
	},
	{
		because: "nginx 1.22 drops trailers, and does not look at them.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"HTTP/2: a trailer in the answer",
			"a trailer in the answer",
			"a trailer in the answer that was not announced",
			"a trailer in the answer, over TLS",
			"a trailer of a sensitive name in the answer",
			"a trailer that never ends",
		},
	},
	{
		because: "nginx 1.22 drops trailers, and does not look at them.",
		peer:    peerNginx, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a broken trailer in the answer",
		},
	},
	{
		because: "nginx 1.22 drops trailers, and does not look at them.",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"a trailer",
			"a trailer, over TLS",
		},
	},
	{
		because: "A Proxy ends the connection after an answer that came before the end of the body (W13); nginx reads the rest.",
		peer:    peerNginx, in: inConnection,
		exchanges: []string{
			"an early answer in two parts",
			"both sides talk in turns",
		},
	},
	{
		because: "nginx looks at the first part of a body before it asks the backend; a Proxy asks with the header alone.",
		peer:    peerNginx, in: inBackend,
		exchanges: []string{
			"HTTP/2: a body shorter than its length",
			"a chunk that is longer than its size",
			"chunks that break after a long time",
			"no line end after a chunk",
		},
	},
	{
		because: "net/http answers 400 to what ends in its middle; nginx closes without a word.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"a body that stops, and the client closes its side",
			"a body that stops, and the client closes its side, over TLS",
			"a chunk that stops in its middle, and the client closes its side",
			"a request that never ends",
			"a request that never ends, over TLS",
			"chunks that stop, and the client closes its side",
		},
	},
	{
		because: "nginx takes 4 KiB of a backend's header, a Proxy's own transport 1 MiB, a bare http.Transport 10 MiB.",
		peer:    peerNginx, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"a header of 3 MB in the answer",
		},
	},
	{
		because: "nginx takes 4 KiB of a backend's header, a Proxy's own transport 1 MiB, a bare http.Transport 10 MiB.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"a header of 60 KB in the answer",
		},
	},
	{
		because: "nginx passes on what it does not understand of a backend's answer, as HTTP/0.9 if need be; a Proxy answers 502.",
		peer:    peerNginx, in: inAnswers + " " + inConnection,
		exchanges: []string{
			"HTTP/0.9",
			"a negative status",
			"a status that is no number",
			"an empty line and an answer",
			"an upgrade answered with garbage",
			"another protocol",
			"status 99",
		},
	},
	{
		because: "nginx passes on what it does not understand of a backend's answer, as HTTP/0.9 if need be; a Proxy answers 502.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"HTTP/2: a length that is no number",
			"a length with a plus in the answer",
			"a line without a colon in the answer",
			"a list of lengths in the answer",
			"a negative length in the answer",
			"a space before a colon in the answer",
			"a version of 1.0 with chunks",
			"an unknown coding in the answer",
			"broken chunks in the answer",
			"two lengths in the answer",
			"two lengths in the answer, over TLS",
		},
	},
	{
		because: "nginx answers a malformed stream with 400, or overlooks its connection fields; net/http resets it, or answers 400.",
		peer:    peerNginx, in: inAnswers + " " + inBackend,
		exchanges: []string{
			"HTTP/2: Connection",
			"HTTP/2: TE of something else",
			"HTTP/2: Upgrade",
			"HTTP/2: a body longer than its length",
			"HTTP/2: a length without a body",
			"HTTP/2: two lengths",
		},
	},
	{
		because: "nginx answers a malformed stream with 400, or overlooks its connection fields; net/http resets it, or answers 400.",
		peer:    peerNginx, in: inAnswers,
		exchanges: []string{
			"HTTP/2: a pseudo-header behind a field",
			"HTTP/2: an unknown pseudo-header",
			"HTTP/2: no method",
			"HTTP/2: no scheme",
		},
	},
	{
		because: "nginx answers a malformed stream with 400, or overlooks its connection fields; net/http resets it, or answers 400.",
		peer:    peerNginx, in: inConnection,
		exchanges: []string{
			"HTTP/2: an empty name",
			"HTTP/2: data on a stream that was never opened",
		},
	},
}
