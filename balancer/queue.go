package balancer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A queue holds the requests that wait for a place, first come, first served. Requests bound to a
// member wait in that member's lists, the others in the pool's. A release passes its place to the
// first request that can use it, and wakes no other. Requests bound to the member come first.
//
// A place that came free just before a request joined was passed to nobody. Therefore each request
// looks for a place once more after it has joined. From then on it misses none, because a release
// looks at the queue after it has set a place free.
//
// No release passes anything on when targets join, come back or get higher limits. Then the first
// waiter is told to look again, and after it the next one. If a request without exclusions has
// looked in vain, others without exclusions would do so as well. From then on only requests with
// exclusions are told, because they may use a tier that the others may not.
type queue struct {
	limit   int
	waiting atomic.Int64 // on all lists

	mu    sync.Mutex
	free  lists
	bound map[*Member]*lists
}

// lists are those who wait for a request's place and those who wait for a tunnel's.
type lists [2]list

func (l *lists) of(tunnel bool) *list {
	if tunnel {
		return &l[1]
	}
	return &l[0]
}

// A list is a doubly linked list of waiters.
type list struct {
	first, last *waiter
	excluding   int // how many of them have exclusions
}

// A waiter is a request that waits.
type waiter struct {
	q      *Request
	member *Member // the only one it can use; nil means any
	wake   chan struct{}
	list   *list

	// Guarded by queue.mu.
	prev, next *waiter
	waiting    bool
	look       bool    // the waiter has to look again
	vain       bool    // others without exclusions have looked in vain
	given      *Member // the member whose place it got, when it no longer waits
	err        error   // or why it got none
}

// fullness returns the error of a waiter that got no place.
func (w *waiter) fullness() error {
	if w.member != nil {
		return ErrFull
	}
	return errAllFull
}

// join appends w, unless the queue is full.
func (u *queue) join(w *waiter) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.waiting.Load() >= int64(u.limit) {
		return false
	}
	all := &u.free
	if w.member != nil {
		all = u.listsOfLocked(w.member)
	}
	w.wake = make(chan struct{}, 1)
	w.list = all.of(w.q.Tunnel)
	w.list.push(w)
	w.waiting = true
	u.waiting.Add(1)
	return true
}

func (u *queue) listsOfLocked(m *Member) *lists {
	all := u.bound[m]
	if all == nil {
		all = new(lists)
		if u.bound == nil {
			u.bound = make(map[*Member]*lists)
		}
		u.bound[m] = all
	}
	return all
}

func (l *list) push(w *waiter) {
	w.prev = l.last
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
	if w.excludes() {
		l.excluding++
	}
}

func (l *list) remove(w *waiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
	if w.excludes() {
		l.excluding--
	}
}

func (w *waiter) excludes() bool { return len(w.q.excluded) > 0 }

// endLocked takes w off its list and gives it a member or an error, or neither.
func (u *queue) endLocked(w *waiter, given *Member, err error) {
	if w.look {
		w.list.rouseLocked(w.next, w.vain)
	}
	w.list.remove(w)
	w.waiting, w.given, w.err = false, given, err
	u.waiting.Add(-1)
	if all := u.bound[w.member]; all != nil && all[0].first == nil && all[1].first == nil {
		delete(u.bound, w.member)
	}
	w.signal()
}

// rouseLocked tells w to look again, or the next waiter that may find a place. A nil w means that
// there is none. Vain reports whether a request without exclusions has looked in vain.
func (l *list) rouseLocked(w *waiter, vain bool) {
	if vain && l.excluding == 0 {
		return
	}
	for w != nil && vain && !w.excludes() {
		w = w.next
	}
	if w != nil {
		w.vain = vain && (w.vain || !w.look)
		w.look = true
		w.signal()
	}
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default: // it has not seen the last one yet
	}
}

// woken notes that w looks now. It reports whether w still waits, and whether only waiters with
// exclusions need to look after it.
func (u *queue) woken(w *waiter) (waiting, vain bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	w.look = false
	return w.waiting, w.vain
}

// passOn tells the next waiter to look again, after w has looked.
func (u *queue) passOn(w *waiter, vain bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if w.waiting {
		w.list.rouseLocked(w.next, vain)
	} else {
		w.list.rouseLocked(w.list.first, false)
	}
}

// leave ends the wait of w, unless that has happened, and reports whether it did.
func (u *queue) leave(w *waiter) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if w.waiting {
		u.endLocked(w, nil, nil)
		return true
	}
	return false
}

// heirLocked returns the first waiter that can use a place on m. A nil s means that m takes no new
// sessions.
func (u *queue) heirLocked(m *Member, tunnel bool, s *Snapshot) *waiter {
	if all := u.bound[m]; all != nil {
		if w := all.of(tunnel).first; w != nil {
			return w
		}
	}
	if !s.hasBelow(m) {
		return nil
	}
	for w := u.free.of(tunnel).first; w != nil; w = w.next {
		if !w.q.excludes(m) && s.admits(w.q, m) {
			return w
		}
	}
	return nil
}

// queueUp waits for a place for a new session. If waiting would not help, it returns the reason.
func (p *Pool) queueUp(ctx context.Context, q *Request, s *Snapshot) (Lease, error) {
	err := refusal(q, s)
	if err != errAllFull || p.queue.limit == 0 {
		return Lease{}, err
	}
	return p.wait(ctx, &waiter{q: q}, p.waitDeadline())
}

// waitDeadline returns the time until which a request that begins to wait now may wait. The zero
// time means no limit.
func (p *Pool) waitDeadline() time.Time {
	if p.queueTimeout > 0 {
		return time.Now().Add(p.queueTimeout)
	}
	return time.Time{}
}

// wait returns once w has a place or cannot get one, and tells observers of the wait.
func (p *Pool) wait(ctx context.Context, w *waiter, deadline time.Time) (Lease, error) {
	if !p.queue.join(w) {
		return Lease{}, w.fullness()
	}
	began := time.Now()
	lease, err := p.waitInLine(ctx, w, deadline)
	p.tellWaited(Wait{
		Pool: p, Member: lease.member, Bound: w.member != nil, Tunnel: w.q.Tunnel,
		Duration: time.Since(began), Err: p.refused(err),
	})
	return lease, err
}

// waitInLine is wait for a waiter that has joined the queue.
func (p *Pool) waitInLine(ctx context.Context, w *waiter, deadline time.Time) (Lease, error) {
	var timeout <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		timeout = t.C
	}
	looking := true
	defer func() {
		if looking { // the picker has panicked, or ended the goroutine
			p.abandon(w)
		}
	}()
	m, err := p.look(w)
	looking = false
	for m == nil && err == nil {
		select {
		case <-w.wake:
			waiting, vain := p.queue.woken(w)
			if !waiting {
				return w.lease(w.given), w.err
			}
			looking = true
			m, err = p.look(w)
			looking = false
			p.queue.passOn(w, vain || m == nil && err == nil && !w.excludes())
		case <-ctx.Done():
			err = fmt.Errorf("balancer: waiting for a place: %w", ctx.Err())
		case <-timeout:
			err = w.fullness()
		}
	}
	return p.finish(w, m, err)
}

// look tries to get a place as a request that does not wait would. It returns neither a member nor
// an error if w should wait.
func (p *Pool) look(w *waiter) (*Member, error) {
	if w.member != nil {
		switch err := p.takeBound(w.q, w.member); err {
		case nil:
			return w.member, nil
		case ErrFull:
			return nil, nil
		default:
			return nil, err
		}
	}
	s := p.snapshot()
	for {
		if m := p.take(w.q, s); m != nil {
			return m, nil
		}
		if !p.outdated(s) {
			break
		}
		s = p.fresh()
	}
	if err := refusal(w.q, s); err != errAllFull {
		return nil, err
	}
	return nil, nil
}

// finish ends the wait with what w found. If a release gave w a place at the same moment, w keeps
// that one instead.
func (p *Pool) finish(w *waiter, m *Member, err error) (Lease, error) {
	if p.queue.leave(w) {
		if err != nil {
			return Lease{}, err
		}
		return w.lease(m), nil
	}
	if err == nil {
		p.vacate(m, w.q.Tunnel)
	}
	return w.lease(w.given), w.err
}

// abandon ends the wait of w without a place. Others may have been told to look after it.
func (p *Pool) abandon(w *waiter) {
	p.queue.passOn(w, false)
	if !p.queue.leave(w) && w.given != nil {
		p.vacate(w.given, w.q.Tunnel)
	}
}

func (w *waiter) lease(m *Member) Lease { return Lease{member: m, tunnel: w.q.Tunnel} }

// give passes a place on m to the first waiter that can use it, and reports whether there was one.
// Held reports whether the caller holds the place. Otherwise the place is free, and give reserves
// it.
func (p *Pool) give(m *Member, tunnel, held bool) bool {
	s := p.snapshot()
	switch {
	case !p.outdated(s):
	case s.lost(m):
		s = nil // only for requests that are bound to m
	case !s.hasBelow(m):
		s = p.fresh() // m has joined since s was made
	}
	if !p.queue.give(m, tunnel, held, s) {
		return false
	}
	if !held {
		p.loaded(m, m.Load())
	}
	return true
}

func (u *queue) give(m *Member, tunnel, held bool, s *Snapshot) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	w := u.heirLocked(m, tunnel, s)
	if w == nil {
		return false
	}
	if !held {
		if _, ok := m.reserve(tunnel); !ok {
			return false
		}
	}
	u.endLocked(w, m, nil)
	return true
}

// review serves the queue after the set or a state has changed.
func (p *Pool) review() {
	if p.queue.waiting.Load() == 0 {
		return
	}
	for _, m := range p.queue.review() {
		p.loaded(m, m.Load())
	}
}

// review gives places to those who wait for one member, or refuses them, and tells the first of the
// others to look again. It returns the members whose load has grown.
func (u *queue) review() (took []*Member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for m, all := range u.bound {
		for i := range all {
			if u.reviewBoundLocked(m, &all[i]) {
				took = append(took, m)
			}
		}
	}
	for i := range u.free {
		u.free[i].rouseLocked(u.free[i].first, false)
	}
	return took
}

// reviewBoundLocked is review for one list of m. It reports whether the load of m has grown.
func (u *queue) reviewBoundLocked(m *Member, l *list) (took bool) {
	err := m.state.Load().bound()
	if m.more.left.Load() {
		err = ErrUnknown
	}
	for w := l.first; w != nil; w = l.first {
		if err != nil {
			u.endLocked(w, nil, err)
			continue
		}
		if _, ok := m.reserve(w.q.Tunnel); !ok {
			return took
		}
		u.endLocked(w, m, nil)
		took = true
	}
	return took
}
