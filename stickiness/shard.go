package stickiness

import (
	"slices"
	"sync"
	"time"
	"unique"
)

const (
	// swept is how many sessions a call looks at that may have ended, so that no call pays
	// for many that end together.
	swept = 4
	// examined is how many sessions are looked at for the one that would end first.
	examined = 1024
)

// A hash stands for a key. tag is where the search for it begins, and not zero.
type hash struct {
	tag   uint32
	check uint64
}

// A session is a slot of the table; its tag is zero if the slot is empty. It has half the
// size of a cache line, so that none lies across two.
type session struct {
	hash
	target unique.Handle[string]
	ends   time.Duration
}

// An ending is an instant at which to look whether a session has ended.
type ending struct {
	at time.Duration
	hash
}

// A shard is a hash table of sessions with open addressing and linear probing, so that a
// lookup is one cache miss as a rule, and a heap of the instants at which they end. To
// extend a session changes nothing but the session; the heap then has an instant that is
// too early, which is put right when it comes up.
type shard struct {
	mu    sync.Mutex
	slots []session // a power of two
	heap  []ending  // a binary heap, the earliest first; one for each session
	_     [8]byte   // one cache line in all, shared with no other shard
}

// lookup returns the session of a key, or nil. It is valid until the next add or remove.
func (s *shard) lookup(h hash) *session {
	if len(s.slots) == 0 {
		return nil
	}
	if e := &s.slots[s.search(h)]; e.tag != 0 {
		return e
	}
	return nil
}

// search returns the slot of a session, or the empty one where it would be.
func (s *shard) search(h hash) int {
	i := s.home(h.tag)
	for s.slots[i].tag != 0 && s.slots[i].hash != h {
		i = s.next(i)
	}
	return i
}

func (s *shard) home(tag uint32) int { return int(tag) & (len(s.slots) - 1) }
func (s *shard) next(i int) int      { return (i + 1) & (len(s.slots) - 1) }

// add adds a session that is not there.
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

// sweep removes sessions that have ended, a few at most, and returns how many.
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

// evict removes the session that would end first; if more have been extended than it looks
// at, the first one of those. It reports whether there was one.
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

// refresh puts the first instant of the heap right, and reports whether it was too early.
func (s *shard) refresh() bool {
	ends := s.lookup(s.heap[0].hash).ends
	if s.heap[0].at >= ends {
		return false
	}
	s.heap[0].at = ends
	s.down(0)
	return true
}

// remove removes the session of an instant in the heap. An empty shard gives its memory
// back.
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

// unlink empties a slot. Sessions behind it move up, so that no search for them ends at the
// hole: those whose home is not, cyclically, between the hole and themselves.
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

// up restores the order of the heap around an instant that may be too early for its place.
func (s *shard) up(i int) {
	for i > 0 && s.heap[i].at < s.heap[(i-1)/2].at {
		s.heap[i], s.heap[(i-1)/2] = s.heap[(i-1)/2], s.heap[i]
		i = (i - 1) / 2
	}
}

// down restores it around one that may be too late.
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
