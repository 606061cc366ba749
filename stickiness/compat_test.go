package stickiness_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

// table returns a codec for two targets.
func table(t testing.TB) *cookie.InsecureTable {
	t.Helper()
	var c cookie.InsecureTable
	require.NoError(t, c.Store(map[string]string{"app-1": "s1", "app-2": "s2"}))
	return &c
}

func TestRoute_Lookup(t *testing.T) {
	p, err := stickiness.NewRoute(stickiness.RouteOptions{Cookie: "JSESSIONID", PathParam: "jsessionid", Codec: table(t)})
	require.NoError(t, err)
	tests := map[string]struct {
		path, cookies string
		want          []string
	}{
		"nothing":               {"/", "", []string{}},
		"cookie":                {"/", "JSESSIONID=0123.s1", []string{"app-1"}},
		"cookie in quotes":      {"/", `JSESSIONID="0123.s1"`, []string{"app-1"}},
		"no route":              {"/", "JSESSIONID=0123", []string{}},
		"an empty route":        {"/", "JSESSIONID=0123.", []string{}},
		"an unknown route":      {"/", "JSESSIONID=0123.s3", []string{"[unknown target]"}},
		"path":                  {"/app/page;jsessionid=0123.s2?x=1", "", []string{"app-2"}},
		"path in an inner part": {"/app;jsessionid=0123.s2/page", "", []string{"app-2"}},
		"cookie before path":    {"/app/page;jsessionid=0123.s2", "JSESSIONID=0123.s1", []string{"app-1", "app-2"}},
		"the same":              {"/app/page;jsessionid=4567.s1", "JSESSIONID=0123.s1", []string{"app-1"}},
		"behind many":           {"/", strings.Repeat("JSESSIONID=0123; ", 70) + "JSESSIONID=0.s2; JSESSIONID=0.s1", []string{"app-2", "app-1"}},
	}
	for name, tt := range tests {
		r := httptest.NewRequest(http.MethodGet, tt.path, nil)
		r.Header.Set("Cookie", tt.cookies)
		require.Equal(t, tt.want, targets(p.Lookup(r, nil)), name)
	}
	only, err := stickiness.NewRoute(stickiness.RouteOptions{PathParam: "jsessionid", Codec: table(t)})
	require.NoError(t, err)
	require.Empty(t, only.Lookup(get("=0.s1; JSESSIONID=0.s1"), nil))
}

func TestRoute_Contract(t *testing.T) {
	p, err := stickiness.NewRoute(stickiness.RouteOptions{Cookie: "JSESSIONID", Codec: plain{}})
	require.NoError(t, err)
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{Request: func(target string) *http.Request {
		return get("JSESSIONID=0123." + target)
	}}))
}

// The values are those of HAProxy's manual and of its source.
func TestPrefixCookie_Request(t *testing.T) {
	p, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "JSESSIONID", Codec: table(t)})
	require.NoError(t, err)
	tests := map[string]struct {
		target  []string
		forward string
	}{
		"s1~ABC123": {[]string{"app-1"}, "ABC123"},
		"s1~a~b":    {[]string{"app-1"}, "a~b"},
		"bad~XYZ":   {[]string{"[unknown target]"}, "XYZ"},
		"~XYZ":      {[]string{"[unknown target]"}, "XYZ"},
		"ABC123":    {[]string{"[unknown target]"}, "ABC123"},
		"s1":        {[]string{"app-1"}, "s1"},
	}
	for value, tt := range tests {
		in := get("a=s1~b; JSESSIONID=" + value)
		seen := p.Lookup(in, nil)
		require.Equal(t, tt.target, targets(seen), value)
		out := in.Clone(t.Context())
		p.Forward(out, seen)
		require.Equal(t, []string{"a=s1~b; JSESSIONID=" + tt.forward}, out.Header["Cookie"], value)
	}
	behind := func(n int) []stickiness.Candidate {
		line, _ := numbered("JSESSIONID", n)
		return p.Lookup(get(line+"; JSESSIONID=s1~1"), nil)
	}
	require.Equal(t, "app-1", behind(63)[63].Target)
	require.Equal(t, stickiness.UnknownTarget, behind(64)[63].Reason)
}

func TestPrefixCookie_Bind(t *testing.T) {
	p, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: table(t)})
	require.NoError(t, err)
	tests := map[string]struct {
		in, want []string
		result   stickiness.Result
	}{
		"none":               {[]string{"a=1"}, []string{"a=1"}, stickiness.Kept},
		"set":                {[]string{"a=1", "SID=ABC123; Path=/; X=1", "b=1"}, []string{"a=1", "SID=s1~ABC123; Path=/; X=1", "b=1"}, stickiness.Bound},
		"byte for byte":      {[]string{" SID =  \"a=b\" ;Path=/;"}, []string{" SID =  s1~\"a=b\" ;Path=/;"}, stickiness.Bound},
		"several":            {[]string{"SID=1; Path=/a", "SID=2; Path=/b"}, []string{"SID=s1~1; Path=/a", "SID=s1~2; Path=/b"}, stickiness.Bound},
		"deletion":           {[]string{"SID=; Max-Age=0"}, []string{"SID=s1~; Max-Age=0"}, stickiness.Freed},
		"what browsers drop": {[]string{"SID=a\x01"}, []string{"SID=a\x01"}, stickiness.Kept},
		"what would be too large": {
			[]string{"SID=" + strings.Repeat("x", 4096-3-3), "SID=" + strings.Repeat("y", 4096-3-2)},
			[]string{"SID=s1~" + strings.Repeat("x", 4096-3-3), "SID=" + strings.Repeat("y", 4096-3-2)},
			stickiness.Bound,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := answer(p, get(), "app-1", set(tt.in...))
			require.Equal(t, tt.want, b.Header["Set-Cookie"])
			require.Equal(t, tt.result, b.Result)
			require.Equal(t, tt.result != stickiness.Kept, b.Header.Get("Cache-Control") == "private")
		})
	}
	b := answer(p, get("SID=s1~1"), "app-1", set("SID=2"))
	require.Equal(t, stickiness.Renewed, b.Result)
	b = answer(p, get("SID=s1~1"), "app-2", set("SID=2"))
	require.Equal(t, []string{"SID=s2~2"}, b.Header["Set-Cookie"])
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, set("SID=2"), answer(p, get(), "app-3", set("SID=2")).Header, "not in the table")

	tilde, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: plain{}, KeepCacheable: true})
	require.NoError(t, err)
	require.Equal(t, set("SID=2"), answer(tilde, get(), "a~b", set("SID=2")).Header, "the prefix ends at the first tilde")
	require.Equal(t, set("SID=a~2"), answer(tilde, get(), "a", set("SID=2")).Header, "KeepCacheable")
}

func TestPrefixCookie_Contract(t *testing.T) {
	p, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: plain{}})
	require.NoError(t, err)
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{Response: login}))
}

func TestNewRouteAndPrefixCookie_Refuse(t *testing.T) {
	_, err := stickiness.NewRoute(stickiness.RouteOptions{Codec: plain{}})
	require.EqualError(t, err, "stickiness: Route: no Cookie and no PathParam")
	_, err = stickiness.NewRoute(stickiness.RouteOptions{Cookie: "JSESSIONID"})
	require.EqualError(t, err, "stickiness: Route: no Codec")
	_, err = stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "", Codec: plain{}})
	require.EqualError(t, err, `stickiness: PrefixCookie: invalid name "" of the application's cookie`)
	_, err = stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID"})
	require.EqualError(t, err, "stickiness: PrefixCookie: no Codec")
}

// "cookie SRV insert indirect nocache maxidle 30m maxlife 8h", step by step.
func TestLBCookie_C8_HAProxyDates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codec := &cookie.InsecureHAProxy{MaxIdle: 30 * time.Minute, MaxLife: 8 * time.Hour}
		require.NoError(t, codec.Store(map[string]string{"app-1": "s1", "app-2": "s2"}))
		p := newLB(t, stickiness.LBCookieOptions{Name: "SRV", Codec: codec, CORS: stickiness.CORSNever})
		at := func(unix int64) { time.Sleep(time.Until(time.Unix(unix, 0))) }

		at(1700000000)
		require.Equal(t, []string{"SRV=s1|ZVPxA|ZVPxA; Path=/"}, answer(p, get(), "app-1", nil).Header["Set-Cookie"])
		at(1700000001)
		require.Equal(t, []string{"SRV=s1|ZVPxB|ZVPxB; Path=/"}, answer(p, get(), "app-1", nil).Header["Set-Cookie"])
		at(1700000004)
		b := answer(p, get("SRV=s1|ZVPxB|ZVPxB"), "app-1", nil)
		require.Equal(t, stickiness.Kept, b.Result, "at most once in four seconds")
		at(1700000101)
		b = answer(p, get("SRV=s1|ZVPxB|ZVPxB"), "app-1", nil)
		require.Equal(t, stickiness.Renewed, b.Result)
		require.Equal(t, []string{"SRV=s1|ZVPxa|ZVPxB; Path=/"}, b.Header["Set-Cookie"], "the first date stays")
		b = answer(p, get("SRV=s1"), "app-1", nil)
		require.Equal(t, []string{"SRV=s1|ZVPxa|ZVPxa; Path=/"}, b.Header["Set-Cookie"], "no date: accepted, and dated")
		at(1700001804)
		require.Equal(t, []string{"app-1"}, targets(p.Lookup(get("SRV=s1|ZVPxB|ZVPxB"), nil)))
		at(1700001805)
		require.Equal(t, []string{"[expired]"}, targets(p.Lookup(get("SRV=s1|ZVPxB|ZVPxB"), nil)))
		b = answer(p, get("SRV=s1|ZVPxB|ZVPxB"), "app-2", nil)
		require.Equal(t, stickiness.Bound, b.Result)
		require.Regexp(t, `^SRV=s2\|(.{5})\|(.{5}); Path=/$`, b.Header["Set-Cookie"][0])
	})
}
