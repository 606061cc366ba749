// Package cookie reads and writes the cookies of sticky sessions: Set-Cookie lines as
// browsers read them, the Cookie header of a request, and the codecs that turn a
// target's ID into a cookie value and back.
//
// It decides nothing: which cookie is set, when, and with which attributes is the
// business of the policies in package stickiness. It opens no connection, starts no
// goroutine and keeps no state besides keys and tables.
//
// # Sessions of other balancers
//
// A user who comes from another balancer keeps its sessions with a codec for its values.
// Targets are mapped to values by a table that is stored beside the pool's update:
//
//   - nginx-sticky-module: [InsecureTable] with [InsecureNginxMD5] or [InsecureNginxSHA1] of
//     [NginxSockaddr], or with [InsecureNginxIndex]; hmac: [NginxHMAC].
//   - nginx-sticky-module-ng: the same, but since November 2017 it digests the text of the
//     server directive as written, such as "127.0.0.1:9000" or "backend1.example.com".
//     With text=raw the table has that text itself.
//   - nginx's own "sticky cookie": [InsecureTable] with [InsecureNginxMD5] of the peer's
//     printable address, which is what [net/netip.AddrPort.String] returns. A server with a
//     route= has that as its value.
//   - HAProxy: [InsecureHAProxy] for "insert"; with "dynamic", [InsecureHAProxyDynamic] makes
//     the table's values. For "prefix" there are [CutHAProxyPrefix] and its neighbours.
//   - A route behind a session ID, as Java application servers write it: [CutRoute], and
//     [PathParam] for one in the path.
//
// # Security
//
// Every byte of a Cookie header comes from a client. Parsing is total: it returns a cookie
// or an error, never panics, costs time linear in the input, and refuses what exceeds the
// limits of RFC 6265bis. [Sealed], the codec to use, encrypts and authenticates; the
// codecs that exist for compatibility with other balancers and can be read or guessed
// by clients have Insecure in their names. No error text contains a cookie's value.
package cookie
