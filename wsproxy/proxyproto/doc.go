// Package proxyproto reads and writes the header by which a TCP proxy tells who its client is: the PROXY protocol of
// HAProxy's doc/proxy-protocol.txt, versions 1 and 2, with version 2's type-length-value fields. A [Listener] reads
// one from each connection of its trusted peers, a [Dialer] begins each connection with one, and [Header.WriteTo] puts
// one on any other.
//
// It opens no listener of its own, starts no goroutine, and never guesses whether there is a header: who has to send
// one is configured. Datagrams are not read.
//
// # Use with net/http
//
// Wrap the listener, and TLS around that. [ConnContext] in http.Server.ConnContext lets handlers ask [FromContext]
// for what the header says besides the addresses, which RemoteAddr and http.LocalAddrContextKey have anyway.
//
// # When the header is read
//
// Accept returns at once. The header is read by whoever asks the connection first for something that depends on it:
// Read, Write, RemoteAddr, LocalAddr or [Conn.Header]. An http.Server does so on the connection's own goroutine, so
// that a slow or silent peer holds up nobody but itself, and no longer than [Listener.Timeout]. Goroutines that read
// ahead would need a bound, and silent peers could use that up. But the functions in http.Server.ConnContext and
// http.Server.ConnState (at StateNew) run before Accept is called again: they must not ask for the address.
//
// # Security
//
// The bytes of a header are believed of the peers in [Listener.Trusted] alone, nobody by default, and those have to
// send one: without it the connection is closed. Whatever any other peer sends is data, even if it looks like a header.
// A header is read up to a fixed size (107 bytes, 16 and 4096 of version 2), its checksum is compared where there is
// one, and nothing is written before it is complete.
//
// A header may say that the connection is the proxy's own (LOCAL, for health checks) or that the client is unknown.
// The connection then keeps the addresses of its socket, so the peer seems to be the proxy: do not name a proxy that
// speaks this protocol among those whose X-Forwarded-For is believed, unless it writes that header too.
//
// A header belongs to one client. Never send one on a connection that several clients share.
package proxyproto
