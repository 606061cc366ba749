package balancer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a [Pool].
type Config struct {
	// Targets is the first set; none is fine, they may come later by Update.
	Targets []Target

	// Picker chooses for new sessions; nil means least connections. It belongs to this
	// pool alone.
	Picker Picker
}

// A Pool hands out leases on its members. It starts no goroutine; a timer runs only while
// something is pending. All methods are safe for concurrent use.
type Pool struct {
	picker  Picker
	indexer Indexer // picker, if it is one
	epoch   time.Time

	current   atomic.Pointer[Snapshot] // nil: to be made by the next who needs it
	byID      atomic.Pointer[map[string]*Member]
	observers atomic.Pointer[[]Observer]

	mu      sync.Mutex
	members []*Member // configured order
	timer   *time.Timer

	events   []event // changes that observers have not been told yet, in order
	telling  bool    // somebody is telling them
	watchers []*watcher
}

// New returns a pool of the targets in c, which start ready and of unknown health.
func New(c Config) (*Pool, error) {
	p := &Pool{picker: c.Picker, epoch: time.Now()}
	if p.picker == nil {
		p.picker = &LeastConnections{}
	}
	p.indexer, _ = p.picker.(Indexer)
	p.observers.Store(new([]Observer))
	p.byID.Store(new(map[string]*Member))
	return p, p.Update(c.Targets...)
}

// Update replaces the set of targets. A target that keeps its ID and URL keeps its Member,
// with load and state; its weight, zone and limits are taken over. Another URL under the
// same ID is a new member. An equal set changes nothing. After an error nothing has
// changed.
func (p *Pool) Update(targets ...Target) error {
	next, err := normalizeAll(targets)
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.merge(next) {
		p.current.Store(nil)
	}
	p.mu.Unlock()
	p.tell()
	return nil
}

// merge makes next the set and reports whether that changes anything.
func (p *Pool) merge(next []Target) bool {
	old := *p.byID.Load()
	members := make([]*Member, len(next))
	byID := make(map[string]*Member, len(next))
	changed := len(next) != len(p.members)
	for i := range next {
		t := &next[i]
		m := old[t.ID]
		switch {
		case m == nil || !m.target.Load().sameEndpoint(t):
			m = newMember(p, t)
			changed = true
		case !m.target.Load().equal(t):
			m.configure(t)
			changed = true
		}
		members[i], byID[t.ID] = m, m
	}
	if !changed && slices.Equal(members, p.members) {
		return false
	}
	for _, m := range p.members {
		if byID[m.ID()] != m {
			m.removed.Store(true)
			p.events = append(p.events, event{m, m.State()})
		}
	}
	for i := range members {
		if m := members[i]; old[m.ID()] != m {
			p.events = append(p.events, event{m, m.State()})
		}
	}
	p.members = members
	p.byID.Store(&byID)
	return true
}

// change edits the state of m, publishes and notifies if that makes a difference.
func (p *Pool) change(m *Member, edit func(*State)) {
	p.mu.Lock()
	s := m.State()
	edit(&s)
	if !m.Removed() && s != *m.state.Load() {
		p.set(m, s)
		p.schedule()
	}
	p.mu.Unlock()
	p.tell()
}

func (p *Pool) set(m *Member, s State) {
	m.state.Store(&s)
	p.current.Store(nil)
	p.events = append(p.events, event{m, s})
}

// schedule sets the timer to the first end of an ejection.
func (p *Pool) schedule() {
	var next time.Time
	for _, m := range p.members {
		if until := m.state.Load().EjectedUntil; !until.IsZero() && (next.IsZero() || until.Before(next)) {
			next = until
		}
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if !next.IsZero() {
		p.timer = time.AfterFunc(time.Until(next), p.tick)
	}
}

// tick ends the ejections whose time has come.
func (p *Pool) tick() {
	p.mu.Lock()
	now := time.Now()
	for _, m := range p.members {
		if s := m.State(); !s.EjectedUntil.IsZero() && !s.EjectedUntil.After(now) {
			s.EjectedUntil = time.Time{}
			p.set(m, s)
		}
	}
	p.schedule()
	p.mu.Unlock()
	p.tell()
}

// snapshot returns the current snapshot and makes it if the last one is out of date.
func (p *Pool) snapshot() *Snapshot {
	if s := p.current.Load(); s != nil {
		return s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.current.Load(); s != nil {
		return s
	}
	s := newSnapshot(p.members)
	if p.indexer != nil {
		p.indexer.Rebuild(s)
	}
	p.current.Store(s)
	return s
}

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

// Acquire returns a lease on the member that the picker chooses. The error matches
// [ErrNoTarget].
func (p *Pool) Acquire(ctx context.Context, q *Request) (Lease, error) {
	s := p.snapshot()
	for range len(s.members) + 1 {
		m := p.choose(q, s)
		if m == nil || q.Skip(m) {
			break
		}
		if load, ok := m.reserve(q.Tunnel); ok {
			p.loaded(m, load)
			return Lease{member: m, tunnel: q.Tunnel}, nil
		}
	}
	return Lease{}, refusal(q, s)
}

// choose asks the picker, for a member of the own zone first.
func (p *Pool) choose(q *Request, s *Snapshot) *Member {
	if s.local != s {
		if m := p.picker.Pick(q, s.local); m != nil {
			return m
		}
	}
	return p.picker.Pick(q, s)
}

// refusal returns why no member of s can take the request.
func refusal(q *Request, s *Snapshot) error {
	switch {
	case len(s.members) == 0:
		return ErrNoTarget
	case q.excludesAll(s.members):
		return errAllExcluded
	}
	return errAllFull
}

// AcquireBound returns a lease on the member of that ID, to which the request's session is
// bound: a draining one, a backup and one that takes no new sessions serve it as well. The
// error is one of [ErrUnknown], [ErrDown], [ErrEjected], [ErrMoving], [ErrExcluded] and
// [ErrFull].
func (p *Pool) AcquireBound(ctx context.Context, id string, q *Request) (Lease, error) {
	m, ok := p.Member(id)
	if !ok {
		return Lease{}, ErrUnknown
	}
	if err := m.state.Load().bound(); err != nil {
		return Lease{}, err
	}
	if q.excludes(m) {
		return Lease{}, ErrExcluded
	}
	load, ok := m.reserve(q.Tunnel)
	if !ok {
		return Lease{}, ErrFull
	}
	p.loaded(m, load)
	return Lease{member: m, tunnel: q.Tunnel}, nil
}

func (p *Pool) release(m *Member, tunnel bool, o Outcome) {
	p.loaded(m, m.free(tunnel))
	if o.Class.failed() || o.Class == OK && o.Latency > 0 {
		m.latency.add(p.clock(), o.Latency, o.Class.failed())
	}
	for _, w := range *p.observers.Load() {
		w.Released(m, o)
	}
}

func (p *Pool) loaded(m *Member, load int64) {
	if p.indexer != nil {
		p.indexer.Loaded(m, load)
	}
}

// clock returns the time since the pool was made.
func (p *Pool) clock() time.Duration { return time.Since(p.epoch) }
