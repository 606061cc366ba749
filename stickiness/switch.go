package stickiness

import (
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
)

// A Switch is a policy that is replaced while it serves, by [Switch.Store]. The zero value has
// no policy: nobody is bound.
//
// Each call is passed to the policy in force at that moment, and takes no lock. A request that
// was looked up by one policy and answered under the next one is bound by the next one as if it
// had come without a binding: Seen is empty, From is nil, and no State of the other policy is
// ever seen. What the backend gets is changed by the policy that has looked the request up, so
// that it never sees that one's cookie; the cookies of an [LBCookie] or [AppCookie] that has
// come into force since are removed, too.
//
// Sessions that a policy has bound are lost with it, unless the next one can read what it wrote.
// To keep them, store First(next, ReadOnly(previous)) for as long as sessions last, and then
// next alone.
//
// It implements [Policy], [Forwarder] and [Informer]. All methods are safe for concurrent use. A
// Switch must not be copied.
type Switch struct {
	tenure atomic.Pointer[tenure] // nil: no policy
}

// A tenure is the time for which a policy is in force in one Switch.
type tenure struct {
	of        *Switch
	policy    Policy
	forwarder Forwarder // the policy; nil when it is none
	informer  Informer  // the policy; nil when it is none
	only      mark      // of a candidate that no Switch within this one has marked
}

// A mark tells in which tenure of each Switch a candidate was found.
type mark struct {
	tenure *tenure
	inner  *mark
}

// storing is held by Store, so that two of them do not put two Switches into each other.
var storing sync.Mutex

// Store puts p in force. Nil, or a nil pointer, means no policy. What is stored again begins
// anew: requests under way are not taken for its own.
//
// Store panics if p is the Switch itself, or has it inside as far as that can be seen: in a
// [First], a [ReadOnly] or another Switch.
func (s *Switch) Store(p Policy) {
	if isNil(p) {
		s.tenure.Store(nil)
		return
	}
	t := &tenure{of: s, policy: p}
	t.forwarder, _ = p.(Forwarder)
	t.informer, _ = p.(Informer)
	t.only.tenure = t

	storing.Lock()
	defer storing.Unlock()
	if s.isIn(p) {
		panic("stickiness: Switch stored in itself")
	}
	s.tenure.Store(t)
}

// Load returns the policy in force, nil if there is none.
func (s *Switch) Load() Policy {
	if t := s.tenure.Load(); t != nil {
		return t.policy
	}
	return nil
}

// isIn reports whether p is s or passes calls to it.
func (s *Switch) isIn(p Policy) bool {
	switch p := p.(type) {
	case *Switch:
		return p == s || p != nil && s.isIn(p.Load())
	case *first:
		return slices.ContainsFunc(p.policies, s.isIn)
	case readOnly:
		return s.isIn(p.policy)
	}
	return false
}

// isNil reports whether an interface is nil or holds a nil pointer or func.
func isNil[I any](i I) bool {
	v := reflect.ValueOf(i)
	return !v.IsValid() || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Func) && v.IsNil()
}

// Lookup implements [Policy].
func (s *Switch) Lookup(r *http.Request, found []Candidate) []Candidate {
	t := s.tenure.Load()
	if t == nil {
		return found
	}
	n := len(found)
	found = t.policy.Lookup(r, found)
	for i := n; i < len(found); i++ {
		if c := &found[i]; c.mark == nil {
			c.mark = &t.only
		} else {
			c.mark = &mark{t, c.mark}
		}
	}
	return found
}

// tenureOf returns the tenure of s in which c was found, nil if another policy has found it.
func (s *Switch) tenureOf(c *Candidate) *tenure {
	for m := c.mark; m != nil; m = m.inner {
		if m.tenure.of == s {
			return m.tenure
		}
	}
	return nil
}

// Bind implements [Policy].
func (s *Switch) Bind(b *Binding) {
	t := s.tenure.Load()
	if t == nil {
		b.Result = Kept
		return
	}
	other := func(c Candidate) bool { return s.tenureOf(&c) != t }
	if !slices.ContainsFunc(b.Seen, other) {
		t.policy.Bind(b)
		return
	}
	own := *b
	own.Seen, own.From = nil, nil
	t.policy.Bind(&own)
	b.Result, b.Notices = own.Result, own.Notices
}

// Forward implements [Forwarder].
func (s *Switch) Forward(out *http.Request, seen []Candidate) {
	now := s.tenure.Load()
	then := now
	for i := range seen {
		if t := s.tenureOf(&seen[i]); t != nil {
			then = t
			break
		}
	}
	switch {
	case now == then || now == nil:
	case then.forwarder != nil:
		forwardOwn(now.policy, out)
	case now.forwarder != nil:
		now.forwarder.Forward(out, nil)
	}
	if then != nil && then.forwarder != nil {
		then.forwarder.Forward(out, seen)
	}
}

// forwardOwn removes the cookies of p that are the balancer's own from a request that another
// policy has looked up. What p does to cookies of the application it does not: the other policy
// may have done the same already.
func forwardOwn(p Policy, out *http.Request) {
	switch p := p.(type) {
	case *LBCookie:
		p.Forward(out, nil)
	case *AppCookie:
		p.Forward(out, nil)
	case readOnly:
		forwardOwn(p.policy, out)
	case *Switch:
		forwardOwn(p.Load(), out)
	case *first:
		for _, p := range p.policies {
			forwardOwn(p, out)
		}
	}
}

// Inform implements [Informer].
func (s *Switch) Inform(h http.Header) {
	if t := s.tenure.Load(); t != nil && t.informer != nil {
		t.informer.Inform(h)
	}
}
