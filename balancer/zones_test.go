package balancer_test

import (
	"strings"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// zoned returns two targets in zone a and two in zone b.
func zoned() []balancer.Target {
	ts := targets(4)
	for i := range ts {
		ts[i].Zone = []string{"a", "a", "b", "b"}[i]
	}
	return ts
}

func TestPool_B7_OneZone(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		_, first := picker.(balancer.First)
		want := func(ids ...string) []string {
			if first {
				return ids[:1]
			}
			return ids
		}
		p := newPool(t, balancer.Config{Picker: picker, Zone: "b", OneZone: true, Targets: zoned()})
		require.Equal(t, want("t02", "t03"), keys(picks(t, p, 500)))

		member(t, p, "t02").SetAdmin(balancer.Draining)
		require.Equal(t, want("t03"), keys(picks(t, p, 500)))
		member(t, p, "t03").SetHealth(balancer.Unhealthy)
		require.Equal(t, want("t00", "t01"), keys(picks(t, p, 500)), "the zone is empty")
		member(t, p, "t03").SetHealth(balancer.HealthUnknown)
		require.Equal(t, want("t03"), keys(picks(t, p, 500)))

		l := bound(t, p, "t00") // bound sessions cross zones
		l.Release(balancer.Outcome{})

		q := &balancer.Request{Key: "x", Client: client(3)}
		q.Exclude(member(t, p, "t03"))
		require.Contains(t, []string{"t00", "t01"}, pick(t, p, q), "the request failed in the zone")
	})
}

func TestPool_B7_SpillsOverWhenTheZoneIsFull(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		ts := zoned()
		for i := range ts {
			ts[i].MaxRequests = 1
		}
		p := newPool(t, balancer.Config{Picker: picker, Zone: "b", OneZone: true, Targets: ts})
		var zones strings.Builder
		var last balancer.Lease
		for range 4 {
			last = acquire(t, p, &balancer.Request{Key: "x", Client: client(1)})
			zones.WriteString(last.Member().Target().Zone)
		}
		require.Equal(t, "bbaa", zones.String())
		_, err := p.Acquire(t.Context(), &balancer.Request{})
		require.ErrorIs(t, err, balancer.ErrFull)
	})
}

// ForZones replaces the target's own zone. A change of ForZones keeps the member.
func TestPool_B7_ForZones(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		want := func(ids ...string) []string {
			if _, first := picker.(balancer.First); first {
				return ids[:1]
			}
			return ids
		}
		ts := zoned()
		ts[0].ForZones = []string{"a", "b"}
		ts[3].ForZones = []string{"a"}
		p := newPool(t, balancer.Config{Picker: picker, Zone: "b", OneZone: true, Targets: ts})
		require.Equal(t, want("t00", "t02"), keys(picks(t, p, 500)))
		was := member(t, p, "t00")
		was.Target().ForZones[0] = "x"
		ts[0].ForZones[1] = "x" // the pool has a copy
		require.Equal(t, []string{"a", "b"}, was.Target().ForZones)

		ts[0].ForZones = nil
		ts[3].ForZones = []string{}
		require.NoError(t, p.Update(ts...))
		require.Equal(t, want("t02", "t03"), keys(picks(t, p, 500)))
		require.Same(t, was, member(t, p, "t00"))
		require.Nil(t, member(t, p, "t03").Target().ForZones)
	})
}

func TestPool_B7_AllZonesByDefault(t *testing.T) {
	p := newPool(t, balancer.Config{Zone: "b", Targets: zoned()})
	require.Len(t, picks(t, p, 500), 4)
}

// A zone of which no target is left in the best tier does not keep picks from the others.
func TestPool_B7_TierBeforeZone(t *testing.T) {
	p := newPool(t, balancer.Config{Zone: "b", OneZone: true, Targets: zoned()})
	member(t, p, "t01").SetHealth(balancer.Healthy)
	require.Equal(t, []string{"t01"}, keys(picks(t, p, 100)))
}

func TestSnapshot_Local(t *testing.T) {
	for _, oneZone := range []bool{false, true} {
		var s spy
		p := newPool(t, balancer.Config{Picker: &s, Zone: "b", OneZone: oneZone, Targets: zoned()})
		pick(t, p, &balancer.Request{})
		snap := s.rebuilt()[0]
		require.Equal(t, p.Members(), snap.Members())
		if !oneZone {
			require.Same(t, snap, snap.Local())
			continue
		}
		require.Equal(t, p.Members()[2:], snap.Local().Members())
		require.Equal(t, []int{16, 16}, snap.Local().Weights())
		require.Same(t, snap.Local(), snap.Local().Local())

		require.NoError(t, p.Update(zoned()[2:]...))
		pick(t, p, &balancer.Request{})
		snap = s.rebuilt()[1]
		require.Same(t, snap, snap.Local(), "all are in the zone")
	}
}
