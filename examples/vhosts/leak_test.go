//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
)

// held waits until the process holds at most so many goroutines and descriptors, and returns their
// number. Nothing else may run at the same time.
func held(t *testing.T, most int) int {
	t.Helper()
	now := 0
	for range int(patience / glance) {
		files, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		if now = runtime.NumGoroutine() + len(files); now <= most {
			break
		}
		time.Sleep(glance)
	}
	require.LessOrEqual(t, now, most, "something is left")
	return now
}

// Vhosts that end while the program runs leave no goroutines, connections and metrics behind, and
// neither does the program.
func TestVhosts_LeaveNothingBehind(t *testing.T) {
	const sites = 50
	redis := startRedis(t)
	alive := backend(t, "alive").URL
	for i := range sites {
		replace(redis, fmt.Sprint("site", i), alive, refusing(t))
	}
	replace(redis, "*", talking(t, "talks"))
	client.CloseIdleConnections()
	const any = 1 << 30
	before := held(t, any)
	t.Run("run", func(t *testing.T) {
		b := start(t, redis, "-idle", "1ms")
		round := func() {
			for i := range sites {
				require.Equal(t, "alive", b.get(t, fmt.Sprint("site", i), "/").body)
				c := b.dial(t, "any")
				require.NoError(t, websocket.Message.Send(c, "hi"))
				require.NoError(t, c.Close())
			}
			for b.inUse(t) > 0 {
				time.Sleep(glance)
			}
		}
		round()
		time.Sleep(10 * glance)
		after := held(t, any)
		for range 3 {
			round()
		}
		held(t, after+sites/5) // some connections to Redis and to clients may come and go
		require.NotContains(t, getWith(t, client, b.admin, "", "/metrics").body, `pool="`)
	})
	client.CloseIdleConnections()
	held(t, before)
}
