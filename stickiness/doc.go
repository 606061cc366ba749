// Package stickiness decides which target a request is bound to and how a response binds
// its client: by a cookie of the balancer's own ([LBCookie]) or by one that follows a
// cookie of the application ([AppCookie]).
//
// A policy sees requests and response headers and nothing else. It opens no sockets,
// starts no goroutines, knows target IDs but never a target, and cannot tell whether a
// target serves: that is asked of the pool by whoever walks the request. So a policy is
// tested with [net/http/httptest.NewRequest] and an [net/http.Header], and nothing running.
//
// # Security
//
// Cookies come from clients. Whatever is wrong with one (not decodable, sealed by a
// stranger, of another scope) makes the request an unbound one; it never makes an error.
// At most eight cookies of a name are looked at, whatever their number. By default the
// values are sealed ([github.com/stickylb/stickylb/cookie.Sealed]): a client can neither
// read nor choose its target.
package stickiness
