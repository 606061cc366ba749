package main

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

const (
	pickerTargets    = 10_000
	updatesPerSecond = 10
	pickerSlots      = 2 // measurements of each pool in a round, without changes and again with changes
)

// pickers are the library's pickers, with their names in the table.
var pickers = []struct {
	name string
	make func() balancer.Picker
}{
	{"LeastConnections", func() balancer.Picker { return &balancer.LeastConnections{} }},
	{"RoundRobin", func() balancer.Picker { return &balancer.RoundRobin{} }},
	{"Random", func() balancer.Picker { return balancer.Random{} }},
	{"TwoChoices", func() balancer.Picker { return balancer.TwoChoices{} }},
	{"LatencyTwoChoices", func() balancer.Picker { return balancer.LatencyTwoChoices{} }},
	{"Rendezvous", func() balancer.Picker { return &balancer.Rendezvous{} }},
	{"Maglev", func() balancer.Picker { return &balancer.Maglev{} }},
	{"Maglev, bounded", func() balancer.Picker { return &balancer.Maglev{MaxLoad: 1.25} }},
	{"SourceAddress", func() balancer.Picker { return &balancer.SourceAddress{} }},
	{"First", func() balancer.Picker { return balancer.First{} }},
}

// comparePickers prints the duration of Acquire with each picker, first without changes and then
// with ten changes of the set a second. Each change replaces one target.
func (o *options) comparePickers(ctx context.Context, targets int, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "Acquire, ns\tp50\tp50 under updates\tratio\tp99\tp99 under updates\tratio\tlongest, us\tunder updates\tan update, ms")
	for _, p := range pickers {
		var rows [9][]float64
		for range o.rounds {
			values, err := o.measurePicker(ctx, p.make(), targets)
			if err != nil {
				return err
			}
			for i, v := range values {
				rows[i] = append(rows[i], v)
			}
		}
		fmt.Fprint(w, p.name)
		for _, values := range rows {
			fmt.Fprint(w, "\t", number(median(values)))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nMedians of %d rounds with %d targets and %d updates a second on %s. A ratio is that of a round.\n"+
		"One goroutine picks, and another one updates. The figures include reading the clock.\n",
		o.rounds, targets, updatesPerSecond, machine())
	return err
}

// measurePicker returns the table's cells for one round.
func (o *options) measurePicker(ctx context.Context, picker balancer.Picker, targets int) (row [9]float64, err error) {
	set := make([]balancer.Target, targets)
	for i := range set {
		set[i] = numbered(i)
	}
	pool, err := balancer.New(balancer.Config{Picker: picker, Targets: set})
	if err != nil {
		return row, err
	}
	runtime.GC() // frees the last pool
	quiet, err := o.pickFor(ctx, pool)
	if err != nil {
		return row, err
	}
	stop := make(chan struct{})
	var updates histogram
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() { failed = change(pool, set, stop, &updates) })
	busy, err := o.pickFor(ctx, pool)
	close(stop)
	wg.Wait()
	for at, p := range []float64{50, 99} {
		a, b := float64(quiet.percentile(p)), float64(busy.percentile(p))
		row[3*at], row[3*at+1], row[3*at+2] = a, b, b/a
	}
	row[6], row[7] = float64(quiet.longest)/1e3, float64(busy.longest)/1e3
	row[8] = float64(updates.percentile(50)) / 1e6
	if err == nil {
		err = failed
	}
	return row, err
}

// numbered returns target i.
func numbered(i int) balancer.Target {
	return balancer.Target{
		ID:  fmt.Sprintf("target-%06d", i),
		URL: &url.URL{Scheme: "http", Host: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)},
	}
}

// pickFor picks for a while and returns how long each Acquire took.
func (o *options) pickFor(ctx context.Context, pool *balancer.Pool) (took histogram, err error) {
	var q balancer.Request
	end := time.Now().Add(pickerSlots * o.slot)
	for i := 0; ; i++ {
		q.Client = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		before := time.Now()
		lease, err := pool.Acquire(ctx, &q)
		after := time.Now()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return took, err
		}
		took.add(after.Sub(before))
		lease.Release(balancer.Outcome{Latency: time.Millisecond})
		if after.After(end) {
			return took, nil
		}
	}
}

// change updates the pool until stop is closed, and at least once.
func change(pool *balancer.Pool, set []balancer.Target, stop <-chan struct{}, took *histogram) error {
	ticker := time.NewTicker(time.Second / updatesPerSecond)
	defer ticker.Stop()
	for next := len(set); ; next++ {
		set = slices.Clone(set)
		set[next%len(set)] = numbered(next)
		before := time.Now()
		if err := pool.Update(set...); err != nil {
			return err
		}
		took.add(time.Since(before))
		select {
		case <-stop:
			return nil
		case <-ticker.C:
		}
	}
}

// A histogram counts durations, to within 2%.
type histogram struct {
	counts  [64 << histogramBits]uint32
	n       int
	longest time.Duration
}

const histogramBits = 6

func (h *histogram) add(d time.Duration) {
	v := uint64(max(d, 0))
	h.counts[bucket(v)]++
	h.n++
	h.longest = max(h.longest, d)
}

// bucket returns the index of the bucket of v. Buckets are exact below 1<<histogramBits. Above
// that, each power of two has the same number of buckets.
func bucket(v uint64) int {
	if v < 1<<histogramBits {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - histogramBits
	return (shift+1)<<histogramBits + int(v>>shift) - 1<<histogramBits
}

// least returns the smallest value of a bucket.
func least(bucket int) uint64 {
	if bucket < 1<<histogramBits {
		return uint64(bucket)
	}
	shift := bucket>>histogramBits - 1
	return uint64(bucket&(1<<histogramBits-1)+1<<histogramBits) << shift
}

// percentile returns the result of [percentile], to within 2%.
func (h *histogram) percentile(p float64) time.Duration {
	rank := max(1, int(p/100*float64(h.n)+0.999999))
	for i, count := range h.counts {
		if rank -= int(count); rank <= 0 {
			return time.Duration(least(i))
		}
	}
	return 0
}
