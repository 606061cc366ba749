package wsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
)

// A chooser has what a [choice] needs of its Proxy or Sticky. It is the same for all requests.
type chooser struct {
	pool   *balancer.Pool
	policy stickiness.Policy    // nil means no stickiness
	editor stickiness.Forwarder // the policy; nil when it does not change requests
	onMiss func(r *http.Request, id string, why error) Miss
	trace  *Trace

	notices notices // of the policy
}

// A choice decides which member serves a request, and tells the policy of the decision. It knows
// nothing of connections and attempts. Its methods are called in this order, all by the handler's
// goroutine: begin, lookup, then forward, then acquire and hold for each attempt, then bind for the
// response that goes to the client, then release or handOver.
type choice struct {
	*chooser
	query balancer.Request
	grant

	seen    []stickiness.Candidate // the candidates that the policy found in the request
	seenBuf [4]stickiness.Candidate
	miss    Miss
	decided bool // miss is decided for the rest of the request
	binding stickiness.Binding
}

// A grant is the permission to ask a member.
type grant struct {
	lease balancer.Lease
	from  *stickiness.Candidate // see stickiness.Binding
}

// begin sets the inputs of the choice.
func (c *choice) begin(by *chooser, q balancer.Request) { c.chooser, c.query = by, q }

// lookup asks the policy which targets the request is bound to.
func (c *choice) lookup() {
	if c.policy == nil {
		return
	}
	c.seen = c.policy.Lookup(c.query.HTTP, c.seenBuf[:0])
	c.notices.found(c.seen)
	if c.trace.Lookup != nil {
		c.trace.Lookup(c.query.HTTP, c.seen)
	}
}

// acquire takes a lease on the bound member if that may serve. Otherwise it takes one on the
// picker's choice, if OnMiss allows. failed is the error of the attempt before, or nil.
func (c *choice) acquire(ctx context.Context, failed error) (grant, error) {
	g, err := c.acquireBound(ctx, failed)
	if err == nil && g.lease.Member() == nil {
		g.lease, err = c.pool.Acquire(ctx, &c.query)
	}
	return g, err
}

// acquireBound tries the usable candidates in their order. It returns neither a lease nor an error
// when the picker has to choose.
func (c *choice) acquireBound(ctx context.Context, failed error) (grant, error) {
	var g grant
	var why error
	for i := range c.seen {
		one := &c.seen[i]
		if one.Reason != stickiness.Usable {
			continue
		}
		c.query.Session, c.query.Issued = c.session(one), one.Issued
		lease, err := c.pool.AcquireBound(ctx, one.Target, &c.query)
		switch {
		case err == nil:
			return grant{lease, one}, nil
		case ctx.Err() != nil:
			return grant{}, err
		case errors.Is(err, balancer.ErrShare) && g.from == nil: // an older binding's target must not get it
			c.decided, c.miss = true, Rebind
			return grant{from: one}, nil
		case errors.Is(err, balancer.ErrExcluded) && failed != nil:
			err = failed
		}
		if g.from == nil {
			g.from, why = one, err
		}
	}
	if g.from == nil {
		return g, nil
	}
	if !c.decided {
		c.decided, c.miss = true, c.askOnMiss(g.from.Target, why)
	}
	if c.miss == Fail {
		return grant{}, fmt.Errorf("bound to %q: %w", g.from.Target, withoutPlace(why))
	}
	return g, nil
}

// acquireMember takes a lease on the member with that ID, whatever the policy has found. A binding
// to another target stays as it is.
func (c *choice) acquireMember(ctx context.Context, id string) (grant, error) {
	lease, err := c.pool.AcquireBound(ctx, id, &c.query)
	if err != nil {
		return grant{}, err
	}
	g := grant{lease, c.candidate(id)}
	if g.from != nil && g.from.Target != id {
		c.miss = Detour
	}
	return g, nil
}

// candidate returns the usable candidate that names the target. Otherwise it returns the first
// usable one, or nil when there is none.
func (c *choice) candidate(id string) *stickiness.Candidate {
	var first *stickiness.Candidate
	for i := range c.seen {
		one := &c.seen[i]
		switch {
		case one.Reason != stickiness.Usable:
		case one.Target == id:
			return one
		case first == nil:
			first = one
		}
	}
	return first
}

// session returns the Session of [balancer.Request] for a binding. It is the binding's own, or a
// hash of the client's network when the policy knows none.
func (c *choice) session(of *stickiness.Candidate) uint64 {
	if of.Session != 0 || !c.query.Client.IsValid() {
		return of.Session
	}
	b := balancer.ClientNetwork(c.query.Client).As16()
	h := binary.BigEndian.Uint64(b[:8])*31 + binary.BigEndian.Uint64(b[8:])
	return max(h, 1)
}

// askOnMiss returns what happens to the request when its bound target cannot serve it.
func (c *choice) askOnMiss(id string, why error) Miss {
	switch {
	case c.onMiss != nil:
		return c.onMiss(c.query.HTTP, id, why)
	case errors.Is(why, balancer.ErrFull):
		return Detour
	default:
		return Rebind
	}
}

// tellPick calls Trace.Pick with the member that was chosen, or with the error.
func (c *choice) tellPick(g grant, err error) {
	switch {
	case c.trace.Pick == nil:
	case err != nil:
		c.trace.Pick(c.query.HTTP, nil, err)
	default:
		c.trace.Pick(c.query.HTTP, g.lease.Member(), nil)
	}
}

// noLease returns the Error of a request that got no lease.
func (c *choice) noLease(ctx context.Context, err error) *Error {
	class, status := ClassNoTarget, http.StatusServiceUnavailable
	if ctx.Err() != nil {
		class = classify(ctx, err)
		status = statusOf(class, err)
	}
	return &Error{Class: class, Status: status, Pool: c.pool.Name(), Err: withoutPlace(err)}
}

// exclude keeps the next attempts away from the member that serves the request now.
func (c *choice) exclude() { c.query.Exclude(c.lease.Member()) }

// hold makes g the choice. The lease that was held before is the caller's to release.
func (c *choice) hold(g grant) { c.grant = g }

// forward lets the policy change the outgoing request. It is called once, before the first attempt.
func (c *choice) forward(out *http.Request) {
	if c.editor != nil {
		c.editor.Forward(out, c.seen)
	}
}

// bind lets the policy see the response's header, and write to it. secure reports whether the
// client's connection is TLS.
func (c *choice) bind(h http.Header, status int, secure bool) {
	if c.policy == nil {
		return
	}
	target := c.lease.Member().ID()
	c.binding = stickiness.Binding{
		Request: c.query.HTTP,
		Header:  h,
		Target:  target,
		TLS:     secure,
		Status:  status,
		From:    c.from,
		Seen:    c.seen,
		Detour:  c.miss == Detour && c.from != nil && c.from.Target != target,
	}
	c.policy.Bind(&c.binding)
	c.notices.wrote(&c.binding)
	if c.trace.Bind != nil {
		c.trace.Bind(c.query.HTTP, &c.binding)
	}
}

// keepsSession reports whether the session was bound to the member that serves the request.
func (c *choice) keepsSession() bool { return c.from != nil && c.from.Target == c.lease.Member().ID() }

// release gives the lease back with what the request has taught about its member. It does nothing
// when no lease is held.
func (c *choice) release(o balancer.Outcome) { c.lease.Release(o) }

// handOver returns the lease. It is the caller's to release from now on.
func (c *choice) handOver() balancer.Lease {
	lease := c.lease
	c.lease = balancer.Lease{}
	return lease
}
