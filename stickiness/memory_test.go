package stickiness_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

func TestMemoryStore_Contract(t *testing.T) {
	for _, capacity := range []int{0, 1000, 5000} {
		synctest.Test(t, func(t *testing.T) {
			require.NoError(t, stickinesstest.TestStore(&stickiness.MemoryStore{Capacity: capacity}, time.Sleep))
		})
	}
}

// storeGet calls Get without the context and the error that a MemoryStore does not use.
func storeGet(s *stickiness.MemoryStore, key string, ttl time.Duration) string {
	target, _, _ := s.Get(context.Background(), key, ttl)
	return target
}

func storePut(s *stickiness.MemoryStore, key, target string, ttl time.Duration) {
	_ = s.Put(context.Background(), key, target, ttl)
}

func TestMemoryStore_EvictsTheFirstToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stickiness.MemoryStore{Capacity: 3}
		for _, key := range []string{"a", "b", "c"} {
			storePut(s, key, "t", time.Minute)
			time.Sleep(time.Second)
		}
		require.Equal(t, "t", storeGet(s, "a", time.Minute)) // now b is the first to end
		storePut(s, "d", "t", time.Minute)
		require.Equal(t, 3, s.Len())
		require.Empty(t, storeGet(s, "b", time.Minute))

		storePut(s, "c", "u", time.Minute) // not a new session, so none is evicted
		require.Equal(t, "t", storeGet(s, "a", time.Minute))
		require.Equal(t, "u", storeGet(s, "c", time.Minute))

		storePut(s, "e", "t", time.Second) // the new one stays, although it ends first
		require.Equal(t, "t", storeGet(s, "e", time.Second))
		require.Equal(t, 3, s.Len())
	})
}

func TestMemoryStore_TheEndedGoBeforeTheLiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stickiness.MemoryStore{Capacity: 100}
		for i := range 50 {
			storePut(s, fmt.Sprint("old", i), "t", time.Hour)
			storePut(s, fmt.Sprint("short", i), "t", time.Minute)
		}
		time.Sleep(2 * time.Minute)
		for i := range 50 {
			storePut(s, fmt.Sprint("new", i), "t", time.Minute)
		}
		for i := range 50 {
			require.Equal(t, "t", storeGet(s, fmt.Sprint("old", i), time.Minute))
			require.Empty(t, storeGet(s, fmt.Sprint("short", i), time.Minute))
			require.Equal(t, "t", storeGet(s, fmt.Sprint("new", i), time.Minute))
		}
	})
}

func TestMemoryStore_ForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stickiness.MemoryStore
		storePut(&s, "a", "t", math.MaxInt64)
		time.Sleep(100 * 365 * 24 * time.Hour)
		require.Equal(t, "t", storeGet(&s, "a", math.MaxInt64))
		storePut(&s, "a", "t", 0)
		require.Empty(t, storeGet(&s, "a", time.Hour), "no time at all")
	})
}

// A store behaves like a simple map for any sequence of calls.
func TestMemoryStore_AgainstAModel(t *testing.T) {
	type entry struct {
		target string
		ends   time.Time
	}
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			s := &stickiness.MemoryStore{Capacity: []int{100, 5000}[seed%2]} // one shard, and many
			model := map[string]entry{}
			for range 5_000 {
				key := strconv.Itoa(random.IntN(90)) // all of them fit
				ttl := time.Duration(1 + random.IntN(1000))
				got, want := model[key], ""
				if got.ends.After(time.Now()) {
					want = got.target
				}
				later := time.Now().Add(ttl)
				if random.IntN(3) == 0 {
					target := strconv.Itoa(random.IntN(1000))
					storePut(s, key, target, ttl)
					model[key] = entry{target, later}
				} else {
					require.Equal(t, want, storeGet(s, key, ttl), "seed %d", seed)
					if want != "" && later.After(got.ends) {
						model[key] = entry{want, later}
					}
				}
				time.Sleep(time.Duration(random.IntN(20)))
				require.LessOrEqual(t, s.Len(), 90)
			}
		})
	}
}

// A full store loses the session that would end first, each time.
func TestMemoryStore_EvictionAgainstAModel(t *testing.T) {
	const (
		capacity = 40
		unit     = 10_000 // each instant is another part of it, so that no two sessions end together
	)
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			s := &stickiness.MemoryStore{Capacity: capacity}
			model := map[string]time.Time{} // when they end
			for range 3_000 {
				time.Sleep(time.Duration(1 + random.IntN(3)))
				if random.IntN(4) == 0 {
					time.Sleep(time.Duration(random.IntN(5) * unit))
				}
				now := time.Now()
				maps.DeleteFunc(model, func(_ string, ends time.Time) bool { return !ends.After(now) })
				key, ttl := strconv.Itoa(random.IntN(100)), time.Duration((1+random.IntN(100))*unit)
				ends, known := model[key]
				if later := now.Add(ttl); known && later.After(ends) || !known && random.IntN(2) == 0 {
					ends = later
				}
				require.Equal(t, known, storeGet(s, key, ttl) != "", "seed %d", seed)
				if !known && ends.IsZero() {
					continue
				}
				if !known {
					if len(model) == capacity {
						delete(model, slices.MinFunc(slices.Collect(maps.Keys(model)), func(a, b string) int { return model[a].Compare(model[b]) }))
					}
					storePut(s, key, "t", ttl)
				}
				model[key] = ends
			}
		})
	}
}

// Full all the time: never more than the capacity, and what was just put is there.
func TestMemoryStore_Full(t *testing.T) {
	for _, capacity := range []int{1, 2, 63, 1024, 2000, 3000} {
		s := &stickiness.MemoryStore{Capacity: capacity}
		for i := range 5_000 {
			key := strconv.Itoa(i)
			storePut(s, key, key, time.Hour)
			if got, n := storeGet(s, key, time.Hour), s.Len(); got != key || n != min(i+1, capacity) {
				t.Fatalf("after %d: bound to %q, %d sessions", i, got, n)
			}
		}
		found := 0
		for i := range 5_000 {
			if target := storeGet(s, strconv.Itoa(i), time.Hour); target != "" {
				require.Equal(t, strconv.Itoa(i), target)
				found++
			}
		}
		require.Equal(t, capacity, found)
	}
}

// All sessions were extended, in one order or the other, and there are more than evict examines. It
// removes one of the sessions that end first, and none that ends last.
func TestMemoryStore_FullOfExtendedSessions(t *testing.T) {
	const capacity = 64 * 1500
	for name, nth := range map[string]func(i int) string{
		"as they came":         strconv.Itoa,
		"the other way around": func(i int) string { return strconv.Itoa(capacity - 1 - i) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stickiness.MemoryStore{Capacity: capacity}
				for i := range capacity {
					storePut(s, strconv.Itoa(i), "t", time.Hour)
				}
				for i := range capacity {
					if i%100 == 0 {
						time.Sleep(time.Millisecond)
					}
					storeGet(s, nth(i), time.Hour)
				}
				for i := range 64 {
					storePut(s, fmt.Sprint("new", i), "t", time.Hour)
				}
				require.Equal(t, capacity, s.Len())
				for i := capacity / 2; i < capacity; i++ {
					if storeGet(s, nth(i), time.Hour) == "" {
						t.Errorf("%s is gone", nth(i))
					}
				}
				for i := range 64 {
					require.Equal(t, "t", storeGet(s, fmt.Sprint("new", i), time.Hour))
				}
			})
		})
	}
}

func TestMemoryStore_Concurrent(t *testing.T) {
	s := &stickiness.MemoryStore{Capacity: 2000}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				key := strconv.Itoa((i*7 + g) % 3000)
				switch i % 3 {
				case 0:
					storePut(s, key, key, time.Duration(i%5)*time.Millisecond)
				default:
					if target := storeGet(s, key, time.Millisecond); target != "" && target != key {
						t.Errorf("%s is bound to %s", key, target)
					}
				}
				if n := s.Len(); n > 2000+64 {
					t.Errorf("%d sessions", n)
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, s.Len(), 2000+8)
}

// heapOf returns the size of the live heap.
func heapOf() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestMemoryStore_MemoryOfASession(t *testing.T) {
	const n = 100_000
	synctest.Test(t, func(t *testing.T) {
		before := heapOf()
		var s stickiness.MemoryStore
		for i := range n {
			storePut(&s, strconv.Itoa(i), "app-1", time.Hour)
		}
		require.Equal(t, n, s.Len())
		require.LessOrEqual(t, (heapOf()-before)/n, int64(160))

		time.Sleep(2 * time.Hour) // all of them end
		for i := 0; s.Len() > 0; i++ {
			if i == n {
				t.Fatal("a call removes less than one of them on average")
			}
			storeGet(&s, strconv.Itoa(i), time.Hour)
		}
		require.Less(t, heapOf()-before, int64(n), "their memory is given back")
		runtime.KeepAlive(&s)
	})
}

func BenchmarkMemoryStore(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		s := stickiness.MemoryStore{Capacity: n}
		before := heapOf()
		key := func(i int) string { return "0123456789abcdef" + strconv.Itoa(1_000_000+i) }
		for i := range n {
			storePut(&s, key(i), "app-1", time.Hour)
		}
		each := float64(heapOf()-before) / float64(n)
		keys := make([]string, 1<<14) // in the cache, like a key that was just made from a request
		for i := range keys {
			keys[i] = key(rand.IntN(n))
		}
		b.Run(fmt.Sprintf("Get/sessions=%d", n), func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				storeGet(&s, keys[i%len(keys)], time.Hour)
				i++
			}
			b.ReportMetric(each, "heap-B/session")
		})
		b.Run(fmt.Sprintf("GetAny/sessions=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, 32)
			for b.Loop() { // the key is made on the stack, because a key from a request is in the cache too
				buf = strconv.AppendInt(append(buf[:0], "0123456789abcdef"...), int64(1_000_000+rand.IntN(n)), 10)
				storeGet(&s, string(buf), time.Hour)
			}
		})
		b.Run(fmt.Sprintf("Put/sessions=%d", n), func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				storePut(&s, keys[i%len(keys)], "app-2", time.Hour)
				i++
			}
		})
		b.Run(fmt.Sprintf("PutNewWhenFull/sessions=%d", n), func(b *testing.B) {
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				storePut(&s, key(n+i), "app-2", time.Hour)
				i++
			}
		})
	}
}

// The longest call while a million sessions have just ended.
func BenchmarkMemoryStoreExpiry(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		b.StopTimer()
		var s stickiness.MemoryStore
		for i := range n {
			storePut(&s, strconv.Itoa(i), "app-1", 3*time.Second)
		}
		runtime.GC()
		<-time.After(3 * time.Second)
		var longest time.Duration
		b.StartTimer()
		for i := 0; s.Len() > 0; i++ {
			start := time.Now()
			storeGet(&s, strconv.Itoa(i), time.Hour)
			longest = max(longest, time.Since(start))
		}
		b.ReportMetric(float64(longest.Nanoseconds()), "longest-ns")
	}
}
