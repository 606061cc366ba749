package fleettest_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// lasts returns how long a fault goes on: a third of SOAK, or else short.
func lasts(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return max(short, d/3)
}

// One server: what happens to it, to a balancer and to the network between the two.
func TestFleet_SingleServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	relay := redistest.NewRelay(t, s.Addr)
	direct := redisSettings{Addrs: []string{s.Addr}}
	relayed := redisSettings{Addrs: direct.Addrs, Via: map[string]string{s.Addr: relay.Addr}}
	f := newFleet(t, relayed, direct, direct)

	a := f.suffer("a balancer is killed and comes back", func(rounds func(int)) {
		f.balancers[1].kill()
		rounds(1)
		f.balancers[1].start()
		rounds(1)
	})
	require.Zero(t, a.Lost)
	require.LessOrEqual(t, a.Missed, int(a.StoreFailed), "a balancer that has seen nobody has only Redis to ask")
	require.Zero(t, a.LostStored)

	f.known(f.visitors)
	a = f.suffer("Redis is frozen", func(rounds func(int)) {
		s.Freeze()
		time.Sleep(lasts(t, 5*time.Second))
		rounds(1)
		s.Thaw()
	})
	require.Zero(t, a.Lost)
	require.Zero(t, a.Missed)
	require.Zero(t, a.LostStored)

	a = f.suffer("CLIENT PAUSE", func(rounds func(int)) {
		s.Do("CLIENT", "PAUSE", "3000", "ALL")
		rounds(2)
		s.Do("CLIENT", "UNPAUSE")
	})
	require.Zero(t, a.Lost)
	require.Zero(t, a.Missed)
	require.Zero(t, a.LostStored)

	moving := f.movers()
	a = f.suffer("the network of one balancer is cut", func(rounds func(int)) {
		relay.Cut()
		f.move(moving, f.balancers[1])
		time.Sleep(lasts(t, 5*time.Second))
		rounds(1)
		relay.Heal()
		f.follow(moving)
	})
	require.Zero(t, a.Lost)
	require.Zero(t, a.Missed)
	require.Zero(t, a.LostStored)

	f.suffer("FLUSHALL", func(rounds func(int)) {
		s.Do("FLUSHALL")
		rounds(1)
	})
	f.begin()
	f.suffer("Redis is killed and comes back empty", func(rounds func(int)) {
		s.Kill()
		rounds(1)
		s.Restart()
	})
	f.close()
}
