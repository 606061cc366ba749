package stickiness_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

func TestPolicies_C3_PathSpelling(t *testing.T) {
	tests := map[string]struct {
		path     string
		spelling stickiness.PathSpelling
		want     []string
	}{
		"both":               {"/my_app", stickiness.SpellBoth, []string{"/my%5Fapp", "/my_app"}},
		"encoded":            {"/my_app", stickiness.SpellEncoded, []string{"/my%5Fapp"}},
		"verbatim":           {"/my_app", stickiness.SpellVerbatim, []string{"/my_app"}},
		"no underscore":      {"/app", stickiness.SpellBoth, []string{"/app"}},
		"escapes stay":       {"/%5F%20/_", stickiness.SpellEncoded, []string{"/%5F%20/%5F"}},
		"escaped underscore": {"/my%5Fapp", stickiness.SpellBoth, []string{"/my%5Fapp"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			lb := newLB(t, stickiness.LBCookieOptions{Path: tt.path, PathSpelling: tt.spelling, Codec: plain{}})
			var first, twin []string
			for _, p := range tt.want {
				first = append(first, "AWSELB=app-1; Path="+p)
				twin = append(twin, "AWSELBCORS=app-1; Path="+p+"; Secure; SameSite=None")
			}
			require.Equal(t, slices.Concat(first, twin), answer(lb, get(), "app-1", nil, overTLS).Header["Set-Cookie"])

			app := newApp(t, stickiness.AppCookieOptions{PathSpelling: tt.spelling, Codec: plain{}})
			line := "SID=abc; Path=/odd_one; Secure; Path=" + tt.path
			got := answer(app, get(), "app-1", set(line)).Header["Set-Cookie"]
			require.Equal(t, line, got[0])
			require.Len(t, got, 1+len(tt.want))
			for i, p := range tt.want {
				require.True(t, strings.HasSuffix(got[1+i], "; Secure; Path="+p), got[1+i])
			}
		})
	}
}

// Browsers ignore a path of more than 1024 octets, and would keep the cookie for the directory
// of the request.
func TestAppCookie_C3_NoPathThatIsTooLongToBeHeeded(t *testing.T) {
	for _, spelling := range []stickiness.PathSpelling{stickiness.SpellBoth, stickiness.SpellEncoded} {
		app := newApp(t, stickiness.AppCookieOptions{PathSpelling: spelling, Codec: plain{}})
		fits, long := "; Path=/"+strings.Repeat("_", 341), "; Path=/"+strings.Repeat("_", 342)
		encoded := "AWSELB=a; Path=/" + strings.Repeat("%5F", 341)
		require.Equal(t, encoded, answer(app, get(), "a", set("SID=1"+fits)).Header["Set-Cookie"][1])
		require.Equal(t, []string{"SID=1" + long, "AWSELB=a" + long}, answer(app, get(), "a", set("SID=1"+long)).Header["Set-Cookie"])
		require.Equal(t, []string{"SID=" + long + "; Max-Age=0", "AWSELB=" + long + "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"},
			answer(app, get(), "a", set("SID="+long+"; Max-Age=0")).Header["Set-Cookie"], "nor when it is deleted")
	}
}

// Of several paths in a line the last one rules, so its spellings count.
func TestAppCookie_C3_TheLastPathIsSpelled(t *testing.T) {
	app := newApp(t, stickiness.AppCookieOptions{Codec: plain{}})
	require.Equal(t, []string{"SID=1; Path=/plain; Path=/my_app", "AWSELB=a; Path=/plain; Path=/my%5Fapp", "AWSELB=a; Path=/plain; Path=/my_app"},
		answer(app, get(), "a", set("SID=1; Path=/plain; Path=/my_app")).Header["Set-Cookie"])
	require.Equal(t, []string{"SID=1; Path=/my_app; Path=/plain", "AWSELB=a; Path=/my%5Fapp; Path=/plain"},
		answer(app, get(), "a", set("SID=1; Path=/my_app; Path=/plain")).Header["Set-Cookie"])
}

func TestPolicies_S15_Scope(t *testing.T) {
	keys := [][]byte{cookie.NewKey()}
	value := func(scope string) string {
		return sent(answer(newLB(t, stickiness.LBCookieOptions{Name: "lb", Scope: scope, Keys: keys}), get(), "app-1", nil))
	}
	for name, p := range map[string]stickiness.Policy{
		"LBCookie":  newLB(t, stickiness.LBCookieOptions{Name: "lb", Scope: "8081", Keys: keys}),
		"AppCookie": newApp(t, stickiness.AppCookieOptions{Name: "lb", Scope: "8081", Keys: keys}),
	} {
		require.Equal(t, []string{"app-1"}, targets(p.Lookup(get("SID=abc", value("8081")), nil)), name)
		require.Equal(t, []string{"[other scope]"}, targets(p.Lookup(get("SID=abc", value("8080")), nil)), name)
		require.Equal(t, []string{"[other scope]"}, targets(p.Lookup(get("SID=abc", value("")), nil)), name)
	}
}

func TestPolicies_S15_DefaultNames(t *testing.T) {
	for scope, want := range map[string]string{
		"":     "AWSELB",
		"8080": "AWSELB-6c237681",
		"web":  "AWSELB-4b5e57f6",
	} {
		lb := answer(newLB(t, stickiness.LBCookieOptions{Scope: scope, Codec: plain{}}), get(), "a", nil, overTLS)
		require.Equal(t, []string{want + "=a; Path=/", want + "CORS=a; Path=/; Secure; SameSite=None"}, lb.Header["Set-Cookie"])
		app := answer(newApp(t, stickiness.AppCookieOptions{Scope: scope, Codec: plain{}}), get(), "a", set("SID=1"))
		require.Equal(t, []string{"SID=1", want + "=a"}, app.Header["Set-Cookie"])
	}
}

// errorCodec refuses everything with one error, whatever else it says.
type errorCodec struct{ err error }

func (c errorCodec) Encode(*cookie.Ticket) (string, error) { return "", c.err }
func (c errorCodec) Decode(string) (cookie.Ticket, error) {
	return cookie.Ticket{Target: "app-1"}, c.err
}

func TestPolicies_S16_Reasons(t *testing.T) {
	key := cookie.NewKey()
	good := strings.TrimPrefix(sent(answer(newLB(t, stickiness.LBCookieOptions{Keys: [][]byte{key}}), get(), "app-1", nil)), "AWSELB=")
	stranger := strings.TrimPrefix(sent(answer(newLB(t, stickiness.LBCookieOptions{}), get(), "app-1", nil)), "AWSELB=")
	middle := len(good) / 2
	changed := "A"
	if good[middle] == 'A' {
		changed = "B"
	}
	tests := map[string]struct {
		value string
		codec cookie.Codec // nil: sealed under key
		want  string
	}{
		"absent":         {"", nil, "[malformed]"},
		"malformed":      {"!!!", nil, "[malformed]"},
		"quoted":         {`"` + good + `"`, nil, "[malformed]"},
		"forged":         {good[:middle] + changed + good[middle+1:], nil, "[forged]"},
		"unknown key":    {stranger, nil, "[unknown key]"},
		"a codec's own":  {"x", errorCodec{http.ErrNoCookie}, "[malformed]"},
		"no target":      {"", plain{}, "[malformed]"},
		"expired":        {"x", errorCodec{cookie.ErrExpired}, "[expired]"},
		"unknown target": {"x", errorCodec{cookie.ErrUnknownTarget}, "[unknown target]"},
		"scope, wrapped": {"x", errorCodec{&wrapped{cookie.ErrScope}}, "[other scope]"},
	}
	for name, tt := range tests {
		lb := stickiness.LBCookieOptions{Codec: tt.codec}
		app := stickiness.AppCookieOptions{Codec: tt.codec}
		if tt.codec == nil {
			lb.Keys, app.Keys = [][]byte{key}, [][]byte{key}
		}
		for _, p := range []stickiness.Policy{newLB(t, lb), newApp(t, app)} {
			r := get("SID=abc; AWSELB=" + tt.value)
			require.Equal(t, []string{tt.want}, targets(p.Lookup(r, nil)), name)
			require.Empty(t, p.Lookup(r, nil)[0].Target, name)
		}
	}
}

type wrapped struct{ err error }

func (w *wrapped) Error() string { return "codec: " + w.err.Error() }
func (w *wrapped) Unwrap() error { return w.err }

func TestPolicies_S17_FirstEightOfAName(t *testing.T) {
	nine := "AWSELB=1; AWSELB=2; AWSELB=3; AWSELB=4; AWSELB=5; AWSELB=6; AWSELB=7; AWSELB=8; AWSELB=9"
	twins := strings.ReplaceAll(strings.ReplaceAll(nine, "AWSELB", "AWSELBCORS"), "=", "=t")
	tests := map[string]struct {
		cookies []string
		lb, app []string
	}{
		"in order over lines":      {[]string{"a=b; AWSELB=1; SID=x", "AWSELB=2", "c=d; AWSELB=3"}, []string{"1", "2", "3"}, []string{"1", "2", "3"}},
		"unusable ones among them": {[]string{"SID=x; AWSELB=!; AWSELB=2; AWSELB="}, []string{"[malformed]", "2", "[malformed]"}, []string{"[malformed]", "2", "[malformed]"}},
		"eight":                    {[]string{"SID=x", nine}, strings.Split("12345678", ""), strings.Split("12345678", "")},
		"eight of each name": {
			[]string{"SID=x", twins, nine},
			append(strings.Split("12345678", ""), "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8"),
			strings.Split("12345678", ""),
		},
		"equal ones count, and are one": {[]string{"SID=x; AWSELB=1; AWSELB=1; AWSELB=1; AWSELB=1; AWSELB=1; AWSELB=1; AWSELB=1; AWSELB=8; AWSELB=9"}, []string{"1", "8"}, []string{"1", "8"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.lb, targets(newLB(t, stickiness.LBCookieOptions{Codec: plain{}}).Lookup(get(tt.cookies...), nil)))
			require.Equal(t, tt.app, targets(newApp(t, stickiness.AppCookieOptions{Codec: plain{}}).Lookup(get(tt.cookies...), nil)))
		})
	}
}

func TestPolicies_LookupAppends(t *testing.T) {
	before := stickiness.Candidate{Target: "earlier", State: 1}
	for _, p := range []stickiness.Policy{newLB(t, stickiness.LBCookieOptions{Codec: plain{}}), newApp(t, stickiness.AppCookieOptions{Codec: plain{}})} {
		got := p.Lookup(get("SID=x; AWSELB=a"), []stickiness.Candidate{before})
		require.Equal(t, []string{"earlier", "a"}, targets(got))
		require.Equal(t, before, got[0])
	}
}

func TestPolicies_S20_Forward(t *testing.T) {
	tests := map[string]struct {
		in      []string
		lb, app []string
	}{
		"alone":            {[]string{"AWSELB=1"}, nil, nil},
		"others":           {[]string{"a=1;  AWSELB=1; b=\"x y\""}, []string{"a=1; b=\"x y\""}, []string{"a=1; b=\"x y\""}},
		"several lines":    {[]string{"a=1", "AWSELB=1", "AWSELBCORS=1; b=2"}, []string{"a=1", "b=2"}, []string{"a=1", "AWSELBCORS=1; b=2"}},
		"nameless ones":    {[]string{"abc; AWSELB=1"}, []string{"abc"}, []string{"abc"}},
		"nothing of ours":  {[]string{"a=1 ;b=2;"}, []string{"a=1 ;b=2;"}, []string{"a=1 ;b=2;"}},
		"no cookie at all": {nil, nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			forward := func(p stickiness.Forwarder) []string {
				in := get(tt.in...)
				out := in.Clone(t.Context())
				out.Header = maps.Clone(in.Header) // shares the values with the client's request
				p.Forward(out, nil)
				require.Equal(t, get(tt.in...).Header, in.Header, "the client's request is as it was")
				return out.Header["Cookie"]
			}
			require.Equal(t, tt.lb, forward(newLB(t, stickiness.LBCookieOptions{})))
			require.Equal(t, tt.app, forward(newApp(t, stickiness.AppCookieOptions{})))
			require.Equal(t, tt.in, forward(newLB(t, stickiness.LBCookieOptions{KeepInRequest: true})))
			require.Equal(t, tt.in, forward(newApp(t, stickiness.AppCookieOptions{KeepInRequest: true})))
		})
	}
	never := newLB(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
	out := get("abc; AWSELB=1; AWSELBCORS=2")
	never.Forward(out, nil)
	require.Equal(t, []string{"abc; AWSELBCORS=2"}, out.Header["Cookie"], "without a twin, that name is another's")
}

func TestPolicies_S21_CacheHeaders(t *testing.T) {
	tests := map[string]struct {
		in   []string
		want []string
	}{
		"none":                         {nil, []string{"private"}},
		"public":                       {[]string{"public"}, []string{"private"}},
		"public, max-age":              {[]string{"public, max-age=60"}, []string{"private, max-age=60"}},
		"s-maxage":                     {[]string{"max-age=1,s-maxage=60, proxy-revalidate"}, []string{"private, max-age=1"}},
		"mixed case":                   {[]string{"PuBlic, S-MaxAge=60, MAX-AGE=1"}, []string{"private, MAX-AGE=1"}},
		"several lines":                {[]string{"public", "max-age=60", "s-maxage=1, immutable"}, []string{"private, max-age=60, immutable"}},
		"private stands":               {[]string{"max-age=60,  private"}, []string{"max-age=60,  private"}},
		"Private stands":               {[]string{"Private", "max-age=60"}, []string{"Private", "max-age=60"}},
		"no-store stands":              {[]string{"no-store"}, []string{"no-store"}},
		"private and public":           {[]string{"private, public, s-maxage=60"}, []string{"private"}},
		"private for fields":           {[]string{`private="x-a, public"`}, []string{`private, private="x-a, public"`}},
		"private for fields, no-store": {[]string{`private="x-a", no-store`}, []string{`private="x-a", no-store`}},
		"private for no field":         {[]string{`private=""`}, []string{`private, private=""`}},
		"quoted commas":                {[]string{`no-cache="a, public, b", public`}, []string{`private, no-cache="a, public, b"`}},
		"quoted quotes":                {[]string{`x="a\", public, \\", public, y`}, []string{`private, x="a\", public, \\", y`}},
		"a quote that never ends":      {[]string{`x="a, private`}, []string{`private, x="a, private`}},
		"a backslash at the end":       {[]string{`public, x="a\`}, []string{`private, x="a\`}},
		"empty elements":               {[]string{" , public,, ,max-age=1,"}, []string{"private, max-age=1"}},
		"spaces before the argument":   {[]string{"s-maxage =60, private =\"a\""}, []string{`private, private ="a"`}},
		"names that begin alike":       {[]string{"publicly, private-ish"}, []string{"private, publicly, private-ish"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := func() http.Header {
				h := http.Header{"Cdn-Cache-Control": {"max-age=60"}, "Surrogate-Control": {"max-age=60"}, "Set-Cookie": {"SID=1"}}
				if tt.in != nil {
					h["Cache-Control"] = slices.Clone(tt.in)
				}
				return h
			}
			for _, p := range []stickiness.Policy{newLB(t, stickiness.LBCookieOptions{}), newApp(t, stickiness.AppCookieOptions{})} {
				shared := h()
				b := answer(p, get(), "app-1", maps.Clone(shared))
				require.Equal(t, tt.want, b.Header["Cache-Control"])
				require.NotContains(t, b.Header, "Cdn-Cache-Control")
				require.NotContains(t, b.Header, "Surrogate-Control")
				require.Equal(t, h(), shared, "values are replaced, not edited")
			}
			for _, p := range []stickiness.Policy{newLB(t, stickiness.LBCookieOptions{KeepCacheable: true}), newApp(t, stickiness.AppCookieOptions{KeepCacheable: true})} {
				b := answer(p, get(), "app-1", h())
				require.Len(t, b.Header["Set-Cookie"], 2)
				b.Header["Set-Cookie"] = []string{"SID=1"}
				require.Equal(t, h(), b.Header)
			}
		})
	}
}

// A codec of a stranger's cannot make a policy write what is no cookie.
func TestPolicies_NoValueThatNoCookieCanHave(t *testing.T) {
	for _, target := range []string{"", "a;b", "a\r\nX-Injected: 1", "a\x00", strings.Repeat("x", 4096)} {
		for name, p := range map[string]stickiness.Policy{
			"LBCookie":  newLB(t, stickiness.LBCookieOptions{Codec: plain{}}),
			"AppCookie": newApp(t, stickiness.AppCookieOptions{Codec: plain{}}),
		} {
			b := answer(p, get(), target, set("SID=1"), overTLS)
			require.Equal(t, stickiness.Kept, b.Result, "%s, %.10q", name, target)
			require.Equal(t, set("SID=1"), b.Header, "%s, %.10q", name, target)
		}
	}
}

func TestPolicies_Concurrent(t *testing.T) {
	for _, p := range []stickiness.Policy{newLB(t, stickiness.LBCookieOptions{Path: "/a_b"}), newApp(t, stickiness.AppCookieOptions{})} {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					b := answer(p, get(), "app-1", set("SID=1; Path=/a_b"), overTLS)
					b = answer(p, get(sent(b)), "app-2", nil, overTLS)
					if b.From == nil || b.From.Target != "app-1" {
						t.Error("not bound to app-1")
					}
					out := get(sent(b))
					p.(stickiness.Forwarder).Forward(out, b.Seen)
				}
			})
		}
		wg.Wait()
	}
}

func TestReasonAndResultStrings(t *testing.T) {
	seen := map[string]bool{}
	for r := stickiness.Usable; r <= stickiness.UnknownTarget; r++ {
		seen[r.String()] = true
	}
	for r := stickiness.Kept; r <= stickiness.Failed; r++ {
		seen[r.String()] = true
	}
	require.Len(t, seen, 9+6)
	require.NotContains(t, seen, "")
	require.Equal(t, "reason 200", stickiness.Reason(200).String())
	require.Equal(t, "result 200", stickiness.Result(200).String())
}

// Else the client would come back with a cookie that no policy made.
func TestPolicies_TheBackendDoesNotSetTheBalancersCookie(t *testing.T) {
	foreign := []string{"a=1", "AWSELBX=1", "b=2; Path=/AWSELB=3"}
	theirs := []string{foreign[0], "AWSELB=evil; Path=/", foreign[1], " AWSELB = evil", foreign[2], "AWSELB=; Max-Age=0"}
	for _, keep := range []bool{false, true} {
		lb := newLB(t, stickiness.LBCookieOptions{Codec: plain{}, CORS: stickiness.CORSAlways, KeepInRequest: keep})
		app := newApp(t, stickiness.AppCookieOptions{Codec: plain{}, KeepInRequest: keep})
		for name, p := range map[string]stickiness.Policy{"LBCookie": lb, "AppCookie": app} {
			lines, want := theirs, foreign
			if name == "LBCookie" {
				lines = append(slices.Clone(lines), "AWSELBCORS=evil")
			}
			if keep {
				want = lines
			}
			h := http.Header{"Set-Cookie": lines}
			answer(p, get("SID=1; AWSELB=app-1"), "app-1", h)
			require.Equal(t, want, h["Set-Cookie"], "%s keep=%v", name, keep)

			h = http.Header{"Set-Cookie": {"AWSELB=evil"}}
			answer(p, get("SID=1; AWSELB=app-1"), "app-1", h)
			require.Equal(t, keep, len(h) == 1, "%s: no empty header", name)
		}
	}
	require.Equal(t, "AWSELB=evil; Path=/", theirs[1], "the backend's slice stays as it is")
}
