package stickiness

import (
	"slices"
	"sync"
	"time"
	"unique"
)

const (
	// swept is how many sessions a call checks for their end. The bound keeps calls short when many
	// sessions end together.
	swept = 4
	// examined is how many sessions are compared to find the one that ends first.
	examined = 1024
)

// A hash identifies a key. A search for it begins at tag, which is not zero.
type hash struct {
	tag   uint32
	check uint64
}

// A session is a slot of the table. The tag of an empty slot is zero. A slot has half the size of a
// cache line, so that it does not cross two lines.
type session struct {
	hash
	target unique.Handle[string]
	ends   time.Duration
}

// An ending is an instant at which to check whether a session has ended.
type ending struct {
	at time.Duration
	hash
}

// A shard is a hash table of sessions and a heap of the instants at which they end. The table uses
// open addressing with linear probing, so that most lookups cost one cache miss. Extending a
// session changes only the session. Its instant in the heap is then too early, and is corrected
// when it comes up.
//
// Callers of its methods hold mu.
type shard struct {
	mu    sync.Mutex
	slots []session // a power of two
	heap  []ending  // a binary heap, the earliest first; one for each session
	_     [8]byte   // makes the shard one cache line, so that shards share none
}

// lookup returns the session of a key, or nil. The result is valid until the next add or remove.
func (s *shard) lookup(h hash) *session {
	if len(s.slots) == 0 {
		return nil
	}
	if e := &s.slots[s.search(h)]; e.tag != 0 {
		return e
	}
	return nil
}

// search returns the slot of a session, or the empty slot where it would be.
func (s *shard) search(h hash) int {
	i := s.home(h.tag)
	for s.slots[i].tag != 0 && s.slots[i].hash != h {
		i = s.next(i)
	}
	return i
}

func (s *shard) home(tag uint32) int { return int(tag) & (len(s.slots) - 1) }
func (s *shard) next(i int) int      { return (i + 1) & (len(s.slots) - 1) }

// add adds a session. The shard must not have it.
func (s *shard) add(h hash, target string, ends time.Duration) {
	if 4*(len(s.heap)+1) > 3*len(s.slots) {
		s.grow()
	}
	s.slots[s.search(h)] = session{h, unique.Make(target), ends}
	s.heap = append(s.heap, ending{ends, h})
	s.up(len(s.heap) - 1)
}

func (s *shard) grow() {
	old := s.slots
	s.slots = make([]session, max(16, 2*len(old)))
	for _, e := range old {
		if e.tag != 0 {
			s.slots[s.search(e.hash)] = e
		}
	}
}

// sweep removes at most swept sessions that have ended, and returns how many.
func (s *shard) sweep(now time.Duration) (removed int64) {
	for range swept {
		if len(s.heap) == 0 || s.heap[0].at > now {
			break
		}
		if !s.refresh() {
			s.remove(0)
			removed++
		}
	}
	return removed
}

// evict removes the session that would end first. If the first "examined" sessions of the heap have
// all been extended, it removes the earliest of those. It returns false if the shard is empty.
func (s *shard) evict() bool {
	if len(s.heap) == 0 {
		return false
	}
	first := *s.lookup(s.heap[0].hash)
	for range examined {
		if e := s.lookup(s.heap[0].hash); e.ends < first.ends {
			first = *e
		}
		if !s.refresh() {
			s.remove(0)
			return true
		}
	}
	s.remove(slices.IndexFunc(s.heap, func(e ending) bool { return e.hash == first.hash }))
	return true
}

// refresh corrects the first instant of the heap. It reports whether the instant was too early.
func (s *shard) refresh() bool {
	ends := s.lookup(s.heap[0].hash).ends
	if s.heap[0].at >= ends {
		return false
	}
	s.heap[0].at = ends
	s.down(0)
	return true
}

// remove removes the session of a heap entry. An empty shard releases its memory.
func (s *shard) remove(i int) {
	s.unlink(s.search(s.heap[i].hash))
	last := len(s.heap) - 1
	if last == 0 {
		s.slots, s.heap = nil, nil
		return
	}
	s.heap[i] = s.heap[last]
	s.heap = s.heap[:last]
	if i < last {
		s.up(i)
		s.down(i)
	}
}

// unlink empties a slot. A later session moves into the hole, unless its home slot lies,
// cyclically, after the hole and not after the session. So no search ends at the hole too early.
func (s *shard) unlink(hole int) {
	mask := len(s.slots) - 1
	for i := s.next(hole); s.slots[i].tag != 0; i = s.next(i) {
		if home := s.home(s.slots[i].tag); (i-home)&mask >= (i-hole)&mask {
			s.slots[hole] = s.slots[i]
			hole = i
		}
	}
	s.slots[hole] = session{}
}

// up moves a heap entry up that may be too early for its place.
func (s *shard) up(i int) {
	for i > 0 && s.heap[i].at < s.heap[(i-1)/2].at {
		s.heap[i], s.heap[(i-1)/2] = s.heap[(i-1)/2], s.heap[i]
		i = (i - 1) / 2
	}
}

// down moves a heap entry down that may be too late for its place.
func (s *shard) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(s.heap) {
			return
		}
		if right := child + 1; right < len(s.heap) && s.heap[right].at < s.heap[child].at {
			child = right
		}
		if s.heap[i].at <= s.heap[child].at {
			return
		}
		s.heap[i], s.heap[child] = s.heap[child], s.heap[i]
		i = child
	}
}
