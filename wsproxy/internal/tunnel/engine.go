package tunnel

import (
	"context"
	"io"
	"sync"
)

// An Engine keeps count of tunnels. The zero value is ready to use; it has a goroutine while it
// has tunnels that are parked. Its methods may be called concurrently. It must not be copied.
type Engine struct {
	mu      sync.Mutex
	tunnels map[*Tunnel]struct{}
	closed  bool
	empty   chan struct{} // closed when no tunnel is left; nil until somebody waits

	parking parking
	plain   bool // for tests: park nothing
	copies  bool // for tests: splice nothing
}

// Start joins client and backend and returns at once. Both connections belong to the tunnel
// from here: it closes both on every path, each once. After Shutdown or Leave has begun they
// are closed at once, o.Done is told the reason Shutdown, and Start returns nil.
func (e *Engine) Start(client, backend Side, o Options) *Tunnel {
	t := newTunnel(e, client, backend, o)
	t.mu.Lock() // nobody ends the tunnel before it has begun
	defer t.mu.Unlock()
	if !e.add(t) {
		t.cut(Shutdown)
		return nil
	}
	t.running = 2
	if o.Context != nil {
		t.unheed = context.AfterFunc(o.Context, func() { t.Close(ContextDone) })
	}
	e.open(&t.up, client.Conn)
	e.open(&t.down, backend.Conn)
	t.checkLimits()
	t.up.begin()
	t.down.begin()
	return t
}

// add notes t and reports whether it may run.
func (e *Engine) add(t *Tunnel) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tunnels == nil {
		e.tunnels = make(map[*Tunnel]struct{})
	}
	e.tunnels[t] = struct{}{}
	return !e.closed
}

// open decides how conn is read, by d, and written to. What is no TCP socket stays as it is.
func (e *Engine) open(d *direction, conn io.ReadWriteCloser) {
	if !e.plain {
		if p := e.parking.adopt(conn, d); p != nil {
			d.src.conn, d.src.reader = p, p
			return
		}
	}
	d.src.reader = newReader(conn)
}

// Len returns how many tunnels there are. A tunnel counts until its Done has returned.
func (e *Engine) Len() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.tunnels)
}

// Shutdown makes Start refuse and waits until no tunnel is left. When ctx ends first it cuts
// those that are left with the reason Shutdown, waits for their Done, and returns ctx's error.
func (e *Engine) Shutdown(ctx context.Context) error {
	empty := e.shut()
	defer e.parking.wait()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	err := cutAll(ctx, Shutdown, e.all())
	<-empty
	return err
}

// shut makes Start refuse and returns a channel that is closed when no tunnel is left.
func (e *Engine) shut() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if len(e.tunnels) == 0 {
		none := make(chan struct{})
		close(none)
		return none
	}
	if e.empty == nil {
		e.empty = make(chan struct{})
	}
	return e.empty
}

func (e *Engine) all() []*Tunnel {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*Tunnel, 0, len(e.tunnels))
	for t := range e.tunnels {
		all = append(all, t)
	}
	return all
}

func (e *Engine) remove(t *Tunnel) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tunnels, t)
	if len(e.tunnels) == 0 && e.empty != nil {
		close(e.empty)
		e.empty = nil
	}
}
