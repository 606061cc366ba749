package health_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// finish makes a request to the target that ends with an outcome.
func finish(t testing.TB, pool *balancer.Pool, id string, o balancer.Outcome) {
	t.Helper()
	lease, err := pool.AcquireBound(context.Background(), id, &balancer.Request{})
	require.NoError(t, err)
	lease.Release(o)
}

// from returns the outcome with the client of that number. 0 means an unknown client.
func from(client int, o balancer.Outcome) balancer.Outcome {
	if client != 0 {
		o.Client = netip.AddrFrom4([4]byte{192, 0, 2, byte(client)})
	}
	return o
}

func acquire(t testing.TB, pool *balancer.Pool, id string) balancer.Lease {
	t.Helper()
	lease, err := pool.AcquireBound(context.Background(), id, &balancer.Request{})
	require.NoError(t, err)
	return lease
}

func ejected(t testing.TB, pool *balancer.Pool, id string) bool {
	t.Helper()
	return !member(t, pool, id).State().EjectedUntil.IsZero()
}

var (
	refused  = balancer.Outcome{Class: balancer.ConnectFailed, Err: syscall.ECONNREFUSED}
	answered = balancer.Outcome{Class: balancer.OK, Status: 200}
	erred    = balancer.Outcome{Class: balancer.OK, Status: 500}
	aborted  = balancer.Outcome{Class: balancer.ClientGone, Err: context.Canceled}
)

// passively runs a registry that only learns from traffic, with the targets a, b, c and d.
func passively(t testing.TB, p *health.Passive) (*balancer.Pool, *health.Registry) {
	t.Helper()
	pool := newPool(t, target("a"), target("b"), target("c"), target("d"))
	r := &health.Registry{Pool: pool, Interval: -1, Passive: p}
	run(t, r)
	require.NoError(t, r.Ready(t.Context()))
	return pool, r
}

func TestPassive_B5_FailuresInARow(t *testing.T) {
	outcome := map[rune]balancer.Outcome{
		'.': answered, '5': erred, 'g': aborted, 'c': refused,
		't': {Class: balancer.TLSFailed}, 'w': {Class: balancer.WriteFailed}, 'h': {Class: balancer.HeaderFailed},
		'b': {Class: balancer.BodyFailed}, 'e': {Class: balancer.TunnelEarly},
		'm': {Class: balancer.ConnectFailed, Err: fmt.Errorf("dial: %w", syscall.EMFILE)},
	}
	status := func(o balancer.Outcome) bool { return o.Class != balancer.OK || o.Status >= 500 }
	tests := []struct {
		name    string
		passive health.Passive
		traffic string
		want    bool
	}{
		{"four", health.Passive{}, "cccc", false},
		{"five", health.Passive{}, "ccccc", true},
		{"five of all kinds", health.Passive{}, "cthbw", true},
		{"tunnels that break early", health.Passive{}, "eeeee", true},
		{"a success resets", health.Passive{}, "cccc.cccc.cccc", false},
		{"the client's aborts neither count nor reset", health.Passive{}, "gggggggggg", false},
		{"aborts between failures", health.Passive{}, "ccgcgcgc", true},
		{"our own shortage does not count", health.Passive{}, "mmmmmmmmmm", false},
		{"an answer with 500 is an answer", health.Passive{}, "5555555555", false},
		{"unless it is asked for", health.Passive{Failed: status}, "55555", true},
		{"aborts are not asked for", health.Passive{Failed: func(balancer.Outcome) bool { return true }}, "gggggggggg", false},
		{"two", health.Passive{Consecutive: 2}, "cc", true},
		{"off", health.Passive{Consecutive: -1, Ratio: -1}, strings.Repeat("c", 100), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, _ := passively(t, &tt.passive)
				for i, letter := range tt.traffic {
					require.False(t, ejected(t, pool, "a"), "after %d", i)
					finish(t, pool, "a", from(1+i%2, outcome[letter]))
				}
				require.Equal(t, tt.want, ejected(t, pool, "a"))
				require.False(t, ejected(t, pool, "b"))
			})
		})
	}
}

func TestPassive_B5_RatioOverASlidingWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, nil)
		traffic := func(letters string) {
			for _, letter := range letters {
				if letter == 'F' {
					finish(t, pool, "a", refused)
				} else {
					finish(t, pool, "a", answered)
				}
			}
		}
		// Half of nineteen is too few to tell.
		traffic("FPFPFPFPFPFPFPFPFPF")
		require.False(t, ejected(t, pool, "a"))
		// These requests leave the window, so half of the next nineteen is too few as well.
		time.Sleep(10 * time.Second)
		traffic("FPFPFPFPFPFPFPFPFPF")
		require.False(t, ejected(t, pool, "a"))
		// Nine seconds later they are still in it.
		time.Sleep(9 * time.Second)
		traffic("F")
		require.True(t, ejected(t, pool, "a"), "eleven of twenty")
	})
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, nil)
		for range 1000 {
			finish(t, pool, "a", refused)
			finish(t, pool, "a", answered)
			finish(t, pool, "a", answered)
			time.Sleep(10 * time.Millisecond)
		}
		require.False(t, ejected(t, pool, "a"), "a third is less than half")
	})
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, &health.Passive{Ratio: 0.1, Volume: 100, Window: time.Minute})
		for range 9 {
			finish(t, pool, "a", refused)
			for range 9 {
				finish(t, pool, "a", answered)
			}
			time.Sleep(6 * time.Second)
		}
		require.False(t, ejected(t, pool, "a"), "nine of ninety")
		for range 9 {
			finish(t, pool, "a", answered)
		}
		finish(t, pool, "a", refused)
		require.True(t, ejected(t, pool, "a"), "ten of a hundred")
	})
}

// At every position of its cells, the window must count each outcome once when it uses a cell
// again, and must forget outcomes that are older than the window.
func TestPassive_B5_WindowAtEveryPosition(t *testing.T) {
	for offset := range 23 {
		synctest.Test(t, func(t *testing.T) {
			pool, _ := passively(t, &health.Passive{Consecutive: -1, Ratio: 1, Volume: 12})
			time.Sleep(time.Duration(offset) * 500 * time.Millisecond)
			for range 11 {
				finish(t, pool, "a", refused)
			}
			time.Sleep(10 * time.Second)
			for range 11 {
				finish(t, pool, "a", refused)
			}
			require.False(t, ejected(t, pool, "a"), offset)
			time.Sleep(8900 * time.Millisecond)
			finish(t, pool, "a", refused)
			require.True(t, ejected(t, pool, "a"), offset)
		})
	}
}

func TestPassive_B5_EjectionDoublesAndIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, nil)
		a := member(t, pool, "a")
		for range 5 {
			finish(t, pool, "a", refused)
		}
		for _, want := range []time.Duration{30, 60, 120, 240, 300, 300} {
			want *= time.Second
			require.Equal(t, want, time.Until(a.State().EjectedUntil))
			time.Sleep(want - 1)
			synctest.Wait()
			require.True(t, ejected(t, pool, "a"))
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			require.False(t, ejected(t, pool, "a"), "the ejection ends by itself")
			finish(t, pool, "a", refused) // on trial one failure is enough
		}
	})
}

func TestPassive_B5_EjectionsShrinkAgain(t *testing.T) {
	tests := []struct {
		quiet time.Duration // between the third ejection, of 120 seconds, and the fourth
		want  time.Duration
	}{
		{119 * time.Second, 240 * time.Second},
		{120 * time.Second, 120 * time.Second},
		{240 * time.Second, 60 * time.Second},
		{359 * time.Second, 60 * time.Second},
		{360 * time.Second, 30 * time.Second},
		{24 * time.Hour, 30 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.quiet.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, _ := passively(t, nil)
				a := member(t, pool, "a")
				fail := func(n int) {
					for range n {
						finish(t, pool, "a", refused)
					}
				}
				fail(5)
				for range 2 {
					time.Sleep(time.Until(a.State().EjectedUntil))
					synctest.Wait()
					fail(1)
				}
				time.Sleep(time.Until(a.State().EjectedUntil))
				synctest.Wait()
				finish(t, pool, "a", answered)
				time.Sleep(tt.quiet)
				fail(5)
				require.Equal(t, tt.want, time.Until(a.State().EjectedUntil))
			})
		})
	}
}

func TestPassive_B5_OwnNumbers(t *testing.T) {
	for name, tt := range map[string]struct {
		p    health.Passive
		want []time.Duration
	}{
		"own":          {health.Passive{Ejection: time.Second, MaxEjection: 3 * time.Second}, []time.Duration{1, 2, 3, 3}},
		"no growth":    {health.Passive{Ejection: 10 * time.Minute}, []time.Duration{600, 600}},
		"max is first": {health.Passive{Ejection: 5 * time.Second, MaxEjection: time.Second}, []time.Duration{5, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.p.Consecutive = 1
				pool, _ := passively(t, &tt.p)
				for _, want := range tt.want {
					finish(t, pool, "a", refused)
					require.Equal(t, want*time.Second, time.Until(member(t, pool, "a").State().EjectedUntil))
					time.Sleep(want * time.Second)
					synctest.Wait()
				}
			})
		})
	}
}

func TestPassive_B5_Trial(t *testing.T) {
	// Each case begins with a target that has just come back from 30 seconds of ejection.
	tests := []struct {
		name    string
		traffic []balancer.Outcome
		want    bool
	}{
		{"a failure ejects again", []balancer.Outcome{refused}, true},
		{"a success ends it", []balancer.Outcome{answered, refused, refused, refused, refused}, false},
		{"and then the usual number counts", []balancer.Outcome{answered, refused, refused, refused, refused, refused}, true},
		{"aborts do not decide", []balancer.Outcome{aborted, aborted, refused}, true},
		{"what began before does not decide", []balancer.Outcome{{Class: balancer.HeaderFailed, Latency: time.Minute}}, false},
		{"for neither side", []balancer.Outcome{{Class: balancer.OK, Latency: time.Minute}, refused}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, _ := passively(t, nil)
				for range 5 {
					finish(t, pool, "a", refused)
				}
				time.Sleep(31 * time.Second)
				synctest.Wait()
				for _, o := range tt.traffic {
					require.False(t, ejected(t, pool, "a"))
					finish(t, pool, "a", o)
				}
				require.Equal(t, tt.want, ejected(t, pool, "a"))
			})
		})
	}
}

// Requests that were under way when the target was ejected fail one after the other. They must
// neither extend the ejection nor cause another one, and must not count when the target is back.
func TestPassive_B5_RequestsUnderWayTeachNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, r := passively(t, nil)
		a := member(t, pool, "a")
		var leases []balancer.Lease
		for range 20 {
			leases = append(leases, acquire(t, pool, "a"))
		}
		for i := range leases {
			leases[i].Release(from(1+i%2, balancer.Outcome{Class: balancer.HeaderFailed, Latency: time.Duration(i) * time.Second}))
			time.Sleep(time.Second)
		}
		require.Equal(t, 30*time.Second-15*time.Second-time.Second, time.Until(a.State().EjectedUntil), "the fifth ejected it")
		require.Equal(t, int64(1), r.Status().Targets[0].Passive.Ejections)
		require.Zero(t, r.Status().Targets[0].Passive.Failures)
	})
}

func TestPassive_B5_CapOnTheEjectedShare(t *testing.T) {
	tests := []struct {
		name    string
		targets int
		share   float64
		want    int // how many of them all failing are ejected
	}{
		{"the only one", 1, 0, 0},
		{"one of two", 2, 0, 1},
		{"one of three", 3, 0, 1},
		{"half of ten", 10, 0, 5},
		{"a tenth of ten", 10, 0.1, 1},
		{"a tenth of nine is none", 9, 0.1, 0},
		{"never the last", 3, 1, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var set []balancer.Target
				for i := range tt.targets {
					set = append(set, target(fmt.Sprint("t", i)))
				}
				pool := newPool(t, set...)
				r := &health.Registry{Pool: pool, Interval: -1, Passive: &health.Passive{MaxShare: tt.share}}
				run(t, r)
				synctest.Wait()
				var leases []balancer.Lease
				for range 50 {
					for _, m := range pool.Members() {
						leases = append(leases, acquire(t, pool, m.ID()))
					}
				}
				// All fail at the same time, to find a cap that is checked too early.
				var wg sync.WaitGroup
				for i := range leases {
					wg.Go(func() { leases[i].Release(refused) })
				}
				wg.Wait()
				out := 0
				refusals := int64(0)
				for _, m := range pool.Members() {
					if ejected(t, pool, m.ID()) {
						out++
					}
				}
				for _, s := range r.Status().Targets {
					refusals += s.Passive.Refused
					require.LessOrEqual(t, s.Passive.Ejections, int64(1))
				}
				require.Equal(t, tt.want, out)
				require.Positive(t, refusals)

				// When targets have returned, others may be ejected.
				time.Sleep(30 * time.Second)
				synctest.Wait()
				for _, m := range pool.Members() {
					require.False(t, ejected(t, pool, m.ID()))
				}
				if tt.want > 0 {
					last := fmt.Sprint("t", tt.targets-1)
					finish(t, pool, last, refused)
					for range 5 {
						if !ejected(t, pool, last) {
							finish(t, pool, last, refused)
						}
					}
					require.True(t, ejected(t, pool, last))
				}
			})
		})
	}
}

// A reentrant observer makes several targets fail before the pool has reported an ejection. The cap
// still holds.
func TestPassive_B5_CapHoldsBeforeThePoolHasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, nil)
		var leases []balancer.Lease
		for range 5 {
			for _, m := range pool.Members() {
				leases = append(leases, acquire(t, pool, m.ID()))
			}
		}
		stop := pool.Observe(&onChange{func() {
			for i := range leases {
				leases[i].Release(refused)
			}
		}})
		defer stop()
		member(t, pool, "a").SetHealth(balancer.Healthy)
		out := 0
		for _, m := range pool.Members() {
			if ejected(t, pool, m.ID()) {
				out++
			}
		}
		require.Equal(t, 2, out)
	})
}

// An onChange calls a function at the first change of a pool.
type onChange struct{ call func() }

func (o *onChange) Released(*balancer.Member, balancer.Outcome) {}

func (o *onChange) Changed(*balancer.Member, balancer.State) {
	if call := o.call; call != nil {
		o.call = nil
		call()
	}
}

// If a target fails its trial but the pool cannot spare it, its failures count from zero again.
func TestPassive_B5_RefusedOnTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, nil)
		fail := func(id string, n int) {
			for range n {
				finish(t, pool, id, refused)
			}
		}
		fail("a", 5)
		time.Sleep(29 * time.Second)
		fail("b", 5)
		time.Sleep(time.Second)
		synctest.Wait()
		fail("c", 5)
		fail("a", 1)
		require.False(t, ejected(t, pool, "a"))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		fail("a", 4)
		require.False(t, ejected(t, pool, "a"))
		fail("a", 1)
		require.True(t, ejected(t, pool, "a"))
	})
}

// A full cell of the window does not count further, and does not change its other fields.
func TestPassive_B5_FullWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, &health.Passive{Consecutive: -1, Volume: 1})
		for range 1 << 16 {
			finish(t, pool, "a", answered)
		}
		finish(t, pool, "a", refused)
		require.False(t, ejected(t, pool, "a"))
	})
}

// The cap counts the targets that serve: if all others are unhealthy or drained, a target that
// fails sometimes is not ejected.
func TestPassive_B5_NeverTheLastThatServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, r := passively(t, nil)
		member(t, pool, "b").SetHealth(balancer.Unhealthy)
		member(t, pool, "c").SetAdmin(balancer.Draining)
		member(t, pool, "d").SetAdmin(balancer.Down)
		for range 100 {
			finish(t, pool, "a", refused)
		}
		require.False(t, ejected(t, pool, "a"))
		require.Equal(t, 1, r.Status().Serving)
		member(t, pool, "b").SetHealth(balancer.Healthy)
		for range 5 {
			finish(t, pool, "a", refused)
		}
		require.True(t, ejected(t, pool, "a"))
	})
}

func TestPassive_B5_RemovedTargetsMakeNoDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, nil)
		lease := acquire(t, pool, "a")
		for range 5 {
			finish(t, pool, "a", refused)
			finish(t, pool, "b", refused)
		}
		require.NoError(t, pool.Update(target("c"), target("d")))
		lease.Release(refused)
		// Both ejected targets have left the pool, so one of the two others may be ejected.
		for range 5 {
			finish(t, pool, "c", refused)
		}
		require.True(t, ejected(t, pool, "c"))
		for range 5 {
			finish(t, pool, "d", refused)
		}
		require.False(t, ejected(t, pool, "d"))
	})
}

// A target that becomes unhealthy and then healthy again returns before its ejection is over. It is
// on trial, and its next ejection is longer.
func TestPassive_B5_RisingEndsTheEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		var sick atomic.Bool
		r := &health.Registry{Pool: pool, Interval: time.Second, Fall: 2, Passive: &health.Passive{Ejection: time.Hour, MaxEjection: 10 * time.Hour},
			Check: health.Func(func(_ context.Context, tg balancer.Target) error {
				if tg.ID == "a" && sick.Load() {
					return errSick
				}
				return nil
			})}
		run(t, r)
		synctest.Wait()
		for range 5 {
			finish(t, pool, "a", refused)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.True(t, ejected(t, pool, "a"), "checks that pass all the time end nothing")
		sick.Store(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, balancer.Unhealthy, member(t, pool, "a").State().Health)
		sick.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.False(t, ejected(t, pool, "a"))
		finish(t, pool, "a", refused)
		require.InDelta(t, 2*time.Hour, time.Until(member(t, pool, "a").State().EjectedUntil), float64(time.Second))

		// The time without an ejection, which shortens the next one, begins when the target really
		// returns.
		sick.Store(true)
		time.Sleep(10 * time.Second)
		sick.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.False(t, ejected(t, pool, "a"))
		finish(t, pool, "a", answered)
		time.Sleep(2 * time.Hour)
		for range 5 {
			finish(t, pool, "a", refused)
		}
		require.InDelta(t, 2*time.Hour, time.Until(member(t, pool, "a").State().EjectedUntil), float64(time.Second))
	})
}

func TestPassive_B5_ReasonsInTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := func(o balancer.Outcome) bool { return o.Class != balancer.OK || o.Status >= 500 }
		pool, r := passively(t, &health.Passive{Failed: status, MaxShare: 1, Volume: 6})
		for i := range 5 {
			finish(t, pool, "a", refused)
			finish(t, pool, "b", from(1+i%2, erred))
		}
		for i := range 3 {
			finish(t, pool, "c", answered)
			finish(t, pool, "c", from(1+i%2, balancer.Outcome{Class: balancer.BodyFailed}))
		}
		s := r.Status()
		require.Equal(t, "5 failures in a row, the last one: connection refused", s.Targets[0].Passive.Reason)
		require.Equal(t, "5 failures in a row, the last one: status 500", s.Targets[1].Passive.Reason)
		require.Equal(t, "3 of 6 requests failed, the last one: body failed", s.Targets[2].Passive.Reason)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		finish(t, pool, "a", refused)
		require.Equal(t, "failed again after its ejection, the last one: connection refused", r.Status().Targets[0].Passive.Reason)
	})
}

func TestStatus_CountsOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, r := passively(t, &health.Passive{Consecutive: -1, Ratio: -1}) // failures still count
		for _, o := range []balancer.Outcome{
			answered, answered, erred, refused, aborted, {Class: balancer.OK, Status: 101},
			{Class: balancer.BodyFailed, Status: 200}, {Class: balancer.OK, Status: 999}, {Class: balancer.OK, Status: -1}, {Class: 99},
		} {
			finish(t, pool, "a", o)
		}
		s := r.Status()
		require.Equal(t, []health.OutcomeStatus{
			{Class: "ok", Count: 2}, {Class: "ok", Status: "1xx", Count: 1}, {Class: "ok", Status: "2xx", Count: 2},
			{Class: "ok", Status: "5xx", Count: 1}, {Class: "connect failed", Count: 1},
			{Class: "body failed", Status: "2xx", Count: 1}, {Class: "client gone", Count: 1},
		}, s.Targets[0].Outcomes)
		require.Empty(t, s.Targets[1].Outcomes)
	})
}

// Learning from a success must not slow requests down, and a failure starts no goroutine.
func TestPassive_LearnsWithoutAllocating(t *testing.T) {
	pool, _ := passively(t, nil)
	plain := newPool(t, target("a"))
	cost := func(p *balancer.Pool, o balancer.Outcome) float64 {
		return testing.AllocsPerRun(100, func() {
			lease, _ := p.AcquireBound(context.Background(), "a", &balancer.Request{})
			lease.Release(o)
		})
	}
	require.Equal(t, cost(plain, answered), cost(pool, answered))
}

func BenchmarkPassiveLearn(b *testing.B) {
	for _, watched := range []bool{false, true} {
		b.Run(fmt.Sprintf("watched=%t", watched), func(b *testing.B) {
			pool := newPool(b, target("a"), target("b"))
			if watched {
				r := &health.Registry{Pool: pool, Interval: -1}
				run(b, r)
				require.NoError(b, r.Ready(b.Context()))
			}
			b.ReportAllocs()
			q := &balancer.Request{}
			for b.Loop() {
				lease, _ := pool.AcquireBound(context.Background(), "a", q)
				lease.Release(answered)
			}
		})
	}
}
