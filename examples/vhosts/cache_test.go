package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A source stands in for Redis: the value of a "known" name is the name itself, and other names
// have none.
type source struct {
	looks, now, most atomic.Int64
	away             atomic.Bool
	takes            time.Duration
}

func (s *source) find(ctx context.Context, name string) (string, error) {
	s.looks.Add(1)
	if n := s.now.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	defer s.now.Add(-1)
	if s.away.Load() {
		<-ctx.Done()
		return "", errAway
	}
	time.Sleep(s.takes)
	if name[0] == 'x' {
		return "", errUnknown
	}
	return name, nil
}

func sourced(s *source) *cache[string] {
	return newCache(&options{interval: 2 * time.Second, timeout: time.Second, lookups: 4}, s.find)
}

func TestCache_InventedNamesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		c := sourced(s)
		for i := range 3 {
			_, err := c.get(t.Context(), fmt.Sprint("known", i))
			require.NoError(t, err)
		}
		c.max = 1000
		for i := range c.max + 100 {
			_, err := c.get(t.Context(), fmt.Sprint("x", i))
			require.ErrorIs(t, err, errUnknown)
		}
		synctest.Wait()
		require.Len(t, c.absent, c.max)
		require.Len(t, c.found, 3, "they push out no name that exists")
		before := s.looks.Load()
		for range 1000 {
			_, err := c.get(t.Context(), fmt.Sprint("x", c.max+99))
			require.ErrorIs(t, err, errUnknown)
		}
		require.Equal(t, before, s.looks.Load(), "one name costs one look in an interval")
		time.Sleep(3 * time.Second)
		c.drop(func(string) bool { return false })
		require.Empty(t, c.absent)
	})
}

func TestCache_LooksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: 10 * time.Millisecond}
		c := sourced(s)
		_, err := c.get(t.Context(), "known")
		require.NoError(t, err)
		var away, unknown atomic.Int64
		for i := range 10_000 {
			go func() {
				switch _, err := c.get(t.Context(), fmt.Sprint("x", i/2)); {
				case errors.Is(err, errAway):
					away.Add(1)
				case errors.Is(err, errUnknown):
					unknown.Add(1)
				}
			}()
		}
		synctest.Wait()
		got, err := c.get(t.Context(), "known") // while all looks are taken
		require.NoError(t, err)
		require.Equal(t, "known", got)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 4, s.most.Load())
		require.EqualValues(t, 10_000, away.Load()+unknown.Load(), "all have an answer")
		require.InDelta(t, 800, unknown.Load(), 10, "two for each look within the limit: 4 at a time, 10 ms each")
		require.Empty(t, c.calls)
	})
}

func TestCache_WhatIsKnownStaysWhileRedisIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		c := sourced(s)
		_, err := c.get(t.Context(), "known")
		require.NoError(t, err)
		s.away.Store(true)
		for range 100 {
			time.Sleep(time.Second)
			start := time.Now()
			got, err := c.get(t.Context(), "known")
			require.NoError(t, err)
			require.Equal(t, "known", got)
			require.Zero(t, time.Since(start), "nobody waits")
		}
		_, err = c.get(t.Context(), "new")
		require.ErrorIs(t, err, errAway)
		before := s.looks.Load()
		_, err = c.get(t.Context(), "new")
		require.ErrorIs(t, err, errAway)
		require.Equal(t, before, s.looks.Load(), "and not again at once")
		s.away.Store(false)
		time.Sleep(3 * time.Second)
		_, err = c.get(t.Context(), "new")
		require.NoError(t, err)
	})
}

func TestCache_AClientThatLeavesEndsNoLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: 100 * time.Millisecond}
		c := sourced(s)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(50 * time.Millisecond)
			cancel()
		}()
		_, err := c.get(ctx, "known")
		require.ErrorIs(t, err, context.Canceled)
		got, err := c.get(t.Context(), "known")
		require.NoError(t, err)
		require.Equal(t, "known", got)
		require.EqualValues(t, 1, s.looks.Load())
	})
}
