package wsproxy

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// checkPerKeyStatus returns an error if PerKeyStatus is not one of the allowed values.
func (p *Proxy) checkPerKeyStatus() error {
	switch p.PerKeyStatus {
	case 0, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return nil
	default:
		return errors.New("wsproxy: PerKeyStatus is neither 503 nor 429")
	}
}

// count counts the request for its key. An upgrade also counts as an upgraded connection.
func (k *walk) count() *Error {
	inFlight, tunnels := k.p.MaxPerKey, k.p.Tunnels.MaxPerKey
	if !k.upgrade.asked() {
		tunnels = 0
	}
	if inFlight <= 0 && tunnels <= 0 {
		return nil
	}
	holder, ok := underway.HolderOf(k.choice.query.Key, k.choice.query.Client), false
	if k.inFlight, ok = k.rt.requests.Take(holder, inFlight); !ok {
		return k.overLimit(errManyRequests)
	}
	if !k.upgrade.place.takeOfKey(&k.rt.switched, holder, tunnels) {
		return k.overLimit(errManyTunnels)
	}
	return nil
}

// overLimit returns the Error of a request whose key has reached a limit.
func (k *walk) overLimit(err error) *Error {
	return &Error{Class: ClassKeyLimit, Status: cmp.Or(k.p.PerKeyStatus, http.StatusServiceUnavailable), Err: err}
}
