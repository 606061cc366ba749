package redistest

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Relay forwards TCP connections to a server, and can be a bad network. Its methods are safe for
// concurrent use.
type Relay struct {
	// Addr is where the relay listens.
	Addr string

	target   string
	listener net.Listener
	working  sync.WaitGroup

	mu     sync.Mutex
	change *sync.Cond
	cut    bool
	deaf   bool
	closed bool
	lost   int
	conns  map[net.Conn]bool
}

// NewRelay starts a relay to an address. It ends with the test.
func NewRelay(t testing.TB, target string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", newAddr(t, newIP()))
	require.NoError(t, err)
	r := &Relay{Addr: l.Addr().String(), target: target, listener: l, conns: make(map[net.Conn]bool)}
	r.change = sync.NewCond(&r.mu)
	r.working.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// Cut stops all forwarding, in both directions: of data, of new connections and of their ends.
// Neither side is told. What is sent meanwhile waits, as TCP would send it again.
func (r *Relay) Cut() { r.set(func() { r.cut = true }) }

// Heal ends what Cut and Deafen have begun.
func (r *Relay) Heal() { r.set(func() { r.cut, r.deaf = false, false }) }

// Deafen throws away what the server sends.
func (r *Relay) Deafen() { r.set(func() { r.deaf = true }) }

func (r *Relay) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.change.Broadcast()
}

func (r *Relay) close() {
	r.listener.Close()
	r.set(func() {
		r.closed = true
		for c := range r.conns {
			c.Close()
		}
	})
	r.working.Wait()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.working.Go(func() { r.serve(client) })
	}
}

// serve forwards a connection until both sides have ended it.
func (r *Relay) serve(client net.Conn) {
	defer client.Close()
	if !r.hold(client) {
		return
	}
	defer r.release(client)
	if !r.passes() {
		return
	}
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !r.hold(server) {
		return
	}
	defer r.release(server)
	var back sync.WaitGroup
	back.Go(func() { r.forward(client, server, true) })
	r.forward(server, client, false)
	back.Wait()
}

// hold notes a connection, for close. It reports whether the relay is open.
func (r *Relay) hold(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[c] = true
	return !r.closed
}

func (r *Relay) release(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// passes waits while the network is cut. It reports whether the relay is open.
func (r *Relay) passes() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.cut && !r.closed {
		r.change.Wait()
	}
	return !r.closed
}

// Lost returns how many octets Deafen has thrown away.
func (r *Relay) Lost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// loses reports whether n octets from the server are lost.
func (r *Relay) loses(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf {
		r.lost += n
	}
	return r.deaf
}

// forward copies from one connection to the other, and then closes both: Redis knows no half-open
// ones.
func (r *Relay) forward(to, from net.Conn, answers bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !r.passes() {
			return
		}
		if n > 0 && !(answers && r.loses(n)) {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
}
