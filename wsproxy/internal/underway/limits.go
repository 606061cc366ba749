package underway

import (
	"cmp"
	"math"
	"math/rand/v2"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

const defaultJitter = 10 // percent

// Limit returns the limit in time that a configured duration stands for. Zero means the default, a
// negative value no limit, which is the longest duration.
func Limit(d, byDefault time.Duration) time.Duration {
	if d = cmp.Or(d, byDefault); d < 0 {
		return math.MaxInt64
	}
	return d
}

// Shorten returns d, shorter by up to so many percent, by chance. Zero percent means 10, a negative
// value none.
func Shorten(d time.Duration, percent int) time.Duration {
	if percent == 0 {
		percent = defaultJitter
	}
	if spread := d / 100 * time.Duration(min(max(percent, 0), 100)); spread > 0 {
		d -= rand.N(spread)
	}
	return d
}

// earlyEnd is how soon after its start a tunnel has to end for the failure of the member's side
// to count against the member, as long as the client has sent nothing. A client that does not
// end at once takes five seconds of it.
const earlyEnd = 10 * time.Second

// Blame says what a tunnel's end teaches about its member: that it failed when its side broke
// soon after the start.
func Blame(end tunnel.End) (balancer.Class, error) {
	broke := end.By == tunnel.BackendReadFailed || end.By == tunnel.BackendWriteFailed
	if broke && end.Duration < earlyEnd && end.FromClient == 0 { // else it may be what the client sent
		return balancer.TunnelEarly, end.Err
	}
	return balancer.OK, nil
}
