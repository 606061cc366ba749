// Package stickiness decides which target a request is bound to, and how a response binds
// its client.
//
//   - [LBCookie] binds by a cookie of the balancer's own, for a period or for the browser's
//     session; [AppCookie] by one that follows a cookie of the application.
//   - [Learn] remembers the application's own session IDs in a [Store], for clients that
//     keep no cookies, too.
//   - [Named] reads the target from a header, a parameter or the route, [Route] from behind
//     the dot of a session ID, [PrefixCookie] from the front of a cookie of the application,
//     [RewriteCookie] from a cookie that the application sets for it.
//   - [First] composes them, and with [ReadOnly] moves from one to another. [Switch] replaces
//     one by another while it serves.
//
// A policy sees requests and response headers and nothing else. It opens no sockets,
// starts no goroutines, knows target IDs but never a target, and cannot tell whether a
// target serves: that is for whoever walks the request to ask the pool. So a policy is
// tested with [net/http/httptest.NewRequest] and an [net/http.Header], and nothing running;
// package stickinesstest holds any implementation to the contract. To send requests with
// one key to one target without remembering anything is not the business of a policy but of
// a hash picker in package balancer.
//
// # Which session it is
//
// A target may keep only a share of its sessions. So that the others can be told apart, a
// [Candidate] identifies its session (Session) and says when it was bound (Issued):
//
//   - [LBCookie] and [AppCookie] with sealed values: both. With HAProxy's dates: Issued.
//   - [Learn], [Route] and [PrefixCookie]: Session, a hash of the application's session ID. A
//     [Store] keeps no dates.
//   - [Named], [RewriteCookie], and cookies whose values name a target and nothing else: neither.
//     The proxy of package wsproxy takes the client's network for the session.
//
// [Route], [Named] without Announce, and a [RewriteCookie] or [PrefixCookie] whose application sets
// nothing, do not bind a moved session anew: each of its requests moves again.
//
// # Zero and negative values
//
// A zero field of options has the default that its documentation names. A negative one is refused.
//
// # Security
//
// What a policy reads comes from clients. Whatever is wrong with it (not decodable, sealed
// by a stranger, of another scope) makes the request an unbound one; it never makes an
// error. At most 64 different values are looked at, whatever the number of cookies. By default
// cookie values are sealed ([github.com/stickylb/stickylb/cookie.Sealed]): a client can
// neither read nor choose its target. With a codec or an option that has Insecure in its
// name it can. No policy logs anything.
package stickiness
