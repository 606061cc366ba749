package main

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// takes returns a worker that takes so long, each time the next duration, and the last one from then on.
func takes(durations ...time.Duration) func() error {
	i := 0
	return func() error {
		time.Sleep(durations[min(i, len(durations)-1)])
		i++
		return nil
	}
}

func TestOpenLoop(t *testing.T) {
	const ms = time.Millisecond
	tests := map[string]struct {
		rate, n int
		workers []func() error
		want    []time.Duration // sorted
	}{
		"fast enough": {100, 4, []func() error{takes(3 * ms)}, []time.Duration{3 * ms, 3 * ms, 3 * ms, 3 * ms}},
		"too slow, each waits for all before it": {100, 4, []func() error{takes(30 * ms)},
			[]time.Duration{30 * ms, 50 * ms, 70 * ms, 90 * ms}},
		// A client that sent the next request after the answer to the last would have seen one that was slow.
		"one stall is felt by all that were due in it": {100, 10, []func() error{takes(95*ms, 1*ms)},
			[]time.Duration{14 * ms, 23 * ms, 32 * ms, 41 * ms, 50 * ms, 59 * ms, 68 * ms, 77 * ms, 86 * ms, 95 * ms}},
		"two workers share": {100, 4, []func() error{takes(15 * ms), takes(15 * ms)}, []time.Duration{15 * ms, 15 * ms, 15 * ms, 15 * ms}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := schedule{start: time.Now(), rate: tt.rate, n: tt.n, sleep: time.Sleep}
				took, err := openLoop(t.Context(), s, tt.workers)
				require.NoError(t, err)
				slices.Sort(took)
				require.Equal(t, tt.want, took)
			})
		})
	}
}

func TestSchedule_DoesNotDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := func(d time.Duration) { time.Sleep(d + time.Millisecond) }
		s := schedule{start: time.Now().Add(time.Second), rate: 3, n: 301, sleep: late}
		var last time.Duration
		s.run(t.Context(), func(_ int, due time.Time) {
			last = due.Sub(s.start)
			require.Equal(t, time.Millisecond, time.Since(due), "late by one sleep, not by all before it")
		})
		require.Equal(t, 100*time.Second, last, "301 arrivals at three a second")
	})
}

func TestSchedule_EndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 55*time.Millisecond)
		defer cancel()
		n := 0
		_, err := openLoop(ctx, schedule{start: time.Now(), rate: 100, n: 1000, sleep: time.Sleep}, []func() error{func() error { n++; return nil }})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 6, n, "at 0, 10, 20, 30, 40 and 50 ms")
	})
}

func TestLoops_EndWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	loops := map[string]func(context.Context, []func() error) error{
		"open": func(ctx context.Context, workers []func() error) error {
			_, err := openLoop(ctx, schedule{start: time.Now(), rate: 100, n: 1000, sleep: time.Sleep}, workers)
			return err
		},
		"closed": func(ctx context.Context, workers []func() error) error {
			_, err := closedLoop(ctx, 10*time.Second, workers)
			return err
		},
	}
	for name, loop := range loops {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				fails := func() error { time.Sleep(20 * time.Millisecond); return broken }
				require.ErrorIs(t, loop(t.Context(), []func() error{takes(30 * time.Millisecond), fails}), broken)
				require.Less(t, time.Since(began), time.Second)
			})
		})
	}
}

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		workers := []func() error{takes(10 * time.Millisecond), takes(40 * time.Millisecond)}
		n, err := closedLoop(t.Context(), 100*time.Millisecond, workers)
		require.NoError(t, err)
		require.Equal(t, 10+3, n, "what has begun in time is counted")
		n, err = closedLoop(t.Context(), 0, workers)
		require.NoError(t, err)
		require.Equal(t, 2, n, "one at least")
	})
}

func TestParallel(t *testing.T) {
	const n = 100
	var done [n]atomic.Int32
	require.NoError(t, parallel(n, 7, func(i int) error { done[i].Add(1); return nil }))
	for i := range done {
		require.EqualValues(t, 1, done[i].Load(), i)
	}

	broken := errors.New("broken")
	var calls atomic.Int32
	err := parallel(1_000_000, 3, func(int) error { calls.Add(1); return broken })
	require.ErrorIs(t, err, broken)
	require.LessOrEqual(t, calls.Load(), int32(3), "a worker that failed does no more")
	require.NoError(t, parallel(0, 3, func(int) error { return broken }))
}
