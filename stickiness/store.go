package stickiness

import (
	"context"
	"time"
)

// A Store remembers which target a session is bound to, for [Learn]. Sessions that share a
// store between balancers are found by all of them.
//
// Both methods are called concurrently, return soon after ctx has ended, and keep a session
// for ttl from the last call that named it; ttl is positive. A store that is full may
// forget sessions, best those that would have ended first. Keys are short, printable, and
// do not let the session's ID be known.
//
// [github.com/stickylb/stickylb/stickiness/stickinesstest.TestStore] holds any
// implementation to this contract.
type Store interface {
	// Get returns the target of the session, and lets it last for ttl from now, or for as
	// long as it would have if that is longer. ok is false if there is no such session; that
	// is no error.
	Get(ctx context.Context, key string, ttl time.Duration) (target string, ok bool, err error)

	// Put binds the session to the target for ttl from now, whatever it was bound to.
	Put(ctx context.Context, key, target string, ttl time.Duration) error
}
