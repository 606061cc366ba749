package stickiness_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

func FuzzLookup(f *testing.F) {
	lb, app := newLB(f, stickiness.LBCookieOptions{}), newApp(f, stickiness.AppCookieOptions{})
	f.Add("", "", "")
	f.Add(sent(answer(lb, get(), "app-1", nil, overTLS)), "same-origin", "http://www.example.com")
	f.Add("SID=1; "+sent(answer(app, get(), "app-1", login())), "", "null")
	f.Add(strings.Repeat("AWSELB=; ", 20)+"SID", "cross-site", "://")
	open := []stickiness.Policy{newLB(f, stickiness.LBCookieOptions{Codec: plain{}}), newApp(f, stickiness.AppCookieOptions{Codec: plain{}})}
	f.Fuzz(func(t *testing.T, line, site, origin string) {
		r := httptest.NewRequest(http.MethodGet, "http://www.example.com/", nil)
		r.Header = http.Header{"Cookie": {line, line}, "Sec-Fetch-Site": {site}, "Origin": {origin}}
		before := r.Header.Clone()
		for _, p := range append(open, lb, app) {
			found := p.Lookup(r, nil)
			require.LessOrEqual(t, len(found), 64)
			for _, c := range found {
				require.Equal(t, c.Reason == stickiness.Usable, c.Target != "")
			}
			require.Equal(t, before, r.Header)
		}
	})
}

// maxLine is the longest Set-Cookie line that is parsed.
const maxLine = 4 * cookie.MaxSize

// For all lines of the application, browsers read the balancer's line as it is meant, and it is not
// larger than browsers store.
func FuzzAppCookieBind(f *testing.F) {
	f.Add("SID=abc; Path=/my_app; Max-Age=60; HttpOnly", "public")
	f.Add("SID=; Max-Age=0; Domain=a; Path=/_", `private="a, b", s-maxage=1`)
	f.Add(`SID="a"; Comment="x=y"; Expires=Fri, 31 Dec 2100 23:59:59 GMT;`, "no-store")
	f.Add("SID=a; Path=/_a; Path=/b; port", "\"")
	f.Add("SID=a; Path=/"+strings.Repeat("_", 400), "")
	f.Add("SID=a"+strings.Repeat(";path", 2700), "") // its echo is longer than a line that is read
	f.Add("\tAWSELB\t=evil; Path=/", "public")
	p := newApp(f, stickiness.AppCookieOptions{})
	f.Fuzz(func(t *testing.T, line, cacheControl string) {
		h := set(line)
		h.Set("Cache-Control", cacheControl)
		b := answer(p, get(), "app-1", h)
		theirs, err := cookie.ParseSetCookie(line)
		if err == nil && theirs.Name == "AWSELB" {
			require.Equal(t, http.Header{"Cache-Control": {cacheControl}}, h, "ours is not theirs to set")
			return
		}
		require.Equal(t, line, h["Set-Cookie"][0])
		switch b.Result {
		case stickiness.Bound, stickiness.Freed:
			require.Contains(t, []int{2, 3}, len(h["Set-Cookie"]))
			requirePrivate(t, h)
		default:
			require.Equal(t, http.Header{"Set-Cookie": {line}, "Cache-Control": {cacheControl}}, h)
		}
		for _, l := range h["Set-Cookie"][1:] {
			if len(l) > maxLine {
				continue
			}
			ours, err := cookie.ParseSetCookie(l)
			require.NoError(t, err)
			require.Equal(t, l, ours.String())
			require.Equal(t, "AWSELB", ours.Name)
			for _, name := range []string{"Domain", "Secure", "SameSite"} {
				want, had := theirs.Attribute(name)
				got, has := ours.Attribute(name)
				require.Equal(t, had, has)
				require.Equal(t, want, got)
			}
		}
		if b.Result == stickiness.Bound {
			moved := answer(p, get("SID=abc", sent(b)), "app-2", nil)
			require.Equal(t, "app-1", moved.From.Target)
			require.NotEmpty(t, moved.Header["Set-Cookie"])
		}
	})
}

// requirePrivate checks the header as a simple cache does: by its first directive.
func requirePrivate(t *testing.T, h http.Header) {
	require.Len(t, h["Cache-Control"], 1)
	line := strings.ToLower(h["Cache-Control"][0])
	first, _, _ := strings.Cut(line, ",")
	if strings.Trim(first, " \t") != "private" {
		require.Regexp(t, `(^|,)[ \t]*(private|no-store)[ \t]*(,|$)`, line)
	}
}

// The client sends a value with its prefix back. The prefix routes the request, and the application
// gets its own value unchanged.
func FuzzPrefixCookie(f *testing.F) {
	f.Add("SID=abc; Path=/")
	f.Add(" SID =\t a~b=c ;Max-Age=0")
	f.Add(`SID="a b"`)
	f.Add("SID=")
	p, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: plain{}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, line string) {
		b := answer(p, get(), "app-1", set(line))
		if b.Result == stickiness.Kept {
			require.Equal(t, set(line), b.Header)
			return
		}
		require.Equal(t, len(line)+len("app-1~"), len(b.Header["Set-Cookie"][0]))
		if len(b.Header["Set-Cookie"][0]) > maxLine {
			return // too long to be parsed with the prefix
		}
		theirs, err := cookie.ParseSetCookie(line)
		require.NoError(t, err)
		ours, err := cookie.ParseSetCookie(b.Header["Set-Cookie"][0])
		require.NoError(t, err)
		require.Equal(t, "app-1~"+theirs.Value, ours.Value)
		require.Equal(t, theirs.Attributes, ours.Attributes)

		r := get("a=1; SID=" + ours.Value + "; b=2")
		seen := p.Lookup(r, nil)
		require.Equal(t, []string{"app-1"}, targets(seen))
		p.Forward(r, seen)
		require.Equal(t, []string{"a=1; SID=" + theirs.Value + "; b=2"}, r.Header["Cookie"])
	})
}
