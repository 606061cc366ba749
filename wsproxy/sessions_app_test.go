package wsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func appCookie(t testing.TB, o stickiness.AppCookieOptions) *stickiness.AppCookie {
	t.Helper()
	if o.Keys == nil {
		o.Keys = [][]byte{key}
	}
	o.Cookie = "app"
	policy, err := stickiness.NewAppCookie(o)
	require.NoError(t, err)
	return policy
}

// setCookies is an application that sends the Set-Cookie lines that the request's body has, a line
// each.
func setCookies(w http.ResponseWriter, r *http.Request) {
	content, _ := io.ReadAll(r.Body)
	for line := range strings.SplitSeq(string(content), "\n") {
		if line != "" {
			w.Header().Add("Set-Cookie", line)
		}
	}
}

// answer asks a client to have the application send Set-Cookie lines.
func (c *client) answer(setCookies ...string) *reply {
	c.t.Helper()
	return c.do(http.MethodPost, "/", strings.NewReader(strings.Join(setCookies, "\n")))
}

// newApp gives two backends with that application, behind a proxy that follows its cookie.
func newApp(t testing.TB, front func(testing.TB, http.Handler) *httptest.Server, o stickiness.AppCookieOptions) (*pair, *client) {
	p := newPair(t, setCookies)
	return p, newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: appCookie(t, o)}))
}

func TestProxy_S8_BoundByBothCookiesOnly(t *testing.T) {
	lb := "AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "b"})
	tests := map[string]struct {
		sent []string
		want string
	}{
		"both":                     {[]string{"Cookie: app=1; " + lb}, "b"},
		"both, in two lines":       {[]string{"Cookie: " + lb, "Cookie: app=1"}, "b"},
		"application's empty":      {[]string{"Cookie: app=; " + lb}, "b"},
		"balancer's alone":         {[]string{"Cookie: " + lb}, "a"},
		"application's alone":      {[]string{"Cookie: app=1"}, "a"},
		"another of the app":       {[]string{"Cookie: apps=1; " + lb}, "a"},
		"name in other case":       {[]string{"Cookie: App=1; " + lb}, "a"},
		"balancer's not authentic": {[]string{"Cookie: app=1; " + lb[:len(lb)-6] + "AAAAAA"}, "a"},
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		_, c := newApp(t, front, stickiness.AppCookieOptions{})
		c.withoutCookies()
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				r := c.get("/", tt.sent...)
				require.Equal(t, tt.want, r.backend())
				require.Empty(t, r.Header["Set-Cookie"], "the application has set nothing")
			})
		}
	})
}

func TestProxy_S9_InsertedWithTheApplicationsCookieOnly(t *testing.T) {
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		p, c := newApp(t, front, stickiness.AppCookieOptions{})
		p.picker.to("b")
		require.Empty(t, c.get("/").Header["Set-Cookie"])
		require.Equal(t, []string{"other=1"}, c.answer("other=1").Header["Set-Cookie"])
		login := c.answer("app=1; Path=/")
		require.Equal(t, "app=1; Path=/", login.Header["Set-Cookie"][0])
		requireBound(t, login, "b")
		p.picker.to("a")
		for range 2 {
			next := c.get("/")
			require.Equal(t, "b", next.backend())
			require.Empty(t, next.Header["Set-Cookie"], "never refreshed by other responses")
		}
		again := c.answer("app=2; Path=/")
		require.Equal(t, "b", again.backend())
		requireBound(t, again, "b")
	})
}

func TestProxy_S10_AttributesCarryOver(t *testing.T) {
	tests := map[string]struct {
		app, want string // V stands for the value
	}{
		"none": {"app=1", "AWSELB=V"},
		"those of today": {
			"app=1; Path=/shop; Domain=example.com; Max-Age=60; Secure; HttpOnly; SameSite=Lax; Partitioned",
			"AWSELB=V; Path=/shop; Domain=example.com; Max-Age=60; Secure; HttpOnly; SameSite=Lax; Partitioned",
		},
		"those of RFC 2965": {
			`app=1; Version=1; Comment=hello; CommentURL=/why; Discard; Port="80,8080"`,
			`AWSELB=V; Version=1; Comment=hello; CommentURL=/why; Discard; Port="80,8080"`,
		},
		"unknown ones do not": {"app=1; Priority=High; path=/", "AWSELB=V; path=/"},
		"expires":             {"app=1; Expires=Fri, 01 Jan 2100 00:00:00 GMT", "AWSELB=V; Expires=Fri, 01 Jan 2100 00:00:00 GMT"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, c := newApp(t, serve, stickiness.AppCookieOptions{})
			r := c.answer(tt.app)
			require.Equal(t, tt.app, r.Header["Set-Cookie"][0])
			requireBound(t, r, "a")
			line := lbLines(r.Header)[0]
			require.Equal(t, tt.want, mask(line))
		})
	}
}

func TestProxy_S10_TwoSpellingsOfAPath(t *testing.T) {
	_, c := newApp(t, serve, stickiness.AppCookieOptions{})
	lines := lbLines(c.answer("app=1; Path=/my_app").Header)
	require.Len(t, lines, 2)
	paths := make([]string, 0, 2)
	for _, line := range lines {
		require.Equal(t, valueOf(lines[0]), valueOf(line))
		_, path, _ := strings.Cut(line, "; Path=")
		paths = append(paths, path)
	}
	require.ElementsMatch(t, []string{"/my_app", "/my%5Fapp"}, paths)
}

func TestProxy_S11_DeletionFollowsApp(t *testing.T) {
	tests := map[string]string{
		"Max-Age zero":      "app=; Path=/; Max-Age=0",
		"Max-Age below":     "app=gone; Path=/; Max-Age=-1",
		"Expires past":      "app=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
		"Max-Age overrules": "app=; Path=/; Max-Age=0; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		for name, deleting := range tests {
			t.Run(name, func(t *testing.T) {
				p, c := newApp(t, front, stickiness.AppCookieOptions{})
				p.picker.to("b")
				c.answer("app=1; Path=/")
				p.picker.to("a")
				require.Equal(t, "b", c.get("/").backend())

				logout := c.answer(deleting)
				require.Equal(t, "b", logout.backend())
				require.Equal(t, deleting, logout.Header["Set-Cookie"][0])
				lines := lbLines(logout.Header)
				require.Len(t, lines, 1)
				line, err := cookie.ParseSetCookie(lines[0])
				require.NoError(t, err)
				path, _ := line.Attribute("Path")
				require.Equal(t, "/", path)
				at, session := line.Expiry(time.Now())
				require.False(t, session)
				require.False(t, at.After(time.Now()))

				free := c.get("/")
				require.Equal(t, "a", free.backend(), "free until the application sets its cookie again")
				require.Empty(t, p.a.header()["Cookie"], "the client has neither cookie left")
				c.answer("app=2; Path=/")
				p.picker.to("b")
				require.Equal(t, "a", c.get("/").backend())
			})
		}
	})
}

func TestProxy_S12_TrailingSemicolonIsIgnored(t *testing.T) {
	for _, ending := range []string{";", "; ", " ;\t"} {
		line := "app=1; Path=/" + ending
		t.Run(strconv.Quote(ending), func(t *testing.T) {
			p := newPair(t, nil)
			// A real server would trim the line's end: these come as a transport reads them from
			// any other.
			transport := roundTripper(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r,
					Header: http.Header{"Set-Cookie": {line}}}, nil
			})
			for accept, want := range map[bool]stickiness.Result{false: stickiness.Ignored, true: stickiness.Bound} {
				var result stickiness.Result
				policy := appCookie(t, stickiness.AppCookieOptions{AcceptTrailingSemicolon: accept})
				c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy, Transport: transport,
					Trace: &wsproxy.Trace{Bind: func(_ *http.Request, b *stickiness.Binding) { result = b.Result }}}))
				r := c.get("/")
				require.Equal(t, strings.TrimRight(line, " \t"), strings.TrimRight(r.Header["Set-Cookie"][0], " \t"))
				require.Equal(t, want, result)
				if accept {
					requireBound(t, r, "a")
				} else {
					require.Empty(t, lbLines(r.Header))
				}
			}
		})
	}
}

func TestProxy_S13_FailoverSticksToTheNewTarget(t *testing.T) {
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		for name, way := range unable {
			t.Run(name, func(t *testing.T) {
				p, c := newApp(t, front, stickiness.AppCookieOptions{})
				p.picker.to("b")
				c.answer("app=1; Path=/; HttpOnly")
				way.make(t, p)

				moved := c.get("/")
				require.Equal(t, http.StatusOK, moved.StatusCode)
				require.Equal(t, "a", moved.backend())
				require.Len(t, moved.Header["Set-Cookie"], 1, "the application sets nothing")
				requireBound(t, moved, "a")
				line := lbLines(moved.Header)[0]
				require.Equal(t, "AWSELB="+valueOf(line)+"; Path=/; HttpOnly", line)

				way.undo(t, p)
				p.picker.to("b")
				for range 2 {
					stays := c.get("/")
					require.Equal(t, "a", stays.backend(), "stays when the old one comes back")
					require.Empty(t, stays.Header["Set-Cookie"])
				}
			})
		}
	})
}

func TestProxy_S13_ExpiryTravelsInTheValue(t *testing.T) {
	p, c := newApp(t, serve, stickiness.AppCookieOptions{})
	c.withoutCookies()
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	first := cookie.Ticket{Target: "b", Issued: time.Now().Add(-time.Hour), Expires: expires, Carried: []cookie.Attribute{
		{Name: "Path", Value: "/shop"}, {Name: "Max-Age", Value: "7200"}, {Name: "Secure", Bare: true},
	}}
	p.b.stop()
	r := c.get("/", "Cookie: app=1; AWSELB="+seal(t, "", key, first))
	requireBound(t, r, "a")
	line := lbLines(r.Header)[0]
	parsed, err := cookie.ParseSetCookie(line)
	require.NoError(t, err)
	maxAge, _ := parsed.Attribute("Max-Age")
	left, err := strconv.Atoi(maxAge)
	require.NoError(t, err)
	require.InDelta(t, 3600, left, 10, "what is left of it")
	require.Equal(t, fmt.Sprintf("AWSELB=%s; Path=/shop; Max-Age=%d; Secure", valueOf(line), left), line)
	require.True(t, expires.Equal(open(t, line).Expires), "the instant stays")
}

func TestProxy_S13_DetourKeepsTheBinding(t *testing.T) {
	p := newPair(t, setCookies)
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: appCookie(t, stickiness.AppCookieOptions{}),
		OnMiss: func(*http.Request, string, error) wsproxy.Miss { return wsproxy.Detour }}))
	p.picker.to("b")
	c.answer("app=1; Path=/")
	p.b.stop()
	detour := c.get("/")
	require.Equal(t, "a", detour.backend())
	require.Empty(t, detour.Header["Set-Cookie"])
	p.b.start(t)
	p.picker.to("a")
	require.Equal(t, "b", c.get("/").backend())
	p.b.stop()
	require.Equal(t, "a", c.get("/").backend())
	requireBound(t, c.answer("app=2; Path=/"), "a") // a new session of the application's begins where it was served
}

func TestProxy_S14_LastLineRules(t *testing.T) {
	tests := map[string]struct {
		lines []string
		want  []string // of the balancer's, V stands for the value
	}{
		"two":             {[]string{"app=1; Path=/one", "app=2; Path=/two"}, []string{"AWSELB=V; Path=/one", "AWSELB=V; Path=/two"}},
		"another between": {[]string{"app=1; Path=/one", "other=2; Path=/two"}, []string{"AWSELB=V; Path=/one"}},
		"set, then deleted": {[]string{"app=1; Path=/", "app=; Path=/; Max-Age=0"},
			[]string{"AWSELB=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"}},
		"deleted, then set":      {[]string{"app=; Path=/; Max-Age=0", "app=1; Path=/"}, []string{"AWSELB=V; Path=/"}},
		"quotes":                 {[]string{`app="a b"; Path=/`}, []string{"AWSELB=V; Path=/"}},
		"odd characters":         {[]string{`app=a,b\c"d é; Path=/`}, []string{"AWSELB=V; Path=/"}},
		"spaces around":          {[]string{"app \t=  1 ; Path = /x"}, []string{"AWSELB=V; Path=/x"}},
		"name in other case":     {[]string{"App=1; Path=/"}, nil},
		"nothing but attributes": {[]string{"=app; Path=/"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, c := newApp(t, serve, stickiness.AppCookieOptions{})
			r := c.answer(tt.lines...)
			require.Equal(t, tt.lines, r.Header["Set-Cookie"][:len(tt.lines)], "the application's pass unchanged")
			var lines []string
			for _, line := range lbLines(r.Header) {
				lines = append(lines, mask(line))
			}
			require.Equal(t, tt.want, lines)
		})
	}
}
