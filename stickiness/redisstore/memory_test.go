package redisstore_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// The memory of a balancer is limited for any number of sessions. With SOAK set, the test has
// 1,000,000 sessions.
func TestStore_Memory(t *testing.T) {
	sessions := 2_000
	if os.Getenv("SOAK") != "" {
		sessions = 1_000_000
	}
	const (
		cache       = 8 << 20
		connections = 4   // at most: rueidis opens as many as there are processors
		perSession  = 250 // octets of what the store remembers of one
	)
	r := redistest.Start(t)
	o := single(r)
	o.CacheSizeEachConn = cache
	c := newClient(t, o)
	s := newStore(t, c, redisstore.Options{Local: time.Hour})
	keys := make([]string, sessions)
	for i := range keys {
		var b [16]byte
		rand.Read(b[:])
		keys[i] = base64.RawURLEncoding.EncodeToString(b[:])
	}
	before, empty := heap(), used(t, r)
	each(t, keys, func(ctx context.Context, i int) error {
		return s.Put(ctx, keys[i], fmt.Sprint("app-", i%10), 24*time.Hour)
	})
	stored := float64(used(t, r)-empty) / float64(sessions)
	time.Sleep(1100 * time.Millisecond) // until copies may answer
	var copied atomic.Int64
	read := func(ctx context.Context, i int) error {
		_, from, ok, err := s.Find(ctx, keys[i], 24*time.Hour)
		if from == stickiness.Copied {
			copied.Add(1)
		}
		if err == nil && !ok {
			err = errors.New("a session is lost")
		}
		return err
	}
	each(t, keys, read) // asks for the end
	remembers := heap() - before
	each(t, keys, read) // makes a copy
	tracked := float64(used(t, r)-empty) / float64(sessions)
	grown := heap() - before
	copied.Store(0)
	slices.Reverse(keys) // the newest copies first
	each(t, keys, read)
	t.Logf("%d sessions. In Redis: %.0f octets each by used_memory, %s by MEMORY USAGE, %.0f while tracked. "+
		"In the balancer: %.0f octets each and %d KiB of copies; %d copies",
		sessions, stored, r.Do("MEMORY", "USAGE", "stickylb:1:"+keys[0]), tracked,
		float64(remembers)/float64(sessions), (grown-remembers)>>10, copied.Load())
	require.Positive(t, copied.Load())
	require.Less(t, remembers, int64(4<<20+perSession*sessions))
	require.Less(t, grown-remembers, int64(4<<20+connections*cache))
	runtime.KeepAlive(s)
}

// each calls f for all keys, several at a time.
func each(t testing.TB, keys []string, f func(ctx context.Context, i int) error) {
	t.Helper()
	const workers = 64
	var wg sync.WaitGroup
	failed := make(chan error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(keys); i += workers {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				err := f(ctx, i)
				cancel()
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		require.NoError(t, err)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func used(t testing.TB, r *redistest.Server) int {
	t.Helper()
	_, line, _ := strings.Cut(r.Do("INFO", "memory"), "used_memory:")
	number, _, _ := strings.Cut(line, "\r\n")
	n, err := strconv.Atoi(number)
	require.NoError(t, err)
	return n
}
