package balancer

import "time"

const (
	// patience is how long a change waits for a snapshot that another goroutine is building.
	patience = 100 * time.Millisecond

	// unseenMost is how many snapshots in a row are built without a pick from any of them. After
	// that the next pick builds, so that many changes before the first request cost little.
	unseenMost = 64

	// roundsMost is how many snapshots a goroutine builds or waits for. Then a new timer takes
	// over, because endless changes must not hold a caller for ever.
	roundsMost = 16
)

// A build is the making of a snapshot, from the collection of its members until it is published.
// Its fields are guarded by Pool.mu.
type build struct {
	done    chan struct{} // closed when the snapshot is published
	waiting int           // goroutines that wait for it
	slow    bool          // it takes longer than patience, so nobody waits for it any more
}

// publish publishes a snapshot with all changes so far. If no other goroutine is building a
// snapshot, publish builds one. Otherwise it waits for the other goroutine, but no longer than
// patience. Of the goroutines that wait, one builds the snapshot with the changes that came
// meanwhile. A change of the set is never left to the next pick.
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
		case published.version == p.version.Load():
			return
		case b == nil:
			if p.buildLocked() > 0 && p.current.Load().version >= mine {
				return // a goroutine that has waited builds the next one
			}
		case published.version >= mine:
			return
		case b.slow:
			p.tellable = max(p.tellable, mine)
			return
		default:
			p.waitForLocked(b)
		}
	}
	p.handOverLocked()
}

// handOverLocked leaves the remaining changes to a new timer, if nobody is building them.
func (p *Pool) handOverLocked() {
	if p.building == nil && p.current.Load().version != p.version.Load() {
		p.goOnLater()
	}
}

// goOnLater publishes the remaining changes and reports them to observers, on the goroutine of a
// new timer.
func (p *Pool) goOnLater() {
	time.AfterFunc(0, func() {
		p.publish(true)
		p.announce()
	})
}

// buildLocked makes a snapshot and publishes it. It returns how many goroutines waited for that. It
// releases the lock while the picker rebuilds.
func (p *Pool) buildLocked() (waited int) {
	b := &build{done: make(chan struct{})}
	p.building = b
	last, s := p.current.Load(), p.collectLocked()
	if p.unseen++; last.used.Load() {
		p.unseen = 0
	}
	p.mu.Unlock()
	ended := true // stays true if Rebuild ends the goroutine
	defer func() {
		p.mu.Lock()
		p.current.Store(s)
		p.interim.Store(nil)
		p.tellable = max(p.tellable, s.version)
		p.deferred.Store(false)
		p.building = nil
		close(b.done)
		waited = b.waiting
		if ended {
			p.goOnLater()
		}
	}()
	p.prepare(s, last)
	ended = false
	return 0
}

// prepare makes the tables and indexes for picks from s. It contains a panic of the picker.
func (p *Pool) prepare(s, last *Snapshot) {
	s.prepareDraws(last, p.indexer == nil)
	if p.indexer != nil {
		defer p.contain("Indexer.Rebuild")
		p.indexer.Rebuild(s)
	}
}

// waitForLocked waits until b is done, but no longer than patience. It releases the lock meanwhile.
func (p *Pool) waitForLocked(b *build) {
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

// snapshot returns the published snapshot. It is out of date while the next one is being built.
// Then [Request.Skip] reports the members that have been taken out of service since.
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

// catchUp returns a snapshot that includes the changes that were left to the next pick.
func (p *Pool) catchUp() *Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.building != nil {
		return p.collectInterimLocked()
	}
	if p.deferred.Load() && p.buildLocked() == 0 {
		p.handOverLocked()
	}
	return p.current.Load()
}

// fresh returns a snapshot with all changes. If the published one is out of date, the result is one
// that the picker was not prepared for. It does not wait for the picker.
func (p *Pool) fresh() *Snapshot {
	for _, of := range []*Snapshot{p.current.Load(), p.interim.Load()} {
		if of != nil && !p.outdated(of) {
			return of
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.collectInterimLocked()
}

// collectInterimLocked is fresh for a caller that holds mu.
func (p *Pool) collectInterimLocked() *Snapshot {
	for _, of := range []*Snapshot{p.current.Load(), p.interim.Load()} {
		if of != nil && !p.outdated(of) {
			return of
		}
	}
	s := p.collectLocked()
	p.interim.Store(s)
	return s
}

// collectLocked makes a snapshot.
func (p *Pool) collectLocked() *Snapshot {
	b := builder{pool: p, now: time.Now()}
	s := b.build(p.members)
	s.version = p.version.Load()
	return s
}
