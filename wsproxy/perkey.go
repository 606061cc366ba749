package wsproxy

import (
	"errors"
	"net/http"
)

func (p *Proxy) checkPerKeyStatus() error {
	switch p.PerKeyStatus {
	case 0, http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return nil
	default:
		return errors.New("wsproxy: PerKeyStatus is neither 503 nor 429")
	}
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
