// Package balancer picks a target for a request and keeps count of what each target has to
// do: a [Pool] of targets with their load, limits and state, and the pickers that choose.
//
// It opens no sockets, checks no health and knows no cookies, and it starts no goroutines:
// the server, the transport and their lifetimes stay yours. [Pool.Acquire] chooses for a
// new session and [Pool.AcquireBound] asks for the target that a session is bound to. Both
// give a [Lease], which counts as load until it is released. Health checks report with
// [Member.SetHealth] and [Member.Eject], operators with [Member.SetAdmin].
//
// # Where a target is
//
// A target's URL says which protocol it speaks and what the path of its requests begins with, and
// as a rule where it listens. [Target.Addr] and [Target.ServerName] are for targets that listen
// elsewhere: a pod's address or a Unix socket behind the name that its certificate has. Whoever
// connects dials [Target.Endpoint] and, for TLS, uses [Target.TLSConfig]. URL, Addr and ServerName
// make the endpoint. It is compared and kept in one spelling: a slash at the end, a default port or
// capitals in an update make no other member.
//
// # Who serves
//
// A member's health, what the operator wants of it and whether it is ejected are
// independent of each other. New sessions go to members that are ready, neither unhealthy nor
// reserved, not ejected and of a weight that is not negative, and among these to the first tier
// that has any: healthy, unknown, healthy backups, unknown backups. A request that excludes all
// of a tier gets one of the next. A full member is still in service: requests for which
// all of the tier are full wait in the queue or fail with [ErrFull], and do not spill into
// the next tier. With Config.OneZone they do spill into other zones.
//
// Config.Panic says what happens when few are left.
//
// Bound sessions are served by members that are ready or draining, not unhealthy and not
// ejected, whatever their tier, weight and zone: reserved ones serve them and nobody else. That a
// hash picker would send a key to a member is no binding. Where a target is full they go first: a place
// that comes free there is theirs before any new session's.
//
// # Shares
//
// After a scale-out the members that were there before keep all of their sessions.
// [Member.SetShare] has a member keep a part of them. A session moves with its next request, once,
// and by a rule, not by chance:
//
//   - What was bound in a later second than the share was set stays. The clock that counts is
//     that of the instance which bound it: where it is behind, a session that is new may move
//     once.
//   - Of what was bound before, or at a time that is not known, those stay of which the hash of
//     Request.Session and of the member's ID, as a fraction of 2^64, is below the share. The hash
//     has no secret and no state: all instances say the same, after a restart, too, and a smaller
//     share moves the same ones and more. Where nothing tells a session from others it stays.
//   - The others get [ErrShare], and then one of the members that keep all of their sessions and
//     are past their slow start. So nothing goes to and fro, whatever the clocks say: who has
//     moved is where all stay. If no such member has room, the session stays for now.
//
// A session that nobody binds anew comes back to the member and moves again with each request.
// Hash pickers bind nobody: there, weights do this. Where 10,000 sessions settle:
//
//	before                    shares              after
//	3333 3333 3334    (0)     0.75 0.75 0.75 1    2500 2500 2500 2500
//	3333 3333 3334    (0)     0.9  0.9  0.9  1    3000 3000 3000 1000
//	3333 3333 3334    (0)     1    1    0    1    4444 4444    0 1111
//	5000 5000    (0)  (0)     0.5  0.5  1    1    2500 2500 2500 2500
//	7000 1000 1000 1000       0.36 1    1    1    2520 2493 2493 2493
//
// These are the means; hashing is within 150 of them. Those that move are spread by the picker,
// here in turn.
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
// Nanoseconds for an acquire and its release, one after the other and on both cores at
// once, by the number of targets. Measured on a virtual machine with two cores of an Intel
// Xeon at 2.6 GHz, Linux, Go 1.26.8. "scan" looks at every target, which is how least
// connections is usually written; it is slower from six targets on.
//
//	targets                   10       1,000          100,000
//	scan               110 / 130  9,500 / 5,000  950k / 500k
//	LeastConnections    75 / 105     75 / 100      80 / 115
//	RoundRobin          32 / 120     32 / 120      35 / 125
//	Random              31 / 40      31 / 35       65 / 50
//	TwoChoices          43 / 55      43 / 50      105 / 60
//	LatencyTwoChoices  115 / 100    115 / 80      230 / 105
//	Rendezvous         115 / 140  3,500 / 1,900  430k / 220k
//	Maglev              53 / 55      57 / 56      390 / 175
//	Maglev, bounded     90 / 250     93 / 270     480 / 410
//	SourceAddress       57 / 55      65 / 63      400 / 300
//	First               25 / 26      25 / 26       25 / 26
//	AcquireBound        30 / 40      57 / 40      280 / 200
//
// Nothing allocates. What rises with a hundred thousand targets is the time that memory
// takes which no cache holds: pickers that go through the targets in turn are spared it.
// A change of a state or of the set costs the next pick a new snapshot, 1 us for ten
// targets and 10 ms for a hundred thousand, however many changes came together.
//
// # Security
//
// Pickers that hash read what clients choose if Request.Key comes from them. The hash has
// no secret, so that instances agree: a client that can choose its key can choose its
// target. Hashing takes time in proportion to the key's length; nothing else that a client
// sends makes a pick slower. How many requests wait is bounded by Config.Queue.
package balancer
