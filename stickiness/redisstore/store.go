package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
	"github.com/stickylb/stickylb/stickiness"
)

const (
	defaultPrefix = "stickylb:"
	defaultLocal  = 5 * time.Second

	// callTimeout limits calls whose context has no deadline. Without a limit, rueidis would repeat
	// a failed read for ever.
	callTimeout = time.Second
	// settle is how long after a write of ours Redis is asked for the session: the message that
	// makes our own copy invalid comes on another connection than the reply to the write.
	settle = time.Second
	// retryAfter is when an extension that failed is tried again.
	retryAfter = time.Second
)

// Options configure a [Store].
type Options struct {
	// Prefix is the beginning of all keys in Redis. Stores with the same Prefix share their
	// sessions. Empty means "stickylb:". A Prefix with a brace is refused, because Redis Cluster
	// would keep all sessions on one node.
	Prefix string

	// Local is how long a copy of a session may be used without asking Redis. Redis tells the
	// client when a session changes, so Local matters only if that message is lost. Zero means 5 s.
	// Negative means that there are no copies.
	Local time.Duration

	// Remember is the number of sessions whose last known target the store remembers, and uses
	// while Redis cannot be asked. It also limits the number of sessions with copies. Zero means
	// 1,000,000. Negative means that no targets are remembered, and that up to 1,000,000 sessions
	// have copies.
	Remember int

	// Logger receives a warning if copies are off although Local is not negative. While Redis
	// cannot be asked, it receives a warning at most once a minute. Nil means [slog.Default].
	Logger *slog.Logger
}

// A Store is a [stickiness.Store], [stickiness.Claimer] and [stickiness.Finder] in Redis. Its
// methods are safe for concurrent use. It does not need to be closed: the caller closes the client.
type Store struct {
	client   rueidis.Client
	cluster  bool
	prefix   string
	local    time.Duration
	log      *slog.Logger
	tracking tracking
	calls    calls

	// states says how to read a session: see copied and written.
	states stickiness.MemoryStore
	// last has the last known targets. unsaved has those of them that Redis did not store.
	remember      bool
	last, unsaved stickiness.MemoryStore

	failures atomic.Int64 // since the last warning
	warned   atomic.Int64 // when, in nanoseconds since start; zero: never
	start    time.Time
}

// The states of a session. A session without a state may have to be extended.
const (
	// copied: the session was extended lately, so a copy may answer.
	copied = "copied"
	// written: this store has just written the session, and its own copy may be older.
	written = "written"
)

// Answers to PTTL that are no time.
const (
	endless = -1
	gone    = -2
)

// New returns a store that uses the client, which may be for a single server, Sentinel or Cluster.
// The caller closes the client when the store is no longer used. New returns an error if the client
// is nil or the Prefix has a brace.
//
// Unless Local is negative, New finds out whether Redis reports changes, which copies need. It
// waits at most 2 s. If Redis does not report changes, copies are off. If Redis cannot be asked,
// copies are off until a later call has found out. Both are logged.
func New(client rueidis.Client, o Options) (*Store, error) {
	switch {
	case client == nil:
		return nil, errors.New("redisstore: no client")
	case strings.ContainsAny(o.Prefix, "{}"):
		return nil, fmt.Errorf("redisstore: Prefix %q has a brace", o.Prefix)
	}
	s := &Store{
		client:   client,
		cluster:  client.Mode() == rueidis.ClientModeCluster,
		prefix:   o.Prefix,
		local:    o.Local,
		log:      o.Logger,
		remember: o.Remember >= 0,
		start:    time.Now(),
	}
	if s.prefix == "" {
		s.prefix = defaultPrefix
	}
	if s.local == 0 {
		s.local = defaultLocal
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	for _, m := range []*stickiness.MemoryStore{&s.states, &s.last, &s.unsaved} {
		m.Capacity = max(0, o.Remember)
	}
	if s.local > 0 {
		s.prove()
	}
	return s, nil
}

// Get implements [stickiness.Store]. Learn calls Find instead.
func (s *Store) Get(ctx context.Context, key string, ttl time.Duration) (target string, ok bool, err error) {
	target, _, ok, err = s.Find(ctx, key, ttl)
	return target, ok, err
}

// Find implements [stickiness.Finder].
func (s *Store) Find(ctx context.Context, key string, ttl time.Duration) (target string, from stickiness.Origin, ok bool, err error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	target, from, ok, err = s.read(ctx, key, ttl)
	if err == nil && from == stickiness.Copied {
		return target, from, ok, nil
	}
	if err == nil && !ok {
		target, ok, err = s.save(ctx, key, ttl)
	}
	switch {
	case errors.Is(err, errValue):
		return "", from, false, err
	case err != nil:
		s.failed(err)
		if target, ok, _ := s.last.Get(ctx, key, ttl); ok {
			return target, stickiness.Remembered, true, nil
		}
		return "", from, false, err
	case ok:
		s.know(&s.last, key, target, ttl)
		s.forget(&s.unsaved, key)
	default:
		s.forget(&s.last, key)
	}
	return target, from, ok, nil
}

// read asks Redis or the client's copy, and extends the session if a part of its time has passed.
func (s *Store) read(ctx context.Context, key string, ttl time.Duration) (target string, from stickiness.Origin, ok bool, err error) {
	switch state, _, _ := s.states.Get(ctx, key, 0); {
	case state == "":
		target, ok, err = s.readAndExtend(ctx, key, ttl)
	case state == copied && s.copies(ctx):
		return s.readCopy(ctx, key)
	default:
		target, ok, err = s.value(s.do(ctx, s.client.B().Get().Key(s.key(key)).Build()))
	}
	return target, stickiness.Asked, ok, err
}

// readCopy asks Redis only if the client has no copy. A copy of the answer that there is no session
// is not used, because the session may have begun since.
func (s *Store) readCopy(ctx context.Context, key string) (target string, from stickiness.Origin, ok bool, err error) {
	r := s.doCache(ctx, key)
	target, ok, err = s.value(r)
	others := ctx.Err() == nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
	switch {
	case others: // the end of a call that this one has joined in the client
	case err != nil || !r.IsCacheHit():
		return target, stickiness.Asked, ok, err
	case ok:
		return target, stickiness.Copied, true, nil
	}
	target, ok, err = s.value(s.do(ctx, s.client.B().Get().Key(s.key(key)).Build()))
	return target, stickiness.Asked, ok, err
}

// readAndExtend reads the session and its remaining time, and extends the session if it is due. The
// remaining time comes from Redis, because clocks differ.
func (s *Store) readAndExtend(ctx context.Context, key string, ttl time.Duration) (target string, ok bool, err error) {
	name := s.key(key)
	r := s.doMulti(ctx, s.client.B().Get().Key(name).Build(), s.client.B().Pttl().Key(name).Build())
	if target, ok, err = s.value(r[0]); err != nil || !ok {
		return target, ok, err
	}
	left, err := r[1].AsInt64()
	switch {
	case err != nil:
		return "", false, err
	case left == gone: // it has ended between the two
		return "", false, nil
	}
	passed := time.Duration(0)
	if left != endless {
		passed = max(0, ttl-time.Duration(left)*time.Millisecond)
	}
	// Balancers check at different times, and the first one extends for all.
	due := ttl/20 + rand.N(ttl/20+1)
	if passed < ttl/20 {
		due -= passed
	} else if err := s.extend(ctx, name, ttl); err != nil {
		s.failed(err)
		due = min(due, retryAfter)
	}
	_, _ = s.states.Claim(ctx, key, copied, due+1)
	return target, true, nil
}

// extend never shortens: the session may have been bound for longer meanwhile.
func (s *Store) extend(ctx context.Context, name string, ttl time.Duration) error {
	return s.do(ctx, s.client.B().Pexpire().Key(name).Milliseconds(milliseconds(ttl)).Gt().Build()).Error()
}

// save claims a session that Redis does not have, if this store could not write the session before.
func (s *Store) save(ctx context.Context, key string, ttl time.Duration) (target string, ok bool, err error) {
	if !s.remember || s.unsaved.Len() == 0 {
		return "", false, nil
	}
	if target, ok, _ = s.unsaved.Get(ctx, key, 0); !ok {
		return "", false, nil
	}
	target, err = s.claim(ctx, key, target, ttl)
	return target, err == nil, err
}

// Put implements [stickiness.Store].
func (s *Store) Put(ctx context.Context, key, target string, ttl time.Duration) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	value, err := encode(target)
	if err != nil {
		return err
	}
	s.settles(key, ttl)
	err = s.do(ctx, s.client.B().Set().Key(s.key(key)).Value(value).PxMilliseconds(milliseconds(ttl)).Build()).Error()
	return s.stored(key, target, ttl, err)
}

// Claim implements [stickiness.Claimer].
func (s *Store) Claim(ctx context.Context, key, target string, ttl time.Duration) (winner string, err error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	winner, err = s.claim(ctx, key, target, ttl)
	if errors.Is(err, errValue) {
		return "", err
	}
	if err != nil {
		winner = target
	}
	if err = s.stored(key, winner, ttl, err); err != nil {
		return "", err
	}
	return winner, nil
}

func (s *Store) claim(ctx context.Context, key, target string, ttl time.Duration) (winner string, err error) {
	value, err := encode(target)
	if err != nil {
		return "", err
	}
	s.settles(key, ttl)
	winner, ok, err := s.value(s.do(ctx, s.client.B().Set().Key(s.key(key)).Value(value).
		Nx().Get().PxMilliseconds(milliseconds(ttl)).Build()))
	if err == nil && !ok {
		return target, nil
	}
	return winner, err
}

// stored notes the result of a write.
func (s *Store) stored(key, target string, ttl time.Duration, err error) error {
	s.know(&s.last, key, target, ttl)
	if err != nil {
		s.know(&s.unsaved, key, target, ttl)
		s.failed(err)
		return err
	}
	s.forget(&s.unsaved, key)
	s.settles(key, ttl)
	return nil
}

// settles makes the next reads of a session ask Redis, because the client's copy may be older.
func (s *Store) settles(key string, ttl time.Duration) {
	_ = s.states.Put(context.Background(), key, written, min(settle, ttl/20+1))
}

func (s *Store) know(m *stickiness.MemoryStore, key, target string, ttl time.Duration) {
	if s.remember {
		_ = m.Put(context.Background(), key, target, ttl)
	}
}

// forget removes a session from a memory, if it is there.
func (s *Store) forget(m *stickiness.MemoryStore, key string) {
	if m.Len() == 0 {
		return
	}
	if _, ok, _ := m.Get(context.Background(), key, 0); ok {
		_ = m.Put(context.Background(), key, "", 1)
	}
}

// failed counts a call that Redis did not answer, and logs the number at most once a minute.
func (s *Store) failed(err error) {
	if errors.Is(err, context.Canceled) { // the client went away
		return
	}
	n := s.failures.Add(1)
	if errors.Is(err, errRests) { // says nothing about the cause
		return
	}
	now, before := int64(time.Since(s.start))+1, s.warned.Load()
	if before != 0 && now-before < int64(time.Minute) || !s.warned.CompareAndSwap(before, now) {
		return
	}
	s.failures.Add(-n)
	s.log.Warn("Redis fails: the last known targets of sessions count", "failures", n, "err", err)
}

// limit gives a context a deadline if it has none.
func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTimeout)
}

// milliseconds rounds up: Redis refuses a zero.
func milliseconds(d time.Duration) int64 {
	return int64((d-1)/time.Millisecond) + 1
}
