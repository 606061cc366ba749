// Package stickiness decides which target a request is bound to, and how a response binds its
// client.
//
//	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{
//		Period: time.Hour,
//		Keys:   keys, // the same on all instances, and after a restart
//	})
//	...
//	proxy := &wsproxy.Proxy{Pool: pool, Policy: policy}
//	err = http.ListenAndServe(":8080", proxy)
//
// Most callers want an [LBCookie], which binds clients by a cookie of the balancer's own, for a
// period or for the browser's session. The other policies are:
//
//   - [AppCookie] sets a cookie of the balancer's own that lasts as long as a cookie of the
//     application.
//   - [Learn] remembers the application's session IDs in a [Store]. It also serves clients that
//     keep no cookies. A [MemoryStore] is for one balancer, and package
//     [github.com/stickylb/stickylb/stickiness/redisstore] for several.
//   - [Named] reads the target from a header, a parameter or the route of the request.
//   - [Route] reads it from the session ID, after the dot.
//   - [PrefixCookie] reads it from the front of a cookie of the application.
//   - [RewriteCookie] reads it from a cookie that the application sets for this purpose.
//   - [First] composes policies. With [ReadOnly] it moves sessions from one policy to another.
//   - [Switch] replaces a policy while it serves.
//
// A [Policy] sees requests and response headers and nothing else. It opens no sockets and starts no
// goroutines. It knows the IDs of targets, but not whether a target can serve: its caller asks the
// pool. So a policy can be tested with [net/http/httptest.NewRequest] and an [net/http.Header]
// alone. Package [github.com/stickylb/stickylb/stickiness/stickinesstest] checks that any
// implementation keeps the contract. To send all requests with one key to one target without
// remembering sessions, use a hash picker of package [github.com/stickylb/stickylb/balancer]
// instead of a policy.
//
// # Sessions that move
//
// A target may keep only a share of its sessions, and the proxy then moves the others. To decide
// which of them move, it uses two fields of a [Candidate]: Session identifies the session, and
// Issued is when it was bound. Policies set them as follows:
//
//   - [LBCookie] and [AppCookie] with sealed values: both. With HAProxy's dates: Issued.
//   - [Learn], [Route] and [PrefixCookie]: Session, a hash of the application's session ID. A
//     [Store] keeps no dates.
//   - [Named], [RewriteCookie], and cookies whose values name a target and nothing else: neither.
//     The proxy of package [github.com/stickylb/stickylb/wsproxy] then uses the client's network as
//     the session.
//
// [Route], [Named] without Announce, and a [RewriteCookie] or [PrefixCookie] whose application sets
// no cookie do not bind a moved session to its new target: each of its requests is moved again.
//
// # Zero and negative values
//
// A zero field of options has the default that its documentation names. The constructors refuse
// negative durations. In [MemoryStore], which has no constructor, a negative Capacity is the
// default, too. In a [Candidate], a zero Issued or Session means not known.
//
// # Security
//
// Policies read what clients send. A value that cannot be decoded, that was sealed under an unknown
// key or that is of another scope leaves the request unbound, and causes no error. A policy looks
// at no more than 64 different values of a request, even if it has more cookies. By default, cookie
// values are sealed ([github.com/stickylb/stickylb/cookie.Sealed]): a client can neither read them
// nor choose its target. With a codec or an option that has Insecure in its name, it can. Policies
// write no logs.
package stickiness
