package balancer

// A Picker chooses among the members of s, which take new sessions. Pick is called
// concurrently, with no lock held. It must not block or allocate, keeps neither q nor s,
// looks at each member a bounded number of times, and returns a member of s that q does not
// skip, or nil if there is none. Member.Load and Request.Skip may change while it looks:
// while the next snapshot is being built, Skip also reports the members of s that have been
// taken out of service since s was made.
//
// A Picker belongs to one [Pool].
type Picker interface {
	Pick(q *Request, s *Snapshot) *Member
}

// An Indexer is a [Picker] with tables or an index of its own.
//
// Rebuild prepares the picker for s, s.Local included, before the pool publishes s. It is called
// when the set of targets or a state changes, on the goroutine of that change (the pool's timer's
// at the end of an ejection and in a slow start) and by [New]. The calls of one pool come one at a
// time. No lock is held: Rebuild may take its time, and may call the pool. Changes that are made
// meanwhile, by however many goroutines, come with one more call together. After many changes in
// a row without a pick, the next pick calls Rebuild for all of them; "Changes" in the package
// documentation says when.
//
// Picks go on while Rebuild runs. They come with the snapshot that is still published, so what
// belongs to that one must be kept and must not be locked until a pick comes with s. A few may
// come with a snapshot that was never rebuilt: one that is being replaced, one of a lower tier, or
// one that was made because nobody in the published one was left. The picker has to do without
// its index then.
//
// If Rebuild panics, the pool logs that with the stack, see Config.Logger, and publishes s all the
// same.
//
// Loaded is called after every acquire and release, of bound sessions too, with the
// member's load at that moment; calls are concurrent, also with Rebuild, may arrive out of order,
// and may name a member that is not in the snapshot. It must not block.
//
// A picker that delegates to others is an Indexer, too. With each Rebuild it calls the Rebuild of
// each of those that is one, with the snapshot that its own Pick gives to it: s, or a part of s
// that [Snapshot.Where] returns. It passes on all calls of Loaded. Its Pick gives Local of that
// snapshot to them when it comes with s.Local. It passes q on as it is. See [Split];
// balancertest.TestWrapper holds pickers to that.
type Indexer interface {
	Picker
	Rebuild(s *Snapshot)
	Loaded(m *Member, load int64)
}
