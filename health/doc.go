// Package health decides which targets of a balancer.Pool can serve, and takes targets out of
// service without cutting connections off.
//
//	registry := &health.Registry{Pool: pool, Check: health.HTTP{Path: "/healthz"}}
//	go registry.Run(ctx)
//
//	page := &health.Page{Registries: []*health.Registry{registry}}
//	go http.ListenAndServe("localhost:8081", page.Handler())
//
//	err := registry.Drain(ctx, "app-1", health.Drain{Grace: 5 * time.Minute})
//
// Most callers want a [Registry] with an [HTTP] check, and the default of all other fields. They
// wait for [Registry.Ready] before they serve, and call [Registry.Replace] when their list of
// targets changes.
//
// A [Registry] probes the targets with a [Check], ejects targets at which live requests fail (see
// [Passive]), drains targets, and tells subscribers what changed. A [Page] shows the registries of
// all pools of a process with their traffic. The package picks no target and sees no cookie and no
// request. It sets the states that the pool acts on.
//
// # States
//
// A target has three states that are independent of each other: health, administrative state and
// ejection. Its health is unknown until the first probe, then healthy, reserved or unhealthy.
//
// A reserved target answers, but asks for bound sessions only, by a status in
// [HTTP].ReservedStatuses or by [ErrReserved]. An application that is about to end reports that it
// is not ready. It keeps its sessions and WebSockets, and gets no new ones. One probe makes a
// target reserved, and one makes it healthy again. A drain under way continues. Making the target
// ready on the page does not change that it is reserved.
//
// # Changing targets
//
// [Registry.Replace] takes the list of targets that discovery reports, as often as it changes. New
// targets are added. Missing targets are drained and then removed. The others keep their load and
// state, and get their new configuration.
//
// [balancer.Pool.Update] removes targets at once instead. Requests and tunnels at a removed target
// continue and follow its administrative state. The status shows the target until they have ended,
// and [Registry.Drain] can still drain it.
//
// The pool decides what happens when too few targets are left: see Panic and PanicThreshold in
// [balancer.Config]. SlowStart there says how gently a target comes back.
//
// # Checks
//
// A [Check] opens a connection of its own to the target's Addr, with the target's ServerName and
// Certificate where they are set:
//
//   - [HTTP] requests a page, over HTTP/1.1 or HTTP/2, as the proxy's requests do.
//   - [WebSocket] does a WebSocket handshake.
//   - [GRPC] calls gRPC's health service.
//   - [Conversation] sends and expects octets of any other protocol: Redis, SMTP or MySQL.
//   - [TLS] does a TLS handshake and verifies the certificate.
//   - [TCP], the default, opens a connection.
//   - [Func] is a check of your own.
//
// # Zero and negative values
//
// A zero field has the default that its documentation names. A negative value disables what can be
// disabled: probes ([Registry].Interval), jitter, a rule of [Passive], the grace or the limit of a
// [Drain]. Run refuses all other negative values.
//
// # Security
//
// Checks read a bounded number of octets from a target. What a [Conversation] sends is in no error
// and no log. Texts from targets are bounded, and escaped on the page.
//
// A [Page] refuses cross-site POST requests, but it does not authenticate anybody. Serve it where
// only operators come, or behind a handler that authenticates, and let [Page].Who return the name
// that this handler has found.
package health
