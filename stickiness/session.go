package stickiness

import (
	"math/rand/v2"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// newSession returns the session number for a new ticket: that of the binding if it has one, else a
// random one.
func newSession(b *Binding) uint32 {
	if b.From != nil && uint32(b.From.Session) != 0 {
		return uint32(b.From.Session)
	}
	return rand.Uint32() | 1
}

// sessionOf returns the session number of a ticket in the type of [Candidate].
func sessionOf(t *cookie.Ticket) uint64 { return uint64(t.Session) }

// hashOf returns the FNV-1a hash of a session's ID, which is the same on all instances. It returns
// zero only for the empty ID.
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

// newest returns the issue time for a binding to another target. It is now or, if a usable
// candidate of the request is not older than now, one second after the newest one. So the new
// binding wins over all of them.
func newest(b *Binding, now time.Time) time.Time {
	t := now.Truncate(time.Second)
	for i := range b.Seen {
		if s := &b.Seen[i]; s.Reason == Usable && !s.Issued.Before(t) {
			t = s.Issued.Add(time.Second)
		}
	}
	return t
}
