package balancer

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// Config configures a [Pool].
type Config struct {
	// Name is what logs, errors, access records, metrics and the status call the pool. Empty means
	// that the pool has no name. A process with several pools gives each a name of its own; New
	// cannot tell whether another pool has the same one. Name has at most 128 bytes of UTF-8,
	// printable as [unicode.IsPrint] says: no control characters and no space but U+0020.
	Name string

	// Targets is the first set. It may be empty: Update sets others.
	Targets []Target

	// Picker chooses for new sessions; nil means least connections. It belongs to this
	// pool alone.
	Picker Picker

	// Zone is the zone that this pool is in. With OneZone a new session goes to a target of this
	// zone (see also Target.ForZones), and to another zone only if no target here can take it.
	// Bound sessions go to their target in any zone. OneZone needs a Zone.
	Zone    string
	OneZone bool

	// SlowStart is how long a target that has joined gets fewer new sessions than its weight says.
	// The same holds for a target that comes back from a state in which it took no new sessions,
	// except for a drain. Its weight counts by a sixteenth at first, and by one more with each
	// sixteenth of the time. Slow start is ignored while every serving target is itself starting.
	// Hash pickers and First ignore slow start. Zero means none; below zero is refused.
	SlowStart time.Duration

	// Queue is how many requests may wait in the whole pool while the targets that could serve them
	// are full. A free place goes to the session that is bound to its target and has waited
	// longest. If there is none, it goes to the other request that has waited longest. Zero means
	// that none waits; below zero is refused.
	Queue int

	// QueueTimeout is how long a request waits at most. Zero means as long as its context
	// lets it; below zero is refused.
	QueueTimeout time.Duration

	// Panic says what happens when few targets can serve: fewer than PanicThreshold percent of the
	// targets that the operator wants in service. Backups do not count. A threshold of zero means
	// 50; one below zero or above 100 is refused.
	Panic          Panic
	PanicThreshold int

	// Logger gets panics of observers and of the picker's Rebuild, with their stacks (Error). Nil
	// means [slog.Default].
	Logger *slog.Logger
}

// maxName is the most bytes that a pool's name may have.
const maxName = 128

func (c *Config) checkName() error {
	switch {
	case len(c.Name) > maxName:
		return fmt.Errorf("balancer: Name is longer than %d bytes", maxName)
	case !utf8.ValidString(c.Name) || strings.ContainsFunc(c.Name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("balancer: Name %+q is not printable UTF-8", c.Name)
	}
	return nil
}

func (c *Config) check() error {
	switch {
	case c.OneZone && c.Zone == "":
		return errors.New("balancer: OneZone without a Zone")
	case c.SlowStart < 0:
		return errors.New("balancer: SlowStart is negative")
	case c.Queue < 0 || c.QueueTimeout < 0:
		return errors.New("balancer: Queue or QueueTimeout is negative")
	case c.Panic > PanicClosed:
		return errors.New("balancer: no such Panic")
	case c.PanicThreshold < 0 || c.PanicThreshold > 100:
		return errors.New("balancer: PanicThreshold is not a percentage")
	case holdsNil(c.Picker):
		return fmt.Errorf("balancer: Picker is a nil %T", c.Picker)
	case c.Logger != nil && (c.Logger.Handler() == nil || holdsNil(c.Logger.Handler())):
		return errors.New("balancer: Logger has no handler")
	}
	return nil
}

// holdsNil reports whether v is not nil itself and holds a nil pointer or func.
func holdsNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil()
}

// A Pool hands out leases on its members. It starts no goroutine. Its timer runs while a target is
// ejected or starts slowly. Another timer takes over from a goroutine that has built 16 snapshots
// in a row for changes that others keep making. All methods are safe for concurrent use. "Changes"
// in the package documentation says when picks know of a change.
type Pool struct {
	name         string
	refusals     []*PoolError // one for each error of Acquire; empty without a name
	picker       Picker
	indexer      Indexer // picker, if it is one
	zone         string
	oneZone      bool
	slowStart    time.Duration
	panic        Panic
	threshold    int
	queueTimeout time.Duration
	logger       *slog.Logger
	epoch        time.Time

	// What acquire and release read.
	version   atomic.Uint64            // counts what may change the snapshot
	current   atomic.Pointer[Snapshot] // the published one
	interim   atomic.Pointer[Snapshot] // a later one without an index, or nil
	deferred  atomic.Bool              // the next pick publishes
	byID      atomic.Pointer[map[string]*Member]
	observers atomic.Pointer[[]Observer]
	queue     queue

	// mu guards the fields below. If the name of a function ends in Locked, its caller must hold
	// the mutex that guards the fields in question. This is so for all types of this package.
	mu       sync.Mutex
	members  []*Member  // configured order
	leaving  []*Member  // removed, but with leases; in the order in which they left
	kin      [2]kinship // of the members that are no backups, and of the backups
	slots    []int32    // free ones below the highest
	pending  []*Member  // ejected or starting slowly
	timer    *time.Timer
	ticked   time.Time // when it last fired
	watchers []*watcher
	events   []event // changes that observers have not been told yet, in order
	telling  bool    // somebody is telling them
	tellable uint64  // the version up to which they may be told
	building *build  // the snapshot that is being built, or nil
	unseen   int     // snapshots in a row from which nobody picked before the next
}

// New returns a pool of the targets in c, which start ready and of unknown health. It returns an
// error if a field cannot be used, for example if Picker is a nil pointer. The error is a
// [*PoolError] if the pool has a name that can be used.
func New(c Config) (*Pool, error) {
	if err := c.checkName(); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, inPool(c.Name, err)
	}
	p := &Pool{
		name: c.Name, refusals: refusalsOf(c.Name), picker: c.Picker, zone: c.Zone, oneZone: c.OneZone, slowStart: c.SlowStart,
		panic: c.Panic, threshold: c.PanicThreshold, queueTimeout: c.QueueTimeout,
		logger: c.Logger, epoch: time.Now(),
	}
	if p.picker == nil {
		p.picker = &LeastConnections{}
	}
	if p.threshold == 0 {
		p.threshold = defaultPanicThreshold
	}
	p.indexer, _ = p.picker.(Indexer)
	p.queue.limit = c.Queue
	p.byID.Store(new(map[string]*Member))
	p.observers.Store(new([]Observer))
	p.current.Store(newSnapshot(0, 0)) // for calls of the pool during the first Rebuild
	p.version.Store(1)
	if err := p.Update(c.Targets...); err != nil {
		return nil, err
	}
	p.publish(true) // an empty set, too
	return p, nil
}

// Name returns Config.Name; it is empty if the pool has none.
func (p *Pool) Name() string { return p.name }

// Members returns the members in configured order. The slice is the caller's.
func (p *Pool) Members() []*Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.members)
}

// Member returns the member of that ID.
func (p *Pool) Member(id string) (*Member, bool) {
	m, ok := (*p.byID.Load())[id]
	return m, ok
}

// Waiting returns how many requests wait in the queue at this moment.
func (p *Pool) Waiting() int { return int(p.queue.waiting.Load()) }

// Panicking returns the panic that is in effect, or [PanicOff] if enough targets serve.
func (p *Pool) Panicking() Panic { return p.fresh().panicking }

// Update replaces the set of targets. A target that keeps its ID and its endpoint keeps its Member,
// with load, state and slow start. The member takes over the target's weight, zone, labels, limits
// and client certificate. The endpoint is the URL, the Addr and the name that the certificate must
// have, compared in the spelling that [Target] describes. Another endpoint under the same ID is a
// new member. An equal set changes nothing. After an error nothing has changed. The error is a
// [*PoolError] if the pool has a name. Requests and tunnels on a target that is removed go on, see
// [Pool.Leaving].
func (p *Pool) Update(targets ...Target) error {
	next, err := Normalize(targets...)
	if err == nil {
		err = p.admit(next)
	}
	if err != nil {
		return inPool(p.name, err)
	}
	p.mu.Lock()
	changed := p.mergeLocked(next)
	if changed {
		p.changedLocked()
	}
	p.mu.Unlock()
	if changed {
		p.publish(true)
		p.announce()
	}
	return nil
}

// mergeLocked makes next the set and reports whether that changes anything.
func (p *Pool) mergeLocked(next []Target) bool {
	old := *p.byID.Load()
	members := make([]*Member, len(next))
	byID := make(map[string]*Member, len(next))
	var joined []*Member
	changed := false
	for i := range next {
		t := &next[i]
		m := old[t.ID]
		switch {
		case m == nil || !m.target().SameEndpoint(t):
			m = newMember(p, t)
			joined = append(joined, m)
		case !m.target().equal(t):
			m.configure(t)
			changed = true
		}
		members[i], byID[t.ID] = m, m
	}
	if !changed && slices.Equal(members, p.members) {
		return false
	}
	p.assembleLocked(members, byID, joined)
	return true
}

// assembleLocked makes members the set, of which those in joined are new.
func (p *Pool) assembleLocked(members []*Member, byID map[string]*Member, joined []*Member) {
	var gone, stay []*Member
	for _, m := range p.members {
		if byID[m.ID()] == m {
			stay = append(stay, m)
		} else {
			gone = append(gone, m)
			p.slots = append(p.slots, m.slot)
			p.noteLocked(event{member: m, state: m.State(), last: true})
		}
	}
	p.members = members
	p.joinLocked(joined, p.slowStart > 0 && warmLocked(stay, nil))
	p.kin = p.relateLocked()
	p.byID.Store(&byID) // before any is marked, so that its successor is found
	p.version.Add(1)    // so that whoever finds it marked skips it from now on
	p.removeLocked(gone)
}

// removeLocked marks the members that are no longer in the set.
func (p *Pool) removeLocked(gone []*Member) {
	for _, m := range gone {
		m.more.left.Store(true)
		p.followLeavingLocked(m)
	}
	p.pending = slices.DeleteFunc(p.pending, func(m *Member) bool { return m.more.left.Load() })
}

// joinLocked gives the new members, which are in the set already, their slots.
func (p *Pool) joinLocked(joined []*Member, slow bool) {
	fresh := int32(len(p.members) - len(joined) + len(p.slots))
	for _, m := range joined {
		if n := len(p.slots); n > 0 {
			m.slot, p.slots = p.slots[n-1], p.slots[:n-1]
		} else {
			m.slot, fresh = fresh, fresh+1
		}
		if slow {
			p.startSlowlyLocked(m)
		}
		p.noteLocked(event{member: m, state: m.State()})
	}
}
