// Package health decides which targets of a [balancer.Pool] can serve, and takes targets out
// of service without cutting anybody off. A [Registry] probes the targets on a clock of its
// own, learns from the outcomes of live requests, drains targets in three steps, tells
// subscribers what changed and shows it all on a page.
//
// It picks no target and sees no cookie, request or tunnel: it only sets the states that the
// pool acts on. Health, administrative state and ejection are independent of each other. What
// happens when too few targets are left is the pool's to decide: see Panic and PanicThreshold
// in [balancer.Config]. So is how gently a target comes back: see SlowStart there.
//
// # Security
//
// What a check reads from a target is bounded, and the texts that come from targets are
// escaped on the page. [Registry.Handler] refuses cross-site POST requests, but it asks nobody
// who they are: serve it where only operators come, or behind a handler that asks.
package health
