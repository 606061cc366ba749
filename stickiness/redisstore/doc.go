// Package redisstore keeps learned sessions in Redis, so that several balancers share them and a
// restart does not lose them.
//
//	client, err := rueidis.NewClient(rueidis.ClientOption{
//		InitAddress:       []string{"redis-1:6379", "redis-2:6379", "redis-3:6379"},
//		CacheSizeEachConn: 8 << 20,
//		ConnWriteTimeout:  time.Second,
//	})
//	...
//	store, err := redisstore.New(client, redisstore.Options{})
//	...
//	policy, err := stickiness.NewLearn(stickiness.LearnOptions{
//		Store:  store,
//		Header: "Mcp-Session-Id",
//	})
//
// A [Store] works with a single server, Sentinel and Cluster, of Redis 7.0 or newer, or a server
// that speaks the same, such as Valkey. It does not connect to them: the client, its addresses, its
// TLS and its user are the caller's. The policies with cookies need no store: they are the same on
// all balancers that have the same keys.
//
// # What happens to a session
//
// While Redis answers, its word counts. While it cannot be asked, the last known target counts:
//
//	call   Redis                         result
//	Find   has a copy here               the copy's target (Copied)
//	Find   has the session               its target (Asked)
//	Find   does not have it              no session; its last known target is forgotten
//	Find   has something else there      an error, and the value stays
//	Find   cannot be asked               the last known target (Remembered), else an error
//	Put    answers                       the session is bound, whatever it was bound to before
//	Put    refuses, or cannot be asked   an error; this store remembers the target
//	Claim  does not have the session     the session is bound
//	Claim  has the session               the target that it is bound to
//	Claim  refuses, or cannot be asked   an error; this store remembers the target
//
// Redis cannot be asked if it is slow, gone, loading its data or failing over, or if it refuses the
// command. A server that is full or read-only refuses writes, and answers reads. If Redis did not
// store a session, the store claims it again when Redis answers that it has none. A session that
// Redis lost in an outage, by FLUSHALL or by a failover is bound again like a new one.
//
// All calls return when their context ends, or after a second if it has no deadline. The client
// repeats reads for that long. A read that a [stickiness.Learn] has cut may still be under way in
// the client, until that notices (see Settings). At most 10,000 calls are under way at a time.
//
// When 64 calls in a row had no answer, and none had one in the last second, only one call in
// 100 ms asks Redis. For the others it cannot be asked, so that requests do not wait in vain.
//
// # Copies
//
// Most requests of a busy session cost a look into a map: Redis tracks which sessions a client has
// copies of, and tells it when they change. A copy ends after Options.Local at the latest. So it
// matters only when such a message is lost: by a network that drops it, or when a slot of a Cluster
// moves. If the network between a balancer and Redis is cut silently, a copy answers until Local
// has passed, or until the client notices, which closes the connection and drops its copies.
//
// When another balancer moves a session, its message and the response to the client are under way
// at the same time. A client that asks a second balancer at once may be sent to the previous target
// once. A store sees what it has written itself at once. That a session does not exist is never
// copied.
//
// New writes keys and reads them back, to see that Redis reports changes. It turns copies off and
// warns if not: without +client|caching, reads succeed and copies stay as they are, and a proxy or
// managed service may refuse tracking, or RESP3. The client of a server that refuses needs
// DisableCache. Then each request asks Redis.
//
// # Expiry
//
// A session ends Learn's TTL after its last request, or a tenth of the TTL earlier: between a
// twentieth and a tenth of the TTL after the last extension, the next request extends it. The times
// differ between balancers, and one extension counts for all. The remaining time is always that of
// Redis. Clocks are not compared.
//
// # Formats
//
// The formats are fixed. A key is Options.Prefix, "1:" and Learn's hash of the session's ID in 22
// characters, such as
//
//	stickylb:1:r4Qd2rS2i0y3o4bq3m0S0g
//
// The ID itself is never in Redis. A value is a string: "1:" and the ID of the target. Both have an
// end. Other formats will have other numbers. Keys that begin with Prefix and "probe:" are written
// by New and end after ten seconds.
//
// # Permissions
//
// The balancers' user needs these on one server, and on every server the keys ~stickylb:*, or those
// of another Prefix. It needs no channels:
//
//	+client|tracking +client|caching +get +set +pttl +pexpire
//
// For Cluster it also needs +cluster|slots, +cluster|shards and +asking, for Sentinel +role.
//
// # Settings
//
// These fields of rueidis.ClientOption matter:
//
//   - CacheSizeEachConn limits the memory of the copies: 128 MiB by default, for each connection to
//     each primary, of which there are up to four (one in a Cluster). 8 MiB is enough for many
//     sessions: when it is full, the oldest copies go. The heap grows by half as much again.
//   - ConnWriteTimeout is how long the client waits for an answer to notice a dead connection: 10 s
//     by default. Set it to 1 s.
//   - Sentinel.TopologyRefreshInterval: set it to 5 s. Without it, a client that has missed the
//     message about a failover writes to a replica, in vain, until it is restarted.
//   - SendToReplicas must not send GET and PTTL to replicas, which do not know the latest sessions.
//   - NewClient fails while Redis is away, so a program that has to start without Redis tries
//     again. For a single server it can set ForceSingleClient: then NewClient returns a client as
//     well as the error.
//
// # Memory
//
// Besides the copies, a store remembers when to extend a session and its last known target, for at
// most Options.Remember sessions: 194 octets each. Other sessions have no copies, and each request
// asks Redis for their end, too.
//
// Measured with 1,000,000 sessions and targets with names of five octets, on Redis 7.0: a session
// takes 161 octets of used_memory (MEMORY USAGE says 104), and 296 while clients have copies of it.
// With CacheSizeEachConn of 8 MiB and two connections, a client had 36,800 copies in 23 MiB.
//
// On one machine, a look into a copy takes 0.8 us, a Find that asks 1.02 times as long as a bare
// GET of the client, and one that leaves a copy 1.7 times. Each call in a Cluster takes a
// goroutine, and so do calls while more than 64 are under way, or after one had no answer.
//
// # Security
//
// Whoever can write the keys can send any session to any target. A value that no store has written
// is an error, whatever it is. Errors and logs have no session IDs and no targets.
package redisstore
