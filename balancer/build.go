package balancer

import "time"

const (
	// patience is how long a change waits for a snapshot that another goroutine is building.
	patience = 100 * time.Millisecond

	// unseenMost is how many snapshots are built in a row from which nobody picks. After that the
	// next pick builds, so that a great many changes before the first request cost little.
	unseenMost = 64

	// roundsMost is how many snapshots a goroutine builds or waits for before the pool's timer
	// takes over from it: changes without an end must not hold a caller for ever.
	roundsMost = 16
)

// A build is the making of a snapshot, from the collection of its members until it is published.
// Its fields are guarded by Pool.mu.
type build struct {
	done    chan struct{} // closed when the snapshot is published
	waiting int           // goroutines that wait for it
	slow    bool          // it takes longer than patience: nobody waits any more
}

// publish has the changes so far published. The goroutine that finds nobody building builds; the
// others wait for it, but no longer than patience. One of those who waited builds the snapshot of
// the changes that came meanwhile. A change of the set is never left to the next pick.
func (p *Pool) publish(ofSet bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.building == nil && !ofSet && p.unseen >= unseenMost && !p.current.Load().used.Load() {
		p.deferred.Store(true)
		p.tellable = p.version.Load()
		return
	}
	mine := p.version.Load()
	for range roundsMost {
		b := p.building
		switch published := p.current.Load(); {
		case published != nil && published.version == p.version.Load():
			return
		case b == nil:
			if p.build() > 0 && p.current.Load().version >= mine {
				return // one of those who waited goes on
			}
		case published.version >= mine:
			return
		case b.slow:
			p.tellable = max(p.tellable, mine)
			return
		default:
			p.waitFor(b)
		}
	}
	p.handOver()
}

// handOver leaves what is still to be built to the pool's timer. The lock is held.
func (p *Pool) handOver() {
	if p.building == nil && p.current.Load().version != p.version.Load() {
		time.AfterFunc(0, func() {
			p.publish(true)
			p.announce()
		})
	}
}

// build makes a snapshot and publishes it. It returns how many goroutines waited for that. The
// lock is held, except while the picker rebuilds.
func (p *Pool) build() (waited int) {
	b := &build{done: make(chan struct{})}
	p.building = b
	last, s := p.current.Load(), p.collect()
	if p.unseen++; last != nil && last.used.Load() {
		p.unseen = 0
	}
	p.mu.Unlock()
	defer func() { // also if Rebuild ends the goroutine
		p.mu.Lock()
		p.current.Store(s)
		p.interim.Store(nil)
		p.tellable = max(p.tellable, s.version)
		p.deferred.Store(false)
		p.building = nil
		close(b.done)
		waited = b.waiting
	}()
	p.prepare(s, last)
	return 0
}

// prepare makes what picks from s need. A panic of the picker goes no further.
func (p *Pool) prepare(s, last *Snapshot) {
	if last != nil {
		s.prepareDraws(last, p.indexer == nil)
	}
	if p.indexer != nil {
		defer p.contain("Indexer.Rebuild")
		p.indexer.Rebuild(s)
	}
}

// waitFor waits until b is done or patience is at its end. The lock is held, but not meanwhile.
func (p *Pool) waitFor(b *build) {
	b.waiting++
	p.mu.Unlock()
	timer := time.NewTimer(patience)
	slow := false
	select {
	case <-b.done:
	case <-timer.C:
		slow = true
	}
	timer.Stop()
	p.mu.Lock()
	b.waiting--
	b.slow = b.slow || slow
}

// snapshot returns the published snapshot. While the next one is being built, it is out of date;
// then [Request.Skip] reports who has been taken out since.
func (p *Pool) snapshot() *Snapshot {
	s := p.current.Load()
	if p.outdated(s) && p.deferred.Load() {
		s = p.catchUp()
	}
	if !s.used.Load() {
		s.used.Store(true)
	}
	return s
}

// outdated reports whether there were changes since s was made.
func (p *Pool) outdated(s *Snapshot) bool { return s.version != p.version.Load() }

// catchUp returns a snapshot with the changes that were left to the next pick.
func (p *Pool) catchUp() *Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.building != nil {
		return p.collectInterim()
	}
	if p.deferred.Load() && p.build() == 0 {
		p.handOver()
	}
	return p.current.Load()
}

// fresh returns a snapshot with all changes: the published one, or else one that the picker was
// not prepared for. It does not wait for the picker.
func (p *Pool) fresh() *Snapshot {
	for _, of := range []*Snapshot{p.current.Load(), p.interim.Load()} {
		if of != nil && !p.outdated(of) {
			return of
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.collectInterim()
}

// collectInterim returns what fresh does. The lock is held.
func (p *Pool) collectInterim() *Snapshot {
	for _, of := range []*Snapshot{p.current.Load(), p.interim.Load()} {
		if of != nil && !p.outdated(of) {
			return of
		}
	}
	s := p.collect()
	p.interim.Store(s)
	return s
}

// collect makes a snapshot. The lock is held.
func (p *Pool) collect() *Snapshot {
	b := builder{pool: p, now: time.Now()}
	s := b.build(p.members)
	s.version = p.version.Load()
	return s
}
