// Package stream balances connections of any TCP protocol over the pool that wsproxy balances HTTP
// over: the same health, limits, queue and drains, on the same tunnels. A [Server] takes a lease on
// a target for each connection that its listeners accept, connects to the target, and moves bytes
// between the two until both have ended.
//
//	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.SourceAddress{}})
//	...
//	l, err := net.Listen("tcp", ":5432")
//	...
//	lb := &stream.Server{Pool: pool}
//	err = lb.Serve(l)
//
// It opens no listener and checks no target's health: package health does that. It knows no
// protocol above TLS, so it has no cookies to keep a session with its target, asks nobody to end,
// and repeats nothing that a target may have seen.
//
// # Stickiness
//
// It is the pool's picker that keeps clients with their targets: balancer.SourceAddress by the
// network of the client's address, balancer.Rendezvous and balancer.Maglev by the address or by
// what [Server.Key] makes of it and of the server name. A protocol that opens a second connection
// for the first one's sake needs one of these: PostgreSQL's cancel request is a connection of its
// own, and a picker by load, such as the default, sends many of them to a server that does not know
// the query.
//
// # TLS
//
// There are three ways. With neither [Server.TLS] nor [Server.BackendTLS] bytes pass as they are:
// TLS goes through from the client to the target, and with [Server.ReadHello] the server name of
// its ClientHello is known on the way. With TLS alone it is terminated, and with both it is
// encrypted again. A dot at the end of a server name, which some clients send, is left out where
// TLS goes through; crypto/tls refuses it where TLS is terminated.
//
// # Connecting
//
// A target is chosen and connected to as soon as a client was accepted, or as soon as its TLS
// handshake or its ClientHello is complete, since in many protocols the server speaks first. An
// attempt that fails is made again with another target, as [Server.Retries] says. Once a target has
// the connection its end is the connection's end.
//
// A client that has to wait in the pool's queue is watched meanwhile, and what it sends, up to 16
// KiB, is kept for the target. When it ends its side it gives up its place, although it may still
// read: a client that is gone looks just the same. Without a wait such a half-close is passed on.
//
// # The client's address
//
// It is that of the connection. Behind another proxy, wrap the listener in a proxyproto.Listener:
// the address is then the one that a trusted peer's PROXY header tells. [Server.SendProxy] tells it
// to the targets.
//
// # The end
//
// End of stream on one side is passed on to the other, which may go on for [Limits].Linger. A
// connection that breaks, by a reset for instance, is reset on the other side once that has what
// came before, without TLS's close_notify: what is cut short does not look complete. The server
// observes its pool: connections of a target that is draining or moving go on, because nothing in
// TCP asks a peer to come again, and are cut when it is down. health.Registry.Drain makes these
// steps, with a deadline. [Server.Shutdown] waits as well.
//
// # Defaults
//
// TLS handshake and ClientHello 5 s, connect 3 s, one retry, linger 30 s, no idle limit, no
// lifetime. The package balancer says who waits for how long when targets are full, and refuses
// everybody else.
//
// # Zero and negative values
//
// A zero field has the default that its documentation names; where there is none, zero means no
// bound. A negative value means no bound, or none of what the field counts: no retries, no jitter.
// These are the rules of package wsproxy, too.
//
// # Security
//
// Clients' bytes are passed on unread, except for a TLS handshake: crypto/tls parses that, also
// where TLS passes through, in at most 16 KiB. The server name is the client's to choose: it says
// where the client wants to go, not who it is. With Encrypted Client Hello it is the outer name. A
// client costs a goroutine until it has a target, two while it is connected, and nothing of a
// target before its handshake or ClientHello is complete. How many are connected or wait is bounded
// by MaxTunnels of the targets and by the pool's queue, and for each client by [Limits].MaxPerKey;
// how many may be at their handshake is for the listener to bound, and for each client for
// MaxPerKey without a Key.
package stream
