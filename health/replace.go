package health

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Replace sets the list of targets that the pool is to have, and returns at once.
//
// It refuses a list that [balancer.Pool.Update] would refuse; then nothing has changed. Targets
// that are new are added. Those that the pool has already keep their member, with its load and
// its state, and get their new weight, zone, limits and certificate. Those that are missing are
// drained as d says, by tasks of [Registry.Run], and removed when nothing is in flight there or
// when d's limit ends; until then they keep their place in the pool's order. An empty list drains
// all.
//
// If a target has another endpoint under its ID, the new one serves at once, sessions bound to
// the ID with it. The old one is removed and moving: d's grace does not apply to it, its limit
// does.
//
// Calls are ordered, and the last one decides about all targets. A target that is in the list
// again while it is drained is ready again. A target that is still missing is drained on, by the
// times that its drain began with.
//
// Replace undoes only what it has done. A target that an operator has drained or set down, before
// or meanwhile, by [Registry.Drain], [balancer.Member.SetAdmin] or the page, stays so when it is
// in the list, and also when it comes back within five minutes after it was removed. Replace waits
// for an operator's Drain, and [Registry.Drain] takes over a drain that Replace began. A missing
// target that an operator makes ready stays until the next call.
//
// Without Run, targets that are missing are [balancer.Draining] until it runs. When Run ends, they
// stay as they are, and the next Run goes on. Replace must not be called by an observer of the
// pool.
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
		case now != m && m.Load() == 0: // and nothing comes to it any more
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

// inPlace returns the targets in next, and those of the members that are not listed: each behind
// the one that it was behind before.
func inPlace(next []balancer.Target, before []*balancer.Member, listed map[string]bool) []balancer.Target {
	missing := make(map[string][]balancer.Target) // by the ID before them; "" is none
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
		if v := recover(); v != nil { // this is a goroutine of ours
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

// Settled waits until every target that [Registry.Replace] takes out of service is either in the
// list again or removed with nothing left in flight there, also after its limit. Then it returns
// nil, at once if there is no such target. If Run is not running, or ends, nobody drains them and
// it returns an error that wraps [ErrNotRunning]. If ctx ends first, the error wraps ctx's.
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

// An exit is the way of a member out of the pool after Replace has found it missing.
type exit struct {
	m      *balancer.Member
	d      Drain
	lifted chan struct{} // closed when the target is in the list again

	// wanted is the state that operators want the target to have, if it were in the list. Guarded
	// by Registry.order.
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

// beginExit begins to take m out, if that has not begun. The registry's order is held.
func (r *Registry) beginExit(m *balancer.Member, d Drain) {
	r.mu.Lock()
	x := r.exits[m]
	r.mu.Unlock()
	switch {
	case x == nil:
	case r.isCancelled(m): // that has not reached its task yet, and is of before this list
		r.lift(m)
	default:
		return
	}
	x = &exit{m: m, d: d, lifted: make(chan struct{}), wanted: m.State().Admin}
	r.beginDrain(m, d, x) // unless an operator drains it
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

// moveOn ends the grace of a drain of Replace's. The registry's order is held.
func (r *Registry) moveOn(m *balancer.Member) {
	if w := r.drains.get(m); w != nil && w.exit != nil {
		r.advanceLocked(w, balancer.Moving)
	}
}

// retireLocked gives x to the run, if there is one.
func (r *Registry) retireLocked(x *exit) {
	if u := r.run; u != nil && !u.stopping {
		u.tasks.Go(func() { r.retire(u, x) })
	}
}

// lift ends the exit of a member whose target is in the list again, if there is one. The
// registry's order is held.
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
		return // an operator's is under way, or was
	}
	close(w.stop)
	if !w.ready.Load() {
		r.swapAdmin(m, w.last, x.wanted, "in the list of targets again", "")
	}
}

// forgetLocked takes the exit of m off the list.
func (r *Registry) forgetLocked(m *balancer.Member) {
	delete(r.exits, m)
	if len(r.exits) == 0 && r.settled != nil {
		close(r.settled)
		r.settled = nil
	}
}

// retire takes a member out: it is a task of the run.
func (r *Registry) retire(u *run, x *exit) {
	err := r.drainOut(u, x)
	if (err == nil || errors.Is(err, context.DeadlineExceeded)) && r.takeOut(x) {
		r.logDrain(x.m, err)
		err = r.outlast(u, x)
	}
	if errors.Is(err, errAbandoned) {
		return // the next run goes on
	}
	if r.endExit(x) {
		r.logDrain(x.m, err)
	}
}

// endExit takes x off the list, and its drain, and reports whether it was on it.
func (r *Registry) endExit(x *exit) bool {
	r.order.Lock() // a call of Replace sees both or neither
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

// drainOut goes through the drain of x, or waits for an operator's. It returns nil when the member
// can be taken out.
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

// isDrained reports whether an operator's drain has left the member of x down.
func (r *Registry) isDrained(x *exit) bool {
	r.order.Lock()
	defer r.order.Unlock()
	if x.isLifted() || x.m.State().Admin != balancer.Down {
		return false
	}
	x.wanted = balancer.Down
	return true
}

// resume begins a drain for x anew, after an operator's has ended.
func (r *Registry) resume(x *exit) {
	r.order.Lock()
	defer r.order.Unlock()
	if !x.isLifted() {
		x.wanted = x.m.State().Admin
		r.beginDrain(x.m, x.d, x)
	}
}

// outlast waits until nothing is in flight at the member, which was removed.
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

// takeOut removes the member of x from the pool, unless its target is in the list again. Those
// that come while others are being removed go together: a change of the set costs as much for one
// as for all.
func (r *Registry) takeOut(x *exit) bool {
	r.mu.Lock()
	r.parting = append(r.parting, x)
	r.mu.Unlock()
	r.order.Lock()
	defer r.order.Unlock()
	r.takeOutAll()
	return !x.isLifted()
}

// takeOutAll removes the members that are to be taken out. The registry's order is held.
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

// parted is what an operator wanted of a target that was removed.
type parted struct {
	target balancer.Target
	wanted balancer.Admin
	at     time.Time
}

// partedFor is how long that is remembered. A list that lacks a target for a moment must not make
// it ready.
const partedFor = 5 * time.Minute

// part remembers what an operator wants of the member of x, which is to be removed. The
// registry's order is held.
func (r *Registry) part(x *exit) {
	if x.wanted == balancer.Ready {
		return
	}
	if r.parted == nil {
		r.parted = make(map[string]parted)
	}
	r.parted[x.m.ID()] = parted{x.m.Target(), x.wanted, time.Now()}
}

// welcomeBack gives targets that are in the pool again the state that an operator wanted. The
// registry's order is held.
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
