package balancer

import "time"

// A Lease is the right to send one request, or to keep one tunnel, to a member. It counts
// as load until it is released, which must happen exactly once, on every path: release it
// in a defer or where the tunnel ends. A lease is moved, never copied and used twice. The
// zero Lease has no member, and releasing it does nothing.
type Lease struct {
	member *Member
	tunnel bool
}

// Member returns the member that the lease is on, nil once it is released.
func (l *Lease) Member() *Member { return l.member }

// Release gives the place back and tells the pool and its observers what came of it.
// A second call does nothing.
func (l *Lease) Release(o Outcome) {
	m := l.member
	if m == nil {
		return
	}
	l.member = nil
	m.pool.release(m, l.tunnel, o)
}

// An Outcome is what came of a lease. The zero value is a success of unknown duration.
type Outcome struct {
	Class   Class
	Status  int           // the response's status code, zero when there was none
	Latency time.Duration // from sending to the response's header; zero or less is unknown
	Err     error         // what went wrong, nil when nothing did
}

// A Class tells how far a request came. Observers learn from it whether the target is to
// blame.
type Class uint8

// The classes of outcome.
const (
	OK            Class = iota
	ConnectFailed       // no connection could be made
	TLSFailed           // the TLS handshake failed
	WriteFailed         // the request could not be sent
	HeaderFailed        // a timeout, a reset or garbage before a final status
	BodyFailed          // the response's body ended early
	TunnelEarly         // the tunnel broke soon after the switch
	ClientGone          // the client went away; nothing is learnt about the target
)

var classNames = [...]string{
	"ok", "connect failed", "tls failed", "write failed", "header failed", "body failed", "tunnel early", "client gone",
}

// String returns the class in words, "connect failed" for example.
func (c Class) String() string { return nameOf(classNames[:], uint8(c)) }

// failed reports whether the outcome speaks against the target.
func (c Class) failed() bool { return c != OK && c != ClientGone }
