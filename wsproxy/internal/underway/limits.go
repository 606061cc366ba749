package underway

import (
	"math/rand/v2"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// Limits are those of a tunnel as callers configure them.
type Limits struct {
	Idle     time.Duration // zero or negative: none
	Lifetime time.Duration // zero or negative: none
	Jitter   int           // percent of Lifetime; zero: 10; negative: none
	Linger   time.Duration // zero: 30 s; negative: none
}

const (
	defaultLinger = 30 * time.Second
	defaultJitter = 10 // percent
)

// Options are the limits of one tunnel; there, zero means none.
func (l Limits) Options() tunnel.Options {
	o := tunnel.Options{Idle: max(l.Idle, 0), Lifetime: max(l.Lifetime, 0), Linger: max(l.Linger, 0)}
	if l.Linger == 0 {
		o.Linger = defaultLinger
	}
	o.Lifetime = Shorten(o.Lifetime, l.Jitter)
	return o
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
