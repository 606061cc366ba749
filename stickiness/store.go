package stickiness

import (
	"context"
	"strconv"
	"time"
)

// A Store remembers which target a session is bound to, for [Learn]. Balancers that share a store
// share its sessions.
//
// Both methods are called concurrently and return soon after ctx has ended. A session is kept for
// at least nine tenths of ttl after the last call of Get or Put that named it: a store may extend a
// session only after a tenth of ttl has passed. ttl is positive. A full store may forget sessions,
// preferably those that would end first. Keys are short and printable, and do not reveal the
// session's ID.
//
// A Store may also be a [Claimer] or a [Finder].
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

// A Claimer is a [Store] that can bind a session if it is not bound yet. With a Claimer, balancers
// that adopt the same session at the same time ([LearnOptions].Adopt) bind it to one target.
type Claimer interface {
	// Claim binds the session to the target for ttl from now, unless it is bound already. It
	// returns the target that the session is then bound to. An earlier binding and its end are not
	// changed. Like Put, Claim is called concurrently, and returns soon after ctx has ended.
	Claim(ctx context.Context, key, target string, ttl time.Duration) (winner string, err error)
}

// A Finder is a [Store] that also says where an answer comes from. [Learn] calls Find instead of
// Get.
type Finder interface {
	// Find does what Get does, and also returns the origin of the target. If there is no such
	// session, ok is false and err is nil. If a shared store cannot be asked, Find may return the
	// last target that it knows for the session, with the origin [Remembered] and a nil error.
	Find(ctx context.Context, key string, ttl time.Duration) (target string, from Origin, ok bool, err error)
}

// An Origin says where the target of a session comes from, see [Finder].
type Origin uint8

const (
	// Asked means that the store was asked for this request. It is the zero value.
	Asked Origin = iota
	// Copied means that a local copy answered, which the store keeps up to date.
	Copied
	// Remembered means that the store could not be asked, and that the target is the last known
	// one. Another balancer may have moved the session since.
	Remembered
)

var origins = [...]string{"asked", "copied", "remembered"}

// String returns the name of the origin in lower case.
func (o Origin) String() string {
	if int(o) < len(origins) {
		return origins[o]
	}
	return "origin " + strconv.Itoa(int(o))
}
