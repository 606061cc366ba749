package health_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// brief returns the events in the channel, one in each line.
func brief(events <-chan health.Event) string {
	var lines []string
	for {
		select {
		case e := <-events:
			line := e.Kind.String() + ": " + e.Target
			if e.Zone != "" {
				line += "@" + e.Zone
			}
			switch e.Kind {
			case health.HealthChanged:
				line += " " + e.State.Health.String()
			case health.AdminChanged:
				line += " " + e.State.Admin.String()
			}
			if e.Reason != "" {
				line += " (" + e.Reason + ")"
			}
			lines = append(lines, line)
		default:
			return strings.Join(lines, "\n")
		}
	}
}

func inZone(id, zone string) balancer.Target {
	tg := target(id)
	tg.Zone = zone
	return tg
}

func TestEvents_EveryChangeInItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		var sick atomic.Bool
		r := &health.Registry{Pool: pool, Interval: time.Second, Fall: 1, Rise: 1, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			if sick.Load() && tg.ID == "a" {
				return errSick
			}
			return nil
		})}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		synctest.Wait()
		require.ElementsMatch(t, []string{"target health changed: a healthy", "target health changed: b healthy"}, strings.Split(brief(events), "\n"))

		sick.Store(true)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, "target health changed: a unhealthy (sick)", brief(events))
		sick.Store(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, "target health changed: a healthy", brief(events))

		for range 5 {
			finish(t, pool, "b", refused)
		}
		require.Equal(t, "target ejected: b (5 failures in a row, the last one: connection refused)", brief(events))
		time.Sleep(31 * time.Second)
		synctest.Wait()
		require.Equal(t, "target returned from ejection: b", brief(events))

		member(t, pool, "b").Eject(time.Now().Add(time.Minute))
		member(t, pool, "b").Eject(time.Now().Add(2 * time.Minute))
		require.Len(t, events, 2, "one that is prolonged is told again")
		member(t, pool, "b").Eject(time.Time{})
		brief(events)

		require.NoError(t, r.Drain(t.Context(), "b", health.Drain{Grace: time.Second}))
		require.Equal(t, "target admin state changed: b draining\ntarget admin state changed: b moving (the grace of its drain is over)\n"+
			"target admin state changed: b down (drained, nothing is in flight)", brief(events))

		require.NoError(t, pool.Update(target("a"), target("c")))
		synctest.Wait()
		require.Equal(t, "target removed: b\ntarget added: c\ntarget health changed: c healthy", brief(events))

		require.NoError(t, pool.Update(target("a"), target("c"))) // an equal set
		synctest.Wait()
		require.Empty(t, brief(events))
	})
}

// The states at the beginning of a run cause no events. Later changes do.
func TestEvents_ARunBeginsWithoutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		member(t, pool, "a").Eject(time.Now().Add(time.Minute))
		member(t, pool, "a").SetHealth(balancer.Healthy)
		member(t, pool, "b").SetAdmin(balancer.Draining)
		r := &health.Registry{Pool: pool, Interval: -1}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		synctest.Wait()
		require.Empty(t, brief(events))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, "target returned from ejection: a", brief(events))
	})
}

// The reason of a failed check is not the reason of a target that was set healthy by hand.
func TestEvents_HealthSetByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := &health.Registry{Pool: pool, Check: &script{letters: "F"}}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		member(t, pool, "a").SetHealth(balancer.Healthy)
		require.Equal(t, "target health changed: a unhealthy (sick)\ntarget health changed: a healthy", brief(events))
	})
}

func TestEvents_B7_ZoneWithoutAHealthyTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, inZone("a1", "a"), inZone("a2", "a"), inZone("b1", "b"), target("free"))
		r := &health.Registry{Pool: pool, Interval: -1}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		zones := func() string {
			synctest.Wait()
			var lines []string
			for line := range strings.SplitSeq(brief(events), "\n") {
				if strings.HasPrefix(line, "zone") {
					lines = append(lines, line)
				}
			}
			return strings.Join(lines, "\n")
		}
		const lostA, backA = "zone has no healthy target: @a", "zone has a healthy target again: @a"
		set := func(id string, h balancer.Health) { member(t, pool, id).SetHealth(h) }

		set("a1", balancer.Unhealthy)
		require.Empty(t, zones(), "one is left")
		set("a2", balancer.Unhealthy)
		require.Equal(t, lostA, zones())
		require.Equal(t, []string{"Zone a has no target that can take new sessions."}, r.Status().Notes)
		require.Equal(t, []health.ZoneStatus{{Name: "a", Targets: 2, Serving: 0}, {Name: "b", Targets: 1, Serving: 1}}, r.Status().Zones)
		set("a1", balancer.HealthUnknown)
		require.Equal(t, backA, zones(), "unknown ones are used")
		set("a2", balancer.Healthy)
		require.Empty(t, zones())

		// These are all ways to lose the last target that serves.
		set("a2", balancer.Unhealthy)
		member(t, pool, "a1").SetAdmin(balancer.Draining)
		require.Equal(t, lostA, zones())
		member(t, pool, "a1").SetAdmin(balancer.Ready)
		require.Equal(t, backA, zones())
		member(t, pool, "a1").Eject(time.Now().Add(time.Minute))
		require.Equal(t, lostA, zones())
		time.Sleep(time.Minute)
		require.Equal(t, backA, zones())
		require.NoError(t, pool.Update(inZone("a2", "a"), inZone("b1", "b")))
		require.Equal(t, lostA, zones())
		require.NoError(t, pool.Update(inZone("a2", "a"), inZone("b1", "b"), inZone("a3", "a")))
		require.Equal(t, backA, zones())

		// There is no event for a zone whose targets are all removed, nor for targets without a
		// zone.
		require.NoError(t, pool.Update(inZone("b1", "b"), target("free")))
		require.Empty(t, zones())
		set("free", balancer.Unhealthy)
		require.Empty(t, zones())
		set("b1", balancer.Unhealthy)
		require.Equal(t, "zone has no healthy target: @b", zones())
		require.NoError(t, pool.Update(target("free")))
		require.NoError(t, pool.Update(inZone("b1", "b"), target("free")))
		require.Empty(t, zones(), "one that comes anew was not lost")
		set("b1", balancer.Unhealthy)
		require.Equal(t, "zone has no healthy target: @b", zones())
		require.Equal(t, []string{"No target can take new sessions.", "Zone b has no target that can take new sessions."}, r.Status().Notes)
	})
}

// An update can change the zone or the weight of a target without a change of its state. The next
// check notices that.
func TestEvents_B7_ZonesFollowUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, inZone("a1", "a"), inZone("a2", "a"))
		r := &health.Registry{Pool: pool, Check: health.Func(func(context.Context, balancer.Target) error { return nil })}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		synctest.Wait()
		brief(events)
		mute := inZone("a1", "a")
		mute.Weight = -1
		require.NoError(t, pool.Update(mute, inZone("a2", "b")))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Equal(t, "zone has no healthy target: @a", brief(events))
		require.Equal(t, []health.ZoneStatus{{Name: "a", Targets: 1}, {Name: "b", Targets: 1, Serving: 1}}, r.Status().Zones)
	})
}

func TestSubscribe_SlowOnesDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := &health.Registry{Pool: pool, Interval: -1}
		slow, stopSlow := r.Subscribe(0) // room for one
		quick, stopQuick := r.Subscribe(100)
		defer stopQuick()
		run(t, r)
		synctest.Wait()
		a := member(t, pool, "a")
		for range 5 {
			a.SetAdmin(balancer.Down)
			a.SetAdmin(balancer.Ready)
		}
		for range 10 {
			require.Zero(t, (<-quick).Missed)
		}
		require.Zero(t, (<-slow).Missed)
		require.Empty(t, slow)
		a.SetAdmin(balancer.Down)
		e := <-slow
		require.Equal(t, 9, e.Missed)
		require.Equal(t, balancer.Down, e.State.Admin)
		require.Equal(t, time.Now(), e.Time)
		a.SetAdmin(balancer.Ready)
		require.Zero(t, (<-slow).Missed, "told once")

		stopSlow()
		stopSlow()
		a.SetAdmin(balancer.Down)
		_, open := <-slow
		require.False(t, open)
	})
}

func TestRegistry_LogsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		pool := newPool(t, inZone("a", "z"))
		r := &health.Registry{
			Pool: pool, Check: &script{letters: "F"},
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})),
		}
		stop := start(t, r)
		synctest.Wait()
		member(t, pool, "a").SetAdmin(balancer.Down)
		stop()
		require.Equal(t, `level=INFO msg="health: target health changed" target=a zone=z health=unhealthy reason=sick
level=INFO msg="health: zone has no healthy target" zone=z
level=INFO msg="health: target admin state changed" target=a zone=z admin=down
`, log.String())
	})
}

// A log that blocks delays neither checks nor requests. Afterwards it says how many events it has
// missed.
func TestRegistry_AStuckLogDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		h := &stuckHandler{release: make(chan struct{})}
		r := &health.Registry{Pool: pool, Interval: time.Second, Check: &script{letters: "P"}, Logger: slog.New(h)}
		stop := start(t, r)
		synctest.Wait()
		a := member(t, pool, "a")
		for range 5000 {
			a.SetAdmin(balancer.Down)
			a.SetAdmin(balancer.Ready)
		}
		for range 5 {
			finish(t, pool, "a", refused)
		}
		require.True(t, ejected(t, pool, "a"))
		time.Sleep(10 * time.Second)
		require.Greater(t, r.Status().Targets[1].Check.Total, int64(8))
		close(h.release)
		synctest.Wait()
		a.SetAdmin(balancer.Draining)
		stop()
		require.Positive(t, h.missed)
	})
}

// A process may have thousands of pools, such as one for each virtual host. What a registry holds
// while nothing happens is a few kilobytes for each target.
func TestRegistry_TakesLittleMemoryForAQuietPool(t *testing.T) {
	const registries, limit = 64, 64 << 10
	used := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc + m.StackInuse)
	}
	before := used()
	for range registries {
		r := &health.Registry{Pool: newPool(t, target("a"), target("b")), Interval: -1}
		t.Cleanup(start(t, r))
		require.Eventually(t, func() bool { return r.Status().Running }, time.Minute, time.Millisecond)
	}
	require.Less(t, (used()-before)/registries, limit)
}

type stuckHandler struct {
	slog.Handler
	release chan struct{}
	missed  int64
}

func (h *stuckHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *stuckHandler) Handle(_ context.Context, rec slog.Record) error {
	<-h.release
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == "missed" {
			h.missed += a.Value.Int64()
		}
		return true
	})
	return nil
}

func TestEventKind_String(t *testing.T) {
	seen := map[string]bool{}
	for k := health.TargetAdded; k <= health.ZoneBack; k++ {
		require.False(t, seen[k.String()])
		require.NotContains(t, k.String(), "EventKind")
		seen[k.String()] = true
	}
	require.Equal(t, "EventKind(0)", fmt.Sprint(health.EventKind(0)))
}
