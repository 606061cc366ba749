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

// A run is one call of [Registry.Run]. Its own goroutine is the only one that touches the
// queue; probes and the pool's observer hand it what they have through channels.
type run struct {
	r       *Registry
	ctx     context.Context
	epoch   time.Time // what the passive counters count from
	passive Passive   // with its defaults
	tasks   sync.WaitGroup

	queue   queue
	flying  int         // probes under way
	landed  chan *track // their targets, when they have ended
	changes chan struct{}

	unobserve   func()
	unsubscribe func()

	// Guarded by Registry.mu.
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
		r.retireLocked(x) // where the last run has left it
	}
	r.mu.Unlock()

	events, unsubscribe := r.Subscribe(logBuffer)
	u.unsubscribe = unsubscribe
	u.tasks.Go(func() { r.logEvents(events) })
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
	u.unsubscribe()
	u.tasks.Wait()
	r.mu.Lock()
	r.run = nil
	r.mu.Unlock()
}

// adopt takes on the members that the pool has when the run begins. They are what Ready waits for.
func (u *run) adopt(members []*balancer.Member) {
	u.r.mu.Lock()
	defer u.r.mu.Unlock()
	for _, m := range members {
		if m.Removed() {
			continue // meanwhile: the observer was told already
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

// signal tells the run's goroutine that targets came or left. It never blocks.
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

// take brings the queue up to date with the targets that came and left.
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
		if t.index < 0 { // it is being probed, or has left
			t.early = true
			continue
		}
		t.hurry(now)
		heap.Fix(&u.queue, t.index)
	}
}

// launch starts the probes that are due, the longest due first, as far as there is room.
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

// again puts a target that has been probed back into the queue, unless it has left the pool.
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

// probe checks one target and acts on the verdict.
func (u *run) probe(t *track) {
	limit := u.r.timeout()
	ctx, cancel := context.WithTimeout(context.WithValue(u.ctx, limitKey{}, limit), limit)
	defer cancel()
	began := time.Now()
	err := u.check(ctx, t.m.Target())
	took := time.Since(began)
	if u.ctx.Err() != nil {
		return // cut off by the end of the run: nobody's failure
	}
	if (err == nil || errors.Is(err, ErrReserved)) && ctx.Err() != nil {
		err = ctx.Err() // the check did not look at ctx; the answer is late all the same
	}
	u.conclude(t, result{began: began, took: took, err: err, reason: reason(err, limit)})
}

// check runs the check. A panic of it is a failure.
func (u *run) check(ctx context.Context, t balancer.Target) (err error) {
	defer func() {
		if v := recover(); v != nil {
			u.r.logPanic("the check", v, "target", t.ID)
			err = &failure{reason: fmt.Sprintf("the check has panicked: %v", v)}
		}
	}()
	return u.r.check().Check(ctx, t)
}

// A schedule is when a target is probed: at once, then in slots that lie on a grid of its own,
// so that neither jitter nor late probes add up over time.
type schedule struct {
	due   time.Time
	grid  time.Time // slot 0
	slot  int64
	index int       // in the queue; -1: not in it
	ran   time.Time // when the latest probe began
	early bool      // the next one is wanted early
}

// plan makes the first probe due now and lays the grid. Its place is random, so that targets
// that came together part, and at least half an interval away.
func (s *schedule) plan(now time.Time, interval time.Duration) {
	s.due = now
	s.grid = now.Add(-interval/2 + time.Duration(rand.Float64()*float64(interval)))
	s.slot = 0
}

// next makes the next slot due that has not passed yet, give or take half the jitter.
func (s *schedule) next(now time.Time, interval time.Duration, jitter float64) {
	passed := int64(max(0, now.Sub(s.grid)) / interval)
	s.slot = max(s.slot, passed) + 1
	off := time.Duration((rand.Float64() - 0.5) * jitter * float64(interval))
	s.due = s.grid.Add(time.Duration(s.slot)*interval + off)
}

// hurryGap is how long after the beginning of a probe the next one begins, at the earliest.
const hurryGap = time.Second

// hurry makes the next probe due as soon as may be. It takes no slot.
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

// A queue is a heap of targets by the time when their probe is due.
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
