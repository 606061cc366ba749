package main

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

var (
	errUnknown = errors.New("nothing in Redis stands for this name")
	errAway    = errors.New("no answer from Redis")
)

// A cache has what Redis holds for the names that clients have asked for. What was found is used
// while it is looked up again, so only the first client of a name waits for Redis. If Redis does
// not answer, what was found stays.
type cache[V comparable] struct {
	find    func(ctx context.Context, name string) (V, error) // errUnknown: there is nothing
	fresh   time.Duration                                     // how long a result is used without a lookup
	timeout time.Duration                                     // of a lookup
	slots   chan struct{}                                     // its capacity is the number of lookups at a time
	max     int                                               // names in each map; any other one makes room

	mu     sync.Mutex
	found  map[string]result[V] // bounded, apart from absent: invented names evict no real ones
	absent map[string]result[V] // bounded; names with an error
	calls  map[string]*call[V]  // lookups under way
	tasks  sync.WaitGroup       // of the lookups
}

// maxNames is the max of caches.
const maxNames = 50_000

type result[V any] struct {
	value V
	err   error
	at    time.Time
}

type call[V any] struct {
	result[V]
	done chan struct{}
}

func newCache[V comparable](o *options, find func(context.Context, string) (V, error)) *cache[V] {
	return &cache[V]{find: find, fresh: o.interval, timeout: o.timeout, slots: make(chan struct{}, o.lookups), max: maxNames,
		found: map[string]result[V]{}, absent: map[string]result[V]{}, calls: map[string]*call[V]{}}
}

// get returns the value of a name. It returns errUnknown if there is none.
func (c *cache[V]) get(ctx context.Context, name string) (V, error) {
	c.mu.Lock()
	known, found := c.found[name]
	if !found {
		known = c.absent[name]
	}
	if time.Since(known.at) < c.fresh {
		c.mu.Unlock()
		return known.value, known.err
	}
	looked := c.calls[name]
	if looked == nil {
		looked = &call[V]{done: make(chan struct{})}
		c.calls[name] = looked
		c.tasks.Go(func() { c.look(name, looked) })
	}
	c.mu.Unlock()
	if found {
		return known.value, nil
	}
	limited, cancel := context.WithTimeoutCause(ctx, c.timeout, errAway) // find may take longer
	defer cancel()
	select {
	case <-looked.done:
		return looked.value, looked.err
	case <-limited.Done():
		return known.value, context.Cause(limited)
	}
}

// look runs a lookup, within the time limit, and stores its result.
func (c *cache[V]) look(name string, l *call[V]) {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		l.value, l.err = c.find(ctx, name)
		<-c.slots
	case <-ctx.Done():
		l.err = errAway
	}
	l.at = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, name)
	defer close(l.done)
	switch {
	case l.err == nil:
		delete(c.absent, name)
		c.put(c.found, name, l.result)
	case errors.Is(l.err, errUnknown):
		delete(c.found, name)
		c.put(c.absent, name, l.result)
	default: // use what is known, and ask no sooner than if there were an answer
		if known, ok := c.found[name]; ok {
			known.at = l.at
			c.found[name] = known
		} else {
			c.put(c.absent, name, l.result)
		}
	}
}

// put stores a result. If the map is full, it deletes any other one.
func (c *cache[V]) put(m map[string]result[V], name string, r result[V]) {
	if _, ok := m[name]; !ok && len(m) >= c.max {
		for other := range m {
			delete(m, other)
			break
		}
	}
	m[name] = r
}

// forget deletes the value of a name, if it is still that value.
func (c *cache[V]) forget(name string, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.found[name]; ok && r.value == value {
		delete(c.found, name)
	}
}

// drop deletes the names whose value is unused, and the old results of names that have no value.
func (c *cache[V]) drop(unused func(V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.found, func(_ string, r result[V]) bool { return unused(r.value) })
	maps.DeleteFunc(c.absent, func(_ string, r result[V]) bool { return time.Since(r.at) >= c.fresh })
}
