package redisstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// A lines is a log that a test reads while a store writes.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// commands are those that a store on one server needs. Redis lets everybody run HELLO.
var commands = []string{"client|tracking", "client|caching", "get", "set", "pttl", "pexpire"}

// user makes a user who has all commands but one, and returns the options of its client.
func user(r *redistest.Server, without string) rueidis.ClientOption {
	allow(r, slices.DeleteFunc(slices.Clone(commands), func(c string) bool { return c == without })...)
	o := single(r)
	o.Username, o.Password = name, password
	return o
}

const name, password = "balancer", "secret"

// allow makes a user who has some commands.
func allow(r *redistest.Server, commands ...string) {
	rules := []string{"ACL", "SETUSER", name, "reset", "on", ">" + password, "~stickylb:*"}
	for _, c := range commands {
		rules = append(rules, "+"+c)
	}
	r.Do(rules...)
}

// half binds a session so that half of its time has passed.
func half(r *redistest.Server, key string) { r.Do("SET", "stickylb:1:"+key, "1:app-1", "PX", "30000") }

func extended(t testing.TB, r *redistest.Server, key string) bool {
	t.Helper()
	var left int
	_, err := fmt.Sscan(r.Do("PTTL", "stickylb:1:"+key), &left)
	require.NoError(t, err)
	return left > 30_000
}

// The user of the balancers needs these commands and no others. Without one of them, this is what
// fails.
func TestStore_ACL(t *testing.T) {
	t.Parallel()
	type result struct {
		client, put, first, claim string
		extends, copies           bool
	}
	good := result{"ok", "ok", "app-1 asked", "app-1", true, true}
	with := func(change func(r *result)) result {
		changed := good
		change(&changed)
		return changed
	}
	for without, want := range map[string]result{
		"":                good,
		"client|tracking": {client: "failed"},
		"client|caching":  with(func(r *result) { r.copies = false }),
		"get":             with(func(r *result) { r.first, r.extends, r.copies = "failed", false, false }),
		"set":             with(func(r *result) { r.put, r.claim, r.copies = "failed", "failed", false }),
		"pttl":            with(func(r *result) { r.first, r.extends, r.copies = "failed", false, false }),
		"pexpire":         with(func(r *result) { r.extends = false }),
	} {
		t.Run("without "+without, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			r.Do("SET", "stickylb:1:claimed", "1:app-1", "PX", "60000")
			half(r, "old")
			said := func(err error) string {
				if err != nil {
					return "failed"
				}
				return "ok"
			}
			c, err := rueidis.NewClient(user(r, without))
			got := result{client: said(err)}
			var s *redisstore.Store
			if err == nil {
				defer c.Close()
				s = newStore(t, c, redisstore.Options{Remember: -1})
				got.put = said(put(t, s, "k", "app-1"))
				got.first = find(t, s, "old")
				if got.claim, err = s.Claim(t.Context(), "claimed", "app-2", ttl); err != nil {
					got.claim = "failed"
				}
				got.extends = extended(t, r, "old")
				for range 20 {
					got.copies = got.copies || find(t, s, "old") == "app-1 copied"
				}
			}
			require.Equal(t, want, got)
			if without == "" {
				redistest.Until(t, "the client has sent a PING", func() bool {
					return strings.Contains(r.Do("ACL", "LOG"), "\nping\n")
				})
				copyOf(t, s, "old", "app-1")
				require.ErrorContains(t, c.Do(t.Context(), c.B().Get().Key("other").Build()).Error(), "NOPERM")
			}
		})
	}
}

// In a Cluster and with Sentinel, the client itself needs some more commands.
func TestStore_ACLOfSeveralServers(t *testing.T) {
	t.Parallel()
	works := func(t *testing.T, o rueidis.ClientOption) {
		o.Username, o.Password = name, password
		s := newStore(t, newClient(t, o), redisstore.Options{})
		for _, key := range []string{"a", "b", "c", "d", "e"} {
			require.NoError(t, put(t, s, key, "app-1"))
			copyOf(t, s, key, "app-1")
		}
	}
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		c := redistest.StartCluster(t)
		for _, r := range c.Nodes {
			allow(r, append([]string{"cluster|slots", "cluster|shards", "asking"}, commands...)...)
		}
		works(t, rueidis.ClientOption{InitAddress: c.Addrs()})
	})
	t.Run("Sentinel", func(t *testing.T) {
		t.Parallel()
		c := redistest.StartSentinel(t)
		for _, r := range c.Servers {
			allow(r, append([]string{"role"}, commands...)...)
		}
		works(t, rueidis.ClientOption{InitAddress: c.Addrs(), Sentinel: rueidis.SentinelOption{MasterSet: c.Name}})
	})
}

// New says why there are no copies.
func TestNew_FindsOutWhetherCopiesAreKept(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	none, plain := single(r), single(r)
	none.DisableCache = true
	plain.DisableCache, plain.AlwaysRESP2 = true, true
	broadcast := single(r)
	broadcast.ClientTrackingOptions = []string{"PREFIX", "stickylb:", "BCAST"}
	for name, tt := range map[string]struct {
		o      rueidis.ClientOption
		says   string
		copies bool
	}{
		"all is well":           {single(r), "", true},
		"by broadcast":          {broadcast, "", true},
		"no client|caching":     {user(r, "client|caching"), "is +client|caching missing?", false},
		"no copies":             {none, "the client keeps no copies", false},
		"no copies, over RESP2": {plain, "the client keeps no copies", false},
	} {
		t.Run(name, func(t *testing.T) {
			var log lines
			s := newStore(t, newClient(t, tt.o), redisstore.Options{Logger: log.logger()})
			if tt.says == "" {
				require.Empty(t, log.String())
			} else {
				require.Equal(t, 1, strings.Count(log.String(), "\n"))
				require.Contains(t, log.String(), tt.says)
			}
			require.NoError(t, put(t, s, "k", "app-1"))
			if tt.copies {
				copyOf(t, s, "k", "app-1")
				return
			}
			for range 20 {
				require.Equal(t, "app-1 asked", find(t, s, "k"))
			}
		})
	}

	var log lines
	off := newStore(t, newClient(t, user(r, "client|caching")), redisstore.Options{Local: -1, Logger: log.logger()})
	require.NoError(t, put(t, off, "k", "app-1"))
	require.Empty(t, log.String(), "nobody asked for copies")

	// A server that refuses TRACKING has the client refused, unless it does without.
	refuses := user(r, "client|tracking")
	_, err := rueidis.NewClient(refuses)
	require.ErrorIs(t, err, rueidis.ErrNoCache)
	refuses.DisableCache = true
	s := newStore(t, newClient(t, refuses), redisstore.Options{})
	require.NoError(t, put(t, s, "k", "app-2"))
	require.Equal(t, "app-2 asked", find(t, s, "k"))
}

// A client whose copies end while New looks for them keeps copies all the same.
func TestNew_CopiesThatEndMeanwhile(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	var log lines
	c := &losing{Client: newClient(t, single(r)), loses: 1}
	s := newStore(t, c, redisstore.Options{Logger: log.logger()})
	require.Empty(t, log.String())
	require.NoError(t, put(t, s, "k", "app-1"))
	copyOf(t, s, "k", "app-1")
}

// A losing client drops its copies after some reads of many keys.
type losing struct {
	rueidis.Client
	loses int
}

func (c *losing) DoMultiCache(ctx context.Context, multi ...rueidis.CacheableTTL) []rueidis.RedisResult {
	if c.loses > 0 {
		c.loses--
		cmds := make([]rueidis.Completed, len(multi))
		for i, m := range multi {
			cmds[i] = c.B().Get().Key(m.Cmd.Commands()[1]).Build()
		}
		c.Client.DoMultiCache(ctx, multi[0]) // the others leave no copies
		return c.DoMulti(ctx, cmds...)
	}
	return c.Client.DoMultiCache(ctx, multi...)
}

// New returns while Redis is away. Copies begin when it is back.
func TestNew_WhileRedisIsAway(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]struct{ begin, end func(r *redistest.Server) }{
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Restart},
		"frozen": {(*redistest.Server).Freeze, (*redistest.Server).Thaw},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			c := newClient(t, single(r))
			away.begin(r)
			var log lines
			start := time.Now()
			s := newStore(t, c, redisstore.Options{Logger: log.logger()})
			require.Less(t, time.Since(start), 8*time.Second)
			require.Contains(t, log.String(), "not copied until Redis answers")
			require.Equal(t, "failed", findAway(t, s, "k"))
			away.end(r)
			redistest.Until(t, "Redis is asked", func() bool { return put(t, s, "k", "app-1") == nil })
			copyOf(t, s, "k", "app-1")
		})
	}

	// A client may be made before its server.
	r := redistest.Start(t)
	r.Kill()
	o := single(r)
	o.ForceSingleClient = true
	c, err := rueidis.NewClient(o)
	require.Error(t, err)
	defer c.Close()
	s := newStore(t, c, redisstore.Options{})
	require.Equal(t, "failed", findAway(t, s, "k"))
	r.Restart()
	redistest.Until(t, "Redis is asked", func() bool { return put(t, s, "k", "app-1") == nil })
	copyOf(t, s, "k", "app-1")
}

// After a client's connections were cut, it has none of its earlier copies.
func TestStore_CopiesEndWithTheirConnection(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := newStore(t, newClient(t, single(r)), redisstore.Options{Local: time.Hour})
	require.NoError(t, put(t, s, "k", "app-1"))
	for i := range 20 {
		target := fmt.Sprint("app-", i)
		r.Do("SET", "stickylb:1:k", "1:"+target, "PX", "60000")
		redistest.Until(t, "it is read", func() bool { return strings.HasPrefix(find(t, s, "k"), target+" ") })
		copyOf(t, s, "k", target)
		r.Do("CLIENT", "KILL", "TYPE", "normal")
		r.Do("SET", "stickylb:1:k", "1:after", "PX", "60000")
		redistest.Until(t, "the copy has ended", func() bool { return strings.HasPrefix(find(t, s, "k"), "after ") })
	}
}

// A client that was closed fails.
func TestStore_ClosedClient(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c, err := rueidis.NewClient(single(r))
	require.NoError(t, err)
	s := newStore(t, c, redisstore.Options{})
	require.NoError(t, put(t, s, "k", "app-1"))
	c.Close()
	require.Equal(t, "app-1 remembered", findAway(t, s, "k"))
	require.ErrorIs(t, s.Put(context.Background(), "k", "app-2", ttl), rueidis.ErrClosing)
}
