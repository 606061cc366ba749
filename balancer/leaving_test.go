package balancer_test

import (
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

// generation returns the target of that ID with the nth endpoint.
func generation(id string, n int) balancer.Target {
	return balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id + "-" + strconv.Itoa(n)}}
}

func TestPool_B3_RemovedMembersFollowTheirAdminState(t *testing.T) {
	for name, next := range map[string][]balancer.Target{
		"removed":                        {target("b")},
		"another endpoint under its ID":  {generation("a", 2), target("b")},
		"all removed":                    nil,
		"removed, and back as a new one": {target("b")}, // see below
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Targets: []balancer.Target{target("a"), target("b")}})
			var events log
			defer p.Observe(&events)()
			a := member(t, p, "a")
			first, second := bound(t, p, "a"), bound(t, p, "a")
			require.NoError(t, p.Update(next...))
			if name == "removed, and back as a new one" {
				require.NoError(t, p.Update(target("a"), target("b")))
				require.NotSame(t, a, member(t, p, "a"))
			}
			require.True(t, a.Removed())
			require.Equal(t, []*balancer.Member{a}, p.Leaving())
			events.take()

			a.SetAdmin(balancer.Draining)
			require.False(t, a.SwapAdmin(balancer.Ready, balancer.Down), "it is draining")
			require.True(t, a.SwapAdmin(balancer.Draining, balancer.Moving))
			require.Equal(t, balancer.Moving, a.State().Admin)
			a.SetHealth(balancer.Unhealthy)
			a.Eject(time.Now().Add(time.Hour))
			first.Release(balancer.Outcome{})
			require.Equal(t, []*balancer.Member{a}, p.Leaving())
			a.SetAdmin(balancer.Down)
			require.Equal(t, balancer.State{Admin: balancer.Down}, a.State())
			second.Release(balancer.Outcome{})
			require.Empty(t, p.Leaving())
			a.SetAdmin(balancer.Ready)
			require.Equal(t, balancer.Down, a.State().Admin, "it is gone")
			require.Equal(t, []string{"a unknown draining removed", "a unknown moving removed", "a unknown down removed"}, events.take())
		})
	}
}

func TestPool_Remove(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(5)})
	var events log
	defer p.Observe(&events)()
	gone, stays, old := member(t, p, "t01"), member(t, p, "t02"), member(t, p, "t03")
	lease := bound(t, p, "t02")
	p.Remove(gone, old)
	require.Equal(t, []string{"t01 unknown ready removed", "t03 unknown ready removed"}, events.take())
	require.Empty(t, p.Leaving())
	require.Same(t, stays, member(t, p, "t02"))
	p.Remove(gone, old)
	p.Remove()
	require.Empty(t, events.take())
	var ids strings.Builder
	for _, m := range p.Members() {
		ids.WriteString(m.ID() + " ")
	}
	require.Equal(t, "t00 t02 t04 ", ids.String())
	p.Remove(p.Members()...)
	require.Equal(t, []*balancer.Member{stays}, p.Leaving())
	_, err := p.Acquire(t.Context(), &balancer.Request{})
	require.Equal(t, balancer.ErrNoTarget, err)
	lease.Release(balancer.Outcome{})
	require.Empty(t, p.Leaving())
}

// A request may choose a member at the moment when the member leaves. The request then goes to
// another one. A removed member without load gets no new request, and no request is refused.
func TestPool_B3_NothingNewComesToARemovedMember(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		p := newPool(t, balancer.Config{Picker: picker, Targets: []balancer.Target{generation("a", 0), generation("b", 0)}})
		var gone sync.Map
		defer p.Observe(react{func(m *balancer.Member, _ balancer.State) {
			if m.Removed() && m.Load() == 0 {
				gone.Store(m, true)
			}
		}})()
		var clients sync.WaitGroup
		stop := make(chan struct{})
		for i := range 4 {
			clients.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					var lease balancer.Lease
					var err error
					if q := (&balancer.Request{Key: strconv.Itoa(n)}); i%2 == 0 {
						lease, err = p.Acquire(t.Context(), q)
					} else {
						lease, err = p.AcquireBound(t.Context(), "a", q)
					}
					if err != nil {
						t.Errorf("an ID that stays is always served: %v", err)
						return
					}
					if _, was := gone.Load(lease.Member()); was {
						t.Error("a member had a lease after it was gone")
					}
					lease.Release(balancer.Outcome{})
				}
			})
		}
		for n := range 300 {
			require.NoError(t, p.Update(generation("a", n), generation("b", n)))
		}
		close(stop)
		clients.Wait()
		require.Empty(t, p.Leaving())
	})
}

// A request that waits for a member that leaves is served by the member that now has its ID. If
// there is none, the request fails within one queue timeout.
func TestQueue_B3_BoundWaitersOfARemovedMember(t *testing.T) {
	full := func(n int) balancer.Target {
		t := generation("a", n)
		t.MaxRequests = 1
		return t
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: []balancer.Target{full(0), target("b")}, Queue: 10, QueueTimeout: time.Minute})
		old := bound(t, p, "a")
		c := newCrowd(t, p)
		c.wait(0, t.Context(), "a", &balancer.Request{})
		c.wait(1, t.Context(), "a", &balancer.Request{})
		time.Sleep(40 * time.Second)
		require.NoError(t, p.Update(full(1), target("b")))
		served, failed := c.news()
		require.Len(t, served, 1, "they both look, in no order")
		require.Empty(t, failed)
		other := 1 - served[0]
		time.Sleep(20*time.Second - 1)
		c.requireServed()
		time.Sleep(time.Nanosecond)
		_, failed = c.news()
		require.Equal(t, map[int]error{other: balancer.ErrFull}, failed, "the timeout began with the wait")

		c.wait(2, t.Context(), "a", &balancer.Request{})
		require.NoError(t, p.Update(target("b")))
		_, failed = c.news()
		require.Equal(t, map[int]error{2: balancer.ErrUnknown}, failed)
		require.Len(t, p.Leaving(), 2)
		c.release(served[0])
		old.Release(balancer.Outcome{})
		require.Empty(t, p.Leaving())
	})
}

// Ten thousand generations leave nothing behind, but those that have leases.
func TestPool_B3_GenerationsLeaveNothingBehind(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(3)})
	var held []balancer.Lease
	for n := range 10_000 {
		require.NoError(t, p.Update(target("t00"), generation("x", n)))
		x := bound(t, p, "x")
		if n%1000 == 0 {
			held = append(held, x)
			continue
		}
		x.Release(balancer.Outcome{})
	}
	require.NoError(t, p.Update(target("t00")))
	require.Len(t, p.Leaving(), 10)
	for _, m := range p.Leaving() {
		m.SetAdmin(balancer.Down)
	}
	for i := range held {
		held[i].Release(balancer.Outcome{})
	}
	require.Empty(t, p.Leaving())
}
