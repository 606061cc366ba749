package balancer_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hashPickers pick by the request's key or client.
var hashPickers = map[string]func() balancer.Picker{
	"rendezvous": everyPicker["rendezvous"],
	"maglev":     everyPicker["maglev"],
	"source":     everyPicker["source address"],
}

// placement returns which target each of n keys gets.
func placement(t testing.TB, p *balancer.Pool, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = pick(t, p, &balancer.Request{Key: fmt.Sprint("key ", i), Client: client(i)})
	}
	return ids
}

// moved returns how many keys moved away from a target that is still there, and how many
// left the one that is not.
func moved(before, after []string, gone string) (others, own int) {
	for i := range before {
		switch {
		case before[i] == gone:
			own++
		case before[i] != after[i]:
			others++
		}
	}
	return others, own
}

// When one of n targets goes down, only its keys move. They move back when it returns.
func TestHash_B2_MovesOnlyKeysOfTheOneThatGoesDown(t *testing.T) {
	for name, make := range hashPickers {
		for _, weights := range [][]int{{1, 1}, {1, 2, 3, 4}, slices.Repeat([]int{1}, 20)} {
			t.Run(fmt.Sprint(name, weights), func(t *testing.T) {
				const n = 3000
				p := newPool(t, balancer.Config{Picker: make(), Targets: weighted(weights...)})
				before := placement(t, p, n)
				require.Equal(t, before, placement(t, p, n), "a key stays where it is")
				for _, m := range p.Members()[:min(len(weights), 5)] {
					m.SetHealth(balancer.Unhealthy)
					after := placement(t, p, n)
					others, own := moved(before, after, m.ID())
					require.Zero(t, others)
					require.NotZero(t, own)
					require.NotContains(t, after, m.ID())
					m.SetHealth(balancer.HealthUnknown)
				}
				require.Equal(t, before, placement(t, p, n))
			})
		}
	}
}

// The keys of a target that goes down are spread over the others by weight.
func TestHash_B2_SpreadsTheKeysOfTheOneThatGoes(t *testing.T) {
	for name, make := range hashPickers {
		t.Run(name, func(t *testing.T) {
			const n = 40_000
			p := newPool(t, balancer.Config{Picker: make(), Targets: weighted(5, 1, 2, 2)})
			before := placement(t, p, n)
			member(t, p, "t00").SetAdmin(balancer.Down)
			got, all := map[string]int{}, 0
			for i, id := range placement(t, p, n) {
				if before[i] == "t00" {
					got[id]++
					all++
				}
			}
			for id, share := range map[string]float64{"t01": 0.2, "t02": 0.4, "t03": 0.4} {
				require.InDelta(t, share, float64(got[id])/float64(all), 0.015, id)
			}
		})
	}
}

// When one of n targets is taken out of the set, or a new one comes, rendezvous moves the
// share that has to move and Maglev little more.
func TestHash_B2_MovesAFairShareOnUpdate(t *testing.T) {
	for name, tt := range map[string]struct {
		picker func() balancer.Picker
		more   float64 // of the keys that need not move
	}{
		"rendezvous": {hashPickers["rendezvous"], 0},
		"maglev":     {hashPickers["maglev"], 0.01},
		"source":     {hashPickers["source"], 0.01},
	} {
		for _, n := range []int{2, 5, 10, 100} {
			t.Run(fmt.Sprintf("%s/targets=%d", name, n), func(t *testing.T) {
				const keys = 6000
				all := targets(n)
				p := newPool(t, balancer.Config{Picker: tt.picker(), Targets: all})
				before := placement(t, p, keys)
				gone := all[n/2].ID
				require.NoError(t, p.Update(slices.Concat(all[:n/2], all[n/2+1:])...))
				others, own := moved(before, placement(t, p, keys), gone)
				share := float64(keys) / float64(n)
				require.InDelta(t, share, own, 4*math.Sqrt(share))
				require.LessOrEqual(t, float64(others), tt.more*keys)

				require.NoError(t, p.Update(all...))
				require.Equal(t, before, placement(t, p, keys), "the same set gives the same table")
			})
		}
	}
}

// Instances agree for every order of the targets.
func TestHash_B2_OrderDoesNotMatter(t *testing.T) {
	for name, make := range hashPickers {
		t.Run(name, func(t *testing.T) {
			ts := weighted(1, 2, 3, 4, 5)
			a := newPool(t, balancer.Config{Picker: make(), Targets: ts})
			want := placement(t, a, 1000)
			slices.Reverse(ts)
			b := newPool(t, balancer.Config{Picker: make(), Targets: ts})
			require.Equal(t, want, placement(t, b, 1000))
		})
	}
}

// The hash is part of what instances agree on: it must not change by accident.
func TestHash_B2_Stable(t *testing.T) {
	want := map[string]string{
		"rendezvous": "t01 t01 t01 t01 t02 t02 t01 t02 t00 t01 t01 t02",
		"maglev":     "t01 t02 t01 t02 t02 t02 t00 t01 t02 t02 t01 t00",
		"source":     "t00 t00 t01 t02 t01 t00 t01 t02 t02 t02 t02 t01",
	}
	for name, make := range hashPickers {
		p := newPool(t, balancer.Config{Picker: make(), Targets: weighted(1, 2, 3)})
		assert.Equal(t, want[name], strings.Join(placement(t, p, 12), " "), name)
	}
}

// With bounded loads no target gets more than its bound, though all requests have the
// same few keys.
func TestHash_B2_BoundedLoads(t *testing.T) {
	for name, make := range map[string]func(maxLoad float64) balancer.Picker{
		"rendezvous": func(x float64) balancer.Picker { return &balancer.Rendezvous{MaxLoad: x} },
		"maglev":     func(x float64) balancer.Picker { return &balancer.Maglev{MaxLoad: x} },
	} {
		for _, maxLoad := range []float64{0.5, 1, 1.25, 2} {
			for _, keys := range []int{1, 3, 100} {
				t.Run(fmt.Sprintf("%s/%v/keys=%d", name, maxLoad, keys), func(t *testing.T) {
					weights := []int{1, 1, 2, 3, 3, 1, 1, 4}
					p := newPool(t, balancer.Config{Picker: make(maxLoad), Targets: weighted(weights...)})
					bounded(t, p, weights, max(maxLoad, 1), keys)
				})
			}
		}
	}
}

func bounded(t *testing.T, p *balancer.Pool, weights []int, maxLoad float64, keys int) {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	var leases []balancer.Lease
	for i := range 2000 {
		if i%5 == 4 { // some requests end meanwhile
			leases[i%len(leases)].Release(balancer.Outcome{})
		}
		l := acquire(t, p, &balancer.Request{Key: fmt.Sprint(i % keys)})
		leases = append(leases, l)
		var total int64
		for _, m := range p.Members() {
			total += m.Load()
		}
		m := l.Member()
		limit := math.Ceil(maxLoad * float64(total) * float64(m.Target().Weight) / float64(sum))
		require.LessOrEqual(t, float64(m.Load()), limit)
	}
}

// Without a bound, a key stays with its target at any load. With a bound, it returns to its target
// when there is room again.
func TestHash_B2_BoundLetsGoAndComesBack(t *testing.T) {
	for name, make := range map[string]func(maxLoad float64) balancer.Picker{
		"rendezvous": func(x float64) balancer.Picker { return &balancer.Rendezvous{MaxLoad: x} },
		"maglev":     func(x float64) balancer.Picker { return &balancer.Maglev{MaxLoad: x} },
	} {
		t.Run(name, func(t *testing.T) {
			q := &balancer.Request{Key: "one"}
			free := newPool(t, balancer.Config{Picker: make(0), Targets: targets(4)})
			home := pick(t, free, q)
			for range 50 {
				l := acquire(t, free, q)
				require.Equal(t, home, l.Member().ID())
			}

			p := newPool(t, balancer.Config{Picker: make(1.25), Targets: targets(4)})
			l := acquire(t, p, q)
			require.Equal(t, home, l.Member().ID())
			require.NotEqual(t, home, pick(t, p, q), "1.25 times two requests over four is one each")
			l.Release(balancer.Outcome{})
			require.Equal(t, home, pick(t, p, q))
		})
	}
}

// The bound counts the request that is being picked.
func TestHash_B2_BoundCountsTheRequestItself(t *testing.T) {
	for name, make := range map[string]func() balancer.Picker{
		"rendezvous": func() balancer.Picker { return &balancer.Rendezvous{MaxLoad: 2} },
		"maglev":     func() balancer.Picker { return &balancer.Maglev{MaxLoad: 2} },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: make(), Targets: targets(4)})
			q := &balancer.Request{Key: "one"}
			l := acquire(t, p, q)
			home := l.Member()
			require.NotEqual(t, home.ID(), pick(t, p, q), "twice two over four is one each")
			for _, m := range p.Members() {
				if m != home {
					bound(t, p, m.ID())
					break
				}
			}
			require.Equal(t, home.ID(), pick(t, p, q), "twice three over four is two each, rounded up")
		})
	}
}

// With OneZone the average is that of the zone: idle targets in other zones do not count.
func TestHash_B7_BoundWithinTheZone(t *testing.T) {
	for name, make := range map[string]func() balancer.Picker{
		"rendezvous": func() balancer.Picker { return &balancer.Rendezvous{MaxLoad: 1} },
		"maglev":     func() balancer.Picker { return &balancer.Maglev{MaxLoad: 1} },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: make(), Zone: "b", OneZone: true, Targets: zoned()})
			for range 10 {
				acquire(t, p, &balancer.Request{Key: "one"})
			}
			require.EqualValues(t, 5, member(t, p, "t02").Load())
			require.EqualValues(t, 5, member(t, p, "t03").Load())
		})
	}
}

// New weights hold for keys too.
func TestHash_B2_WeightsChange(t *testing.T) {
	for name, make := range hashPickers {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: make(), Targets: weighted(1, 1)})
			picks(t, p, 10)
			require.NoError(t, p.Update(weighted(1, 4)...))
			requireShares(t, []int{1, 4}, picks(t, p, 20_000), 0.02)
		})
	}
}

// If all targets that the request may use exceed their bound, the bound is ignored.
func TestHash_B2_BoundYieldsToNeed(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		p := newPool(t, balancer.Config{Picker: picker, Targets: targets(3)})
		for range 30 {
			bound(t, p, "t00")
		}
		q := &balancer.Request{Key: "k", Client: client(1)}
		q.Exclude(member(t, p, "t01"))
		q.Exclude(member(t, p, "t02"))
		require.Equal(t, "t00", pick(t, p, q))
	})
}

// Without a key and a client there is nothing to hash, and all targets get a share.
func TestHash_B2_NoKey(t *testing.T) {
	for name, make := range hashPickers {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: make(), Targets: targets(3)})
			got := map[string]int{}
			for range 200 {
				got[pick(t, p, &balancer.Request{})]++
			}
			require.Len(t, got, 3)
		})
	}
}

// The key comes before the client, except for the source address.
func TestHash_B2_KeyThenClient(t *testing.T) {
	same := func(make func() balancer.Picker, a, b func(i int) *balancer.Request) bool {
		p := newPool(t, balancer.Config{Picker: make(), Targets: targets(20)})
		for i := range 50 {
			if pick(t, p, a(i)) != pick(t, p, b(i)) {
				return false
			}
		}
		return true
	}
	key := func(i int) *balancer.Request { return &balancer.Request{Key: fmt.Sprint(i)} }
	keyAndClient := func(i int) *balancer.Request { return &balancer.Request{Key: fmt.Sprint(i), Client: client(i)} }
	onlyClient := func(i int) *balancer.Request { return &balancer.Request{Client: client(i)} }
	for _, name := range []string{"rendezvous", "maglev"} {
		require.True(t, same(hashPickers[name], key, keyAndClient), name)
		require.False(t, same(hashPickers[name], onlyClient, keyAndClient), name)
		require.True(t, same(hashPickers[name], onlyClient, onlyClient), name)
	}
	require.True(t, same(hashPickers["source"], onlyClient, keyAndClient))
}

func TestSourceAddress_B2_Networks(t *testing.T) {
	tests := map[string]struct {
		picker *balancer.SourceAddress
		a, b   string
		same   bool
	}{
		"itself":                 {&balancer.SourceAddress{}, "192.0.2.1", "192.0.2.1", true},
		"another":                {&balancer.SourceAddress{}, "192.0.2.1", "192.0.2.2", false},
		"mapped":                 {&balancer.SourceAddress{}, "192.0.2.1", "::ffff:192.0.2.1", true},
		"same /64":               {&balancer.SourceAddress{}, "2001:db8::1", "2001:db8::ffff", true},
		"other /64":              {&balancer.SourceAddress{}, "2001:db8::1", "2001:db8:0:1::1", false},
		"zone":                   {&balancer.SourceAddress{}, "fe80::1%eth0", "fe80::1%eth1", true},
		"/24":                    {&balancer.SourceAddress{IPv4Bits: 24}, "192.0.2.1", "192.0.2.200", true},
		"other /24":              {&balancer.SourceAddress{IPv4Bits: 24}, "192.0.2.1", "192.0.3.1", false},
		"whole IPv6":             {&balancer.SourceAddress{IPv6Bits: 128}, "2001:db8::1", "2001:db8::2", false},
		"length that is too big": {&balancer.SourceAddress{IPv4Bits: 33}, "192.0.2.1", "192.0.2.2", false},
		"length below zero":      {&balancer.SourceAddress{IPv6Bits: -1}, "2001:db8::1", "2001:db8::2", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: tt.picker, Targets: targets(1000)})
			a := pick(t, p, &balancer.Request{Client: netip.MustParseAddr(tt.a)})
			b := pick(t, p, &balancer.Request{Client: netip.MustParseAddr(tt.b)})
			require.Equal(t, tt.same, a == b)
		})
	}
}

// Every target has keys, in sets of any size and weight that a table has entries for.
func TestMaglev_B2_EveryTargetHasKeys(t *testing.T) {
	for _, n := range []int{1, 2, 655, 656, 2000} {
		ts := targets(n)
		ts[0].Weight = 50
		p := newPool(t, balancer.Config{Picker: &balancer.Maglev{}, Targets: ts})
		got := map[string]bool{}
		for i := 0; i < 100*n && len(got) < n; i++ {
			got[pick(t, p, &balancer.Request{Key: fmt.Sprint(i)})] = true
		}
		require.Len(t, got, n)
	}
}
