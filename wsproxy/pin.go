package wsproxy

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

const (
	// pinIdle is how long a pinned connection is kept without a request.
	pinIdle = 60 * time.Second
	// pinLook is how often an idle pin is checked. net/http has no callback for the end of a
	// client's connection.
	pinLook = 2 * time.Second
)

type clientKey struct{}

// ConnContext is a function for http.Server.ConnContext. It includes proxyproto.ConnContext. It
// also allows logins that belong to a connection: when a client sends Authorization with the scheme
// NTLM or Negotiate, the [Proxy] reserves the connection to the target for that client's
// connection. It then sends all further requests of the client's connection there. See the package
// documentation.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(proxyproto.ConnContext(ctx, c), clientKey{}, &clientConn{conn: c})
}

// A clientConn is a client's connection, together with the connections to targets that are reserved
// for it.
type clientConn struct {
	conn net.Conn

	mu   sync.Mutex
	addr string // of the client, when it is known
	pins map[*Proxy]*pin

	shared bool // requests of several clients come on it
}

// share marks the connection as used by several clients. It gets no new pin from now on. share
// returns its present pins, which the caller has to end.
func (c *clientConn) share() []*pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared = true
	return slices.Collect(maps.Values(c.pins))
}

// isFrom reports whether the connection's peer has that address. Middleware may have put another
// client's address into the request.
func (c *clientConn) isFrom(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.addr == "" {
		c.addr = c.conn.RemoteAddr().String()
	}
	return c.addr == addr
}

// use returns the connection's pin at that proxy, marked as used by a request. It returns nil when
// there is none and when another request uses it.
func (c *clientConn) use(p *Proxy) *pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	pin := c.pins[p]
	if pin == nil || pin.used {
		return nil
	}
	pin.used = true
	pin.timer.Stop()
	return pin
}

// isClosed reports whether the server has closed the connection. For a connection without a file
// descriptor it always reports false.
func (c *clientConn) isClosed() bool {
	conn := c.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if told, ok := conn.(*proxyproto.Conn); ok {
		below, bare := told.Unwrap()
		if !bare {
			return false
		}
		conn = below
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}

// A pin is a connection to a target that is reserved for one client's connection. Its transport has
// no other connection. When the target closes the connection, the transport dials a new one. The
// client's login is lost then, but the client never gets another client's login.
type pin struct {
	client    *clientConn
	proxy     *Proxy
	member    *balancer.Member
	revision  uint64 // the member's Member.TLSRevision
	transport *http.Transport

	// Guarded by client.mu.
	used  bool        // a request uses the pin
	since time.Time   // when it was used last
	timer *time.Timer // calls endIfUnused while the pin is idle
}

// pins has all pins of a Proxy.
type pins struct {
	len atomic.Int64

	mu     sync.Mutex // may be locked while a clientConn's mu is held, never the other way round
	closed bool
	all    map[*balancer.Member]map[*pin]struct{}
}

// add returns a new pin for the client's connection, in use. It returns nil after close, when the
// connection is shared, and when it has a pin already, which another request must be using.
func (s *pins) add(c *clientConn, p *Proxy, m *balancer.Member, like *http.Transport, revision uint64) *pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shared || c.pins[p] != nil {
		return nil
	}
	n := &pin{client: c, proxy: p, member: m, revision: revision, transport: pinned(like), used: true}
	if !s.register(n) {
		return nil
	}
	n.timer = time.AfterFunc(pinLook, func() { s.endIfUnused(n) })
	n.timer.Stop()
	if c.pins == nil {
		c.pins = make(map[*Proxy]*pin)
	}
	c.pins[p] = n
	return n
}

// pinned returns a copy of a transport that keeps one idle connection.
func pinned(like *http.Transport) *http.Transport {
	t := like.Clone()
	t.DisableKeepAlives = false
	t.MaxIdleConns, t.MaxIdleConnsPerHost, t.IdleConnTimeout = 1, 1, pinIdle
	return t
}

func (s *pins) register(n *pin) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The state is read under mu, because Changed may have been called before the pin was
	// registered.
	if s.closed || !mayPin(n.member, n.member.State()) {
		return false
	}
	if s.all == nil {
		s.all = make(map[*balancer.Member]map[*pin]struct{})
	}
	if s.all[n.member] == nil {
		s.all[n.member] = make(map[*pin]struct{})
	}
	s.all[n.member][n] = struct{}{}
	s.len.Add(1)
	return true
}

func mayPin(m *balancer.Member, state balancer.State) bool {
	return !m.Removed() && state.Admin != balancer.Moving && state.Admin != balancer.Down
}

// release ends a request's use of the pin. The pin may have ended meanwhile. Its transport may then
// hold the connection as idle, and has to close it.
func (n *pin) release() {
	if !n.markIdle() {
		n.transport.CloseIdleConnections()
	}
}

// markIdle reports whether the pin has not ended.
func (n *pin) markIdle() bool {
	c := n.client
	c.mu.Lock()
	defer c.mu.Unlock()
	n.used, n.since = false, time.Now()
	if c.pins[n.proxy] != n {
		return false
	}
	n.timer.Reset(pinLook)
	return true
}

// endIfUnused is called by a pin's timer. It ends the pin unless mayStay allows it to stay.
func (s *pins) endIfUnused(n *pin) {
	if n.mayStay() {
		return
	}
	s.end(n)
}

// mayStay reports whether a pin is to be kept. If the pin is idle, mayStay sets the timer again.
func (n *pin) mayStay() bool {
	c := n.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.used || c.pins[n.proxy] != n {
		return true
	}
	left := pinIdle - time.Since(n.since)
	if left <= 0 || c.isClosed() {
		return false
	}
	n.timer.Reset(min(left, pinLook))
	return true
}

// end forgets a pin and closes its connection, at once or when the request that uses it is over.
func (s *pins) end(n *pin) {
	c := n.client
	c.mu.Lock()
	if c.pins[n.proxy] == n {
		delete(c.pins, n.proxy)
		n.timer.Stop()
	}
	c.mu.Unlock()
	s.mu.Lock()
	if of := s.all[n.member]; of != nil {
		if _, ok := of[n]; ok {
			s.len.Add(-1)
		}
		if delete(of, n); len(of) == 0 {
			delete(s.all, n.member)
		}
	}
	s.mu.Unlock()
	n.transport.CloseIdleConnections()
}

// changed ends the pins of a member that has been removed, or is moving or down.
func (s *pins) changed(m *balancer.Member, state balancer.State) {
	if mayPin(m, state) {
		return
	}
	s.mu.Lock()
	ended := slices.Collect(maps.Keys(s.all[m]))
	s.mu.Unlock()
	for _, n := range ended {
		s.end(n)
	}
}

// close ends all pins, and keeps new ones from being added.
func (s *pins) close() {
	s.mu.Lock()
	s.closed = true
	var ended []*pin
	for _, of := range s.all {
		ended = slices.AppendSeq(ended, maps.Keys(of))
	}
	s.mu.Unlock()
	for _, n := range ended {
		s.end(n)
	}
}

// An observer passes the changes of a pool's members on to what the Proxy has for them.
type observer struct {
	*underway.Set
	pins       *pins
	transports *transports
}

// Changed implements balancer.Observer.
func (o observer) Changed(m *balancer.Member, state balancer.State) {
	o.pins.changed(m, state)
	o.transports.changed(m)
	o.Set.Changed(m, state)
}
