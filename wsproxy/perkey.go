package wsproxy

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

func (p *Proxy) checkPerKeyStatus() error {
	switch p.PerKeyStatus {
	case 0, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return nil
	default:
		return errors.New("wsproxy: PerKeyStatus is neither 503 nor 429")
	}
}

// enter makes the query to the pool, reads the body ahead, and counts the request for its key. That
// is the last chance to refuse it before the policy and the pool are asked. Where the key is known
// before the body, the request counts while that is read.
func (k *walk) enter() *Error {
	k.query = balancer.Request{HTTP: k.in, Client: k.peer.client.Addr(), Tunnel: k.upgrade != ""}
	if k.p.Key == nil {
		if failure := k.count(); failure != nil {
			return failure
		}
		return k.readAhead()
	}
	if failure := k.readAhead(); failure != nil {
		return failure
	}
	k.query.Key = k.p.Key(k.in)
	return k.count()
}

// count counts the request for its key, an upgrade as a tunnel too.
func (k *walk) count() *Error {
	inFlight, tunnels := k.p.MaxPerKey, k.p.Tunnels.MaxPerKey
	if k.upgrade == "" {
		tunnels = 0
	}
	if inFlight <= 0 && tunnels <= 0 {
		return nil
	}
	holder, ok := underway.HolderOf(k.query.Key, k.query.Client), false
	if k.requests, ok = k.rt.requests.Take(holder, inFlight); !ok {
		return k.overLimit(errManyRequests)
	}
	if k.tunnels, ok = k.rt.switched.Take(holder, tunnels); !ok {
		return k.overLimit(errManyTunnels)
	}
	return nil
}

func (k *walk) overLimit(err error) *Error {
	return &Error{Class: ClassKeyLimit, Status: cmp.Or(k.p.PerKeyStatus, http.StatusServiceUnavailable), Err: err}
}

// leaveTunnels ends the walk's place among the tunnels, if it has one.
func (k *walk) leaveTunnels() {
	if k.placed {
		k.placed = false
		k.p.tunnels.Add(-1)
	}
	k.tunnels.Free()
	k.tunnels = nil
}
