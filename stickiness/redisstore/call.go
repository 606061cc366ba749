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
	// recent is for how long after an answer the connections are known to be up. A client needs
	// longer to find that one is dead.
	recent = time.Second
)

var errBusy = errors.New("redisstore: too many calls wait for Redis")

// calls are those that may outlast their context: a call that joins a dial of the client's own waits
// for it. So they have a goroutine each, unless one server answers all calls and has just answered.
type calls struct {
	underway atomic.Int64
	answered atomic.Int64 // when Redis last answered, in nanoseconds since the store's start
}

// inTime reports whether a call of the client returns soon after its context has ended.
func (s *Store) inTime() bool {
	return !s.cluster && time.Since(s.start)-time.Duration(s.calls.answered.Load()) < recent
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
	if s.inTime() {
		return s.getCopy(ctx, key)
	}
	return s.call(ctx, func() []rueidis.RedisResult { return []rueidis.RedisResult{s.getCopy(ctx, key)} }, 1)[0]
}

func (s *Store) getCopy(ctx context.Context, key string) rueidis.RedisResult {
	return s.client.DoCache(ctx, s.client.B().Get().Key(s.key(key)).Cache().ToStaticTTL(), s.local)
}

// call returns the results of f, or n errors when ctx has ended.
func (s *Store) call(ctx context.Context, f func() []rueidis.RedisResult, n int) []rueidis.RedisResult {
	if s.inTime() {
		return s.answers(f())
	}
	if s.calls.underway.Add(1) > maxCalls {
		s.calls.underway.Add(-1)
		return failures(errBusy, n)
	}
	done := make(chan []rueidis.RedisResult, 1)
	go s.run(f, done)
	select {
	case r := <-done:
		return s.answers(r)
	case <-ctx.Done():
		return failures(ctx.Err(), n)
	}
}

// answers notes whether Redis has answered.
func (s *Store) answers(r []rueidis.RedisResult) []rueidis.RedisResult {
	if r[0].NonRedisError() == nil {
		s.calls.answered.Store(int64(time.Since(s.start)))
	}
	return r
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
