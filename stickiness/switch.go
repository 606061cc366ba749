package stickiness

import (
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
)

// A Switch is a policy that [Switch.Store] replaces while it serves. The zero value has no policy:
// it binds nobody.
//
// Each call is passed to the current policy, without a lock. If the policy is replaced between the
// Lookup and the Bind of a request, the new policy binds the response as if the request had no
// binding: Seen is empty and From is nil, so it sees no State of the old policy. The old policy's
// Forward still changes the request, so that the backend does not see the old policy's cookie. If
// the new policy is an [LBCookie] or [AppCookie], its cookie is removed from the request, too.
//
// Sessions that a policy has bound are lost when it is replaced, unless the new policy can read
// them. To keep them, store First(next, ReadOnly(previous)) for as long as sessions last, and then
// next alone.
//
// A Switch implements [Policy], [Forwarder] and [Informer]. All methods are safe for concurrent
// use. A Switch must not be copied.
type Switch struct {
	tenure atomic.Pointer[tenure] // nil: no policy
}

// A tenure is one period during which a Switch has a policy.
type tenure struct {
	of        *Switch
	policy    Policy
	forwarder Forwarder // the policy, if it is a Forwarder; else nil
	informer  Informer  // the policy, if it is an Informer; else nil
	only      mark      // for candidates without a mark of an inner Switch
}

// A mark says in which tenure of each Switch a candidate was found.
type mark struct {
	tenure *tenure
	inner  *mark
}

// storing is held by Store, so that concurrent calls cannot put two Switches into each other.
var storing sync.Mutex

// Store makes p the current policy. Nil, or a nil pointer, means no policy. Storing the current
// policy again also counts as a replacement for the requests under way.
//
// Store panics if p is the Switch itself or contains it in a [First], a [ReadOnly] or another
// Switch. It does not look into other policies.
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
		panic("stickiness: Switch.Store of a policy that contains the Switch")
	}
	s.tenure.Store(t)
}

// Load returns the current policy, or nil if there is none.
func (s *Switch) Load() Policy {
	if t := s.tenure.Load(); t != nil {
		return t.policy
	}
	return nil
}

// isIn reports whether p is s or passes its calls to s.
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

// tenureOf returns the tenure of s in which c was found, or nil if s did not find it.
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

// forwardOwn removes those cookies of p from a request that are the balancer's own, after another
// policy has looked up the request. It leaves the application's cookies alone, because the other
// policy may have changed them in the same way already.
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
