package health_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// drained begins a drain of the target a. The channel gets the result.
func drained(ctx context.Context, r *health.Registry, d health.Drain) <-chan error {
	done := make(chan error, 1)
	go func() { done <- r.Drain(ctx, "a", d) }()
	synctest.Wait()
	return done
}

func admin(t testing.TB, pool *balancer.Pool) balancer.Admin {
	t.Helper()
	return member(t, pool, "a").State().Admin
}

func TestDrain_S22_ThreeSteps(t *testing.T) {
	for name, tt := range map[string]struct {
		drain health.Drain
		grace time.Duration
	}{
		"default grace": {health.Drain{}, 300 * time.Second},
		"own grace":     {health.Drain{Grace: time.Minute}, time.Minute},
		"no grace":      {health.Drain{Grace: -1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"), target("b"))
				r := &health.Registry{Pool: pool}
				request, tunnel := acquire(t, pool, "a"), acquire(t, pool, "a")
				began := time.Now()
				done := drained(t.Context(), r, tt.drain)
				if tt.grace > 0 {
					require.Equal(t, balancer.Draining, admin(t, pool))
					time.Sleep(tt.grace - 1)
					finish(t, pool, "a", answered) // bound sessions stay during the grace
					synctest.Wait()
					require.Equal(t, balancer.Draining, admin(t, pool))
					time.Sleep(time.Nanosecond)
					synctest.Wait()
				}
				require.Equal(t, balancer.Moving, admin(t, pool))
				require.Equal(t, tt.grace, time.Since(began))
				_, err := pool.AcquireBound(t.Context(), "a", &balancer.Request{})
				require.ErrorIs(t, err, balancer.ErrMoving)

				request.Release(answered)
				time.Sleep(time.Hour)
				synctest.Wait()
				require.Equal(t, balancer.Moving, admin(t, pool), "a tunnel is left")
				require.Empty(t, done)
				tunnel.Release(answered)
				require.NoError(t, <-done)
				require.Equal(t, balancer.Down, admin(t, pool))
			})
		})
	}
}

// A target that is idle between two requests of its sessions still gets its whole grace.
func TestDrain_S22_IdleTargetsHaveTheirGraceToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		began := time.Now()
		require.NoError(t, (&health.Registry{Pool: pool}).Drain(t.Context(), "a", health.Drain{}))
		require.Equal(t, 300*time.Second, time.Since(began))
		require.Equal(t, balancer.Down, admin(t, pool))
	})
}

func TestDrain_S22_EndsWithTheContextOrTheLimit(t *testing.T) {
	tests := []struct {
		name  string
		drain health.Drain
		ctx   time.Duration // 0: none
		want  time.Duration
	}{
		{"context while moving", health.Drain{Grace: time.Minute}, 2 * time.Minute, 2 * time.Minute},
		{"context within the grace", health.Drain{Grace: time.Hour}, time.Minute, time.Minute},
		{"limit", health.Drain{Grace: time.Minute, Limit: 3 * time.Minute}, 0, 3 * time.Minute},
		{"limit within the grace", health.Drain{Limit: time.Minute}, 0, time.Minute},
		{"the earlier of both", health.Drain{Grace: -1, Limit: time.Minute}, time.Hour, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"), target("b"))
				lease := acquire(t, pool, "a")
				ctx := t.Context()
				if tt.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.ctx)
					defer cancel()
				}
				began := time.Now()
				err := (&health.Registry{Pool: pool}).Drain(ctx, "a", tt.drain)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.EqualError(t, err, `health: drain of "a", 1 in flight: context deadline exceeded`)
				require.Equal(t, tt.want, time.Since(began))
				require.Equal(t, balancer.Down, admin(t, pool))
				lease.Release(answered)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		ctx, cancel := context.WithCancel(t.Context())
		done := drained(ctx, &health.Registry{Pool: pool}, health.Drain{})
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Equal(t, balancer.Down, admin(t, pool))
	})
}

func TestDrain_S22_ReadyCancels(t *testing.T) {
	for _, when := range []time.Duration{time.Second, 2 * time.Minute} { // within the grace, while moving
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, target("a"), target("b"))
			r := &health.Registry{Pool: pool}
			lease := acquire(t, pool, "a")
			done := drained(t.Context(), r, health.Drain{Grace: time.Minute})
			time.Sleep(when)
			synctest.Wait()
			member(t, pool, "a").SetAdmin(balancer.Ready)
			require.ErrorIs(t, <-done, health.ErrDrainCancelled)
			time.Sleep(time.Hour)
			require.Equal(t, balancer.Ready, admin(t, pool), "the drain has let go")
			lease.Release(answered)
			require.Equal(t, balancer.Ready, admin(t, pool))

			// It can be drained again.
			require.NoError(t, r.Drain(t.Context(), "a", health.Drain{Grace: -1}))
		})
	}
}

// If somebody makes the target ready at the moment of a step of the drain, the target stays ready.
func TestDrain_S22_ReadyAtTheMomentOfAStep(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, target("a"), target("b"))
			lease := acquire(t, pool, "a")
			done := drained(t.Context(), &health.Registry{Pool: pool}, health.Drain{Grace: time.Minute})
			time.Sleep(time.Minute) // the drain wakes at this very moment
			member(t, pool, "a").SetAdmin(balancer.Ready)
			require.ErrorIs(t, <-done, health.ErrDrainCancelled)
			require.Equal(t, balancer.Ready, admin(t, pool))
			lease.Release(answered)
		})
	}
}

// Somebody makes the target ready and then draining again: the drain is cancelled, and the target
// stays draining.
func TestDrain_S22_ReadyAndDrainingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		done := drained(t.Context(), &health.Registry{Pool: pool}, health.Drain{})
		a := member(t, pool, "a")
		a.SetAdmin(balancer.Ready)
		a.SetAdmin(balancer.Draining)
		require.ErrorIs(t, <-done, health.ErrDrainCancelled)
		time.Sleep(time.Hour)
		require.Equal(t, balancer.Draining, admin(t, pool))
	})
}

func TestDrain_S22_FromOtherStates(t *testing.T) {
	t.Run("down stays down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, target("a"), target("b"))
			lease := acquire(t, pool, "a")
			member(t, pool, "a").SetAdmin(balancer.Down)
			done := drained(t.Context(), &health.Registry{Pool: pool}, health.Drain{})
			require.Equal(t, balancer.Down, admin(t, pool))
			require.Empty(t, done)
			lease.Release(answered)
			require.NoError(t, <-done)
		})
	})
	t.Run("moving goes on moving", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, target("a"), target("b"))
			member(t, pool, "a").SetAdmin(balancer.Moving)
			began := time.Now()
			require.NoError(t, (&health.Registry{Pool: pool}).Drain(t.Context(), "a", health.Drain{}))
			require.Zero(t, time.Since(began), "what moves has had its grace")
			require.Equal(t, balancer.Down, admin(t, pool))
		})
	})
	t.Run("draining by hand", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, target("a"), target("b"))
			a := member(t, pool, "a")
			a.SetAdmin(balancer.Draining)
			done := drained(t.Context(), &health.Registry{Pool: pool}, health.Drain{})
			a.SetAdmin(balancer.Ready)
			require.ErrorIs(t, <-done, health.ErrDrainCancelled)
		})
	})
	t.Run("set down during the grace", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, target("a"), target("b"))
			lease := acquire(t, pool, "a")
			done := drained(t.Context(), &health.Registry{Pool: pool}, health.Drain{})
			member(t, pool, "a").SetAdmin(balancer.Down)
			synctest.Wait()
			require.Empty(t, done)
			lease.Release(answered)
			require.NoError(t, <-done)
			require.Equal(t, balancer.Down, admin(t, pool))
		})
	})
	t.Run("removed during the grace", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, target("a"), target("b"))
			lease := acquire(t, pool, "a")
			done := drained(t.Context(), &health.Registry{Pool: pool}, health.Drain{})
			require.NoError(t, pool.Update(target("b")))
			synctest.Wait()
			require.Empty(t, done)
			began := time.Now()
			lease.Release(answered)
			require.NoError(t, <-done)
			require.Zero(t, time.Since(began), "nobody comes back to it: there is no grace to wait for")
		})
	})
}

func TestDrain_Refuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := &health.Registry{Pool: pool}
		require.ErrorIs(t, r.Drain(t.Context(), "nobody", health.Drain{}), balancer.ErrUnknown)
		done := drained(t.Context(), r, health.Drain{})
		require.ErrorIs(t, r.Drain(t.Context(), "a", health.Drain{}), health.ErrDraining)
		require.NoError(t, <-done)
	})
}

// Sessions return again and again while their target is drained. They stay during the grace, and
// then each moves once. No request fails, and the load of the target becomes zero.
func TestDrain_S22_SessionsThatComeBackAreMovedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"), target("c"))
		r := &health.Registry{Pool: pool}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var sessions sync.WaitGroup
		moves := make([]int, 300)
		for i := range moves {
			sessions.Go(func() {
				bound := "a"
				for ctx.Err() == nil {
					lease, err := pool.AcquireBound(ctx, bound, &balancer.Request{})
					if err != nil {
						lease, err = pool.Acquire(ctx, &balancer.Request{})
						require.NoError(t, err)
						bound = lease.Member().ID()
						moves[i]++
					}
					time.Sleep(time.Duration(i) * 100 * time.Millisecond) // up to half a minute
					lease.Release(answered)
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		time.Sleep(time.Minute)
		began := time.Now()
		require.NoError(t, r.Drain(t.Context(), "a", health.Drain{Grace: time.Minute}))
		require.Zero(t, member(t, pool, "a").Load())
		require.Less(t, time.Since(began), 91*time.Second, "the longest request under way took half a minute")
		time.Sleep(time.Minute)
		cancel()
		sessions.Wait()
		for i, n := range moves {
			require.Equal(t, 1, n, i)
		}
	})
}

func TestDrain_StatusTellsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		r := &health.Registry{Pool: pool}
		lease := acquire(t, pool, "a")
		began := time.Now().UTC()
		done := drained(t.Context(), r, health.Drain{Grace: time.Minute, Limit: time.Hour})
		want := health.DrainStatus{Step: balancer.Draining, Since: began, Grace: began.Add(time.Minute), Limit: began.Add(time.Hour)}
		require.Equal(t, want, r.Status().Targets[0].Drain)
		require.Zero(t, r.Status().Targets[1].Drain)
		time.Sleep(time.Minute)
		synctest.Wait()
		want.Step = balancer.Moving
		require.Equal(t, want, r.Status().Targets[0].Drain)
		require.Equal(t, int64(1), r.Status().Targets[0].Load)
		lease.Release(answered)
		require.NoError(t, <-done)
		require.Zero(t, r.Status().Targets[0].Drain)
	})
}

// This is the usual order of a deployment: the drain begins, and then the target leaves the list.
// The drain has the same steps at the same times, and ends when nothing is in flight.
func TestDrain_B3_TargetThatLeavesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		a, lease := member(t, pool, "a"), acquire(t, pool, "a")
		began := time.Now()
		done := drained(t.Context(), &health.Registry{Pool: pool}, health.Drain{Grace: time.Minute, Limit: 2 * time.Minute})
		require.NoError(t, pool.Update(target("b")))
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		require.Equal(t, balancer.Draining, a.State().Admin)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, balancer.Moving, a.State().Admin)
		require.ErrorIs(t, <-done, context.DeadlineExceeded)
		require.Equal(t, 2*time.Minute, time.Since(began))
		require.Equal(t, balancer.Down, a.State().Admin)
		lease.Release(answered)
	})
}

// A drain may begin after the target has left. If another target has its ID, that one is drained.
func TestDrain_B3_TargetsThatHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := &health.Registry{Pool: pool}
		first := acquire(t, pool, "a")
		require.NoError(t, pool.Update(targetsOf("a2b")...))
		second := acquire(t, pool, "a")
		require.NoError(t, pool.Update(targetsOf("a3b")...))
		third := acquire(t, pool, "a")
		one, two, three := first.Member(), second.Member(), third.Member()

		done := drained(t.Context(), r, health.Drain{Grace: -1})
		require.Equal(t, balancer.Moving, three.State().Admin)
		require.Equal(t, balancer.Ready, one.State().Admin)
		require.NoError(t, pool.Update(target("b")))
		third.Release(answered)
		require.NoError(t, <-done)

		done = drained(t.Context(), r, health.Drain{Grace: time.Minute, Limit: time.Hour})
		require.Equal(t, balancer.Draining, one.State().Admin)
		require.Equal(t, balancer.Draining, two.State().Admin)
		second.Release(answered)
		require.ErrorIs(t, r.Drain(t.Context(), "a", health.Drain{}), health.ErrDraining)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, balancer.Moving, one.State().Admin)
		one.SetAdmin(balancer.Ready)
		require.ErrorIs(t, <-done, health.ErrDrainCancelled)
		require.Equal(t, balancer.Ready, one.State().Admin)
		first.Release(answered)
		require.ErrorIs(t, r.Drain(t.Context(), "a", health.Drain{}), balancer.ErrUnknown)
	})
}
