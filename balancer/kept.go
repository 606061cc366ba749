package balancer

import "sync/atomic"

// kept has what a picker has made for a snapshot in its last Rebuild. Until that snapshot is
// published, it also has what was made for the one before. The zero value has nothing.
type kept[T any] struct {
	of atomic.Pointer[generation[T]]
}

// A generation is immutable.
type generation[T any] struct {
	latest, before *T             // nil: nothing
	alone          *generation[T] // the same latest, with a nil before
}

// add makes t, which may be nil, the latest, and returns the value that was the latest until now.
func (k *kept[T]) add(t *T) (before *T) {
	alone := &generation[T]{latest: t}
	alone.alone = alone
	if last := k.of.Load(); last != nil {
		before = last.latest
	}
	k.of.Store(&generation[T]{latest: t, before: before, alone: alone})
	return before
}

// both returns the latest value and the one before it.
func (k *kept[T]) both() (latest, before *T) {
	if g := k.of.Load(); g != nil {
		return g.latest, g.before
	}
	return nil, nil
}

// find returns the value that was made for s, or nil.
func (k *kept[T]) find(s *Snapshot, isOf func(*T, *Snapshot) bool) *T {
	g := k.of.Load()
	switch {
	case g == nil:
		return nil
	case g.latest != nil && isOf(g.latest, s):
		if g.before != nil { // s is published
			k.of.CompareAndSwap(g, g.alone)
		}
		return g.latest
	case g.before != nil && isOf(g.before, s):
		return g.before
	}
	return nil
}
