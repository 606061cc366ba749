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

// A grant is the permission to ask a member.
type grant struct {
	lease balancer.Lease
	from  *stickiness.Candidate // see stickiness.Binding
}

// acquire takes a lease: on the member of the client's pinned connection, else on the bound one if
// it may serve, else on the picker's choice if OnMiss allows. failed is the attempt before, if
// there was one.
func (k *walk) acquire(ctx context.Context, failed *Error) (grant, *Error) {
	if failed == nil {
		if g, ok := k.acquirePinned(ctx); ok {
			return g, nil
		}
	}
	g, err := k.acquireBound(ctx, failed)
	if err == nil && g.lease.Member() == nil {
		g.lease, err = k.p.Pool.Acquire(ctx, &k.query)
	}
	switch {
	case err == nil:
		return g, nil
	case ctx.Err() != nil:
		class := classify(ctx, err)
		return grant{}, &Error{Class: class, Status: statusOf(class, err), Err: err}
	default:
		return grant{}, &Error{Class: ClassNoTarget, Status: http.StatusServiceUnavailable, Err: err}
	}
}

// acquireBound tries the usable candidates in their order. No lease and no error: the picker shall
// choose.
func (k *walk) acquireBound(ctx context.Context, failed *Error) (grant, error) {
	var g grant
	var why error
	for i := range k.seen {
		c := &k.seen[i]
		if c.Reason != stickiness.Usable {
			continue
		}
		k.query.Session, k.query.Issued = k.session(c), c.Issued
		lease, err := k.p.Pool.AcquireBound(ctx, c.Target, &k.query)
		switch {
		case err == nil:
			return grant{lease, c}, nil
		case ctx.Err() != nil:
			return grant{}, err
		case errors.Is(err, balancer.ErrShare) && g.from == nil: // not to an older binding's target
			k.missed, k.miss = true, Rebind
			return grant{from: c}, nil
		case errors.Is(err, balancer.ErrExcluded) && failed != nil:
			err = failed
		}
		if g.from == nil {
			g.from, why = c, err
		}
	}
	if g.from != nil && !k.missed {
		k.missed, k.miss = true, k.p.onMiss(k.in, g.from.Target, why)
	}
	if g.from != nil && k.miss == Fail {
		return grant{}, fmt.Errorf("bound to %q: %w", g.from.Target, why)
	}
	return g, nil
}

// session returns what [balancer.Request] calls Session: that of the binding, or where its policy
// knows none, the client's network.
func (k *walk) session(c *stickiness.Candidate) uint64 {
	if c.Session != 0 || !k.peer.client.IsValid() {
		return c.Session
	}
	b := balancer.ClientNetwork(k.peer.client.Addr()).As16()
	h := binary.BigEndian.Uint64(b[:8])*31 + binary.BigEndian.Uint64(b[8:])
	return max(h, 1)
}

func (p *Proxy) onMiss(r *http.Request, id string, why error) Miss {
	switch {
	case p.OnMiss != nil:
		return p.OnMiss(r, id, why)
	case errors.Is(why, balancer.ErrFull):
		return Detour
	default:
		return Rebind
	}
}

func (k *walk) tellPick(g grant, failure *Error) {
	switch {
	case k.rt.trace.Pick == nil:
	case failure != nil:
		k.rt.trace.Pick(k.in, nil, failure.Err)
	default:
		k.rt.trace.Pick(k.in, g.lease.Member(), nil)
	}
}

// bind lets the policy see the response's header, and write to it.
func (k *walk) bind(h http.Header, status int) {
	if k.p.Policy == nil {
		return
	}
	k.binding = stickiness.Binding{
		Request: k.in,
		Header:  h,
		Target:  k.target,
		TLS:     k.peer.tls,
		Status:  status,
		From:    k.from,
		Seen:    k.seen,
		Detour:  k.miss == Detour && k.from != nil && k.from.Target != k.target,
	}
	k.p.Policy.Bind(&k.binding)
	k.rt.notices.wrote(&k.binding)
	if k.rt.trace.Bind != nil {
		k.rt.trace.Bind(k.in, &k.binding)
	}
}

// candidate returns the usable candidate that names the target. Otherwise it returns the first
// usable one, or nil when there is none.
func (k *walk) candidate(id string) *stickiness.Candidate {
	var first *stickiness.Candidate
	for i := range k.seen {
		c := &k.seen[i]
		switch {
		case c.Reason != stickiness.Usable:
		case c.Target == id:
			return c
		case first == nil:
			first = c
		}
	}
	return first
}
