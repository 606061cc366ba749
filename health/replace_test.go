package health_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// unprobed is a registry whose targets nobody probes.
func unprobed(pool *balancer.Pool) *health.Registry {
	return &health.Registry{Pool: pool, Interval: -1}
}

// targetsOf returns the targets named in a word, one for each letter. A digit behind a letter gives
// it another endpoint.
func targetsOf(word string) []balancer.Target {
	var list []balancer.Target
	for _, c := range word {
		if c >= '0' && c <= '9' {
			last := &list[len(list)-1]
			last.URL = &url.URL{Scheme: "http", Host: fmt.Sprintf("%s-%c.invalid", last.ID, c)}
			continue
		}
		list = append(list, target(string(c)))
	}
	return list
}

// set returns the pool's targets in order, with the first letter of their administrative state.
func set(pool *balancer.Pool) string {
	var words []string
	for _, m := range pool.Members() {
		words = append(words, m.ID()+strings.ToUpper(m.State().Admin.String()[:1]))
	}
	return strings.Join(words, " ")
}

func TestReplace_AddsDrainsAndRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("abc")...)
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		b := member(t, pool, "b")
		lease := acquire(t, pool, "b")
		next := targetsOf("acd")
		next[0].Weight, next[0].Zone, next[0].MaxTunnels = 7, "z", 5
		a := member(t, pool, "a")
		require.NoError(t, r.Replace(next, health.Drain{Grace: time.Minute}))
		require.Equal(t, "aR bD cR dR", set(pool), "at once, and b keeps its place")
		require.Same(t, a, member(t, pool, "a"))
		require.Equal(t, next[0], a.Target())
		require.True(t, r.Status().Targets[1].Drain.Missing)

		settled := make(chan error, 1)
		go func() { settled <- r.Settled(t.Context()) }()
		time.Sleep(30 * time.Second)
		require.NoError(t, r.Replace(next, health.Drain{Grace: time.Hour}), "the same list again")
		time.Sleep(30*time.Second - 1)
		require.Equal(t, "aR bD cR dR", set(pool))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, "aR bM cR dR", set(pool), "the grace is that of the first call")
		require.Empty(t, settled)
		lease.Release(answered)
		require.NoError(t, <-settled)
		require.Equal(t, "aR cR dR", set(pool))
		require.True(t, b.Removed())
		require.Empty(t, pool.Leaving())

		require.NoError(t, r.Replace(nil, health.Drain{Grace: -1}), "an empty list drains all")
		require.NoError(t, r.Settled(t.Context()))
		require.Empty(t, pool.Members())
		require.NoError(t, r.Settled(t.Context()))
	})
}

func TestReplace_AllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		refused := errors.New("no such value")
		prepared := 0
		for name, tt := range map[string]struct {
			list    []balancer.Target
			prepare error
		}{
			"neither URL nor ID": {append(targetsOf("ac"), balancer.Target{}), nil},
			"one ID twice":       {targetsOf("aca"), nil},
			"not prepared":       {targetsOf("ac"), refused},
			"negative limit":     {[]balancer.Target{{ID: "c", URL: target("c").URL, MaxTunnels: -1}}, nil},
		} {
			r.Prepare = func([]balancer.Target) error { prepared++; return tt.prepare }
			require.Error(t, r.Replace(tt.list, health.Drain{Grace: -1}), name)
			synctest.Wait()
			require.Equal(t, "aR bR", set(pool), name)
			require.NoError(t, r.Settled(t.Context()), name)
		}
		require.Equal(t, 1, prepared, "not for a list that is refused anyway")
		require.Error(t, (&health.Registry{}).Replace(nil, health.Drain{}))
	})
}

// A codec's table needs this: Prepare gets every set of targets before the pool has it, in the same
// order.
func TestReplace_C8_PrepareSeesEverySet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("abc")...)
		r := unprobed(pool)
		var seen []string
		r.Prepare = func(targets []balancer.Target) error {
			var ids []string
			for _, target := range targets {
				ids = append(ids, target.ID)
			}
			seen = append(seen, set(pool)+" > "+strings.Join(ids, " "))
			return nil
		}
		run(t, r)
		synctest.Wait()
		unnamed := target("")
		unnamed.URL = &url.URL{Scheme: "http", Host: "d.invalid"}
		require.NoError(t, r.Replace(append(targetsOf("c"), unnamed), health.Drain{Grace: time.Minute}))
		require.NoError(t, r.Settled(t.Context()))
		require.Equal(t, "aR bR cR > a b c d.invalid:80", seen[0])
		require.Len(t, seen, 3)
		require.Regexp(t, `^(aD bD|aDD bD|a. b.) cR d.invalid:80R > [ab] c d.invalid:80$`, seen[1])
		require.Regexp(t, `^[ab]D cR d.invalid:80R > c d.invalid:80$`, seen[2])

		r.Prepare = func(targets []balancer.Target) error {
			if len(targets) == 1 {
				panic("a table that cannot be made")
			}
			return nil
		}
		require.NoError(t, r.Replace(targetsOf("c"), health.Drain{Grace: -1}))
		require.NoError(t, r.Settled(t.Context()))
		require.Equal(t, "cR", set(pool), "removed all the same")
	})
}

func TestReplace_KeepsPlacesUntilRemoved(t *testing.T) {
	for _, tt := range []struct{ before, list, want, after string }{
		{"abc", "ac", "aR bD cR", "aR cR"},
		{"abc", "bc", "aD bR cR", "bR cR"},
		{"abc", "ab", "aR bR cD", "aR bR"},
		{"abcd", "ad", "aR bD cD dR", "aR dR"},
		{"abc", "axc", "aR bD xR cR", "aR xR cR"},
		{"abc", "ca", "cR aR bD", "cR aR"},
		{"abc", "", "aD bD cD", ""},
		{"abc", "x", "aD bD cD xR", "xR"},
		{"", "ab", "aR bR", "aR bR"},
		{"abc", "ab2c", "aR bR cR", "aR bR cR"},
	} {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, targetsOf(tt.before)...)
			r := unprobed(pool)
			run(t, r)
			synctest.Wait()
			require.NoError(t, r.Replace(targetsOf(tt.list), health.Drain{}))
			require.Equal(t, tt.want, set(pool), "%s, then %s", tt.before, tt.list)
			require.NoError(t, r.Settled(t.Context()))
			require.Equal(t, tt.after, set(pool), "%s, then %s", tt.before, tt.list)
		})
	}
}

func TestReplace_LimitCutsAndSettledWaitsForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		a, lease := member(t, pool, "a"), acquire(t, pool, "a")
		require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: time.Minute, Limit: 2 * time.Minute}))
		time.Sleep(2*time.Minute - 1)
		require.Equal(t, "aM bR", set(pool))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, "bR", set(pool))
		require.Equal(t, balancer.Down, a.State().Admin)
		require.Equal(t, []*balancer.Member{a}, pool.Leaving())

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := r.Settled(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "health: 1 targets are being drained: context deadline exceeded")
		status := r.Status()
		require.Len(t, status.Targets, 1)
		require.Equal(t, 1, status.Serving)
		require.Equal(t, "a", status.Leaving[0].ID)
		require.False(t, status.Leaving[0].Serving)
		lease.Release(answered)
		require.NoError(t, r.Settled(t.Context()))
		require.Empty(t, r.Status().Leaving)
	})
}

// A new endpoint under an ID serves at once. Requests under way at the old endpoint end at the
// limit.
func TestReplace_B3_AnotherEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		old, lease := member(t, pool, "a"), acquire(t, pool, "a")
		require.NoError(t, r.Replace(targetsOf("a2b"), health.Drain{Grace: time.Hour, Limit: time.Minute}))
		require.Equal(t, "aR bR", set(pool))
		require.True(t, old.Removed())
		require.Equal(t, balancer.Moving, old.State().Admin, "at once")
		require.NotSame(t, old, member(t, pool, "a"))
		bound := acquire(t, pool, "a")
		require.NotSame(t, old, bound.Member(), "its sessions go to the new one")
		bound.Release(answered)
		time.Sleep(time.Minute - 1)
		require.Equal(t, balancer.Moving, old.State().Admin)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, balancer.Down, old.State().Admin)
		require.Len(t, r.Status().Leaving, 1)
		lease.Release(answered)
		require.NoError(t, r.Settled(t.Context()))

		// The endpoint changes back while the drain of a missing target is under way.
		lease = acquire(t, pool, "a")
		second := member(t, pool, "a")
		require.NoError(t, r.Replace(targetsOf("b"), health.Drain{}))
		require.Equal(t, "aD bR", set(pool))
		require.NoError(t, r.Replace(targetsOf("ab"), health.Drain{}))
		require.Equal(t, "aR bR", set(pool))
		require.Equal(t, balancer.Moving, second.State().Admin)
		lease.Release(answered)
		require.NoError(t, r.Settled(t.Context()))
		require.Equal(t, "aR bR", set(pool))
	})
}

// When a target is in the list again, Replace ends only a drain that it began itself.
func TestReplace_S22_LiftsOnlyItsOwn(t *testing.T) {
	minute := health.Drain{Grace: time.Minute}
	drained := func(t *testing.T, r *health.Registry, d health.Drain) {
		go r.Drain(t.Context(), "a", d)
		synctest.Wait()
	}
	tests := map[string]struct {
		before func(t *testing.T, r *health.Registry, a *balancer.Member) // the list lacks it
		while  func(t *testing.T, r *health.Registry, a *balancer.Member) // it is drained
		after  time.Duration                                              // it comes back
		want   balancer.Admin
	}{
		"its own, within the grace": {after: time.Second, want: balancer.Ready},
		"its own, after the grace":  {after: 2 * time.Minute, want: balancer.Ready},
		"drained by hand before":    {before: func(_ *testing.T, _ *health.Registry, a *balancer.Member) { a.SetAdmin(balancer.Draining) }, after: time.Second, want: balancer.Draining},
		"and taken on since":        {before: func(_ *testing.T, _ *health.Registry, a *balancer.Member) { a.SetAdmin(balancer.Draining) }, after: 2 * time.Minute, want: balancer.Draining},
		"moving by hand before":     {before: func(_ *testing.T, _ *health.Registry, a *balancer.Member) { a.SetAdmin(balancer.Moving) }, after: time.Second, want: balancer.Moving},
		"down before":               {before: func(_ *testing.T, _ *health.Registry, a *balancer.Member) { a.SetAdmin(balancer.Down) }, after: time.Second, want: balancer.Down},
		"down meanwhile":            {while: func(_ *testing.T, _ *health.Registry, a *balancer.Member) { a.SetAdmin(balancer.Down) }, after: time.Second, want: balancer.Down},
		"moving by hand meanwhile":  {while: func(_ *testing.T, _ *health.Registry, a *balancer.Member) { a.SetAdmin(balancer.Moving) }, after: time.Second, want: balancer.Moving},
		"ready by hand meanwhile":   {while: func(_ *testing.T, _ *health.Registry, a *balancer.Member) { a.SetAdmin(balancer.Ready) }, after: time.Second, want: balancer.Ready},
		"ready and draining by hand": {while: func(_ *testing.T, _ *health.Registry, a *balancer.Member) {
			a.SetAdmin(balancer.Ready)
			a.SetAdmin(balancer.Draining)
		}, after: time.Second, want: balancer.Draining},
		"an operator's drain": {before: func(t *testing.T, r *health.Registry, _ *balancer.Member) { drained(t, r, minute) }, after: time.Second, want: balancer.Draining},
		"its second step":     {before: func(t *testing.T, r *health.Registry, _ *balancer.Member) { drained(t, r, minute) }, after: 2 * time.Minute, want: balancer.Moving},
		"one that takes over": {while: func(t *testing.T, r *health.Registry, _ *balancer.Member) {
			drained(t, r, health.Drain{Grace: time.Hour})
		}, after: 2 * time.Minute, want: balancer.Draining},
		"one that takes over and ends": {while: func(t *testing.T, r *health.Registry, _ *balancer.Member) {
			drained(t, r, health.Drain{Grace: time.Second, Limit: 2 * time.Second})
		}, after: time.Second, want: balancer.Moving},
		"the button":      {while: func(_ *testing.T, r *health.Registry, _ *balancer.Member) { press(r, "/", "a", "drain") }, after: 2 * time.Minute, want: balancer.Draining},
		"the button down": {while: func(_ *testing.T, r *health.Registry, _ *balancer.Member) { press(r, "/", "a", "down") }, after: 2 * time.Minute, want: balancer.Down},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, targetsOf("ab")...)
				r := unprobed(pool)
				stop := start(t, r)
				defer stop()
				synctest.Wait()
				a, lease := member(t, pool, "a"), acquire(t, pool, "a")
				if tt.before != nil {
					tt.before(t, r, a)
				}
				require.NoError(t, r.Replace(targetsOf("b"), minute))
				synctest.Wait()
				if tt.while != nil {
					tt.while(t, r, a)
				}
				time.Sleep(tt.after)
				synctest.Wait()
				require.NoError(t, r.Replace(targetsOf("ab"), minute))
				require.Equal(t, tt.want, a.State().Admin, "at once")
				require.Same(t, a, member(t, pool, "a"))
				require.NoError(t, r.Settled(t.Context()), "nothing is missing")
				synctest.Wait()
				require.Equal(t, tt.want, a.State().Admin)
				stop()
				lease.Release(answered)
			})
		})
	}
}

// If a target is missing from the list for a moment, it keeps the state that an operator set, even
// if it was removed meanwhile.
func TestReplace_S22_OperatorsStateOutlivesTheRemoval(t *testing.T) {
	for _, tt := range []struct {
		back string
		gap  time.Duration
		want string
	}{
		{"ab", 50 * time.Millisecond, "aD bR"},
		{"ab", 5 * time.Minute, "aD bR"},
		{"ab", 5*time.Minute + 1, "aR bR"},
		{"a2b", 50 * time.Millisecond, "aR bR"}, // another endpoint serves
	} {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, targetsOf("ab")...)
			r := unprobed(pool)
			run(t, r)
			synctest.Wait()
			member(t, pool, "a").SetAdmin(balancer.Down)
			for range 3 {
				require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: -1}))
				require.NoError(t, r.Settled(t.Context()))
				require.Equal(t, "bR", set(pool))
				time.Sleep(tt.gap)
				require.NoError(t, r.Replace(targetsOf(tt.back), health.Drain{Grace: -1}))
				require.Equal(t, tt.want, set(pool), tt)
			}
		})
	}
}

// The same is true if the target returns with a ServerName that equals the host of its URL, because
// it is the same endpoint.
func TestReplace_S22_OperatorsStateOutlivesASpelling(t *testing.T) {
	u := &url.URL{Scheme: "https", Host: "a.invalid"}
	spellings := []balancer.Target{{ID: "a", URL: u}, {ID: "a", URL: u, ServerName: "a.invalid"}}
	for i, before := range spellings {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, before, target("b"))
			r := unprobed(pool)
			run(t, r)
			synctest.Wait()
			member(t, pool, "a").SetAdmin(balancer.Down)
			require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: -1}))
			require.NoError(t, r.Settled(t.Context()))
			require.Equal(t, "bR", set(pool))
			require.NoError(t, r.Replace([]balancer.Target{spellings[1-i], target("b")}, health.Drain{}))
			require.Equal(t, "aD bR", set(pool))
		})
	}
}

// A missing target that an operator makes ready serves until the next call.
func TestReplace_S22_ReadyAlthoughMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		require.NoError(t, r.Replace(targetsOf("b"), health.Drain{}))
		member(t, pool, "a").SetAdmin(balancer.Ready)
		require.NoError(t, r.Settled(t.Context()))
		time.Sleep(time.Hour)
		require.Equal(t, "aR bR", set(pool))
		require.NoError(t, r.Replace(targetsOf("b"), health.Drain{}))
		require.NoError(t, r.Settled(t.Context()))
		require.Equal(t, "bR", set(pool))
	})
}

// Replace waits for an operator's drain of a missing target, and then removes the target.
func TestReplace_S22_WaitsForAnOperatorsDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		began, lease := time.Now(), acquire(t, pool, "a")
		require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: time.Minute}))
		drained := make(chan error, 1)
		go func() { drained <- r.Drain(t.Context(), "a", health.Drain{Grace: time.Hour, Limit: 2 * time.Hour}) }()
		synctest.Wait()
		require.False(t, r.Status().Targets[0].Drain.Missing)
		require.ErrorIs(t, r.Drain(t.Context(), "a", health.Drain{}), health.ErrDraining)
		require.ErrorIs(t, <-drained, context.DeadlineExceeded)
		synctest.Wait()
		require.Equal(t, 2*time.Hour, time.Since(began))
		require.Equal(t, "bR", set(pool))
		lease.Release(answered)
		require.NoError(t, r.Settled(t.Context()))
	})
}

func TestReplace_WithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("abc")...)
		r := unprobed(pool)
		require.NoError(t, r.Settled(t.Context()), "there is nothing to wait for")
		lease := acquire(t, pool, "b")
		require.NoError(t, r.Replace(targetsOf("c"), health.Drain{Grace: time.Minute}))
		require.Equal(t, "aD bD cR", set(pool))
		require.ErrorIs(t, r.Settled(t.Context()), health.ErrNotRunning)
		time.Sleep(time.Hour)
		require.Equal(t, "aD bD cR", set(pool))

		stop := start(t, r)
		synctest.Wait()
		require.Equal(t, "bM cR", set(pool), "the graces are over")
		settled := make(chan error, 1)
		go func() { settled <- r.Settled(t.Context()) }()
		synctest.Wait()
		stop()
		err := <-settled
		require.ErrorIs(t, err, health.ErrNotRunning)
		require.EqualError(t, err, "health: the registry is not running any more: 1 targets are to be drained")
		require.Equal(t, "bM cR", set(pool), "it stays as it is")
		require.NoError(t, r.Replace(targetsOf("ac"), health.Drain{Grace: time.Minute}))
		require.Equal(t, "bM aR cR", set(pool))

		run(t, r)
		synctest.Wait()
		lease.Release(answered)
		require.NoError(t, r.Settled(t.Context()))
		require.Equal(t, "aR cR", set(pool))
	})
}

// After a list that flaps, no goroutine, task or member is left, and every drain has ended.
func TestReplace_FlappingLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("abcd")...)
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		kept := acquire(t, pool, "a")
		began := time.Now()
		for i := range 4000 { // c comes and goes, d changes its endpoint, b is missing all the while
			word := "ad" + strconv.Itoa(i%10)
			if i%2 == 0 {
				word = "ac" + word[1:]
			}
			require.NoError(t, r.Replace(targetsOf(word), health.Drain{Grace: time.Minute}))
			lease := acquire(t, pool, "d")
			lease.Release(answered)
			time.Sleep(50 * time.Millisecond)
			if i == 1000 {
				require.Less(t, goroutinesOf("Registry).retire"), 10)
				require.Greater(t, time.Since(began), 50*time.Second)
			}
		}
		require.NotContains(t, set(pool), "b", "its grace was not begun anew")
		require.Contains(t, set(pool), "c")
		require.EqualValues(t, 1, member(t, pool, "a").Load())
		require.Empty(t, pool.Leaving())
		require.NoError(t, r.Replace(targetsOf("a"), health.Drain{Grace: -1}))
		require.NoError(t, r.Settled(t.Context()))
		require.Equal(t, "aR", set(pool))
		kept.Release(answered)
	})
}

// goroutinesOf counts the goroutines that are in a function of that name.
func goroutinesOf(name string) int { return strings.Count(allStacks(), name) }

// A list without a target takes the target out again, even if an operator has just made it ready
// and the drain's goroutine has not noticed that yet.
func TestReplace_S22_TheNextListAfterReady(t *testing.T) {
	tests := map[string]func(t *testing.T, r *health.Registry){
		"a drain of Replace's": func(*testing.T, *health.Registry) {},
		"an operator's drain": func(t *testing.T, r *health.Registry) {
			cancelled := make(chan error, 1)
			go func() { cancelled <- r.Drain(t.Context(), "a", health.Drain{}) }()
			synctest.Wait()
			t.Cleanup(func() { require.ErrorIs(t, <-cancelled, health.ErrDrainCancelled) })
		},
	}
	for name, begin := range tests {
		synctest.Test(t, func(t *testing.T) {
			pool := newPool(t, targetsOf("ab")...)
			r := unprobed(pool)
			run(t, r)
			synctest.Wait()
			a := member(t, pool, "a")
			lease := acquire(t, pool, "a")
			require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: time.Minute}))
			begin(t, r)
			synctest.Wait()
			for range 3 {
				a.SetAdmin(balancer.Ready)
				require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: time.Minute}))
				synctest.Wait()
				require.Equal(t, balancer.Draining, a.State().Admin, name)
			}
			a.SetAdmin(balancer.Ready)
			synctest.Wait()
			require.Equal(t, "aR bR", set(pool), "until the next list")
			require.NoError(t, r.Settled(t.Context()))
			require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: time.Minute}))
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, "aM bR", set(pool))
			lease.Release(answered)
			require.NoError(t, r.Settled(t.Context()))
			require.Equal(t, "bR", set(pool))
		})
	}
}

// A new drain can begin before the goroutine of a cancelled drain has noticed its end.
func TestDrain_S22_AgainAfterReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := unprobed(pool)
		a := member(t, pool, "a")
		lease := acquire(t, pool, "a")
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- r.Drain(t.Context(), "a", health.Drain{}) }()
		synctest.Wait()
		require.ErrorIs(t, r.Drain(t.Context(), "a", health.Drain{}), health.ErrDraining)
		a.SetAdmin(balancer.Ready)
		go func() { second <- r.Drain(t.Context(), "a", health.Drain{Grace: time.Second}) }()
		require.ErrorIs(t, <-first, health.ErrDrainCancelled)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, balancer.Moving, a.State().Admin)
		lease.Release(answered)
		require.NoError(t, <-second)
		require.Equal(t, balancer.Down, a.State().Admin)
	})
}

// A target with a ServerName that equals the host of its URL is the same endpoint as one without.
func TestReplace_B3_OperatorsStateOutlivesAnotherSpelling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := balancer.Target{ID: "a", URL: &url.URL{Scheme: "https", Host: "a.invalid"}}
		named := a
		named.ServerName = "A.invalid."
		pool := newPool(t, a, target("b"))
		r := unprobed(pool)
		run(t, r)
		synctest.Wait()
		member(t, pool, "a").SetAdmin(balancer.Down)
		for _, back := range []balancer.Target{named, a, named} {
			require.NoError(t, r.Replace(targetsOf("b"), health.Drain{Grace: -1}))
			require.NoError(t, r.Settled(t.Context()))
			require.Equal(t, "bR", set(pool))
			require.NoError(t, r.Replace([]balancer.Target{back, target("b")}, health.Drain{Grace: -1}))
			require.Equal(t, "aD bR", set(pool))
		}
	})
}

// The cost of a list with only new targets is about proportional to their number.
func BenchmarkRegistryReplace(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			var lists [2][]balancer.Target
			for i := range 2 * n {
				lists[i%2] = append(lists[i%2], target(strconv.Itoa(i)))
			}
			r := unprobed(newPool(b, lists[1]...))
			run(b, r)
			require.NoError(b, r.Ready(b.Context()))
			for i := 0; b.Loop(); i++ {
				require.NoError(b, r.Replace(lists[i%2], health.Drain{Grace: -1}))
				require.NoError(b, r.Settled(b.Context()))
			}
		})
	}
}
