// Package proxyproto reads and writes the header with which a TCP proxy passes on the address of
// its client: versions 1 and 2 of the PROXY protocol of HAProxy's doc/proxy-protocol.txt, with
// version 2's type-length-value fields. A [Listener] reads a header from each connection of its
// trusted peers. A [Dialer] begins each connection with a header. [Header.WriteTo] writes a header
// to any other connection.
//
//	listener = &proxyproto.Listener{Listener: listener, Trusted: trusted}
//	server := &http.Server{Handler: handler, ConnContext: proxyproto.ConnContext}
//	err := server.Serve(listener)
//
// It opens no listener of its own, starts no goroutine, and never guesses whether there is a
// header: the configuration says who has to send one. It does not read datagrams.
//
// # Use with net/http
//
// Wrap the listener first, and TLS around that. With [ConnContext] in http.Server.ConnContext,
// handlers can call [FromContext] for the fields of the header. RemoteAddr and
// http.LocalAddrContextKey have its addresses anyway.
//
// # When the header is read
//
// Accept returns at once. The first call that depends on the header reads it: Read, Write,
// RemoteAddr, LocalAddr or [Conn.Header]. An http.Server makes such a call on the connection's own
// goroutine. So a slow or silent peer delays only itself, and for no longer than
// [Listener.Timeout]. Goroutines that read headers in advance would need a bound, and silent peers
// could use it up.
//
// The functions in http.Server.ConnContext and, at StateNew, http.Server.ConnState run before the
// next Accept. They must not ask for the address.
//
// # Security
//
// Only the peers in [Listener.Trusted], none by default, are believed. They have to send a header:
// without one the connection is closed. Bytes of other peers are data, even if they look like a
// header. A header is read up to a fixed size: 107 bytes in version 1, 16 + 4096 bytes in version
// 2. Its checksum is compared if it has one. Nothing is written before the header is complete.
//
// A header may say that the connection is the proxy's own (LOCAL, for health checks) or that the
// client is unknown. The connection then keeps the addresses of its socket, so the peer seems to be
// the proxy. For that reason, trust X-Forwarded-For from a proxy that speaks this protocol only if
// the proxy writes X-Forwarded-For itself.
//
// A header belongs to one client. Never send one on a connection that several clients share.
package proxyproto
