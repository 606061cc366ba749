package balancer

import (
	"errors"
	"net/netip"
	"time"
)

// A Lease is the right to send one request, or to keep one tunnel, to a member. It counts as load
// until it is released. Release it exactly once on every path: in a defer, or where the tunnel
// ends. Only one copy of a lease may be used. The zero Lease has no member, and releasing it does
// nothing.
type Lease struct {
	member *Member
	tunnel bool
}

// Member returns the member that the lease is on, or nil after Release.
func (l *Lease) Member() *Member { return l.member }

// Release gives the place back and reports the outcome to the pool and its observers. A second call
// does nothing.
func (l *Lease) Release(o Outcome) {
	m := l.member
	if m == nil {
		return
	}
	l.member = nil
	o.Tunnel = l.tunnel
	m.more.pool.release(m, l.tunnel, o)
}

// An Outcome is the result of the request or tunnel of a lease. The zero value is a success of
// unknown duration.
type Outcome struct {
	Class   Class
	Status  int           // the response's status code, zero when there was none
	Latency time.Duration // from sending to the response's header; zero or less is unknown
	Err     error         // the error, nil when nothing went wrong

	// Began is when the request was sent. Zero means that this is not known. The request then
	// counts as sent at the time of the release minus Latency. Observers need it because a long
	// response or a tunnel reports late what happened at its beginning.
	Began time.Time

	// Client is the client's address, as far as it is trusted. It serves only to judge failures:
	// one client alone must not be able to have a target ejected. An invalid address means that the
	// client is not known. All unknown clients count as one. See [ClientNetwork].
	Client netip.Addr

	// Retried reports whether the request, or the connection, was made again on another member, so
	// that the client did not get this outcome.
	Retried bool

	// Tunnel reports whether the lease was a tunnel's. [Lease.Release] fills it in.
	Tunnel bool
}

// A Class says at which step a request failed, and so whether the target is to blame. A complete
// response is [OK], whatever its status.
type Class uint8

// The classes of outcome.
const (
	OK Class = iota // a complete answer of any status; a tunnel that ended well

	// The target's own failures, unless time ran out, see [Outcome.Own].
	ConnectFailed // no connection could be made
	TLSFailed     // the TLS handshake failed

	// Failures that need proof, because a single client may cause them by what it sends.
	WriteFailed   // the request could not be sent
	HeaderFailed  // a reset or garbage before a final status
	HeaderTimeout // no final status in time
	BodyFailed    // the response's body ended early

	// Failures of tunnels, which say little about the target's plain requests.
	UpgradeFailed // a switch of protocols failed or was torn down
	TunnelEarly   // the tunnel broke soon after the switch

	// Outcomes that say nothing about the target.
	ClientGone // the client went away
	Unjudged   // the request was not sent, does not fit the target's protocol, met a shortage on this machine, or waited for the client
)

var classNames = [...]string{
	OK:            "ok",
	ConnectFailed: "connect failed",
	TLSFailed:     "tls failed",
	WriteFailed:   "write failed",
	HeaderFailed:  "header failed",
	HeaderTimeout: "header timeout",
	BodyFailed:    "body failed",
	UpgradeFailed: "upgrade failed",
	TunnelEarly:   "tunnel early",
	ClientGone:    "client gone",
	Unjudged:      "unjudged",
}

// String returns the class in words, "connect failed" for example.
func (c Class) String() string { return nameOf(classNames[:], uint8(c)) }

// judged reports whether the outcome says something about the target.
func (c Class) judged() bool { return c != ClientGone && c != Unjudged }

// Own reports whether the failure is the target's own, so that it needs no proof: a connection or a
// TLS handshake that was refused or broken. A timeout does not count, because this machine may have
// been too busy, and a single client can keep it busy.
func (o Outcome) Own() bool {
	if o.Class != ConnectFailed && o.Class != TLSFailed {
		return false
	}
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](o.Err)
	return !ok || !timeout.Timeout()
}

// ClientNetwork returns the network whose addresses count as one client: an IPv4 address itself,
// the /64 of an IPv6 one. An IPv4 address that is mapped to IPv6 is an IPv4 address. The zone is
// dropped. An invalid address stays invalid.
func ClientNetwork(a netip.Addr) netip.Addr { return network(a, 32, 64) }

func network(a netip.Addr, v4, v6 int) netip.Addr {
	a = a.Unmap().WithZone("")
	n := v6
	if a.Is4() {
		n = v4
	}
	if net, err := a.Prefix(n); err == nil {
		return net.Addr()
	}
	return a
}
