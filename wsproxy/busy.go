package wsproxy

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// busy is what is under way at the members of the pool and ends when their administrative state says so: it observes
// the pool. When a member is moving, its tunnels are asked to end; when it is down, they are cut, and so are the exchanges
// that it keeps waiting and that can be.
type busy struct {
	engine   tunnel.Engine
	farewell tunnel.Farewell // to those who have to move
	timers   sync.Pool       // of *waitTimer

	mu        sync.Mutex
	closed    bool
	tunnels   membersOf[*tunnel.Tunnel]
	exchanges membersOf[*exchange]
	moving    map[*balancer.Member]context.CancelFunc
	asking    sync.WaitGroup // goroutines that ask a moving member's tunnels to end
}

// membersOf has what is under way by member.
type membersOf[T comparable] map[*balancer.Member]map[T]struct{}

func (o membersOf[T]) add(m *balancer.Member, v T) {
	if o[m] == nil {
		o[m] = make(map[T]struct{})
	}
	o[m][v] = struct{}{}
}

func (o membersOf[T]) remove(m *balancer.Member, v T) {
	delete(o[m], v)
	if len(o[m]) == 0 {
		delete(o, m)
	}
}

func (b *busy) init(f tunnel.Farewell) {
	b.farewell = f
	b.tunnels = make(membersOf[*tunnel.Tunnel])
	b.exchanges = make(membersOf[*exchange])
	b.moving = make(map[*balancer.Member]context.CancelFunc)
}

// start runs a tunnel for m, and calls done when it has ended and is forgotten.
func (b *busy) start(m *balancer.Member, client, backend tunnel.Side, o tunnel.Options, done func(tunnel.End)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var t *tunnel.Tunnel
	o.Done = func(end tunnel.End) {
		b.mu.Lock() // waits until t is set
		b.tunnels.remove(m, t)
		b.mu.Unlock()
		done(end)
	}
	if t = b.engine.Start(client, backend, o); t == nil {
		return
	}
	b.tunnels.add(m, t)
	switch m.State().Admin { // as it is since the lease was taken
	case balancer.Moving:
		t.CloseFrame(b.farewell, time.Time{})
	case balancer.Down:
		t.Close(tunnel.Moved)
	}
}

// wait notes an exchange in which the target keeps the client waiting, until done is called. It reports false when m is
// down.
func (b *busy) wait(m *balancer.Member, x *exchange) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exchanges.add(m, x)
	return m.State().Admin != balancer.Down
}

func (b *busy) done(m *balancer.Member, x *exchange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exchanges.remove(m, x)
}

// closing reports whether no tunnel is started any more.
func (b *busy) closing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// close stops the asking: Shutdown asks everybody.
func (b *busy) close() {
	b.mu.Lock()
	b.closed = true
	for m := range b.moving {
		b.stay(m)
	}
	b.mu.Unlock()
	b.asking.Wait()
}

// Released implements balancer.Observer.
func (b *busy) Released(*balancer.Member, balancer.Outcome) {}

// Changed implements balancer.Observer.
func (b *busy) Changed(m *balancer.Member, s balancer.State) {
	for _, x := range b.follow(m, s.Admin) {
		x.cut()
	}
}

// follow does what a member's state asks for, and returns the exchanges that are to be cut: without the lock, because a
// transport may take a moment.
func (b *busy) follow(m *balancer.Member, admin balancer.Admin) []*exchange {
	b.mu.Lock()
	defer b.mu.Unlock()
	if admin == balancer.Moving {
		b.move(m)
		return nil
	}
	b.stay(m)
	if admin != balancer.Down {
		return nil
	}
	for t := range b.tunnels[m] {
		t.Close(tunnel.Moved)
	}
	return slices.Collect(maps.Keys(b.exchanges[m]))
}

// move begins to ask m's tunnels to end. b.mu is held.
func (b *busy) move(m *balancer.Member) {
	if b.moving[m] != nil || b.closed || len(b.tunnels[m]) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.moving[m] = cancel
	tunnels := slices.Collect(maps.Keys(b.tunnels[m]))
	b.asking.Go(func() {
		b.engine.Ask(ctx, b.farewell, tunnels...)
		b.mu.Lock()
		defer b.mu.Unlock()
		if ctx.Err() == nil {
			b.stay(m)
		}
	})
}

// stay ends what move began: those who have not been asked may stay. b.mu is held.
func (b *busy) stay(m *balancer.Member) {
	if cancel := b.moving[m]; cancel != nil {
		cancel()
		delete(b.moving, m)
	}
}
