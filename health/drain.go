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

	// ErrNotRunning reports that something cannot come to its end because [Registry.Run] is not
	// running.
	ErrNotRunning = errors.New("health: the registry is not running")
)

// Drain says how a target is drained. The zero value has the defaults.
type Drain struct {
	// Grace is how long sessions that are bound to the target stay while new ones go
	// elsewhere. Zero means 300 seconds. Negative means none: sessions move at once, as
	// classic load balancers have it.
	Grace time.Duration

	// Limit is how long the whole drain may take, grace included. Zero or negative means as long
	// as the context lasts.
	Limit time.Duration

	// By is who asks for the drain, for people: it is in the events and on the status page. A
	// button of the page fills in who pressed it. Empty means that nobody is named.
	By string
}

func (d Drain) grace() time.Duration {
	if d.Grace == 0 {
		return defaultGrace
	}
	return max(0, d.Grace)
}

// Drain takes the target with that ID out of service in three steps. First it is
// [balancer.Draining]: its sessions stay, new ones go elsewhere. After the grace it is
// [balancer.Moving]: its sessions are bound to other targets by their next request, and those
// who own tunnels ask them to close. When nothing is in flight, or when ctx or the limit ends,
// it is [balancer.Down]: what is left is for the tunnels' owner to cut.
//
// Drain blocks until nothing is in flight, and returns nil, or until ctx or the limit ends, and
// returns an error that wraps [context.DeadlineExceeded] or ctx's own. The target stays down
// either way. Whoever makes the target ready meanwhile, through [balancer.Member.SetAdmin] or
// on the page, cancels the drain: it returns [ErrDrainCancelled] and leaves the target alone. A
// target that is set down meanwhile only has its load waited for.
//
// A target that leaves the pool meanwhile goes through the same steps at the same times, but the
// drain is over as soon as nothing is in flight: no session comes back to it. A drain may also
// begin when the target has left. If the pool has a target of that ID, Drain is about that one;
// otherwise it is about all that have left under it and have something in flight, see
// [balancer.Pool.Leaving]. The errors are joined then.
//
// An ID that neither has is [balancer.ErrUnknown]. A target that is being drained already is
// [ErrDraining], unless it was [Registry.Replace] that began: Drain takes such a drain over, with
// its own times. Drain does not need [Registry.Run].
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

// find returns the pool's member of that ID, or else those of that ID that are leaving.
func (r *Registry) find(id string) []*balancer.Member {
	if m, ok := r.Pool.Member(id); ok {
		return []*balancer.Member{m}
	}
	return r.findLeaving(id)
}

func (r *Registry) findLeaving(id string) []*balancer.Member {
	return slices.DeleteFunc(r.Pool.Leaving(), func(m *balancer.Member) bool { return m.ID() != id })
}

// drain is Drain for one member.
func (r *Registry) drain(ctx context.Context, m *balancer.Member, d Drain) error {
	w, err := r.beginDrain(m, d, nil)
	if err != nil {
		return err
	}
	return r.finishDrain(ctx, w, nil)
}

// startDrain begins a drain that belongs to the run, as Registry.Drains says, for somebody. It goes on when
// startDrain has returned, and is left where it is when the run ends.
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

// logDrain writes down why a drain of the run's was not completed, if it was not.
func (r *Registry) logDrain(m *balancer.Member, err error) {
	if err != nil {
		r.logger().Info("health: drain not completed", "target", m.ID(), "in_flight", m.Load(), "reason", errors.Unwrap(err))
	}
}

// A drain is one drain under way.
type drain struct {
	m     *balancer.Member
	exit  *exit // nil: it is an operator's, and not Replace's
	by    string
	began time.Time
	grace time.Time // when the grace ends
	limit time.Time // zero: none

	wake  chan struct{}
	begun atomic.Bool   // the target is draining, or was further already
	told  atomic.Bool   // the pool has told of a step, of ours or of somebody's
	ready atomic.Bool   // it has told after that that the target is ready again
	stop  chan struct{} // closed when somebody else decides about the target now
	ended chan struct{} // closed when the drain has ended

	// last is the latest step that this drain has set, or the state that it found. For an exit's
	// it is guarded by Registry.order.
	last balancer.Admin
}

// drains are the drains under way, at most one for a member. They observe the pool together: what
// a release costs must not grow with their number.
type drains struct {
	mu        sync.RWMutex
	of        map[*balancer.Member]*drain
	unobserve func()
}

// add lists w. An operator's drain takes the place of one of Replace's, and any that of one which
// was cancelled but has not noticed yet.
func (d *drains) add(pool *balancer.Pool, w *drain) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.of[w.m]; old != nil {
		if (old.exit == nil || w.exit != nil) && !(old.begun.Load() && old.cancelled()) {
			return ErrDraining
		}
		close(old.stop)
		close(old.ended) // nobody ends it any more
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

// end takes w off the list, unless another has taken its place, and reports whether it did.
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

// get returns the drain of m, nil if there is none.
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
	case w.told.Load(): // otherwise it is a change from before the drain
		w.ready.Store(true)
	}
	w.signal()
}

// beginDrain puts m on the list of those that are drained, and makes it draining unless it is
// further already: what is down must not come back to be drained. For an exit Registry.order is
// held.
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

// finishDrain takes the target through the steps. When abandon is closed it stops where it is.
func (r *Registry) finishDrain(ctx context.Context, w *drain, abandon <-chan struct{}) error {
	err := r.steps(ctx, w, abandon)
	r.drains.end(w)
	return err
}

// errAbandoned ends the drains of the page when the registry stops. Their targets stay as
// they are: whoever stops the registry may still be closing tunnels gently.
var errAbandoned = errors.New("health: the registry has stopped")

// errStopped ends a drain of Replace's when the target is in the list again, or an operator drains
// it.
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
		err = w.wait(ctx, abandon, nil, w.empty) // one may have slipped in just before
	}
	if ctx.Err() != nil && w.cancelled() {
		err = ErrDrainCancelled
	}
	if err != nil {
		return fmt.Errorf("health: drain of %q%s, %d in flight: %w", w.m.ID(), r.ofPool(), w.m.Load(), err)
	}
	return nil
}

// moves reports whether the target is past its grace.
func (w *drain) moves() bool { return w.m.State().Admin > balancer.Draining || w.gone() }

func (w *drain) empty() bool { return w.m.Load() == 0 }

// gone reports whether the target has left the pool, and nothing is left of it.
func (w *drain) gone() bool { return w.m.Removed() && w.empty() }

// cancelled reports whether somebody has made the target ready.
func (w *drain) cancelled() bool {
	return !w.gone() && (w.ready.Load() || w.m.State().Admin == balancer.Ready)
}

// advance takes the target on to a step, unless it is there already or somebody has made it ready.
func (r *Registry) advance(w *drain, step balancer.Admin) {
	if w.exit != nil {
		r.order.Lock()
		defer r.order.Unlock()
	}
	r.advanceLocked(w, step)
}

// advanceLocked is advance with the lock held that an exit's drain needs.
func (r *Registry) advanceLocked(w *drain, step balancer.Admin) {
	for !w.stopped() && !w.cancelled() {
		now := w.m.State().Admin
		if now != w.last && now != balancer.Ready && w.exit != nil {
			w.exit.wanted = now // by an operator, meanwhile
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

// reason says in words for people why the drain takes the target to a step.
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

// over reports whether the drain has nothing more to do, although its end may not have been noted:
// somebody has made the target ready, or it is down and empty.
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

// wait returns nil when done reports true or a value comes from over.
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
