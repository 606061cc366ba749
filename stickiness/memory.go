package stickiness

import (
	"context"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unique"
)

const (
	defaultSessions = 1_000_000
	maxShards       = 64
	shardFrom       = examined // a store of up to this capacity has one shard, and evicts exactly
)

// A MemoryStore is a [Store] and a [Claimer] in the memory of this process, for one balancer. A
// restart loses all sessions. The zero value is ready to use. It starts no goroutine and no timer:
// each call removes a few sessions that have ended. Get does not return a session that has ended.
//
// The store does not keep keys. It compares hashes of more than 100 bits, whose seeds are random
// for each store.
type MemoryStore struct {
	// Capacity is the number of sessions that the store holds. Zero and negative values mean
	// 1,000,000. When the store is full, a new session replaces the session that would end first. A
	// store of more than 1,024 sessions has 64 parts with one lock each: a new session then
	// replaces the one that would end first among 1,024 of its part, and while calls overlap the
	// store may hold up to 64 more. Capacity must not be changed while the store is in use.
	Capacity int

	once     sync.Once
	base     time.Time // instants count from here, so that steps of the wall clock do not matter
	seeds    [2]maphash.Seed
	shards   []shard
	capacity int64
	live     atomic.Int64 // sessions held, over all shards
}

func (s *MemoryStore) init() {
	s.base = time.Now()
	s.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	s.capacity = int64(s.Capacity)
	if s.Capacity <= 0 {
		s.capacity = defaultSessions
	}
	n := 1
	if s.capacity > shardFrom {
		n = maxShards
	}
	s.shards = make([]shard, n)
}

// Len returns the number of sessions held, including those that have ended and were not removed
// yet.
func (s *MemoryStore) Len() int { return int(s.live.Load()) }

// Get implements [Store]. It does not wait for anything, never fails, and does not use ctx.
func (s *MemoryStore) Get(_ context.Context, key string, ttl time.Duration) (target string, ok bool, err error) {
	sh, h := s.find(key)
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	e := sh.lookup(h)
	if e == nil || e.ends <= now {
		return "", false, nil
	}
	e.ends = max(e.ends, later(now, ttl))
	return e.target.Value(), true, nil
}

// Put implements [Store]. It does not wait for anything, never fails, and does not use ctx.
func (s *MemoryStore) Put(_ context.Context, key, target string, ttl time.Duration) error {
	sh, h := s.find(key)
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	s.put(sh, h, target, now, ttl)
	return nil
}

// Claim implements [Claimer]. It does not wait for anything, never fails, and does not use ctx.
func (s *MemoryStore) Claim(_ context.Context, key, target string, ttl time.Duration) (winner string, err error) {
	sh, h := s.find(key)
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	if e := sh.lookup(h); e != nil && e.ends > now {
		return e.target.Value(), nil
	}
	s.put(sh, h, target, now, ttl)
	return target, nil
}

// put binds a session. The caller holds the shard's lock.
func (s *MemoryStore) put(sh *shard, h hash, target string, now, ttl time.Duration) {
	ends := later(now, ttl)
	if e := sh.lookup(h); e != nil {
		if e.target.Value() != target {
			e.target = unique.Make(target)
		}
		e.ends = ends
		return
	}
	for s.live.Load() >= s.capacity && sh.evict() {
		s.live.Add(-1)
	}
	sh.add(h, target, ends)
	s.live.Add(1)
}

// sweep removes a few sessions of a shard that have ended. It writes to the counter only if
// necessary, because all shards share it.
func (s *MemoryStore) sweep(sh *shard, now time.Duration) {
	if removed := sh.sweep(now); removed > 0 {
		s.live.Add(-removed)
	}
}

// find returns the shard of a key, and the hash that identifies the key in it.
func (s *MemoryStore) find(key string) (*shard, hash) {
	s.once.Do(s.init)
	a, b := maphash.String(s.seeds[0], key), maphash.String(s.seeds[1], key)
	return &s.shards[(a>>32)%uint64(len(s.shards))], hash{uint32(a) | 1<<31, b}
}

// now returns the time since the store began. Unlike time.Now it reads only one clock.
func (s *MemoryStore) now() time.Duration { return time.Since(s.base) }

// later adds a lifetime to an instant. On overflow it returns the largest instant.
func later(now, ttl time.Duration) time.Duration {
	if ttl > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + ttl
}
