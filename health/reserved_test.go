package health_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// One probe decides between healthy and reserved. Only failures in a row make a reserved target
// unhealthy, and only successes make an unhealthy one healthy.
func TestRegistry_B6_ReservedByOneProbe(t *testing.T) {
	tests := []struct {
		name    string
		letters string // one per probe
		want    string // the health after each probe: h, r, or x for unhealthy
	}{
		{"the first decides", "R", "r"},
		{"at once", "PR", "hr"},
		{"and back", "PRPRP", "hrhrh"},
		{"from unknown and back", "RP", "rh"},
		{"amid failures", "PFFR", "hhhr"},
		{"falls at the third in a row", "RFFF", "rrrx"},
		{"an answer ends the row", "RFFRFFF", "rrrrrrx"},
		{"a success ends the row", "RFFPFFF", "rrrhhhx"},
		{"being reserved ends the row", "PFFRPFF", "hhhrhhh"},
		{"a failure in between needs no rise", "RFP", "rrh"},
		{"an unhealthy target stays so", "FRRRRR", "xxxxxx"},
		{"it ends the rise", "FPRPP", "xxxxh"},
		{"there and back", "RFFFRRPPR", "rrrxxxxhr"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"))
				a := member(t, pool, "a")
				letters := map[balancer.Health]string{balancer.HealthUnknown: "?", balancer.Healthy: "h", balancer.Reserved: "r", balancer.Unhealthy: "x"}
				got := ""
				note := func() { got += letters[a.State().Health] }
				run(t, &health.Registry{
					Pool: pool, Check: &script{letters: tt.letters, before: note},
					Interval: time.Second, Rise: 2, Fall: 3,
				})
				time.Sleep(20 * time.Second)
				synctest.Wait()
				require.Equal(t, "?"+tt.want, got[:len(tt.want)+1])
			})
		})
	}
}

// Reserved and the administrative state are independent: a drain under way continues and ends, and
// a target that is made ready still serves bound sessions only.
func TestRegistry_B6_ReservedLeavesAdminAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		r := &health.Registry{Pool: pool, Interval: time.Second, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			if tg.ID == "a" {
				return health.ErrReserved
			}
			return nil
		})}
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		lease := acquire(t, pool, "a")
		done := drained(t.Context(), r, health.Drain{Grace: time.Minute})
		for _, want := range []balancer.Admin{balancer.Draining, balancer.Moving} {
			synctest.Wait()
			require.Equal(t, balancer.State{Health: balancer.Reserved, Admin: want}, member(t, pool, "a").State())
			time.Sleep(time.Minute)
		}
		lease.Release(answered)
		require.NoError(t, <-done)
		require.Equal(t, balancer.Down, admin(t, pool))

		press(r, "/", "a", "ready")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, balancer.State{Health: balancer.Reserved}, member(t, pool, "a").State())
		require.False(t, r.Status().Targets[0].Serving)
		finish(t, pool, "a", answered) // a bound session is served
	})
}

// Everything that shows the state of a target shows that it is reserved, and the reason.
func TestRegistry_B7_ReservedIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, inZone("a1", "a"), inZone("a2", "a"))
		var ready, sick atomic.Bool
		var log bytes.Buffer
		r := &health.Registry{
			Pool: pool, Interval: time.Second, Fall: 1, Rise: 1, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Check: health.Func(func(_ context.Context, tg balancer.Target) error {
				switch {
				case sick.Load() && tg.ID == "a1":
					return errSick
				case ready.Load():
					return nil
				}
				return fmt.Errorf("the caches of %s are cold: %w", tg.ID, health.ErrReserved)
			})}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		synctest.Wait()
		require.ElementsMatch(t, []string{
			"target health changed: a1@a reserved (the caches of a1 are cold: bound sessions only)",
			"target health changed: a2@a reserved (the caches of a2 are cold: bound sessions only)",
			"zone has no healthy target: @a",
		}, strings.Split(brief(events), "\n"))
		require.Contains(t, log.String(), `msg="health: target health changed" target=a1 zone=a health=reserved reason="the caches of a1 are cold: bound sessions only"`)
		_, err := pool.Acquire(t.Context(), &balancer.Request{})
		require.ErrorIs(t, err, balancer.ErrNoTarget)

		got := r.Status()
		require.Equal(t, []health.ZoneStatus{{Name: "a", Targets: 2, Serving: 0}}, got.Zones)
		require.Equal(t, []string{"No target can take new sessions.", "Zone a has no target that can take new sessions."}, got.Notes)
		require.Equal(t, health.CheckStatus{
			At: got.Targets[0].Check.At, Reserved: "the caches of a1 are cold: bound sessions only", Streak: 1, Total: 1,
		}, got.Targets[0].Check)

		var read health.PageStatus
		require.NoError(t, json.Unmarshal([]byte(body(t, get(r, "/", ""))), &read))
		require.Equal(t, []health.Status{got}, read.Pools)

		page := body(t, get(r, "/?show=draining", browser))
		require.Contains(t, page, "<title>0 of 2 targets serve</title>")
		require.Contains(t, page, ">Trouble 0<")
		require.Contains(t, page, ">Taken out 2<")
		require.Contains(t, page, `<span class="badge warn">reserved</span>`)
		require.Contains(t, page, "<p>the caches of a1 are cold: bound sessions only</p>")
		require.Contains(t, page, "checked 0\u00a0s ago, took 0\u00a0µs, answered")

		ready.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.ElementsMatch(t, []string{
			"target health changed: a1@a healthy", "zone has a healthy target again: @a", "target health changed: a2@a healthy",
		}, strings.Split(brief(events), "\n"))
		require.Empty(t, r.Status().Notes)

		// For an unhealthy target, the answer that reserves another one is a failure, and the
		// reason says so.
		sick.Store(true)
		time.Sleep(2 * time.Second)
		sick.Store(false)
		ready.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		unhealthy := r.Status().Targets[0]
		require.Equal(t, balancer.Unhealthy, unhealthy.Health)
		require.Equal(t, "the caches of a1 are cold: bound sessions only, which is a failure of an unhealthy target", unhealthy.Check.Error)
		require.Empty(t, unhealthy.Check.Reserved)
		require.Negative(t, unhealthy.Check.Streak)
	})
}

func TestHTTP_B6_ReservedStatuses(t *testing.T) {
	const none = "\r\nContent-Length: 0\r\n\r\n"
	reserving := health.HTTP{ReservedStatuses: []int{404, 503}}
	tests := []struct {
		name   string
		check  health.HTTP
		answer string
		health balancer.Health
		say    string
	}{
		{"one of them", reserving, "HTTP/1.1 404 Not Found" + none, balancer.Reserved, "status 404: bound sessions only"},
		{"the other one", reserving, "HTTP/1.1 503 Busy" + none, balancer.Reserved, "status 503: bound sessions only"},
		{"healthy", reserving, ok, balancer.Healthy, ""},
		{"neither", reserving, "HTTP/1.1 500 Oh" + none, balancer.Unhealthy, "status 500, expected 2xx or 3xx"},
		{"off by default", health.HTTP{}, "HTTP/1.1 404 Not Found" + none, balancer.Unhealthy, "status 404, expected 2xx or 3xx"},
		{"empty is none", health.HTTP{Statuses: []int{}, ReservedStatuses: []int{}}, "HTTP/1.1 404 Not Found" + none, balancer.Unhealthy, "status 404, expected 2xx or 3xx"},
		{"one that is healthy by default", health.HTTP{Statuses: []int{200}, ReservedStatuses: []int{204}}, "HTTP/1.1 204 No Content\r\n\r\n", balancer.Reserved, "status 204: bound sessions only"},
		{"its text is not searched for", health.HTTP{Contains: "fine", ReservedStatuses: []int{404}}, "HTTP/1.1 404 Not Found" + none, balancer.Reserved, "status 404: bound sessions only"},
		{"not complete", reserving, "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nhalf", balancer.Unhealthy, "the answer ended after 4 octets of its body"},
		{"not its header", reserving, "HTTP/1.1 404 Not Found\r\nCont", balancer.Unhealthy, "the answer ended within its header"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &health.Registry{Pool: newPool(t, backend(t, "http", says(tt.answer))), Check: tt.check, Timeout: patience, Interval: time.Hour}
			run(t, r)
			require.NoError(t, r.Ready(t.Context()))
			got := r.Status().Targets[0]
			require.Equal(t, tt.health, got.Health)
			require.Equal(t, tt.say, got.Check.Error+got.Check.Reserved)
			require.Equal(t, tt.health == balancer.Reserved, got.Check.Reserved != "")
		})
	}
}

// A status in both lists is refused before the first probe.
func TestHTTP_B6_ReservedStatusesRefused(t *testing.T) {
	tests := map[string]struct {
		check health.HTTP
		say   string
	}{
		"in both":            {health.HTTP{Statuses: []int{200, 404}, ReservedStatuses: []int{503, 404}}, "status 404 is in ReservedStatuses and also a healthy target's, which has 200 or 404"},
		"healthy by default": {health.HTTP{ReservedStatuses: []int{302}}, "status 302 is in ReservedStatuses and also a healthy target's, which has 2xx or 3xx"},
		"healthy by none":    {health.HTTP{Statuses: []int{}, ReservedStatuses: []int{200}}, "status 200 is in ReservedStatuses"},
		"interim":            {health.HTTP{ReservedStatuses: []int{103}}, "no final status is 103"},
		"switching":          {health.HTTP{ReservedStatuses: []int{101}}, "no final status is 101"},
		"too large":          {health.HTTP{ReservedStatuses: []int{1000}}, "no final status is 1000"},
		"negative":           {health.HTTP{ReservedStatuses: []int{-404}}, "no final status is -404"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, check := range []health.Check{tt.check, &tt.check} {
				err := (&health.Registry{Pool: newPool(t), Check: check}).Run(t.Context())
				require.ErrorContains(t, err, "health: HTTP check: "+tt.say)
			}
		})
	}
}

// An answer that comes too late is a failure, even if it would reserve the target.
func TestRegistry_B6_ReservedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &health.Registry{Pool: newPool(t, target("a")), Interval: time.Hour, Timeout: time.Second, Check: health.Func(
			func(context.Context, balancer.Target) error { time.Sleep(2 * time.Second); return health.ErrReserved })}
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		got := r.Status().Targets[0]
		require.Equal(t, balancer.Unhealthy, got.Health)
		require.Equal(t, "no answer within 1s", got.Check.Error)
	})
}

// A reserved target answers, so its answer clears it and is no proof for the failures of one
// client. Real failures of bound sessions eject it like any other target.
func TestPassive_B6_ReservedTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"), target("c"), target("d"))
		r := &health.Registry{Pool: pool, Interval: time.Minute, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			if tg.ID == "a" {
				return health.ErrReserved
			}
			return nil
		})}
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		do(t, pool, "a", times(5, "h1"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, ejected(t, pool, "a"))
		require.EqualValues(t, 2, r.Status().Targets[0].Check.Total, "it was asked early")

		finish(t, pool, "a", answered)
		for range 5 {
			finish(t, pool, "a", refused)
		}
		require.True(t, ejected(t, pool, "a"))
		require.Equal(t, balancer.Reserved, member(t, pool, "a").State().Health)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.False(t, ejected(t, pool, "a"))
		finish(t, pool, "a", answered)
	})
}

func ExampleErrReserved() {
	var ready atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "about to end", http.StatusServiceUnavailable)
		}
	}))
	defer app.Close()
	u, _ := url.Parse(app.URL)
	target := balancer.Target{URL: u}
	check := health.HTTP{Path: "/ready", ReservedStatuses: []int{http.StatusServiceUnavailable}}

	fmt.Println(check.Check(context.Background(), target))
	ready.Store(true)
	fmt.Println(check.Check(context.Background(), target))
	// Output:
	// health: status 503: bound sessions only
	// <nil>
}
