package health_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

// pageOf returns a page of one pool.
func pageOf(r *health.Registry) *health.Page {
	return &health.Page{Registries: []*health.Registry{r}}
}

// pressOn sends the form of a button. It names the pool unless pool is empty.
func pressOn(p *health.Page, uri, pool, id, action string, header ...string) *http.Response {
	form := url.Values{"target": {id}, "action": {action}}
	if pool != "" {
		form.Set("pool", pool)
	}
	req := httptest.NewRequest("POST", uri, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", browser)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return answerOf(p, req)
}

// get asks for the page of a registry.
func get(r *health.Registry, uri, accept string) *http.Response {
	req := httptest.NewRequest("GET", uri, nil)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	return serve(r, req)
}

func serve(r *health.Registry, req *http.Request) *http.Response { return answerOf(pageOf(r), req) }

func answerOf(p *health.Page, req *http.Request) *http.Response {
	if req.Host == "example.com" { // httptest's
		req.Host = "localhost"
	}
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, req)
	return w.Result()
}

// press sends the form of a button of a registry's page.
func press(r *health.Registry, uri, id, action string, header ...string) *http.Response {
	return pressOn(pageOf(r), uri, "", id, action, header...)
}

func body(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(b)
}

func TestPage_PageForPeopleJSONForMachines(t *testing.T) {
	r := &health.Registry{Pool: newPool(t, target("a"))}
	for _, tt := range []struct{ uri, accept, want string }{
		{"/", browser, "text/html; charset=utf-8"},
		{"/", "Text/HTML;q=0.5", "text/html; charset=utf-8"},
		{"/", "", "application/json"},
		{"/", "*/*", "application/json"},
		{"/", "application/json", "application/json"},
		{"/?format=json", browser, "application/json"},
		{"/?format=html", "*/*", "text/html; charset=utf-8"},
	} {
		res := get(r, tt.uri, tt.accept)
		require.Equal(t, 200, res.StatusCode)
		require.Equal(t, tt.want, res.Header.Get("Content-Type"), tt)
		require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
		require.Equal(t, "Accept", res.Header.Get("Vary"))
		require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
	}
}

func TestPage_JSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := inZone("a", "z1")
		a.Weight, a.Labels = 3, map[string]string{"track": "canary"}
		pool := newPool(t, a, target("b"))
		r := &health.Registry{Pool: pool, Passive: &health.Passive{MaxShare: 1}, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			time.Sleep(3 * time.Millisecond)
			if tg.ID == "b" {
				return errSick
			}
			return nil
		})}
		began := time.Now()
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		lease, err := pool.AcquireBound(t.Context(), "a", &balancer.Request{Tunnel: true})
		require.NoError(t, err)
		defer lease.Release(answered)
		member(t, pool, "b").Eject(began.Add(time.Minute))
		require.NoError(t, member(t, pool, "b").SetShare(0.755)) // S25

		require.Contains(t, body(t, get(r, "/", browser)), "keeps 75.5% of its sessions")
		var got any
		require.NoError(t, json.Unmarshal([]byte(body(t, get(r, "/", ""))), &got))
		at := began.Format(time.RFC3339Nano)
		check := func(n float64) map[string]any {
			return map[string]any{"at": at, "duration_ns": 3e6, "streak": n, "total": 1., "failed": 0.}
		}
		failed := check(-1)
		failed["error"], failed["failed"] = "sick", 1.
		checked := began.Add(3 * time.Millisecond).Format(time.RFC3339Nano)
		idle := map[string]any{"requests": 0., "tunnels": 0., "retried": 0., "request_rate": 0., "tunnel_rate": 0., "failed_rate": 0., "median_ns": 0., "p99_ns": 0.}
		require.Equal(t, map[string]any{"pools": []any{map[string]any{
			"time": checked, "running": true, "serving": 1., "panic": "off", "late_ns": 0., "total": idle,
			"zones": []any{map[string]any{"name": "z1", "targets": 1., "serving": 1.}},
			"targets": []any{
				map[string]any{
					"id": "a", "url": "http://a.invalid", "zone": "z1", "labels": map[string]any{"track": "canary"}, "weight": 3., "share": 1., "health": "healthy", "admin": "ready",
					"serving": true, "load": 1., "tunnels": 1., "latency_ns": 0., "check": check(1),
					"change": map[string]any{"at": checked, "what": "healthy"},
				},
				map[string]any{
					"id": "b", "url": "http://b.invalid", "weight": 1., "share": 0.755, "health": "unhealthy", "admin": "ready", "serving": false,
					"load": 0., "tunnels": 0., "latency_ns": 0., "check": failed, "ejected_until": began.Add(time.Minute).Format(time.RFC3339Nano),
					"change":   map[string]any{"at": checked, "what": "ejected"},
					"downtime": map[string]any{"since": checked, "total_ns": 0.},
				},
			},
		}}}, got)
	})
}

func TestPage_Buttons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"))
		a := member(t, pool, "a")
		r := &health.Registry{Pool: pool, Interval: -1, Drains: health.Drain{Grace: time.Minute}}

		res := press(r, "/", "a", "drain")
		require.Equal(t, http.StatusConflict, res.StatusCode, "a drain needs somebody to carry it on")
		require.Equal(t, balancer.Ready, admin(t, pool))

		stop := start(t, r)
		synctest.Wait()
		lease := acquire(t, pool, "a")
		for range 2 { // the second press changes nothing
			res = press(r, "/admin/?show=trouble", "a", "drain")
			require.Equal(t, http.StatusSeeOther, res.StatusCode)
			require.Equal(t, "?show=trouble#t-a", res.Header.Get("Location"))
			require.Equal(t, balancer.Draining, admin(t, pool), "the page that follows shows it")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, balancer.Moving, admin(t, pool))

		require.Equal(t, http.StatusSeeOther, press(r, "/", "a", "ready").StatusCode)
		synctest.Wait()
		require.Equal(t, balancer.Ready, admin(t, pool))
		require.Zero(t, r.Status().Targets[0].Drain, "cancelled")

		require.Equal(t, http.StatusSeeOther, press(r, "/", "a", "down").StatusCode)
		require.Equal(t, balancer.Down, admin(t, pool))
		a.Eject(time.Now().Add(time.Hour))
		press(r, "/", "a", "ready")
		require.Equal(t, balancer.State{}, a.State(), "ready ends an ejection too")

		// Programs get the status as JSON.
		res = press(r, "/", "a", "down", "Accept", "application/json")
		require.Equal(t, 200, res.StatusCode)
		require.Contains(t, body(t, res), `"admin": "down"`)

		for name, tt := range map[string]struct {
			id, action string
			status     int
		}{
			"no such target": {"nobody", "down", 404}, "no target": {"", "down", 404},
			"no such action": {"a", "explode", 400}, "no action": {"a", "", 400},
		} {
			require.Equal(t, tt.status, press(r, "/", tt.id, tt.action).StatusCode, name)
		}

		// A drain of the page ends with the run and leaves the target as it is.
		press(r, "/", "a", "ready")
		press(r, "/", "a", "drain")
		stop()
		require.Equal(t, balancer.Draining, admin(t, pool))
		lease.Release(answered)
		time.Sleep(time.Hour)
		require.Equal(t, balancer.Draining, admin(t, pool))
	})
}

func TestPage_RefusesCrossSitePosts(t *testing.T) {
	for name, tt := range map[string]struct {
		header []string
		want   int
	}{
		"another site":                  {[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"a neighbouring site":           {[]string{"Sec-Fetch-Site", "same-site"}, 403},
		"another site, an old browser":  {[]string{"Origin", "https://evil.example"}, 403},
		"no site":                       {[]string{"Origin", "null"}, 403},
		"the page itself":               {[]string{"Sec-Fetch-Site", "same-origin"}, 303},
		"the page in an old browser":    {[]string{"Origin", "http://localhost"}, 303},
		"a script outside of a browser": {nil, 303},
	} {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t, target("a"))
			res := press(&health.Registry{Pool: pool}, "http://localhost/", "a", "down", tt.header...)
			require.Equal(t, tt.want, res.StatusCode)
			require.Equal(t, tt.want == 303, admin(t, pool) == balancer.Down)
		})
	}
}

func TestPage_Methods(t *testing.T) {
	r := &health.Registry{Pool: newPool(t, target("a"))}
	for _, method := range []string{"PUT", "DELETE", "OPTIONS"} {
		res := serve(r, httptest.NewRequest(method, "/", nil))
		require.Equal(t, 405, res.StatusCode)
		require.Equal(t, "GET, HEAD, POST", res.Header.Get("Allow"))
	}
	require.Equal(t, 200, serve(r, httptest.NewRequest("HEAD", "/", nil)).StatusCode)
	// A target must not be set by a link.
	require.Equal(t, 200, get(r, "/?target=a&action=down", browser).StatusCode)
	require.Equal(t, balancer.Ready, r.Pool.Members()[0].State().Admin)
	req := httptest.NewRequest("POST", "/?target=a&action=down", nil)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, 404, serve(r, req).StatusCode)

	huge := httptest.NewRequest("POST", "/", strings.NewReader("target=a&action=down&x="+strings.Repeat("x", 1<<20)))
	huge.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, 413, serve(r, huge).StatusCode)
	require.Equal(t, balancer.Ready, r.Pool.Members()[0].State().Admin)
}

// The page's policy allows only its own style, so the hash must match the style in the page.
func TestPage_PolicyFitsThePage(t *testing.T) {
	res := get(&health.Registry{Pool: newPool(t, target("a"))}, "/?refresh=7", browser)
	page := body(t, res)
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(page)
	require.NotNil(t, style)
	sum := sha256.Sum256([]byte(style[1]))
	require.Equal(t, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+
		"'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'", res.Header.Get("Content-Security-Policy"))
	require.Equal(t, "same-origin", res.Header.Get("Referrer-Policy"), "none would turn the buttons' Origin into null")
	require.NotContains(t, page, " style=")
	require.NotContains(t, page, "<script")
	require.NotContains(t, page, "//cdn")
	require.Contains(t, page, `<meta http-equiv="refresh" content="7">`)
}

// Markup from a target must not become markup of the page.
func TestPage_EscapesWhatTargetsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		evil := target("a")
		evil.ID, evil.Zone = `"><script>alert(1)</script>`, "<b>zone"
		r := &health.Registry{Pool: newPool(t, evil), Check: health.Func(func(context.Context, balancer.Target) error {
			return fmt.Errorf("<img src=x onerror=alert(1)>")
		})}
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		page := body(t, get(r, "/?q=%22%3E%3Cscript", browser))
		for _, forbidden := range []string{"<script", "<img", "<b>zone"} {
			require.NotContains(t, page, forbidden)
		}
		require.Contains(t, page, `value="&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"`, "the button names its target")
		res := press(r, "/", evil.ID, "down")
		require.Equal(t, "?#t-%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E", res.Header.Get("Location"))
	})
}

func TestPage_PageShowsAndFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, inZone("app-1", "north"), target("app-2"), target("db-1"))
		r := &health.Registry{Pool: pool, Interval: 10 * time.Second, Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			if tg.ID == "db-1" {
				return errSick
			}
			return nil
		})}
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		lease := acquire(t, pool, "app-2")
		defer lease.Release(answered)
		require.Equal(t, 303, press(r, "/", "app-2", "drain").StatusCode)
		time.Sleep(3 * time.Second)

		page := body(t, get(r, "/", browser))
		require.Contains(t, page, "<title>1 of 3 targets serve</title>")
		require.Contains(t, page, "zone north: 1 of 1")
		require.Contains(t, page, "Sessions move in 5\u00a0min, 1 request still in flight.")
		require.Contains(t, page, `<p class="err">sick</p>`)
		require.Contains(t, page, "checked 3\u00a0s ago, took 0\u00a0µs, failed")
		require.Contains(t, page, "Out of service for 3\u00a0s.")
		require.Contains(t, page, `<span class="badge warn">draining</span>`)
		require.Contains(t, page, ">All 3<")
		require.Contains(t, page, ">Trouble 1<")
		require.Contains(t, page, ">Taken out 1<")

		rows := func(uri string) string {
			var ids []string
			for _, m := range regexp.MustCompile(`<div class="id">(.*?)</div>`).FindAllStringSubmatch(body(t, get(r, uri, browser)), -1) {
				ids = append(ids, m[1])
			}
			return strings.Join(ids, " ")
		}
		require.Equal(t, "db-1 app-2 app-1", rows("/"), "the worst first")
		require.Equal(t, "app-1 app-2 db-1", rows("/?sort=order"))
		require.Equal(t, "app-2 app-1 db-1", rows("/?sort=load"))
		require.Equal(t, "db-1", rows("/?show=trouble"))
		require.Equal(t, "app-2", rows("/?show=draining"))
		require.Equal(t, "app-2 app-1", rows("/?q=APP"))
		require.Equal(t, "app-1", rows("/?q=north"))
		require.Equal(t, "app-2", rows("/?q=app&show=draining"))
		require.Equal(t, "db-1 app-2 app-1", rows("/?show=nonsense&refresh=-1&sort=&page=9"))
		require.Empty(t, rows("/?q=nobody"))
		require.Contains(t, body(t, get(r, "/?q=nobody", browser)), "No targets here.")
	})
}

func TestPage_ButtonsThatMakeNoDifferenceAreOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"))
		r := &health.Registry{Pool: pool, Interval: -1}
		on := func() string {
			var buttons []string
			for _, m := range regexp.MustCompile(`value="(\w+)" aria-label`).FindAllStringSubmatch(body(t, get(r, "/", browser)), -1) {
				buttons = append(buttons, m[1])
			}
			return strings.Join(buttons, " ")
		}
		require.Equal(t, "down", on(), "nobody would carry on a drain")
		run(t, r)
		synctest.Wait()
		a := member(t, pool, "a")
		require.Equal(t, "drain down", on())
		a.SetAdmin(balancer.Draining)
		require.Equal(t, "down ready", on())
		a.SetAdmin(balancer.Down)
		require.Equal(t, "ready", on())
		a.SetAdmin(balancer.Ready)
		a.Eject(time.Now().Add(time.Minute))
		require.Equal(t, "drain down ready", on())
	})
}

func TestPage_PageSaysWhenNothingIsChecked(t *testing.T) {
	r := &health.Registry{Pool: newPool(t, target("a"))}
	page := body(t, get(r, "/", browser))
	require.Contains(t, page, "The registry is not running: nothing is checked.")
	require.Contains(t, page, "not checked yet")
}

func TestStatus_SaysThatThePoolPanics(t *testing.T) {
	for mode, want := range map[balancer.Panic]string{
		balancer.PanicOpen:   "Panic: so few targets are left that reserved ones take new sessions too, and unhealthy ones if need be.",
		balancer.PanicClosed: "Panic: so few targets are left that they take no new sessions.",
	} {
		pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{target("a"), target("b"), target("c")}, Panic: mode})
		require.NoError(t, err)
		r := &health.Registry{Pool: pool}
		require.Equal(t, balancer.PanicOff, r.Status().Panic)
		require.NotContains(t, r.Status().Notes, want)
		member(t, pool, "a").SetHealth(balancer.Unhealthy)
		member(t, pool, "b").SetHealth(balancer.Unhealthy)
		require.Equal(t, mode, r.Status().Panic)
		require.Contains(t, r.Status().Notes, want)
	}
}

func TestStatus_SaysWhenChecksAreLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, target("a"), target("b"), target("c"), target("d"))
		r := &health.Registry{Pool: pool, Interval: time.Second, Jitter: -1, Concurrency: 1, Check: health.Func(func(context.Context, balancer.Target) error {
			time.Sleep(time.Second)
			return nil
		})}
		run(t, r)
		time.Sleep(time.Minute)
		s := r.Status()
		require.Greater(t, s.Late, time.Second)
		require.Len(t, s.Notes, 1)
		require.Contains(t, s.Notes[0], "late: more are due than may be under way at once.")
		for _, tg := range s.Targets {
			require.InDelta(t, 15, tg.Check.Total, 1, "everyone has a turn")
		}
	})
}

// If a handler strips a prefix, the buttons must lead back to the page with its prefix.
func TestPage_BelowAPrefix(t *testing.T) {
	r := &health.Registry{Pool: newPool(t, target("a"))}
	s := httptest.NewServer(http.StripPrefix("/admin/health", pageOf(r).Handler()))
	t.Cleanup(s.Close)
	req, err := http.NewRequest("POST", s.URL+"/admin/health?q=a", strings.NewReader("target=a&action=down"))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", browser)
	res, err := s.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, s.URL+"/admin/health?q=a#t-a", res.Request.URL.String())
	require.Contains(t, body(t, res), ">down<")
}

func BenchmarkPage(b *testing.B) {
	for _, n := range []int{10, 1000} {
		var set []balancer.Target
		for i := range n {
			set = append(set, target(fmt.Sprint("t", i)))
		}
		r := &health.Registry{Pool: newPool(b, set...)}
		for _, accept := range []string{browser, ""} {
			b.Run(fmt.Sprintf("targets=%d/page=%t", n, accept != ""), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					get(r, "/", accept)
				}
			})
		}
	}
}

// The page shows targets that have left the pool until nothing is in flight there. Its buttons
// reach them, even if another target has the ID now.
func TestPage_B3_TargetsThatHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf("ab")...)
		r := &health.Registry{Pool: pool, Interval: -1, Drains: health.Drain{Grace: -1}}
		run(t, r)
		synctest.Wait()
		lease := acquire(t, pool, "a")
		old := lease.Member()
		require.NoError(t, pool.Update(targetsOf("a2b")...))
		page := body(t, get(r, "/", browser))
		require.Contains(t, page, "<title>2 of 2 targets serve</title>")
		require.Contains(t, page, `id="t-a"`)
		require.Contains(t, page, `id="left-2"`)
		require.Contains(t, page, "leaving</span>")
		require.Contains(t, body(t, get(r, "/?show=draining", browser)), `id="left-0"`)
		require.Contains(t, body(t, get(r, "/", "")), `"leaving"`)

		button := func(action string) *http.Response {
			form := url.Values{"target": {"a"}, "action": {action}, "leaving": {"true"}}
			req := httptest.NewRequest("POST", "/", strings.NewReader(form.Encode()))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			return serve(r, req)
		}
		require.Equal(t, http.StatusOK, button("drain").StatusCode)
		synctest.Wait()
		require.Equal(t, balancer.Moving, old.State().Admin)
		require.Equal(t, balancer.Ready, admin(t, pool))
		require.Equal(t, http.StatusOK, button("down").StatusCode)
		require.Equal(t, balancer.Down, old.State().Admin)
		lease.Release(answered)
		require.Equal(t, http.StatusNotFound, button("down").StatusCode)
		require.NotContains(t, body(t, get(r, "/", "")), `"leaving": [`)

		lease = acquire(t, pool, "a")
		require.NoError(t, pool.Update(target("b")))
		require.Equal(t, http.StatusSeeOther, press(r, "/", "a", "down").StatusCode, "nobody else has the ID")
		require.Equal(t, balancer.Down, lease.Member().State().Admin)
		lease.Release(answered)
	})
}
