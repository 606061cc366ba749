package main

import (
	"net/http"

	"github.com/stickylb/stickylb/stickiness"
)

// withoutSessions is the first revision of the protocol that has none. Revisions are dates.
const withoutSessions = "2026-07-28"

// sessions is a policy for requests of the revisions that have sessions. It binds no others, even
// if they carry the ID of a session.
type sessions struct{ stickiness.Policy }

// Lookup implements [stickiness.Policy].
func (s sessions) Lookup(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	if sessionless(r) {
		return found
	}
	return s.Policy.Lookup(r, found)
}

// Bind implements [stickiness.Policy]. It learns no session from an error: a server that repeats
// the request's ID in its 404 would let clients fill the store with invented ones, and move
// sessions.
func (s sessions) Bind(b *stickiness.Binding) {
	if b.Status >= http.StatusMultipleChoices || sessionless(b.Request) {
		b.Result = stickiness.Kept
		return
	}
	s.Policy.Bind(b)
}

// sessionless reports whether a request is of a revision without sessions. Older clients name no
// revision in their first request.
func sessionless(r *http.Request) bool {
	return r.Header.Get("Mcp-Protocol-Version") >= withoutSessions
}
