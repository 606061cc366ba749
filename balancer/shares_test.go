package balancer_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// Every weighted picker gives each target its share of 100,000 picks.
func TestPicker_B2_WeightedShares(t *testing.T) {
	t.Parallel()
	for name, newPicker := range weightedPickers() {
		for vector, weights := range weightVectors {
			t.Run(name+"/"+vector, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p := newPool(t, balancer.Config{Picker: newPicker(), Targets: weighted(weights...)})
					requireWeights(t, p, weights, !turns[name], 1)
				})
			})
		}
	}
}

// The pickers that heed loads give each target its share also while it has much to do: as many
// requests as the weights say, for 200 outstanding ones for each target on average.
func TestPicker_B2_WeightedSharesUnderLoad(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"least", "two choices", "latency"} {
		for _, vector := range []string{"equal", "few", "irregular", "many"} {
			t.Run(name+"/"+vector, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					weights := weightVectors[vector]
					p := newPool(t, balancer.Config{Picker: everyPicker[name](), Targets: weighted(weights...)})
					requireWeights(t, p, weights, true, 200*len(weights))
				})
			})
		}
	}
}

// A target in its slow start gets the part of its share that the step says.
func TestPicker_B2_WeightedSharesInSlowStart(t *testing.T) {
	t.Parallel()
	for name, newPicker := range weightedPickers() {
		if !heedsSlowStart[name] {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ts := weighted(5, 3, 8)
				p := newPool(t, balancer.Config{Picker: newPicker(), SlowStart: 16 * time.Second, Targets: ts[:2]})
				require.NoError(t, p.Update(ts...))
				time.Sleep(3 * time.Second)
				synctest.Wait()
				requireWeights(t, p, []int{5 * 16, 3 * 16, 8 * 4}, !turns[name], 1)
			})
		})
	}
}

// weightVectors are the weights of six pools.
var weightVectors = map[string][]int{
	"equal":     {1, 1, 1},
	"canary":    {5, 95},
	"few":       {1, 2, 3},
	"irregular": {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 70, 9},
	"extreme":   {1 << 20, 1, 1 << 10},
	"many":      slices.Repeat([]int{1, 2, 1, 8}, 10),
}

// turns has the pickers that give exact turns. heedsSlowStart has those whose weights grow in a
// slow start.
var (
	turns          = map[string]bool{"least": true, "round robin": true}
	heedsSlowStart = map[string]bool{"least": true, "round robin": true, "random": true, "two choices": true, "latency": true}
)

func weightedPickers() map[string]func() balancer.Picker {
	pickers := maps.Clone(everyPicker)
	delete(pickers, "first")
	return pickers
}

// requireWeights picks and fails the test if a target gets more or less than its share. It keeps
// that many leases outstanding, of which the oldest ends with each pick.
//
// It allows for 2% of the share and for one outstanding lease. Where chance decides, it also allows
// for six standard deviations, which one of a hundred million right pickers exceeds.
func requireWeights(t *testing.T, p *balancer.Pool, weights []int, chance bool, outstanding int) {
	t.Helper()
	n := 100_000
	if raceDetector {
		n /= 10
	}
	outstanding = min(outstanding, n/10)
	got := map[*balancer.Member]int{}
	leases := make([]balancer.Lease, outstanding)
	for i := range n {
		l := &leases[i%outstanding]
		l.Release(balancer.Outcome{Latency: 10 * time.Millisecond})
		var err error
		if *l, err = p.Acquire(t.Context(), &balancer.Request{Key: strconv.Itoa(i), Client: client(i)}); err != nil {
			t.Fatal(err)
		}
		got[l.Member()]++
	}
	sum := 0
	for _, w := range weights {
		sum += w
	}
	for i, m := range p.Members() {
		share := float64(weights[i]) / float64(sum)
		want := share * float64(n)
		allowed := 0.02*want + 1
		if outstanding > 1 {
			allowed += float64(n) / float64(outstanding)
		}
		if chance {
			allowed += 6 * math.Sqrt(want*(1-share))
		}
		require.InDelta(t, want, got[m], allowed, m.ID())
	}
}

// requireShares compares how often each target came with its weight. Targets of weight zero
// have no share.
func requireShares(t *testing.T, weights []int, got map[string]int, delta float64) {
	t.Helper()
	sum, n := 0, 0
	for _, w := range weights {
		sum += w
	}
	for _, k := range got {
		n += k
	}
	for i, w := range weights {
		id := fmt.Sprintf("t%02d", i)
		require.InDelta(t, float64(w)/float64(sum), float64(got[id])/float64(n), delta, id)
	}
}

// Round robin and indexed least connections take exact turns, so each share is within 1%
// of itself, however small it is. It stays so while the set changes all the time.
func TestPicker_B2_ExactTurns(t *testing.T) {
	const n = 30_000
	weights := []int{3, 1, 4, 1, 5, 9, 2, 6, 5, 30}
	const sum = 66
	for name, picker := range map[string]balancer.Picker{
		"round robin": &balancer.RoundRobin{}, "least": &balancer.LeastConnections{},
	} {
		for _, every := range []int{n + 1, 7} {
			t.Run(fmt.Sprintf("%s/update every %d", name, every), func(t *testing.T) {
				p := newPool(t, balancer.Config{Picker: picker, Targets: weighted(weights...)})
				got := map[string]int{}
				for i := range n {
					if i%every == 0 {
						extra := append(weighted(weights...), balancer.Target{ID: "x", URL: parse(t, "http://x"), Weight: -1})
						require.NoError(t, p.Update(extra[:len(weights)+i%2]...))
					}
					got[pick(t, p, &balancer.Request{})]++
				}
				for i, w := range weights {
					want := n * float64(w) / sum
					require.InEpsilon(t, want, got[fmt.Sprintf("t%02d", i)], 0.01, i)
				}
			})
		}
	}
}

func TestRoundRobin_B2_Smooth(t *testing.T) {
	tests := map[string]struct {
		weights []int
		want    string
	}{
		"equal": {[]int{1, 1, 1}, "0 1 2 0 1 2 0 1 2"},
		"5 1 1": {[]int{5, 1, 1}, "0 1 0 0 0 2 0 0 1 0 0 0 2 0"},
		"3 2":   {[]int{3, 2}, "0 1 0 1 0 0 1 0 1 0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: &balancer.RoundRobin{}, Targets: weighted(tt.weights...)})
			var got []string
			for range strings.FieldsSeq(tt.want) {
				got = append(got, strings.TrimPrefix(pick(t, p, &balancer.Request{}), "t0"))
			}
			require.Equal(t, tt.want, strings.Join(got, " "))
		})
	}
}

// Turns are spread: in any sequence of picks a target gets its share, within one turn for each
// class of equal weights.
func TestRoundRobin_B2_TurnsAreSpread(t *testing.T) {
	weights := []int{8, 4, 4, 2, 1, 1}
	const sum = 20
	p := newPool(t, balancer.Config{Picker: &balancer.RoundRobin{}, Targets: weighted(weights...)})
	var ids []string
	for range 8 * sum {
		ids = append(ids, pick(t, p, &balancer.Request{}))
	}
	for length := 1; length <= 2*sum; length++ {
		for i := range len(ids) - length {
			got := map[string]float64{}
			for _, id := range ids[i : i+length] {
				got[id]++
			}
			for j, w := range weights {
				share := float64(length*w) / sum
				if math.Abs(got[fmt.Sprintf("t%02d", j)]-share) > 2 {
					t.Fatalf("target %d in %v", j, ids[i:i+length])
				}
			}
		}
	}
}

// Members that tie get even shares, for every pattern of acquires and releases.
func TestLeastConnections_B1_TiesSpreadEvenly(t *testing.T) {
	for _, n := range []int{3, 5, 10, 50} {
		for _, held := range []int{0, 1, 2, n - 1, n + 1} {
			t.Run(fmt.Sprintf("targets=%d/held=%d", n, held), func(t *testing.T) {
				p := newPool(t, balancer.Config{Targets: targets(n)})
				got := map[string]int{}
				var leases []balancer.Lease
				const total = 5000
				for range total {
					l := acquire(t, p, &balancer.Request{})
					got[l.Member().ID()]++
					if leases = append(leases, l); len(leases) > held {
						leases[0].Release(balancer.Outcome{})
						leases = leases[1:]
					}
				}
				share := float64(total) / float64(n)
				for id, k := range got {
					require.InDelta(t, share, k, 7*math.Sqrt(share), id)
				}
				require.Len(t, got, n)
			})
		}
	}
}

// Requests that come one after the other are given in turn: after any number of rounds, of as many
// requests as the weights sum up to, each target has had its turns, give or take one if the weights
// differ.
func TestLeastConnections_B1_TiesTakeTurns(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {1, 1, 1}, {5, 1, 1}, {3, 2}, {1, 2, 3, 4, 5}, {1, 1, 1, 1, 1, 1, 1, 1}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			p := newPool(t, balancer.Config{Targets: weighted(weights...)})
			sum, delta := 0, 0.
			for _, w := range weights {
				sum += w
				if w != weights[0] {
					delta = 1
				}
			}
			got := map[string]int{}
			for round := 1; round <= 20; round++ {
				for range sum {
					got[pick(t, p, &balancer.Request{})]++
				}
				for i, w := range weights {
					require.InDelta(t, round*w, got[fmt.Sprintf("t%02d", i)], delta, "round %d: %v", round, got)
				}
			}
		})
	}
}

// A target that was busy for long, or that joins, does not get the turns that it missed.
func TestLeastConnections_B1_NoTurnsToMakeUpFor(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(2)})
	busy := bound(t, p, "t00")
	require.Equal(t, map[string]int{"t01": 1000}, picks(t, p, 1000))
	busy.Release(balancer.Outcome{})
	require.Equal(t, map[string]int{"t00": 5, "t01": 5}, picks(t, p, 10))

	require.NoError(t, p.Update(targets(3)...))
	got := picks(t, p, 12)
	for id, n := range got {
		require.InDelta(t, 4, n, 1, id)
	}
}

// If leases are held, the loads are in proportion to the weights.
func TestLeastConnections_B2_LoadsByWeight(t *testing.T) {
	for _, copies := range []int{1, 5} {
		var ts []int
		for range copies {
			ts = append(ts, 1, 2, 5)
		}
		p := newPool(t, balancer.Config{Targets: weighted(ts...)})
		for range 8 * copies * 25 {
			acquire(t, p, &balancer.Request{})
		}
		for i, m := range p.Members() {
			require.EqualValues(t, 25*ts[i], m.Load())
		}
	}
}

// Two choices never takes the member that has the most to do, with any number of them.
func TestTwoChoices_B2_NeverTheBusiest(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {1, 1, 1, 1}, {1, 2, 3, 4, 500}} {
		ts := weighted(weights...)
		p := newPool(t, balancer.Config{Picker: balancer.TwoChoices{}, Targets: ts})
		busiest := ts[len(ts)-1]
		for range busiest.Weight {
			bound(t, p, busiest.ID)
		}
		require.NotContains(t, picks(t, p, 10_000), busiest.ID)
	}
}

// TwoChoices draws two different members, and each pair is equally likely. With loads that rank the
// members, the member with k others behind it wins against these k.
func TestTwoChoices_B2_DrawsTwoDistinct(t *testing.T) {
	const n, total = 5, 60_000
	p := newPool(t, balancer.Config{Picker: balancer.TwoChoices{}, Targets: targets(n)})
	for i, m := range p.Members() {
		for range i {
			bound(t, p, m.ID())
		}
	}
	got := picks(t, p, total)
	for i := range n {
		want := float64(n-1-i) / (n * (n - 1) / 2)
		require.InDelta(t, want, float64(got[fmt.Sprintf("t%02d", i)])/total, 0.015)
	}
}

// A target that is excluded or full loses its turns, and the others keep their shares.
func TestPicker_B2_SharesOfTheRest(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		if _, ok := picker.(balancer.First); ok {
			return
		}
		ts := weighted(4, 1, 3, 2, 1, 1)
		ts[0].MaxRequests = 1
		p := newPool(t, balancer.Config{Picker: picker, Targets: ts})
		bound(t, p, "t00")
		got := map[string]int{}
		for i := range 20_000 {
			q := &balancer.Request{Key: fmt.Sprint(i), Client: client(i)}
			q.Exclude(member(t, p, "t01"))
			got[pick(t, p, q)]++
		}
		require.Len(t, got, 4)
		requireShares(t, []int{0, 0, 3, 2, 1, 1}, got, 0.025)
	})
}
