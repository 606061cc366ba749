package stickiness_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
			require.Equal(t, slices.Concat(first, twin), answer(lb, at(tt.path+"/page"), "app-1", nil, overTLS).Header["Set-Cookie"])

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
	require.Equal(t, []string{"SID=1; Path=/plain; Path=/my_app", "AWSELB=a; Path=/my%5Fapp", "AWSELB=a; Path=/my_app"},
		answer(app, get(), "a", set("SID=1; Path=/plain; Path=/my_app")).Header["Set-Cookie"])
	require.Equal(t, []string{"SID=1; Path=/my_app; Path=/plain", "AWSELB=a; Path=/plain"},
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

// errorCodec returns one error for every value.
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
		"quoted, half":   {`"` + good, nil, "[malformed]"},
		"quoted twice":   {`""` + good + `""`, nil, "[malformed]"},
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

// numbered returns a Cookie line of n different cookies of a name, and their values.
func numbered(name string, n int) (line string, values []string) {
	var pairs []string
	for i := range n {
		values = append(values, fmt.Sprint(name[len(name)-1:], i))
		pairs = append(pairs, name+"="+values[i])
	}
	return strings.Join(pairs, "; "), values
}

func TestPolicies_S17_SixtyFourValues(t *testing.T) {
	many, values := numbered("AWSELB", 65)
	half, halfValues := numbered("AWSELB", 40)
	twins, twinValues := numbered("AWSELBCORS", 40)
	tests := map[string]struct {
		cookies []string
		lb, app []string
	}{
		"in order over lines":      {[]string{"a=b; AWSELB=1; SID=x", "AWSELB=2", "c=d; AWSELB=3"}, []string{"1", "2", "3"}, []string{"1", "2", "3"}},
		"unusable ones among them": {[]string{"SID=x; AWSELB=!; AWSELB=2; AWSELB="}, []string{"[malformed]", "2", "[malformed]"}, []string{"[malformed]", "2", "[malformed]"}},
		"64":                       {[]string{"SID=x", many}, values[:64], values[:64]},
		"64 of both names":         {[]string{"SID=x", twins, half}, slices.Concat(halfValues, twinValues[:24]), halfValues},
		"equal ones are one":       {[]string{"SID=x" + strings.Repeat("; AWSELB=1", 100) + "; AWSELB=2"}, []string{"1", "2"}, []string{"1", "2"}},
		"quotes do not count":      {[]string{`$Version="1"; SID="x";$Path="/"; AWSELB="1";$Path="/"; AWSELB=1`}, []string{"1"}, []string{"1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.lb, targets(newLB(t, stickiness.LBCookieOptions{Codec: plain{}}).Lookup(get(tt.cookies...), nil)))
			require.Equal(t, tt.app, targets(newApp(t, stickiness.AppCookieOptions{Codec: plain{}}).Lookup(get(tt.cookies...), nil)))
		})
	}
}

// Java's HttpClient and HttpURLConnection use this spelling for cookies that have a Max-Age.
func TestPolicies_S17_SpellingOfRFC2109(t *testing.T) {
	table := table(t)
	lb, app := newLB(t, stickiness.LBCookieOptions{}), newApp(t, stickiness.AppCookieOptions{})
	prefix, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: table})
	require.NoError(t, err)
	route, err := stickiness.NewRoute(stickiness.RouteOptions{Cookie: "SID", Codec: table})
	require.NoError(t, err)
	named, err := stickiness.NewNamed(stickiness.NamedOptions{From: []stickiness.Source{stickiness.FromCookie("SID")}, InsecurePlain: true})
	require.NoError(t, err)
	learn := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"})
	answer(learn, get(), "app-1", set("SID=s1; Max-Age=60"))
	value := func(p stickiness.Policy) string {
		_, value, _ := strings.Cut(sent(answer(p, get(), "app-1", set("SID=s1"))), "AWSELB=")
		return value
	}
	tests := map[string]struct {
		policy        stickiness.Policy
		line, forward string
	}{
		"LBCookie":     {lb, `$Version="1"; SID="s1";$Path="/"; AWSELB="` + value(lb) + `";$Path="/"`, `$Version="1"; SID="s1";$Path="/"`},
		"twin":         {lb, `$Version="1"; AWSELBCORS="` + value(lb) + `";$Path="/";$Domain="x"; SID="s1";$Path="/"`, `$Version="1"; SID="s1";$Path="/"`},
		"AppCookie":    {app, `$Version="1"; SID="s1";$Path="/"; AWSELB="` + value(app) + `";$Path="/"`, `$Version="1"; SID="s1";$Path="/"`},
		"PrefixCookie": {prefix, `$Version="1"; SID="s1~0123";$Path="/"`, `$Version="1"; SID="0123";$Path="/"`},
		"Route":        {route, `$Version="1"; SID="0123.s1";$Path="/"`, ""},
		"Learn":        {learn, `$Version="1"; SID="s1";$Path="/"`, ""},
		"Named":        {named, `$Version="1"; SID="app-1";$Path="/"`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := get(tt.line)
			seen := tt.policy.Lookup(r, nil)
			require.Equal(t, []string{"app-1"}, targets(seen))
			b := answer(tt.policy, r, "app-1", nil)
			require.Equal(t, stickiness.Kept, b.Result)
			require.Empty(t, b.Header)
			if f, ok := tt.policy.(stickiness.Forwarder); ok {
				f.Forward(r, seen)
				require.Equal(t, []string{tt.forward}, r.Header["Cookie"])
			}
		})
	}
}

func TestPolicies_S17_NewestWins(t *testing.T) {
	keys := [][]byte{cookie.NewKey()}
	codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: keys})
	require.NoError(t, err)
	now := time.Now().Truncate(time.Second)
	value := func(target string, age time.Duration) string {
		ticket := cookie.Ticket{Target: target, Issued: now.Add(-age)}
		if age < 0 {
			ticket.Issued = time.Time{}
		}
		v, err := codec.Encode(&ticket)
		require.NoError(t, err)
		return v
	}
	const undated = -1
	old, older, recent, none := value("old", 2*time.Hour), value("older", 3*time.Hour), value("new", time.Hour), value("undated", undated)
	tests := map[string]struct {
		first, twin []string
		cross       bool
		want        string
		rewritten   bool
	}{
		"the last one sent":                  {first: []string{old, older, recent}, want: "new"},
		"the first one sent":                 {first: []string{recent, old}, want: "new"},
		"dated before undated":               {first: []string{none, older}, want: "older"},
		"undated ones in order":              {first: []string{none, value("other", undated)}, want: "undated"},
		"behind forged ones":                 {first: append(forged(recent, 9), recent), want: "new"},
		"behind 63 forged ones":              {first: append(forged(recent, 63), recent), want: "new"},
		"the twin is newer":                  {first: []string{old}, twin: []string{recent}, want: "new", rewritten: true},
		"the twin is older":                  {first: []string{recent}, twin: []string{old}, want: "new", rewritten: true},
		"the twin agrees":                    {first: []string{recent}, twin: []string{recent}, want: "new"},
		"the twin is older and agrees":       {first: []string{recent}, twin: []string{value("new", 5*time.Hour)}, want: "new"},
		"a stale cookie, and they agree":     {first: []string{old, recent}, twin: []string{recent}, want: "new"},
		"stale ones of both, and they agree": {first: []string{old, recent}, twin: []string{older, recent}, want: "new"},
		"an unusable twin":                   {first: []string{old}, twin: forged(recent, 1), want: "old"},
		"a tie":                              {first: []string{recent}, twin: []string{value("twin", time.Hour)}, want: "new", rewritten: true},
		"a tie, cross-origin":                {first: []string{recent}, twin: []string{value("twin", time.Hour)}, cross: true, want: "twin", rewritten: true},
		"an undated tie, cross-origin":       {first: []string{none}, twin: []string{value("twin", undated)}, cross: true, want: "twin", rewritten: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newLB(t, stickiness.LBCookieOptions{Keys: keys})
			r := get()
			for _, v := range tt.first {
				r.Header.Add("Cookie", "AWSELB="+v)
			}
			for _, v := range tt.twin {
				r.Header.Add("Cookie", "AWSELBCORS="+v)
			}
			if tt.cross {
				r.Header.Set("Sec-Fetch-Site", "cross-site")
			}
			b := answer(p, r, tt.want, nil)
			require.Equal(t, tt.want, b.From.Target)
			found := p.Lookup(r, nil)
			usable := slices.IndexFunc(found, func(c stickiness.Candidate) bool { return c.Reason == stickiness.Usable })
			require.Equal(t, tt.want, found[usable].Target)
			if !tt.rewritten {
				require.Empty(t, b.Header)
				return
			}
			require.Equal(t, stickiness.Renewed, b.Result)
			require.Len(t, b.Header["Set-Cookie"], 2)
			healed := answer(p, get(sent(b)), tt.want, nil)
			require.Equal(t, tt.want, healed.From.Target)
			require.Empty(t, healed.Header, "once is enough")

			app := newApp(t, stickiness.AppCookieOptions{Keys: keys})
			require.Equal(t, tt.first[0] == none, app.Lookup(get("SID=1; AWSELB="+tt.first[0]), nil)[0].Issued.IsZero())
		})
	}
	app := newApp(t, stickiness.AppCookieOptions{Keys: keys})
	r := get("SID=1; AWSELB=" + older + "; AWSELB=" + recent + "; AWSELB=" + old)
	require.Equal(t, []string{"new", "old", "older"}, targets(app.Lookup(r, nil)))
	require.Empty(t, answer(app, r, "new", nil).Header)
}

// forged returns n different values that were not sealed.
func forged(value string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%03d", value[:len(value)-3], i)
	}
	return all
}

// No value is opened twice, and a megabyte of cookies costs linear time.
func TestPolicies_S17_HostileCookies(t *testing.T) {
	for name, cookies := range map[string]string{
		"equal":      strings.Repeat("AWSELB=; ", 1<<20/9),
		"empty":      strings.Repeat(";", 1<<20),
		"versioned":  `$Version="1"; SID="1"` + strings.Repeat(`; AWSELB="1";$Path="/"`, 1<<20/22),
		"open quote": `$Version="1"; SID="1"` + strings.Repeat(`; AWSELB="`, 1<<20/10|1),
	} {
		counter := &counting{}
		lb, app := newLB(t, stickiness.LBCookieOptions{Codec: counter}), newApp(t, stickiness.AppCookieOptions{Codec: counter})
		for _, p := range []stickiness.Policy{lb, app} {
			r := get("SID=1", cookies)
			counter.n.Store(0)
			found := p.Lookup(r, nil)
			require.LessOrEqual(t, len(found), 64, name)
			require.LessOrEqual(t, counter.n.Load(), int64(64), name)
			p.(stickiness.Forwarder).Forward(r, found)
		}
	}
	line, _ := numbered("AWSELB", 100_000)
	counter := &counting{}
	newLB(t, stickiness.LBCookieOptions{Codec: counter}).Lookup(get(line), nil)
	require.EqualValues(t, 64, counter.n.Load())
}

// A counting codec counts the values that it opens.
type counting struct {
	plain
	n atomic.Int64
}

func (c *counting) Decode(value string) (cookie.Ticket, error) {
	c.n.Add(1)
	return c.plain.Decode(value)
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

// A codec of the caller's cannot make a policy write an invalid cookie.
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
	for _, p := range []stickiness.Policy{newLB(t, stickiness.LBCookieOptions{Path: "/shop"}), newApp(t, stickiness.AppCookieOptions{})} {
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

// If the backend could set it, the client would send a cookie that no policy has made.
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
