package stickiness

import (
	"context"
	"sync"
	"time"
)

// A LearnTrace has functions that a [Learn] calls after calls of its store. Any of them may be nil.
// They run on the goroutine of the request. They are called concurrently for different requests,
// and must not block.
type LearnTrace struct {
	// Find is called after each lookup of a session ID of a request. ok reports whether the session
	// was found, and from says where its target comes from. If ok is false, from has no meaning.
	// took is how long the request waited. If err is not nil, the store failed or was late.
	Find func(from Origin, ok bool, err error, took time.Duration)

	// Bind is called after each attempt to store or adopt a session. took is how long the response
	// waited. If err is not nil, the store failed or was late. It may have stored the session all
	// the same.
	Bind func(err error, took time.Duration)
}

// found is what a store says about a session.
type found struct {
	target string
	from   Origin
	ok     bool
}

// A flight is one call of the store for a session, and the requests that wait for its result.
type flight struct {
	done   chan struct{} // closed when what follows is set
	shared bool          // the result is also that of the requests that wait
	found  found
	err    error
}

// flights are the calls under way, by key. There are at most as many as requests.
type flights struct {
	mu  sync.Mutex
	all map[string]*flight
}

// join returns the flight for a key. It reports whether the caller has to make the call.
func (f *flights) join(key string) (one *flight, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one, ok := f.all[key]; ok {
		return one, false
	}
	if f.all == nil {
		f.all = make(map[string]*flight)
	}
	one = &flight{done: make(chan struct{})}
	f.all[key] = one
	return one, true
}

// land ends a flight.
func (f *flights) land(key string, one *flight) {
	f.mu.Lock()
	if f.all[key] == one {
		delete(f.all, key)
	}
	f.mu.Unlock()
	close(one.done)
}

// leave keeps later requests from joining the flight of a key, because its result may be older than
// what they must see.
func (f *flights) leave(key string) {
	f.mu.Lock()
	delete(f.all, key)
	f.mu.Unlock()
}

// find looks up a session, and tells the trace.
func (l *Learn) find(ctx context.Context, key string) (found, error) {
	if l.trace == nil || l.trace.Find == nil {
		return l.findOnce(ctx, key)
	}
	start := time.Now()
	f, err := l.findOnce(ctx, key)
	l.trace.Find(f.from, f.ok, err, time.Since(start))
	return f, err
}

// findOnce asks the store, or waits for a request that asks for the same session. When the context
// of that request ends before the store answers, or its call panics, this request asks on its own.
func (l *Learn) findOnce(ctx context.Context, key string) (found, error) {
	if l.local {
		return l.ask(ctx, key)
	}
	for {
		one, leads := l.flights.join(key)
		if leads {
			return l.lead(ctx, key, one)
		}
		select {
		case <-one.done:
			if one.shared {
				return one.found, one.err
			}
		case <-ctx.Done():
			if l.finder != nil { // it may remember the target, and returns at once
				return l.ask(ctx, key)
			}
			return found{}, ctx.Err()
		}
	}
}

func (l *Learn) lead(ctx context.Context, key string, one *flight) (found, error) {
	defer l.flights.land(key, one)
	one.found, one.err = l.ask(ctx, key)
	said := one.err == nil && !(one.found.ok && one.found.from == Remembered)
	one.shared = said || ctx.Err() == nil
	return one.found, one.err
}

func (l *Learn) ask(ctx context.Context, key string) (f found, err error) {
	if l.finder != nil {
		f.target, f.from, f.ok, err = l.finder.Find(ctx, key, l.ttl)
	} else {
		f.target, f.ok, err = l.store.Get(ctx, key, l.ttl)
	}
	return f, err
}

// bind binds a session to the target. If claims is true and the store is a Claimer, it claims the
// session. It returns the target that the session is then bound to.
func (l *Learn) bind(ctx context.Context, key, target string, claims bool) (winner string, err error) {
	if l.trace != nil && l.trace.Bind != nil {
		start := time.Now()
		defer func() { l.trace.Bind(err, time.Since(start)) }()
	}
	if !l.local { // lookups that began before must not answer those that come after
		defer l.flights.leave(key)
	}
	if claims && l.claimer != nil {
		return l.claimer.Claim(ctx, key, target, l.ttl)
	}
	return target, l.store.Put(ctx, key, target, l.ttl)
}
