package redisstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// BenchmarkStoreFind looks up one session: in a copy, in Redis, in Redis so that a copy remains,
// and beside that with the client alone and in a MemoryStore.
func BenchmarkStoreFind(b *testing.B) {
	r := redistest.Start(b)
	c := newClient(b, single(r))
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour) // as Learn's, whose own cost is not measured
	defer cancel()
	const long = time.Hour
	for _, tt := range []struct {
		name  string
		local time.Duration
		from  stickiness.Origin
	}{
		{"copy", 0, stickiness.Copied},
		{"asked", -1, stickiness.Asked},
		{"tracked", 1, stickiness.Asked}, // a copy has always just ended
	} {
		s := newStore(b, c, redisstore.Options{Local: tt.local})
		require.NoError(b, s.Put(ctx, "k", "app-1", long))
		time.Sleep(1100 * time.Millisecond) // until copies may answer again
		b.Run("kind="+tt.name, func(b *testing.B) {
			b.ReportAllocs()
			n, other := 0, 0
			for b.Loop() {
				target, from, ok, err := s.Find(ctx, "k", long)
				if err != nil || !ok || target != "app-1" {
					b.Fatal(target, ok, err)
				}
				if n++; from != tt.from {
					other++
				}
			}
			if tt.local != 0 && other > 0 || other > 10+n/1000 {
				b.Fatalf("%d of %d answers are not %s", other, n, tt.from)
			}
		})
	}
	b.Run("kind=GET", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Do(ctx, c.B().Get().Key("stickylb:1:k").Build()).ToString(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kind=memory", func(b *testing.B) {
		var s stickiness.MemoryStore
		require.NoError(b, s.Put(ctx, "k", "app-1", long))
		b.ReportAllocs()
		for b.Loop() {
			s.Get(ctx, "k", long)
		}
	})
}
