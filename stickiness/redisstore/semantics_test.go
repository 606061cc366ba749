package redisstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

const (
	ttl      = time.Minute
	timeout  = 200 * time.Millisecond // of a call that Redis does not answer
	patience = time.Minute            // for what must happen
)

// find asks as Learn does, and returns what a trace would show. It waits long for Redis, as
// machines are busy.
func find(t testing.TB, s *redisstore.Store, key string) string {
	t.Helper()
	return findWithin(t, s, key, patience/4)
}

// findAway is find while Redis does not answer.
func findAway(t testing.TB, s *redisstore.Store, key string) string {
	t.Helper()
	return findWithin(t, s, key, timeout)
}

func findWithin(t testing.TB, s *redisstore.Store, key string, limit time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	target, from, ok, err := s.Find(ctx, key, ttl)
	switch {
	case err != nil:
		require.False(t, ok)
		require.Empty(t, target)
		return "failed"
	case !ok:
		return "none"
	}
	return fmt.Sprint(target, " ", from)
}

// put binds as Learn does.
func put(t testing.TB, s *redisstore.Store, key, target string) error {
	t.Helper()
	return putWithin(t, s, key, target, patience/4)
}

// putAway is put while Redis does not answer.
func putAway(t testing.TB, s *redisstore.Store, key, target string) error {
	t.Helper()
	return putWithin(t, s, key, target, timeout)
}

func putWithin(t testing.TB, s *redisstore.Store, key, target string, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return s.Put(ctx, key, target, ttl)
}

// copyOf waits until the store answers from a copy.
func copyOf(t testing.TB, s *redisstore.Store, key, target string) {
	t.Helper()
	redistest.Until(t, "a copy answers", func() bool { return find(t, s, key) == target+" copied" })
}

func TestStore_Formats(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for prefix, name := range map[string]string{"": "stickylb:1:k", "p/": "p/1:k"} {
		s := newStore(t, newClient(t, single(r)), redisstore.Options{Prefix: prefix})
		require.NoError(t, s.Put(t.Context(), "k", "app-1", ttl))
		require.Equal(t, "1:app-1", r.Do("GET", name))
		left, err := strconv.Atoi(r.Do("PTTL", name))
		require.NoError(t, err)
		require.InDelta(t, ttl.Milliseconds(), left, 30_000)
		winner, err := s.Claim(t.Context(), "claimed", "app-2", ttl)
		require.NoError(t, err)
		require.Equal(t, "app-2", winner)
		require.Equal(t, "1:app-2", r.Do("GET", strings.TrimSuffix(name, "k")+"claimed"))
	}
	_, err := redisstore.New(nil, redisstore.Options{})
	require.EqualError(t, err, "redisstore: no client")
	for _, prefix := range []string{"{a}", "a{", "}"} {
		_, err = redisstore.New(newClient(t, single(r)), redisstore.Options{Prefix: prefix})
		require.ErrorContains(t, err, "has a brace")
	}
}

// A value under a session's key that no store has written is an error. It is neither used nor
// changed until the session is bound again.
func TestStore_StrangeValues(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := newStore(t, newClient(t, single(r)), redisstore.Options{})
	const name = "stickylb:1:k"
	for what, set := range map[string][]string{
		"another version": {"SET", name, "2:app-1"},
		"no version":      {"SET", name, "app-1"},
		"empty":           {"SET", name, ""},
		"binary":          {"SET", name, "\xff\x00\r\n$5\r\n"},
		"long":            {"SET", name, "1:" + strings.Repeat("x", 4097)},
		"list":            {"RPUSH", name, "1:app-1"},
		"hash":            {"HSET", name, "1:app-1", "x"},
		"stream":          {"XADD", name, "*", "1:", "x"},
	} {
		t.Run(what, func(t *testing.T) {
			require.NoError(t, put(t, s, "k", "app-9"))
			require.Equal(t, "app-9 asked", find(t, s, "k"))
			r.Do("DEL", name)
			r.Do(set...)
			kind := r.Do("TYPE", name)
			for range 3 {
				_, _, err := s.Get(t.Context(), "k", ttl)
				require.ErrorContains(t, err, "not a session of this version")
				_, err = s.Claim(t.Context(), "k", "app-2", ttl)
				require.Error(t, err)
			}
			require.Equal(t, kind, r.Do("TYPE", name))
			require.Equal(t, "-1", r.Do("PTTL", name))
			require.NoError(t, put(t, s, "k", "app-2"))
			require.Equal(t, "app-2 asked", find(t, s, "k"))
		})
	}

	// A value without an end is a session that nobody extends or ends.
	r.Do("SET", "stickylb:1:eternal", "1:app-1")
	require.Equal(t, "app-1 asked", find(t, s, "eternal"))
	copyOf(t, s, "eternal", "app-1")
	require.Equal(t, "-1", r.Do("PTTL", "stickylb:1:eternal"))
	require.ErrorContains(t, s.Put(t.Context(), "k", strings.Repeat("x", 4097), ttl), "4097 octets")
}

// A copy is used until the session changes. The store that changes the session sees the change at
// once.
func TestStore_Copies(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one := newStore(t, newClient(t, single(r)), redisstore.Options{Local: time.Hour})
	two := newStore(t, newClient(t, single(r)), redisstore.Options{Local: time.Hour})
	require.NoError(t, put(t, one, "k", "app-1"))
	copyOf(t, two, "k", "app-1")
	require.NoError(t, put(t, one, "k", "app-2"))
	require.Equal(t, "app-2 asked", find(t, one, "k"))
	redistest.Until(t, "the other one sees it", func() bool { return strings.HasPrefix(find(t, two, "k"), "app-2 ") })
	copyOf(t, one, "k", "app-2")
	copyOf(t, two, "k", "app-2")

	for i := range 200 {
		target := fmt.Sprint("app-", i)
		require.NoError(t, put(t, one, "k", target))
		require.Equal(t, target+" asked", find(t, one, "k"))
	}
	copyOf(t, two, "k", "app-199")
	r.Do("DEL", "stickylb:1:k")
	redistest.Until(t, "the session has ended for all", func() bool { return find(t, two, "k") == "none" })
	winner, err := two.Claim(t.Context(), "k", "app-3", ttl)
	require.NoError(t, err)
	require.Equal(t, "app-3", winner)
	require.Equal(t, "app-3 asked", find(t, one, "k"), "that there was no session is no copy")

	off := newStore(t, newClient(t, single(r)), redisstore.Options{Local: -1})
	for range 20 {
		require.Equal(t, "app-3 asked", find(t, off, "k"))
	}
}

// After FLUSHALL, balancers use neither copies nor remembered targets.
func TestStore_Flush(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := newStore(t, newClient(t, single(r)), redisstore.Options{Local: time.Hour})
	require.NoError(t, put(t, s, "k", "app-1"))
	copyOf(t, s, "k", "app-1")
	r.Do("FLUSHALL")
	redistest.Until(t, "the session has ended", func() bool { return find(t, s, "k") == "none" })
	r.Kill()
	require.Equal(t, "failed", findAway(t, s, "k"), "Redis has said that there is none")
}

// While Redis cannot be asked, the last known target is used. The next answer of Redis is used
// again.
func TestStore_Outage(t *testing.T) {
	t.Parallel()
	type outage struct{ begin, end func(r *redistest.Server) }
	outages := map[string]outage{
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Restart},
		"frozen": {(*redistest.Server).Freeze, (*redistest.Server).Thaw},
		"paused": {
			func(r *redistest.Server) { r.Do("CLIENT", "PAUSE", "5000", "ALL") },
			(*redistest.Server).AwaitReady,
		},
	}
	for name, o := range outages {
		for _, local := range []time.Duration{0, -1} {
			t.Run(fmt.Sprint(name, "/local=", local), func(t *testing.T) {
				t.Parallel()
				r := redistest.Start(t)
				s := newStore(t, newClient(t, single(r)), redisstore.Options{Local: local})
				forgetful := newStore(t, newClient(t, single(r)), redisstore.Options{Local: local, Remember: -1})
				require.NoError(t, put(t, s, "k", "app-1"))
				require.NoError(t, put(t, s, "read", "app-1"))
				require.Equal(t, "app-1 asked", find(t, s, "read"))
				require.Equal(t, "app-1 asked", find(t, forgetful, "k"))
				require.Equal(t, "none", find(t, s, "unknown"))

				o.begin(r)
				for range 3 {
					require.Equal(t, "app-1 remembered", findAway(t, s, "k"))
					require.Equal(t, "app-1 remembered", findAway(t, s, "read"))
				}
				require.Equal(t, "failed", findAway(t, s, "unknown"))
				require.Equal(t, "failed", findAway(t, s, "never seen"))
				require.Equal(t, "failed", findAway(t, forgetful, "k"))
				require.Error(t, putAway(t, s, "new", "app-2"))
				require.Equal(t, "app-2 remembered", findAway(t, s, "new"), "Redis is told later")
				require.Error(t, putAway(t, forgetful, "new", "app-3"))
				require.Equal(t, "failed", findAway(t, forgetful, "new"))

				o.end(r)
				redistest.Until(t, "Redis is asked again", func() bool {
					said := findAway(t, s, "new")
					require.Contains(t, []string{"app-2 remembered", "app-2 asked", "app-3 asked"}, said)
					return strings.HasSuffix(said, "asked")
				})
				if name == "killed" { // what was only in Redis is lost
					require.Equal(t, "none", find(t, s, "k"))
					require.Equal(t, "1:app-2", r.Do("GET", "stickylb:1:new"))
				} else {
					require.Equal(t, "app-1 asked", find(t, s, "k"))
				}
			})
		}
	}
}

// No call lasts longer than its deadline, whether it is the first one or joins another, and none
// leaves a goroutine. No other test runs beside this one.
func TestStore_Deadlines(t *testing.T) {
	t.Run("single", func(t *testing.T) {
		r := redistest.Start(t)
		deadlines(t, single(r), r, 5)
	})
	// The client finds that connections are dead and dials on its own meanwhile.
	t.Run("Cluster", func(t *testing.T) {
		c := redistest.StartCluster(t)
		o := rueidis.ClientOption{InitAddress: c.Addrs(), ConnWriteTimeout: time.Second}
		deadlines(t, o, c.PrimaryOf("stickylb:1:k"), 15)
	})
}

func deadlines(t *testing.T, o rueidis.ClientOption, r *redistest.Server, rounds int) {
	s := newStore(t, newClient(t, o), redisstore.Options{})
	forgetful := newStore(t, newClient(t, o), redisstore.Options{Local: -1, Remember: -1})
	require.NoError(t, put(t, s, "k", "app-1"))
	copyOf(t, s, "k", "app-1")
	r.Freeze()
	const callers = 20
	var wg sync.WaitGroup
	longest := make(chan time.Duration, callers*rounds)
	for i := range callers {
		wg.Go(func() {
			for j := range rounds {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				start := time.Now()
				switch (i + j) % 4 {
				case 0:
					s.Find(ctx, "k", ttl)
				case 1:
					s.Find(ctx, strconv.Itoa(i), ttl)
				case 2:
					s.Put(ctx, strconv.Itoa(i), "app-1", ttl)
				case 3:
					s.Claim(ctx, strconv.Itoa(i), "app-1", ttl)
				}
				longest <- time.Since(start)
				<-ctx.Done()
				cancel()
			}
		})
	}
	wg.Wait()
	close(longest)
	for took := range longest {
		require.Less(t, took, timeout+2*time.Second)
	}

	start := time.Now()
	forgetful.Get(context.Background(), "k", ttl)
	require.Less(t, time.Since(start), 4*time.Second, "a call without a deadline ends after a second")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := forgetful.Get(ctx, "k", ttl)
	require.ErrorIs(t, err, context.Canceled)
	r.Thaw()
	redistest.Until(t, "Redis is asked again", func() bool { return find(t, s, "other") == "none" })
	redistest.Until(t, "no goroutine of a store is left", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "redisstore.(*Store)")
	})
}

// No call lasts longer than its deadline, though more come at once than the client's queues have
// room for, and though Redis has just answered.
func TestStore_DeadlinesOfMany(t *testing.T) {
	t.Parallel()
	const callers = 2_000
	r := redistest.Start(t)
	o := single(r)
	o.ConnWriteTimeout = patience // the client does not notice
	o.RingScaleEachConn = 7       // room for 128 calls on each of up to four connections
	s := newStore(t, newClient(t, o), redisstore.Options{})
	require.NoError(t, put(t, s, "k", "app-1"))
	r.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var ended sync.WaitGroup
	for i := range callers {
		ended.Go(func() {
			if i%2 == 0 {
				s.Find(ctx, strconv.Itoa(i), ttl)
			} else {
				s.Put(ctx, strconv.Itoa(i), "app-1", ttl)
			}
		})
	}
	all := make(chan struct{})
	go func() {
		ended.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(patience / 3):
		require.Fail(t, "calls outlast their context")
	}
	r.Thaw()
	<-all
}

// When Redis has not answered for a while, most calls do not wait for it.
func TestStore_Rests(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	o := single(r)
	o.ConnWriteTimeout = patience // the client does not notice
	s := newStore(t, newClient(t, o), redisstore.Options{})
	require.NoError(t, put(t, s, "k", "app-1"))
	r.Freeze()
	calls := func(n int, timeout time.Duration) (results chan string) {
		results = make(chan string, n)
		for range n {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				defer cancel()
				target, from, ok, err := s.Find(ctx, "k", ttl)
				results <- fmt.Sprint(target, " ", from, " ", ok, " ", err)
			}()
		}
		return results
	}
	few := calls(10, 1200*time.Millisecond)
	for range cap(few) { // more than a second, but not many failures
		require.Equal(t, "app-1 remembered true <nil>", <-few)
	}
	many := calls(100, 10*time.Millisecond)
	for range cap(many) {
		require.Equal(t, "app-1 remembered true <nil>", <-many)
	}
	waiting := calls(50, patience)
	for range 10 { // at most one each 100 ms waits
		select {
		case result := <-waiting:
			require.Equal(t, "app-1 remembered true <nil>", result)
		case <-time.After(patience / 2):
			require.Fail(t, "all calls wait")
		}
	}
	r.Thaw()
	redistest.Until(t, "Redis is asked again", func() bool { return find(t, s, "k") == "app-1 asked" })
	for range cap(waiting) - 10 {
		require.Contains(t, <-waiting, "app-1 ")
	}
}

// A call that joins another one of the same session in the client does not end with it.
func TestStore_CallsDoNotEndTogether(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	o := single(r)
	o.DisableRetry = true // or else the client itself asks again
	s := newStore(t, newClient(t, o), redisstore.Options{Local: time.Hour})
	for i := range 5 {
		key, name := strconv.Itoa(i), "stickylb:1:"+strconv.Itoa(i)
		r.Do("SET", name, "1:app-1", "PX", "60000")
		require.Equal(t, "app-1 asked", find(t, s, key))
		r.Do("SET", name, "1:app-2", "PX", "60000")
		r.Freeze()
		both, cancelBoth := context.WithTimeout(t.Context(), patience)
		defer cancelBoth()
		first, cancel := context.WithCancel(both)
		var wg sync.WaitGroup
		wg.Go(func() { s.Find(first, key, ttl) })
		time.Sleep(20 * time.Millisecond) // so that the second one most likely joins the first
		wg.Go(func() {
			target, from, ok, err := s.Find(both, key, ttl)
			assert.Equal(t, "app-2 asked true <nil>", fmt.Sprint(target, " ", from, " ", ok, " ", err))
		})
		time.Sleep(20 * time.Millisecond)
		cancel()
		time.Sleep(20 * time.Millisecond)
		r.Thaw()
		wg.Wait()
	}
}

// Redis answers reads and refuses writes.
func TestStore_RefusesWrites(t *testing.T) {
	t.Parallel()
	refuse := map[string]func(r *redistest.Server){
		"full":        func(r *redistest.Server) { r.Do("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1") },
		"read-only":   func(r *redistest.Server) { r.Do("REPLICAOF", "127.0.0.1", "1") },
		"no replicas": func(r *redistest.Server) { r.Do("CONFIG", "SET", "min-replicas-to-write", "1") },
	}
	for name, begin := range refuse {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			s := newStore(t, newClient(t, single(r)), redisstore.Options{})
			require.NoError(t, put(t, s, "k", "app-1"))
			r.Do("SET", "stickylb:1:old", "1:app-1", "PX", "30000") // half of its time has passed
			begin(r)
			require.Equal(t, "app-1 asked", find(t, s, "k"))
			require.Equal(t, "app-1 asked", find(t, s, "old"), "it is read, though not extended")
			require.Error(t, put(t, s, "new", "app-2"))
			_, err := s.Claim(t.Context(), "claimed", "app-2", ttl)
			require.Error(t, err)
			require.Equal(t, "app-2 remembered", find(t, s, "new"))
			require.Equal(t, "none", find(t, s, "unknown"))
			r.Do("CONFIG", "SET", "maxmemory", "0", "min-replicas-to-write", "0")
			r.Do("REPLICAOF", "NO", "ONE")
			require.Equal(t, "app-2 asked", find(t, s, "new"))
			require.Equal(t, "1:app-2", r.Do("GET", "stickylb:1:new"))
		})
	}
}

// A server that loads its data refuses to answer until it has loaded them.
func TestStore_Loading(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
	s := newStore(t, newClient(t, single(r)), redisstore.Options{})
	require.NoError(t, put(t, s, "k", "app-1"))
	r.Do("DEBUG", "POPULATE", "2000")
	r.Do("SAVE")
	r.Kill()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		r.Restart()
	}()
	redistest.Until(t, "it loads", func() bool {
		_, err := r.Try("PING")
		return err != nil && strings.HasPrefix(err.Error(), "LOADING")
	})
	require.Equal(t, "app-1 remembered", findAway(t, s, "k"))
	require.Error(t, putAway(t, s, "new", "app-2"))
	<-loaded
	redistest.Until(t, "Redis is asked again", func() bool { return findAway(t, s, "k") == "app-1 asked" })
	require.Equal(t, "app-2 asked", find(t, s, "new"))
}

// If Redis's message about a change is lost, a copy is used until Local has passed.
func TestStore_CopiesEndAfterLocal(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := newStore(t, newClient(t, user(r, "")), redisstore.Options{Local: 200 * time.Millisecond})
	r.Do("ACL", "SETUSER", "balancer", "-client|caching")
	require.NoError(t, put(t, s, "k", "app-1"))
	copyOf(t, s, "k", "app-1")
	r.Do("SET", "stickylb:1:k", "1:app-2", "PX", "60000")
	copyOf(t, s, "k", "app-2")
}

// The first balancer that reads a session after a part of its time has passed extends it.
func TestStore_Extends(t *testing.T) {
	t.Parallel()
	const short, lasts = 10 * time.Second, 3 * time.Second
	r := redistest.Start(t)
	stores := make([]*redisstore.Store, 3)
	for i := range stores {
		stores[i] = newStore(t, newClient(t, single(r)), redisstore.Options{})
	}
	start := time.Now()
	require.NoError(t, stores[0].Put(t.Context(), "k", "app-1", short))
	r.Do("CONFIG", "RESETSTAT")
	for time.Since(start) < lasts {
		for _, s := range stores {
			target, ok, err := s.Get(t.Context(), "k", short)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, "app-1", target)
		}
		time.Sleep(time.Millisecond) // a machine under load may take longer
	}
	left, err := strconv.Atoi(r.Do("PTTL", "stickylb:1:k"))
	require.NoError(t, err)
	require.Greater(t, time.Duration(left)*time.Millisecond, short-lasts, "it ends later than without calls")
	stats := r.Do("INFO", "commandstats")
	n := calls(stats, "pexpire")
	// Between a twentieth and a tenth of the time lie between two extensions.
	most := int(time.Since(start)/(short/20)) + 1
	require.Positive(t, n)
	require.LessOrEqual(t, n, most)
	require.Zero(t, calls(stats, "getex"))
	t.Log(n, "extensions in", time.Since(start), "at most", most)
}

// calls returns how often a server ran a command.
func calls(stats, command string) int {
	_, line, _ := strings.Cut(stats, "cmdstat_"+command+":calls=")
	number, _, _ := strings.Cut(line, ",")
	n, _ := strconv.Atoi(number)
	return n
}

// A warning says that Redis cannot be asked, and not more than once a minute.
func TestStore_Warns(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	var out strings.Builder
	s := newStore(t, newClient(t, single(r)), redisstore.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	require.NoError(t, put(t, s, "k", "app-1"))
	require.Empty(t, out.String())
	r.Kill()
	for range 5 {
		findAway(t, s, "k")
	}
	require.Equal(t, 1, strings.Count(out.String(), "Redis fails"))
	require.NotContains(t, out.String(), "app-1")
}
