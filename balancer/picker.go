package balancer

// A Picker chooses among the members of s, which take new sessions. Pick is called
// concurrently, with no lock held. It must not block or allocate, keeps neither q nor s,
// looks at each member a bounded number of times, and returns a member of s that q does not
// skip, or nil if there is none. Member.Load and Request.Skip may change while it looks.
//
// A Picker belongs to one [Pool].
type Picker interface {
	Pick(q *Request, s *Snapshot) *Member
}

// An Indexer is a [Picker] with tables or an index of its own.
//
// Rebuild is called before s is published, s.Local included; calls come one at a time, and
// must not call the pool. Pick may still be called with another snapshot, one that is being
// replaced or one of a lower tier, and has to do without the index then.
//
// Loaded is called after every acquire and release, of bound sessions too, with the
// member's load at that moment; calls are concurrent, may arrive out of order, and may
// name a member that is not in the snapshot.
type Indexer interface {
	Picker
	Rebuild(s *Snapshot)
	Loaded(m *Member, load int64)
}
