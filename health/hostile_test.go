package health_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// A name from a request cannot reorder the text around it, begin a new line or control a terminal.
func TestPage_NamesThatDeceive(t *testing.T) {
	r := &health.Registry{Pool: newPool(t, target("a"))}
	page := pageOf(r)
	for sent, want := range map[string]string{
		"al\u202eice":          "al\uFFFDice",
		"\u2066al\u200fice":    "\uFFFDal\uFFFDice",
		"alice\nbob down":      "alice\uFFFDbob down",
		"alice\x1b[31m":        "alice\uFFFD[31m",
		"alice\u2028bob":       "alice\uFFFDbob",
		" \u05d3\u05e0\u05d4 ": "\u05d3\u05e0\u05d4",
		"\x00":                 "\uFFFD",
		"\n \t":                "somebody",
	} {
		page.Who = func(*http.Request) string { return sent }
		require.Equal(t, http.StatusSeeOther, pressOn(page, "/", "", "a", "ready").StatusCode)
		require.Equal(t, want, r.Status().Presses[0].By, "%q", sent)
	}
	require.Contains(t, body(t, get(r, "/", browser)), "<bdi>\u05d3\u05e0\u05d4</bdi>")
}

// Buttons of several pools are listed in the order in which they were pressed, also within a
// second.
func TestPage_PressesOfSeveralPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop, search := registryOf(t, "shop", targetsOf("a")...), registryOf(t, "search", targetsOf("a")...)
		page := &health.Page{Registries: []*health.Registry{shop, search}}
		var want []string
		for i, r := range []*health.Registry{shop, search, shop, search, shop} {
			name := string(rune('v' + i))
			page.Who = func(*http.Request) string { return name }
			pressOn(page, "/", r.Pool.Name(), "a", "ready")
			want = append([]string{name}, want...)
			time.Sleep([]time.Duration{500, 120, 3, 377, 0}[i] * time.Millisecond)
		}
		doc, err := html.Parse(getFrom(page, "/", browser).Body)
		require.NoError(t, err)
		var got []string
		for n := range doc.Descendants() {
			if n.Data == "bdi" && n.Parent.Data == "b" && n.Parent.PrevSibling.PrevSibling != nil && n.Parent.PrevSibling.PrevSibling.Data == "time" {
				got = append(got, n.FirstChild.Data)
			}
		}
		require.Equal(t, want, got)
	})
}

// A long search text is neither written many times into the page nor compared with each target.
func TestPage_LongSearch(t *testing.T) {
	r := &health.Registry{Pool: newPool(t, target("a"))}
	long := strings.Repeat("x", 100<<10)
	short := len(body(t, get(r, "/", browser)))
	require.Len(t, body(t, get(r, "/?q="+long, browser)), short, "it counts as absent")
	require.Contains(t, body(t, get(r, "/?q="+long[:200], browser)), "No targets here.")
}

// A form that is ambiguous or invalid changes nothing.
func TestPage_FormsThatAreRefused(t *testing.T) {
	form := "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		uri, kind, body string
		status          int
	}{
		"two actions":      {"/", form, "target=a&action=ready&action=down", 400},
		"two targets":      {"/", form, "target=a&target=b&action=down", 400},
		"two pools":        {"/", form, "pool=shop&pool=shop&target=a&action=down", 400},
		"twice leaving":    {"/", form, "target=a&action=down&leaving=true&leaving=", 400},
		"twice quoted":     {"/", form, "target=a&action=down&quoted=&quoted=true", 400},
		"no action":        {"/", form, "target=a", 400},
		"no target":        {"/", form, "action=down", 404},
		"in the query":     {"/?target=a&action=down", form, "", 404},
		"JSON":             {"/", "application/json", `{"target":"a","action":"down"}`, 415},
		"multipart":        {"/", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=target\r\n\r\na\r\n--x--\r\n", 415},
		"no type":          {"/", "", "target=a&action=down", 415},
		"huge":             {"/", form, "target=a&action=down&x=" + strings.Repeat("x", 2<<20), 413},
		"another pool":     {"/", form, "pool=nowhere&target=a&action=down", 404},
		"page of no pool":  {"/?pool=nowhere", form, "pool=shop&target=a&action=down", 404},
		"not escaped well": {"/", form, "target=a&action=down&%zz", 400},
	} {
		t.Run(name, func(t *testing.T) {
			for _, accept := range []string{browser, "application/json"} {
				r := registryOf(t, "shop", targetsOf("ab")...)
				req := httptest.NewRequest("POST", c.uri, strings.NewReader(c.body))
				req.Header.Set("Accept", accept)
				if c.kind != "" {
					req.Header.Set("Content-Type", c.kind)
				}
				require.Equal(t, c.status, serve(r, req).StatusCode)
				require.Empty(t, r.Status().Presses)
				for _, m := range r.Pool.Members() {
					require.Equal(t, balancer.Ready, m.State().Admin)
				}
			}
		})
	}
}

// The button of a target works for any ID, and the header of the answer stays small.
func TestPage_LongIDs(t *testing.T) {
	for _, id := range []string{strings.Repeat("x", 64<<10), strings.Repeat("\xff", 64<<10), strings.Repeat("\u202e<", 16<<10)} {
		hostile := target("a")
		hostile.ID = id
		r := registryOf(t, "", hostile)
		doc, err := html.Parse(get(r, "/", browser).Body)
		require.NoError(t, err)
		form, row := url.Values{"action": {"down"}}, ""
		for n := range doc.Descendants() {
			attr := make(map[string]string)
			for _, a := range n.Attr {
				attr[a.Key] = a.Val
			}
			if n.Data == "input" && attr["type"] == "hidden" {
				form.Set(attr["name"], attr["value"])
			}
			if n.Data == "tr" && attr["id"] != "" {
				row = attr["id"]
			}
		}
		req := httptest.NewRequest("POST", "/", strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Accept", browser)
		res := serve(r, req)
		require.Equal(t, http.StatusSeeOther, res.StatusCode)
		require.Equal(t, balancer.Down, r.Pool.Members()[0].State().Admin)
		require.Less(t, len(res.Header.Get("Location")), 1000)
		require.Equal(t, "?#"+row, res.Header.Get("Location"))
	}
}

// Two people drain a target. The second is told that it is being drained already, and the press is
// recorded as one that changed nothing.
func TestPage_TwoDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tolerant(newPool(t, target("a")))
		run(t, r)
		synctest.Wait()
		lease := acquire(t, r.Pool, "a")
		defer lease.Release(answered)
		page := pageOf(r)
		for _, who := range []string{"alice", "bob"} {
			page.Who = func(*http.Request) string { return who }
			require.Equal(t, http.StatusSeeOther, pressOn(page, "/", "", "a", "drain").StatusCode)
		}
		s := r.Status()
		require.Equal(t, "alice", s.Targets[0].Drain.By)
		require.Empty(t, s.Presses[1].Problem)
		require.Equal(t, "bob", s.Presses[0].By)
		require.Equal(t, "the target is being drained already", s.Presses[0].Problem)
	})
}

// A reason from a check or a target is bounded, valid UTF-8 and on one line.
func TestStatus_ReasonsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, said := range []string{strings.Repeat("x", 1<<20), strings.Repeat("\xff", 1<<20), "a\nb\u202ec\x1b[2J" + strings.Repeat("é", 1<<20)} {
			for _, wrapped := range []error{errors.New(said), errors.Join(health.ErrReserved, errors.New(said))} {
				r := &health.Registry{Pool: newPool(t, target("a")), Check: health.Func(func(context.Context, balancer.Target) error { return wrapped })}
				run(t, r)
				synctest.Wait()
				c := r.Status().Targets[0].Check
				for _, reason := range []string{c.Error, c.Reserved, r.Status().Targets[0].Change.Reason} {
					require.LessOrEqual(t, len(reason), 1100)
					require.True(t, utf8.ValidString(reason))
					require.NotContains(t, reason, "\n")
					require.NotContains(t, reason, "\x1b")
					require.NotContains(t, reason, "\u202e")
				}
				require.NotEmpty(t, c.Error+c.Reserved)
			}
		}
	})
}

// A page works before its registries run, and for pools without targets. The page of one pool leads
// back to all.
func TestPage_NothingYet(t *testing.T) {
	empty, never := registryOf(t, "empty"), registryOf(t, "never", targetsOf("ab")...)
	page := &health.Page{Registries: []*health.Registry{empty, never}}
	for _, uri := range []string{"/", "/?pool=empty", "/?pool=never&page=-1&refresh=99999999999&sort=up&show=%00", "/?page=1000000000", "/?page=99999999999999999999"} {
		require.Equal(t, 200, getFrom(page, uri, browser).StatusCode, uri)
		require.Equal(t, 200, getFrom(page, uri, "").StatusCode, uri)
	}
	require.Contains(t, body(t, getFrom(page, "/?pool=never&sort=name", browser)), `<a href="?sort=name">All pools</a>`)
	require.NotContains(t, body(t, getFrom(page, "/?sort=name", browser)), "All pools")
	require.Equal(t, http.StatusNotFound, pressOn(page, "/", "empty", "a", "down").StatusCode)
	require.Equal(t, http.StatusConflict, pressOn(page, "/", "never", "a", "drain").StatusCode)
	require.Equal(t, http.StatusSeeOther, pressOn(page, "/", "never", "a", "down").StatusCode)
	require.Equal(t, http.StatusSeeOther, pressOn(page, "/", "never", "a", "ready").StatusCode)
}

// The page is generated for each request, even for a conditional one.
func TestPage_HeadAndConditions(t *testing.T) {
	server := httptest.NewServer(pageOf(registryOf(t, "", targetsOf("a")...)).Handler())
	defer server.Close()
	for _, method := range []string{"GET", "HEAD"} {
		for _, header := range []string{"If-None-Match", "If-Modified-Since", "Range"} {
			req, err := http.NewRequest(method, server.URL, nil)
			require.NoError(t, err)
			req.Header.Set(header, map[string]string{"If-None-Match": "*", "If-Modified-Since": time.Now().UTC().Format(http.TimeFormat), "Range": "bytes=0-1"}[header])
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			require.Equal(t, 200, res.StatusCode)
			require.Equal(t, method == "GET", body(t, res) != "")
			require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
		}
	}
}
