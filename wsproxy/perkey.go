package wsproxy

import (
	"cmp"
	"net/http"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A keyLimit has the limits of one key, and the status of requests that they refuse.
type keyLimit struct{ requests, tunnels, status int }

// count counts a request for its key. An upgrade also counts as an upgraded connection. The share
// and the place are the caller's to free, also after an error.
func (c *core) count(q *balancer.Request, limit keyLimit, place *place) (*underway.Share, *Error) {
	if !q.Tunnel {
		limit.tunnels = 0
	}
	if limit.requests <= 0 && limit.tunnels <= 0 {
		return nil, nil
	}
	holder := underway.HolderOf(q.Key, q.Client)
	share, ok := c.requests.Take(holder, limit.requests)
	switch {
	case !ok:
		return share, limit.exceeded(errManyRequests)
	case !place.takeOfKey(&c.switched, holder, limit.tunnels):
		return share, limit.exceeded(errManyTunnels)
	}
	return share, nil
}

// exceeded returns the Error of a request whose key has reached a limit.
func (l keyLimit) exceeded(err error) *Error {
	return &Error{Class: ClassKeyLimit, Status: cmp.Or(l.status, http.StatusServiceUnavailable), Err: err}
}
