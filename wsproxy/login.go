package wsproxy

import (
	"context"
	"net/http"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// personal returns the transport of a request whose connection to the target must be this client's:
// the client's pinned one, or one that opens a connection for this request alone, when the request
// may log its connection in. It returns nil for any other request.
//
// The request decides, and not the 401 that offers a login: a client may send its credentials
// unasked, and http.Transport has a connection in its pool before a response without a body is seen.
// A connection that was offered a login and got no credentials belongs to nobody yet.
func (k *walk) personal(req *http.Request) http.RoundTripper {
	m := k.lease.Member()
	if k.pin != nil && k.pin.member != m { // the request is retried elsewhere
		k.dropPin()
	}
	if k.pin != nil {
		return k.pin.transport
	}
	if !upstream.LogsIn(req.Header) {
		return nil
	}
	t := &k.rt.transports
	if t.alone == nil {
		req.Close = true // http.Transport, which may be below, keeps no connection of such a request
		return nil
	}
	switch {
	case k.h2c && k.upgrade == "": // HTTP/2 has no such logins; the target may know no HTTP/1.1
		return aloneH2C{t.alone}
	case !k.h2c:
		k.pin = k.newPin(m)
	}
	if k.pin != nil {
		return k.pin.transport
	}
	return t.alone
}

// acquirePinned takes a lease on the member of the client's pinned connection. When that cannot serve,
// the connection ends, and the request goes on as any other. A policy's binding to another target is
// left as it is.
func (k *walk) acquirePinned(ctx context.Context) (grant, bool) {
	if k.pin == nil {
		return grant{}, false
	}
	id := k.pin.member.ID()
	if m, ok := k.p.Pool.Member(id); !ok || m != k.pin.member {
		k.dropPin()
		return grant{}, false
	}
	lease, err := k.p.Pool.AcquireBound(ctx, id, &k.query)
	if err != nil {
		k.dropPin()
		return grant{}, false
	}
	g := grant{lease, k.candidate(id)}
	if g.from != nil && g.from.Target != id {
		k.miss = Detour
	}
	return g, true
}

// candidate is the usable one that names that target; else the first usable one, nil when there is none.
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

// newPin returns a pin for the client's connection, in use by this request; nil where none may be.
func (k *walk) newPin(m *balancer.Member) *pin {
	c := k.clientConn()
	if c == nil || k.in.Close {
		return nil
	}
	return k.rt.pins.add(c, k.p, m, k.rt.transports.alone)
}

// heldPin returns the pin that the client's connection has, in use by this request; nil when there is
// none.
func (k *walk) heldPin() *pin {
	if k.rt.pins.len.Load() == 0 && !k.forOthers() {
		return nil
	}
	c := k.clientConn()
	if c == nil {
		return nil
	}
	return c.use(k.p)
}

// clientConn returns the client's connection if it may have one to a target for itself; else nil. It
// has to be one client's: a trusted peer's carries requests of many, and so does one on which a
// request ever told of somebody behind the peer. A peer without an IP address may be such a one.
func (k *walk) clientConn() *clientConn {
	if k.in.ProtoMajor != 1 || !k.peer.addr.IsValid() {
		return nil
	}
	c, _ := k.in.Context().Value(clientKey{}).(*clientConn)
	if c == nil {
		return nil
	}
	if k.peer.trusted || k.forOthers() || !c.isFrom(k.in.RemoteAddr) {
		for _, pin := range c.share() {
			pin.proxy.rt.pins.end(pin)
		}
		return nil
	}
	return c
}

// forOthers reports whether the request's header tells of somebody behind the peer.
func (k *walk) forOthers() bool { return k.relayed || len(k.in.Header["Via"]) > 0 }

// dropPin ends the client's pinned connection. A request that is under way on it goes on.
func (k *walk) dropPin() {
	k.rt.pins.end(k.pin)
	k.pin = nil
}

// restPin ends this request's use of the pinned connection, and the connection where the client's has
// no further request. One that has switched protocols is the tunnel's.
func (k *walk) restPin() {
	switch {
	case k.pin == nil:
	case k.switched, k.in.Close:
		k.dropPin()
	default:
		k.pin.rest()
		k.pin = nil
	}
}
