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
	shardFrom       = examined // sessions up to which one shard does, and evicts exactly
)

// A MemoryStore is a [Store] in the memory of this process, for one balancer: a restart
// forgets all sessions. The zero value is ready to use. It starts no goroutine and no
// timer; the sessions that have ended are removed, a few at a time, by the calls that
// follow, and do not count as long as they are not found.
//
// It does not keep the keys: what is compared are hashes of more than 100 bits, under
// seeds that are random for each store.
type MemoryStore struct {
	// Capacity is the number of sessions that the store holds; zero and less mean 1,000,000.
	// When it is full, a new session takes the place of the one that would end first. More
	// than 1,024 are kept in 64 parts with a lock each: then it takes the place of the first
	// among 1,024 of its part, and the store may hold up to 64 more while calls overlap.
	// Capacity must not be changed while the store is in use.
	Capacity int

	once     sync.Once
	base     time.Time // what instants count from, so that the wall clock does not matter
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

// Len returns the number of sessions held, those included that have ended and were not
// yet removed.
func (s *MemoryStore) Len() int { return int(s.live.Load()) }

// Get implements [Store]. It does not wait and never fails; ctx is not used.
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

// Put implements [Store]. It does not wait and never fails; ctx is not used.
func (s *MemoryStore) Put(_ context.Context, key, target string, ttl time.Duration) error {
	sh, h := s.find(key)
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	if e := sh.lookup(h); e != nil {
		if e.target.Value() != target {
			e.target = unique.Make(target)
		}
		e.ends = later(now, ttl)
		return nil
	}
	for s.live.Load() >= s.capacity && sh.evict() {
		s.live.Add(-1)
	}
	sh.add(h, target, later(now, ttl))
	s.live.Add(1)
	return nil
}

// sweep removes some of the sessions of a shard that have ended. The count is not touched
// without need, for all shards share it.
func (s *MemoryStore) sweep(sh *shard, now time.Duration) {
	if removed := sh.sweep(now); removed > 0 {
		s.live.Add(-removed)
	}
}

// find returns the shard of a key and what stands for the key in it.
func (s *MemoryStore) find(key string) (*shard, hash) {
	s.once.Do(s.init)
	a, b := maphash.String(s.seeds[0], key), maphash.String(s.seeds[1], key)
	return &s.shards[(a>>32)%uint64(len(s.shards))], hash{uint32(a) | 1<<31, b}
}

// now is the time since the store began. Unlike time.Now it reads one clock only.
func (s *MemoryStore) now() time.Duration { return time.Since(s.base) }

// later adds a lifetime to an instant. What is too long lasts for ever.
func later(now, ttl time.Duration) time.Duration {
	if ttl > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + ttl
}
