package redisstore

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// maxCalls limits the calls under way, and with them the goroutines.
	maxCalls = 10_000
	// recent is for how long after an answer of Redis its client is known not to dial.
	recent = time.Second
)

var errBusy = errors.New("redisstore: too many calls wait for Redis")

// calls runs calls of the client that may outlast their context: a call that joins another one's
// dial waits for it.
type calls struct {
	underway atomic.Int64
	answered atomic.Int64 // when Redis last answered, in nanoseconds since the store's start
}

// do sends a command.
func (s *Store) do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return s.call(ctx, func() []rueidis.RedisResult {
		return []rueidis.RedisResult{s.client.Do(ctx, cmd)}
	}, 1)[0]
}

// doMulti sends commands together.
func (s *Store) doMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	return s.call(ctx, func() []rueidis.RedisResult { return s.client.DoMulti(ctx, cmds...) }, len(cmds))
}

// doCache reads a session from its copy, or from Redis.
func (s *Store) doCache(ctx context.Context, key string) rueidis.RedisResult {
	get := func() []rueidis.RedisResult {
		cmd := s.client.B().Get().Key(s.key(key)).Cache().ToStaticTTL()
		return []rueidis.RedisResult{s.client.DoCache(ctx, cmd, s.local)}
	}
	if time.Since(s.start)-time.Duration(s.calls.answered.Load()) < recent {
		return get()[0]
	}
	return s.call(ctx, get, 1)[0]
}

// call returns the results of f, or n errors when ctx has ended.
func (s *Store) call(ctx context.Context, f func() []rueidis.RedisResult, n int) []rueidis.RedisResult {
	if s.calls.underway.Add(1) > maxCalls {
		s.calls.underway.Add(-1)
		return failures(errBusy, n)
	}
	done := make(chan []rueidis.RedisResult, 1)
	go s.run(f, done)
	select {
	case r := <-done:
		if r[0].NonRedisError() == nil {
			s.calls.answered.Store(int64(time.Since(s.start)))
		}
		return r
	case <-ctx.Done():
		return failures(ctx.Err(), n)
	}
}

func (s *Store) run(f func() []rueidis.RedisResult, done chan<- []rueidis.RedisResult) {
	done <- f()
	s.calls.underway.Add(-1)
}

func failures(err error, n int) []rueidis.RedisResult {
	all := make([]rueidis.RedisResult, n)
	for i := range all {
		all[i] = rueidis.NewErrorResult(err)
	}
	return all
}
