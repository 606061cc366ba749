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
// A [Store] works with a single server, Sentinel or Cluster of Redis 7.0 or newer, or a compatible
// server such as Valkey. It uses a client that the caller makes, configures and closes. Policies
// with cookies need no store: balancers with the same keys already share their sessions.
//
// # What happens to a session
//
// While Redis answers, its answer is used. While it cannot be asked, the last known target is used:
//
//	call   Redis                         result
//	Find   has a copy here               the copy's target (Copied)
//	Find   has the session               its target (Asked)
//	Find   does not have it              no session; its last known target is forgotten
//	Find   has another kind of value     an error, and the value stays
//	Find   cannot be asked               the last known target (Remembered), else an error
//	Put    answers                       the session is bound, whatever it was bound to before
//	Put    refuses, or cannot be asked   an error; this store remembers the target
//	Claim  does not have the session     the session is bound
//	Claim  has the session               the target that it is bound to
//	Claim  refuses, or cannot be asked   an error; this store remembers the target
//
// Redis cannot be asked if it is slow, gone, loading its data or failing over, or if it refuses the
// command. A server that is full or read-only refuses writes and answers reads. If Redis did not
// store a session, the store claims the session again when Redis next answers that it does not have
// it. A session that Redis lost in an outage, by FLUSHALL or by a failover is bound again like a
// new one.
//
// All calls return when their context ends, or after a second if it has no deadline. Until then,
// the client repeats reads that fail. A read whose call has returned early may go on in the client
// until the client notices that the connection is dead (see Settings). At most 10,000 calls are
// under way at a time. Further calls fail.
//
// After 64 calls in a row without an answer, and no answer within the last second, only one call in
// 100 ms asks Redis. For all others Redis counts as one that cannot be asked, so that they do not
// wait for a timeout.
//
// # Copies
//
// The client keeps copies of sessions, so most requests of a busy session need no call to Redis.
// Redis tracks which sessions a client has copies of, and tells the client when they change. A copy
// ends after Options.Local at the latest. This limit matters only if Redis's message is lost: in
// the network, or when a slot of a Cluster moves. If the network between a balancer and Redis is
// cut silently, a copy is used until Local has passed, or until the client notices. The client then
// closes the connection and drops its copies.
//
// When another balancer moves a session, Redis's message and the response to the client are under
// way at the same time. If the client sends its next request to a second balancer at once, that
// balancer may use the previous target once. A store sees its own writes at once. There are no
// copies of the answer that a session does not exist.
//
// New writes keys and reads them back, to find out whether Redis reports changes. If not, it turns
// copies off and logs a warning. One cause is a user without +client|caching: reads then succeed,
// but copies do not change. Another one is a proxy or managed service that refuses tracking or
// RESP3. For such a server, set DisableCache in the client's options. Each request then asks Redis.
//
// # Expiry
//
// A session ends Learn's TTL after its last request, or up to a tenth of the TTL earlier. The
// reason is that not every request extends it in Redis, but the first one after a random time of
// between a twentieth and a tenth of the TTL since the last extension. The random times differ
// between balancers, and an extension by one balancer counts for all. The remaining time comes from
// Redis. The clocks of the machines are not compared.
//
// # Formats
//
// The formats are fixed. A key is Options.Prefix, "1:" and Learn's hash of the session's ID in 22
// characters, such as
//
//	stickylb:1:r4Qd2rS2i0y3o4bq3m0S0g
//
// The session's ID itself is never in Redis. A value is a string: "1:" and the ID of the target.
// All keys expire. Another format will have another number. New also writes keys that begin with
// Prefix and "probe:", which expire after ten seconds.
//
// # Permissions
//
// The balancers' user needs access to the keys ~stickylb:*, or those of another Prefix, and to
// these commands. It needs no channels:
//
//	+client|tracking +client|caching +get +set +pttl +pexpire
//
// For Cluster it also needs +cluster|slots, +cluster|shards and +asking, for Sentinel +role.
//
// # Settings
//
// These fields of rueidis.ClientOption matter:
//
//   - CacheSizeEachConn limits the memory of the copies for each connection to a primary. There are
//     up to four connections, or one to each primary of a Cluster. The default is 128 MiB. 8 MiB
//     holds copies of about 18,000 sessions. When it is full, the oldest copies are dropped. The
//     copies also take about half as much memory outside of this limit.
//   - ConnWriteTimeout is how long the client waits for an answer before it takes a connection for
//     dead. The default is 10 s. Set it to 1 s.
//   - Sentinel.TopologyRefreshInterval: set it to 5 s. Without it, a client that has missed the
//     message about a failover sends its writes to a replica, which refuses them, until it is
//     restarted.
//   - SendToReplicas must not send GET and PTTL to replicas, which do not know the latest sessions.
//   - NewClient returns an error while Redis cannot be reached. A program that must start without
//     Redis calls it again. For a single server the program can set ForceSingleClient instead: then
//     NewClient returns a client as well as the error.
//
// # Memory
//
// Besides the copies, a store remembers the last known target of a session and when to extend the
// session, for at most Options.Remember sessions. This takes 194 octets for each session. Sessions
// beyond that have no copies, and each of their requests also asks Redis for the remaining time.
//
// Measured with 1,000,000 sessions and targets with names of five octets, on Redis 7.0: a session
// takes 161 octets of used_memory (MEMORY USAGE says 104), and 296 while clients have copies of it.
// With CacheSizeEachConn of 8 MiB and two connections, a client had 36,800 copies in 23 MiB.
//
// With Redis on the same machine, a Find that is answered by a copy takes 1 us. A Find that asks
// Redis takes 1.04 times as long as a bare GET of the client, and one that also makes a copy 2.3
// times as long (BenchmarkStoreFind, medians). Each call in a Cluster takes a goroutine. So does
// each call while more than 64 are under way, or after a call had no answer.
//
// # Security
//
// Whoever can write the keys can send any session to any target of the pool. A value in another
// format is an error. Errors and logs contain no session IDs and no targets.
package redisstore
