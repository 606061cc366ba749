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

// Limit returns the limit that a configured duration stands for. Zero means byDefault. A negative
// value means no limit, for which Limit returns the longest duration.
func Limit(d, byDefault time.Duration) time.Duration {
	if d = cmp.Or(d, byDefault); d < 0 {
		return math.MaxInt64
	}
	return d
}

// Shorten returns d, shortened at random by up to that many percent. Zero means 10 percent, a
// negative value none.
func Shorten(d time.Duration, percent int) time.Duration {
	if percent == 0 {
		percent = defaultJitter
	}
	if spread := d / 100 * time.Duration(min(max(percent, 0), 100)); spread > 0 {
		d -= rand.N(spread)
	}
	return d
}

// earlyEnd is how early a tunnel must end for a failure of the member's side to count against the
// member. It counts only if the client has sent nothing. If the client does not end at once, up to
// five of these seconds pass after the failure.
const earlyEnd = 10 * time.Second

// Blame returns what health learns about the member from the end of a tunnel: a failure if the
// member's side broke soon after the start.
func Blame(end tunnel.End) (balancer.Class, error) {
	broke := end.By == tunnel.BackendReadFailed || end.By == tunnel.BackendWriteFailed
	if broke && end.Duration < earlyEnd && end.FromClient == 0 { // otherwise the cause may be what the client sent
		return balancer.TunnelEarly, end.Err
	}
	return balancer.OK, nil
}
