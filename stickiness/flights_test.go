package stickiness_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

// A heldStore is a store whose calls of Get wait until the test answers them.
type heldStore struct {
	stickiness.MemoryStore
	gets chan *heldGet
}

type heldGet struct {
	answer chan func() (target string, ok bool, err error)
}

func newHeldStore() *heldStore { return &heldStore{gets: make(chan *heldGet, 1000)} }

func (s *heldStore) Get(ctx context.Context, _ string, _ time.Duration) (string, bool, error) {
	g := &heldGet{make(chan func() (string, bool, error), 1)}
	s.gets <- g
	select {
	case f := <-g.answer:
		return f()
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
}

func (g *heldGet) says(target string) {
	g.answer <- func() (string, bool, error) { return target, true, nil }
}

// lookups are requests that are looked up at the same time.
type lookups struct {
	p     *stickiness.Learn
	wg    sync.WaitGroup
	found []*string
}

// results waits until all lookups have ended, and returns what they found.
func (l *lookups) results() (all []string) {
	l.wg.Wait()
	for _, found := range l.found {
		all = append(all, *found)
	}
	return all
}

// add begins a lookup and waits until it waits.
func (l *lookups) add(r *http.Request) {
	found := new(string)
	l.found = append(l.found, found)
	l.wg.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				*found = fmt.Sprint("panic: ", v)
			}
		}()
		*found = fmt.Sprint(targets(l.p.Lookup(r, nil)))
	})
	synctest.Wait()
}

// Concurrent requests of one session make one call.
func TestLearn_LookupsOfOneSessionShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHeldStore()
		all := lookups{p: newLearn(t, s, stickiness.LearnOptions{Cookie: "SID"})}
		for range 3 {
			all.add(get("SID=a"))
		}
		all.add(get("SID=b"))
		require.Len(t, s.gets, 2)
		(<-s.gets).says("app-1")
		(<-s.gets).says("app-2")
		require.Equal(t, []string{"[app-1]", "[app-1]", "[app-1]", "[app-2]"}, all.results())
		require.Empty(t, s.gets)

		all.add(get("SID=a"))
		(<-s.gets).says("app-3")
		require.Equal(t, "[app-3]", all.results()[4], "a later one asks again")
	})
}

// If only the request that makes the call ends, the other requests do not end with it.
func TestLearn_LookupsDoNotFailTogether(t *testing.T) {
	down := errors.New("down")
	tests := map[string]struct {
		first func(g *heldGet, cancel func())
		wants []string // of the request that makes the call, and of the others
		again bool     // one of the others asks again
	}{
		"the client goes away": {func(_ *heldGet, cancel func()) { cancel() }, []string{"[[store failed]]", "[app-1]", "[app-1]"}, true},
		"it is late": {func(*heldGet, func()) { time.Sleep(60 * time.Millisecond) },
			[]string{"[[store failed]]", "[app-1]", "[app-1]"}, true},
		"the store panics": {func(g *heldGet, _ func()) {
			g.answer <- func() (string, bool, error) { panic("boom") }
		}, []string{"panic: boom", "[app-1]", "[app-1]"}, true},
		"the store fails": {func(g *heldGet, _ func()) {
			g.answer <- func() (string, bool, error) { return "", false, down }
		}, []string{"[[store failed]]", "[[store failed]]", "[[store failed]]"}, false},
		"there is no session": {func(g *heldGet, _ func()) {
			g.answer <- func() (string, bool, error) { return "", false, nil }
		}, []string{"[]", "[]", "[]"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newHeldStore()
				all := lookups{p: newLearn(t, s, stickiness.LearnOptions{Cookie: "SID"})}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				all.add(get("SID=a").WithContext(ctx))
				time.Sleep(50 * time.Millisecond) // half of the Timeout
				all.add(get("SID=a"))
				all.add(get("SID=a"))
				tt.first(<-s.gets, cancel)
				synctest.Wait()
				if tt.again {
					require.Len(t, s.gets, 1)
					(<-s.gets).says("app-1")
				}
				require.Equal(t, tt.wants, all.results())
				require.Empty(t, s.gets)
			})
		})
	}
}

// A request does not wait for the call of another one beyond its own Timeout.
func TestLearn_LookupsWaitTheirOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHeldStore()
		all := lookups{p: newLearn(t, s, stickiness.LearnOptions{Cookie: "SID", Timeout: time.Second})}
		all.add(get("SID=a"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		start := time.Now()
		require.Equal(t, []string{"[store failed]"}, targets(all.p.Lookup(get("SID=a").WithContext(ctx), nil)))
		require.Equal(t, time.Millisecond, time.Since(start))
		(<-s.gets).says("app-1")
		require.Equal(t, []string{"[app-1]"}, all.results())
	})
}

// If the store is late, a request that waits for the call of another one also gets the remembered
// target.
func TestLearn_LookupsWaitAndRemember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &rememberingStore{heldStore: newHeldStore()}
		all := lookups{p: newLearn(t, s, stickiness.LearnOptions{Cookie: "SID"})}
		for range 100 {
			all.add(get("SID=a"))
		}
		require.Equal(t, slices.Repeat([]string{"[app-1]"}, 100), all.results())
	})
}

// If the client of the asking request goes away, the remembered target is only for that request.
// The store is asked again for the others.
func TestLearn_LookupsDoNotRememberTogether(t *testing.T) {
	for name, end := range map[string]func(cancel func()){
		"the client goes away": func(cancel func()) { cancel() },
		"it is late":           func(func()) { time.Sleep(60 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &rememberingStore{heldStore: newHeldStore()}
				all := lookups{p: newLearn(t, s, stickiness.LearnOptions{Cookie: "SID"})}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				all.add(get("SID=a").WithContext(ctx))
				<-s.gets
				time.Sleep(50 * time.Millisecond) // half of the Timeout
				all.add(get("SID=a"))
				all.add(get("SID=a"))
				end(cancel)
				synctest.Wait()
				require.Len(t, s.gets, 1, "one of the others asks again")
				(<-s.gets).says("app-2")
				require.Equal(t, []string{"[app-1]", "[app-2]", "[app-2]"}, all.results())
			})
		})
	}
}

// A rememberingStore remembers one target for all sessions.
type rememberingStore struct{ *heldStore }

func (s *rememberingStore) Find(ctx context.Context, key string, ttl time.Duration) (string, stickiness.Origin, bool, error) {
	target, ok, err := s.Get(ctx, key, ttl)
	if err != nil {
		return "app-1", stickiness.Remembered, true, nil
	}
	return target, stickiness.Asked, ok, nil
}

// A request that comes after a session was bound does not get an older answer of the store.
func TestLearn_LookupsAfterAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHeldStore()
		all := lookups{p: newLearn(t, s, stickiness.LearnOptions{Cookie: "SID"})}
		all.add(get("SID=a"))
		before := <-s.gets
		b := &stickiness.Binding{Request: get(), Header: set("SID=a"), Target: "app-2"}
		all.p.Bind(b)
		require.Equal(t, stickiness.Bound, b.Result)
		all.add(get("SID=a"))
		require.Len(t, s.gets, 1)
		before.says("app-1")
		(<-s.gets).says("app-2")
		require.Equal(t, []string{"[app-1]", "[app-2]"}, all.results())
	})
}

// Two balancers answer the first requests of an unknown session at once. It is then bound to one
// target for both of them.
func TestLearn_AdoptAtOnce(t *testing.T) {
	var s stickiness.MemoryStore
	for name, store := range map[string]stickiness.Store{
		"claimer":       &s,
		"other claimer": struct{ *stickiness.MemoryStore }{&s},
	} {
		t.Run(name, func(t *testing.T) {
			id := "SID=" + name[:5]
			o := stickiness.LearnOptions{Cookie: "SID", Adopt: true, Scope: name}
			one, two := newLearn(t, store, o), newLearn(t, store, o)
			a := &stickiness.Binding{Request: get(id), Header: http.Header{}, Target: "app-1", Seen: one.Lookup(get(id), nil)}
			b := &stickiness.Binding{Request: get(id), Header: http.Header{}, Target: "app-2", Seen: two.Lookup(get(id), nil)}
			two.Bind(b)
			one.Bind(a)
			require.Equal(t, stickiness.Bound, b.Result)
			require.Equal(t, stickiness.Kept, a.Result, "its target has lost")
			for _, p := range []*stickiness.Learn{one, two} {
				require.Equal(t, []string{"app-2"}, targets(p.Lookup(get(id), nil)))
			}
		})
	}

	// With a store that is no Claimer, the last binding counts.
	o := stickiness.LearnOptions{Cookie: "SID", Adopt: true}
	p := newLearn(t, struct{ stickiness.Store }{&s}, o)
	for _, target := range []string{"app-1", "app-2"} {
		b := &stickiness.Binding{Request: get("SID=x"), Header: http.Header{}, Target: target}
		p.Bind(b)
		require.Equal(t, stickiness.Bound, b.Result)
	}
	require.Equal(t, []string{"app-2"}, targets(p.Lookup(get("SID=x"), nil)))

	failing := newLearn(t, &claimFails{}, o)
	b := &stickiness.Binding{Request: get("SID=x"), Header: http.Header{}, Target: "app-1"}
	failing.Bind(b)
	require.Equal(t, stickiness.Failed, b.Result)
}

type claimFails struct{ stickiness.MemoryStore }

func (*claimFails) Claim(context.Context, string, string, time.Duration) (string, error) {
	return "", errors.New("down")
}

// A finder is a store that says where its answers come from.
type finder struct {
	stubStore
	from stickiness.Origin
}

func (s *finder) Find(ctx context.Context, key string, ttl time.Duration) (string, stickiness.Origin, bool, error) {
	target, ok, err := s.Get(ctx, key, ttl)
	return target, s.from, ok, err
}

func TestLearn_SaysWhereATargetIsFrom(t *testing.T) {
	s := &finder{}
	var said []string
	var waits atomic.Int64
	p := newLearn(t, s, stickiness.LearnOptions{Cookie: "SID", Trace: &stickiness.LearnTrace{
		Find: func(from stickiness.Origin, ok bool, err error, took time.Duration) {
			said = append(said, fmt.Sprint("find ", from, " ", ok, " ", err))
			waits.Add(int64(took))
		},
		Bind: func(err error, took time.Duration) {
			said = append(said, fmt.Sprint("bind ", err))
			waits.Add(int64(took))
		},
	}})
	answer(p, get(), "app-1", set("SID=a"))
	for _, from := range []stickiness.Origin{stickiness.Asked, stickiness.Copied, stickiness.Remembered} {
		s.from = from
		found := p.Lookup(get("SID=a"), nil)
		require.Len(t, found, 1)
		require.Equal(t, from, found[0].Origin)
		require.Equal(t, "app-1", found[0].Target)
	}
	s.from = stickiness.Asked
	require.Empty(t, p.Lookup(get("SID=b"), nil))
	s.err = errors.New("down")
	p.Lookup(get("SID=a"), nil)
	p.Lookup(get(), nil)
	answer(p, get(), "app-1", set("SID=c"))
	require.Equal(t, []string{
		"bind <nil>", "find asked true <nil>", "find copied true <nil>", "find remembered true <nil>",
		"find asked false <nil>", "find asked false down", "bind down",
	}, said)
	require.Positive(t, waits.Load())

	newLearn(t, s, stickiness.LearnOptions{Cookie: "SID", Trace: &stickiness.LearnTrace{}}).Lookup(get("SID=a"), nil)
	require.Equal(t, "origin 3", stickiness.Origin(3).String())
}
