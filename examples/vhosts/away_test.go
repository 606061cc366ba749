package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Known virtual hosts are served all the time while Redis stops, dies or comes back.
func TestAway(t *testing.T) {
	redis := startRedis(t)
	alive := backend(t, "alive").URL
	replace(redis, "site", alive, backend(t, "was dead").URL)
	replace(redis, "*.wild.net", alive)
	redis.CLI("sadd", "dead:site", "1")
	b := start(t, redis, "-timeout", "500ms", "-dead-ttl", "2s")
	require.Equal(t, "alive", b.get(t, "site", "/").body)
	require.Equal(t, "alive", b.get(t, "a.wild.net", "/").body)
	require.Equal(t, http.StatusBadRequest, b.get(t, "unknown.net", "/").status)

	redis.Pause()
	start := time.Now()
	for range 100 { // of which each would wait for half a second
		require.Equal(t, http.StatusOK, b.get(t, "site", "/").status)
		require.Equal(t, "alive", b.get(t, "a.wild.net", "/").body)
	}
	require.Less(t, time.Since(start), 40*time.Second)
	got := b.get(t, "other.net", "/")
	require.Equal(t, http.StatusServiceUnavailable, got.status, "it may exist")
	require.NotEmpty(t, got.header.Get("Retry-After"))
	eventually(t, func() bool { return b.get(t, "site", "/").body == "was dead" }, "no mark lives longer than its TTL")
	redis.Resume()
	eventually(t, func() bool { return b.get(t, "other.net", "/").status == http.StatusBadRequest }, "answers come again")

	redis.Kill()
	for range 100 {
		require.Equal(t, http.StatusOK, b.get(t, "site", "/").status)
	}
	redis.Restart()
	replace(redis, "other.net", alive)
	eventually(t, func() bool { return b.get(t, "other.net", "/").body == "alive" }, "it connects again")
	eventually(t, func() bool { return b.get(t, "site", "/").status == http.StatusBadRequest }, "a Redis without data has no frontends")
}

// However many clients ask for new hosts while Redis is stopped, none waits for long: the client
// library's queue of commands is full then, and its calls no longer end with their context.
func TestAway_NobodyWaitsForAFullQueue(t *testing.T) {
	redis := startRedis(t)
	o, err := parseFlags([]string{"-timeout", "10ms", "-redis", "redis://" + redis.Addr}, io.Discard)
	require.NoError(t, err)
	o.lookups = 1000
	s, err := open(o.redis, o.deadTTL)
	require.NoError(t, err)
	defer s.client.Close()
	all := newVhosts(o, s)
	defer all.close()
	redis.Pause()
	defer redis.Resume()
	var clients sync.WaitGroup
	for i := range 200 {
		clients.Go(func() {
			for j := range 15 {
				begun := time.Now()
				_, _, err := all.acquire(t.Context(), fmt.Sprintf("site%d-%d", i, j))
				assert.ErrorIs(t, err, errAway)
				assert.Less(t, time.Since(begun), 5*time.Second)
			}
		})
	}
	clients.Wait()
}

// An unused vhost releases its memory. A vhost in use stays.
func TestVhosts_EndWhenUnused(t *testing.T) {
	redis := startRedis(t)
	site := backend(t, "plain").URL
	replace(redis, "plain", site)
	replace(redis, "*", talking(t, "talks"))
	b := start(t, redis, "-idle", "1ms")
	c := b.dial(t, "site")
	require.Equal(t, "plain", b.get(t, "plain", "/").body)
	eventually(t, func() bool { return b.inUse(t) == 1 }, "the one with a WebSocket is left")
	require.NoError(t, c.Close())
	eventually(t, func() bool { return b.inUse(t) == 0 }, "and ends with it")
	require.Equal(t, "plain", b.get(t, "plain", "/").body, "the next request makes another")
}

// inUse returns the metric of the vhosts in use.
func (b *instance) inUse(t *testing.T) int {
	t.Helper()
	_, after, found := strings.Cut(getWith(t, client, b.admin, "", "/metrics").body, "\nvhosts_in_use ")
	require.True(t, found)
	line, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(line)
	require.NoError(t, err)
	return n
}

// If there are too many vhosts, an idle one is removed.
func TestVhosts_AreLimited(t *testing.T) {
	redis := startRedis(t)
	for i := range 10 {
		replace(redis, "site"+strconv.Itoa(i), backend(t, strconv.Itoa(i)).URL)
	}
	replace(redis, "*", talking(t, "talks"))
	b := start(t, redis, "-max", "2")
	c := b.dial(t, "site")
	for range 3 {
		for i := range 10 {
			require.Equal(t, strconv.Itoa(i), b.get(t, "site"+strconv.Itoa(i), "/").body)
			require.LessOrEqual(t, b.inUse(t), 2)
		}
	}
	require.NoError(t, c.Close())
	b = start(t, redis, "-max", "1")
	b.dial(t, "site")
	require.Equal(t, http.StatusServiceUnavailable, b.get(t, "site1", "/").status, "all are in use")
}

// Each of thousands of vhosts takes a bounded amount of memory. With the variable SOAK there are
// ten thousand.
func TestVhosts_TakeBoundedMemory(t *testing.T) {
	n, limit := 1000, 48<<10 // bytes for each; 24 KB were measured
	if os.Getenv("SOAK") != "" {
		n = 10_000
	}
	redis := startRedis(t)
	redis.CLI("eval", `for i = 1, 10000 do redis.call("rpush", "frontend:site" .. i, "id", "http://a", "http://b") end`, "0")
	o, err := parseFlags([]string{"-interval", "100ms", "-timeout", "10s", "-redis", "redis://" + redis.Addr}, io.Discard)
	require.NoError(t, err)
	o.maxMetrics = 0 // they have a limit of their own
	o.log, o.transport = slog.New(slog.DiscardHandler), newTransport()
	s, err := open(o.redis, o.deadTTL)
	require.NoError(t, err)
	defer s.client.Close()
	all := newVhosts(o, s)
	used := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc + m.StackInuse)
	}
	before := used()
	var clients sync.WaitGroup
	for first := range 16 {
		clients.Go(func() {
			for i := first + 1; i <= n; i += 16 {
				v, release, err := all.acquire(t.Context(), "site"+strconv.Itoa(i))
				if assert.NoError(t, err) {
					assert.Len(t, v.registry.Pool.Members(), 2)
					release()
				}
			}
		})
	}
	clients.Wait()
	require.Len(t, all.list(), n)
	require.NoError(t, all.refresh(t.Context()))
	each := (used() - before) / n
	t.Logf("each of %d vhosts with two backends takes %d KB", n, each>>10)
	require.Less(t, each, limit)
	all.close()
	require.Empty(t, all.list())
}
