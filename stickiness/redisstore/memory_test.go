package redisstore_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// The memory of a balancer is limited, whatever the number of sessions. With SOAK set, there are
// 1,000,000 of them.
func TestStore_Memory(t *testing.T) {
	sessions := 5_000
	const cache, remember = 8 << 20, 1000
	if os.Getenv("SOAK") != "" {
		sessions = 1_000_000
	}
	r := redistest.Start(t)
	o := single(r)
	o.CacheSizeEachConn = cache
	c := newClient(t, o)
	s := newStore(t, c, redisstore.Options{Local: time.Hour, Remember: remember})
	keys := make([]string, sessions)
	for i := range keys {
		var b [16]byte
		rand.Read(b[:])
		keys[i] = base64.RawURLEncoding.EncodeToString(b[:])
	}
	before, empty := heap(), used(t, r)
	each(t, keys, func(ctx context.Context, i int) error {
		return s.Put(ctx, keys[i], fmt.Sprint("app-", i%10), time.Hour)
	})
	perSession := float64(used(t, r)-empty) / float64(sessions)
	for range 3 { // the first reads of a session are no copies
		each(t, keys, func(ctx context.Context, i int) error {
			target, ok, err := s.Get(ctx, keys[i], time.Hour)
			if err == nil && (!ok || target != fmt.Sprint("app-", i%10)) {
				err = fmt.Errorf("%q, %v", target, ok)
			}
			return err
		})
	}
	grown := heap() - before
	t.Logf("%d sessions: %.0f octets each in Redis by used_memory, %s by MEMORY USAGE; %d KiB of heap in the balancer, %.0f octets each by used_memory while tracked",
		sessions, perSession, r.Do("MEMORY", "USAGE", "stickylb:1:"+keys[0]), grown>>10, float64(used(t, r)-empty)/float64(sessions))
	const connections = 4 // at most: rueidis opens as many as there are processors
	require.Less(t, grown, int64(connections*cache+8<<20))
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
