package health_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// The latest change of a target has its reason and who asked for it, through all steps of a drain.
func TestStatus_Change(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		a := member(t, pool, "a")
		var sick atomic.Bool
		r := &health.Registry{
			Pool: pool, Interval: time.Second, Jitter: -1, Fall: 1, Rise: 1, Drains: health.Drain{Grace: time.Minute, Limit: time.Hour},
			Check: health.Func(func(context.Context, balancer.Target) error {
				if sick.Load() {
					return errSick
				}
				return nil
			}),
		}
		page := pageOf(r)
		page.Who = func(req *http.Request) string { return req.Header.Get("X-User") }
		by := func(who, action string) {
			t.Helper()
			require.Equal(t, http.StatusSeeOther, pressOn(page, "/", "", "a", action, "X-User", who).StatusCode)
		}
		is := func(what, reason, who string) {
			t.Helper()
			synctest.Wait()
			got := r.Status().Targets[0].Change
			require.Equal(t, health.ChangeStatus{At: got.At, What: what, Reason: reason, By: who}, got)
		}
		events, stop := r.Subscribe(100)
		defer stop()
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		is("healthy", "", "")
		at := r.Status().Targets[0].Change.At
		time.Sleep(10 * time.Second)
		require.Equal(t, at, r.Status().Targets[0].Change.At, "a check that finds it as before is no change")
		sick.Store(true)
		time.Sleep(2 * time.Second)
		is("unhealthy", "sick", "")
		sick.Store(false)
		time.Sleep(2 * time.Second)
		is("healthy", "", "")

		lease := acquire(t, pool, "a")
		by("alice", "drain")
		is("draining", "", "alice")
		by("eve", "drain") // changes nothing
		is("draining", "", "alice")
		time.Sleep(time.Minute)
		is("moving", "the grace of its drain is over", "alice")
		lease.Release(answered)
		is("down", "drained, nothing is in flight", "alice")
		by("bob", "ready")
		is("ready", "", "bob")
		by("bob", "ready") // changes nothing
		a.SetAdmin(balancer.Down)
		is("down", "", "")
		by("carol", "down") // changes nothing either, and the next change must not have her name
		a.SetAdmin(balancer.Ready)
		a.SetAdmin(balancer.Down)
		is("down", "", "")
		a.SetAdmin(balancer.Ready)

		a.Eject(time.Now().Add(time.Minute))
		is("ejected", "", "")
		by("dave", "ready")
		is("back from ejection", "", "dave")
		a.Eject(time.Now().Add(time.Minute))
		time.Sleep(2 * time.Minute)
		is("back from ejection", "", "")

		lease = acquire(t, pool, "a")
		go r.Drain(t.Context(), "a", health.Drain{Grace: -1, Limit: time.Minute, By: "deploy"})
		is("moving", "the grace of its drain is over", "deploy")
		require.Equal(t, "deploy", r.Status().Targets[0].Drain.By)
		time.Sleep(time.Minute)
		is("down", "the time of its drain is up", "deploy")
		lease.Release(answered)
		a.SetAdmin(balancer.Ready)
		lease = acquire(t, pool, "a")
		require.NoError(t, r.Replace([]balancer.Target{target("b")}, health.Drain{By: "discovery"}))
		is("draining", "missing in the list of targets", "discovery")
		require.NoError(t, r.Replace([]balancer.Target{target("a"), target("b")}, health.Drain{}))
		is("ready", "in the list of targets again", "")
		lease.Release(answered)

		var told []string
		for len(events) > 0 {
			if e := <-events; e.Kind == health.AdminChanged && e.By != "" {
				told = append(told, e.State.Admin.String()+" "+e.By)
			}
		}
		require.Equal(t, []string{"draining alice", "moving alice", "down alice", "ready bob", "draining deploy", "moving deploy",
			"down deploy", "draining discovery"}, told)
	})
}

// A target that joins is a change too.
func TestStatus_ChangeOfANewTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := tolerant(pool)
		run(t, r)
		synctest.Wait()
		require.Zero(t, r.Status().Targets[0].Change)
		time.Sleep(time.Minute)
		require.NoError(t, pool.Update(target("a"), target("b")))
		require.Equal(t, health.ChangeStatus{At: time.Now().UTC(), What: "added"}, r.Status().Targets[1].Change)
	})
}

// Each button that is pressed is recorded and logged, even if it changes nothing. The name comes
// from the caller's function.
func TestPage_Presses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		pool, err := balancer.New(balancer.Config{Name: "shop", Targets: targetsOf("ab")})
		require.NoError(t, err)
		r := &health.Registry{Pool: pool, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		page := pageOf(r)
		page.Who = func(req *http.Request) string { return req.Header.Get("X-User") }
		at := time.Now().UTC()
		require.Equal(t, http.StatusSeeOther, pressOn(page, "/", "shop", "a", "down", "X-User", "alice", "Authorization", "Bearer s3cret").StatusCode)
		require.Equal(t, http.StatusConflict, pressOn(page, "/", "shop", "b", "drain", "X-User", "<b>bob").StatusCode)
		require.Equal(t, http.StatusSeeOther, pressOn(page, "/", "shop", "b", "ready").StatusCode)
		require.Equal(t, []health.Press{
			{At: at, By: "somebody", Action: "ready", Target: "b"},
			{At: at, By: "<b>bob", Action: "drain", Target: "b", Problem: "the registry is not running"},
			{At: at, By: "alice", Action: "down", Target: "a"},
		}, r.Status().Presses)
		require.Contains(t, log.String(), `msg="health: button pressed" pool=shop target=a action=down by=alice`)
		require.Contains(t, log.String(), `target=b action=drain by=<b>bob problem="the registry is not running"`)
		require.NotContains(t, log.String(), "s3cret")
		html := body(t, get(r, "/", browser))
		require.Contains(t, html, "<b><bdi>alice</bdi></b> down <b><bdi>a</bdi></b> in <bdi>shop</bdi>")
		require.Contains(t, html, "<b><bdi>&lt;b&gt;bob</bdi></b> drain")

		// A press with an unknown target, action or pool is not recorded.
		pressOn(page, "/", "shop", "nobody", "down")
		pressOn(page, "/", "shop", "a", "explode")
		pressOn(page, "/", "nowhere", "a", "down")
		require.Len(t, r.Status().Presses, 3)

		// The registry keeps only the latest presses, and limits names.
		for range 60 {
			pressOn(page, "/", "shop", "a", "ready", "X-User", strings.Repeat("é", 500)+"\xff")
		}
		presses := r.Status().Presses
		require.Len(t, presses, 50)
		require.Equal(t, strings.Repeat("é", 64), presses[0].By)
		pressOn(page, "/", "shop", "a", "ready", "X-User", "x"+strings.Repeat("é", 500))
		require.Equal(t, "x"+strings.Repeat("é", 63)+"\uFFFD", r.Status().Presses[0].By)
	})
}

// If the caller's function panics, nothing is done.
func TestPage_WhoPanics(t *testing.T) {
	pool := newPool(t, target("a"))
	page := pageOf(&health.Registry{Pool: pool})
	page.Who = func(*http.Request) string { panic("no") }
	require.PanicsWithValue(t, "no", func() { pressOn(page, "/", "", "a", "down") })
	require.Equal(t, balancer.Ready, admin(t, pool))
	require.Equal(t, http.StatusOK, answerOf(page, httptest.NewRequest("GET", "/", nil)).StatusCode)
}

// The answer to a button shows its effect. It must not show a drain that is over and whose
// goroutine has not noticed that yet.
func TestPage_TheAnswerShowsNoDrainThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := tolerant(pool)
		r.Drains = health.Drain{Grace: time.Hour}
		run(t, r)
		synctest.Wait()
		lease := acquire(t, pool, "a")
		page := pageOf(r)
		for range 200 {
			pressOn(page, "/", "", "a", "drain")
			res := pressOn(page, "/", "", "a", "ready", "Accept", "application/json")
			require.NotContains(t, body(t, res), `"drain": {`)
			synctest.Wait()
		}
		pressOn(page, "/", "", "a", "drain")
		res := pressOn(page, "/", "", "a", "down", "Accept", "application/json")
		require.Contains(t, body(t, res), `"step": "down"`, "something is in flight")
		lease.Release(answered)
		require.Zero(t, r.Status().Targets[0].Drain)
	})
}
