// Package stream balances connections of any TCP protocol. It uses the same pools as package
// wsproxy does for HTTP, with the same health, limits, queue, drains and tunnels. A [Server]
// accepts connections from its listeners. For each one it takes a lease on a target, connects to
// the target, and moves bytes in both directions until both sides have ended.
//
//	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.SourceAddress{}})
//	...
//	l, err := net.Listen("tcp", ":5432")
//	...
//	lb := &stream.Server{Pool: pool}
//	err = lb.Serve(l)
//
// It opens no listener and checks no target's health: package health does that. It knows no
// protocol above TLS. So it has no cookies to keep a session with its target, it cannot ask a
// client to end, and it repeats nothing that a target may have seen.
//
// # Stickiness
//
// The pool's picker keeps clients with their targets: balancer.SourceAddress by the network of the
// client's address, balancer.Rendezvous and balancer.Maglev by the address or by what [Server.Key]
// returns. A protocol that opens a second connection for the first one needs one of these.
// PostgreSQL's cancel request is an example, because it comes on a connection of its own. A picker
// by load, such as the default, sends many cancel requests to a server that does not know the
// query.
//
// # TLS
//
// There are three ways. With neither [Server.TLS] nor [Server.BackendTLS] bytes pass unchanged: TLS
// goes from the client to the target, and with [Server.ReadHello] the server reads the server name
// in its ClientHello. With TLS alone the server terminates TLS. With both it encrypts again towards
// the target. Some clients send a server name with a dot at the end. Where TLS passes through, the
// dot is removed. Where TLS is terminated, crypto/tls refuses the name.
//
// # Connecting
//
// In many protocols the server speaks first. So a target is chosen and connected to as soon as a
// client is accepted, or as soon as its TLS handshake or its ClientHello is complete. A failed
// attempt is repeated with another target as often as [Server.Retries] allows. Once a target has
// the connection, nothing is repeated.
//
// A client that waits in the pool's queue is watched, and up to 16 KiB of what it sends is kept for
// the target. A client that ends its side while it waits loses its place. It may still want to
// read, but the server cannot tell it from a client that is gone. If the client does not have to
// wait, its half-close is passed on.
//
// # The client's address
//
// The client's address is that of the connection. Behind another proxy, wrap the listener in a
// proxyproto.Listener: the address is then the one in a trusted peer's PROXY header.
// [Server.SendProxy] sends it to the targets, or to those that [Server.SendProxyTo] chooses.
//
// # The end
//
// End of stream on one side is passed on to the other side, which may go on for [Limits].Linger. If
// a connection breaks, for example by a reset, the server resets the other side after it has got
// the bytes before the break. It sends no close_notify: incomplete data must not look complete.
//
// The server observes its pools. Connections of a draining or moving target go on, because TCP has
// no way to ask a peer to come again. They are cut when the target is down. health.Registry.Drain
// makes these steps, with a deadline. [Server.Shutdown] waits in the same way.
//
// # Defaults
//
// TLS handshake and ClientHello 5 s, connect 3 s, one retry, linger 30 s, no idle limit, no
// lifetime. Package balancer documents who waits how long when targets are full. All other clients
// are refused.
//
// # Zero and negative values
//
// A zero field has the default that its documentation names; where there is none, zero means no
// bound. A negative value means no bound, or none of what the field counts: no retries, no jitter.
// These are the rules of package wsproxy, too.
//
// # Security
//
// The server does not interpret clients' bytes, except for a TLS handshake, which crypto/tls
// parses. Where TLS passes through, at most 16 KiB are parsed. The client chooses the server name:
// it says where the client wants to go, not who the client is. With Encrypted Client Hello it is
// the outer name.
//
// A client costs one goroutine until it has a target, and two while it is connected. It takes
// nothing from a target before its handshake or ClientHello is complete. MaxTunnels of the targets
// and the pool's queue bound how many clients are connected or wait; [Limits].MaxPerKey bounds them
// for each client. The listener has to limit how many clients are at their handshake. Without a
// Key, MaxPerKey also limits these for each client.
package stream
