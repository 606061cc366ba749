package wsproxy

import (
	"context"
	"net/http"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// loginTransport returns the transport for a request that needs a connection of its own, or nil for
// any other request. If the client has a pinned connection, it returns that connection's transport.
// For a request that may log its connection in, it returns a transport that opens a connection for
// this request only.
//
// The request's own header decides, not a 401 that offers a login. A client may send credentials
// unasked, and http.Transport pools the connection of a response without a body before the proxy
// sees the response. A connection on which a login was only offered is not logged in yet.
func (k *walk) loginTransport(req *http.Request) http.RoundTripper {
	m := k.choice.lease.Member()
	// A retry may be on another member.
	if k.pin != nil && (k.pin.member != m || k.pin.revision != m.TLSRevision()) {
		k.dropPin()
	}
	if k.pin != nil {
		return k.pin.transport
	}
	if !upstream.LogsIn(req.Header) {
		return nil
	}
	revision := m.TLSRevision() // at least that of the transports
	alone := k.last.under.transports().alone
	if alone == nil {
		req.Close = true // if the RoundTripper uses an http.Transport, that keeps no connection of such a request
		return nil
	}
	switch {
	case k.last.h2c && !k.upgrade.asked(): // HTTP/2 has no such logins; the target may know no HTTP/1.1
		return aloneH2C{alone}
	case !k.last.h2c:
		k.pin = k.newPin(m, alone, revision)
	}
	if k.pin != nil {
		return k.pin.transport
	}
	return alone
}

// acquirePinned takes a lease on the member of the client's pinned connection. It reports false
// when there is no such connection. If the member cannot serve, the pinned connection ends, and the
// request is treated like any other. A policy's binding to another target stays as it is.
func (k *walk) acquirePinned(ctx context.Context) (grant, bool) {
	if k.pin == nil {
		return grant{}, false
	}
	id := k.pin.member.ID()
	if m, ok := k.p.Pool.Member(id); !ok || m != k.pin.member {
		k.dropPin()
		return grant{}, false
	}
	g, err := k.choice.acquireMember(ctx, id)
	if err != nil {
		k.dropPin()
		return grant{}, false
	}
	return g, true
}

// newPin returns a new pin for the client's connection, in use by this request. It returns nil when
// the connection may not have one.
func (k *walk) newPin(m *balancer.Member, like *http.Transport, revision uint64) *pin {
	c := k.clientConn()
	if c == nil || k.in.Close {
		return nil
	}
	return k.rt.pins.add(c, k.p, m, like, revision)
}

// usePin sets the pin to that of the client's connection, if there is one that no other request
// uses.
func (k *walk) usePin() {
	if k.rt.pins.len.Load() == 0 && !k.isRelayed() {
		return
	}
	if c := k.clientConn(); c != nil {
		k.pin = c.use(k.p)
	}
}

// clientConn returns the client's connection if it may have a pin, or nil. Only one client may use
// such a connection. A trusted peer sends requests of many clients on one connection. So does a
// peer that has ever sent Via or a forwarding header. A peer without an IP address may be a proxy,
// too.
func (k *walk) clientConn() *clientConn {
	if k.in.ProtoMajor != 1 || !k.peer.addr.IsValid() {
		return nil
	}
	c, _ := k.in.Context().Value(clientKey{}).(*clientConn)
	if c == nil {
		return nil
	}
	if k.peer.trusted || k.isRelayed() || !c.isFrom(k.in.RemoteAddr) {
		for _, pin := range c.share() {
			pin.proxy.rt.pins.end(pin)
		}
		return nil
	}
	return c
}

// isRelayed reports whether the header names a client or a proxy behind the peer.
func (k *walk) isRelayed() bool { return k.peer.relayed || len(k.in.Header["Via"]) > 0 }

// dropPin ends the client's pinned connection. A request that is under way on it may finish.
func (k *walk) dropPin() {
	k.rt.pins.end(k.pin)
	k.pin = nil
}

// releasePin ends this request's use of the pinned connection. The pin ends as well if the client's
// connection brings no further request. After a switch of protocols the connection is the tunnel's.
func (k *walk) releasePin() {
	switch {
	case k.pin == nil:
	case k.upgrade.switched, k.in.Close:
		k.dropPin()
	default:
		k.pin.release()
		k.pin = nil
	}
}
