package health

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// defaultGrace is the zero value of [Drain].Grace.
const defaultGrace = 300 * time.Second

// Errors of [Registry.Drain].
var (
	// ErrDraining reports that the target is being drained already.
	ErrDraining = errors.New("health: the target is being drained already")

	// ErrDrainCancelled reports that the target was made ready during its drain.
	ErrDrainCancelled = errors.New("health: the drain was cancelled: the target is ready again")
)

// Drain says how a target is drained. The zero value has the defaults.
type Drain struct {
	// Grace is how long sessions that are bound to the target stay while new ones go
	// elsewhere. Zero means 300 seconds. Negative means none: sessions move at once, as
	// classic load balancers have it.
	Grace time.Duration

	// Limit is how long the whole drain may take, grace included. Zero means as long as the
	// context lasts.
	Limit time.Duration
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
// target that is set down meanwhile only has its load waited for, and so has one that leaves
// the pool.
//
// An ID that the pool does not have is [balancer.ErrUnknown]; a target that is being drained
// already is [ErrDraining]. Drain does not need [Registry.Run].
func (r *Registry) Drain(ctx context.Context, id string, d Drain) error {
	m, ok := r.Pool.Member(id)
	if !ok {
		return fmt.Errorf("health: drain of %q: %w", id, balancer.ErrUnknown)
	}
	w, err := r.beginDrain(m, d)
	if err != nil {
		return err
	}
	return r.finishDrain(ctx, w, nil)
}

// startDrain begins a drain that belongs to the run, as Registry.Drains says. It goes on when
// startDrain has returned, and is left where it is when the run ends.
func (r *Registry) startDrain(m *balancer.Member) error {
	r.mu.Lock()
	u := r.run
	if u == nil || u.stopping {
		r.mu.Unlock()
		return errNotRunning
	}
	u.tasks.Add(1)
	r.mu.Unlock()
	w, err := r.beginDrain(m, r.Drains)
	if err != nil {
		u.tasks.Done()
		return err
	}
	go func() {
		defer u.tasks.Done()
		if err := r.finishDrain(context.Background(), w, u.ctx.Done()); err != nil {
			r.logger().Info("health: drain not completed", "target", m.ID(), "reason", err)
		}
	}()
	return nil
}

// A drain is one drain under way, and observes the pool for it.
type drain struct {
	m     *balancer.Member
	began time.Time
	grace time.Time // when the grace ends
	limit time.Time // zero: none
	wake  chan struct{}
	last  balancer.Admin // the latest step that was set
	told  atomic.Uint32  // the steps that the pool has told of, as bits, until ready
	ready atomic.Bool    // it has told that the target is ready again

	unobserve func()
}

// beginDrain puts m on the list of those that are drained, and makes it draining unless it is
// further already: what is down must not come back to be drained.
func (r *Registry) beginDrain(m *balancer.Member, d Drain) (*drain, error) {
	w := newDrain(m, d)
	if err := r.listDrain(w); err != nil {
		return nil, err
	}
	w.unobserve = r.Pool.Observe(w)
	if m.State().Admin == balancer.Ready {
		w.set(balancer.Draining)
	}
	return w, nil
}

func newDrain(m *balancer.Member, d Drain) *drain {
	now := time.Now()
	w := &drain{m: m, began: now, grace: now.Add(d.grace()), wake: make(chan struct{}, 1)}
	if d.Limit > 0 {
		w.limit = now.Add(d.Limit)
	}
	return w
}

func (r *Registry) listDrain(w *drain) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, on := r.drains[w.m]; on {
		return ErrDraining
	}
	if r.drains == nil {
		r.drains = make(map[*balancer.Member]*drain)
	}
	r.drains[w.m] = w
	return nil
}

// finishDrain takes the target through the steps. When abandon is closed it stops where it is.
func (r *Registry) finishDrain(ctx context.Context, w *drain, abandon <-chan struct{}) error {
	if !w.limit.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, w.limit)
		defer cancel()
	}
	err := w.steps(ctx, abandon)
	w.unobserve()
	r.mu.Lock()
	delete(r.drains, w.m)
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("health: drain of %q, %d in flight: %w", w.m.ID(), w.m.Load(), err)
	}
	return nil
}

// errAbandoned ends the drains of the page when the registry stops. Their targets stay as
// they are: whoever stops the registry may still be closing tunnels gently.
var errAbandoned = errors.New("health: the registry has stopped")

var errNotRunning = errors.New("health: the registry is not running")

// steps takes the target from draining through moving to down.
func (w *drain) steps(ctx context.Context, abandon <-chan struct{}) error {
	grace := time.NewTimer(time.Until(w.grace))
	defer grace.Stop()
	moved := func() bool { return w.m.State().Admin != balancer.Draining || w.m.Removed() }
	empty := func() bool { return w.m.Load() == 0 }

	err := w.wait(ctx, abandon, grace.C, moved)
	if err == nil && !moved() {
		w.set(balancer.Moving)
	}
	if err == nil {
		err = w.wait(ctx, abandon, nil, empty)
	}
	if err == nil || errors.Is(err, ctx.Err()) {
		w.set(balancer.Down)
	}
	if err == nil {
		err = w.wait(ctx, abandon, nil, empty) // one may have slipped in just before
	}
	if w.overruled() {
		w.m.SetAdmin(balancer.Ready)
		return ErrDrainCancelled
	}
	return err
}

// overruled reports whether a step of the drain has come right after somebody made the target
// ready. A step that the pool had told of before was not ours: somebody wants it after all.
func (w *drain) overruled() bool {
	return w.ready.Load() && w.m.State().Admin == w.last && w.told.Load()&(1<<w.last) == 0
}

func (w *drain) set(step balancer.Admin) {
	w.last = step
	w.m.SetAdmin(step)
}

// wait returns nil when done reports true or a value comes from over.
func (w *drain) wait(ctx context.Context, abandon <-chan struct{}, over <-chan time.Time, done func() bool) error {
	for {
		switch {
		case w.ready.Load(), w.m.State().Admin == balancer.Ready && !w.m.Removed():
			return ErrDrainCancelled
		case done():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		select {
		case <-w.wake:
		case <-over:
			return nil
		case <-ctx.Done():
		case <-abandon:
			return errAbandoned
		}
	}
}

// Released implements [balancer.Observer].
func (w *drain) Released(m *balancer.Member, _ balancer.Outcome) {
	if m == w.m && m.Load() == 0 {
		w.signal()
	}
}

// Changed implements [balancer.Observer].
func (w *drain) Changed(m *balancer.Member, s balancer.State) {
	if m != w.m {
		return
	}
	switch told := w.told.Load(); {
	case s.Admin == balancer.Ready && told != 0: // otherwise it is a change from before the drain
		w.ready.Store(true)
	case s.Admin != balancer.Ready && !w.ready.Load():
		w.told.Store(told | 1<<s.Admin)
	}
	w.signal()
}

func (w *drain) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
