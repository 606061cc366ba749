// Package health decides which targets of a [balancer.Pool] can serve, and takes targets out
// of service without cutting anybody off. A [Registry] probes the targets on a clock of its
// own, learns from the outcomes of live requests, drains targets in three steps and tells
// subscribers what changed. A [Page] shows the registries of all pools of a process, with their
// traffic.
//
// It picks no target and sees no cookie, request or tunnel: it only sets the states that the
// pool acts on. Health, administrative state and ejection are independent of each other.
//
// A target's health is unknown until its first probe, then healthy, reserved or unhealthy.
// Reserved is a target that answers and asks for bound sessions only, by a status in
// [HTTP].ReservedStatuses or by [ErrReserved]. An application that is about to end takes its
// readiness away, keeps its sessions and WebSockets, and gets no new ones. One probe is enough for
// that, and one for the way back. A drain under way goes on meanwhile, and making the target
// ready does not lift what the target asked for itself.
//
// # Changing targets
//
// [Registry.Replace] takes the list of targets that discovery reports, as often as it likes: what
// is new is added, what is missing is drained and then removed, and the rest is configured anew in
// place. Whoever calls [balancer.Pool.Update] instead removes targets at once. What is in flight at
// a removed target goes on, follows its administrative state and is shown until it has ended:
// [Registry.Drain] moves and cuts it as before.
//
// What happens when too few targets are left is the pool's to decide: see Panic and PanicThreshold
// in [balancer.Config]. So is how gently a target comes back: see SlowStart there.
//
// # Checks
//
// A [Check] asks a target over a connection of its own: [HTTP] for a page, over HTTP/1.1 or HTTP/2
// as requests to the target do; [WebSocket] for a handshake; [GRPC] for what gRPC's health service
// says; [Conversation] for words of any other protocol, such as Redis, SMTP and MySQL; [TLS] for a
// certificate; and [TCP], the default, for a connection. [Func] is everything else. They reach a
// target by its Addr, ServerName and Certificate where it has them.
//
// # Zero and negative values
//
// A zero field has the default that its documentation names. A negative value turns off what can be
// turned off: probes ([Registry].Interval), jitter, a rule of [Passive], the grace or the limit of
// a [Drain]. All other negative values are refused.
//
// # Security
//
// What a check reads from a target is bounded, what a [Conversation] sends is in no error or log,
// and the texts that come from targets are escaped on the page. A [Page] refuses cross-site POST
// requests, but it asks nobody who they are: serve it where only operators come, or behind a
// handler that asks, and tell it by Page.Who whom that has let in.
package health
