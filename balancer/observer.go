package balancer

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"
)

// An Observer receives releases and changes of a pool's members. It is called outside of locks and
// may call the pool and the members. It must not block.
//
// Released is called after each release, on the goroutine that releases. Calls are concurrent.
//
// Changed is called in three cases: when a member is added, with its first state; when its state
// changes; and when it leaves, with Member.Removed reporting true. A member that has left may still
// have requests and tunnels, which follow its administrative state. So Changed is still called when
// that state changes, and Released when a lease is released. The release of the last lease is the
// end of the member. Calls of Changed come one at a time and in the order of the changes, once
// picks see the change. They come on the goroutine that made the change. If several goroutines make
// changes at once, one of them makes the calls for all. An ejection ends on a goroutine of its own.
//
// A panic of an observer is logged with its stack, see Config.Logger, and recovered. The other
// observers are still called.
type Observer interface {
	Released(m *Member, o Outcome)
	Changed(m *Member, s State)
}

// An Admitter is an [Observer] that cannot work with every target: a proxy for HTTP, for example,
// cannot use a tcp URL. [Pool.Update] asks it about each target of a new set, defaults filled in,
// and changes nothing if it returns an error. Calls are concurrent, and like those of an Observer
// they must not block.
type Admitter interface{ Admit(t Target) error }

// A WaitObserver is an [Observer] that also learns of waits in the pool's queue. Waited is called
// once for each wait, when the wait has ended, on the goroutine of the request. Calls are
// concurrent. A request that was served at once, or that found no room in the queue, has not
// waited. The rules for an Observer's methods apply to Waited, too.
type WaitObserver interface{ Waited(w Wait) }

// A Wait is the account of one wait in a pool's queue, see Config.Queue.
type Wait struct {
	Pool     *Pool
	Member   *Member       // the member that the request got a place on; nil if it got none
	Bound    bool          // the request waited for the target that it is bound to
	Tunnel   bool          // the request is to open a tunnel
	Duration time.Duration // in the queue
	Err      error         // as Acquire or AcquireBound returns it; nil if the request has a place
}

// An event is a change that observers have not been told of yet.
type event struct {
	member  *Member
	state   State
	last    bool   // the member has left
	version uint64 // of the pool, with the change
}

// noteLocked keeps an event until the change is published. A call of changedLocked must follow.
func (p *Pool) noteLocked(e event) {
	e.version = p.version.Load() + 1
	p.events = append(p.events, e)
}

// admit returns why an observer cannot work with one of the targets.
func (p *Pool) admit(targets []Target) error {
	for _, o := range *p.observers.Load() {
		a, ok := o.(Admitter)
		if !ok {
			continue
		}
		for i := range targets {
			if err := a.Admit(targets[i]); err != nil {
				return fmt.Errorf("balancer: target %d (%q): %w", i, targets[i].ID, err)
			}
		}
	}
	return nil
}

// A watcher gives each Observe its own identity: observers need not be comparable.
type watcher struct{ Observer }

// Observe calls o from now on, until stop is called. To miss nothing, call Observe before Members.
// Calls that have begun may end after stop returns. Observe panics if o is nil or a nil pointer.
func (p *Pool) Observe(o Observer) (stop func()) {
	if o == nil || holdsNil(o) {
		panic("balancer: Observe of a nil Observer")
	}
	w := &watcher{o}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchLocked(append(slices.Clone(p.watchers), w))
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.watchLocked(slices.DeleteFunc(slices.Clone(p.watchers), func(x *watcher) bool { return x == w }))
	}
}

func (p *Pool) watchLocked(ws []*watcher) {
	p.watchers = ws
	list := make([]Observer, len(ws))
	for i, w := range ws {
		list[i] = w.Observer
	}
	p.observers.Store(&list)
}

// tell delivers the events whose changes are published. If another goroutine is delivering, that
// one delivers these as well. This keeps the order, and lets an observer make changes itself.
func (p *Pool) tell() {
	for {
		events := p.nextEvents()
		if events == nil {
			return
		}
		p.deliver(events)
	}
}

func (p *Pool) nextEvents() []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.events) && p.events[n].version <= p.tellable {
		n++
	}
	if p.telling || n == 0 {
		return nil
	}
	events := p.events[:n:n]
	p.events, p.telling = slices.Clone(p.events[n:]), true
	return events
}

func (p *Pool) deliver(events []event) {
	defer func() {
		p.mu.Lock()
		p.telling = false
		p.mu.Unlock()
	}()
	for _, e := range events {
		if e.last {
			e.member.more.removed.Store(true)
		}
		for _, o := range *p.observers.Load() {
			p.tellChanged(o, e)
		}
	}
}

func (p *Pool) tellChanged(o Observer, e event) {
	defer p.contain("Observer.Changed")
	o.Changed(e.member, e.state)
}

func (p *Pool) tellReleased(o Observer, m *Member, out Outcome) {
	defer p.contain("Observer.Released")
	o.Released(m, out)
}

func (p *Pool) tellWaited(w Wait) {
	for _, o := range *p.observers.Load() {
		if wo, ok := o.(WaitObserver); ok {
			p.callWaited(wo, w)
		}
	}
}

func (p *Pool) callWaited(o WaitObserver, w Wait) {
	defer p.contain("WaitObserver.Waited")
	o.Waited(w)
}

// contain recovers and logs a panic of one of the user's methods. It must be deferred.
func (p *Pool) contain(method string) {
	v := recover()
	if v == nil {
		return
	}
	defer func() { _ = recover() }() // the logger is the caller's code too
	log := p.logger
	if log == nil {
		log = slog.Default()
	}
	if p.name != "" {
		log = log.With("pool", p.name)
	}
	log.Error("balancer: "+method+" has panicked", "panic", v, "stack", string(debug.Stack()))
}
