package balancertest_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/balancertest"
	"github.com/stretchr/testify/require"
)

func TestTestPicker_AcceptsTheLibrarys(t *testing.T) {
	for _, newPicker := range []func() balancer.Picker{
		func() balancer.Picker { return &balancer.LeastConnections{} },
		func() balancer.Picker { return &balancer.RoundRobin{} },
		func() balancer.Picker { return balancer.Random{} },
		func() balancer.Picker { return balancer.TwoChoices{} },
		func() balancer.Picker { return balancer.LatencyTwoChoices{} },
		func() balancer.Picker { return &balancer.Rendezvous{} },
		func() balancer.Picker { return &balancer.Rendezvous{MaxLoad: 1} },
		func() balancer.Picker { return &balancer.Maglev{} },
		func() balancer.Picker { return &balancer.Maglev{MaxLoad: 1} },
		func() balancer.Picker { return &balancer.SourceAddress{} },
		func() balancer.Picker { return balancer.First{} },
		func() balancer.Picker { return newSplit(func() balancer.Picker { return &balancer.RoundRobin{} }) },
	} {
		t.Run(fmt.Sprintf("%T", newPicker()), func(t *testing.T) {
			balancertest.TestPicker(t, newPicker)
		})
	}
}

// pickFunc is a picker for tests.
type pickFunc func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member

func (f pickFunc) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member { return f(q, s) }

// first is a correct picker.
func first(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	for _, m := range s.Members() {
		if !q.Skip(m) {
			return m
		}
	}
	return nil
}

func TestTestPicker_FindsViolations(t *testing.T) {
	stranger := balancertest.Snapshot(1).Members()[0]
	var kept [][]byte
	var mu sync.Mutex
	tests := map[string]struct {
		pick pickFunc
		want string
	}{
		"none": {first, ""},
		"takes the first, whatever it is": {func(_ *balancer.Request, s *balancer.Snapshot) *balancer.Member {
			if len(s.Members()) == 0 {
				return nil
			}
			return s.Members()[0]
		}, "which the request skips"},
		"gives up early": {func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
			if m := first(q, s); len(s.Members()) > 0 && m == s.Members()[0] {
				return m
			}
			return nil
		}, "returns nil, though"},
		"picks a stranger": {func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
			if first(q, s) == nil {
				return nil
			}
			return stranger
		}, "not in the snapshot"},
		"changes the snapshot": {func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
			mu.Lock()
			defer mu.Unlock()
			if len(s.Weights()) > 0 {
				s.Weights()[0]++
			}
			return first(q, s)
		}, "changes the snapshot"},
		"allocates": {func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
			mu.Lock()
			defer mu.Unlock()
			kept = append(kept[:0], make([]byte, 100))
			return first(q, s)
		}, "allocates 1 times"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			balancertest.TestPicker(r, func() balancer.Picker { return tt.pick })
			if tt.want == "" {
				require.Empty(t, r.said)
			} else {
				require.Contains(t, strings.Join(r.said, "\n"), tt.want)
			}
		})
	}
}

// TestPicker gives up on a picker that does not return.
func TestTestPicker_FindsOneThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		r := &recorder{TB: t}
		balancertest.TestPicker(r, func() balancer.Picker {
			return pickFunc(func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
				<-block
				return first(q, s)
			})
		})
		require.Equal(t, []string{"Pick does not end"}, r.said)
		close(block)
	})
}

// An index belongs to the snapshot that it was made of.
func TestTestPicker_FindsIndexOfAnotherSnapshot(t *testing.T) {
	r := &recorder{TB: t}
	balancertest.TestPicker(r, func() balancer.Picker { return &stale{} })
	require.Contains(t, strings.Join(r.said, "\n"), "not in the snapshot")
}

// stale is an Indexer that uses its index for every snapshot.
type stale struct {
	s atomic.Pointer[balancer.Snapshot]
}

func (p *stale) Rebuild(s *balancer.Snapshot)       { p.s.Store(s) }
func (p *stale) Loaded(_ *balancer.Member, _ int64) {}
func (p *stale) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	if x := p.s.Load(); x != nil {
		s = x
	}
	return first(q, s)
}

// A recorder is a testing.TB that keeps the reported errors.
type recorder struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.said) < 1000 {
		r.said = append(r.said, fmt.Sprintf(format, args...))
	}
}

// newSplit returns a split that sends half of the keys to half of the members.
func newSplit(newWrapped func() balancer.Picker) balancer.Picker {
	return &balancer.Split{
		When:   func(q *balancer.Request) bool { return len(q.Key)%2 == 0 },
		Where:  func(m *balancer.Member) bool { return m.ID()[len(m.ID())-1]%2 == 0 },
		Picker: newWrapped(), Rest: newWrapped(),
	}
}

func TestTestWrapper_AcceptsSplit(t *testing.T) {
	balancertest.TestWrapper(t, newSplit)
}

// wrapper delegates to one picker.
type wrapper struct{ balancer.Indexer }

func (wrapper) Rebuild(*balancer.Snapshot)     {}
func (wrapper) Loaded(*balancer.Member, int64) {}

func TestTestWrapper_FindsViolations(t *testing.T) {
	type indexer = balancer.Indexer
	tests := map[string]struct {
		wrap func(x indexer) balancer.Picker
		want string
	}{
		"none":              {func(x indexer) balancer.Picker { return struct{ indexer }{x} }, ""},
		"is no Indexer":     {func(x indexer) balancer.Picker { return struct{ balancer.Picker }{x} }, "is no Indexer"},
		"forgets both":      {func(x indexer) balancer.Picker { return wrapper{x} }, "has never been given a snapshot: pass Rebuild on"},
		"forgets Rebuild":   {func(x indexer) balancer.Picker { return withoutRebuild{x} }, "has never been given a snapshot: pass Rebuild on"},
		"forgets Loaded":    {func(x indexer) balancer.Picker { return withoutLoaded{x} }, "pass Loaded on"},
		"rebuilds only one": {func(x indexer) balancer.Picker { return &rebuiltOnce{indexer: x} }, "was not given before: pass Rebuild on"},
		"picks from a part": {func(x indexer) balancer.Picker { return picksPart{x} }, "was not given before: pass Rebuild on"},
		"asks nobody":       {func(indexer) balancer.Picker { return &balancer.RoundRobin{} }, "asks none of its wrapped pickers"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			balancertest.TestWrapper(r, func(newWrapped func() balancer.Picker) balancer.Picker {
				return tt.wrap(newWrapped().(indexer))
			})
			if tt.want == "" {
				require.Empty(t, r.said)
			} else {
				require.Contains(t, strings.Join(r.said, "\n"), tt.want)
			}
		})
	}
}

type withoutRebuild struct{ balancer.Indexer }

func (withoutRebuild) Rebuild(*balancer.Snapshot) {}

type withoutLoaded struct{ balancer.Indexer }

func (withoutLoaded) Loaded(*balancer.Member, int64) {}

// rebuiltOnce passes the first Rebuild on.
type rebuiltOnce struct {
	indexer balancer.Indexer
	done    bool
}

func (p *rebuiltOnce) Rebuild(s *balancer.Snapshot) {
	if !p.done {
		p.done = true
		p.indexer.Rebuild(s)
	}
}

func (p *rebuiltOnce) Loaded(m *balancer.Member, load int64) { p.indexer.Loaded(m, load) }

func (p *rebuiltOnce) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	return p.indexer.Pick(q, s)
}

// picksPart computes a part with each pick.
type picksPart struct{ balancer.Indexer }

func (p picksPart) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	return p.Indexer.Pick(q, s.Where(func(*balancer.Member) bool { return true }))
}

func TestSnapshot(t *testing.T) {
	for _, n := range []int{0, 1, 1000} {
		s := balancertest.Snapshot(n)
		require.Len(t, s.Members(), n)
		require.Len(t, s.Weights(), n)
		require.Same(t, s, s.Local())
	}
	require.Panics(t, func() { balancertest.Snapshot(-1) })
}
