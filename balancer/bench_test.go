package balancer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"

	"github.com/stickylb/stickylb/balancer"
)

// A peersScan is least connections as it is usually written: look at every target, and
// count those that tie to choose among them at random.
type peersScan struct{}

func (peersScan) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	var best *balancer.Member
	least, tied := int64(-1), 0
	for _, m := range s.Members() {
		if q.Skip(m) {
			continue
		}
		switch load := m.Load(); {
		case least < 0 || load < least:
			best, least, tied = m, load, 1
		case load == least:
			if tied++; rand.IntN(tied) == 0 {
				best = m
			}
		}
	}
	return best
}

var pickers = []struct {
	name string
	make func() balancer.Picker
}{
	{"scan", func() balancer.Picker { return peersScan{} }},
	{"least", func() balancer.Picker { return &balancer.LeastConnections{} }},
	{"round", func() balancer.Picker { return &balancer.RoundRobin{} }},
	{"random", func() balancer.Picker { return balancer.Random{} }},
	{"two", func() balancer.Picker { return balancer.TwoChoices{} }},
	{"latency", func() balancer.Picker { return balancer.LatencyTwoChoices{} }},
	{"maglev", func() balancer.Picker { return &balancer.Maglev{} }},
	{"maglevbound", func() balancer.Picker { return &balancer.Maglev{MaxLoad: 1.25} }},
	{"source", func() balancer.Picker { return &balancer.SourceAddress{} }},
	{"first", func() balancer.Picker { return balancer.First{} }},
	{"rendezvous", func() balancer.Picker { return &balancer.Rendezvous{} }},
}

func benchPool(b *testing.B, p balancer.Picker, n int, edit func(i int, t *balancer.Target)) *balancer.Pool {
	b.Helper()
	targets := make([]balancer.Target, n)
	for i := range targets {
		targets[i] = balancer.Target{ID: fmt.Sprintf("target-%06d", i), URL: &url.URL{Scheme: "http", Host: fmt.Sprintf("10.0.%d.%d", i/250, i%250)}}
		if edit != nil {
			edit(i, &targets[i])
		}
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: p})
	if err != nil {
		b.Fatal(err)
	}
	return pool
}

var sizes = []int{3, 10, 1000, 100_000}

func BenchmarkPoolAcquire(b *testing.B) {
	ctx := context.Background()
	for _, pk := range pickers {
		for _, n := range sizes {
			pool := benchPool(b, pk.make(), n, nil)
			b.Run(fmt.Sprintf("picker=%s/targets=%d/serial", pk.name, n), func(b *testing.B) {
				q := balancer.Request{Key: "0123456789abcdef"}
				b.ReportAllocs()
				for b.Loop() {
					l, _ := pool.Acquire(ctx, &q)
					l.Release(balancer.Outcome{})
				}
			})
			b.Run(fmt.Sprintf("picker=%s/targets=%d/parallel", pk.name, n), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					q := balancer.Request{Key: "0123456789abcdef"}
					for pb.Next() {
						l, _ := pool.Acquire(ctx, &q)
						l.Release(balancer.Outcome{})
					}
				})
			})
		}
	}
}
