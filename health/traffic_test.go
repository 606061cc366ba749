package health_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// served makes requests or tunnels to a target that end with these outcomes.
func served(t testing.TB, pool *balancer.Pool, id string, tunnel bool, outcomes ...balancer.Outcome) {
	t.Helper()
	for _, o := range outcomes {
		lease, err := pool.AcquireBound(t.Context(), id, &balancer.Request{Tunnel: tunnel})
		require.NoError(t, err)
		lease.Release(o)
	}
}

func repeat(n int, o balancer.Outcome) []balancer.Outcome {
	return slices.Repeat([]balancer.Outcome{o}, n)
}

// tolerant is a registry that checks and ejects nothing.
func tolerant(pool *balancer.Pool) *health.Registry {
	return &health.Registry{Pool: pool, Interval: -1, Passive: &health.Passive{Consecutive: -1, Ratio: -1}}
}

func TestStatus_Traffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		r := tolerant(pool)
		require.Zero(t, r.Status().Total, "Run has not begun")
		run(t, r)
		synctest.Wait()
		traffic := func() health.TrafficStatus { return r.Status().Targets[0].Traffic }
		require.Zero(t, traffic())

		time.Sleep(30 * time.Second)
		served(t, pool, "a", false, repeat(40, balancer.Outcome{Status: 200, Latency: 10 * time.Millisecond})...)
		served(t, pool, "a", false,
			balancer.Outcome{Status: 503, Latency: time.Second, Retried: true},
			balancer.Outcome{Class: balancer.ConnectFailed, Err: errors.New("no"), Retried: true},
			balancer.Outcome{Class: balancer.ClientGone, Latency: time.Minute},
			balancer.Outcome{Class: balancer.Unjudged})
		served(t, pool, "a", true, balancer.Outcome{Status: 101}, balancer.Outcome{Class: balancer.UpgradeFailed})
		served(t, pool, "b", false, balancer.Outcome{Status: 200, Latency: 3 * time.Second})
		open := acquire(t, pool, "a")
		defer open.Release(answered)

		got := traffic()
		require.Equal(t, int64(44), got.Requests)
		require.Equal(t, int64(2), got.Tunnels)
		require.Equal(t, int64(2), got.Retried)
		require.Equal(t, 4.4, got.RequestRate, "over the present step, which begins now, and the one before")
		require.Equal(t, 0.2, got.TunnelRate)
		require.Equal(t, 0.3, got.FailedRate, "the answer 503, the connection and the upgrade")
		require.InEpsilon(t, 10*time.Millisecond, got.Median, 0.0625)
		require.InEpsilon(t, time.Second, got.P99, 0.0625)
		require.Zero(t, got.Recent, "the step is not over")
		total := r.Status().Total
		require.Equal(t, int64(45), total.Requests)
		require.InEpsilon(t, 3*time.Second, total.P99, 0.0625)

		time.Sleep(5 * time.Second)
		require.Equal(t, 44./15, traffic().RequestRate)
		time.Sleep(5 * time.Second)
		require.Equal(t, 4.4, traffic().RequestRate, "the step is over, and the next has nothing yet")
		require.Equal(t, uint32(46), traffic().Recent.Ended[29])
		require.Equal(t, uint32(3), traffic().Recent.Failed[29])
		time.Sleep(10 * time.Second)
		require.Zero(t, traffic().RequestRate)
		require.Equal(t, uint32(46), traffic().Recent.Ended[28])
		time.Sleep(39 * time.Second)
		require.NotZero(t, traffic().Median)
		time.Sleep(21 * time.Second)
		require.Zero(t, traffic().Median, "after 80 s at the most")
		require.Zero(t, traffic().P99)

		// Counts that are five minutes old are dropped, and their slots are used again.
		time.Sleep(4*time.Minute - 11*time.Second)
		require.Equal(t, uint32(46), traffic().Recent.Ended[0])
		time.Sleep(10 * time.Second)
		require.Zero(t, traffic().Recent)
		require.Equal(t, int64(44), traffic().Requests, "the total stays")
		for range 100 { // every slot several times
			served(t, pool, "a", false, balancer.Outcome{Status: 200, Latency: time.Millisecond})
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, health.History{Ended: slices.Repeat([]uint32{1}, 30)}, traffic().Recent)
		require.Equal(t, 1./19, traffic().RequestRate, "9 s of the present step and all of the one before")

		// After a year without traffic, only the totals are left.
		time.Sleep(365 * 24 * time.Hour)
		got = traffic()
		require.Equal(t, int64(144), got.Requests)
		require.Equal(t, health.TrafficStatus{Requests: 144, Tunnels: 2, Retried: 2}, got)
	})
}

// In the first seconds of a run, the rates are averages over the time since its beginning.
func TestStatus_TrafficOfARunThatHasJustBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := tolerant(pool)
		run(t, r)
		synctest.Wait()
		served(t, pool, "a", false, repeat(30, balancer.Outcome{Status: 200})...)
		require.Equal(t, 30., r.Status().Total.RequestRate, "as if a second had passed")
		require.Zero(t, r.Status().Total.Median, "of unknown latency")
		time.Sleep(3 * time.Second)
		require.Equal(t, 10., r.Status().Total.RequestRate)
	})
}

// For all latencies, the error of the quantiles is at most a sixteenth.
func TestStatus_TrafficQuantiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		for _, scale := range []time.Duration{10 * time.Microsecond, time.Millisecond, 100 * time.Millisecond, 5 * time.Second} {
			pool := newPool(t, target("a"))
			r := tolerant(pool)
			stop := start(t, r)
			synctest.Wait()
			var all []time.Duration
			for range 1000 {
				d := min(scale+time.Duration(random.ExpFloat64()*float64(scale)), 2*time.Minute)
				all = append(all, d)
				served(t, pool, "a", false, balancer.Outcome{Status: 200, Latency: d})
			}
			slices.Sort(all)
			got := r.Status().Total
			require.InEpsilon(t, all[499], got.Median, 0.0626)
			require.InEpsilon(t, all[989], got.P99, 0.0626)
			stop()
		}
		pool := newPool(t, target("a"))
		r := tolerant(pool)
		run(t, r)
		synctest.Wait()
		served(t, pool, "a", false, balancer.Outcome{Status: 200, Latency: math.MaxInt64}, balancer.Outcome{Status: 200, Latency: 1})
		require.InEpsilon(t, 134*time.Second, r.Status().Total.P99, 0.0625, "what takes longer counts as that")
		require.Less(t, r.Status().Total.Median, 2*time.Microsecond)
	})
}

// No outcome is counted twice or lost while slots are reset, the status is read, and targets come
// and go.
func TestStatus_TrafficIsExactWhileItIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		r := tolerant(pool)
		run(t, r)
		synctest.Wait()
		const workers, each, rounds = 8, 50, 7
		for range rounds {
			var work sync.WaitGroup
			for range workers {
				work.Go(func() {
					served(t, pool, "a", false, repeat(each, balancer.Outcome{Status: 500, Latency: time.Millisecond})...)
				})
				work.Go(func() {
					s := r.Status()
					require.LessOrEqual(t, s.Total.P99, 2*time.Millisecond)
					require.GreaterOrEqual(t, s.Total.Requests, s.Targets[0].Traffic.Requests)
				})
			}
			work.Go(func() { require.NoError(t, pool.Update(target("a"), target("c"))) })
			work.Wait()
			require.NoError(t, pool.Update(target("a"), target("b")))
			time.Sleep(10 * time.Second)
		}
		got := r.Status().Targets[0].Traffic
		require.Equal(t, int64(rounds*workers*each), got.Requests)
		require.Equal(t, slices.Concat(make([]uint32, 30-rounds), slices.Repeat([]uint32{workers * each}, rounds)), got.Recent.Ended)
		require.Equal(t, got.Recent.Ended, got.Recent.Failed)
	})
}

func TestStatus_TrafficAllocatesNothing(t *testing.T) {
	pool := newPool(t, target("a"))
	r := tolerant(pool)
	run(t, r)
	require.NoError(t, r.Ready(t.Context()))
	q := &balancer.Request{}
	allocated := func(o balancer.Outcome) float64 {
		return testing.AllocsPerRun(1000, func() {
			lease, _ := pool.Acquire(t.Context(), q)
			lease.Release(o)
		})
	}
	require.Zero(t, allocated(balancer.Outcome{Status: 200, Latency: time.Millisecond}))
	require.Zero(t, allocated(balancer.Outcome{Class: balancer.HeaderFailed, Retried: true}))
}

func TestStatus_Downtime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		r := tolerant(pool)
		a := member(t, pool, "a")
		a.SetAdmin(balancer.Down)
		run(t, r)
		synctest.Wait()
		downtime := func() health.DowntimeStatus { return r.Status().Targets[0].Downtime }
		began := time.Now().UTC()
		require.Equal(t, health.DowntimeStatus{Since: began}, downtime(), "since Run began")
		time.Sleep(time.Minute)
		require.Equal(t, health.DowntimeStatus{Since: began, Total: time.Minute}, downtime())
		a.SetHealth(balancer.Unhealthy) // for another reason too
		a.SetAdmin(balancer.Ready)
		time.Sleep(time.Minute)
		require.Equal(t, health.DowntimeStatus{Since: began, Total: 2 * time.Minute}, downtime())
		a.SetHealth(balancer.Healthy)
		time.Sleep(time.Hour)
		require.Equal(t, health.DowntimeStatus{Total: 2 * time.Minute}, downtime())
		a.Eject(time.Now().Add(30 * time.Second)) // which ends by itself
		time.Sleep(time.Hour)
		require.Equal(t, health.DowntimeStatus{Total: 150 * time.Second}, downtime())
		a.SetAdmin(balancer.Draining) // it serves its sessions
		a.SetHealth(balancer.Reserved)
		time.Sleep(time.Hour)
		require.Equal(t, health.DowntimeStatus{Total: 150 * time.Second}, downtime())
		a.SetAdmin(balancer.Moving)
		time.Sleep(time.Second)
		require.Equal(t, 151*time.Second, downtime().Total)
	})
}

// BenchmarkRegistryReleased measures a request to the pool, without and with a registry that
// observes it.
func BenchmarkRegistryReleased(b *testing.B) {
	for _, watched := range []bool{false, true} {
		b.Run(fmt.Sprintf("watched=%t", watched), func(b *testing.B) {
			pool := newPool(b, target("a"))
			if watched {
				r := &health.Registry{Pool: pool, Interval: -1}
				run(b, r)
				require.NoError(b, r.Ready(b.Context()))
			}
			q := &balancer.Request{}
			began := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				lease, _ := pool.Acquire(b.Context(), q)
				lease.Release(balancer.Outcome{Status: 200, Latency: time.Millisecond, Began: began})
			}
		})
	}
}
