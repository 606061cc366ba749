package health

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Replace sets the list of targets that the pool is to have. It does not wait for drains.
//
// It returns an error, and changes nothing, if [balancer.Pool.Update] would refuse the list. New
// targets are added. Targets that the pool already has keep their load and state, and get their new
// weight, zone, limits and certificate. Missing targets are drained as d says by tasks of
// [Registry.Run]. They are removed when nothing is in flight there or when d's limit ends, and keep
// their place in the pool's order until then. An empty list drains all targets.
//
// If a target has a new endpoint under its ID, the new endpoint serves at once, and gets the
// sessions that are bound to the ID. The old endpoint is removed from the pool, and its state
// becomes [balancer.Moving]. Only d's limit applies to it.
//
// Concurrent calls run one after the other, and the last one decides about all targets. A target
// that returns to the list during its drain is ready again. A target that is still missing
// continues its drain, with the times of the call that began it.
//
// Replace undoes only its own changes. If an operator has drained a target or set it down, by
// [Registry.Drain], [balancer.Member.SetAdmin] or the page, the target keeps that state when it is
// in the list. It also keeps that state if it is removed and comes back within five minutes.
// Replace waits for an operator's Drain, and [Registry.Drain] takes over a drain that Replace
// began. A missing target that an operator makes ready stays until the next call.
//
// If Run is not running, missing targets are [balancer.Draining] until it runs. If Run ends, they
// keep their state, and the next Run continues. An observer of the pool must not call Replace.
func (r *Registry) Replace(targets []balancer.Target, d Drain) error {
	if r.Pool == nil {
		return errors.New("health: Registry.Pool is nil")
	}
	next, err := balancer.Normalize(targets...)
	if err != nil {
		return fmt.Errorf("health: replacing targets%s: %w", r.ofPool(), err)
	}
	r.order.Lock()
	defer r.order.Unlock()
	before := r.Pool.Members()
	listed := make(map[string]bool, len(next))
	for i := range next {
		listed[next[i].ID] = true
	}
	all := inPlace(next, before, listed)
	if err := r.prepare(all); err != nil {
		return err
	}
	if err := r.Pool.Update(all...); err != nil {
		return fmt.Errorf("health: replacing targets: %w", err)
	}
	r.welcomeBack()
	for _, m := range before {
		switch now, _ := r.Pool.Member(m.ID()); {
		case now != m && m.Load() == 0: // the pool has removed it, so it needs no exit
		case now != m:
			r.beginExit(m, Drain{Grace: -1, Limit: d.Limit})
			r.moveOn(m)
		case listed[m.ID()]:
			r.lift(m)
		default:
			r.beginExit(m, d)
		}
	}
	return nil
}

// inPlace returns the targets in next and those of the members that are not listed. Each member
// that is not listed stays behind the target that was in front of it in the pool.
func inPlace(next []balancer.Target, before []*balancer.Member, listed map[string]bool) []balancer.Target {
	missing := make(map[string][]balancer.Target) // by the ID of the target before them; "" for the first
	last, n := "", len(next)
	for _, m := range before {
		if listed[m.ID()] {
			last = m.ID()
			continue
		}
		missing[last] = append(missing[last], m.Target())
		n++
	}
	all := make([]balancer.Target, 0, n)
	all = append(all, missing[""]...)
	for _, t := range next {
		all = append(all, t)
		all = append(all, missing[t.ID]...)
	}
	return all
}

// prepareWithout calls Prepare before the members in gone are removed.
func (r *Registry) prepareWithout(gone []*balancer.Member) {
	leaves := make(map[*balancer.Member]bool, len(gone))
	for _, m := range gone {
		leaves[m] = true
	}
	var stay []balancer.Target
	for _, m := range r.Pool.Members() {
		if !leaves[m] {
			stay = append(stay, m.Target())
		}
	}
	defer func() {
		if v := recover(); v != nil { // the panic would end the process: this goroutine is the registry's
			r.logPanic("Registry.Prepare", v)
		}
	}()
	if err := r.prepare(stay); err != nil {
		for _, m := range gone {
			r.logger().Error("health: a target is removed all the same", "target", m.ID(), "error", err)
		}
	}
}

func (r *Registry) prepare(targets []balancer.Target) error {
	if r.Prepare == nil {
		return nil
	}
	if err := r.Prepare(targets); err != nil {
		return fmt.Errorf("health: preparing for targets%s: %w", r.ofPool(), err)
	}
	return nil
}

// Settled waits until [Registry.Replace] has no removal under way. A removal ends when the target
// is in the list again, or when the target is removed and nothing is in flight there. This may be
// after the limit. Settled returns nil when all removals have ended. It returns an error that wraps
// [ErrNotRunning] if there is a removal and Run is not running or ends, because nobody drains the
// target then. If ctx ends first, the error wraps ctx's.
func (r *Registry) Settled(ctx context.Context) error {
	for {
		left, u, settled := r.unsettled()
		if left == 0 {
			return nil
		}
		if u == nil {
			return fmt.Errorf("%w: %d targets are to be drained", ErrNotRunning, left)
		}
		select {
		case <-settled:
		case <-u.ctx.Done():
			return fmt.Errorf("%w any more: %d targets are to be drained", ErrNotRunning, left)
		case <-ctx.Done():
			return fmt.Errorf("health: %d targets are being drained: %w", left, ctx.Err())
		}
	}
}

// unsettled returns the number of exits, the run that works on them (nil if there is none), and a
// channel that is closed when no exit is left.
func (r *Registry) unsettled() (left int, u *run, settled <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u = r.run; u != nil && u.stopping {
		u = nil
	}
	if r.settled == nil {
		r.settled = make(chan struct{})
	}
	return len(r.exits), u, r.settled
}

// An exit is the removal of a member that Replace has found missing.
type exit struct {
	m      *balancer.Member
	d      Drain
	lifted chan struct{} // closed when the target is in the list again

	// wanted is the state that operators want the target to have when it is in the list.
	// Registry.order guards it.
	wanted balancer.Admin
}

func (x *exit) isLifted() bool {
	select {
	case <-x.lifted:
		return true
	default:
		return false
	}
}

// beginExit begins the exit of m if it has none. The caller holds the registry's order.
func (r *Registry) beginExit(m *balancer.Member, d Drain) {
	r.mu.Lock()
	x := r.exits[m]
	r.mu.Unlock()
	switch {
	case x == nil:
	case r.isCancelled(m): // its task has not noticed yet; the new list decides
		r.lift(m)
	default:
		return
	}
	x = &exit{m: m, d: d, lifted: make(chan struct{}), wanted: m.State().Admin}
	r.beginDrain(m, d, x) // fails if an operator drains it
	if d.grace() == 0 {
		r.moveOn(m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.exits == nil {
		r.exits = make(map[*balancer.Member]*exit)
	}
	r.exits[m] = x
	r.retireLocked(x)
}

// isCancelled reports whether an operator has made the member of an exit ready.
func (r *Registry) isCancelled(m *balancer.Member) bool {
	if w := r.drains.get(m); w != nil {
		return w.begun.Load() && w.cancelled()
	}
	return m.State().Admin == balancer.Ready
}

// moveOn ends the grace of a drain that Replace began. The caller holds the registry's order.
func (r *Registry) moveOn(m *balancer.Member) {
	if w := r.drains.get(m); w != nil && w.exit != nil {
		r.advanceLocked(w, balancer.Moving)
	}
}

// retireLocked starts the task of x in the run, if there is one.
func (r *Registry) retireLocked(x *exit) {
	if u := r.run; u != nil && !u.stopping {
		u.tasks.Go(func() { r.retire(u, x) })
	}
}

// lift ends the exit of a member whose target is in the list again, if it has one. The caller holds
// the registry's order.
func (r *Registry) lift(m *balancer.Member) {
	r.mu.Lock()
	x := r.exits[m]
	r.forgetLocked(m)
	r.mu.Unlock()
	if x == nil {
		return
	}
	close(x.lifted)
	w := r.drains.get(m)
	if w == nil || w.exit != x || !r.drains.end(w) {
		return // an operator drains it, or has drained it
	}
	close(w.stop)
	if !w.ready.Load() {
		r.swapAdmin(m, w.last, x.wanted, "in the list of targets again", "")
	}
}

// forgetLocked removes the exit of m.
func (r *Registry) forgetLocked(m *balancer.Member) {
	delete(r.exits, m)
	if len(r.exits) == 0 && r.settled != nil {
		close(r.settled)
		r.settled = nil
	}
}

// retire is the task of the run that drains and removes a member.
func (r *Registry) retire(u *run, x *exit) {
	err := r.drainOut(u, x)
	if (err == nil || errors.Is(err, context.DeadlineExceeded)) && r.takeOut(x) {
		r.logDrain(x.m, err)
		err = r.outlast(u, x)
	}
	if errors.Is(err, errAbandoned) {
		return // the next run continues
	}
	if r.endExit(x) {
		r.logDrain(x.m, err)
	}
}

// endExit removes x and its drain. It reports whether x was there.
func (r *Registry) endExit(x *exit) bool {
	r.order.Lock() // so that Replace sees both or neither
	defer r.order.Unlock()
	if w := r.drains.get(x.m); w != nil && w.exit == x {
		r.drains.end(w)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.exits[x.m] != x { // lifted
		return false
	}
	r.forgetLocked(x.m)
	return true
}

// drainOut runs the drain of x, or waits for an operator's. It returns nil when the member can be
// removed.
func (r *Registry) drainOut(u *run, x *exit) error {
	for !x.isLifted() {
		w := r.drains.get(x.m)
		switch {
		case w == nil && r.isDrained(x):
			return nil
		case w == nil:
			r.resume(x)
		case w.exit == x:
			if err := r.steps(context.Background(), w, u.ctx.Done()); !errors.Is(err, errStopped) {
				return err
			}
		default:
			if err := awaitOver(u, x, w); err != nil {
				return err
			}
			if x.m.State().Admin == balancer.Ready && !w.gone() {
				return ErrDrainCancelled
			}
		}
	}
	return errStopped
}

// awaitOver waits for the end of an operator's drain.
func awaitOver(u *run, x *exit, w *drain) error {
	select {
	case <-w.ended:
		return nil
	case <-x.lifted:
		return errStopped
	case <-u.ctx.Done():
		return errAbandoned
	}
}

// isDrained reports whether an operator's drain has ended with the member of x down.
func (r *Registry) isDrained(x *exit) bool {
	r.order.Lock()
	defer r.order.Unlock()
	if x.isLifted() || x.m.State().Admin != balancer.Down {
		return false
	}
	x.wanted = balancer.Down
	return true
}

// resume begins another drain for x after an operator's has ended.
func (r *Registry) resume(x *exit) {
	r.order.Lock()
	defer r.order.Unlock()
	if !x.isLifted() {
		x.wanted = x.m.State().Admin
		r.beginDrain(x.m, x.d, x)
	}
}

// outlast waits until nothing is in flight at the member, which has been removed.
func (r *Registry) outlast(u *run, x *exit) error {
	for x.m.Load() > 0 {
		w := r.drains.get(x.m)
		switch {
		case w == nil:
			r.resume(x)
		case w.exit == x:
			if err := w.wait(context.Background(), u.ctx.Done(), nil, w.empty); !errors.Is(err, errStopped) {
				return err
			}
		default:
			if err := awaitOver(u, x, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeOut removes the member of x from the pool, unless its target is in the list again. Members
// that arrive during another removal are removed together, because one change of the pool costs the
// same for one member as for many.
func (r *Registry) takeOut(x *exit) bool {
	r.mu.Lock()
	r.parting = append(r.parting, x)
	r.mu.Unlock()
	r.order.Lock()
	defer r.order.Unlock()
	r.takeOutAll()
	return !x.isLifted()
}

// takeOutAll removes the members of all parting exits. The caller holds the registry's order.
func (r *Registry) takeOutAll() {
	r.mu.Lock()
	parting := r.parting
	r.parting = nil
	r.mu.Unlock()
	var gone []*balancer.Member
	for _, x := range parting {
		if now, ok := r.Pool.Member(x.m.ID()); ok && now == x.m && !x.isLifted() {
			gone = append(gone, x.m)
			r.part(x)
		}
	}
	if len(gone) == 0 {
		return
	}
	if r.Prepare != nil {
		r.prepareWithout(gone)
	}
	r.Pool.Remove(gone...)
}

// parted is the state that an operator wanted for a target that was removed.
type parted struct {
	target balancer.Target
	wanted balancer.Admin
	at     time.Time
}

// partedFor is how long a parted is kept. An operator's state must survive that a target is missing
// from the list for a moment.
const partedFor = 5 * time.Minute

// part records what an operator wants for the member of x, which is about to be removed. The caller
// holds the registry's order.
func (r *Registry) part(x *exit) {
	if x.wanted == balancer.Ready {
		return
	}
	if r.parted == nil {
		r.parted = make(map[string]parted)
	}
	r.parted[x.m.ID()] = parted{x.m.Target(), x.wanted, time.Now()}
}

// welcomeBack gives targets that are in the pool again the state that an operator wanted for them.
// The caller holds the registry's order.
func (r *Registry) welcomeBack() {
	for id, p := range r.parted {
		m, back := r.Pool.Member(id)
		late := time.Since(p.at) > partedFor
		if back && !late {
			if now := m.Target(); now.SameEndpoint(&p.target) {
				r.swapAdmin(m, balancer.Ready, p.wanted, "as it was when it left the list of targets", "")
			}
		}
		if back || late {
			delete(r.parted, id)
		}
	}
}
