package health_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// registryOf returns a registry of a pool with that name.
func registryOf(t testing.TB, name string, targets ...balancer.Target) *health.Registry {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Name: name, Targets: targets})
	require.NoError(t, err)
	return tolerant(pool)
}

// getFrom asks for a page.
func getFrom(p *health.Page, uri, accept string) *http.Response {
	req := httptest.NewRequest("GET", uri, nil)
	req.Header.Set("Accept", accept)
	return answerOf(p, req)
}

func TestPage_Validate(t *testing.T) {
	shop, nameless := registryOf(t, "shop"), registryOf(t, "")
	for name, tt := range map[string]struct {
		page health.Page
		want string // empty: no error
	}{
		"no registries":      {health.Page{}, "health: Page.Registries is empty"},
		"nil":                {health.Page{Registries: []*health.Registry{shop, nil}}, "health: Page.Registries: 1 is nil"},
		"without a pool":     {health.Page{Registries: []*health.Registry{{}}}, "health: Page.Registries: 0: Registry.Pool is nil"},
		"a name twice":       {health.Page{Registries: []*health.Registry{shop, registryOf(t, "shop")}}, `health: Page.Registries: 1: another pool has the name "shop"`},
		"a registry twice":   {health.Page{Registries: []*health.Registry{shop, shop}}, `health: Page.Registries: 1: another pool has the name "shop"`},
		"nameless of two":    {health.Page{Registries: []*health.Registry{shop, nameless}}, "health: Page.Registries: 1: the pool has no name, see balancer.Config.Name"},
		"host with a scheme": {health.Page{Registries: []*health.Registry{shop}, Hosts: []string{"https://admin.example"}}, `health: Page.Hosts: "https://admin.example" is neither a name nor an address`},
		"empty host":         {health.Page{Registries: []*health.Registry{shop}, Hosts: []string{""}}, `health: Page.Hosts: "" is neither a name nor an address`},
		"nameless, alone":    {health.Page{Registries: []*health.Registry{nameless}}, ""},
		"two names":          {health.Page{Registries: []*health.Registry{shop, registryOf(t, "Shop")}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.page.Validate()
			if tt.want == "" {
				require.NoError(t, err)
				require.NotPanics(t, func() { tt.page.Handler() })
				return
			}
			require.EqualError(t, err, tt.want)
			require.PanicsWithError(t, tt.want, func() { tt.page.Handler() })
			if len(tt.page.Hosts) > 0 {
				require.PanicsWithError(t, tt.want, func() { tt.page.Protect(http.NotFoundHandler()) })
			}
		})
	}
}

// A button changes a target of one pool, even if other pools have a target with that ID.
func TestPage_SeveralPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop, search, odd := registryOf(t, "shop", targetsOf("ab")...), registryOf(t, "search", targetsOf("ac")...), registryOf(t, "a/b?&<x>", targetsOf("a")...)
		page := &health.Page{Registries: []*health.Registry{shop, search, odd}}
		for _, r := range page.Registries {
			run(t, r)
		}
		synctest.Wait()
		states := func() string {
			var all []string
			for _, s := range page.Status().Pools {
				for _, tg := range s.Targets {
					if tg.Admin != balancer.Ready {
						all = append(all, s.Pool+" "+tg.ID+" "+tg.Admin.String())
					}
				}
			}
			return strings.Join(all, ", ")
		}
		for name, tt := range map[string]struct {
			pool, target string
			want         int
		}{
			"no pool":         {"", "a", 400},
			"no such pool":    {"nowhere", "a", 404},
			"another's":       {"search", "b", 404},
			"in other letter": {"Shop", "a", 404},
		} {
			require.Equal(t, tt.want, pressOn(page, "/", tt.pool, tt.target, "down").StatusCode, name)
		}
		require.Empty(t, states())
		require.Equal(t, "?#t-search/a", pressOn(page, "/", "search", "a", "down").Header.Get("Location"))
		require.Equal(t, "search a down", states())
		res := pressOn(page, "/?show=draining&sort=name", "a/b?&<x>", "a", "drain")
		require.Equal(t, "?show=draining&sort=name#t-a%2Fb%3F&%3Cx%3E/a", res.Header.Get("Location"))
		require.Equal(t, "search a down, a/b?&<x> a draining", states())

		text := body(t, getFrom(page, "/", browser))
		require.Contains(t, text, "<title>3 of 5 targets serve in 3 pools</title>")
		require.Contains(t, text, `href="?pool=search"`)
		require.Contains(t, text, `id="t-search/a"`)
		require.Contains(t, text, `id="t-shop/a"`)
		require.Contains(t, text, `id="t-a%2Fb%3F&amp;%3Cx%3E/a"`)
		require.Contains(t, text, "a/b?&amp;&lt;x&gt;: No target can take new sessions.")
		text = body(t, getFrom(page, "/?pool=search", browser))
		require.Contains(t, text, "<title>search: 1 of 2 targets serve</title>")
		require.NotContains(t, text, `id="t-shop/a"`)
		require.Contains(t, text, `name="pool" value="search"`, "the search stays in the pool")
		require.Equal(t, 404, getFrom(page, "/?pool=nowhere", browser).StatusCode)
		require.Equal(t, 404, getFrom(page, "/?pool=nowhere", "").StatusCode)

		for uri, want := range map[string]int{"/": 3, "/?pool=shop": 1} {
			var got health.PageStatus
			require.NoError(t, json.Unmarshal([]byte(body(t, getFrom(page, uri, ""))), &got))
			require.Len(t, got.Pools, want)
			require.Equal(t, page.Status().Pools[:want], got.Pools)
		}
		require.Equal(t, "?#t-shop/a", pressOn(page, "/", "shop", "a", "ready").Header.Get("Location"))
		alone := &health.Page{Registries: []*health.Registry{shop}}
		require.Equal(t, 303, pressOn(alone, "/", "", "a", "down").StatusCode, "there is one pool")
		require.Equal(t, 404, pressOn(alone, "/", "search", "a", "ready").StatusCode)
	})
}

// A large pool is shown a hundred targets at a time, the worst first.
func TestPage_LargePools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set []balancer.Target
		for i := range 5000 {
			set = append(set, target(fmt.Sprintf("app-%04d", i)))
		}
		r := registryOf(t, "", set...)
		page := pageOf(r)
		run(t, r)
		synctest.Wait()
		for _, tg := range r.Pool.Members() {
			served(t, r.Pool, tg.ID(), false, balancer.Outcome{Status: 200, Latency: time.Millisecond}, balancer.Outcome{Class: balancer.HeaderFailed, Status: 0})
		}
		member(t, r.Pool, "app-4321").SetHealth(balancer.Unhealthy)
		time.Sleep(time.Minute)
		rows := func(uri string) []string {
			var ids []string
			for _, m := range regexp.MustCompile(`<tr id="t-(.*?)"`).FindAllStringSubmatch(body(t, getFrom(page, uri, browser)), -1) {
				ids = append(ids, m[1])
			}
			return ids
		}
		first := rows("/")
		require.Len(t, first, 100)
		require.Equal(t, "app-4321", first[0])
		require.Equal(t, "app-0000", first[1])
		require.Equal(t, "app-0100", rows("/?sort=order&page=2")[0])
		require.Len(t, rows("/?page=50"), 100)
		require.Equal(t, rows("/?page=50"), rows("/?page=51"))
		require.Equal(t, rows("/?page=50"), rows("/?page=9223372036854775807"))
		require.Equal(t, rows("/"), rows("/?page=-1"))
		text := body(t, getFrom(page, "/?page=2&q=app&refresh=5", browser))
		require.Contains(t, text, "101 to 200 of 5000 targets")
		require.Contains(t, text, `rel="prev" href="?q=app&amp;refresh=5"`)
		require.Contains(t, text, `rel="next" href="?page=3&amp;q=app&amp;refresh=5"`)
		require.Less(t, len(text), 300_000, "4.4 MB is more than a browser likes")
		t.Log(len(text), "bytes of HTML")

		// The answer to a button leads to the page that has the target after the change.
		require.Equal(t, "?#t-app-3000", pressOn(page, "/?page=31", "", "app-3000", "down").Header.Get("Location"))
		require.Equal(t, "?page=31&sort=order#t-app-3000", pressOn(page, "/?sort=order", "", "app-3000", "ready").Header.Get("Location"))
	})
}

// A browser's form and reference reach a target with any bytes in its ID.
func TestPage_ButtonsOfAnyID(t *testing.T) {
	for _, id := range []string{"a", "\"><script>", "a\r\nb", "a\nb", "nul\x00", "\xff\xfe", "é\u2028", " ", "%41", "a/b", `"quoted"`, `\n`, "{{.}}", "t-a#b?c=d&e"} {
		set := []balancer.Target{target("x")}
		set[0].ID = id
		r := registryOf(t, "p", set...)
		doc, err := html.Parse(getFrom(pageOf(r), "/", browser).Body)
		require.NoError(t, err)
		form := url.Values{"action": {"down"}}
		var anchor string
		for n := range doc.Descendants() {
			attr := map[string]string{}
			for _, a := range n.Attr {
				attr[a.Key] = a.Val
			}
			if n.Data == "input" && attr["type"] == "hidden" && inForm(n, "act") {
				form.Set(attr["name"], strings.ReplaceAll(strings.ReplaceAll(attr["value"], "\r\n", "\n"), "\n", "\r\n")) // as browsers do
			}
			if n.Data == "tr" && attr["id"] != "" {
				anchor = attr["id"]
			}
		}
		req := httptest.NewRequest("POST", "/", strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Accept", browser)
		res := answerOf(pageOf(r), req)
		require.Equal(t, http.StatusSeeOther, res.StatusCode, "%q", id)
		require.Equal(t, balancer.Down, r.Pool.Members()[0].State().Admin)
		require.Equal(t, "?#"+anchor, res.Header.Get("Location"))
	}
}

func inForm(n *html.Node, class string) bool {
	for p := n.Parent; p != nil; p = p.Parent {
		for _, a := range p.Attr {
			if p.Data == "form" && a.Key == "class" && a.Val == class {
				return true
			}
		}
	}
	return false
}

// JSON restores a Status with any content exactly.
func TestStatus_JSONRoundTrip(t *testing.T) {
	back := func(s health.Status) health.Status {
		text, err := json.Marshal(s)
		require.NoError(t, err)
		var got health.Status
		require.NoError(t, json.Unmarshal(text, &got), string(text))
		return got
	}
	require.Equal(t, health.Status{}, back(health.Status{}))
	var full health.Status
	fill(reflect.ValueOf(&full).Elem(), 1)
	require.Equal(t, full, back(full))
	require.NotZero(t, full.Targets[0].Traffic.Recent.Failed, "fill fills everything in")

	// The same is true for the Status of a real registry, on a machine with a time zone.
	local := time.Local
	time.Local = time.FixedZone("NST", -int(3.5*3600))
	defer func() { time.Local = local }()
	synctest.Test(t, func(t *testing.T) {
		r := registryOf(t, "shop", inZone("a", "north"), target("b"), target("c"))
		run(t, r)
		synctest.Wait()
		served(t, r.Pool, "a", false, balancer.Outcome{Status: 200, Latency: 3 * time.Millisecond}, balancer.Outcome{Class: balancer.ConnectFailed, Err: errSick, Retried: true})
		served(t, r.Pool, "a", true, balancer.Outcome{Status: 101})
		time.Sleep(time.Minute + 1)
		lease := acquire(t, r.Pool, "b")
		defer lease.Release(answered)
		pressOn(pageOf(r), "/", "shop", "b", "drain")
		require.NoError(t, member(t, r.Pool, "c").SetShare(1./3))
		member(t, r.Pool, "c").SetHealth(balancer.Unhealthy)
		member(t, r.Pool, "c").Eject(time.Date(12345, 1, 1, 0, 0, 0, 0, time.Local))
		got := r.Status()
		require.NotZero(t, got.Targets[1].Drain)
		require.NotZero(t, got.Presses)
		require.Equal(t, 9999, got.Targets[2].EjectedUntil.Year(), "as much as JSON can hold")
		require.Equal(t, got, back(got))
	})
}

// fill sets everything in v to something that is not zero.
func fill(v reflect.Value, n int) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Date(2000, 1, 1, 0, 0, n, n, time.UTC)))
	case v.Type() == reflect.TypeFor[balancer.Health](), v.Type() == reflect.TypeFor[balancer.Admin](), v.Type() == reflect.TypeFor[balancer.Panic]():
		v.SetUint(uint64(1 + n%2))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n+i)
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n+i)
		}
	case v.Kind() == reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{fmt.Sprint(n): "é\""}))
	case v.Kind() == reflect.String:
		v.SetString(fmt.Sprint("<é\u2028&\"", n))
	case v.CanInt():
		v.SetInt(math.MaxInt64 >> (n % 20)) // all signed integers have at least 32 bits
	case v.CanUint():
		v.SetUint(math.MaxUint32)
	case v.CanFloat():
		v.SetFloat(1 / (3 + float64(n)))
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	default:
		panic(v.Type().String())
	}
}

// Nothing that a client sends in the query breaks the page, and it has no script and no link to
// elsewhere.
func FuzzPageQuery(f *testing.F) {
	for _, seed := range []string{
		"", "show=trouble&q=a&sort=name&page=2&refresh=5", "pool=shop", "pool=nowhere", "format=html&format=json", "page=99999999999999999999",
		"refresh=-1", "q=%22%3E%3Cscript%3E", "q=%ff%00", "show=&sort=&page=&q=", "sort=worst%00", "%zz", ";", "q=javascript:alert(1)",
	} {
		f.Add(seed)
	}
	hostile := target("a")
	hostile.ID, hostile.Zone = `"><script>alert(1)</script>`, "javascript:alert(1)"
	page := &health.Page{Registries: []*health.Registry{registryOf(f, "shop", hostile, target("b")), registryOf(f, "<script>", targetsOf("a")...)}}
	handler := page.Handler()
	f.Fuzz(func(t *testing.T, query string) {
		req := httptest.NewRequest("GET", "http://localhost/", nil)
		req.URL.RawQuery = query
		req.Header.Set("Accept", browser)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		require.Contains(t, []int{200, 404}, w.Code)
		if w.Code == 404 || w.Header().Get("Content-Type") == "application/json" {
			return
		}
		doc, err := html.Parse(w.Body)
		require.NoError(t, err)
		for n := range doc.Descendants() {
			require.NotEqual(t, "script", n.Data)
			for _, a := range n.Attr {
				require.False(t, strings.HasPrefix(a.Key, "on") || a.Key == "style", a.Key)
				if a.Key == "href" && n.Data != "link" {
					require.True(t, strings.HasPrefix(a.Val, "?"), a.Val)
				}
			}
		}
	})
}

// For any form, a target changes only if the form names its pool, its ID and an action.
func FuzzPageForm(f *testing.F) {
	for _, seed := range []string{
		"pool=shop&target=a&action=down", "pool=shop&target=%22a%22&quoted=true&action=down", "target=a&action=down", "pool=shop&target=a&action=explode",
		"pool=shop&target=%22a&quoted=true&action=down", "pool=other&target=a&action=down&leaving=true", "", "%zz", "pool=shop&pool=other&target=a&action=down",
		"pool=shop;target=a;action=down", "pool=shop&target=`a`&quoted=true&action=ready", "pool=shop&target='a'&quoted=true&action=drain",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, form string) {
		shop, other := registryOf(t, "shop", targetsOf("a")...), registryOf(t, "other", targetsOf("b")...)
		page := &health.Page{Registries: []*health.Registry{shop, other}}
		req := httptest.NewRequest("POST", "/", strings.NewReader(form))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res := answerOf(page, req)
		require.Contains(t, []int{200, 400, 404, 409}, res.StatusCode)
		changed := shop.Pool.Members()[0].State().Admin == balancer.Down || other.Pool.Members()[0].State().Admin == balancer.Down
		if changed {
			v, err := url.ParseQuery(form)
			require.NoError(t, err)
			require.Equal(t, "down", v.Get("action"))
			require.Contains(t, []string{"shop", "other"}, v.Get("pool"))
			require.Equal(t, 200, res.StatusCode)
		}
		presses := len(shop.Status().Presses) + len(other.Status().Presses)
		require.Equal(t, res.StatusCode == 200 || res.StatusCode == 409, presses == 1)
	})
}

// The page is read and its buttons are pressed while targets change and requests end.
func TestPage_Concurrently(t *testing.T) {
	page := &health.Page{Registries: []*health.Registry{registryOf(t, "shop", targetsOf("ab")...), registryOf(t, "search", targetsOf("ab")...)},
		Who: func(*http.Request) string { return "alice" }}
	for _, r := range page.Registries {
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
	}
	handler := page.Handler()
	do := func(method, uri, form string) int {
		req := httptest.NewRequest(method, "http://localhost"+uri, strings.NewReader(form))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Accept", browser)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		return w.Code
	}
	var work sync.WaitGroup
	for _, r := range page.Registries {
		for range 2 {
			work.Go(func() {
				for i := range 50 {
					require.Equal(t, 200, do("GET", "/?sort="+[]string{"worst", "rate", "change"}[i%3], ""))
				}
			})
			work.Go(func() {
				for range 50 {
					lease, err := r.Pool.Acquire(t.Context(), &balancer.Request{})
					if err == nil {
						lease.Release(balancer.Outcome{Class: balancer.HeaderFailed, Latency: time.Millisecond})
					}
				}
			})
		}
		work.Go(func() {
			for i := range 60 {
				require.Equal(t, 303, do("POST", "/", "target=a&action="+[]string{"drain", "down", "ready"}[i%3]+"&pool="+r.Pool.Name()))
			}
		})
		work.Go(func() {
			for i := range 20 {
				require.NoError(t, r.Pool.Update(targetsOf([]string{"ab", "ac"}[i%2])...))
			}
		})
	}
	work.Wait()
	for _, s := range page.Status().Pools {
		require.Equal(t, balancer.Ready, s.Targets[0].Admin)
		require.Zero(t, s.Targets[0].Drain)
		require.Equal(t, "alice", s.Targets[0].Change.By)
	}
}
