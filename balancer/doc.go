// Package balancer picks a target for a request and counts the load of each target.
//
//	targets, err := balancer.ParseTargets("app-1=http://10.0.0.1:80", "app-2=http://10.0.0.2:80")
//	...
//	pool, err := balancer.New(balancer.Config{Targets: targets})
//	...
//	lease, err := pool.Acquire(ctx, &balancer.Request{})
//	...
//	defer lease.Release(balancer.Outcome{})
//	address := lease.Member().Target().URL
//
// Most callers make a [Pool] and give it to a Proxy of package wsproxy, to a Server of package
// stream and to a Registry of package health, which do the rest. The default [Picker] takes the
// member with the least load. For a client that shall keep its target without a cookie, choose
// [SourceAddress]; for a key of the application's, [Rendezvous] or [Maglev].
//
// It opens no sockets, checks no health, knows no cookies and starts no goroutines. The server, the
// transport and their lifetimes stay yours. [Pool.Acquire] chooses a target for a new session.
// [Pool.AcquireBound] asks for the target that a session is bound to. Both return a [Lease], which
// counts as load until it is released. Health checks report with [Member.SetHealth] and
// [Member.Eject], operators with [Member.SetAdmin].
//
// # Where a target is
//
// A target's URL gives its protocol, the prefix of its requests' paths and, as a rule, its address.
// [Target.Addr] and [Target.ServerName] are for targets with another address: a pod, for example,
// or a Unix socket, with a certificate for the name in the URL. Code that connects to a target
// dials [Target.Endpoint] and, for TLS, uses [Target.TLSConfig]. URL, Addr and ServerName together
// are the endpoint. The pool compares and keeps endpoints in one spelling: an update that differs
// only by a slash at the end, a default port or capitals keeps the member.
//
// # Who serves
//
// Three states of a member are independent of each other: its health, what the operator wants of
// it, and whether it is ejected. A member takes new sessions if it is ready, neither unhealthy nor
// reserved, and not ejected, and if its weight is not negative. These members form four tiers:
// healthy, unknown, healthy backups, unknown backups. New sessions go to the first tier that is not
// empty. A request that excludes all members of a tier goes to the next one.
//
// A full member is still in service. If all members of the tier are full, the request waits in the
// queue or fails with [ErrFull]. It does not go to the next tier. With Config.OneZone it does go to
// other zones.
//
// Config.Panic says what happens when few members are left.
//
// Bound sessions are served by members that are ready or draining, not unhealthy and not ejected,
// whatever their tier, weight and zone. Reserved members serve bound sessions only. The choice of a
// hash picker is not a binding. A place that comes free on a full target goes to a session that is
// bound to it before it goes to a new one.
//
// # Shares
//
// When targets are added, the members that were there before keep all of their bound sessions.
// [Member.SetShare] makes a member keep only a part of them. A session that the member does not
// keep moves once, with its next request. A rule decides which sessions move, not chance:
//
//   - A session that was bound in a later second than the share was set stays. The time is that of
//     the instance that bound it: if its clock is behind, a new session may move once.
//   - A session that was bound earlier, or at an unknown time, stays if the hash of Request.Session
//     and the member's ID, as a fraction of 2^64, is below the share. The hash has no secret and no
//     state: all instances agree, also after a restart, and a smaller share moves the same sessions
//     and more. A session that nothing identifies (Request.Session is zero) stays.
//   - For any other session AcquireBound returns [ErrShare]. Acquire then chooses among the members
//     that keep all of their sessions and are past their slow start. Members that serve only
//     because of a panic are left out. The new member keeps all of its sessions, so no session
//     moves back and forth, even if clocks differ. If no such member has room, the session stays
//     for now.
//
// If the policy does not bind a moved session anew, the session comes back to the old member and
// moves again with each request. Hash pickers bind no sessions: use weights there. The table shows
// where 10,000 sessions settle. A target whose sessions are in brackets was just added:
//
//	before                    shares              after
//	3333 3333 3334    (0)     0.75 0.75 0.75 1    2500 2500 2500 2500
//	3333 3333 3334    (0)     0.9  0.9  0.9  1    3000 3000 3000 1000
//	3333 3333 3334    (0)     1    1    0    1    4444 4444    0 1111
//	5000 5000    (0)  (0)     0.5  0.5  1    1    2500 2500 2500 2500
//	7000 1000 1000 1000       0.36 1    1    1    2520 2493 2493 2493
//
// The numbers are means; hashing stays within 150 of them. The picker spreads the sessions that
// move, here round robin.
//
// # Pickers
//
//   - [LeastConnections], the default: the fewest outstanding for the weight, exactly
//   - [RoundRobin]: in turn, smoothly by weight
//   - [Random]: at random, by weight
//   - [TwoChoices]: the less busy of two at random
//   - [LatencyTwoChoices]: of two at random, the one that is expected to answer sooner; failures
//     count as slow
//   - [Rendezvous] and [Maglev]: by key, with few keys moving when the set changes; loads
//     can be bounded
//   - [SourceAddress]: by the client's network
//   - [First]: the first that has room
//   - [Split]: some requests to some of the members, such as 5% to those with the label of a
//     canary; another picker chooses on each side
//
// All except First take weights into account. All except First and the three that hash take slow
// starts into account. A picker of your own implements [Picker], and also [Indexer] if it keeps
// tables or delegates to another picker. Package balancertest checks it against the contract.
//
// # Weights and load
//
// As long as each request ends before the next one comes, every picker that takes weights into
// account gives each target its share of the requests. LeastConnections and RoundRobin do so in
// exact turns, the others by chance or by hash. With many requests outstanding, LeastConnections,
// TwoChoices and LatencyTwoChoices keep the outstanding requests of the targets in proportion to
// the weights. If all targets take equally long, that is also the share of the requests; a target
// that takes twice as long gets half as many.
//
// Between these two cases, fewer requests are outstanding than the sum of the weights. A light
// target then gets more than its share from LeastConnections and TwoChoices: an idle target always
// has less to do for its weight than one with a request. Four requests at a time on targets of
// weight 1 and 19 leave one on the light target most of the time. From LatencyTwoChoices no target
// gets more than twice its share, and RoundRobin, Random and the hash pickers do not look at loads.
//
// # Cost
//
// The table shows nanoseconds for an acquire and its release: first one after the other, then on
// both cores at once, for three numbers of targets. They were measured on a virtual machine with
// two cores of an Intel Xeon at 2.6 GHz, Linux, Go 1.26.8. "scan" looks at every target, as least
// connections is usually written. It is slower from six targets on.
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
// Nothing allocates. A hundred thousand targets do not fit into the processor's caches, so each
// access takes longer. Pickers that go through the targets in order are affected less.
//
// # Changes
//
// The goroutine that changes a state or the set does the work: it builds a new [Snapshot], lets the
// picker prepare for it (see [Indexer]) and publishes it. No pick waits for that. Until then picks
// go on with the last snapshot, and skip the members that have been taken out of service since.
// When no member of it is left, they use a newer snapshot without an index.
//
// When a call that changes something returns, every pick that begins later knows of the change. One
// goroutine builds at a time. The others wait for its snapshot, and one of them builds the next one
// for all. If that takes longer than 100 ms, they wait no longer. Even then a member that has been
// taken out of service, or out of the set, is not picked any more. A new member is picked once the
// snapshot is published.
//
// A snapshot takes 1 us for ten targets and 10 ms for a hundred thousand. Where the targets or
// their weights change, Maglev and SourceAddress also fill a table; a change of state or of
// anything else leaves it as it is. After 64 changes of state in a row without a pick, further ones
// build nothing, and the next pick builds one snapshot for all of them.
//
// # Zero and negative values
//
// A zero field of [Config] or [Target] has the default that its documentation names. A negative one
// is refused, except for the Weight of a target that takes no new sessions.
//
// # Security
//
// Pickers that hash read what clients choose if Request.Key comes from them. The hash has
// no secret, so that instances agree: a client that can choose its key can choose its
// target. Hashing takes time in proportion to the key's length; nothing else that a client
// sends makes a pick slower. How many requests wait is bounded by Config.Queue.
package balancer
