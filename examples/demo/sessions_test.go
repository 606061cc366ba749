package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
)

func TestLines(t *testing.T) {
	p := start(t, "-admin", "127.0.0.1:0")
	require.Len(t, p.lines, 6)
	for i, id := range []string{"app-1", "app-2", "app-3"} {
		require.Regexp(t, `^backend `+id+` accepts on http://127\.0\.0\.1:\d+$`, p.lines[i])
	}
	require.Regexp(t, `^balancer accepts on http://127\.0\.0\.1:\d+$`, p.lines[3])
	require.Regexp(t, `^balancer accepts on https://127\.0\.0\.1:\d+ \(self-signed`, p.lines[4])
	require.Regexp(t, `^admin accepts on http://127\.0\.0\.1:\d+ \(settings at /settings\)$`, p.lines[5])
	newVisitor(t).get(t, p.lines[0][strings.Index(p.lines[0], "http"):]) // the backend accepts indeed
}

func TestPage(t *testing.T) {
	p := start(t)
	for _, base := range []string{p.http, p.https} {
		v := newVisitor(t)
		res, body := v.get(t, base+"/")
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
		require.Equal(t, "no-store", res.Header.Get("Cache-Control"), "it says who served it")
		require.Contains(t, body, fmt.Sprintf(`data-backend="%s"`, v.ask(t, base).Backend))
		require.NotRegexp(t, `(src|href)="(https?:)?//`, body, "nothing from elsewhere")
	}
}

func TestSessionSticks(t *testing.T) {
	p := start(t)
	v := newVisitor(t)
	res, _ := v.get(t, p.https+"/whoami")
	require.Equal(t, 2, res.ProtoMajor)
	home := v.ask(t, p.https)
	require.Equal(t, "https", home.Proto)
	for range 5 {
		require.Equal(t, home, v.ask(t, p.https))
		require.Equal(t, home.Backend, v.ask(t, p.http).Backend, "browsers send a host's cookies to all of its ports")
	}
	require.Equal(t, "http", v.ask(t, p.http).Proto)
	require.Equal(t, "127.0.0.1", home.Client)
}

func TestFreshVisitorsSpread(t *testing.T) {
	p := start(t)
	met := map[string]int{}
	for range 60 {
		met[newVisitor(t).ask(t, p.http).Backend]++
	}
	require.Len(t, met, 3)
}

func TestWebSocket(t *testing.T) {
	p := start(t)
	for _, base := range []string{p.http, p.https} {
		v := newVisitor(t)
		home := v.ask(t, base).Backend
		ws, backend := v.dial(t, base)
		require.Equal(t, home, backend)
		require.Equal(t, 1, p.shows(t, home).Tunnels)
		require.NoError(t, websocket.Message.Send(ws, `"quoted" & <b>bold</b>`))
		missing := []message{{home, `heard "\"quoted\" & <b>bold</b>"`}, {home, "tick 1"}}
		for range 10 { // there may be ticks before the answer
			if i := slices.Index(missing, receive(t, ws)); i >= 0 {
				missing = slices.Delete(missing, i, i+1)
			}
			if len(missing) == 0 {
				break
			}
		}
		require.Empty(t, missing)
		require.NoError(t, ws.Close())
		require.Eventually(t, func() bool { return p.shows(t, home).Tunnels == 0 }, patience, glance)
	}
}

// TestForget finds each session elsewhere afterwards: its open WebSocket makes its backend the
// busiest.
func TestForget(t *testing.T) {
	for _, flags := range [][]string{{"-sticky", "lb"}, {"-sticky", "lb=1h"}, {"-sticky", "app=SHOP"}, {"-sticky", "learn=SHOP"}} {
		t.Run(flags[1], func(t *testing.T) {
			p := start(t, flags...)
			for _, base := range []string{p.http, p.https} {
				v := newVisitor(t)
				home := v.ask(t, base).Backend
				v.dial(t, base)
				res, err := v.Post(base+"/demo/forget", "", nil)
				require.NoError(t, err)
				res.Body.Close()
				for _, c := range res.Cookies() {
					require.Equal(t, base == p.https, c.Secure, "browsers take no Secure cookie over http")
				}
				require.Empty(t, v.Jar.Cookies(res.Request.URL))
				moved := v.ask(t, base).Backend
				require.NotEqual(t, home, moved)
				require.Equal(t, moved, v.ask(t, base).Backend)
			}
		})
	}
}

func TestFailover(t *testing.T) {
	p := start(t)
	v := newVisitor(t)
	home := v.ask(t, p.http).Backend
	ws, _ := v.dial(t, p.http)

	p.press(t, "backends/"+home+"/stop")
	require.False(t, p.shows(t, home).Running)
	refuge := v.ask(t, p.http).Backend
	require.NotEqual(t, home, refuge)
	for {
		var m message
		if err := websocket.JSON.Receive(ws, &m); err != nil {
			break // what was under way has come, then the connection was cut
		}
		require.Equal(t, home, m.Backend)
	}
	require.NoError(t, ws.Close())
	_, backend := v.dial(t, p.http)
	require.Equal(t, refuge, backend)
	p.healthy(t, home, "unhealthy")

	p.restart(t, home)
	p.healthy(t, home, "healthy")
	require.True(t, p.shows(t, home).Running)
	require.Equal(t, refuge, v.ask(t, p.http).Backend, "a session does not move back")
	require.Eventually(t, func() bool { return newVisitor(t).ask(t, p.http).Backend == home }, patience, glance)
}

func TestDrain(t *testing.T) {
	p := start(t)
	v := newVisitor(t)
	home := v.ask(t, p.http).Backend

	p.press(t, "backends/"+home+"/drain")
	require.Equal(t, "draining", p.shows(t, home).Admin)
	require.Equal(t, home, v.ask(t, p.http).Backend)
	ws, backend := v.dial(t, p.http)
	require.Equal(t, home, backend, "of a bound session, a WebSocket too")
	for range 20 {
		require.NotEqual(t, home, newVisitor(t).ask(t, p.http).Backend)
	}

	p.press(t, "backends/"+home+"/ready")
	require.Equal(t, "ready", p.shows(t, home).Admin)
	require.NoError(t, ws.Close())
	require.Eventually(t, func() bool { return newVisitor(t).ask(t, p.http).Backend == home }, patience, glance)
}

func TestSticky_Period(t *testing.T) {
	p := start(t, "-sticky", "lb=90m")
	res, _ := newVisitor(t).get(t, p.http+"/whoami")
	require.Equal(t, []int{5400}, maxAges(res, lbCookie))

	p = start(t)
	res, _ = newVisitor(t).get(t, p.http+"/whoami")
	require.Equal(t, []int{0}, maxAges(res, lbCookie), "a browser-session cookie has none")
	require.Regexp(t, `; HttpOnly; SameSite=Lax$`, res.Header.Get("Set-Cookie"))
}

// maxAges returns the Max-Age of each cookie of that name that the response sets, zero for none.
func maxAges(res *http.Response, name string) []int {
	var ages []int
	for _, c := range res.Cookies() {
		if c.Name == name {
			ages = append(ages, c.MaxAge)
		}
	}
	return ages
}

func TestSticky_App(t *testing.T) {
	p := start(t, "-sticky", "app=SHOP")
	v := newVisitor(t)
	res, _ := v.get(t, p.http+"/whoami")
	require.ElementsMatch(t, []string{"SHOP", lbCookieApp}, cookieNames(res))
	home := v.ask(t, p.http).Backend
	for range 5 {
		require.Equal(t, home, v.ask(t, p.http).Backend)
	}
	res, _ = v.get(t, p.http+"/whoami")
	require.Empty(t, cookieNames(res), "the application sets its cookie once")
}

func TestSticky_None(t *testing.T) {
	p := start(t, "-sticky", "none", "-picker", "roundrobin")
	v := newVisitor(t)
	var met []string
	for range 3 {
		res, _ := v.get(t, p.http+"/whoami")
		require.Empty(t, cookieNames(res))
		met = append(met, v.ask(t, p.http).Backend)
	}
	slices.Sort(met)
	require.Equal(t, []string{"app-1", "app-2", "app-3"}, met, "every second of six requests in turn")
}

func cookieNames(res *http.Response) []string {
	var names []string
	for _, c := range res.Cookies() {
		names = append(names, c.Name)
	}
	return names
}

func TestPickers_Serve(t *testing.T) {
	for _, picker := range pickers {
		t.Run(picker.name, func(t *testing.T) {
			p := start(t, "-picker", picker.name)
			v := newVisitor(t)
			require.Equal(t, v.ask(t, p.http).Backend, v.ask(t, p.http).Backend)
			if picker.name == "first" {
				require.Equal(t, "app-1", v.ask(t, p.http).Backend)
			}
		})
	}
}
