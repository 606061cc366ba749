package health

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A run is one call of [Registry.Run]. Only its own goroutine uses the queue. Probes and the pool's
// observer send to that goroutine through channels.
type run struct {
	r       *Registry
	ctx     context.Context
	epoch   time.Time // times in the passive counters are since then
	passive Passive   // with its defaults
	tasks   sync.WaitGroup

	queue   queue
	flying  int         // probes under way
	landed  chan *track // targets whose probe has ended
	changes chan struct{}

	unobserve func()

	// Guarded by Registry.mu.
	journal  journal
	stopping bool
	came     []*track
	left     []*track
	hurried  []*track // to be probed early
}

var errRunning = errors.New("health: the registry is running already")

func (r *Registry) start(ctx context.Context) (*run, error) {
	u := &run{
		r:       r,
		ctx:     ctx,
		epoch:   time.Now(),
		passive: r.Passive.withDefaults(),
		landed:  make(chan *track),
		changes: make(chan struct{}, 1),
	}
	r.mu.Lock()
	if r.run != nil {
		r.mu.Unlock()
		return nil, errRunning
	}
	r.run = u
	r.resetLocked()
	for _, x := range r.exits {
		r.retireLocked(x) // continue what the last run began
	}
	r.mu.Unlock()

	u.unobserve = r.Pool.Observe((*observer)(u))
	u.adopt(r.Pool.Members())
	return u, nil
}

// finish ends what start began, once ctx has ended.
func (r *Registry) finish(u *run) {
	r.mu.Lock()
	u.stopping = true
	r.mu.Unlock()
	u.unobserve()
	u.tasks.Wait()
	u.writeJournal() // what came since stopping
	r.mu.Lock()
	r.run = nil
	r.mu.Unlock()
}

// adopt adds the members that the pool has when the run begins. Ready waits for these.
func (u *run) adopt(members []*balancer.Member) {
	u.r.mu.Lock()
	defer u.r.mu.Unlock()
	for _, m := range members {
		if m.Removed() {
			continue // the observer has added it already
		}
		t, added := u.trackLocked(m, m.State())
		if added {
			u.came = append(u.came, t)
		}
		if u.probes() {
			t.awaited = true
			u.r.undecided++
		}
	}
	for _, z := range u.r.zones {
		u.r.judgeZoneLocked(z)
	}
	u.r.checkReadyLocked()
	u.signal()
}

func (u *run) probes() bool { return u.r.Interval >= 0 }

// signal wakes the run's goroutine. It never blocks.
func (u *run) signal() {
	select {
	case u.changes <- struct{}{}:
	default:
	}
}

func (u *run) probeUntilDone() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-u.ctx.Done():
			return
		case <-u.changes:
			u.take()
		case t := <-u.landed:
			u.flying--
			u.again(t)
		case <-timer.C:
		}
		u.launch(time.Now())
		if len(u.queue) > 0 && u.flying < u.r.concurrency() {
			timer.Reset(time.Until(u.queue[0].due))
		}
	}
}

// take updates the queue for targets that were added, were removed, or are to be probed early.
func (u *run) take() {
	u.r.mu.Lock()
	came, left, hurried := u.came, u.left, u.hurried
	u.came, u.left, u.hurried = nil, nil, nil
	u.r.mu.Unlock()
	if !u.probes() {
		return
	}
	now := time.Now()
	for _, t := range came {
		t.plan(now, u.r.interval())
		heap.Push(&u.queue, t)
	}
	for _, t := range left {
		if t.index >= 0 {
			heap.Remove(&u.queue, t.index)
		}
	}
	for _, t := range hurried {
		if t.index < 0 { // it is being probed or has left the pool
			t.early = true
			continue
		}
		t.hurry(now)
		heap.Fix(&u.queue, t.index)
	}
}

// launch starts the probes that are due, the longest due first, as far as Concurrency allows.
func (u *run) launch(now time.Time) {
	for len(u.queue) > 0 && u.flying < u.r.concurrency() && !u.queue[0].due.After(now) {
		t := heap.Pop(&u.queue).(*track)
		u.r.late.Store(int64(now.Sub(t.due)))
		u.flying++
		t.ran, t.early = now, false
		u.tasks.Go(func() {
			u.probe(t)
			select {
			case u.landed <- t:
			case <-u.ctx.Done():
			}
		})
	}
}

// again puts a target back into the queue after its probe, unless it has left the pool.
func (u *run) again(t *track) {
	if t.m.Removed() {
		return
	}
	now := time.Now()
	t.next(now, u.r.interval(), u.r.jitter())
	if t.early {
		t.hurry(now)
	}
	heap.Push(&u.queue, t)
}

// probe checks one target and records the result.
func (u *run) probe(t *track) {
	limit := u.r.timeout()
	ctx, cancel := context.WithTimeout(context.WithValue(u.ctx, limitKey{}, limit), limit)
	defer cancel()
	began := time.Now()
	err := u.check(ctx, t.m.Target())
	took := time.Since(began)
	if u.ctx.Err() != nil {
		return // the end of the run cancelled it
	}
	if (err == nil || errors.Is(err, ErrReserved)) && ctx.Err() != nil {
		err = ctx.Err() // the check ignored ctx and was too late
	}
	u.conclude(t, result{began: began, took: took, err: err, reason: reason(err, limit)})
}

// check runs the registry's check. A panic counts as a failure.
func (u *run) check(ctx context.Context, t balancer.Target) (err error) {
	defer func() {
		if v := recover(); v != nil {
			u.r.logPanic("the check", v, "target", t.ID)
			err = &failure{reason: fmt.Sprintf("the check has panicked: %v", v)}
		}
	}()
	return u.r.check().Check(ctx, t)
}

// A schedule says when a target is probed: first at once, then in slots on a grid of its own. So
// neither jitter nor late probes add up over time.
type schedule struct {
	due   time.Time
	grid  time.Time // slot 0
	slot  int64
	index int       // place in the queue; -1: none
	ran   time.Time // when the latest probe began
	early bool      // the next probe is to be early
}

// plan makes the first probe due now and sets the grid. The grid begins at a random time at least
// half an interval away, so that targets that were added together are probed at different times.
func (s *schedule) plan(now time.Time, interval time.Duration) {
	s.due = now
	s.grid = now.Add(-interval/2 + time.Duration(rand.Float64()*float64(interval)))
	s.slot = 0
}

// next makes the next probe due in the first slot that is not over yet, varied by the jitter.
func (s *schedule) next(now time.Time, interval time.Duration, jitter float64) {
	passed := int64(max(0, now.Sub(s.grid)) / interval)
	s.slot = max(s.slot, passed) + 1
	off := time.Duration((rand.Float64() - 0.5) * jitter * float64(interval))
	s.due = s.grid.Add(time.Duration(s.slot)*interval + off)
}

// hurryGap is the least time between the beginnings of a probe and of an early one after it.
const hurryGap = time.Second

// hurry makes the next probe due as early as hurryGap allows. That probe uses no slot.
func (s *schedule) hurry(now time.Time) {
	soon := s.ran.Add(hurryGap)
	if soon.Before(now) {
		soon = now
	}
	if soon.Before(s.due) {
		s.due = soon
		s.slot--
	}
}

// A queue is a heap of targets, ordered by the time when their probe is due.
type queue []*track

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements [heap.Interface].
func (q *queue) Push(x any) {
	t := x.(*track)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop implements [heap.Interface].
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.index = -1
	return t
}
