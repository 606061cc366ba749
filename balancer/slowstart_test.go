package balancer_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// weightsOf returns the effective weight of each member that takes new sessions.
func weightsOf(t *testing.T, p *balancer.Pool, s *spy) map[string]int {
	pick(t, p, &balancer.Request{}) // publishes
	snap := s.rebuilt()[len(s.rebuilt())-1]
	w := map[string]int{}
	for i, m := range snap.Members() {
		w[m.ID()] = snap.Weights()[i]
	}
	return w
}

func TestPool_B2_SlowStartInSixteenSteps(t *testing.T) {
	const window = 16 * time.Second
	synctest.Test(t, func(t *testing.T) {
		var s spy
		p := newPool(t, balancer.Config{Picker: &s, SlowStart: window, Targets: targets(2)})
		require.Equal(t, map[string]int{"t00": 16, "t01": 16}, weightsOf(t, p, &s), "all are new: skipped")

		ts := targets(4)
		ts[2].Weight = 3
		require.NoError(t, p.Update(ts...))
		for step := 1; step <= 16; step++ {
			want := map[string]int{"t00": 16, "t01": 16, "t02": 3 * step, "t03": step}
			require.Equal(t, want, weightsOf(t, p, &s))
			time.Sleep(window/16 - 1)
			require.Equal(t, want, weightsOf(t, p, &s), "to the end of the step")
			time.Sleep(time.Nanosecond)
			synctest.Wait()
		}
		require.Equal(t, map[string]int{"t00": 16, "t01": 16, "t02": 48, "t03": 16}, weightsOf(t, p, &s))
		n := len(s.rebuilt())
		time.Sleep(time.Hour)
		pick(t, p, &balancer.Request{})
		require.Len(t, s.rebuilt(), n, "nothing is pending any more")
	})
}

// What happens to others, and updates, neither restart nor end a slow start.
func TestPool_B2_SlowStartGoesOnThroughUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spy
		p := newPool(t, balancer.Config{Picker: &s, SlowStart: 16 * time.Second, Targets: targets(1)})
		require.NoError(t, p.Update(targets(2)...))
		time.Sleep(4 * time.Second)
		synctest.Wait()
		require.Equal(t, map[string]int{"t00": 16, "t01": 5}, weightsOf(t, p, &s))

		ts := targets(3)
		ts[1].Weight, ts[1].Zone, ts[1].MaxRequests = 2, "z", 100
		require.NoError(t, p.Update(ts...))
		require.Equal(t, map[string]int{"t00": 16, "t01": 10, "t02": 1}, weightsOf(t, p, &s))
		time.Sleep(4 * time.Second)
		synctest.Wait()
		require.Equal(t, map[string]int{"t00": 16, "t01": 18, "t02": 5}, weightsOf(t, p, &s))

		member(t, p, "t00").SetHealth(balancer.Healthy)
		member(t, p, "t01").SetHealth(balancer.Healthy)
		member(t, p, "t02").SetHealth(balancer.Healthy)
		member(t, p, "t01").SetAdmin(balancer.Draining) // serves who is bound
		member(t, p, "t01").SetAdmin(balancer.Ready)
		require.Equal(t, map[string]int{"t00": 16, "t01": 18, "t02": 5}, weightsOf(t, p, &s))
		time.Sleep(8 * time.Second)
		synctest.Wait()
		require.Equal(t, map[string]int{"t00": 16, "t01": 32, "t02": 13}, weightsOf(t, p, &s))
	})
}

// Constant changes delay neither the steps nor the end of a slow start.
func TestPool_B2_SlowStartAmongManyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spy
		p := newPool(t, balancer.Config{Picker: &s, SlowStart: 16 * time.Second, Targets: targets(1)})
		require.NoError(t, p.Update(targets(3)...))
		for i := range 200 {
			member(t, p, "t02").SetAdmin(balancer.Admin(i % 2)) // ready, draining
			time.Sleep(100 * time.Millisecond)
		}
		member(t, p, "t00").SetAdmin(balancer.Down)
		member(t, p, "t02").SetAdmin(balancer.Down)
		require.NoError(t, p.Update(targets(4)...))
		require.Equal(t, map[string]int{"t01": 16, "t03": 1}, weightsOf(t, p, &s), "t01 is past its slow start")
	})
}

func TestPool_B2_SlowStartOnRecovery(t *testing.T) {
	recoveries := map[string]struct{ away, back func(m *balancer.Member) }{
		"unhealthy": {
			func(m *balancer.Member) { m.SetHealth(balancer.Unhealthy) },
			func(m *balancer.Member) { m.SetHealth(balancer.HealthUnknown) },
		},
		"reserved": {
			func(m *balancer.Member) { m.SetHealth(balancer.Reserved) },
			func(m *balancer.Member) { m.SetHealth(balancer.HealthUnknown) },
		},
		"down": {
			func(m *balancer.Member) { m.SetAdmin(balancer.Down) },
			func(m *balancer.Member) { m.SetAdmin(balancer.Ready) },
		},
		"moving": {
			func(m *balancer.Member) { m.SetAdmin(balancer.Moving) },
			func(m *balancer.Member) { m.SetAdmin(balancer.Draining); m.SetAdmin(balancer.Ready) },
		},
		"ejected": {
			func(m *balancer.Member) { m.Eject(time.Now().Add(time.Second)) },
			func(*balancer.Member) { time.Sleep(time.Second); synctest.Wait() },
		},
		"ejected and called back": {
			func(m *balancer.Member) { m.Eject(time.Now().Add(time.Hour)) },
			func(m *balancer.Member) { m.Eject(time.Time{}) },
		},
	}
	for name, r := range recoveries {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s spy
				p := newPool(t, balancer.Config{Picker: &s, SlowStart: 16 * time.Second, Targets: targets(2)})
				m := member(t, p, "t01")
				r.away(m)
				require.Equal(t, map[string]int{"t00": 16}, weightsOf(t, p, &s))
				r.back(m)
				require.Equal(t, map[string]int{"t00": 16, "t01": 1}, weightsOf(t, p, &s))
				time.Sleep(3 * time.Second)
				r.away(m)
				r.back(m)
				require.Equal(t, 1, weightsOf(t, p, &s)["t01"], "it begins anew")
				time.Sleep(15 * time.Second)
				synctest.Wait()
				require.Equal(t, map[string]int{"t00": 16, "t01": 16}, weightsOf(t, p, &s))
			})
		})
	}
}

// After an outage of all targets, the first one that returns serves with its whole weight. The next
// ones start slowly.
func TestPool_B2_SlowStartSkippedWithoutOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spy
		p := newPool(t, balancer.Config{Picker: &s, SlowStart: 16 * time.Second, Targets: targets(3)})
		for _, m := range p.Members() {
			m.SetHealth(balancer.Unhealthy)
		}
		member(t, p, "t02").SetHealth(balancer.Healthy)
		require.Equal(t, map[string]int{"t02": 16}, weightsOf(t, p, &s))
		member(t, p, "t00").SetHealth(balancer.Healthy)
		require.Equal(t, map[string]int{"t00": 1, "t02": 16}, weightsOf(t, p, &s))

		// A target in its slow start does not make another one start slowly.
		member(t, p, "t02").SetHealth(balancer.Unhealthy)
		member(t, p, "t01").SetHealth(balancer.Healthy)
		require.Equal(t, map[string]int{"t00": 1, "t01": 16}, weightsOf(t, p, &s))

		// A target that was in its slow start gets its whole weight if no other target serves when
		// it returns.
		member(t, p, "t00").SetHealth(balancer.Unhealthy)
		member(t, p, "t01").SetHealth(balancer.Unhealthy)
		member(t, p, "t00").SetHealth(balancer.Healthy)
		require.Equal(t, map[string]int{"t00": 16}, weightsOf(t, p, &s))

		// Targets that leave, or that take no new sessions, do not count as other targets.
		ts := targets(3)
		ts[0].Weight = -1
		require.NoError(t, p.Update(ts[0], target("new")))
		require.Equal(t, map[string]int{"new": 16}, weightsOf(t, p, &s))
		require.NoError(t, p.Update(target("x"), target("y")))
		require.Equal(t, map[string]int{"x": 16, "y": 16}, weightsOf(t, p, &s))
	})
}

func TestPool_B2_NoSlowStartByDefault(t *testing.T) {
	var s spy
	p := newPool(t, balancer.Config{Picker: &s, Targets: targets(1)})
	require.NoError(t, p.Update(targets(2)...))
	require.Equal(t, map[string]int{"t00": 16, "t01": 16}, weightsOf(t, p, &s))
}

// Shares follow the steps in every picker but the hash pickers and First.
func TestPicker_B2_SlowStartShares(t *testing.T) {
	heeds := map[string]bool{"least": true, "round robin": true, "random": true, "two choices": true, "latency": true}
	each(t, func(t *testing.T, picker balancer.Picker) {
		name := t.Name()[len("TestPicker_B2_SlowStartShares/"):]
		if name == "first" {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: picker, SlowStart: 16 * time.Second, Targets: targets(1)})
			require.NoError(t, p.Update(targets(2)...))
			time.Sleep(3 * time.Second)
			synctest.Wait()
			want := 0.5
			if heeds[name] || heeds[map[string]string{"round_robin": "round robin", "two_choices": "two choices"}[name]] {
				want = 4. / 20
			}
			const n = 20_000
			require.InDelta(t, want, float64(picks(t, p, n)["t01"])/n, 0.02)
		})
	})
}

// Members that started at different moments take their steps together, so that there is not a new
// snapshot for each of them.
func TestPool_B2_SlowStartStepsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spy
		p := newPool(t, balancer.Config{Picker: &s, SlowStart: 16 * time.Second, Targets: targets(1)})
		for i := range 50 {
			require.NoError(t, p.Update(targets(2+i)...))
			time.Sleep(10 * time.Millisecond)
		}
		n := len(s.rebuilt())
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		for ctx.Err() == nil {
			pick(t, p, &balancer.Request{})
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, len(s.rebuilt())-n, 8*4+1)
		w := weightsOf(t, p, &s)
		for i := range 50 {
			require.InDelta(t, 9, w[fmt.Sprintf("t%02d", i+1)], 1)
		}
	})
}
