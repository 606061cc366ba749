package stickiness

import (
	"math/rand/v2"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// newSession returns the number in the ticket of a client that is bound: the one that its
// binding has, else a random one.
func newSession(b *Binding) uint32 {
	if b.From != nil && uint32(b.From.Session) != 0 {
		return uint32(b.From.Session)
	}
	return rand.Uint32() | 1
}

// sessionOf returns the number in a ticket, as candidates have it.
func sessionOf(t *cookie.Ticket) uint64 { return uint64(t.Session) }

// hashOf returns the FNV-1a hash of a session's ID, which is the same on all instances. It is
// zero for the empty one.
func hashOf(id string) uint64 {
	if id == "" {
		return 0
	}
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return max(h, 1)
}

// newest returns the issue time of a binding to another target: the present, or a second after
// the newest of those that the request came with, so that it wins over them.
func newest(b *Binding, now time.Time) time.Time {
	t := now.Truncate(time.Second)
	for i := range b.Seen {
		if s := &b.Seen[i]; s.Reason == Usable && !s.Issued.Before(t) {
			t = s.Issued.Add(time.Second)
		}
	}
	return t
}
