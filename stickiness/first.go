package stickiness

import (
	"net/http"
	"slices"
)

// First composes policies, the most telling one first. Lookup asks all of them in turn,
// so that the first usable candidate is that of the first policy which has one; the others
// follow in case its target cannot serve. Bind binds with each of them, as if it were the
// only one: whichever policy a request was routed by, what all that can write have written
// afterwards is the target that answered. Forward does what each of them would.
//
// Policies that write cookies must have different names for them. Nil policies and nil pointers
// are left out. Without any, First binds nobody.
func First(policies ...Policy) Policy {
	return &first{slices.DeleteFunc(slices.Clone(policies), isNil[Policy])}
}

type first struct{ policies []Policy }

// owned is the State of a candidate while it is outside its policy.
type owned struct {
	policy int
	state  any
}

func (f *first) Lookup(r *http.Request, found []Candidate) []Candidate {
	for i, p := range f.policies {
		n := len(found)
		found = p.Lookup(r, found)
		for j := n; j < len(found); j++ {
			found[j].State = owned{i, found[j].State}
		}
	}
	return found
}

// Bind reports what the first policy did that bound, renewed or freed the client, else the
// last reason for which one did not.
func (f *first) Bind(b *Binding) {
	b.Result = Kept
	parts := f.split(b.Seen)
	own := *b
	for i, p := range f.policies {
		own.Seen, own.Result, own.Notices = parts[i], Kept, 0
		own.From = fromOf(own.Seen, b.Target)
		p.Bind(&own)
		b.Notices |= own.Notices
		switch b.Result {
		case Kept, Ignored, Failed:
			if own.Result != Kept {
				b.Result = own.Result
			}
		}
	}
}

// fromOf returns what [Binding] calls From, for a policy's own candidates.
func fromOf(seen []Candidate, answered string) *Candidate {
	var from *Candidate
	for i := range seen {
		c := &seen[i]
		switch {
		case c.Reason != Usable:
		case c.Target == answered:
			return c
		case from == nil:
			from = c
		}
	}
	return from
}

func (f *first) Inform(h http.Header) {
	for _, p := range f.policies {
		if informer, ok := p.(Informer); ok {
			informer.Inform(h)
		}
	}
}

func (f *first) Forward(out *http.Request, seen []Candidate) {
	var parts [][]Candidate
	for i, p := range f.policies {
		forwarder, ok := p.(Forwarder)
		if !ok {
			continue
		}
		if parts == nil {
			parts = f.split(seen)
		}
		forwarder.Forward(out, parts[i])
	}
}

// split returns each policy's own candidates, with the state that it gave them.
func (f *first) split(seen []Candidate) [][]Candidate {
	parts := make([][]Candidate, len(f.policies))
	for _, c := range seen {
		if o, ok := c.State.(owned); ok {
			c.State = o.state
			parts[o.policy] = append(parts[o.policy], c)
		}
	}
	return parts
}

// ReadOnly returns a policy that routes as p does and binds nobody. It serves to move from
// one policy to another without losing a session: with
//
//	First(to, ReadOnly(from))
//
// a client that only from has bound stays where it is, and its next response binds it with
// to as well. What from would remove from a request is still removed. For a change of the
// value's format alone, see the Former codecs of [LBCookieOptions] and [AppCookieOptions]. With
// nil or a nil pointer it routes nobody either. To begin and end the move without a restart, see
// [Switch].
func ReadOnly(p Policy) Policy {
	if isNil(p) {
		return First()
	}
	return readOnly{p}
}

type readOnly struct{ policy Policy }

func (p readOnly) Lookup(r *http.Request, found []Candidate) []Candidate {
	return p.policy.Lookup(r, found)
}

func (readOnly) Bind(b *Binding) { b.Result = Kept }

func (p readOnly) Forward(out *http.Request, seen []Candidate) {
	if f, ok := p.policy.(Forwarder); ok {
		f.Forward(out, seen)
	}
}
