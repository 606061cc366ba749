package wsproxy

import (
	"sync/atomic"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A place is one of the upgraded connections that a proxy may have, and one of those that a key may
// have. The zero value is no place.
type place struct {
	all *atomic.Int64   // the proxy's number of upgraded connections; nil when it does not count this one
	key *underway.Share // nil when the key is not counted
}

// take counts one more upgraded connection of the proxy, and reports whether the limit allows it. A
// limit of zero or less allows any number. The place is taken in either case.
func (p *place) take(all *atomic.Int64, limit int) bool {
	p.all = all
	n := all.Add(1)
	return limit <= 0 || n <= int64(limit)
}

// takeOfKey counts one more upgraded connection of the holder, and reports false when the limit
// does not allow it.
func (p *place) takeOfKey(keys *underway.Shares, h underway.Holder, limit int) (ok bool) {
	p.key, ok = keys.Take(h, limit)
	return ok
}

// free gives the place back. It must be called once for each place.
func (p place) free() {
	if p.all != nil {
		p.all.Add(-1)
	}
	p.key.Free()
}
