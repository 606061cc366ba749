package balancer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/balancertest"
)

// A scan is least connections as it is usually written: look at every target, and choose
// at random among those that tie.
type scan struct{}

func (scan) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	var best *balancer.Member
	least, tied := int64(0), 0
	for _, m := range s.Members() {
		if q.Skip(m) {
			continue
		}
		switch load := m.Load(); {
		case best == nil || load < least:
			best, least, tied = m, load, 1
		case load == least:
			if tied++; rand.IntN(tied) == 0 {
				best = m
			}
		}
	}
	return best
}

// measured are the pickers in the order of the package documentation's table.
var measured = []struct {
	name   string
	picker func() balancer.Picker
}{
	{"scan", func() balancer.Picker { return scan{} }},
	{"least", everyPicker["least"]},
	{"round-robin", everyPicker["round robin"]},
	{"random", everyPicker["random"]},
	{"two-choices", everyPicker["two choices"]},
	{"latency", everyPicker["latency"]},
	{"rendezvous", everyPicker["rendezvous"]},
	{"maglev", everyPicker["maglev"]},
	{"maglev-bounded", everyPicker["maglev bounded"]},
	{"source-address", everyPicker["source address"]},
	{"first", everyPicker["first"]},
}

// world returns a pool of n targets that has made its first pick.
func world(b *testing.B, picker balancer.Picker, n int, weights ...int) *balancer.Pool {
	b.Helper()
	ts := make([]balancer.Target, n)
	for i := range ts {
		ts[i] = balancer.Target{
			ID:  fmt.Sprintf("target-%06d", i),
			URL: &url.URL{Scheme: "http", Host: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)},
		}
		if len(weights) > 0 {
			ts[i].Weight = weights[i%len(weights)]
		}
	}
	p := newPool(b, balancer.Config{Targets: ts, Picker: picker})
	pick(b, p, &balancer.Request{})
	return p
}

func once(p *balancer.Pool, q *balancer.Request) {
	l, _ := p.Acquire(context.Background(), q)
	l.Release(balancer.Outcome{})
}

// Acquire and release, one after the other and on all cores at once.
func BenchmarkPoolAcquire(b *testing.B) {
	for _, picker := range measured {
		for _, n := range []int{3, 10, 100, 1000, 100_000} {
			name := fmt.Sprintf("picker=%s/targets=%d", picker.name, n)
			p := world(b, picker.picker(), n)
			b.Run(name+"/serial", func(b *testing.B) {
				var q balancer.Request
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					i++
					q.Client = client(i)
					once(p, &q)
				}
			})
			b.Run(name+"/parallel", func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					var q balancer.Request
					for i := rand.IntN(1 << 16); pb.Next(); i++ {
						q.Client = client(i)
						once(p, &q)
					}
				})
			})
		}
	}
}

// There are always twice as many leases outstanding as targets, up to 200,000. A random one is
// released in each step, so that the steps do not touch the same memory.
func BenchmarkPoolAcquire_Held(b *testing.B) {
	for _, picker := range measured[:2] {
		for _, weights := range [][]int{{1}, {1, 2, 3, 5, 8}} {
			for _, n := range []int{10, 100, 1000, 100_000} {
				b.Run(fmt.Sprintf("picker=%s/weights=%d/targets=%d", picker.name, len(weights), n), func(b *testing.B) {
					p := world(b, picker.picker(), n, weights...)
					var q balancer.Request
					leases := make([]balancer.Lease, 2*n)
					for i := range leases {
						if picker.name == "scan" { // it takes too long to reach that many leases
							leases[i], _ = p.AcquireBound(b.Context(), fmt.Sprintf("target-%06d", i%n), &q)
						} else {
							leases[i], _ = p.Acquire(b.Context(), &q)
						}
					}
					b.ReportAllocs()
					for b.Loop() {
						l := &leases[rand.IntN(len(leases))]
						l.Release(balancer.Outcome{})
						*l, _ = p.Acquire(b.Context(), &q)
					}
				})
			}
		}
	}
}

// Under overload, all targets but one are full, and that one is full half of the time. A refusal
// costs as little as a lease.
func BenchmarkPoolAcquire_Full(b *testing.B) {
	for _, picker := range measured[:3] {
		for _, n := range []int{10, 1000, 100_000} {
			b.Run(fmt.Sprintf("picker=%s/targets=%d", picker.name, n), func(b *testing.B) {
				ts := make([]balancer.Target, n)
				for i := range ts {
					ts[i] = target(fmt.Sprintf("target-%06d", i))
					ts[i].MaxRequests = 1
				}
				p := newPool(b, balancer.Config{Targets: ts, Picker: picker.picker()})
				for i := range n - 1 {
					bound(b, p, ts[i].ID)
				}
				var q balancer.Request
				pick(b, p, &q)
				b.ReportAllocs()
				for b.Loop() {
					l, _ := p.Acquire(context.Background(), &q)
					if _, err := p.Acquire(context.Background(), &q); err == nil {
						b.Fatal("not full")
					}
					l.Release(balancer.Outcome{})
				}
			})
		}
	}
}

// A bound session's acquire and release, on any of the targets, with the default picker's
// index kept up to date.
func BenchmarkPoolAcquireBound(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		p := world(b, nil, n)
		ids := make([]string, 1<<16)
		for i := range ids {
			ids[i] = fmt.Sprintf("target-%06d", rand.IntN(n))
		}
		b.Run(fmt.Sprintf("targets=%d/serial", n), func(b *testing.B) {
			var q balancer.Request
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				l, _ := p.AcquireBound(context.Background(), ids[i%len(ids)], &q)
				l.Release(balancer.Outcome{})
			}
		})
		b.Run(fmt.Sprintf("targets=%d/parallel", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var q balancer.Request
				for i := rand.IntN(len(ids)); pb.Next(); i++ {
					l, _ := p.AcquireBound(context.Background(), ids[i%len(ids)], &q)
					l.Release(balancer.Outcome{})
				}
			})
		})
	}
}

// What a report of latency adds to a release.
func BenchmarkLeaseRelease_Latency(b *testing.B) {
	p := world(b, nil, 10)
	var q balancer.Request
	b.ReportAllocs()
	for b.Loop() {
		l, _ := p.Acquire(context.Background(), &q)
		l.Release(balancer.Outcome{Latency: time.Millisecond})
	}
}

// Two choices alone, without what acquire and release cost.
func BenchmarkTwoChoicesPick(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			var p balancer.TwoChoices
			s := balancertest.Snapshot(n)
			q := &balancer.Request{}
			b.ReportAllocs()
			for b.Loop() {
				p.Pick(q, s)
			}
		})
	}
}

// This measures a change of state and the next pick.
func BenchmarkMemberSetHealth(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			p := world(b, nil, n)
			m := p.Members()[n/2]
			var q balancer.Request
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				m.SetHealth([...]balancer.Health{balancer.HealthUnknown, balancer.Unhealthy}[i%2])
				once(p, &q)
			}
		})
	}
}

// An update with an equal set, and one with another order.
func BenchmarkPoolUpdate(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		p := world(b, nil, n)
		ts := make([]balancer.Target, 0, n)
		for _, m := range p.Members() {
			ts = append(ts, m.Target())
		}
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Update(ts...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// This measures Snapshot.Where, which a composed picker calls with each change.
func BenchmarkSnapshotWhere(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			s := balancertest.Snapshot(n)
			b.ReportAllocs()
			for b.Loop() {
				s.Where(isCanary)
			}
		})
	}
}
