package stickiness

import (
	"context"
	"time"
)

// A Store remembers which target a session is bound to, for [Learn]. Balancers that share a store
// share its sessions.
//
// Both methods are called concurrently and return soon after ctx has ended. A session is kept for
// at least ttl after the last call that named it; ttl is positive. A full store may forget
// sessions, preferably those that would end first. Keys are short and printable, and do not reveal
// the session's ID.
//
// [github.com/stickylb/stickylb/stickiness/stickinesstest.TestStore] checks that an implementation
// keeps this contract.
type Store interface {
	// Get returns the target of the session. The session then ends ttl from now, or at its previous
	// end if that is later. If there is no such session, ok is false and err is nil.
	Get(ctx context.Context, key string, ttl time.Duration) (target string, ok bool, err error)

	// Put binds the session to the target for ttl from now. It replaces an earlier binding and its
	// end.
	Put(ctx context.Context, key, target string, ttl time.Duration) error
}
