package peertest_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
)

// testDurationCookie: navigation, scripts and WebSockets go to the target of the first page.
func testDurationCookie(t *testing.T, b browser) {
	s := newSite(t, newLBCookie(t, stickiness.LBCookieOptions{Period: time.Hour}))
	for origin, want := range map[string][]string{
		"http://duration.example:" + s.plain:    {"AWSELB"},
		"https://duration-tls.example:" + s.tls: {"AWSELB", "AWSELBCORS"},
	} {
		before := time.Now().Truncate(time.Second)
		first := b.open(t, origin+"/")
		require.Empty(t, first.Cookies)
		for range 3 { // unbound, they would go to each target in turn
			for _, path := range []string{"/", "/page?x=1", "/elsewhere/"} {
				a := b.open(t, origin+path)
				require.Equal(t, first.ID, a.ID)
				require.ElementsMatch(t, want, a.names())
			}
			require.Equal(t, first.ID, b.fetch(t, origin+"/data").ID)
			require.Equal(t, first.ID, b.socket(t, origin+"/ws"))
		}
		host := strings.Split(origin, ":")[1][2:]
		stored := b.cookies(t, host)
		require.Len(t, stored, len(want))
		for _, c := range stored {
			ends := time.Unix(int64(c.Expires), 0)
			require.WithinRange(t, ends, before.Add(time.Hour), time.Now().Add(time.Hour+time.Second), c.Name)
			require.Equal(t, "/", c.Path)
		}
	}
}

// testWebSocketFirst: the answer that switches protocols binds as well as any other. The page around it is on another
// port, and so does not come from the balancer, although cookies are common to both.
func testWebSocketFirst(t *testing.T, b browser) {
	s := newSite(t, newLBCookie(t, stickiness.LBCookieOptions{Period: time.Hour}))
	b.open(t, "https://socket.example:"+other(t))
	id := b.socket(t, "https://socket.example:"+s.tls+"/ws")
	for range 4 {
		require.Equal(t, id, b.socket(t, "https://socket.example:"+s.tls+"/ws"))
		require.Equal(t, id, b.open(t, "https://socket.example:"+s.tls).ID)
	}
}

// testPeriod: the cookie is gone after its period, and the next page is bound anew.
func testPeriod(t *testing.T, b browser) {
	const period = 3 * time.Second
	s := newSite(t, newLBCookie(t, stickiness.LBCookieOptions{Period: period}))
	// bound opens a page and returns the cookie that comes with it, unless the machine stalls until that is gone.
	bound := func() (before time.Time, seen seen, stored []*network.Cookie) {
		for {
			before = time.Now()
			seen = b.open(t, "http://period.example:"+s.plain)
			if stored = b.cookies(t, "period.example"); len(stored) > 0 || time.Since(before) < period-time.Second {
				return before, seen, stored
			}
		}
	}
	before, _, stored := bound()
	require.Len(t, stored, 1)
	require.WithinRange(t, time.Unix(int64(stored[0].Expires), 0), before.Add(period-time.Second), time.Now().Add(period))
	until(t, "the cookie is gone", func() bool { return len(b.cookies(t, "period.example")) == 0 })
	require.GreaterOrEqual(t, time.Since(before), period-time.Second) // dates have no fractions
	_, seen, again := bound()
	require.Empty(t, seen.Cookies)
	require.Len(t, again, 1)
	require.NotEqual(t, stored[0].Value, again[0].Value)
}

// testAppCookie: a path with an underscore works in browsers, because the cookie is written in both spellings, and when
// the application deletes its cookie both are gone.
func testAppCookie(t *testing.T, b browser) {
	s := newSite(t, newAppCookie(t, stickiness.AppCookieOptions{}))
	origin := "http://path.example:" + s.plain
	first := b.open(t, origin+"/my_app/login"+setting("app=1; Path=/my_app")[1:])
	for range 4 {
		a := b.open(t, origin+"/my_app/page")
		require.Equal(t, first.ID, a.ID)
		require.ElementsMatch(t, []string{"app", "AWSELB"}, a.names())
		require.Equal(t, first.ID, b.socket(t, origin+"/my_app/ws"))
	}
	var paths []string
	for _, c := range named(b.cookies(t, "path.example"), "AWSELB") {
		paths = append(paths, c.Path)
	}
	require.ElementsMatch(t, []string{"/my_app", "/my%5Fapp"}, paths)
	require.Empty(t, b.open(t, origin+"/my").Cookies, "outside the path")

	b.open(t, origin+"/my_app/logout"+setting("app=; Path=/my_app; Max-Age=0")[1:])
	require.Empty(t, b.cookies(t, "path.example"))
}

// testAppCookieEncodedPath: with "%5F" alone, as the classic balancer writes it, browsers do not send the cookie back.
func testAppCookieEncodedPath(t *testing.T, b browser) {
	s := newSite(t, newAppCookie(t, stickiness.AppCookieOptions{PathSpelling: stickiness.SpellEncoded}))
	origin := "http://encoded.example:" + s.plain
	b.open(t, origin+"/my_app/login"+setting("app=1; Path=/my_app")[1:])
	stored := named(b.cookies(t, "encoded.example"), "AWSELB")
	require.Len(t, stored, 1)
	require.Equal(t, "/my%5Fapp", stored[0].Path)
	met := make(map[string]bool)
	for range 5 {
		a := b.open(t, origin+"/my_app/page")
		require.Equal(t, []string{"app=1"}, a.Cookies)
		met[a.ID] = true
	}
	require.Greater(t, len(met), 1, "they stick")
	require.Equal(t, []string{"AWSELB=" + stored[0].Value}, b.open(t, origin+"/my%5Fapp/page").Cookies)
}

// testCrossSite: a page of another site that embeds or asks the application with the user's cookies meets the target of
// the user's own session there. The browser sends the twin alone: the first cookie has no SameSite, which means Lax.
//
// That takes a browser that allows third-party cookies. Where they are blocked, as they are at the end of the test, the
// twin is of no use, and such requests go where the picker sends them.
func testCrossSite(t *testing.T, b browser) {
	s := newSite(t, newLBCookie(t, stickiness.LBCookieOptions{}))
	app, shop := "https://app.example:"+s.tls, "https://shop.example:"+other(t)
	first := b.open(t, app)
	stored := b.cookies(t, "app.example")
	require.Len(t, stored, 2)
	b.open(t, shop)
	for range 4 {
		a := b.fetch(t, app+cors(shop))
		require.Equal(t, first.ID, a.ID)
		require.Equal(t, []string{"AWSELBCORS"}, a.names())
		a = b.frame(t, app)
		require.Equal(t, first.ID, a.ID)
		require.Equal(t, []string{"AWSELBCORS"}, a.names())
	}
	require.ElementsMatch(t, stored, b.cookies(t, "app.example"), "no answer has set another cookie")

	b.blockThirdParties(t)
	b.open(t, shop)
	require.Empty(t, b.fetch(t, app+cors(shop)).Cookies)
	require.Empty(t, b.frame(t, app).Cookies)
}

// testCrossSiteWithoutTwin: without the twin such requests bring nothing.
func testCrossSiteWithoutTwin(t *testing.T, b browser) {
	s := newSite(t, newLBCookie(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever}))
	app, shop := "https://app-without.example:"+s.tls, "https://shop-without.example:"+other(t)
	b.open(t, app)
	require.Equal(t, []string{"AWSELB"}, b.open(t, app).names())
	b.open(t, shop)
	require.Empty(t, b.fetch(t, app+cors(shop)).Cookies)
	require.Empty(t, b.frame(t, app).Cookies)
}

// testCrossSiteApp: with application-controlled stickiness the cookie goes where the application's own goes.
func testCrossSiteApp(t *testing.T, b browser) {
	s := newSite(t, newAppCookie(t, stickiness.AppCookieOptions{}))
	app, shop := "https://own.example:"+s.tls, "https://shop-own.example:"+other(t)
	first := b.open(t, app+setting("app=1; Path=/; SameSite=None; Secure"))
	b.open(t, shop)
	for range 4 {
		for _, a := range []seen{b.fetch(t, app+cors(shop)), b.frame(t, app)} {
			require.Equal(t, first.ID, a.ID)
			require.ElementsMatch(t, []string{"app", "AWSELB"}, a.names())
		}
	}
}

// testSameSite: a page of another host of the same site brings both cookies.
func testSameSite(t *testing.T, b browser) {
	s := newSite(t, newLBCookie(t, stickiness.LBCookieOptions{}))
	api, www := "https://api.same.example:"+s.tls, "https://www.same.example:"+other(t)
	first := b.open(t, api)
	b.open(t, www)
	for range 4 {
		for _, a := range []seen{b.fetch(t, api+cors(www)), b.frame(t, api)} {
			require.Equal(t, first.ID, a.ID)
			require.ElementsMatch(t, []string{"AWSELB", "AWSELBCORS"}, a.names())
		}
	}
}

// testPartitioned: an embedded application has one session per site around it, also where third-party cookies are
// blocked, and none of them is that of its own pages.
func testPartitioned(t *testing.T, b browser) {
	b.blockThirdParties(t)
	o := stickiness.LBCookieOptions{Secure: true, SameSite: http.SameSiteNoneMode, Partitioned: true}
	s := newSite(t, newLBCookie(t, o))
	app, port := "https://embedded.example:"+s.tls, other(t)
	first := make(map[string]seen)
	for range 2 {
		for _, top := range []string{"https://one.example", "https://two.example", "https://embedded.example"} {
			b.open(t, top+":"+port)
			for range 3 {
				a := b.frame(t, app)
				if first[top].ID == "" {
					require.Empty(t, a.Cookies, top)
					first[top] = seen{ID: a.ID}
					continue
				}
				require.Equal(t, first[top].ID, a.ID, top)
				require.Equal(t, []string{"AWSELB"}, a.names(), top)
				for _, c := range b.cookies(t, "embedded.example") {
					if c.PartitionKey.TopLevelSite == top {
						require.Equal(t, []string{"AWSELB=" + c.Value}, a.Cookies, top)
					}
				}
			}
		}
	}
	var sites []string
	for _, c := range b.cookies(t, "embedded.example") {
		require.NotNil(t, c.PartitionKey)
		sites = append(sites, c.PartitionKey.TopLevelSite)
	}
	require.ElementsMatch(t, []string{"https://one.example", "https://two.example", "https://embedded.example"}, sites)
}
