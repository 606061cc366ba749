// Package cookie reads and writes the cookies of sticky sessions: Set-Cookie lines as browsers read
// them, the Cookie header of a request, and the codecs that convert a target's ID to a cookie's
// value and back.
//
//	codec, err := cookie.NewSealed(cookie.SealedOptions{Scope: "shop", Keys: keys})
//	...
//	value, err := codec.Encode(&cookie.Ticket{Target: "app-1", Issued: time.Now()})
//	...
//	ticket, err := codec.Decode(value) // ticket.Target is "app-1"
//
// Most callers want a policy of package [github.com/stickylb/stickylb/stickiness], which sets and
// reads the cookies itself. They call [NewKey] for its keys, and take a codec from this package
// only to replace keys while the policy serves ([Sealed.Store]) or to share sessions with another
// balancer.
//
// The policies decide which cookie is set, when, and with which attributes. This package opens no
// connection, starts no goroutine, and keeps no state except keys and tables.
//
// # Lines and headers
//
// [ParseSetCookie] parses a Set-Cookie line into a [SetCookie]. [SetCookie.String] writes it,
// [SetCookie.Check] says why browsers would refuse it, and [SetCookie.Expiry] says when it ends.
// [Values] and [Pairs] read the Cookie header of a request, [Unquote] removes quotes from a value,
// and [Remove] removes cookies.
//
// # Sessions of other balancers
//
// To keep the sessions of another balancer, use the codec for its values. A table maps each target
// to its value. Store it when you update the pool:
//
//   - nginx-sticky-module: [InsecureTable] with [InsecureNginxMD5] or [InsecureNginxSHA1] of
//     [NginxSockaddr], or with [InsecureNginxIndex]. With hmac: [NginxHMAC].
//   - nginx-sticky-module-ng: the same until November 2017. Later versions digest the text of the
//     server directive, such as "127.0.0.1:9000" or "backend1.example.com", in place of the socket
//     address. With text=raw, that text itself is the value.
//   - nginx's own "sticky cookie": [InsecureTable] with [InsecureNginxMD5] of the peer's printable
//     address, which is what [net/netip.AddrPort.String] returns. The value of a server with a
//     route= is that route.
//   - HAProxy: [InsecureHAProxy] for "insert". With "dynamic", [InsecureHAProxyDynamic] returns the
//     table's values. For "prefix": [CutHAProxyPrefix], [AddHAProxyPrefix] and
//     [StripHAProxyPrefix].
//   - A route after a session ID, as Java application servers write it: [CutRoute], with
//     [PathParam] for an ID in the path.
//
// # Zero and negative values
//
// Zero and negative values of [InsecureHAProxy.MaxIdle] and [InsecureHAProxy.MaxLife] mean no
// bound. In a [Ticket], a zero time or a zero Session means not known. A zero [Sealed] encodes and
// decodes nothing until it has keys; a zero [InsecureTable] and a zero [InsecureHAProxy] are empty
// tables.
//
// # Security
//
// Every byte of a Cookie header comes from a client. For every input, parsing returns a cookie or
// an error and does not panic. Its cost is linear in the size of the input, and it refuses what
// exceeds the limits of RFC 6265bis. [Sealed] encrypts and authenticates its values. The codecs
// that exist for compatibility with other balancers, and whose values clients can read or guess,
// have Insecure in their names. No error text contains a cookie's value.
package cookie
