package balancer

// A Picker chooses among the members of s, which take new sessions. Pick returns a member of s that
// q does not skip, or nil if there is none. It is called concurrently, with no lock held. It must
// not block or allocate, must not keep q or s, and must look at each member a bounded number of
// times. Member.Load and Request.Skip may change while it looks: while the next snapshot is being
// built, Skip also reports the members that have been taken out of service since s was made.
//
// A Picker belongs to one [Pool].
type Picker interface {
	Pick(q *Request, s *Snapshot) *Member
}

// An Indexer is a [Picker] with tables or an index of its own.
//
// Rebuild prepares the picker for s and s.Local before the pool publishes s. [New] calls it, and
// after that each change of the set of targets or of a state, on the goroutine of the change. At
// the end of an ejection and in a slow start that is the pool's timer. The calls of one pool come
// one at a time. No lock is held: Rebuild may take its time, and may call the pool. Changes that
// are made meanwhile are collected in one more call. After many changes in a row without a pick,
// the next pick calls Rebuild; "Changes" in the package documentation says when.
//
// Picks go on while Rebuild runs. They use the snapshot that is still published. So the picker must
// keep its tables for that snapshot, without a lock, until a pick comes with s. A few picks may
// come with a snapshot that was never rebuilt: one that is being replaced, one of a lower tier, or
// one that was made because the published one has no member left. For those the picker has to do
// without its index.
//
// If Rebuild panics, the pool logs the panic with its stack (see Config.Logger) and publishes s.
//
// Loaded is called after every acquire and release, also of bound sessions, with the member's load
// at that moment. It must not block. Calls are concurrent, also with Rebuild. They may arrive out
// of order, and may name a member that is not in the snapshot.
//
// A picker that delegates to other pickers must be an Indexer as well:
//
//   - Its Rebuild calls the Rebuild of each of them that is an Indexer, with the snapshot that its
//     Pick will give them: s, or a part of s that [Snapshot.Where] returns.
//   - Its Loaded calls the Loaded of each of them, with all members.
//   - Its Pick gives them q as it is, and the Local of that snapshot when it comes with s.Local.
//
// [Split] is such a picker. balancertest.TestWrapper checks others.
type Indexer interface {
	Picker
	Rebuild(s *Snapshot)
	Loaded(m *Member, load int64)
}
