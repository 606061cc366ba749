package balancer_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/balancertest"
	"github.com/stretchr/testify/require"
)

// labelled returns targets of those weights, of which every third one is a canary.
func labelled(weights ...int) []balancer.Target {
	ts := weighted(weights...)
	for i := range ts {
		ts[i].Labels = map[string]string{"track": []string{"canary", "stable", "stable"}[i%3]}
	}
	return ts
}

func isCanary(m *balancer.Member) bool { return m.Label("track") == "canary" }

// canarySplit returns a split that sends a request to the canaries if its Key is "canary".
func canarySplit(newPicker func() balancer.Picker) *balancer.Split {
	return &balancer.Split{
		When:   func(q *balancer.Request) bool { return q.Key == "canary" },
		Where:  isCanary,
		Picker: newPicker(), Rest: newPicker(),
	}
}

func TestSnapshot_B2_Where(t *testing.T) {
	var s spy
	ts := labelled(3, 1, 4, 1, 5)
	for i := range ts {
		ts[i].Zone = []string{"a", "b"}[i%2]
	}
	ts = append(ts, labelled(1, 1)...)
	ts[5].ID, ts[5].Backup, ts[6].ID, ts[6].Backup = "spare0", true, "spare1", true
	p := newPool(t, balancer.Config{Picker: &s, Zone: "b", OneZone: true, Targets: ts})
	pick(t, p, &balancer.Request{})
	whole := s.rebuilt()[len(s.rebuilt())-1]

	canaries := whole.Where(isCanary)
	require.Equal(t, []string{"t00", "t03"}, idsOf(canaries))
	require.Equal(t, []int{3 * 16, 16}, canaries.Weights())
	require.Equal(t, []string{"t03"}, idsOf(canaries.Local()))
	require.Equal(t, []int{16}, canaries.Local().Weights())
	require.Same(t, canaries.Local(), canaries.Local().Local())

	require.Equal(t, []string{"t00"}, idsOf(canaries.Where(func(m *balancer.Member) bool { return m.ID() != "t03" })))
	require.Empty(t, idsOf(canaries.Where(func(m *balancer.Member) bool { return m.ID() == "t00" }).Local()),
		"the part of the own zone is empty, and not that of all zones")

	none := whole.Where(func(*balancer.Member) bool { return false })
	require.Empty(t, none.Members())
	require.Empty(t, none.Weights())
	require.Empty(t, none.Local().Members())
	for name, newPicker := range everyPicker {
		require.Nil(t, newPicker().Pick(&balancer.Request{Key: "x"}, none), name)
	}
	require.Equal(t, whole.Members(), whole.Where(func(*balancer.Member) bool { return true }).Members())
}

func TestSnapshot_B2_WhereWithoutZones(t *testing.T) {
	w := balancertest.Snapshot(4).Where(func(m *balancer.Member) bool { return m.ID() != "t1" })
	require.Equal(t, []string{"t0", "t2", "t3"}, idsOf(w))
	require.Same(t, w, w.Local())
}

// Every picker gives the members of a part the shares of their weights, and keeps to the part.
func TestSplit_B2_SharesOfBothSides(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		if _, ok := picker.(balancer.First); ok {
			return
		}
		weights := []int{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}
		newPicker := everyPicker[strings.ReplaceAll(t.Name()[len("TestSplit_B2_SharesOfBothSides/"):], "_", " ")]
		p := newPool(t, balancer.Config{Picker: &balancer.Split{
			When: func(q *balancer.Request) bool { return q.Tunnel }, Where: isCanary,
			Picker: newPicker(), Rest: newPicker(),
		}, Targets: labelled(weights...)})
		for _, tunnel := range []bool{true, false} {
			got := map[string]int{}
			for i := range 4000 {
				got[pick(t, p, &balancer.Request{Key: fmt.Sprint(i), Client: client(i), Tunnel: tunnel})]++
			}
			of := make([]int, len(weights))
			for i, w := range weights {
				if (i%3 == 0) == tunnel {
					of[i] = w
				}
			}
			requireShares(t, of, got, 0.055)
		}
	})
}

// A chance of 5% gives the canaries 5% of the requests, for all weights.
func TestSplit_B2_Chance(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: labelled(9, 1, 1), Picker: &balancer.Split{
		When: func(*balancer.Request) bool { return rand.IntN(100) < 5 }, Where: isCanary,
	}})
	requireShares(t, []int{10, 95, 95}, picks(t, p, 50_000), 0.01)
}

// If one side cannot take a request for any reason, the other side does.
func TestSplit_B2_OtherSideTakesOver(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		newPicker := everyPicker[strings.ReplaceAll(t.Name()[len("TestSplit_B2_OtherSideTakesOver/"):], "_", " ")]
		canary := func() *balancer.Request { return &balancer.Request{Key: "canary", Client: client(1)} }
		stable := func() *balancer.Request { return &balancer.Request{Key: "x", Client: client(1)} }
		newSplit := func(ts []balancer.Target) *balancer.Pool {
			return newPool(t, balancer.Config{Targets: ts, Picker: canarySplit(newPicker), Zone: "b", OneZone: ts[0].Zone != ""})
		}
		p := newSplit(labelled(1, 1))
		require.Equal(t, "t00", pick(t, p, canary()))
		require.Equal(t, "t01", pick(t, p, stable()))

		q := canary()
		q.Exclude(member(t, p, "t00"))
		require.Equal(t, "t01", pick(t, p, q), "the canary is excluded")
		q = stable()
		q.Exclude(member(t, p, "t01"))
		require.Equal(t, "t00", pick(t, p, q), "the rest is excluded")
		q.Exclude(member(t, p, "t00"))
		_, err := p.Acquire(t.Context(), q)
		require.ErrorIs(t, err, balancer.ErrExcluded)

		member(t, p, "t00").SetAdmin(balancer.Draining)
		require.Equal(t, "t01", pick(t, p, canary()), "no canary takes new sessions")
		member(t, p, "t00").SetAdmin(balancer.Ready)
		require.Equal(t, "t00", pick(t, p, canary()))
		member(t, p, "t01").SetHealth(balancer.Healthy)
		require.Equal(t, "t01", pick(t, p, canary()), "the canary is in a lower tier")

		ts := labelled(1, 1)
		ts[0].MaxRequests = 1
		p = newSplit(ts)
		bound(t, p, "t00")
		require.Equal(t, "t01", pick(t, p, canary()), "the canary is full")

		ts = labelled(1, 1, 1, 1)
		ts[0].Zone, ts[1].Zone, ts[2].Zone, ts[3].Zone = "a", "b", "b", "a"
		p = newSplit(ts)
		require.Contains(t, []string{"t01", "t02"}, pick(t, p, canary()), "the zone comes before the label")

		ts = labelled(1, 1, 1, 1, 1)
		ts[3].Backup, ts[4].Backup = true, true
		p = newSplit(ts)
		q, r := canary(), stable()
		for _, id := range []string{"t00", "t01", "t02"} {
			q.Exclude(member(t, p, id))
			r.Exclude(member(t, p, id))
		}
		require.Equal(t, "t03", pick(t, p, q), "a canary among the backups")
		require.Equal(t, "t04", pick(t, p, r))
	})
}

// Labels that change move a target to the other side, and leave its member as it is.
func TestSplit_B2_LabelsChange(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: labelled(1, 1), Picker: canarySplit(everyPicker["least"])})
	old := member(t, p, "t00")
	canary := &balancer.Request{Key: "canary"}
	require.Equal(t, "t00", pick(t, p, canary))
	ts := labelled(1, 1)
	ts[0].Labels, ts[1].Labels = ts[1].Labels, ts[0].Labels
	require.NoError(t, p.Update(ts...))
	require.Same(t, old, member(t, p, "t00"))
	require.Equal(t, "t01", pick(t, p, canary))
}

// Splits in splits have three sides.
func TestSplit_B2_Nested(t *testing.T) {
	is := func(id string) func(*balancer.Member) bool {
		return func(m *balancer.Member) bool { return m.ID() == id }
	}
	when := func(key string) func(*balancer.Request) bool {
		return func(q *balancer.Request) bool { return q.Key == key }
	}
	p := newPool(t, balancer.Config{Targets: targets(3), Picker: &balancer.Split{
		When: when("0"), Where: is("t00"),
		Rest: &balancer.Split{When: when("1"), Where: is("t01")},
	}})
	for key, want := range map[string]string{"0": "t00", "1": "t01", "2": "t02"} {
		require.Equal(t, want, pick(t, p, &balancer.Request{Key: key}))
	}
}

// The zero value is least connections.
func TestSplit_B2_ZeroValue(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(10), Picker: &balancer.Split{}})
	for range 50 {
		acquire(t, p, &balancer.Request{})
	}
	for _, m := range p.Members() {
		require.EqualValues(t, 5, m.Load())
	}
}

func idsOf(s *balancer.Snapshot) []string {
	ids := []string{}
	for _, m := range s.Members() {
		ids = append(ids, m.ID())
	}
	return ids
}
