package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// defaultGrace is the zero value of [Drain].Grace.
const defaultGrace = 300 * time.Second

// Errors of drains.
var (
	// ErrDraining reports that the target is being drained already.
	ErrDraining = errors.New("health: the target is being drained already")

	// ErrDrainCancelled reports that the target was made ready during its drain.
	ErrDrainCancelled = errors.New("health: the drain was cancelled: the target is ready again")

	// ErrNotRunning reports that an operation cannot finish, because [Registry.Run] is not running.
	ErrNotRunning = errors.New("health: the registry is not running")
)

// Drain says how a target is drained. The zero value has the defaults.
type Drain struct {
	// Grace is how long sessions that are bound to the target stay there, while new ones go
	// elsewhere. Zero means 300 seconds. Negative means none: sessions move at once, as with
	// classic load balancers.
	Grace time.Duration

	// Limit limits the whole drain, the grace included. Zero or negative means that only the
	// context limits it.
	Limit time.Duration

	// By is the name of who asks for the drain, for events and the status page. A button of the
	// page sets it to the name from Page.Who. Empty means unknown.
	By string
}

func (d Drain) grace() time.Duration {
	if d.Grace == 0 {
		return defaultGrace
	}
	return max(0, d.Grace)
}

// Drain takes the target with that ID out of service in three steps. First the target is
// [balancer.Draining]: its sessions stay, and new ones go elsewhere. After the grace it is
// [balancer.Moving]: the next request of a session is bound to another target, and the owners of
// tunnels ask them to close. When nothing is in flight, or when ctx or the limit ends, it is
// [balancer.Down]. The owners of the remaining tunnels cut them then.
//
// Drain blocks until nothing is in flight, and returns nil. If ctx or the limit ends first, it
// returns an error that wraps ctx's error or [context.DeadlineExceeded]. The target stays down
// either way. If somebody makes the target ready meanwhile, by [balancer.Member.SetAdmin] or on the
// page, Drain returns [ErrDrainCancelled] and does not change the target any more. If somebody sets
// the target down meanwhile, Drain only waits until nothing is in flight.
//
// A target that leaves the pool meanwhile goes through the same steps at the same times. Its drain
// ends as soon as nothing is in flight, because no session returns to it. A drain may also begin
// after the target has left. If the pool has a target with that ID, Drain drains that one.
// Otherwise it drains all targets that have left under that ID and have something in flight, see
// [balancer.Pool.Leaving], and joins their errors.
//
// Drain returns [balancer.ErrUnknown] for any other ID, and [ErrDraining] if the target is being
// drained already. It takes over a drain that [Registry.Replace] began, with d's times. Drain does
// not need [Registry.Run].
func (r *Registry) Drain(ctx context.Context, id string, d Drain) error {
	members := r.find(id)
	if len(members) == 0 {
		return fmt.Errorf("health: drain of %q%s: %w", id, r.ofPool(), balancer.ErrUnknown)
	}
	errs := make([]error, len(members))
	var all sync.WaitGroup
	for i, m := range members[1:] {
		all.Go(func() { errs[i+1] = r.drain(ctx, m, d) })
	}
	errs[0] = r.drain(ctx, members[0], d)
	all.Wait()
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// find returns the pool's member with that ID. If there is none, it returns the members with that
// ID that have left and have something in flight.
func (r *Registry) find(id string) []*balancer.Member {
	if m, ok := r.Pool.Member(id); ok {
		return []*balancer.Member{m}
	}
	return r.findLeaving(id)
}

func (r *Registry) findLeaving(id string) []*balancer.Member {
	return slices.DeleteFunc(r.Pool.Leaving(), func(m *balancer.Member) bool { return m.ID() != id })
}

// drain drains one member.
func (r *Registry) drain(ctx context.Context, m *balancer.Member, d Drain) error {
	w, err := r.beginDrain(m, d, nil)
	if err != nil {
		return err
	}
	return r.finishDrain(ctx, w, nil)
}

// startDrain begins a drain with Registry.Drains in a goroutine of the run. When the run ends, the
// drain stops and the target keeps its state.
func (r *Registry) startDrain(m *balancer.Member, by string) error {
	r.mu.Lock()
	u := r.run
	if u == nil || u.stopping {
		r.mu.Unlock()
		return ErrNotRunning
	}
	u.tasks.Add(1)
	r.mu.Unlock()
	d := r.Drains
	d.By = by
	w, err := r.beginDrain(m, d, nil)
	if err != nil {
		u.tasks.Done()
		return err
	}
	go func() {
		defer u.tasks.Done()
		r.logDrain(m, r.finishDrain(context.Background(), w, u.ctx.Done()))
	}()
	return nil
}

// logDrain logs why a drain of the run failed. It does nothing if err is nil.
func (r *Registry) logDrain(m *balancer.Member, err error) {
	if err != nil {
		r.logger().Info("health: drain not completed", "target", m.ID(), "in_flight", m.Load(), "reason", errors.Unwrap(err))
	}
}

// A drain is a drain under way.
type drain struct {
	m     *balancer.Member
	exit  *exit // the exit that it belongs to; nil: an operator's drain
	by    string
	began time.Time
	grace time.Time // when the grace ends
	limit time.Time // zero: none

	wake  chan struct{}
	begun atomic.Bool   // the target is draining or in a later state
	told  atomic.Bool   // the observer has seen a state other than ready
	ready atomic.Bool   // after that, the observer has seen the state ready
	stop  chan struct{} // closed when the list or an operator decides about the target
	ended chan struct{} // closed when the drain has ended

	// last is the latest state that this drain has set, or the state that the target had when it
	// began. For a drain with an exit, Registry.order guards it.
	last balancer.Admin
}

// drains are the drains under way, at most one for a member. They share one observer of the pool,
// so that the cost of a release does not grow with their number.
type drains struct {
	mu        sync.RWMutex
	of        map[*balancer.Member]*drain
	unobserve func()
}

// add adds w. A drain of an operator replaces one that Replace began. Any drain replaces a
// cancelled one whose goroutine has not noticed that yet. If the member has another drain, add
// returns ErrDraining.
func (d *drains) add(pool *balancer.Pool, w *drain) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.of[w.m]; old != nil {
		if (old.exit == nil || w.exit != nil) && !(old.begun.Load() && old.cancelled()) {
			return ErrDraining
		}
		close(old.stop)
		close(old.ended) // its own end would come too late
	}
	if d.of == nil {
		d.of = make(map[*balancer.Member]*drain)
	}
	d.of[w.m] = w
	if d.unobserve == nil {
		d.unobserve = pool.Observe(d)
	}
	return nil
}

// end removes w. It reports whether w was there: another drain may have replaced it.
func (d *drains) end(w *drain) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of[w.m] != w {
		return false
	}
	delete(d.of, w.m)
	close(w.ended)
	if len(d.of) == 0 {
		d.unobserve()
		d.unobserve = nil
	}
	return true
}

// get returns the drain of m. It returns nil if there is none.
func (d *drains) get(m *balancer.Member) *drain {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.of[m]
}

// Released implements [balancer.Observer].
func (d *drains) Released(m *balancer.Member, _ balancer.Outcome) {
	if m.Load() != 0 {
		return
	}
	if w := d.get(m); w != nil {
		w.signal()
	}
}

// Changed implements [balancer.Observer].
func (d *drains) Changed(m *balancer.Member, s balancer.State) {
	w := d.get(m)
	if w == nil {
		return
	}
	switch {
	case s.Admin != balancer.Ready:
		w.told.Store(true)
	case w.told.Load(): // otherwise the change is older than the drain
		w.ready.Store(true)
	}
	w.signal()
}

// beginDrain adds a drain of m. It sets m to draining if m is ready. It keeps a later state,
// because a target that is down must not serve again only to be drained. If x is not nil, the
// caller holds Registry.order.
func (r *Registry) beginDrain(m *balancer.Member, d Drain, x *exit) (*drain, error) {
	now := time.Now()
	w := &drain{
		m: m, exit: x, by: d.By, began: now, grace: now.Add(d.grace()),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	if d.Limit > 0 {
		w.limit = now.Add(d.Limit)
	}
	if err := r.drains.add(r.Pool, w); err != nil {
		return nil, err
	}
	w.last = balancer.Draining
	if !r.swapAdmin(m, balancer.Ready, balancer.Draining, w.reason(balancer.Draining), w.by) {
		w.last = m.State().Admin
	}
	w.begun.Store(true)
	return w, nil
}

// finishDrain takes the target through the steps. It stops when abandon is closed, and the target
// keeps its state.
func (r *Registry) finishDrain(ctx context.Context, w *drain, abandon <-chan struct{}) error {
	err := r.steps(ctx, w, abandon)
	r.drains.end(w)
	return err
}

// errAbandoned ends the drains of the page when the registry stops. The targets keep their states:
// the caller that stops the registry may still be closing tunnels gracefully.
var errAbandoned = errors.New("health: the registry has stopped")

// errStopped ends a drain that Replace began, when the target is in the list again or an operator
// drains it.
var errStopped = errors.New("health: somebody else decides about the target")

// steps takes the target from draining through moving to down.
func (r *Registry) steps(ctx context.Context, w *drain, abandon <-chan struct{}) error {
	if !w.limit.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, w.limit)
		defer cancel()
	}
	grace := time.NewTimer(time.Until(w.grace))
	defer grace.Stop()

	err := w.wait(ctx, abandon, grace.C, w.moves)
	if err == nil {
		r.advance(w, balancer.Moving)
		err = w.wait(ctx, abandon, nil, w.empty)
	}
	if err == nil || errors.Is(err, ctx.Err()) {
		r.advance(w, balancer.Down)
	}
	if err == nil {
		err = w.wait(ctx, abandon, nil, w.empty) // a request may have come just before
	}
	if ctx.Err() != nil && w.cancelled() {
		err = ErrDrainCancelled
	}
	if err != nil {
		return fmt.Errorf("health: drain of %q%s, %d in flight: %w", w.m.ID(), r.ofPool(), w.m.Load(), err)
	}
	return nil
}

// moves reports whether the grace is over for the target.
func (w *drain) moves() bool { return w.m.State().Admin > balancer.Draining || w.gone() }

func (w *drain) empty() bool { return w.m.Load() == 0 }

// gone reports whether the target has left the pool and has nothing in flight.
func (w *drain) gone() bool { return w.m.Removed() && w.empty() }

// cancelled reports whether somebody has made the target ready since the drain began.
func (w *drain) cancelled() bool {
	return !w.gone() && (w.ready.Load() || w.m.State().Admin == balancer.Ready)
}

// advance sets the target's next step, unless the target is there already or somebody has made it
// ready.
func (r *Registry) advance(w *drain, step balancer.Admin) {
	if w.exit != nil {
		r.order.Lock()
		defer r.order.Unlock()
	}
	r.advanceLocked(w, step)
}

// advanceLocked is advance for a caller that holds Registry.order if the drain has an exit.
func (r *Registry) advanceLocked(w *drain, step balancer.Admin) {
	for !w.stopped() && !w.cancelled() {
		now := w.m.State().Admin
		if now != w.last && now != balancer.Ready && w.exit != nil {
			w.exit.wanted = now // an operator has changed it meanwhile
		}
		if now == balancer.Ready || now >= step {
			return
		}
		if r.swapAdmin(w.m, now, step, w.reason(step), w.by) {
			w.last = step
			return
		}
	}
}

// reason returns the reason for a step, in words for people.
func (w *drain) reason(step balancer.Admin) string {
	switch {
	case step == balancer.Down && w.empty():
		return "drained, nothing is in flight"
	case step == balancer.Down:
		return "the time of its drain is up"
	case w.exit != nil:
		return "missing in the list of targets"
	case step == balancer.Moving:
		return "the grace of its drain is over"
	}
	return ""
}

// over reports whether the drain has nothing more to do: somebody has made the target ready, or it
// is down with nothing in flight. The drain's goroutine may not have noticed yet.
func (w *drain) over() bool {
	return w.begun.Load() && (w.cancelled() || w.m.State().Admin == balancer.Down && w.empty())
}

func (w *drain) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// wait returns nil when done returns true or the channel over delivers a value. It returns an error
// if the drain is stopped or cancelled, or if ctx or abandon ends first.
func (w *drain) wait(ctx context.Context, abandon <-chan struct{}, over <-chan time.Time, done func() bool) error {
	for {
		switch {
		case w.stopped() && w.exit != nil:
			return errStopped
		case w.stopped(), w.cancelled():
			return ErrDrainCancelled
		case done():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		select {
		case <-w.wake:
		case <-w.stop:
		case <-over:
			return nil
		case <-ctx.Done():
		case <-abandon:
			return errAbandoned
		}
	}
}

func (w *drain) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
