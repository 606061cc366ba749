package underway_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

func TestHolderOf_B5(t *testing.T) {
	addr := netip.MustParseAddr
	tests := map[string]struct {
		a, b underway.Holder
		same bool
	}{
		"one key":                 {underway.HolderOf("k", addr("192.0.2.1")), underway.HolderOf("k", addr("192.0.2.2")), true},
		"two keys":                {underway.HolderOf("k", addr("192.0.2.1")), underway.HolderOf("K", addr("192.0.2.1")), false},
		"two IPv4 addresses":      {underway.HolderOf("", addr("192.0.2.1")), underway.HolderOf("", addr("192.0.2.2")), false},
		"mapped":                  {underway.HolderOf("", addr("192.0.2.1")), underway.HolderOf("", addr("::ffff:192.0.2.1")), true},
		"one /64":                 {underway.HolderOf("", addr("2001:db8::1")), underway.HolderOf("", addr("2001:db8::ffff:0:1")), true},
		"two /64":                 {underway.HolderOf("", addr("2001:db8::1")), underway.HolderOf("", addr("2001:db8:0:1::1")), false},
		"zones":                   {underway.HolderOf("", addr("fe80::1%eth0")), underway.HolderOf("", addr("fe80::1%eth1")), true},
		"unknown":                 {underway.HolderOf("", netip.Addr{}), underway.HolderOf("", netip.Addr{}), true},
		"unknown and unspecified": {underway.HolderOf("", netip.Addr{}), underway.HolderOf("", addr("::")), false},
		"a key like an address":   {underway.HolderOf("192.0.2.1", netip.Addr{}), underway.HolderOf("", addr("192.0.2.1")), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.same, tt.a == tt.b) })
	}
}

func TestShares_B4_Limit(t *testing.T) {
	var s underway.Shares
	a, b := underway.HolderOf("a", netip.Addr{}), underway.HolderOf("b", netip.Addr{})
	none, ok := s.Take(a, 0)
	require.True(t, ok)
	require.Nil(t, none)
	none.Free()
	one, ok := s.Take(a, 2)
	require.True(t, ok)
	_, ok = s.Take(a, 2)
	require.True(t, ok)
	for range 3 {
		_, ok = s.Take(a, 2)
		require.False(t, ok)
	}
	other, ok := s.Take(b, 2)
	require.True(t, ok, "another holder's")
	one.Free()
	one, ok = s.Take(a, 2)
	require.True(t, ok, "freed")
	one.Free()
	one.Free()
	other.Free()
	again, ok := s.Take(a, 1)
	require.True(t, ok, "all freed")
	again.Free()
}

// No holder ever has more than its limit, however many goroutines ask at a time. In the end nothing
// is counted.
func TestShares_B4_ConcurrentUse(t *testing.T) {
	const limit, holders, workers = 3, 4, 16
	var s underway.Shares
	var have [holders]atomic.Int64
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := range 2000 {
				n := (w + i) % holders
				share, ok := s.Take(underway.HolderOf(fmt.Sprint("tenant ", n), netip.Addr{}), limit)
				if !ok {
					continue
				}
				if have[n].Add(1) > limit {
					t.Error("more than the limit")
				}
				runtime.Gosched()
				have[n].Add(-1)
				share.Free()
			}
		})
	}
	running.Wait()
	for n := range holders {
		for range limit {
			_, ok := s.Take(underway.HolderOf(fmt.Sprint("tenant ", n), netip.Addr{}), limit)
			require.True(t, ok)
		}
	}
}

// Keys that clients choose take memory only while they have work in progress.
func TestShares_B4_HoldersVanish(t *testing.T) {
	var s underway.Shares
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	shares := make([]*underway.Share, 100_000)
	for i := range shares {
		share, ok := s.Take(underway.HolderOf(fmt.Sprintf("hostile key %020d", i), netip.Addr{}), 1)
		require.True(t, ok)
		shares[i] = share
	}
	require.Greater(t, heap(), before+10<<20)
	for i, share := range shares {
		share.Free()
		shares[i] = nil
	}
	shares = nil
	require.Less(t, heap(), before+1<<20)
	runtime.KeepAlive(&s)
}

func BenchmarkSharesTake(b *testing.B) {
	h := underway.HolderOf("", netip.MustParseAddr("192.0.2.1"))
	for _, limit := range []int{0, 100} {
		b.Run(fmt.Sprintf("limit=%d", limit), func(b *testing.B) {
			var s underway.Shares
			b.ReportAllocs()
			for b.Loop() {
				share, _ := s.Take(h, limit)
				share.Free()
			}
		})
	}
}
