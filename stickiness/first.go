package stickiness

import (
	"net/http"
	"slices"
)

// First returns a policy that composes others, in the order of their precedence. Lookup asks all of
// them in turn. So the first usable candidate is that of the first policy that has one; the others
// follow in case its target cannot serve. Bind lets each policy bind as if it were the only one.
// Afterwards all bindings that the policies can write name the target that answered, whichever
// policy routed the request. Forward and Inform call those of all policies.
//
// Policies that write cookies must use different names. Nil policies and nil pointers are left out.
// Without policies, First binds nobody.
func First(policies ...Policy) Policy {
	return &first{slices.DeleteFunc(slices.Clone(policies), isNil[Policy])}
}

type first struct{ policies []Policy }

// owned wraps the State of a candidate outside of its policy.
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

// Bind sets the result of the first policy that bound, renewed or freed the client. If none did, it
// sets the last Ignored or Failed of a policy, else Kept.
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

// fromOf returns the candidate that [Binding] calls From, for the candidates of one policy.
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

// split returns the candidates of each policy, with the State that the policy set.
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

// ReadOnly returns a policy that routes as p does and binds nobody. Use it to move from one policy
// to another without losing sessions:
//
//	First(to, ReadOnly(from))
//
// A client that only from has bound keeps its target, and its next response also binds it with to.
// Forward still removes from requests what p removes. To change only the format of values, use the
// Former codecs of [LBCookieOptions] and [AppCookieOptions]. To begin and end the move without a
// restart, use a [Switch].
//
// With nil or a nil pointer, ReadOnly routes and binds nobody.
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
