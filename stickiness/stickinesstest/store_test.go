package stickinesstest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

// A faultyStore is a good store with other results for some calls.
type faultyStore struct {
	stickiness.MemoryStore
	get func(s *stickiness.MemoryStore, ctx context.Context, key string, ttl time.Duration) (string, bool, error)
	put func(s *stickiness.MemoryStore, ctx context.Context, key, target string, ttl time.Duration) error

	claim func(s *stickiness.MemoryStore, ctx context.Context, key, target string, ttl time.Duration) (string, error)
}

func (s *faultyStore) Get(ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
	if s.get != nil {
		return s.get(&s.MemoryStore, ctx, key, ttl)
	}
	return s.MemoryStore.Get(ctx, key, ttl)
}

func (s *faultyStore) Put(ctx context.Context, key, target string, ttl time.Duration) error {
	if s.put != nil {
		return s.put(&s.MemoryStore, ctx, key, target, ttl)
	}
	return s.MemoryStore.Put(ctx, key, target, ttl)
}

func (s *faultyStore) Claim(ctx context.Context, key, target string, ttl time.Duration) (string, error) {
	if s.claim != nil {
		return s.claim(&s.MemoryStore, ctx, key, target, ttl)
	}
	return s.MemoryStore.Claim(ctx, key, target, ttl)
}

// A faultyFinder is a good store that says something else in Find.
type faultyFinder struct {
	stickiness.MemoryStore
	from stickiness.Origin
	err  error
	lose bool
}

func (s *faultyFinder) Find(ctx context.Context, key string, ttl time.Duration) (string, stickiness.Origin, bool, error) {
	target, ok, _ := s.Get(ctx, key, ttl)
	return target, s.from, ok && !s.lose, s.err
}

func TestTestStore_FindsFaultsOfFinders(t *testing.T) {
	require.NoError(t, stickinesstest.TestStore(&faultyFinder{from: stickiness.Copied}, nil))
	for want, s := range map[string]*faultyFinder{
		`returns "app-1", "remembered", true`: {from: stickiness.Remembered},
		"Find of \"a\": down":                 {err: errors.New("down")},
		`returns "app-1", "asked", false`:     {lose: true},
	} {
		require.ErrorContains(t, stickinesstest.TestStore(s, nil), want)
	}
}

func TestTestStore_FindsFaults(t *testing.T) {
	type store = stickiness.MemoryStore
	down := errors.New("down")
	tests := map[string]struct {
		s    *faultyStore
		want string
	}{
		"none":        {&faultyStore{}, ""},
		"Get fails":   {&faultyStore{get: func(*store, context.Context, string, time.Duration) (string, bool, error) { return "", false, down }}, "Get of"},
		"Put fails":   {&faultyStore{put: func(*store, context.Context, string, string, time.Duration) error { return down }}, "Put of"},
		"Put forgets": {&faultyStore{put: func(*store, context.Context, string, string, time.Duration) error { return nil }}, "after Put:"},
		"finds strangers": {&faultyStore{get: func(s *store, ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
			target, _, err := s.Get(ctx, key, ttl)
			return target, true, err
		}}, "at first"},
		"Get creates": {&faultyStore{get: func(s *store, ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
			target, ok, err := s.Get(ctx, key, ttl)
			if !ok {
				_ = s.Put(ctx, key, "app-1", ttl)
			}
			return target, ok, err
		}}, "after a Get"},
		"binds once": {&faultyStore{put: func(s *store, ctx context.Context, key, target string, ttl time.Duration) error {
			if _, ok, _ := s.Get(ctx, key, ttl); ok {
				return nil
			}
			return s.Put(ctx, key, target, ttl)
		}}, "after another Put"},
		"cuts keys": {&faultyStore{
			get: func(s *store, ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
				return s.Get(ctx, key[:min(len(key), 28)], ttl)
			},
			put: func(s *store, ctx context.Context, key, target string, ttl time.Duration) error {
				return s.Put(ctx, key[:min(len(key), 28)], target, ttl)
			},
		}, "keys that are alike"},
		"is small": {&faultyStore{MemoryStore: store{Capacity: 100}}, "many sessions"},
		"knows no end": {&faultyStore{put: func(s *store, ctx context.Context, key, target string, _ time.Duration) error {
			return s.Put(ctx, key, target, time.Hour)
		}}, "after its time:"},
		"Get does not extend": {&faultyStore{get: func(s *store, ctx context.Context, key string, _ time.Duration) (string, bool, error) {
			return s.Get(ctx, key, 0)
		}}, "used all the time"},
		"Get shortens": {&faultyStore{get: func(s *store, ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
			target, ok, err := s.Get(ctx, key, ttl)
			if ok {
				err = s.Put(ctx, key, target, ttl)
			}
			return target, ok, err
		}}, "after a Get with a shorter time"},
		"lies when it is late": {&faultyStore{get: func(s *store, ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
			if ctx.Err() != nil {
				return "", false, nil
			}
			return s.Get(ctx, key, ttl)
		}}, "ended context"},
		"forgets when it is late": {&faultyStore{put: func(s *store, ctx context.Context, key, target string, ttl time.Duration) error {
			if ctx.Err() != nil {
				return nil
			}
			return s.Put(ctx, key, target, ttl)
		}}, "after a Put with an ended context"},
		"Claim fails": {&faultyStore{claim: func(*store, context.Context, string, string, time.Duration) (string, error) { return "", down }}, "Claim of"},
		"Claim binds always": {&faultyStore{claim: func(s *store, ctx context.Context, key, target string, ttl time.Duration) (string, error) {
			return target, s.Put(ctx, key, target, ttl)
		}}, `Claim of "claimed" for "app-2" returns "app-2", want "app-1"`},
		"Claim asks first": {&faultyStore{claim: func(s *store, ctx context.Context, key, target string, ttl time.Duration) (string, error) {
			if winner, ok, _ := s.Get(ctx, key, ttl); ok {
				return winner, nil
			}
			time.Sleep(time.Nanosecond)
			return target, s.Put(ctx, key, target, ttl)
		}}, "at once"},
		"Claim forgets": {&faultyStore{claim: func(s *store, ctx context.Context, key, target string, ttl time.Duration) (string, error) {
			if winner, ok, _ := s.Get(ctx, key, ttl); ok {
				return winner, nil
			}
			return target, nil
		}}, "after Claim:"},
		"Claim knows no end": {&faultyStore{claim: func(s *store, ctx context.Context, key, target string, _ time.Duration) (string, error) {
			return s.Claim(ctx, key, target, time.Hour)
		}}, "after the time of Claim:"},
		"Claim lies when it is late": {&faultyStore{claim: func(s *store, ctx context.Context, key, target string, ttl time.Duration) (string, error) {
			if ctx.Err() != nil {
				return target, nil
			}
			return s.Claim(ctx, key, target, ttl)
		}}, "Claim with an ended context"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := stickinesstest.TestStore(tt.s, time.Sleep)
				if tt.want == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, tt.want)
				}
			})
		})
	}
	require.NoError(t, stickinesstest.TestStore(&stickiness.MemoryStore{}, nil))
}
