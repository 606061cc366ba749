// Package balancer picks a target for a request and keeps count of what each target has to
// do: a [Pool] of targets with their load, limits and state, and the pickers that choose.
//
// It opens no sockets, checks no health and knows no cookies, and it starts no goroutines:
// the server, the transport and their lifetimes stay yours. [Pool.Acquire] chooses for a
// new session and [Pool.AcquireBound] asks for the target that a session is bound to. Both
// give a [Lease], which counts as load until it is released. Health checks report with
// [Member.SetHealth] and [Member.Eject], operators with [Member.SetAdmin].
//
// # Who serves
//
// A member's health, what the operator wants of it and whether it is ejected are
// independent of each other. New sessions go to members that are ready, not unhealthy, not
// ejected and of a weight that is not negative, and among these to the first tier that
// has any: healthy, unknown, healthy backups, unknown backups. A request that excludes all
// of a tier gets one of the next. A full member is still in service: requests for which
// all of the tier are full wait in the queue or fail with [ErrFull], and do not spill into
// the next tier. With Config.OneZone they do spill into other zones.
//
// Bound sessions are served by members that are ready or draining, not unhealthy and not
// ejected, whatever their tier, weight and zone.
//
// # Pickers
//
//   - [LeastConnections], the default: the fewest outstanding for the weight, exactly
//   - [RoundRobin]: in turn, smoothly by weight
//   - [Random]: at random, by weight
//   - [TwoChoices]: the less busy of two at random
//   - [LatencyTwoChoices]: the one of two that will sooner be done, failures counted as slow
//   - [Rendezvous] and [Maglev]: by key, with few keys moving when the set changes; loads
//     can be bounded
//   - [SourceAddress]: by the client's network
//   - [First]: the first that has room
//
// All but First heed weights, and all but First and the three that hash heed slow starts.
// Own ones implement [Picker]; package balancertest holds them to the contract.
//
// # Cost
//
// Acquire and release in nanoseconds, by number of targets, on one core and on both of a
// 2-core Intel Xeon (Sapphire Rapids, 2.6 GHz, a virtual machine), Go 1.26.8. "scan" looks
// at every target, which is how least connections is usually written. Nothing allocates.
//
//	TABLE
//
// # Security
//
// Pickers that hash read what clients choose if Request.Key comes from them. The hash has
// no secret, so that instances agree: a client that can choose its key freely can choose
// its target. Nothing that a client sends makes a pick slower. Requests in the queue are
// bounded by Config.Queue.
package balancer
