package stickiness_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

func TestAppCookie_S14_LinesOfOneNameAreSeveralCookies(t *testing.T) {
	tests := map[string]struct {
		lines, want []string
		result      stickiness.Result
	}{
		"a new session, and an old one of another path": {
			[]string{"SID=new; Path=/", "SID=; Path=/app; Max-Age=0"},
			[]string{"AWSELB=*; Path=/", gone("Path=/app")}, stickiness.Bound,
		},
		"in the other order": {
			[]string{"SID=; Path=/app; Max-Age=0", "SID=new; Path=/"},
			[]string{gone("Path=/app"), "AWSELB=*; Path=/"}, stickiness.Bound,
		},
		"the host's own, and one of its domain": {
			[]string{"SID=new; Path=/", "SID=; Domain=www.example.com; Path=/; Max-Age=0"},
			[]string{"AWSELB=*; Path=/", gone("Domain=www.example.com; Path=/")}, stickiness.Bound,
		},
		"partitioned": {
			[]string{"SID=1; Path=/; Secure; Partitioned", "SID=; Path=/; Secure; Max-Age=0"},
			[]string{"AWSELB=*; Path=/; Secure; Partitioned", gone("Path=/; Secure")}, stickiness.Bound,
		},
		"one path in two spellings": { // the request's directory is /shop
			[]string{"SID=1", "SID=; Path=/shop; Max-Age=0"},
			[]string{gone("Path=/shop")}, stickiness.Freed,
		},
		"no path that counts": {[]string{"SID=; Path=shop; Max-Age=0", "SID=1; Path="}, []string{"AWSELB=*; Path="}, stickiness.Bound},
		"one domain in two spellings": {
			[]string{"SID=1; Path=/; Domain=.Example.com", "SID=2; Path=/; Domain=example.COM"},
			[]string{"AWSELB=*; Path=/; Domain=example.COM"}, stickiness.Bound,
		},
		"none is set": {
			[]string{"SID=; Path=/; Max-Age=0", "SID=; Path=/app; Max-Age=0"},
			[]string{gone("Path=/"), gone("Path=/app")}, stickiness.Freed,
		},
		"a line that browsers refuse yields": {
			[]string{"SID=1; Path=/", "SID=2; Path=/; SameSite=None"}, []string{"AWSELB=*; Path=/"}, stickiness.Bound,
		},
		"but not to none": {[]string{"SID=2; Path=/; SameSite=None"}, []string{"AWSELB=*; Path=/; SameSite=None"}, stickiness.Bound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := answer(newApp(t, stickiness.AppCookieOptions{}), get(), "app-1", set(tt.lines...))
			require.Equal(t, append(tt.lines, tt.want...), lines(b, "AWSELB"))
			require.Equal(t, tt.result, b.Result)
			require.Zero(t, b.Notices&stickiness.ManyCookies)
		})
	}
}

func TestAppCookie_S14_FourGroupsAndEightKibibytes(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{})
	var all []string
	for i := range 6 {
		all = append(all, fmt.Sprintf("SID=%d; Path=/%d", i, i))
	}
	b := answer(p, get(), "app-1", set(all...))
	require.Equal(t, append(all, "AWSELB=*; Path=/2", "AWSELB=*; Path=/3", "AWSELB=*; Path=/4", "AWSELB=*; Path=/5"), lines(b, "AWSELB"))
	require.NotZero(t, b.Notices&stickiness.ManyCookies)

	long := "; Comment=" + strings.Repeat("c", 1000) + "; Domain=" + strings.Repeat("d", 1000) + "; Version=" + strings.Repeat("v", 1000)
	b = answer(p, get(), "app-1", set("SID=1; Path=/1"+long, "SID=2; Path=/2"+long, "SID=3; Path=/3"+long))
	ours := b.Header["Set-Cookie"][3:]
	require.NotEmpty(t, ours)
	require.LessOrEqual(t, len(strings.Join(ours, "")), 8<<10)
	require.Contains(t, ours[len(ours)-1], "; Path=/3;")
	require.NotZero(t, b.Notices&stickiness.ManyCookies)
}

// If an attribute is repeated, only the last one counts and is carried over.
func TestAppCookie_S10_RepeatedAttributes(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{})
	line := "SID=1" + strings.Repeat("; path=/a", 1400) + "; Secure; secure; Path=/"
	b := answer(p, get(), "app-1", set(line))
	require.Equal(t, []string{line, "AWSELB=*; secure; Path=/"}, lines(b, "AWSELB"))
}

// If a response deletes a cookie of another place, the session stays bound, also on a failover.
func TestAppCookie_S13_FailoverBesideAnotherCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newApp(t, stickiness.AppCookieOptions{})
		c := sent(answer(p, get(), "app-1", set("SID=abc; Path=/")))
		time.Sleep(time.Second)
		b := answer(p, get(c), "app-2", set("SID=; Path=/app; Max-Age=0"))
		require.Equal(t, stickiness.Bound, b.Result)
		require.ElementsMatch(t, []string{"SID=; Path=/app; Max-Age=0", gone("Path=/app"), "AWSELB=*; Path=/"}, lines(b, "AWSELB"))

		b = answer(p, get(c), "app-2", set("SID=; Path=/; Max-Age=0"))
		require.Equal(t, stickiness.Freed, b.Result)
		b = answer(p, get(c), "app-1", set("SID=; Path=/app; Max-Age=0"))
		require.Equal(t, []string{"SID=; Path=/app; Max-Age=0", gone("Path=/app")}, lines(b, "AWSELB"))
	})
}

func TestLearn_S14_LinesOfOneNameAreSeveralCookies(t *testing.T) {
	p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"})
	where := func(id string) []string { return targets(p.Lookup(get("SID="+id), nil)) }
	require.Equal(t, stickiness.Bound, answer(p, get(), "app-1", set("SID=new; Path=/", "SID=; Path=/app; Max-Age=0")).Result)
	require.Equal(t, []string{"app-1"}, where("new"))
	require.Equal(t, stickiness.Bound, answer(p, get(), "app-2", set("SID=1; Path=/", "SID=2; Path=/", "SID=3; Domain=www.example.com; Path=/")).Result)
	require.Empty(t, where("1"), "2 is in its place")
	require.Equal(t, []string{"app-2"}, where("2"))
	require.Equal(t, []string{"app-2"}, where("3"))
	b := answer(p, get(), "app-1", set("SID=a; Path=/a", "SID=b; Path=/b", "SID=c; Path=/c", "SID=d; Path=/d", "SID=e; Path=/e"))
	require.NotZero(t, b.Notices&stickiness.ManyCookies)
	require.Empty(t, where("a"))
	require.Equal(t, []string{"app-1"}, where("b"))
}

// Each server has its own suffix, as with Classic ASP and WordPress.
func TestAppCookie_S14_NamesWithASuffix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "ASPSESSIONID*"})
		require.NoError(t, err)
		first := answer(p, get(), "app-1", set("ASPSESSIONIDAAA=1; Path=/"))
		require.Equal(t, []string{"ASPSESSIONIDAAA=1; Path=/", "AWSELB=*; Path=/"}, lines(first, "AWSELB"))
		require.Equal(t, []string{"app-1"}, targets(p.Lookup(get(sent(first)), nil)))
		ours := "; AWSELB=" + strings.SplitN(sent(first), "AWSELB=", 2)[1]
		require.Equal(t, []string{"[no app cookie]"}, targets(p.Lookup(get("ASPSESSIONIDBBB=2"+ours), nil)), "made for another")
		require.Equal(t, []string{"[no app cookie]"}, targets(p.Lookup(get("ASP=2"+ours), nil)))

		time.Sleep(time.Second)
		second := answer(p, get(sent(first)), "app-2", set("ASPSESSIONIDBBB=2; Path=/", "ASPSESSIONIDAAA=; Path=/; Max-Age=0"))
		require.Equal(t, []string{"ASPSESSIONIDBBB=2; Path=/", "ASPSESSIONIDAAA=; Path=/; Max-Age=0", "AWSELB=*; Path=/"}, lines(second, "AWSELB"))
		require.Equal(t, stickiness.Bound, second.Result)

		c := "ASPSESSIONIDBBB=2; AWSELB=" + strings.SplitN(sent(second), "AWSELB=", 2)[1]
		kept := answer(p, get(c), "app-2", set("ASPSESSIONIDAAA=; Path=/; Max-Age=0"))
		require.Equal(t, stickiness.Kept, kept.Result, "the end of another session")
		freed := answer(p, get(c), "app-2", set("ASPSESSIONIDBBB=; Path=/; Max-Age=0"))
		require.Equal(t, stickiness.Freed, freed.Result)
		moved := answer(p, get(c), "app-3", nil)
		require.Equal(t, []string{"app-3"}, targets(p.Lookup(get("ASPSESSIONIDBBB=2; "+sent(moved)), nil)))
		require.Equal(t, []string{"[no app cookie]"}, targets(p.Lookup(get("ASPSESSIONIDAAA=1; "+sent(moved)), nil)), "a failover keeps the name")
	})
	exact, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID*", ExactName: true})
	require.NoError(t, err)
	require.Empty(t, answer(exact, get(), "a", set("SID1=1")).Header["Set-Cookie"][1:])
	require.Len(t, answer(exact, get(), "a", set("SID*=1")).Header["Set-Cookie"], 2)
	for _, name := range []string{"*", "AWS*", "AWSELB*"} {
		_, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: name})
		require.Error(t, err, name)
	}
	learn := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "wordpress_logged_in_*"})
	answer(learn, get(), "app-1", set("wordpress_logged_in_5f=admin; Path=/"))
	require.Equal(t, []string{"app-1"}, targets(learn.Lookup(get("wordpress_logged_in_5f=admin"), nil)))
	require.Empty(t, learn.Lookup(get("wordpress_test_5f=admin"), nil))
}

func TestLBCookie_S23_OnlyWhereTheClientWouldSendIt(t *testing.T) {
	type o = stickiness.LBCookieOptions
	tests := map[string]struct {
		options o
		target  string
		binds   bool
	}{
		"default":                {o{}, "/", true},
		"the path":               {o{Path: "/my_app"}, "/my_app", true},
		"below":                  {o{Path: "/my_app"}, "/my_app/x?y=/", true},
		"the path, encoded":      {o{Path: "/my_app"}, "/my%5Fapp/x", true},
		"spelt encoded":          {o{Path: "/my_app", PathSpelling: stickiness.SpellEncoded}, "/my_app/x", true},
		"given encoded":          {o{Path: "/my%5Fapp"}, "/my_app/x", true},
		"outside":                {o{Path: "/my_app"}, "/favicon.ico", false},
		"longer":                 {o{Path: "/my_app"}, "/my_application", false},
		"in the query":           {o{Path: "/my_app"}, "/x?/my_app", false},
		"other case":             {o{Path: "/my_app"}, "/My_app/", false},
		"a directory":            {o{Path: "/app/"}, "/app/x", true},
		"not a directory":        {o{Path: "/app/"}, "/app", false},
		"absolute form":          {o{Path: "/app"}, "http://www.example.com/app/x", true},
		"absolute form, outside": {o{Path: "/app"}, "http://www.example.com?/app", false},
		"the domain":             {o{Domain: "www.example.com"}, "/", true},
		"above the host":         {o{Domain: ".Example.COM"}, "/", true},
		"another domain":         {o{Domain: "ample.com"}, "/", false},
		"below the host":         {o{Domain: "a.www.example.com"}, "/", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newLB(t, tt.options)
			b := answer(p, at(tt.target), "app-1", nil)
			require.Equal(t, tt.binds, b.Result == stickiness.Bound)
			require.Equal(t, tt.binds, len(b.Header) > 0)

			var stripped *http.Request
			http.StripPrefix("/my_app", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stripped = r })).ServeHTTP(nil2{}, at("/my_app/x"))
			require.Equal(t, "/x", stripped.URL.Path)
			require.Equal(t, stickiness.Bound, answer(newLB(t, o{Path: "/my_app"}), stripped, "app-1", nil).Result, "as the client has sent it")
		})
	}
	for host, binds := range map[string]bool{"example.com:8080": true, "EXAMPLE.com": true, "": false, "[::1]:80": false, "192.0.2.1": false} {
		r := at("/")
		r.Host = host
		require.Equal(t, binds, answer(newLB(t, o{Domain: "example.com"}), r, "app-1", nil).Result == stickiness.Bound, host)
	}
	r := at("/")
	r.Host = "10.0.0.1"
	require.Equal(t, stickiness.Kept, answer(newLB(t, o{Domain: "0.0.1"}), r, "app-1", nil).Result)
}

// nil2 is a response that is not read.
type nil2 struct{}

func (nil2) Header() http.Header         { return http.Header{} }
func (nil2) Write(b []byte) (int, error) { return len(b), nil }
func (nil2) WriteHeader(int)             {}

func TestPolicies_S19_NotModifiedWithoutCacheControl(t *testing.T) {
	codec, err := cookie.NewSealed(cookie.SealedOptions{})
	require.NoError(t, err)
	named, err := stickiness.NewNamed(stickiness.NamedOptions{From: []stickiness.Source{stickiness.FromHeader("X-Route")}, Codec: codec, Announce: "X-Route"})
	require.NoError(t, err)
	prefix, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: table(t)})
	require.NoError(t, err)
	rewrite, err := stickiness.NewRewriteCookie(stickiness.RewriteCookieOptions{Cookie: "SID", Codec: table(t)})
	require.NoError(t, err)
	policies := map[string]stickiness.Policy{
		"LBCookie": newLB(t, stickiness.LBCookieOptions{}), "AppCookie": newApp(t, stickiness.AppCookieOptions{}),
		"Named": named, "PrefixCookie": prefix, "RewriteCookie": rewrite,
		"Learn": newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"}),
	}
	tests := map[string]struct {
		status  int
		header  http.Header
		ifRange string
		binds   bool
	}{
		"304":                    {304, http.Header{}, "", false},
		"304 with an empty one":  {304, http.Header{"Cache-Control": {" ,"}}, "", false},
		"304 with Expires":       {304, http.Header{"Expires": {"Fri, 31 Dec 2100 23:59:59 GMT"}}, "", false},
		"304 with Cache-Control": {304, http.Header{"Cache-Control": {"max-age=600"}}, "", true},
		"206 of a range":         {206, http.Header{}, "", true},
		"206 of what is stored":  {206, http.Header{}, `"v1"`, false},
		"206 with Cache-Control": {206, http.Header{"Cache-Control": {"max-age=600"}}, `"v1"`, true},
		"200":                    {200, http.Header{}, `"v1"`, true},
		"unknown":                {0, http.Header{}, "", true},
	}
	for policy, p := range policies {
		for name, tt := range tests {
			r := get()
			r.Header.Set("If-Range", tt.ifRange)
			h := tt.header.Clone()
			h.Set("Set-Cookie", fmt.Sprintf("SID=%s%d; Path=/", policy[:1], len(name)))
			before := h.Clone()
			b := answer(p, r, "app-1", h, func(b *stickiness.Binding) { b.Status = tt.status })
			require.Equal(t, tt.binds, b.Result == stickiness.Bound, "%s, %s", policy, name)
			if !tt.binds {
				require.Equal(t, before, h, "%s, %s", policy, name)
				require.Equal(t, stickiness.Kept, b.Result)
			}
		}
	}
	// A failover is bound by the next response.
	app := policies["AppCookie"]
	c := sent(answer(app, get(), "app-1", login()))
	b := answer(app, get(c), "app-2", nil, func(b *stickiness.Binding) { b.Status = 304 })
	require.Empty(t, b.Header)
}

func TestPolicies_C7_MiddleOfARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := cookie.NewKey(), cookie.NewKey()
		orders := [2][][]byte{{one, two}, {two, one}}
		lb := func(i int) stickiness.Policy { return newLB(t, stickiness.LBCookieOptions{Keys: orders[i]}) }
		app := func(i int) stickiness.Policy { return newApp(t, stickiness.AppCookieOptions{Keys: orders[i]}) }
		for name, instance := range map[string]func(int) stickiness.Policy{"LBCookie": lb, "AppCookie": app} {
			c := sent(answer(instance(0), get(), "app-1", set("SID=1; Path=/")))
			written := 0
			for i := range 120 { // two hours
				b := answer(instance((i+1)%2), get("SID=1; "+c), "app-1", nil)
				require.Equal(t, "app-1", b.From.Target, name)
				if b.Result == stickiness.Renewed {
					c = sent(b)
					written++
				}
				time.Sleep(time.Minute)
			}
			require.LessOrEqual(t, written, 12, name)
			require.GreaterOrEqual(t, written, 1, name)
		}
	})
}

func TestLBCookie_S3_ClocksThatDiffer(t *testing.T) {
	key := [][]byte{cookie.NewKey()}
	o := stickiness.LBCookieOptions{Period: 30 * time.Minute, Renew: true, Enforce: true, Keys: key}
	codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: key})
	require.NoError(t, err)
	for ahead, want := range map[time.Duration]string{0: "app-1", 4 * time.Second: "app-1", 5 * time.Minute: "app-1", 10 * time.Minute: "app-1", 11 * time.Minute: "[expired]"} {
		value, err := codec.Encode(&cookie.Ticket{Target: "app-1", Issued: time.Now().Add(ahead)})
		require.NoError(t, err)
		b := answer(newLB(t, o), get("AWSELB="+value), "app-1", nil)
		require.Equal(t, []string{want}, targets(b.Seen), ahead)
		if want == "app-1" {
			require.Equal(t, stickiness.Kept, b.Result, "%v: not renewed", ahead)
			require.Equal(t, ahead > 5*time.Second, b.Notices == stickiness.FutureValue, ahead)
		}
	}
}

func TestPolicies_Notices(t *testing.T) {
	key := [][]byte{cookie.NewKey()}
	lb, app := newLB(t, stickiness.LBCookieOptions{}), newApp(t, stickiness.AppCookieOptions{})
	require.Equal(t, stickiness.RandomKey|stickiness.NotSecure, answer(lb, get(), "app-1", nil, overTLS).Notices)
	require.Equal(t, stickiness.RandomKey|stickiness.NotSecure, answer(app, get(), "app-1", set("SID=1"), overTLS).Notices)
	lb, app = newLB(t, stickiness.LBCookieOptions{Keys: key, Secure: true}), newApp(t, stickiness.AppCookieOptions{Keys: key})
	require.Zero(t, answer(lb, get(), "app-1", nil, overTLS).Notices)
	require.Zero(t, answer(app, get(), "app-1", set("SID=1; Secure"), overTLS).Notices)
	require.Equal(t, stickiness.TrailingSemicolon, answer(app, get(), "app-1", set("SID=1; Path=/;")).Notices)
	long := strings.Repeat("x", 3100)
	for _, p := range []stickiness.Policy{lb, app} {
		b := answer(p, get(), long, set("SID=1"))
		require.Equal(t, stickiness.NoValue, b.Notices)
		require.Equal(t, stickiness.Kept, b.Result)
		require.Equal(t, stickiness.NoValue, answer(stickiness.First(p), get(), long, set("SID=1")).Notices)
	}
	var all []string
	(stickiness.RandomKey | stickiness.NoValue).Each(func(n stickiness.Notices) { all = append(all, n.String()) })
	require.Len(t, all, 2)
	require.Contains(t, all[1], "no Keys")
}

func TestLBCookie_Preserve(t *testing.T) {
	p := newLB(t, stickiness.LBCookieOptions{Codec: table(t), Preserve: true})
	tests := map[string]struct {
		request string
		line    string
		result  stickiness.Result
	}{
		"set":       {"", "AWSELB=s2; Path=/", stickiness.Bound},
		"set again": {"AWSELB=s1", "AWSELB=s1; Path=/", stickiness.Renewed},
		"set anew":  {"AWSELB=s1", "AWSELB=s2; Path=/", stickiness.Bound},
		"deleted":   {"AWSELB=s1", "AWSELB=; Path=/; Max-Age=0", stickiness.Freed},
		"no value":  {"AWSELB=s1", "AWSELB=; Path=/", stickiness.Freed},
		"the twin":  {"", "AWSELBCORS=s2; Path=/", stickiness.Bound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := answer(p, get(tt.request), "app-1", set(tt.line, "x=y"), overTLS)
			require.Equal(t, tt.result, b.Result)
			require.Equal(t, []string{tt.line, "x=y"}, b.Header["Set-Cookie"])
			require.Equal(t, "private", b.Header.Get("Cache-Control"))
		})
	}
	require.Equal(t, []string{"AWSELB=s1; Path=/"}, answer(p, get(), "app-1", nil).Header["Set-Cookie"])
}
