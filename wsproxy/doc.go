// Package wsproxy is a load-balancing reverse proxy for net/http that keeps sessions with their
// target and knows WebSockets. It also does so for any handler.
//
//	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{
//		{ID: "app-1", URL: one},
//		{ID: "app-2", URL: two},
//	}})
//	...
//	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Keys: keys})
//	...
//	log.Fatal(http.ListenAndServe(":8080", &wsproxy.Proxy{Pool: pool, Policy: policy}))
//
// If you already have a proxy, or shards inside the process, wrap them in a [Sticky]. It chooses a
// target for each request to an [http.Handler], and binds the session:
//
//	sticky := &wsproxy.Sticky{Pool: pool, Policy: policy}
//	log.Fatal(http.ListenAndServe(":8080", sticky.Handler(existing)))
//
// All other callers want a [Proxy] with a Pool and a Policy. Behind another proxy, set
// [Proxy.Trusted]. Before http.Server.Shutdown, call [Proxy.Shutdown], which ends WebSockets in an
// orderly way. For an access log, set [Proxy.Trace] to the result of [LogAccess]. To limit what one
// client can take, set [Proxy.MaxPerKey]. To try failed requests again on another target, see
// [Retry].
//
// The package opens no listener, terminates no TLS and checks no target's health. The http.Server
// is the caller's, and package health does the checks. WebSockets come in by an upgrade of HTTP/1.1
// or by an extended CONNECT of HTTP/2 or HTTP/3 (RFC 8441 and RFC 9220), and go out over HTTP/1.1.
// Any other CONNECT is answered with 405, and an extended one for another protocol with 501.
//
// # The walk of a request
//
// A [Proxy] asks its [stickiness.Policy] which targets the request is bound to. It takes a
// [balancer.Lease] on the bound target if that may serve. If it may not, [Proxy.OnMiss] decides
// whether the pool's picker chooses another one. Each attempt sends a copy of the outgoing request
// with a URL of its own. A failure that may be retried, see [Retry], takes a lease on another
// target. The policy binds the response of the last attempt, once, whatever its status. It never
// binds an error page of the proxy. A policy, a picker and a hook never call the proxy back.
//
// # The same walk without the network
//
// A [Sticky] looks up, chooses, binds and releases in the same way. Instead of making attempts, it
// calls a handler. It differs from a Proxy as follows:
//
//   - It does not retry. If the bound target refuses connections, the handler answers, and the next
//     request goes to the same target until health checks or calls of [ReportError] take it out of
//     service.
//   - The handler's answer to such a failure binds the session like any other answer, unless the
//     handler has called [Report] or [ReportError] before.
//   - Only the policy changes the request. The handler gets forwarding headers, hop-by-hop headers,
//     upgrades and CONNECT as they came, and decides what to do with them.
//   - The handler moves the bytes of upgraded connections. Only the handler can send a close frame
//     there, see [OnLeave]. [httputil.ReverseProxy] loses bytes that a client sends before it has
//     seen the 101.
//   - Plain requests are not cut when their target is down, because a handler cannot be stopped.
//   - Bodies are not read ahead, and [PeekBody] returns nothing. Connections are not kept for
//     logins.
//
// # What ReverseProxy does, and what not
//
// A [httputil.ReverseProxy] makes the outgoing request, calls the proxy for the attempts, and
// copies the response, its trailers and 1xx responses to the client. The proxy does these steps
// itself:
//
//   - It copies the header of a plain request or response, without hop-by-hop fields, when its own
//     transport for http targets carries it. ReverseProxy would clone the header, although it has
//     nothing to decide there. A header is plain if Connection is absent or says keep-alive, and TE
//     is absent. With [Proxy.Rewrite], ReverseProxy copies the requests' headers.
//   - It sets the forwarding headers, because only the proxy knows which peers are trusted. It puts
//     back the headers that a client must not remove by naming them in Connection. It passes the
//     query as it was sent: ReverseProxy drops the parameters that it cannot parse.
//   - It gives each attempt a body of its own. ReverseProxy's body cannot be read after its Close,
//     and http.Transport closes it even when no connection was made.
//   - It switches protocols. ReverseProxy would copy with two goroutines and two buffers for each
//     connection, and nobody could ask such a connection to end.
//   - It removes from trailers and 1xx responses what must not pass there.
//   - It flushes what the target has sent when the target keeps the client waiting, and before a
//     response breaks off.
//   - It decides about the client's connection when a request's body was not read to its end.
//
// # Upgrades and middleware
//
// On a 101 the proxy takes the client's connection from the server, gives both connections to a
// tunnel, and ServeHTTP returns. Middleware sees the handler return then, with nothing written
// through its ResponseWriter. [Trace].Tunnel and the result of [Trace].Switch are called when the
// tunnel ends. A middleware's ResponseWriter has to be an [http.Hijacker] or have an Unwrap method.
// Otherwise the client gets 501, and no target is asked. Deadlines of the http.Server end at the
// switch. http.Server.Shutdown does not know tunnels: call [Proxy.Shutdown] first, or [Proxy.Close]
// before http.Server.Close.
//
// # WebSockets over HTTP/2
//
// net/http of Go 1.26 supports extended CONNECT, and announces it to browsers, only if GODEBUG
// contains http2xconnect=1 in the environment that the process starts with:
//
//	GODEBUG=http2xconnect=1 ./server
//
// A //go:debug line, a godebug line in go.mod and os.Setenv come too late. The listener has to
// speak HTTP/2, usually over TLS. The request has to reach the proxy: a pattern of [http.ServeMux]
// with a method, such as "GET /ws", does not match a CONNECT. Register "/ws", or "CONNECT /ws" as
// well.
//
// The target gets an upgrade of HTTP/1.1. Its key is the proxy's own, and the proxy verifies the
// answer to it. Policies, pickers and hooks that get the inbound request see the method CONNECT.
// ServeHTTP returns when the tunnel has ended, because a stream ends with its handler. [Trace].Done
// is called at the switch nevertheless. A middleware's ResponseWriter needs Flush and the deadlines
// of [http.ResponseController], or an Unwrap method to them. Deadlines of the http.Server end at
// the switch. net/http cannot end only one direction of a stream. When the target ends first, the
// stream ends after the client was silent for a second, or at once if the client has sent a close
// frame. The stream is reset when the target's connection breaks, and when a client that does not
// read is cut.
//
// http.Server.Shutdown waits for these streams, so call [Proxy.Shutdown] first here, too. When a
// client's whole connection is stuck, its tunnels end, but their handlers stay until the server
// gives the connection up. Set SendPingTimeout or WriteByteTimeout of [http.HTTP2Config] in
// http.Server.HTTP2 for that.
//
// # HTTP/3
//
// A Proxy may be the handler of a server of HTTP/3. examples/http3 has it behind quic-go's, beside
// net/http's at the same port. What the section above says about extended CONNECT is true here,
// too, except for GODEBUG. The server tells the protocol in Request.Proto.
//
// When a response breaks off, the stream is reset. Unlike the other versions, QUIC drops what the
// client has not read by then, perhaps even the header. quic-go's server sets a new Request.Trailer
// at the end of the body, so a middleware that copies the request loses its trailers.
//
// # Headers, trailers and 1xx responses
//
// A rule about headers is also a rule about trailers. These fields do not pass in a trailer
// section, even from trusted peers and targets: what RFC 9110 section 6.5.1 allows only in the
// header section, what Connection names, forwarding headers, Cookie, Set-Cookie, Authorization,
// Host, Sec-*, framing, and Content-* except Content-Digest. Clients take no cookie from a trailer,
// and a policy would not see it. Other trailers pass, and the Trailer header names them. The
// trailers of a request have to be announced. A body of known length that has trailers goes on in
// chunks if HTTP/1.1 needs that.
//
// Hop-by-hop fields are removed from 1xx responses as from final ones. So are the cookies of a
// policy that implements [stickiness.Informer]. All policies of package stickiness that write
// cookies implement it. There is one gap: net/http hides the Connection field of an HTTP/1.1
// response that contains close. If an https target, or a target behind a caller's transport, names
// other fields beside close, these are therefore not removed. The proxy's own transport for http
// targets has no such gap.
//
// A 204 loses its Content-Length, which it must not have (RFC 9110 section 8.6). A 426 keeps its
// Upgrade over HTTP/1.1. The proxy adds no Content-Type to a response that has none. Middleware
// sees a nil entry in the header map then. A response that breaks off reaches the client up to the
// break.
//
// The request target passes as it was sent, with one exception: a raw "#" is escaped as %23,
// because some servers take it for the end of the path.
//
// # FIPS 140
//
// Everything here works under GODEBUG=fips140=only. RFC 6455 requires SHA-1 for the accept key of
// an extended CONNECT. The key protects nothing, so this use is exempted.
//
// # Request bodies that nobody reads to their end
//
// A connection of HTTP/1.x serves another request only if the last one's body was read to its end,
// trailers included. The body may not have been read when the response's header is written: the
// target may answer early, the body may be unreadable, or the request may be refused. Then the
// header says "Connection: close". If the whole answer is at hand, such as an error page, the rest
// of the body first gets 50 ms to come. The response goes out while the client still sends, so
// streams in both directions work.
//
// After the response, the rest of the body is read and dropped, up to 1 MiB and for up to 5 s.
// Without that, the client might be reset before it has read the response. This ends after a pause
// of 250 ms if the response has no Content-Length: the client may then wait for the end of the
// response, which net/http writes after the handler. No target is held meanwhile, and
// [Proxy.Shutdown] shortens it.
//
// Nobody reads the body after ServeHTTP has returned, with one exception. A Read of a middleware's
// body may neither return within those 5 s nor end at the read deadline of the connection. The
// proxy gives it up after another second. A middleware's ResponseWriter needs an Unwrap method for
// that deadline. Without one the proxy waits up to 5 s for the Read. Middleware must not enable
// full duplex itself and also replace the body by a shorter one: nobody can see then that the body
// was not read.
//
// Limit bodies with [http.MaxBytesHandler] or [http.MaxBytesReader], and wrap what they return in
// no other body. When a body exceeds its limit, net/http writes to the header map of the response,
// on the goroutine that reads. The proxy keeps that apart from what the handler writes, if it sees
// the limit. There is a price: when a client sends exactly as much as the limit allows, and then
// neither more nor the end for 50 ms, its body is ended when the answer begins. Inside another body
// the limit is not seen, and a client could end the process by a data race. An http.MaxBytesReader
// without a ResponseWriter, as in pr.Out.Body = http.MaxBytesReader(nil, pr.Out.Body, n) in
// [Proxy.Rewrite], is safe anywhere.
//
// A body that panics fails its request with 500, and the process goes on.
//
// A refused CONNECT closes its connection of HTTP/1.x. A stream of HTTP/2 ends without its
// connection: after the response it is reset with NO_ERROR if the client has not ended it (RFC 9113
// section 8.1). The same goes for a refused extended CONNECT.
//
// # Reading ahead
//
// With [Proxy.ReadAhead], a goroutine of the request reads the beginning of its body before a
// target is chosen. [Proxy.Key] is called after that. Key, the policy, the picker and all hooks may
// look at what was read with [PeekBody]. It deserves no more trust than a header of the client.
//
// A body of known length is read ahead until it is complete or ReadAhead bytes have come. That
// takes as long as the client takes. http.Server.ReadTimeout or the deadline of the request's
// context limits it. A body of unknown length (chunks, or HTTP/2 without Content-Length) may be one
// half of a conversation, whose client waits for an answer before it sends more. There, a pause of
// 1 s ends the reading ahead. A slow upload of unknown length that pauses for longer holds a place
// at its target from then on.
//
// Nothing is read ahead of a body whose Content-Type is application/grpc, with or without a codec,
// or application/connect+..., a stream of the Connect protocol. Another kind of conversation that
// declares a length waits until that many bytes have come. Upgrades and CONNECT have no body.
//
// The request goes to its target as it was sent: with its Content-Length or in chunks, and with its
// trailers. The rest of a body that is longer than ReadAhead is streamed. The bytes that were read
// ahead can be sent again, so a request whose body fits may be retried as [Retry] says. If Rewrite
// has replaced the body, what comes out of the replacement is kept as well, which takes as much
// memory again. The memory for a request grows with the bytes that have come, whatever length is
// declared. Its limit is ReadAhead bytes, and one more byte that tells whether the body ends there.
// It is held until the request is over.
//
// A body that fails while it is read ahead fails the request before a target is asked. The status
// is 408 after a deadline, 413 when the limit of an http.MaxBytesReader is exceeded, and 400
// otherwise. The class is [ClassClientGone], and the [Record] has no attempt. The connection then
// ends as described above. A client that waits for a 100 (Expect) gets it from net/http when the
// reading begins. The target still gets Expect, and its own 100 is not passed on. After
// [Proxy.Shutdown] has begun, a pause of 1 s ends the reading ahead of any body, and the request
// goes on like any other.
//
// # Limits for one client
//
// [balancer.Target] has limits for all clients together. [Proxy.MaxPerKey] limits the requests in
// flight of one key, and [TunnelLimits].MaxPerKey its upgraded connections. The key is what
// [Proxy.Key] returns, or else the client's address. A retry does not count again. An upgrade
// counts as a request until its client is told of the switch. It counts as an upgraded connection
// until both sides are closed, or until the target declines it. With Key set, a request counts from
// Key's return on, otherwise from before its body is read ahead. Only keys with a request or a
// connection use memory. [Trace].Done gets the client's address of a refused request. The key is in
// no log and no error.
//
// # Defaults
//
// Without a caller's Transport the limits are: dial 3 s, TLS handshake 5 s, response header 60 s
// and 1 MiB, idle connections 90 s and 64 for a target, no maximum age. [Upstream] changes all of
// these. There is no proxy from the environment and no transparent compression. HTTP/2 is used for
// TLS targets that offer it. A target that takes nothing of a request for 60 s fails the attempt.
// The limit on the response's header begins after the request's last byte. The dials of a request
// take no more than 5 s together, see [Retry]. An upgrade must be answered within 10 s. Targets of
// the scheme h2c get requests over HTTP/2 in plain text, with prior knowledge, and upgrades over
// HTTP/1.1 on the same port. Tunnels have no idle or lifetime limit. Once one side has ended, a
// tunnel ends after 30 s without progress.
//
// # Zero and negative values
//
// A zero field has the default that its documentation names. Where it names none, a zero limit
// means no bound, and a zero amount (ReadAhead, Retry.Buffer, TunnelLimits.Rebalance) means that
// the feature is off. A negative value means no bound, or none of what the field counts: no
// retries, no jitter, no kept connections. The exception is Upstream.MaxHeaderBytes, which always
// is a bound: a negative value means its default.
//
// # Where targets are reached
//
// Requests, upgrades and PROXY headers go to a target's Addr, if it has one: a host and port or a
// Unix socket. TLS uses the target's ServerName, or else that of [Proxy.BackendTLS], and the
// target's Certificate. The Host header and the request target do not depend on Addr. If
// [Proxy.Target] changes the host of the URL, a target without an Addr is dialed at that host. The
// certificate must be valid for that host, unless a ServerName is set.
//
// Over TLS and HTTP/2, targets share no connection, even if they have the same URL. The exception
// is a caller's Transport that tells targets apart only by their URL. Over plain HTTP/1.1, targets
// at one address share their connections. After an update of the pool that changes a target's
// Certificate, new requests use new connections. Requests on the old ones go on.
//
// A Unix socket that is missing, or that nobody listens on, counts as a refused connection. If a
// socket's backlog is full, the dial is repeated until [Upstream].DialTimeout is over. See
// [Proxy.TransportDials] for a caller's Transport.
//
// # Functions of the caller's
//
// Hooks, pickers and policies run on the handler's goroutine of the request that calls them. After
// a panic the proxy releases the lease and the connections, and then net/http recovers the panic.
// Other functions run where nobody else recovers. There, the proxy recovers a panic and logs its
// stack: in [Trace].Switch and [Trace].Tunnel, in observers of the pool, and in Refused of
// [proxyproto.Listener]. Package stream does so in its Trace.Done, and in its other hooks, whose
// panic ends the connection of that client. A panic of a function in [Proxy.BackendTLS] fails the
// handshake. There are two kinds of panics that the proxy cannot recover. One is of the functions
// of a caller's [http.Transport], such as DialContext, which net/http runs on its own goroutines.
// The other is of Read and Write of a caller's [net.Conn] in a tunnel.
//
// # Whose fault it is
//
// The pool learns how every attempt has ended, see [balancer.Outcome]. A complete answer of any
// status is a sign of life. A failure that a client causes is not held against the target, and says
// nothing about the target's latency. A client causes a request that cannot be sent, and its own
// end or stall. It also causes an end of the target's connection while the proxy waits for the
// client, and a break after the client has delayed the response for a second. The latency of a
// request with a body counts from the body's end. Failed upgrades are told apart from failed
// requests, and connections that were not made in time from those that failed, see
// [balancer.Outcome.Own]. A shortage on this machine is nobody's fault. The client gets 503 then.
//
// # The client's address
//
// The client's address is that of the connection, or the one that a trusted peer sends in
// X-Forwarded-For and, with [Proxy.RFC7239], in Forwarded. [Proxy.ClientAddr] returns it to
// handlers and hooks, and pickers get it in [balancer.Request].Client. Behind a proxy that speaks
// the PROXY protocol, serve on a [proxyproto.Listener]. With [ConnContext] or
// [proxyproto.ConnContext] the proxy also learns whether the client's connection was TLS.
// [Proxy.SendProxy] sends PROXY headers to targets.
//
// # Traces
//
// traceparent, tracestate (W3C Trace Context) and baggage are plain headers here. They pass as they
// are, whoever sends them, and nothing in this package reads them. So a client chooses the trace
// that the targets continue, and whether it is sampled. If clients are not trusted, restart the
// trace as section 3.4 of that specification says: either a middleware in front of the proxy
// derives a request without these headers or with new ones, or [Proxy.Rewrite] deletes them.
// [Trace].Span makes each attempt a span of its own, and puts its traceparent into the attempt's
// header. The example in health/otel does so with OpenTelemetry.
//
// # Logins that belong to a connection
//
// With NTLM, a login holds for the connection that it was made on, whoever uses that connection
// next. Many servers implement Negotiate (RFC 4559) in the same way. A request whose Authorization
// or Proxy-Authorization names one of these schemes therefore goes out over HTTP/1.1 on a
// connection that serves only this request. So nobody gets another's login. That is enough for
// Negotiate in one step. NTLM needs three steps on one connection.
//
// This needs [ConnContext] as http.Server.ConnContext. The first such request of a client's
// HTTP/1.x connection then gets a connection to its target that is kept for the client's
// connection. All later requests of the client's connection go there, whatever a policy says. A
// cookie that names another target stays as it is. The kept connection ends
//
//   - 60 s after its last request,
//   - when its target is moving, down, removed or cannot take a request,
//   - when the client's connection ends, within seconds if that is a connection of package net,
//   - in [Proxy.Shutdown].
//
// The client has to log in again then. An idle kept connection counts as no load. Each request
// takes a lease.
//
// No connection is kept for connections of HTTP/2, for peers without an IP address and those in
// [Proxy.Trusted], and for connections on which any request had Via or a forwarding header: these
// may carry the requests of several users. A proxy in front that sends none of these headers must
// be in Proxy.Trusted, or must not share its connections between clients.
//
// A RoundTripper that is not an [http.Transport] gets these requests with Close set, and must not
// use their connection again. If it passes them to an http.Transport, that closes the connection.
// So no connection is kept for the client then. Targets of the scheme h2c get these requests over
// HTTP/2 on a connection of their own, because HTTP/2 has no such logins. When a target has only
// offered a login with 401 or 407, the connection is not logged in yet. The proxy's own transport
// for http targets closes it. http.Transport may use it again.
//
// # Administrative states
//
// The proxy observes its pool. When a target is moving, both sides of its WebSockets get a close
// frame between two of their frames, spread over [TunnelLimits].Window. When a target is down, its
// tunnels and the responses that it is sending are cut. So are requests with a body that wait for
// their response, except for an upload over HTTP/1.1 whose client is silent. That one, and a
// request without a body, end at the transport's limit.
//
// # Security
//
// Forwarding headers are believed only of the peers in [Proxy.Trusted], which are none by default.
// Those of any other peer are dropped before a target, a picker, a policy or a hook sees them.
// [IsForwardingHeader] lists them.
//
// Many backends cannot tell an underscore or a dot in a name from a hyphen. Such a name is dropped,
// whoever sent it, if they would read it as a forwarding header, as a hop-by-hop field, or as one
// of the protected headers below: X_Forwarded_For, Transfer_Encoding and Content.Length, for
// example. Other names with underscores pass.
//
// Only the protocols in [Proxy.Upgrades] can be switched to. h2c cannot pass unless it is named
// there. A client cannot have these protected headers removed by naming them in Connection: Cookie,
// Authorization, Origin, Host, User-Agent, Sec-* and those that describe the body. It can have any
// other header removed, as RFC 9110 section 7.6.1 requires. So set identity headers in
// [Proxy.Rewrite], and not in middleware.
//
// A target's path prefix is no boundary: dot segments in a request's path pass as they were sent.
// Set http.Server.ReadTimeout or a deadline if clients may be slow on purpose. Cookie values and
// credentials are never logged. Paths are, without their query.
package wsproxy
