package redistest

import (
	"bytes"
	"fmt"
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
	closed bool
	conns  map[net.Conn]bool

	suppress   []byte // how the messages begin
	suppressed int
}

// NewRelay starts a relay to an address. It ends with the test.
func NewRelay(t testing.TB, target string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", NewAddr())
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

// Heal ends what Cut and Suppress have begun.
func (r *Relay) Heal() { r.set(func() { r.cut, r.suppress = false, nil }) }

// Suppress throws away the messages of a Pub/Sub channel, whatever else passes.
func (r *Relay) Suppress(channel string) {
	r.set(func() { r.suppress = fmt.Appendf(nil, "message\r\n$%d\r\n%s\r\n", len(channel), channel) })
}

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

// Suppressed returns how many messages Suppress has thrown away.
func (r *Relay) Suppressed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.suppressed
}

// filter returns what the client gets of an answer: a RESP3 push ">3", or the RESP2 array "*3",
// with the kind, the channel and a text is left out if it is suppressed.
func (r *Relay) filter(b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.suppress == nil {
		return b
	}
	before, after, found := bytes.Cut(b, r.suppress)
	start := bytes.LastIndexAny(before, ">*")
	_, rest, _ := bytes.Cut(after, []byte("\r\n")) // the length of the text
	_, rest, whole := bytes.Cut(rest, []byte("\r\n"))
	if !found || start < 0 || !whole {
		return b
	}
	r.suppressed++
	return append(before[:start:start], rest...)
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
		data := buf[:n]
		if answers {
			data = r.filter(data)
		}
		if _, err := to.Write(data); err != nil {
			break
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
}
