package health_test

import (
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// spellings has other spellings of the URL of target("a").
var spellings = map[string]*url.URL{
	"trailing slash": {Scheme: "http", Host: "a.invalid", Path: "/"},
	"default port":   {Scheme: "http", Host: "a.invalid:80"},
	"capitals":       {Scheme: "HTTP", Host: "A.Invalid"},
	"WebSocket":      {Scheme: "ws", Host: "a.invalid"},
	"empty fields":   {Scheme: "http", Host: "a.invalid:", RawPath: "/", OmitHost: true},
}

// An update with another spelling of the target's URL does not end its drain. The drain ends after
// the sessions have moved, and they do not return to the target as if it were new.
func TestDrain_B3_GoesOnWhenTheURLIsSpelledOtherwise(t *testing.T) {
	for name, u := range spellings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"), target("b"))
				r := &health.Registry{Pool: pool}
				lease := acquire(t, pool, "a")
				began := time.Now()
				done := drained(t.Context(), r, health.Drain{Grace: time.Minute})
				require.NoError(t, pool.Update(balancer.Target{ID: "a", URL: u}, target("b")))
				lease.Release(answered)
				synctest.Wait()
				require.Empty(t, done, "the grace is not over")
				require.Equal(t, balancer.Draining, admin(t, pool))
				for range 10 {
					next, err := pool.Acquire(t.Context(), &balancer.Request{})
					require.NoError(t, err)
					require.Equal(t, "b", next.Member().ID(), "no new session comes")
				}
				require.ErrorIs(t, r.Drain(t.Context(), "a", health.Drain{}), health.ErrDraining)

				require.NoError(t, <-done)
				require.Equal(t, time.Minute, time.Since(began))
				require.Equal(t, balancer.Down, admin(t, pool))
				require.NoError(t, pool.Update(target("a"), target("b")))
				require.Equal(t, balancer.Down, admin(t, pool))
			})
		})
	}
}

// With another spelling of its URL, a target keeps its health and its counts: it is not probed
// early, and one success does not make it healthy.
func TestRegistry_B3_KnowsATargetInAnotherSpelling(t *testing.T) {
	for name, u := range spellings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"))
				r := &health.Registry{Pool: pool, Check: &script{letters: "FPPP"}, Interval: 10 * time.Second, Jitter: -1, Rise: 3}
				events, stop := r.Subscribe(10)
				defer stop()
				run(t, r)
				require.NoError(t, r.Ready(t.Context()))
				synctest.Wait()
				a := member(t, pool, "a")
				require.Equal(t, balancer.Unhealthy, a.State().Health)
				for len(events) > 0 {
					<-events
				}

				require.NoError(t, pool.Update(balancer.Target{ID: "a", URL: u}))
				time.Sleep(time.Second)
				synctest.Wait()
				require.Same(t, a, member(t, pool, "a"))
				require.Equal(t, int64(1), r.Status().Targets[0].Check.Total, "no probe is in a hurry")
				require.Empty(t, events)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				require.Equal(t, balancer.Unhealthy, a.State().Health, "two successes are not three")
				time.Sleep(20 * time.Second)
				synctest.Wait()
				require.Equal(t, balancer.Healthy, a.State().Health)
			})
		})
	}
}

// A list with other spellings of the URLs takes no target out of service.
func TestReplace_B3_SpellingsAreOneTarget(t *testing.T) {
	for name, u := range spellings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"), target("b"))
				r := &health.Registry{Pool: pool, Interval: -1}
				run(t, r)
				synctest.Wait()
				a, lease := member(t, pool, "a"), acquire(t, pool, "a")
				a.SetAdmin(balancer.Draining)
				require.NoError(t, r.Replace([]balancer.Target{{ID: "a", URL: u}, target("b")}, health.Drain{Grace: -1}))
				require.NoError(t, r.Settled(t.Context()))
				require.Same(t, a, member(t, pool, "a"))
				require.Equal(t, balancer.Draining, admin(t, pool), "the operator's state stays")
				require.Equal(t, int64(1), a.Load())
				require.Empty(t, pool.Leaving())
				lease.Release(answered)
			})
		})
	}
}
