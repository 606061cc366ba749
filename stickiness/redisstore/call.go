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
	// maxDirect limits those without a goroutine. A client's queue for a connection has room for
	// 1,024 calls by default. A call that finds it full waits for room, whatever its context says.
	maxDirect = 64
	// recent is for how long after an answer the connections are known to be up, and for how long
	// after a failure they may be down. A client needs longer to find that one is dead.
	recent = time.Second
	// After enoughFailures calls in a row without an answer, and no answer within the last second,
	// only one call in each tryAfter asks Redis, so that the others do not wait for a timeout. In a
	// Cluster, all nodes that are asked must fail for this.
	enoughFailures = 64
	tryAfter       = 100 * time.Millisecond
)

var (
	errBusy  = errors.New("redisstore: too many calls wait for Redis")
	errRests = errors.New("redisstore: Redis has not answered, and will be asked again soon")
)

// calls limits the calls of the client. A call may outlast its context: it waits when it joins a
// dial of the client's own, or when the client's queue is full. So each call has a goroutine,
// unless one server answers all calls and has just answered.
type calls struct {
	underway atomic.Int64
	failures atomic.Int64 // in a row; requests that their clients have cancelled do not count
	// Instants are in nanoseconds since the store's start.
	answered atomic.Int64 // when Redis last answered
	failed   atomic.Int64 // when a call last had no answer; zero: never
	tried    atomic.Int64 // when Redis was last asked although rests applied
}

// direct reports whether a call of the client returns soon after its context has ended. If so, it
// counts the call as under way.
func (s *Store) direct() bool {
	now, failed := int64(time.Since(s.start)), s.calls.failed.Load()
	up := now-s.calls.answered.Load() < int64(recent) && (failed == 0 || now-failed > int64(recent))
	if s.cluster || !up {
		return false
	}
	if s.calls.underway.Add(1) > maxDirect {
		s.calls.underway.Add(-1)
		return false
	}
	return true
}

// rests reports whether this call must not ask Redis, because Redis has not answered lately.
func (s *Store) rests() bool {
	if s.calls.failures.Load() < enoughFailures {
		return false
	}
	now, tried := int64(time.Since(s.start)), s.calls.tried.Load()
	if now-s.calls.answered.Load() < int64(recent) {
		return false
	}
	return now-tried < int64(tryAfter) || !s.calls.tried.CompareAndSwap(tried, now)
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
	if s.direct() {
		defer s.calls.underway.Add(-1)
		r := s.getCopy(ctx, key)
		s.note(r.NonRedisError())
		return r
	}
	return s.call(ctx, func() []rueidis.RedisResult { return []rueidis.RedisResult{s.getCopy(ctx, key)} }, 1)[0]
}

func (s *Store) getCopy(ctx context.Context, key string) rueidis.RedisResult {
	return s.client.DoCache(ctx, s.client.B().Get().Key(s.key(key)).Cache().ToStaticTTL(), s.local)
}

// call returns the results of f, or n errors when ctx has ended.
func (s *Store) call(ctx context.Context, f func() []rueidis.RedisResult, n int) []rueidis.RedisResult {
	if err := ctx.Err(); err != nil {
		return failures(err, n)
	}
	if s.direct() {
		defer s.calls.underway.Add(-1)
		r := f()
		s.note(r[0].NonRedisError())
		return r
	}
	if s.rests() {
		return failures(errRests, n)
	}
	if s.calls.underway.Add(1) > maxCalls {
		s.calls.underway.Add(-1)
		return failures(errBusy, n)
	}
	done := make(chan []rueidis.RedisResult, 1)
	go s.run(f, done)
	select {
	case r := <-done:
		s.note(r[0].NonRedisError())
		return r
	case <-ctx.Done():
		s.note(ctx.Err())
		return failures(ctx.Err(), n)
	}
}

// note notes whether Redis has answered. It writes the instants a few times a second, because all
// calls read them.
func (s *Store) note(err error) {
	last := &s.calls.answered
	switch {
	case err == nil:
		if s.calls.failures.Load() != 0 {
			s.calls.failures.Store(0)
		}
	case !errors.Is(err, context.Canceled):
		s.calls.failures.Add(1)
		fallthrough
	default:
		last = &s.calls.failed
	}
	if now := int64(time.Since(s.start)) + 1; now-last.Load() > int64(recent/10) || last.Load() == 0 {
		last.Store(now)
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
