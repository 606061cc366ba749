package balancer_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// Every weighted picker gives each target its share, within 1.6% of the picks: more than
// seven standard deviations of the largest share, where chance decides.
func TestPicker_B2_WeightedShares(t *testing.T) {
	const n = 50_000
	weights := []int{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 70, 9}
	each(t, func(t *testing.T, picker balancer.Picker) {
		if _, ok := picker.(balancer.First); ok {
			return // it has no weights
		}
		p := newPool(t, balancer.Config{Picker: picker, Targets: weighted(weights...)})
		requireShares(t, weights, picks(t, p, n), 0.016)
	})
	t.Run("few", func(t *testing.T) { // below the size from which there is an index
		p := newPool(t, balancer.Config{Targets: weighted(1, 2, 3)})
		requireShares(t, []int{1, 2, 3}, picks(t, p, n), 0.016)
	})
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

// Turns are spread: within any stretch a target has its share of it, give or take one
// turn of each class of equals.
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

// Those that tie share evenly, in whatever pattern leases come and go.
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

// With leases held the loads themselves are in proportion to the weights.
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

// Its draws are of two different members, each pair as likely as another: with loads that
// rank the members, the one of rank k wins against all k that rank behind it.
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
