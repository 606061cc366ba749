package tunnel

import (
	"context"
	"io"
)

// An Engine runs tunnels. The zero value is ready to use. While some of its tunnels are parked it
// has one goroutine. An Engine keeps no list of its tunnels. Its methods may be called
// concurrently. It must not be copied.
type Engine struct {
	parking parking
	plain   bool // for tests: park nothing
	copies  bool // for tests: splice nothing
}

// Start joins client and backend and returns at once. Both connections belong to the tunnel
// from here: it closes both on every path, each once.
func (e *Engine) Start(client, backend Side, o Options) *Tunnel {
	t := newTunnel(e, client, backend, o)
	t.mu.Lock() // so that nothing ends the tunnel before it has begun
	defer t.mu.Unlock()
	t.running = 2
	if o.Context != nil {
		t.stopContext = context.AfterFunc(o.Context, func() { t.Close(ContextDone) })
	}
	e.open(&t.up, client.Conn)
	e.open(&t.down, backend.Conn)
	t.checkLimits()
	t.up.begin()
	t.down.begin()
	return t
}

// Refuse closes both connections and moves no byte. It returns at once. o.Done gets the reason
// Shutdown.
func (e *Engine) Refuse(client, backend Side, o Options) *Tunnel {
	t := newTunnel(e, client, backend, o)
	t.Close(Shutdown)
	return t
}

// open decides how d reads from conn and how the other direction writes to it. Only a TCP socket is
// replaced.
func (e *Engine) open(d *direction, conn io.ReadWriteCloser) {
	if !e.plain {
		if p := e.parking.adopt(conn, d); p != nil {
			d.src.conn, d.src.reader = p, p
			return
		}
	}
	d.src.reader = newReader(conn)
}

// Wait waits for the goroutine that serves parked tunnels. It ends with the last of them, so wait
// for the tunnels first, with [Tunnel.Ended].
func (e *Engine) Wait() { e.parking.wait() }
