package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// probes is how many keys are tried: they lie on different connections and nodes.
	probes = 16
	// copyTries is how often they are read to see that the client keeps copies.
	copyTries = 5
	// freshWithin is how long Redis may take to report a change.
	freshWithin = time.Second
	// enoughReads is how many reads must also have returned the old value. If this process did not
	// run for a second, it has not received the report in that time.
	enoughReads = 20
	// proveWithin limits New.
	proveWithin = 2 * time.Second
	// probeTTL is how long the probes stay in Redis.
	probeTTL = 10 * time.Second
)

// What is known about copies.
const (
	unproven int32 = iota // Redis could not be asked yet
	proven
	refused
)

// tracking finds out whether copies are kept up to date: whether the server reports changes, and
// whether the client's user may ask for them. Without the permission for CLIENT CACHING, reads
// succeed, but copies do not change.
type tracking struct {
	state atomic.Int32

	mu      sync.Mutex // guards what follows; a call that finds it locked goes on without
	keys    []string   // of the probe under way
	written time.Time  // when they were written
	stale   int        // reads since then that returned an old value
	next    time.Time  // when a probe may begin
}

var (
	errNoCopies = errors.New("the client keeps no copies")
	errStale    = errors.New("copies stay as they are when a session changes: is +client|caching missing?")
)

// prove takes the steps of probe until the result is known, for at most proveWithin.
func (s *Store) prove() {
	ctx, cancel := context.WithTimeout(context.Background(), proveWithin)
	defer cancel()
	var err error
	for s.tracking.state.Load() == unproven && ctx.Err() == nil {
		if err = s.probe(ctx); err != nil {
			break
		}
		pause(ctx, 5*time.Millisecond)
	}
	if s.tracking.state.Load() == unproven {
		s.log.Warn("sessions are not copied until Redis answers", "err", errors.Join(err, ctx.Err()))
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// copies reports whether copies may be used. While that is not known, it takes the next step of
// probe.
func (s *Store) copies(ctx context.Context) bool {
	if s.local < 0 || s.tracking.state.Load() == refused {
		return false
	}
	if s.tracking.state.Load() == unproven {
		// The request needs time for itself, too.
		deadline, _ := ctx.Deadline()
		ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
		_ = s.probe(ctx)
	}
	return s.tracking.state.Load() == proven
}

// probe takes the next step, unless another call does: it writes keys that the client has copies
// of, or reads them later.
func (s *Store) probe(ctx context.Context) error {
	t := &s.tracking
	if !t.mu.TryLock() {
		return nil
	}
	defer t.mu.Unlock()
	if t.state.Load() != unproven || time.Now().Before(t.next) {
		return nil
	}
	err := s.step(ctx)
	switch {
	case errors.Is(err, errNoCopies), errors.Is(err, errStale):
		t.state.Store(refused)
		s.log.Warn("sessions are not copied: each request asks Redis", "err", err)
		return nil
	case err != nil:
		t.keys, t.next = nil, time.Now().Add(freshWithin)
	}
	return err
}

func (s *Store) step(ctx context.Context) error {
	t := &s.tracking
	if t.keys == nil {
		return s.begin(ctx)
	}
	for i, r := range s.readProbes(ctx, t.keys) {
		text, err := r.ToString()
		switch {
		case err != nil && !rueidis.IsRedisNil(err):
			return err
		case text == version+strconv.Itoa(i):
		case time.Since(t.written) > freshWithin && t.stale > enoughReads:
			return errStale
		default:
			t.stale++
			return nil
		}
	}
	t.state.Store(proven)
	return nil
}

// begin reads keys that Redis does not have, so that the client has copies of these answers. Then
// it writes the keys.
func (s *Store) begin(ctx context.Context) error {
	t := &s.tracking
	name := s.prefix + "probe:" + rand.Text() + ":"
	keys := make([]string, probes)
	for i := range keys {
		keys[i] = name + strconv.Itoa(i)
	}
	if err := s.copyProbes(ctx, keys); err != nil {
		return err
	}
	cmds := make([]rueidis.Completed, len(keys))
	for i, key := range keys {
		cmds[i] = s.client.B().Set().Key(key).Value(version + strconv.Itoa(i)).PxMilliseconds(probeTTL.Milliseconds()).Build()
	}
	for _, r := range s.doMulti(ctx, cmds...) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	t.keys, t.written, t.stale = keys, time.Now(), 0
	return nil
}

// copyProbes reads keys until all answers are copies. It tries a few times, because copies
// end with their connection.
func (s *Store) copyProbes(ctx context.Context, keys []string) error {
	for range copyTries {
		copies := 0
		for _, r := range s.readProbes(ctx, keys) {
			if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
				return err
			}
			if r.IsCacheHit() {
				copies++
			}
		}
		if copies == len(keys) {
			return nil
		}
	}
	return errNoCopies
}

func (s *Store) readProbes(ctx context.Context, keys []string) []rueidis.RedisResult {
	return s.call(ctx, func() []rueidis.RedisResult {
		cmds := make([]rueidis.CacheableTTL, len(keys))
		for i, key := range keys {
			cmds[i] = rueidis.CT(s.client.B().Get().Key(key).Cache().ToStaticTTL(), probeTTL)
		}
		return s.client.DoMultiCache(ctx, cmds...)
	}, len(keys))
}
