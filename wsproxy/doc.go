// Package wsproxy is a load-balancing reverse proxy for net/http that keeps sessions with their
// target and knows WebSockets. A [Proxy] is an http.Handler: it asks a stickiness.Policy which
// target the request is bound to, takes a lease on it or on the one that the pool's picker chooses,
// and leaves the HTTP itself to httputil.ReverseProxy.
//
// It opens no listener, terminates no TLS and checks no target's health: the http.Server is yours,
// and package health does the checks. WebSockets come in by an upgrade of HTTP/1.1 or by an
// extended CONNECT of HTTP/2 (RFC 8441), and go out over HTTP/1.1. Any other CONNECT is answered
// with 405, an extended one for another protocol with 501.
//
// # The walk of a request
//
// Nothing downstream calls upstream. The policy looks at the inbound request and names candidates;
// the pool says whether the bound target may serve, and [Proxy.OnMiss] what to do if not; each
// attempt is a shallow copy of the outgoing request with its own URL, and a failure that may be
// retried takes a lease on another target. The policy then binds the response of the attempt that
// won, once, whatever its status, and never an error page of the proxy.
//
// # Upgrades and middleware
//
// On a 101 the proxy takes the client's connection over from the server, hands both connections to
// a tunnel, and ServeHTTP returns. Middleware sees the handler end at that switch, with nothing
// written through its ResponseWriter; [Trace.Tunnel], and what [Trace.Switch] has returned, are
// told of the end of the tunnel. A middleware's ResponseWriter has to be an http.Hijacker or have
// an Unwrap method; without either the client gets 501 and the target is never asked. Deadlines of
// the http.Server end at the switch. http.Server.Shutdown knows nothing of tunnels: call
// [Proxy.Shutdown] first, or [Proxy.Close] before http.Server.Close.
//
// # WebSockets over HTTP/2
//
// net/http of Go 1.26 understands extended CONNECT, and tells browsers so, only if GODEBUG contains
// http2xconnect=1 in the environment that the process starts with:
//
//	GODEBUG=http2xconnect=1 ./server
//
// A //go:debug line, a godebug line in go.mod and os.Setenv come too late. Then the listener has to
// speak HTTP/2, over TLS as a rule, and the request has to reach the proxy: a pattern of
// http.ServeMux with a method, such as "GET /ws", does not match a CONNECT. Register "/ws", or
// "CONNECT /ws" besides.
//
// The target gets an upgrade of HTTP/1.1 with a key of the proxy's own, whose answer the proxy
// verifies. Policies, pickers and hooks that are given the inbound request see its method CONNECT.
// ServeHTTP returns when the tunnel has ended, because the stream lives no longer than that;
// [Trace.Done] is told at the switch all the same. A middleware's ResponseWriter needs Flush and
// the deadlines of http.ResponseController, or an Unwrap method to them. Deadlines of the
// http.Server end at the switch. net/http cannot end a stream in the target's direction alone: when
// the target ends first, the stream ends after a second in which the client is silent, at once if
// it has sent a close frame. When the target's connection breaks, or when a client that does not
// read is cut, the stream is reset.
//
// http.Server.Shutdown waits for those streams: call [Proxy.Shutdown] first here too. A client
// whose whole connection is stuck delays no tunnel's end, but its handler stays until the server
// gives that connection up: set http.HTTP2Config.SendPingTimeout or WriteByteTimeout in
// http.Server.HTTP2.
//
// # Headers, trailers and 1xx responses
//
// A rule about headers is a rule about trailers. What RFC 9110 section 6.5.1 wants in the header
// section alone, what Connection names and what is said below about untrusted headers does not pass
// in a trailer section, of trusted peers and targets neither: forwarding headers, Cookie,
// Authorization, Host, Content-* (but Content-Digest), Sec-*, all framing and their kin. Set-Cookie
// does not pass either, because clients take no cookie from a trailer and a policy would not see
// it. Other trailers pass, and the Trailer header names those that do. A request's trailer has to
// be announced; a body of known length that has trailers goes on in chunks where HTTP/1.1 needs
// that.
//
// Hop-by-hop fields are removed from 1xx responses as from final ones, and so are the cookies of a
// policy that is a stickiness.Informer, as all in package stickiness that write cookies are. One
// thing is beyond reach: net/http hides the Connection field of an HTTP/1.1 response that contains
// close, so what an https target or a caller's transport names beside close passes. Over the
// proxy's own transport for http targets it does not. A 204 loses a Content-Length, which it must
// not have (RFC 9110 section 8.6). A 426 keeps its Upgrade over HTTP/1.1. The proxy adds no
// Content-Type to a response that has none; a middleware sees a nil entry in the header map then. A
// response that breaks off reaches the client up to the break.
//
// The request target passes as it was sent, with one exception: a raw "#", which some servers take
// for the end of the path, is escaped as %23.
//
// # FIPS 140
//
// Under GODEBUG=fips140=only everything here works. The accept key of extended CONNECT takes SHA-1
// by RFC 6455, as a mark of understanding and no protection, and is exempted.
//
// # Request bodies that nobody reads to their end
//
// A connection of HTTP/1.x serves another request only if the last one's body was read to its end,
// trailers included. If it was not when the response's header is written, because the target
// answers early, because the body cannot be read, or because the request is refused, the header
// says "Connection: close". Where the whole answer is at hand, such as an error page, the rest of
// the body first gets 50 ms to come. The response goes out while the client still sends, so streams
// in both directions work. After the response, up to 1 MiB of what still comes is read and dropped,
// for up to 5 s, so that the client is not reset before it has read the response. That ends earlier
// when the client pauses for 250 ms while it may wait for the end of the response, which net/http
// writes after the handler: where there is no Content-Length, or a middleware has removed it. It
// holds no target, and [Proxy.Shutdown] shortens it.
//
// Nobody reads the body after ServeHTTP has returned. There is one exception: a Read of a
// middleware's body that neither returns within those 5 s nor ends at the read deadline of the
// connection is left behind after another second. A middleware's ResponseWriter needs an Unwrap
// method for that deadline; without one the proxy waits up to 5 s for the Read that is under way.
// Middleware must not enable full duplex itself and replace the body by a shorter one: then nobody
// can see that the body was not read.
//
// Limit bodies with http.MaxBytesHandler or http.MaxBytesReader, and wrap what they return in no
// other body. A body that passes its limit has net/http write to the header map of the response, on
// the goroutine that reads. The proxy keeps that apart from what the handler writes there, if it
// sees the limit. The price: a client that sends as much as the limit allows, and then for 50 ms
// neither more nor the end, has its body ended when the answer begins. Inside another body the
// limit is not seen, and a client could end the process by a data race; an http.MaxBytesReader
// without a ResponseWriter, as with pr.Out.Body = http.MaxBytesReader(nil, pr.Out.Body, n) in
// [Proxy.Rewrite], is safe anywhere.
//
// A body that panics fails its request with 500; the process goes on.
//
// A refused CONNECT ends its connection of HTTP/1.x. A stream of HTTP/2 ends alone: after the
// response it is reset with NO_ERROR if the client has not ended it (RFC 9113 section 8.1), and the
// connection serves the other streams. A refused extended CONNECT ends so, too.
//
// # Reading ahead
//
// With [Proxy.ReadAhead], a goroutine of the request reads the beginning of its body before a
// target is chosen, as nginx buffers requests. [Proxy.Key] is asked after that, and it, the policy,
// the picker and all hooks may look at what was read with [PeekBody]. It is as little to be trusted
// as a header of the client.
//
// A body of known length is read ahead until it is complete or ReadAhead bytes have come. That
// takes as long as the client takes: http.Server.ReadTimeout, or the deadline of the request's
// context, bounds it. A body of unknown length (chunks, or HTTP/2 without Content-Length) may be
// one half of a conversation, whose client waits for an answer before it sends more: there, a pause
// of 1 s ends the wait, and what has come is enough. A slow upload of unknown length that pauses
// longer holds a place at its target from then on. Nothing is read ahead of a body whose
// Content-Type is application/grpc, with or without a codec, or that of a stream of the Connect
// protocol (application/connect+...). Any other conversation that declares a length waits until it
// has sent so much. Upgrades and CONNECT have no body.
//
// The request then goes to its target as it was sent: with the same Content-Length or in chunks,
// with its trailers, and with the rest of a body that is longer than ReadAhead streamed. What was
// read ahead can be sent again, so a request whose body fits may be retried as [Retry] says. A body
// that Rewrite has replaced is kept as it comes out of the replacement, which takes as much memory
// again. Memory grows with what has come, whatever length is declared, up to ReadAhead bytes for
// each request and one more that tells whether the body ends there; it is held until the request is
// over.
//
// A body that fails while it is read ahead fails the request before a target is asked: 408 after a
// deadline, 413 past the limit of an http.MaxBytesReader, 400 otherwise, with [ClassClientGone] and
// no attempt in the [Record]. The connection then ends as said above. A client that waits for a 100
// (Expect) gets it from net/http when the reading begins; the target still sees Expect, and its own
// 100 is not passed on. After [Proxy.Shutdown] has begun a pause of 1 s ends the wait for any body,
// and the request goes on as a plain one does then.
//
// # Bounds for one client
//
// balancer.Target has bounds for all clients together. [Proxy.MaxPerKey] bounds the requests in
// flight, and [TunnelLimits].MaxPerKey the upgraded connections, of one key: what [Proxy.Key]
// returns, else the client's address. A retry counts once. An upgrade counts as a request until its
// client is told of the switch, and as an upgraded connection until both sides are closed; one that
// the target declines counts as a request alone from then on. Where Key is set a request counts
// from when Key has returned, and else from before its body is read ahead. Memory is used by keys
// that have something under way, and by no others. [Trace.Done] has the client's address of what
// was refused; the key itself is logged nowhere, and stands in no error.
//
// # Defaults
//
// Without a Transport of the caller's: dial 3 s, TLS handshake 5 s, response header 60 s and 1 MiB,
// idle connections 90 s and 64 for a target, no maximum age. [Proxy.Upstream] changes all of these.
// No proxy from the environment, no transparent compression, HTTP/2 to TLS targets that offer it. A
// target that takes nothing of a request for 60 s fails the attempt; the limit on the response's
// header begins after the request's last byte. The dials of a request take no more than 5 s
// together, see [Retry]. An upgrade must be answered within 10 s. Targets of the scheme h2c get
// requests over HTTP/2 in plain text, with prior knowledge, and upgrades over HTTP/1.1 on the same
// port. Tunnels have no idle or lifetime limit, and end after 30 s without progress once one side
// has.
//
// # Where targets are reached
//
// Requests, upgrades and PROXY headers go to a target's Addr, if it has one: a host and port or a
// Unix socket. TLS uses its ServerName, before that of [Proxy.BackendTLS], and its Certificate. The
// Host header and the request target know nothing of an Addr. If [Proxy.Target] changes the host of
// the URL, that is dialed for a target without an Addr, and expected in the certificate if no
// ServerName was set.
//
// Over TLS and HTTP/2, targets share no connection, not even if they have one URL, unless a
// Transport of the caller's can tell them apart by their URL only. Over plain HTTP/1.1, targets at
// one address share their connections. After an update of the pool that changes a target's
// Certificate, new requests use new connections; what runs on the old ones goes on.
//
// A Unix socket that is missing, or that nobody listens on, is a refused connection. One whose
// backlog is full is tried again until Upstream.DialTimeout is over. See [Proxy.TransportDials] for
// a Transport of the caller's.
//
// # Functions of the caller's
//
// Hooks, pickers and policies that a request asks run on its handler's goroutine: net/http recovers
// their panics there, and the lease and the connections are given back first. The others run where
// nobody else recovers. A panic is contained and its stack logged in Trace.Switch and Trace.Tunnel,
// in observers of the pool, and in Listener.Refused of package proxyproto; in package stream in
// Trace.Done, and in every other hook, where it ends that client's connection alone. A panic of a
// function in [Proxy.BackendTLS] fails the handshake. Not contained are the functions of a caller's
// http.Transport, such as DialContext, which net/http runs on goroutines of its own, and the Read
// and Write of a caller's net.Conn in a tunnel.
//
// # Whose fault it is
//
// The pool learns of every attempt how it ended (balancer.Outcome). A complete answer of any status
// is a sign of life. What a client brings about is not held against the target, and teaches nothing
// about its latency: a request that cannot be sent, the client's own end or stall, an end of the
// target's connection while the client is waited for, or after the client has held up the response
// for a second. The latency of a request with a body counts from the body's end. Failed upgrades
// are told apart from plain requests, and connections that were not made in time from those that
// failed (balancer.Outcome.Own). A shortage on this machine is nobody's fault: the client gets 503.
//
// # The client's address
//
// It is that of the connection, or the one that a trusted peer tells in X-Forwarded-For and, with
// [Proxy.RFC7239], in Forwarded: [Proxy.ClientAddr] gives it to handlers and hooks, pickers have it
// in balancer.Request.Client. Behind a proxy that speaks the PROXY protocol, serve on a
// proxyproto.Listener; with its ConnContext the proxy also learns whether the client's connection
// was TLS. [Proxy.SendProxy] tells targets in the same way.
//
// # Traces
//
// traceparent, tracestate (W3C Trace Context) and baggage are plain headers here: they pass as they
// are, whoever sends them, and nothing in this package reads them. So a client chooses the trace
// that your targets continue, and whether it is sampled. Where clients are not trusted, restart the
// trace as that specification describes it (section 3.4): a middleware in front of the proxy
// derives a request without these headers or with new ones, or [Proxy.Rewrite] deletes them from
// what the targets get. Trace.Span makes each attempt a span of its own, and puts its traceparent
// in the attempt's header; the example in health/otel does so with OpenTelemetry.
//
// # Logins that belong to a connection
//
// With NTLM, and with Negotiate as many servers have it (RFC 4559), a login holds for the
// connection that it was made on, whoever uses it next. A request whose Authorization or
// Proxy-Authorization names one of these schemes therefore leaves over HTTP/1.1 on a connection
// that serves it alone and is closed: nobody gets another's login. That is enough for a Negotiate
// that needs one step and no more. NTLM takes three, on one connection.
//
// With [ConnContext] as http.Server's ConnContext, the first such request of a client's HTTP/1.x
// connection gets a connection to its target that is kept for the client's: all later requests of
// the client's connection go there, whatever a policy says, and a cookie that names another target
// is left as it is. It ends 60 s after its last request, when its target is moving, down, removed
// or cannot take a request, with the client's connection (within seconds, or after the 60 s if that
// is not one of package net), and in [Proxy.Shutdown]. The client has to log in again then. While
// idle it counts as no load, as idle connections in general; each request takes its lease. Never
// pinned are connections of HTTP/2, of peers without an IP address, of peers in Proxy.Trusted, and
// those on which a request had Via or a forwarding header, be it once: one connection may carry
// several users there. A proxy in front that sends none of these headers must be in Proxy.Trusted,
// or must not share its connections between clients.
//
// A RoundTripper that is not an *http.Transport gets these requests with Close set, and must not
// use their connection again; http.Transport below it complies, and nothing is pinned. Targets of
// the scheme h2c get them over HTTP/2 on a connection of their own: such logins do not exist there.
// A connection on which a login was only offered, with 401 or 407, belongs to nobody yet: the
// proxy's own transport for http targets closes it, http.Transport may use it again.
//
// # Administrative states
//
// The proxy observes its pool. When a target is moving, both sides of its WebSockets are asked to
// end with a close frame between two of their frames, spread over [TunnelLimits].Window; when it is
// down, tunnels and responses under way are cut, and requests with a body that still wait for their
// response. One without a body is left to the transport's limit until its response begins, and so
// is an upload over HTTP/1.1 whose client is silent.
//
// # Security
//
// Forwarding headers are believed of the peers in [Proxy.Trusted] alone, nobody by default: those
// of any other peer are dropped before the backend, a picker, a policy or a hook sees them. That is
// every header that begins with X-Forwarded, and Cf-Connecting-Ip, Cf-Connecting-Ipv6, Client-Ip,
// Fastly-Client-Ip, Fly-Client-Ip, Forwarded, Forwarded-For, Front-End-Https, Proxy,
// Proxy-Client-Ip, True-Client-Ip, Wl-Proxy-Client-Ip, X-Appengine-User-Ip, X-Azure-Clientip,
// X-Azure-Socketip, X-Client-Ip, X-Cluster-Client-Ip, X-Envoy-External-Address, X-Host,
// X-Original-Forwarded-For, X-Original-Host, X-Original-Proto, X-Original-Url, X-Originating-Ip,
// X-Proxyuser-Ip, X-Real-Ip, X-Remote-Addr, X-Remote-Ip, X-Rewrite-Url, X-Scheme and X-Url-Scheme.
//
// Many backends cannot tell an underscore or a dot in a name from a hyphen. A name that they would
// read as a forwarding header, as a hop-by-hop field such as Transfer-Encoding, or as a header that
// clients cannot have removed (below), is dropped whoever sent it: X_Forwarded_For,
// Transfer_Encoding, Content.Length. Other names with underscores pass.
//
// Only the protocols in [Proxy.Upgrades] can be switched to; h2c cannot pass unless it is named
// there. A client cannot have Cookie, Authorization, Origin, Host, User-Agent, Sec-* or the headers
// that describe the body removed by naming them in Connection; any other header it can, as RFC 9110
// section 7.6.1 wants, so set identity headers in [Proxy.Rewrite] and not in middleware. A target's
// path prefix is no boundary: dot segments in a request's path pass as sent. Set
// http.Server.ReadTimeout or a deadline where clients may be slow on purpose. Cookie values and
// credentials are never logged; paths are, without their query.
package wsproxy
