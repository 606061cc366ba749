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
	// pinLook is how often an idle one is looked at: net/http tells nobody when the client's connection
	// ends.
	pinLook = 2 * time.Second
)

type clientKey struct{}

// ConnContext is a function for http.Server.ConnContext. It does what proxyproto.ConnContext does, and
// lets a client log its connection in: with it, a [Proxy] keeps the connection to the target on which
// a client has sent Authorization with the scheme NTLM or Negotiate for the client's connection, and
// sends all further requests of that connection there. See the package documentation.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(proxyproto.ConnContext(ctx, c), clientKey{}, &clientConn{conn: c})
}

// A clientConn is a client's connection, with the connections to targets that are kept for it.
type clientConn struct {
	conn net.Conn

	mu   sync.Mutex
	addr string // of the client, when it is known
	pins map[*Proxy]*pin

	shared bool // requests of several clients come on it
}

// share notes that the connection is not one client's, so that it gets no pin any more. It returns
// those that it has, which have to end.
func (c *clientConn) share() []*pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared = true
	return slices.Collect(maps.Values(c.pins))
}

// isFrom reports whether the connection's peer has that address: what middleware says of somebody
// else does not make the connection that client's.
func (c *clientConn) isFrom(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.addr == "" {
		c.addr = c.conn.RemoteAddr().String()
	}
	return c.addr == addr
}

// use returns the connection's pin at that proxy for a request; nil when there is none, or when
// another request uses it.
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

// isClosed reports whether the server has closed the connection. It does not notice for connections
// that have no descriptor to ask.
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

// A pin is a connection to a target that one client's connection has for itself. Its transport has at
// most that connection, and dials anew when the target has closed it: the login is lost then, and
// nobody else's is found.
type pin struct {
	client    *clientConn
	proxy     *Proxy
	member    *balancer.Member
	transport *http.Transport

	// Guarded by client.mu.
	used  bool        // by a request
	since time.Time   // when it was used last
	timer *time.Timer // looks at an idle one
}

// pins are those of a Proxy.
type pins struct {
	len atomic.Int64

	mu     sync.Mutex // taken inside of a client's, never around it
	closed bool
	all    map[*balancer.Member]map[*pin]struct{}
}

// add makes a pin, in use, for the client's connection. It returns nil after close, when the
// connection has a pin, which another request uses then, and when the connection is shared.
func (s *pins) add(c *clientConn, p *Proxy, m *balancer.Member, like *http.Transport) *pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shared || c.pins[p] != nil {
		return nil
	}
	n := &pin{client: c, proxy: p, member: m, transport: pinned(like), used: true}
	if !s.note(n) {
		return nil
	}
	n.timer = time.AfterFunc(pinLook, func() { s.look(n) })
	n.timer.Stop()
	if c.pins == nil {
		c.pins = make(map[*Proxy]*pin)
	}
	c.pins[p] = n
	return n
}

// pinned is a transport like the one whose connections serve one request, but keeps one.
func pinned(like *http.Transport) *http.Transport {
	t := like.Clone()
	t.DisableKeepAlives = false
	t.MaxIdleConns, t.MaxIdleConnsPerHost, t.IdleConnTimeout = 1, 1, pinIdle
	return t
}

func (s *pins) note(n *pin) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The state is looked at here, since Changed comes before or after, and may have come before.
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

// rest ends a request's use of the pin. If the pin has ended meanwhile, its transport may have got the
// connection back just now.
func (n *pin) rest() {
	if !n.keep() {
		n.transport.CloseIdleConnections()
	}
}

func (n *pin) keep() bool {
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

// look ends an idle pin in time.
func (s *pins) look(n *pin) {
	if n.stays() {
		return
	}
	s.end(n)
}

// stays reports whether a pin is to be kept, and has it looked at again if it is idle.
func (n *pin) stays() bool {
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

// changed ends the pins of a member that is to lose its sessions.
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

// close ends all pins, and lets none begin.
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

// An observer tells a Proxy what becomes of its pool's members.
type observer struct {
	*underway.Set
	pins *pins
}

// Changed implements balancer.Observer.
func (o observer) Changed(m *balancer.Member, state balancer.State) {
	o.pins.changed(m, state)
	o.Set.Changed(m, state)
}
