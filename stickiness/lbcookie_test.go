package stickiness_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

func TestLBCookie_S1_DefaultCookie(t *testing.T) {
	const target = "the-only-target" // too long to occur in a sealed value by chance
	p := newLB(t, stickiness.LBCookieOptions{})
	b := answer(p, get(), target, nil)
	require.Equal(t, []string{"AWSELB=*; Path=/"}, lines(b, "AWSELB"))
	require.Equal(t, stickiness.Bound, b.Result)

	value := sent(b)
	require.NotContains(t, value, target, "the value is opaque")
	require.Equal(t, []string{target}, targets(p.Lookup(get(value), nil)))

	other := newLB(t, stickiness.LBCookieOptions{})
	require.Equal(t, []string{"[unknown key]"}, targets(other.Lookup(get(value), nil)), "the value is authenticated")
}

func TestLBCookie_S1_EveryAttribute(t *testing.T) {
	tests := map[string]struct {
		o    stickiness.LBCookieOptions
		want []string
	}{
		"all": {
			stickiness.LBCookieOptions{Name: "route", Path: "/shop", Domain: "example.com", HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode, Partitioned: true, CORS: stickiness.CORSNever},
			[]string{"route=app-1; Path=/shop; Domain=example.com; HttpOnly; Secure; SameSite=Strict; Partitioned"},
		},
		"all, with the twin": {
			stickiness.LBCookieOptions{Name: "route", Path: "/shop", Domain: ".example.com", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode, Partitioned: true, CORS: stickiness.CORSAlways},
			[]string{
				"route=app-1; Path=/shop; Domain=.example.com; HttpOnly; Secure; SameSite=Lax; Partitioned",
				"routeCORS=app-1; Path=/shop; Domain=.example.com; HttpOnly; Secure; SameSite=None; Partitioned",
			},
		},
		"SameSite=None": {
			stickiness.LBCookieOptions{Secure: true, SameSite: http.SameSiteNoneMode},
			[]string{"AWSELB=app-1; Path=/; Secure; SameSite=None"},
		},
		"SameSite default mode is no attribute": {
			stickiness.LBCookieOptions{SameSite: http.SameSiteDefaultMode},
			[]string{"AWSELB=app-1; Path=/"},
		},
		"__Host-": {
			stickiness.LBCookieOptions{Name: "__Host-lb", Secure: true, CORS: stickiness.CORSNever},
			[]string{"__Host-lb=app-1; Path=/; Secure"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.o.Codec = plain{}
			b := answer(newLB(t, tt.o), get(), "app-1", nil)
			require.Equal(t, tt.want, b.Header["Set-Cookie"])
		})
	}
}

func TestLBCookie_S2_BindsWhoeverHasNoUsableCookie(t *testing.T) {
	p := newLB(t, stickiness.LBCookieOptions{})
	for _, cookies := range []string{"", "other=1", "AWSELB=", "AWSELB=garbage", "awselb=app-1", "AWSELBX=app-1"} {
		b := answer(p, get(cookies), "app-2", set("own=1"))
		require.Nil(t, b.From, cookies)
		require.Equal(t, stickiness.Bound, b.Result, cookies)
		require.Equal(t, []string{"own=1", "AWSELB=*; Path=/"}, lines(b, "AWSELB"), cookies)
		require.Equal(t, []string{"app-2"}, targets(p.Lookup(get(sent(b)), nil)), cookies)
	}
}

func TestLBCookie_S3_BoundRequestChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLB(t, stickiness.LBCookieOptions{Period: time.Hour})
		c := sent(answer(p, get(), "app-1", nil))
		for _, wait := range []time.Duration{0, 30 * time.Minute, 48 * time.Hour} { // the expiry is not checked
			time.Sleep(wait)
			b := answer(p, get(c), "app-1", http.Header{"Cache-Control": {"public"}}, overTLS)
			require.Equal(t, stickiness.Kept, b.Result)
			require.Equal(t, http.Header{"Cache-Control": {"public"}}, b.Header)
		}
	})
}

func TestLBCookie_S3_Renew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLB(t, stickiness.LBCookieOptions{Period: time.Hour, Renew: true, Enforce: true})
		first := answer(p, get(), "app-1", nil)
		c := sent(first)

		time.Sleep(6*time.Minute - time.Second)
		b := answer(p, get(c), "app-1", nil)
		require.Equal(t, stickiness.Kept, b.Result, "not on every response")

		time.Sleep(time.Second) // a tenth of the period
		b = answer(p, get(c), "app-1", nil)
		require.Equal(t, stickiness.Renewed, b.Result)
		require.Equal(t, []string{"AWSELB=*; Path=/; Max-Age=3600; Expires=" + date(time.Now().Add(time.Hour))}, lines(b, "AWSELB"))
		c = sent(b)

		for range 30 { // slides on for as long as the client comes back
			time.Sleep(time.Hour)
			b = answer(p, get(c), "app-1", nil)
			require.Equal(t, stickiness.Renewed, b.Result)
			c = sent(b)
		}
		time.Sleep(time.Hour + time.Second)
		require.Equal(t, []string{"[expired]"}, targets(p.Lookup(get(c), nil)))
	})
}

func TestLBCookie_S3_RenewOfAShortPeriodIsNotOnEveryResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLB(t, stickiness.LBCookieOptions{Period: 3 * time.Second, Renew: true})
		c := sent(answer(p, get(), "app-1", nil))
		require.Equal(t, stickiness.Kept, answer(p, get(c), "app-1", nil).Result)
		time.Sleep(time.Second)
		require.Equal(t, stickiness.Renewed, answer(p, get(c), "app-1", nil).Result)
	})
}

func TestLBCookie_S3_Enforce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := [][]byte{cookie.NewKey()}
		p := newLB(t, stickiness.LBCookieOptions{Period: time.Hour, Enforce: true, Keys: keys})
		codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: keys})
		require.NoError(t, err)

		tests := map[string]struct {
			issued time.Duration // from now
			want   string
		}{
			"fresh":                       {0, "app-1"},
			"at the period's last second": {-time.Hour, "app-1"},
			"after the period":            {-time.Hour - time.Second, "[expired]"},
			"clock ahead by the skew":     {stickiness.Skew, "app-1"},
			"clock ahead by more":         {stickiness.Skew + time.Second, "[expired]"},
		}
		for name, tt := range tests {
			value, err := codec.Encode(&cookie.Ticket{Target: "app-1", Issued: time.Now().Add(tt.issued)})
			require.NoError(t, err)
			require.Equal(t, []string{tt.want}, targets(p.Lookup(get("AWSELB="+value), nil)), name)
		}
		undated, err := codec.Encode(&cookie.Ticket{Target: "app-1"})
		require.NoError(t, err)
		require.Equal(t, []string{"[expired]"}, targets(p.Lookup(get("AWSELB="+undated), nil)), "no issue time")

		b := answer(p, get("AWSELB="+undated), "app-2", nil)
		require.Equal(t, stickiness.Bound, b.Result, "an expired cookie is replaced")
	})
}

func TestLBCookie_S3_RenewHealsAFutureIssueTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := [][]byte{cookie.NewKey()}
		codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: keys})
		require.NoError(t, err)
		value, err := codec.Encode(&cookie.Ticket{Target: "app-1", Issued: time.Now().Add(24 * time.Hour)})
		require.NoError(t, err)

		p := newLB(t, stickiness.LBCookieOptions{Period: time.Hour, Renew: true, Keys: keys})
		require.Equal(t, stickiness.Renewed, answer(p, get("AWSELB="+value), "app-1", nil).Result)
	})
}

func TestLBCookie_S4_Lifetime(t *testing.T) {
	tests := map[string]struct {
		period time.Duration
		maxAge string
		lasts  int64 // seconds
	}{
		"a second":             {time.Second, "1", 1},
		"a fraction":           {time.Nanosecond, "1", 1},
		"rounded up":           {90*time.Second + time.Millisecond, "91", 91},
		"a day":                {24 * time.Hour, "86400", 86400},
		"as long as it can be": {1<<63 - 1, "9223372037", 9223372037},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newLB(t, stickiness.LBCookieOptions{Period: tt.period})
				for range 2 { // computed for each response
					ends := time.Unix(time.Now().Unix()+tt.lasts, 0)
					b := answer(p, get(), "app-1", nil)
					require.Equal(t, []string{"AWSELB=*; Path=/; Max-Age=" + tt.maxAge + "; Expires=" + date(ends)}, lines(b, "AWSELB"))
					time.Sleep(90 * time.Minute)
				}
			})
		})
	}
}

func TestLBCookie_S4_NegativePeriodIsRefused(t *testing.T) {
	_, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Period: -1})
	require.EqualError(t, err, "stickiness: LBCookie: negative Period -1ns")
}

func TestLBCookie_S5_WhenTheTwinIsWritten(t *testing.T) {
	const first, twin = "AWSELB=app-1; Path=/", "AWSELBCORS=app-1; Path=/; Secure; SameSite=None"
	tests := map[string]struct {
		cors    stickiness.CORSMode
		tls     bool
		headers map[string]string
		want    []string
	}{
		"auto, plain":                 {stickiness.CORSAuto, false, nil, []string{first}},
		"auto, TLS":                   {stickiness.CORSAuto, true, nil, []string{first, twin}},
		"auto, TLS, same-origin":      {stickiness.CORSAuto, true, map[string]string{"Sec-Fetch-Site": "same-origin"}, []string{first, twin}},
		"auto, plain, cross-site":     {stickiness.CORSAuto, false, map[string]string{"Sec-Fetch-Site": "cross-site"}, []string{first, twin}},
		"auto, plain, same-origin":    {stickiness.CORSAuto, false, map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "http://other"}, []string{first}},
		"auto, plain, foreign Origin": {stickiness.CORSAuto, false, map[string]string{"Origin": "http://other"}, []string{first, twin}},
		"auto, plain, own Origin":     {stickiness.CORSAuto, false, map[string]string{"Origin": "http://www.example.com"}, []string{first}},
		"auto, plain, the twin came":  {stickiness.CORSAuto, false, map[string]string{"Cookie": "AWSELBCORS=!"}, []string{first, twin}},
		"always, plain":               {stickiness.CORSAlways, false, nil, []string{first, twin}},
		"never, TLS, cross-site":      {stickiness.CORSNever, true, map[string]string{"Sec-Fetch-Site": "cross-site"}, []string{first}},
		"never, plain, the twin came": {stickiness.CORSNever, false, map[string]string{"Cookie": "AWSELBCORS=!"}, []string{first}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newLB(t, stickiness.LBCookieOptions{CORS: tt.cors, Codec: plain{}})
			r := get()
			for k, v := range tt.headers {
				r.Header.Set(k, v)
			}
			b := answer(p, r, "app-1", nil, func(b *stickiness.Binding) { b.TLS = tt.tls })
			require.Equal(t, tt.want, b.Header["Set-Cookie"])
		})
	}
}

func TestLBCookie_S5_TheTwinHasTheSameValueAndLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := answer(newLB(t, stickiness.LBCookieOptions{Period: time.Hour}), get(), "app-1", nil, overTLS)
		require.Len(t, b.Header["Set-Cookie"], 2)
		first, ok := strings.CutPrefix(b.Header["Set-Cookie"][0], "AWSELB=")
		require.True(t, ok)
		require.Equal(t, "AWSELBCORS="+first+"; Secure; SameSite=None", b.Header["Set-Cookie"][1])
	})
}

// With "SameSite=None; Secure", a twin would be the same cookie twice, so none is written. A twin
// that a client still has must not route, because it is no longer updated.
func TestLBCookie_S5_NoTwinOfASameSiteNoneCookie(t *testing.T) {
	o := stickiness.LBCookieOptions{Secure: true, SameSite: http.SameSiteNoneMode, Codec: plain{}}
	p := newLB(t, o)
	r := get("AWSELBCORS=app-2")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	require.Empty(t, p.Lookup(r, nil))
	require.Len(t, answer(p, r, "app-1", nil, overTLS).Header["Set-Cookie"], 1)

	o.CORS = stickiness.CORSAlways
	require.Len(t, answer(newLB(t, o), r, "app-1", nil).Header["Set-Cookie"], 2)
}

func TestLBCookie_S5_EitherCookieRoutes(t *testing.T) {
	tests := map[string]struct {
		cookies []string
		site    string
		want    []string
	}{
		"first alone":                      {[]string{"AWSELB=a"}, "same-origin", []string{"a"}},
		"twin alone":                       {[]string{"AWSELBCORS=a"}, "same-origin", []string{"a"}},
		"first alone, cross-site":          {[]string{"AWSELB=a"}, "cross-site", []string{"a"}},
		"twin alone, cross-site":           {[]string{"AWSELBCORS=a"}, "cross-site", []string{"a"}},
		"both and equal are one":           {[]string{"AWSELB=a; AWSELBCORS=a"}, "none", []string{"a"}},
		"both and different":               {[]string{"AWSELBCORS=b; AWSELB=a"}, "same-origin", []string{"a", "b"}},
		"both and different, same-site":    {[]string{"AWSELB=a; AWSELBCORS=b"}, "same-site", []string{"b", "a"}},
		"both and different, cross-site":   {[]string{"AWSELB=a", "AWSELBCORS=b"}, "cross-site", []string{"b", "a"}},
		"an unusable one does not prevail": {[]string{"AWSELB=!; AWSELBCORS=b"}, "same-origin", []string{"[malformed]", "b"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := get(tt.cookies...)
			r.Header.Set("Sec-Fetch-Site", tt.site)
			require.Equal(t, tt.want, targets(newLB(t, stickiness.LBCookieOptions{Codec: plain{}}).Lookup(r, nil)))
		})
	}
	never := newLB(t, stickiness.LBCookieOptions{Codec: plain{}, CORS: stickiness.CORSNever})
	require.Empty(t, never.Lookup(get("AWSELBCORS=a"), nil), "never looks at no twin")
}

// Cross-origin is what net/http's CrossOriginProtection refuses of unsafe requests.
func TestLBCookie_S5_CrossOriginAsNetHTTPDecides(t *testing.T) {
	p := newLB(t, stickiness.LBCookieOptions{Codec: plain{}})
	sites := []string{"", "same-origin", "none", "same-site", "cross-site", "nonsense"}
	origins := []string{"", "null", "http://www.example.com", "https://www.example.com", "http://www.example.com:8080", "http://WWW.example.com", "http://other.example", "http://[bad", "www.example.com", "://"}
	for _, site := range sites {
		for _, origin := range origins {
			r := get("AWSELB=same; AWSELBCORS=cross")
			r.Method = http.MethodPost
			for k, v := range map[string]string{"Sec-Fetch-Site": site, "Origin": origin} {
				if v != "" {
					r.Header.Set(k, v)
				}
			}
			want := "same"
			if new(http.CrossOriginProtection).Check(r) != nil {
				want = "cross"
			}
			require.Equal(t, want, p.Lookup(r, nil)[0].Target, "Sec-Fetch-Site %q, Origin %q", site, origin)
		}
	}
}

func TestLBCookie_S7_Failover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLB(t, stickiness.LBCookieOptions{Period: time.Hour, Enforce: true})
		c := sent(answer(p, get(), "app-1", nil))
		time.Sleep(50 * time.Minute)

		b := answer(p, get(c), "app-2", nil, detoured)
		require.Equal(t, stickiness.Kept, b.Result)
		require.Empty(t, b.Header, "a detour keeps the cookie")

		b = answer(p, get(c), "app-2", nil)
		require.Equal(t, stickiness.Bound, b.Result)
		require.Equal(t, []string{"AWSELB=*; Path=/; Max-Age=3600; Expires=" + date(time.Now().Add(time.Hour))}, lines(b, "AWSELB"), "a fresh period")

		time.Sleep(time.Hour)
		require.Equal(t, []string{"app-2"}, targets(p.Lookup(get(sent(b)), nil)), "issued now, not when the old cookie was")
	})
}

// Only the walk knows which candidate's target has answered. It may be that of the second one.
func TestLBCookie_S18_BindsForTheTargetThatAnswered(t *testing.T) {
	p := newLB(t, stickiness.LBCookieOptions{Codec: plain{}})
	r := get("AWSELB=a; AWSELB=b")
	require.Equal(t, stickiness.Kept, answer(p, r, "b", nil).Result, "the second cookie routed")
	require.Equal(t, []string{"AWSELB=c; Path=/"}, answer(p, r, "c", nil).Header["Set-Cookie"])
}

func TestLBCookie_C7_OldKeyIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older, newer := cookie.NewKey(), cookie.NewKey()
		o := stickiness.LBCookieOptions{Period: time.Hour, Keys: [][]byte{older}}
		c := sent(answer(newLB(t, o), get(), "app-1", nil))

		o.Keys = [][]byte{newer, older}
		p := newLB(t, o)
		time.Sleep(20 * time.Minute)
		b := answer(p, get(c), "app-1", nil)
		require.Equal(t, stickiness.Renewed, b.Result)
		require.Equal(t, []string{"AWSELB=*; Path=/; Max-Age=2400; Expires=" + date(time.Now().Add(40*time.Minute))}, lines(b, "AWSELB"), "the expiry stays")
		require.Equal(t, stickiness.Kept, answer(p, get(sent(b)), "app-1", nil).Result, "once")

		o.Keys, o.Enforce = [][]byte{newer}, true
		strict := newLB(t, o)
		require.Equal(t, []string{"[unknown key]"}, targets(strict.Lookup(get(c), nil)))
		time.Sleep(40 * time.Minute)
		require.Equal(t, []string{"app-1"}, targets(strict.Lookup(get(sent(b)), nil)))
		require.Empty(t, answer(p, get(c), "app-1", nil).Header, "at the very end there is nothing left to write")
		time.Sleep(time.Second)
		require.Equal(t, []string{"[expired]"}, targets(strict.Lookup(get(sent(b)), nil)), "the issue time stays")

		require.Equal(t, stickiness.Kept, answer(p, get(c), "app-1", nil).Result, "nothing is left to write")
		require.Equal(t, []string{"app-1"}, targets(p.Lookup(get(c), nil)), "but without Enforce it routes")

		o.Keys, o.Enforce, o.Renew = [][]byte{newer, older}, false, true
		b = answer(newLB(t, o), get(c), "app-1", nil)
		require.Equal(t, []string{"AWSELB=*; Path=/; Max-Age=3600; Expires=" + date(time.Now().Add(time.Hour))}, lines(b, "AWSELB"), "Renew writes a whole period")
	})
}

func TestLBCookie_C7_OldKeyOfASessionCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older := cookie.NewKey()
		c := sent(answer(newLB(t, stickiness.LBCookieOptions{Keys: [][]byte{older}}), get(), "app-1", nil))
		time.Sleep(1000 * time.Hour)
		b := answer(newLB(t, stickiness.LBCookieOptions{Keys: [][]byte{cookie.NewKey(), older}}), get(c), "app-1", nil, overTLS)
		require.Equal(t, []string{"AWSELB=*; Path=/", "AWSELBCORS=*; Path=/; Secure; SameSite=None"}, append(lines(b, "AWSELB")[:1], lines(b, "AWSELBCORS")[1:]...))
	})
}

func TestLBCookie_FormerCodecIsReadAndReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, enforce := range []bool{false, true} {
			p := newLB(t, stickiness.LBCookieOptions{Name: "route", Period: time.Hour, Enforce: enforce, Former: []cookie.Codec{plain{}}})
			const target = "the-only-target" // too long to occur in a sealed value by chance
			b := answer(p, get("route="+target), target, nil)
			require.Equal(t, target, b.From.Target)
			require.Equal(t, stickiness.Renewed, b.Result)
			require.Equal(t, []string{"route=*; Path=/; Max-Age=3600; Expires=" + date(time.Now().Add(time.Hour))}, lines(b, "route"))
			require.NotContains(t, sent(b), target)

			b = answer(p, get(sent(b)), target, nil)
			require.Equal(t, target, b.From.Target)
			require.Equal(t, stickiness.Kept, b.Result)

			require.Equal(t, []string{"[malformed]"}, targets(p.Lookup(get("route=!"), nil)), "neither reads it")
		}
		o := stickiness.LBCookieOptions{Former: []cookie.Codec{errorCodec{cookie.ErrExpired}, errorCodec{cookie.ErrForged}}}
		require.Equal(t, []string{"[expired]"}, targets(newLB(t, o).Lookup(get("AWSELB=x"), nil)), "whose it seems to be")
		o.Codec = errorCodec{cookie.ErrUnknownKey}
		require.Equal(t, []string{"[unknown key]"}, targets(newLB(t, o).Lookup(get("AWSELB=x"), nil)))
	})
}

func TestLBCookie_UnencodableTargetWritesNothing(t *testing.T) {
	b := answer(newLB(t, stickiness.LBCookieOptions{Codec: plain{}}), get(), "unencodable", nil, overTLS)
	require.Equal(t, stickiness.Kept, b.Result)
	require.Empty(t, b.Header)
}

func TestNewLBCookie_Refuses(t *testing.T) {
	tests := map[string]struct {
		o    stickiness.LBCookieOptions
		want string
	}{
		"C4 SameSite=None without Secure": {stickiness.LBCookieOptions{SameSite: http.SameSiteNoneMode}, "cookie: browsers refuse it: SameSite=None needs Secure"},
		"C4 Partitioned without Secure":   {stickiness.LBCookieOptions{Partitioned: true}, "cookie: browsers refuse it: Partitioned needs Secure"},
		"C4 __Host- without Secure":       {stickiness.LBCookieOptions{Name: "__Host-lb"}, "cookie: browsers refuse it: a name with __Host- needs Secure"},
		"C4 __Host- with Domain":          {stickiness.LBCookieOptions{Name: "__Host-lb", Secure: true, Domain: "example.com"}, "cookie: browsers refuse it: a name with __Host- excludes Domain"},
		"C4 __Host- with Path":            {stickiness.LBCookieOptions{Name: "__host-lb", Secure: true, Path: "/a"}, "cookie: browsers refuse it: a name with __Host- needs Path=/"},
		"C4 __Secure- without Secure":     {stickiness.LBCookieOptions{Name: "__SECURE-lb"}, "cookie: browsers refuse it: a name with __Secure- needs Secure"},
		"C4 __Http- without HttpOnly":     {stickiness.LBCookieOptions{Name: "__Http-lb", Secure: true}, "cookie: browsers refuse it: a name with __Http- needs HttpOnly"},
		"C4 __Host-Http- with Path":       {stickiness.LBCookieOptions{Name: "__Host-Http-lb", Secure: true, HttpOnly: true, Path: "/a"}, "cookie: browsers refuse it: a name with __Host-Http- needs Path=/"},
		"Renew without Period":            {stickiness.LBCookieOptions{Renew: true}, "the options Renew and Enforce need a Period"},
		"Enforce without Period":          {stickiness.LBCookieOptions{Enforce: true}, "the options Renew and Enforce need a Period"},
		"name":                            {stickiness.LBCookieOptions{Name: "a b"}, `invalid cookie name "a b"`},
		"name with line break":            {stickiness.LBCookieOptions{Name: "a\r\nb"}, `invalid cookie name "a\r\nb"`},
		"name of other letters":           {stickiness.LBCookieOptions{Name: "é"}, `invalid cookie name "é"`},
		"name too long":                   {stickiness.LBCookieOptions{Name: strings.Repeat("n", 257)}, "cookie name of 257 octets, want at most 256"},
		"name with delete":                {stickiness.LBCookieOptions{Name: "a\x7f"}, `invalid cookie name "a\x7f"`},
		"path with space":                 {stickiness.LBCookieOptions{Path: "/a b"}, `invalid Path "/a b"`},
		"path with delete":                {stickiness.LBCookieOptions{Path: "/\x7f"}, `invalid Path "/\x7f"`},
		"path too long":                   {stickiness.LBCookieOptions{Path: "/" + strings.Repeat("x", 1024)}, `invalid Path "/` + strings.Repeat("x", 1024) + `"`},
		"path relative":                   {stickiness.LBCookieOptions{Path: "shop"}, `invalid Path "shop"`},
		"path with semicolon":             {stickiness.LBCookieOptions{Path: "/;Secure"}, `invalid Path "/;Secure"`},
		"path that must be escaped":       {stickiness.LBCookieOptions{Path: "/é"}, `invalid Path "/é"`},
		"path too long when escaped":      {stickiness.LBCookieOptions{Path: "/" + strings.Repeat("_", 400)}, `invalid Path "/` + strings.Repeat("%5F", 400) + `"`},
		"path with query":                 {stickiness.LBCookieOptions{Path: "/a?b"}, `invalid Path "/a?b"`},
		"domain with port":                {stickiness.LBCookieOptions{Domain: "example.com:80"}, `invalid Domain "example.com:80": want an ASCII host name without a port`},
		"domain with empty label":         {stickiness.LBCookieOptions{Domain: "a..b"}, `invalid Domain "a..b": want an ASCII host name without a port`},
		"domain of a dot":                 {stickiness.LBCookieOptions{Domain: "."}, `invalid Domain ".": want an ASCII host name without a port`},
		"domain not ASCII":                {stickiness.LBCookieOptions{Domain: "exämple.com"}, `invalid Domain "exämple.com": want an ASCII host name without a port`},
		"domain with line break":          {stickiness.LBCookieOptions{Domain: "a\nb"}, `invalid Domain "a\nb": want an ASCII host name without a port`},
		"domain with a long label":        {stickiness.LBCookieOptions{Domain: strings.Repeat("a", 64) + ".a"}, `invalid Domain "` + strings.Repeat("a", 64) + `.a": want an ASCII host name without a port`},
		"domain with hyphen last":         {stickiness.LBCookieOptions{Domain: "a-.com"}, `invalid Domain "a-.com": want an ASCII host name without a port`},
		"domain with hyphen first":        {stickiness.LBCookieOptions{Domain: "-a.com"}, `invalid Domain "-a.com": want an ASCII host name without a port`},
		"domain too long":                 {stickiness.LBCookieOptions{Domain: strings.Repeat("a.", 127)}, `invalid Domain "` + strings.Repeat("a.", 127) + `": too long`},
		"SameSite":                        {stickiness.LBCookieOptions{SameSite: 9}, "unknown SameSite 9"},
		"CORS":                            {stickiness.LBCookieOptions{CORS: 3}, "unknown CORSMode 3"},
		"PathSpelling":                    {stickiness.LBCookieOptions{PathSpelling: 3}, "unknown PathSpelling 3"},
		"Keys and Codec":                  {stickiness.LBCookieOptions{Codec: plain{}, Keys: [][]byte{cookie.NewKey()}}, "both Keys and a Codec, which has its own keys"},
		"short key":                       {stickiness.LBCookieOptions{Keys: [][]byte{make([]byte, 16)}}, "invalid Keys: cookie: key 0: 16 octets, want 32"},
		"nil former codec":                {stickiness.LBCookieOptions{Former: []cookie.Codec{nil}}, "nil codec in Former"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := stickiness.NewLBCookie(tt.o)
			require.EqualError(t, err, "stickiness: LBCookie: "+tt.want)
		})
	}
}

func TestNewLBCookie_C4_Accepts(t *testing.T) {
	for name, o := range map[string]stickiness.LBCookieOptions{
		"__Host-":        {Name: "__Host-lb", Secure: true},
		"__Secure-":      {Name: "__Secure-lb", Secure: true, Domain: "example.com", Path: "/shop"},
		"__Http-":        {Name: "__Http-lb", Secure: true, HttpOnly: true, Path: "/shop"},
		"__Host-Http-":   {Name: "__Host-Http-lb", Secure: true, HttpOnly: true},
		"None":           {Secure: true, SameSite: http.SameSiteNoneMode, Partitioned: true},
		"an address":     {Domain: "192.0.2.1"},
		"longest path":   {Path: "/" + strings.Repeat("x", 1023)},
		"longest domain": {Domain: strings.Repeat("a.", 126) + "a"},
		"longest label":  {Domain: strings.Repeat("a", 63) + ".a"},
		"longest name":   {Name: strings.Repeat("n", 256)},
		"odd token":      {Name: "!#$%&'*+-.^_`|~"},
	} {
		_, err := stickiness.NewLBCookie(o)
		require.NoError(t, err, name)
	}
}
