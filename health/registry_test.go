package health_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// target returns a target with a URL on which no server listens.
func target(id string) balancer.Target {
	return balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id + ".invalid"}}
}

func newPool(t testing.TB, targets ...balancer.Target) *balancer.Pool {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: targets})
	require.NoError(t, err)
	return pool
}

func member(t testing.TB, pool *balancer.Pool, id string) *balancer.Member {
	t.Helper()
	m, ok := pool.Member(id)
	require.True(t, ok, id)
	return m
}

// run runs the registry until the test ends, and then waits for it.
func run(t testing.TB, r *health.Registry) {
	t.Helper()
	stop := start(t, r)
	t.Cleanup(stop)
}

// start runs the registry until stop is called. A second call of stop does nothing.
func start(t testing.TB, r *health.Registry) (stop func()) {
	t.Helper()
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

var errSick = errors.New("sick")

// A script answers the probes of a target one after the other: 'P' passes, 'F' fails, and 'R'
// reserves. After the last letter it begins again.
type script struct {
	letters string
	before  func() // called at the beginning of each probe, unless nil
	n       atomic.Int64
}

func (s *script) Check(context.Context, balancer.Target) error {
	if s.before != nil {
		s.before()
	}
	n := int(s.n.Add(1) - 1)
	switch s.letters[n%len(s.letters)] {
	case 'F':
		return errSick
	case 'R':
		return fmt.Errorf("busy: %w", health.ErrReserved)
	}
	return nil
}

func TestRegistry_B5_RiseAndFallResetEachOther(t *testing.T) {
	tests := []struct {
		name       string
		letters    string // one per probe
		rise, fall int
		want       string // the health after each probe: h or u
	}{
		{"first success decides", "P", 2, 2, "h"},
		{"first failure decides", "F", 2, 2, "u"},
		{"falls at the second in a row", "PFF", 2, 2, "hhu"},
		{"rises at the second in a row", "FPP", 2, 2, "uuh"},
		{"a success resets the fall", "PFPFPFPFPF", 2, 2, "hhhhhhhhhh"},
		{"a failure resets the rise", "FPFPFPFPFP", 2, 2, "uuuuuuuuuu"},
		{"flapping is damped both ways", "PFFPFPPFPFF", 2, 2, "hhuuuuhhhhu"},
		{"three to fall", "PFFPFFF", 2, 3, "hhhhhhu"},
		{"one to rise", "FPFP", 1, 1, "uhuh"},
		{"ten to rise", "FPPPPPPPPPPP", 10, 2, "uuuuuuuuuuhh"},
		{"defaults are two and three", "PFFFPP", 0, 0, "hhhuuh"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"))
				a := member(t, pool, "a")
				got := ""
				note := func() { got += a.State().Health.String()[:1] }
				run(t, &health.Registry{
					Pool: pool, Check: &script{letters: tt.letters, before: note},
					Interval: time.Second, Rise: tt.rise, Fall: tt.fall,
				})
				time.Sleep(20 * time.Second)
				synctest.Wait()
				require.Equal(t, "u"+tt.want, got[:len(tt.want)+1])
			})
		})
	}
}

func TestRegistry_B5_OneFailureInTenForHoursNeverTripsThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		check := &script{letters: "PPPPFPPPPP"}
		r := &health.Registry{Pool: pool, Check: check}
		events, stop := r.Subscribe(100)
		run(t, r)
		time.Sleep(6 * time.Hour)
		stop()
		for e := range events {
			require.Equal(t, balancer.Healthy, e.State.Health)
		}
		require.InDelta(t, 6*360, check.n.Load(), 2)
	})
}

func TestRegistry_B5_ZeroRegistryHasSpecDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		var limit time.Duration
		var probes int
		run(t, &health.Registry{Pool: pool, Check: health.Func(func(ctx context.Context, _ balancer.Target) error {
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			limit = time.Until(deadline)
			probes++
			return nil
		})})
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, 5*time.Second, limit)
		require.InDelta(t, 361, probes, 1) // every 10 seconds
	})
}

func TestRegistry_B5_Jitter(t *testing.T) {
	for name, tt := range map[string]struct {
		jitter          float64
		least, most     time.Duration // of all gaps
		spread, spread2 time.Duration // between the shortest and the longest: at least, at most
	}{
		"default": {0, 9 * time.Second, 11 * time.Second, time.Second, 2 * time.Second},
		"none":    {-1, 10 * time.Second, 10 * time.Second, 0, 0},
		"half":    {0.5, 5 * time.Second, 15 * time.Second, 5 * time.Second, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"))
				var times []time.Time
				stop := start(t, &health.Registry{Pool: pool, Jitter: tt.jitter, Check: health.Func(func(context.Context, balancer.Target) error {
					times = append(times, time.Now())
					return nil
				})})
				time.Sleep(time.Hour)
				stop()
				shortest, longest := time.Hour, time.Duration(0)
				for i, at := range times[2:] {
					gap := at.Sub(times[i+1])
					shortest, longest = min(shortest, gap), max(longest, gap)
				}
				require.GreaterOrEqual(t, shortest, tt.least)
				require.LessOrEqual(t, longest, tt.most)
				require.GreaterOrEqual(t, longest-shortest, tt.spread)
				require.LessOrEqual(t, longest-shortest, tt.spread2)
			})
		})
	}
}

func TestRegistry_B5_TenThousandTargetsWithoutDrift(t *testing.T) {
	const targets, atOnce = 10_000, 100
	const interval, length = 10 * time.Second, 40 * time.Second
	synctest.Test(t, func(t *testing.T) {
		set := make([]balancer.Target, targets)
		for i := range set {
			set[i] = target(fmt.Sprint("t", i))
		}
		pool := newPool(t, set...)
		var flying, most atomic.Int64
		var mu sync.Mutex
		seen := make(map[string][]time.Time)
		began := time.Now()
		r := &health.Registry{
			Pool: pool, Interval: interval, Concurrency: atOnce,
			Check: health.Func(func(_ context.Context, tg balancer.Target) error {
				now := flying.Add(1)
				for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
				}
				time.Sleep(20 * time.Millisecond)
				flying.Add(-1)
				mu.Lock()
				defer mu.Unlock()
				seen[tg.ID] = append(seen[tg.ID], time.Now())
				return nil
			}),
		}
		stop := start(t, r)
		require.NoError(t, r.Ready(t.Context()))
		require.Equal(t, targets/atOnce*20*time.Millisecond, time.Since(began), "the first round goes out at once")
		time.Sleep(length - time.Since(began))
		synctest.Wait()
		require.Equal(t, targets, r.Status().Serving)
		stop()
		require.LessOrEqual(t, most.Load(), int64(atOnce))

		perSecond := make(map[int]int)
		for id, times := range seen {
			gaps, rest := times[1:], times[2:]
			for i, at := range rest {
				if gap := at.Sub(gaps[i]); gap < interval*85/100 || gap > interval*115/100 {
					t.Errorf("%s: %v between two probes", id, gap)
				}
			}
			whole := times[len(times)-1].Sub(times[1])
			if off := whole - time.Duration(len(rest))*interval; off.Abs() > interval*15/100 {
				t.Errorf("%s: drifts by %v in %v", id, off, whole)
			}
			if want := int(length / interval); len(times) < want || len(times) > want+2 {
				t.Errorf("%s: %d probes", id, len(times))
			}
			for _, at := range times[1:] {
				perSecond[int(at.Sub(began).Seconds())]++
			}
		}
		for s := 15; s < int(length.Seconds())-5; s++ {
			require.InDelta(t, targets/10, perSecond[s], 300, "second %d: probes are spread evenly", s)
		}
	})
}

func TestRegistry_B5_OneProbeInFlightPerTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		var flying [2]atomic.Int64
		var probes atomic.Int64
		run(t, &health.Registry{
			Pool: pool, Interval: time.Second, Timeout: 10 * time.Second,
			Check: health.Func(func(ctx context.Context, tg balancer.Target) error {
				n := &flying[tg.ID[0]-'a']
				require.Equal(t, int64(1), n.Add(1))
				defer n.Add(-1)
				probes.Add(1)
				time.Sleep(3500 * time.Millisecond)
				return nil
			}),
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		// Each probe takes three and a half slots. The slots that it misses are left out.
		require.InDelta(t, 2*60/4, probes.Load(), 4)
	})
}

func TestRegistry_B5_ProbesThatComeDueLateDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		slow := true
		var probes int
		run(t, &health.Registry{
			Pool: pool, Interval: time.Second, Timeout: time.Hour,
			Check: health.Func(func(context.Context, balancer.Target) error {
				probes++
				if slow {
					slow = false
					time.Sleep(10 * time.Minute)
				}
				return nil
			}),
		})
		time.Sleep(10*time.Minute + 10*time.Second)
		synctest.Wait()
		require.InDelta(t, 11, probes, 1)
	})
}

func TestRegistry_StoppingEndsEveryGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
		pool := newPool(t, target("a"), target("b"), target("c"))
		var ended atomic.Int64
		r := &health.Registry{Pool: pool, Drains: health.Drain{Grace: time.Hour}, Check: health.Func(func(ctx context.Context, _ balancer.Target) error {
			<-ctx.Done()
			time.Sleep(time.Second) // a check that takes its time to end
			ended.Add(1)
			return ctx.Err()
		})}
		stop := start(t, r)
		synctest.Wait()
		stop()
		require.Equal(t, int64(3), ended.Load())
		for _, m := range pool.Members() {
			require.Equal(t, balancer.HealthUnknown, m.State().Health, "a probe that was cut off proves nothing")
		}
		require.False(t, r.Status().Running)
	})
}

func TestRegistry_B5_TargetsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		var mu sync.Mutex
		probes := map[string]int{}
		before := map[string]balancer.Health{} // their first probe, by host
		r := &health.Registry{Pool: pool, Interval: time.Second, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			mu.Lock()
			defer mu.Unlock()
			probes[tg.ID]++
			if _, probed := before[tg.URL.Host]; !probed {
				before[tg.URL.Host] = member(t, pool, tg.ID).State().Health
			}
			return nil
		})}
		run(t, r)
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 1}, probes)

		require.NoError(t, pool.Update(target("a"), target("b")))
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 1, "b": 1}, probes, "what comes is probed at once")
		require.Equal(t, balancer.Healthy, member(t, pool, "b").State().Health)

		require.NoError(t, pool.Update(target("b")))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, probes["a"], "what left is probed no more")
		require.Greater(t, probes["b"], 8)

		// The same ID with another endpoint is another target, whose health is unknown again.
		moved := target("b")
		moved.URL = &url.URL{Scheme: "http", Host: "elsewhere.invalid"}
		require.NoError(t, pool.Update(moved))
		synctest.Wait()
		require.Contains(t, before, "elsewhere.invalid")
		require.Equal(t, balancer.HealthUnknown, before["elsewhere.invalid"])
		require.Equal(t, balancer.Healthy, member(t, pool, "b").State().Health)
	})
}

func TestRegistry_B5_RemovedDuringItsProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		var probes atomic.Int64
		r := &health.Registry{Pool: pool, Interval: time.Second, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			if tg.ID == "a" {
				probes.Add(1)
				time.Sleep(3 * time.Second)
			}
			return nil
		})}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		synctest.Wait()
		require.NoError(t, pool.Update(target("b")))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, int64(1), probes.Load())
		require.Equal(t, "target health changed: b healthy\ntarget removed: a", brief(events))
	})
}

func TestRegistry_Ready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("slow"), target("gone"))
		r := &health.Registry{Pool: pool, Timeout: time.Hour, Check: health.Func(func(ctx context.Context, tg balancer.Target) error {
			switch tg.ID {
			case "slow":
				time.Sleep(time.Minute)
			case "gone":
				<-ctx.Done()
			}
			return nil
		})}
		ready := make(chan error, 1)
		go func() { ready <- r.Ready(context.Background()) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, ready, "Ready waits for Run")

		run(t, r)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, ready)
		require.NoError(t, pool.Update(target("a"), target("slow"), target("late")))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Empty(t, ready)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Len(t, ready, 1, "neither what left nor what came later is waited for")
		require.NoError(t, <-ready)

		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.ErrorIs(t, (&health.Registry{Pool: pool}).Ready(ctx), context.Canceled)
	})
}

func TestRegistry_ReadyWithNothingToCheck(t *testing.T) {
	for name, r := range map[string]*health.Registry{
		"no targets": {Pool: newPool(t)},
		"no probes":  {Pool: newPool(t, target("a")), Interval: -1},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, r)
			require.NoError(t, r.Ready(t.Context()))
		})
	}
}

func TestRegistry_RunRefusesWhatCannotWork(t *testing.T) {
	pool := newPool(t)
	for name, r := range map[string]*health.Registry{
		"no pool":            {},
		"negative timeout":   {Pool: pool, Timeout: -1},
		"negative rise":      {Pool: pool, Rise: -1},
		"negative fall":      {Pool: pool, Fall: -1},
		"negative at once":   {Pool: pool, Concurrency: -1},
		"too much jitter":    {Pool: pool, Jitter: 1.5},
		"negative volume":    {Pool: pool, Passive: &health.Passive{Volume: -1}},
		"ratio above one":    {Pool: pool, Passive: &health.Passive{Ratio: 1.5}},
		"share above one":    {Pool: pool, Passive: &health.Passive{MaxShare: 2}},
		"tiny window":        {Pool: pool, Passive: &health.Passive{Window: 5}},
		"path without slash": {Pool: pool, Check: health.HTTP{Path: "healthz"}},
		"path with a space":  {Pool: pool, Check: health.WebSocket{Path: "/a b%zz"}},
		"bad method":         {Pool: pool, Check: health.HTTP{Method: "GE T"}},
		"connect":            {Pool: pool, Check: health.HTTP{Method: "CONNECT"}},
		"interim status":     {Pool: pool, Check: health.HTTP{Statuses: []int{100}}},
		"bad header name":    {Pool: pool, Check: health.HTTP{Header: map[string][]string{"a b": {"c"}}}},
		"bad header value":   {Pool: pool, Check: health.HTTP{Header: map[string][]string{"A": {"c\r\nd: e"}}}},
		"bad host":           {Pool: pool, Check: health.WebSocket{Host: "a/b"}},
		"gRPC without h2":    {Pool: pool, Check: health.GRPC{TLS: &tls.Config{NextProtos: []string{"http/1.1"}}}},
		"nil check":          {Pool: pool, Check: (*script)(nil)},
		"nil check of ours":  {Pool: pool, Check: (*health.HTTP)(nil)},
		"nil function":       {Pool: pool, Check: health.Func(nil)},
		"jitter of NaN":      {Pool: pool, Jitter: math.NaN()},
		"ratio of NaN":       {Pool: pool, Passive: &health.Passive{Ratio: math.NaN()}},
		"share of NaN":       {Pool: pool, Passive: &health.Passive{MaxShare: math.NaN()}},
		"logger of nothing":  {Pool: pool, Logger: new(slog.Logger)},
		"logger of a nil":    {Pool: pool, Logger: slog.New((*slog.JSONHandler)(nil))},
	} {
		t.Run(name, func(t *testing.T) {
			err := r.Run(t.Context()) // would block if it did not refuse
			require.ErrorContains(t, err, "health: ")
		})
	}
}

func TestRegistry_RunsOnceAtATimeAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		check := &script{letters: "PFFFFFFFFF"}
		r := &health.Registry{Pool: pool, Check: check, Interval: time.Second, Fall: 2}
		stop := start(t, r)
		synctest.Wait()
		require.ErrorContains(t, r.Run(t.Context()), "running")
		stop()
		require.Equal(t, balancer.Healthy, member(t, pool, "a").State().Health)

		run(t, r)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Greater(t, check.n.Load(), int64(4))
		require.Equal(t, balancer.Unhealthy, member(t, pool, "a").State().Health)
	})
}

func TestRegistry_B5_LateAnswerIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := &health.Registry{Pool: pool, Timeout: 5 * time.Second, Check: health.Func(func(context.Context, balancer.Target) error {
			time.Sleep(6 * time.Second) // ignores the context
			return nil
		})}
		run(t, r)
		time.Sleep(7 * time.Second)
		synctest.Wait()
		require.Equal(t, balancer.Unhealthy, member(t, pool, "a").State().Health)
		require.Equal(t, "no answer within 5s", r.Status().Targets[0].Check.Error)
	})
}

func TestClassic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		a := member(t, pool, "a")
		states := ""
		check := &script{letters: "PFF" + "PPPPPPPPPP" + "P", before: func() { states += a.State().Health.String()[:1] }}
		r := health.Classic(pool, check)
		require.Equal(t, 5*time.Second, r.Timeout)
		require.Equal(t, health.Drain{Grace: -1, Limit: 300 * time.Second}, r.Drains)
		run(t, r)
		time.Sleep(14 * 30 * time.Second)
		synctest.Wait()
		require.InDelta(t, 14, len(states), 1)
		require.Equal(t, "u"+"hhu"+"uuuuuuuuuh", states[:14])
	})
}
