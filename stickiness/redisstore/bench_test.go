package redisstore_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// BenchmarkStoreFind looks up one session: in a copy, in Redis, in Redis so that a copy remains,
// and beside that with a bare GET of the client and in a MemoryStore. All take turns, because a
// machine is not equally fast all the time. The results are medians.
func BenchmarkStoreFind(b *testing.B) {
	r := redistest.Start(b)
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour) // as Learn's, whose own cost is not measured
	defer cancel()
	const long = time.Hour
	find := func(local time.Duration, from stickiness.Origin) func() bool {
		s := newStore(b, newClient(b, single(r)), redisstore.Options{Local: local})
		require.NoError(b, s.Put(ctx, "k", "app-1", long))
		return func() bool {
			target, how, ok, err := s.Find(ctx, "k", long)
			return err == nil && ok && target == "app-1" && how == from
		}
	}
	c := newClient(b, single(r))
	var memory stickiness.MemoryStore
	require.NoError(b, memory.Put(ctx, "k", "app-1", long))
	get := func() bool { return c.Do(ctx, c.B().Get().Key("stickylb:1:k").Build()).Error() == nil }
	kinds := []struct {
		name string
		call func() bool // reports whether the result is that of its kind
		took []time.Duration
	}{
		{name: "copied", call: find(0, stickiness.Copied)},
		{name: "memory", call: func() bool { _, ok, _ := memory.Get(ctx, "k", long); return ok }},
		{name: "first", call: get}, // wakes the server up
		{name: "GET", call: get},
		{name: "asked", call: find(-1, stickiness.Asked)},
		{name: "tracked", call: find(1, stickiness.Asked)}, // a copy has always just ended
	}
	time.Sleep(1100 * time.Millisecond) // until copies may answer again
	for b.Loop() {
		for i := range kinds {
			k := &kinds[i]
			start := time.Now()
			ok := k.call()
			if took := time.Since(start); ok {
				k.took = append(k.took, took)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, k := range kinds {
		if len(k.took) < b.N/2 {
			b.Errorf("%s: %d of %d", k.name, len(k.took), b.N)
			continue
		}
		slices.Sort(k.took)
		b.ReportMetric(float64(k.took[len(k.took)/2].Nanoseconds()), "ns/"+k.name)
	}
}
