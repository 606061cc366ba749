package redisstore_test

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
)

var (
	_ stickiness.Store   = (*redisstore.Store)(nil)
	_ stickiness.Claimer = (*redisstore.Store)(nil)
	_ stickiness.Finder  = (*redisstore.Store)(nil)
)

func TestMain(m *testing.M) {
	redistest.Parallel()
	os.Exit(m.Run())
}

// newClient returns a client that ends with the test.
func newClient(t testing.TB, o rueidis.ClientOption) rueidis.Client {
	t.Helper()
	if o.CacheSizeEachConn == 0 {
		o.CacheSizeEachConn = 1 << 20
	}
	c, err := rueidis.NewClient(o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func newStore(t testing.TB, c rueidis.Client, o redisstore.Options) *redisstore.Store {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := redisstore.New(c, o)
	require.NoError(t, err)
	return s
}

// single returns the options of a client of one server.
func single(s *redistest.Server) rueidis.ClientOption {
	return rueidis.ClientOption{InitAddress: []string{s.Addr}}
}

func TestStore_Contract(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(t *testing.T) (o rueidis.ClientOption, servers func() []*redistest.Server){
		"single": func(t *testing.T) (rueidis.ClientOption, func() []*redistest.Server) {
			s := redistest.Start(t)
			return single(s), func() []*redistest.Server { return []*redistest.Server{s} }
		},
		"Cluster": func(t *testing.T) (rueidis.ClientOption, func() []*redistest.Server) {
			c := redistest.StartCluster(t)
			return rueidis.ClientOption{InitAddress: c.Addrs()}, c.Primaries
		},
		"Sentinel": func(t *testing.T) (rueidis.ClientOption, func() []*redistest.Server) {
			c := redistest.StartSentinel(t)
			return rueidis.ClientOption{
				InitAddress: c.Addrs(),
				Sentinel:    rueidis.SentinelOption{MasterSet: c.Name},
			}, func() []*redistest.Server { return []*redistest.Server{c.Primary()} }
		},
	}
	for name, start := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, servers := start(t)
			for _, local := range []time.Duration{0, -1} {
				c := newClient(t, o)
				aged := &agedStore{store: func() *redisstore.Store {
					return newStore(t, c, redisstore.Options{Local: local})
				}}
				aged.Store = aged.store()
				require.NoError(t, stickinesstest.TestStore(aged, func(d time.Duration) {
					for _, s := range servers() {
						age(t, newClient(t, rueidis.ClientOption{InitAddress: []string{s.Addr}, ForceSingleClient: true}), d)
					}
					aged.Store = aged.store()
				}))
			}
		})
	}
}

// An agedStore is replaced when time passes, as by a balancer that has not seen the sessions.
type agedStore struct {
	*redisstore.Store
	store func() *redisstore.Store
}

// age lets time pass for all keys of a server: their ends come nearer.
func age(t testing.TB, c rueidis.Client, d time.Duration) {
	t.Helper()
	ctx := context.Background()
	keys, err := c.Do(ctx, c.B().Keys().Pattern("*").Build()).AsStrSlice()
	require.NoError(t, err)
	for _, key := range keys {
		left, err := c.Do(ctx, c.B().Pttl().Key(key).Build()).AsInt64()
		require.NoError(t, err)
		// A time that is not positive deletes the key.
		args := []string{key, strconv.FormatInt(left-d.Milliseconds(), 10)}
		require.NoError(t, c.Do(ctx, c.B().Arbitrary("PEXPIRE").Args(args...).Build()).Error())
	}
}
