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

// login is a response by which the application begins a session.
func login() http.Header { return set("SID=abc; Path=/app; HttpOnly") }

func TestAppCookie_S8_BoundOnlyWithBothCookies(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{})
	c := strings.TrimPrefix(sent(answer(p, get(), "app-1", login())), "SID=abc; ")
	tests := map[string]struct {
		cookies []string
		want    []string
	}{
		"none":                          {nil, []string{}},
		"the application's alone":       {[]string{"SID=abc"}, []string{}},
		"ours alone":                    {[]string{c}, []string{"[no app cookie]"}},
		"ours twice":                    {[]string{c, c}, []string{"[no app cookie]"}},
		"both":                          {[]string{c + "; SID=abc"}, []string{"app-1"}},
		"both on two lines":             {[]string{"SID=abc", c}, []string{"app-1"}},
		"both, the application's empty": {[]string{c + "; SID="}, []string{"app-1"}},
		"another of other case":         {[]string{c + "; sid=abc"}, []string{"[no app cookie]"}},
		"both, ours unusable":           {[]string{"SID=abc; AWSELB=x"}, []string{"[malformed]"}},
	}
	for name, tt := range tests {
		require.Equal(t, tt.want, targets(p.Lookup(get(tt.cookies...), nil)), name)
	}
}

func TestAppCookie_S9_InsertedOnlyWithANewAppCookie(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{})
	for name, h := range map[string]http.Header{
		"no cookie":      {"Cache-Control": {"public"}},
		"another cookie": set("SIDE=1", "XSID=1", "sid=1", "a=b; SID=1", "SID"),
		"a dropped line": set("SID=a\x01b", "SID="+strings.Repeat("x", 5000)),
	} {
		want := h.Clone()
		b := answer(p, get("SID=abc"), "app-1", h)
		require.Equal(t, stickiness.Kept, b.Result, name)
		require.Equal(t, want, b.Header, name)
	}

	b := answer(p, get(), "app-1", login())
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, []string{"SID=abc; Path=/app; HttpOnly", "AWSELB=*; Path=/app; HttpOnly"}, lines(b, "AWSELB"))
	c := sent(b)

	b = answer(p, get(c), "app-1", nil, overTLS)
	require.Equal(t, stickiness.Kept, b.Result)
	require.Empty(t, b.Header, "not refreshed, and no twin")

	b = answer(p, get(c), "app-1", login(), overTLS)
	require.Equal(t, stickiness.Renewed, b.Result, "set anew")
	require.Len(t, b.Header["Set-Cookie"], 2)
}

func TestAppCookie_S10_AttributesCarryOver(t *testing.T) {
	tests := map[string]struct {
		line string
		want []string
	}{
		"none":    {"SID=abc", []string{"AWSELB=*"}},
		"no Path": {"SID=abc; Secure", []string{"AWSELB=*; Secure"}},
		"every one, as written": {
			`SID=abc; path=/a; PORT="80,81"; domain=.example.com; secure; HTTPOnly; Discard; Max-Age=60; expires=Fri, 31 Dec 9999 23:59:59 GMT; Version=1; Comment=hi there; CommentURL="http://x/"; SameSite=Lax; Partitioned`,
			[]string{`AWSELB=*; path=/a; PORT="80,81"; domain=.example.com; secure; HTTPOnly; Discard; Max-Age=60; expires=Fri, 31 Dec 9999 23:59:59 GMT; Version=1; Comment=hi there; CommentURL="http://x/"; SameSite=Lax; Partitioned`},
		},
		"nothing else":              {"SID=abc; Priority=High; Path=/; X-Own=1; abc", []string{"AWSELB=*; Path=/"}},
		"bare and empty stay so":    {"SID=abc; Path; Secure=; Domain=", []string{"AWSELB=*; Path; Secure=; Domain="}},
		"duplicates":                {"SID=abc; Path=/a; Path=/b", []string{"AWSELB=*; Path=/b"}},
		"spaces go":                 {"  SID = abc ;  Path =  /a  ", []string{"AWSELB=*; Path=/a"}},
		"an unreadable Max-Age":     {"SID=abc; Max-Age=soon", []string{"AWSELB=*; Max-Age=soon"}},
		"value with odd characters": {`SID="a,b c"é; Path=/`, []string{"AWSELB=*; Path=/"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			const secret = "the application's secret" // too long to occur in a sealed value by chance
			line := strings.Replace(tt.line, "abc", secret, 1)
			b := answer(newApp(t, stickiness.AppCookieOptions{}), get(), "app-1", set(line))
			require.Equal(t, stickiness.Bound, b.Result)
			require.Equal(t, append([]string{line}, tt.want...), lines(b, "AWSELB"))
			require.NotContains(t, b.Header["Set-Cookie"][1], secret)
		})
	}
}

// If the ticket is too large, it leaves out the comments first, and then all carried attributes.
// The line itself always has all attributes.
func TestAppCookie_S10_TooLargeTicket(t *testing.T) {
	comment, domain, port := strings.Repeat("c", 1000), strings.Repeat("d", 1000), strings.Repeat("8", 1000)
	tests := map[string]struct {
		attributes string
		failover   string
	}{
		"fits": {"; Path=/a; Comment=" + comment, "; Path=/a; Comment=" + comment},
		"without comments": {
			"; Path=/a; Domain=" + domain + "; Port=" + port + "; Comment=" + comment + "; CommentURL=" + comment,
			"; Path=/a; Domain=" + domain + "; Port=" + port,
		},
		"without attributes": {
			"; Path=/a; Domain=" + domain + "; Port=" + port + "; Version=" + port + "; Expires=" + comment + "; Comment=" + comment,
			"",
		},
		"without attributes, but with the expiry": {
			"; Path=/a; Max-Age=100; Domain=" + domain + "; Port=" + port + "; Version=" + port + "; Expires=" + comment,
			"; Max-Age=100",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newApp(t, stickiness.AppCookieOptions{})
				b := answer(p, get(), "app-1", set("SID=abc"+tt.attributes))
				require.Equal(t, "AWSELB=*"+tt.attributes, lines(b, "AWSELB")[1])
				require.LessOrEqual(t, len(sent(b))-len("SID=abc; AWSELB=")+len("AWSELB"), 4096)
				b = answer(p, get(sent(b)), "app-2", nil)
				require.Equal(t, []string{"AWSELB=*" + tt.failover}, lines(b, "AWSELB"))
			})
		})
	}
}

// Browsers store at most 4096 octets of name and value together.
func TestAppCookie_S10_NameCounts(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{Name: strings.Repeat("n", 256)})
	for size := 700; size <= 1000; size++ {
		filler := strings.Repeat("x", size)
		b := answer(p, get(), "app-1", set("SID=abc; Port="+filler+"; Domain="+filler+"; Version="+filler))
		require.Len(t, b.Header["Set-Cookie"], 2)
		pair, _, _ := strings.Cut(b.Header["Set-Cookie"][1], ";")
		require.LessOrEqual(t, len(pair)-1, 4096)
	}
}

func TestAppCookie_S11_DeletionFollowsApp(t *testing.T) {
	const gone = "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
	past := "Expires=Fri, 31 Dec 1999 23:59:59 GMT" // synctest begins a second later
	tests := map[string]struct {
		line string
		want []string // nil: set, not deleted
	}{
		"Max-Age zero":                 {"SID=; Max-Age=0; Path=/app", []string{"AWSELB=; Path=/app" + gone}},
		"Max-Age negative":             {"SID=x; max-age=-1", []string{"AWSELB=" + gone}},
		"Expires in the past":          {"SID=; Path=/; Domain=example.com; " + past, []string{"AWSELB=; Path=/; Domain=example.com" + gone}},
		"Expires now":                  {"SID=; Expires=Sat, 01 Jan 2000 00:00:00 GMT", []string{"AWSELB=" + gone}},
		"Max-Age before Expires":       {"SID=; Max-Age=60; " + past, nil},
		"Max-Age zero before Expires":  {"SID=; Max-Age=0; Expires=Fri, 31 Dec 2100 23:59:59 GMT", []string{"AWSELB=" + gone}},
		"unreadable Max-Age":           {"SID=; Max-Age=gone", nil},
		"unreadable Max-Age, Expires":  {"SID=; Max-Age=gone; " + past, []string{"AWSELB=" + gone}},
		"unreadable Expires":           {"SID=; Expires=yesterday", nil},
		"an empty value":               {"SID=", nil},
		"both spellings":               {"SID=; Path=/my_app; Max-Age=0", []string{"AWSELB=; Path=/my%5Fapp" + gone, "AWSELB=; Path=/my_app" + gone}},
		"what a browser needs to obey": {"SID=; Secure; SameSite=None; Partitioned; HttpOnly; Comment=x; Max-Age=0", []string{"AWSELB=; Secure; SameSite=None; Partitioned; HttpOnly" + gone}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, spelling := range []stickiness.PathSpelling{stickiness.SpellBoth, stickiness.SpellEncoded, stickiness.SpellVerbatim} {
					p := newApp(t, stickiness.AppCookieOptions{PathSpelling: spelling})
					c := sent(answer(p, get(), "app-1", login()))
					for _, request := range []*http.Request{get(c), get("SID=abc"), get()} {
						b := answer(p, request, "app-1", set(tt.line), detoured)
						if tt.want == nil {
							require.NotEqual(t, stickiness.Freed, b.Result)
							continue
						}
						require.Equal(t, stickiness.Freed, b.Result)
						require.Equal(t, append([]string{tt.line}, tt.want...), b.Header["Set-Cookie"])
						require.Equal(t, "private", b.Header.Get("Cache-Control"))
					}
				}
			})
		})
	}
}

func TestAppCookie_S11_FreeUntilTheAppSetsItsCookieAgain(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{})
	b := answer(p, get("SID=abc"), "app-2", nil)
	require.Equal(t, stickiness.Kept, b.Result)
	require.Equal(t, stickiness.Bound, answer(p, get("SID=abc"), "app-2", login()).Result)
}

func TestAppCookie_S12_TrailingSemicolon(t *testing.T) {
	tests := map[string]struct {
		lines    []string
		want     stickiness.Result
		accepted stickiness.Result
	}{
		"none":                       {[]string{"SID=abc; Path=/"}, stickiness.Bound, stickiness.Bound},
		"one":                        {[]string{"SID=abc; Path=/;"}, stickiness.Ignored, stickiness.Bound},
		"one and spaces":             {[]string{"SID=abc;  "}, stickiness.Ignored, stickiness.Bound},
		"a deletion":                 {[]string{"SID=; Max-Age=0;"}, stickiness.Ignored, stickiness.Freed},
		"another cookie's":           {[]string{"SIDE=abc;", "SID=abc"}, stickiness.Bound, stickiness.Bound},
		"the line before counts":     {[]string{"SID=abc", "SID=; Max-Age=0;"}, stickiness.Bound, stickiness.Freed},
		"a semicolon inside is none": {[]string{"SID=abc;; Path=/"}, stickiness.Bound, stickiness.Bound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := answer(newApp(t, stickiness.AppCookieOptions{}), get(), "app-1", set(tt.lines...))
			require.Equal(t, tt.want, b.Result)
			require.Equal(t, tt.lines, b.Header["Set-Cookie"][:len(tt.lines)], "it passes unchanged")
			if tt.want == stickiness.Ignored {
				require.Equal(t, set(tt.lines...), b.Header)
			}
			b = answer(newApp(t, stickiness.AppCookieOptions{AcceptTrailingSemicolon: true}), get(), "app-1", set(tt.lines...))
			require.Equal(t, tt.accepted, b.Result)
		})
	}
}

// An ignored line has no effect: the session still moves with its target.
func TestAppCookie_S12_IgnoredLineDoesNotStopAFailover(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{})
	c := sent(answer(p, get(), "app-1", login()))
	b := answer(p, get(c), "app-2", set("SID=abc;"))
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, []string{"SID=abc;", "AWSELB=*; Path=/app; HttpOnly"}, lines(b, "AWSELB"))
}

func TestAppCookie_S13_FailoverKeepsAttributesAndExpiry(t *testing.T) {
	const end = "Expires=Sat, 01 Jan 2000 01:00:00 GMT" // an hour after the bubble's first instant
	tests := map[string]struct {
		attributes string
		want       string // after 1000.5 seconds
	}{
		"a session":             {"; Path=/app; HttpOnly; Discard", "; Path=/app; HttpOnly; Discard"},
		"no attributes":         {"", ""},
		"Max-Age":               {"; Max-Age=3600; Path=/", "; Max-Age=2600; Path=/"},
		"Expires":               {"; Path=/; " + end, "; Path=/; " + end},
		"both":                  {"; Max-Age=3600; " + end, "; Max-Age=2600; " + end},
		"both, and they differ": {"; max-age=7200; " + end, "; max-age=6200; " + end},
		"the last unreadable":   {"; Max-Age=5; Max-Age=3600; Max-Age=x", "; Max-Age=x"},
		"unreadable":            {"; Max-Age=x; Expires=y", "; Max-Age=x; Expires=y"},
		"both spellings":        {"; Path=/my_app; Max-Age=3600", "; Path=/my%5Fapp; Max-Age=2600"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newApp(t, stickiness.AppCookieOptions{})
				c := sent(answer(p, get(), "app-1", set("SID=abc"+tt.attributes)))
				time.Sleep(1000*time.Second + time.Second/2)

				b := answer(p, get(c), "app-2", nil, detoured)
				require.Equal(t, stickiness.Kept, b.Result)
				require.Empty(t, b.Header)

				b = answer(p, get(c), "app-2", nil, overTLS)
				require.Equal(t, stickiness.Bound, b.Result)
				require.Equal(t, "AWSELB=*"+tt.want, lines(b, "AWSELB")[0])
				require.Equal(t, "private", b.Header.Get("Cache-Control"))

				c = "SID=abc; " + sent(b)
				b = answer(p, get(c), "app-2", nil)
				require.Equal(t, "app-2", b.From.Target, "stuck to the new target")
				require.Equal(t, stickiness.Kept, b.Result)

				b = answer(p, get(c), "app-3", nil) // a second failover keeps the expiry too
				require.Equal(t, stickiness.Bound, b.Result)
				require.Equal(t, "AWSELB=*"+tt.want, lines(b, "AWSELB")[0])
			})
		})
	}
}

func TestAppCookie_S13_NothingLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newApp(t, stickiness.AppCookieOptions{})
		c := sent(answer(p, get(), "app-1", set("SID=abc; Path=/app; Comment=x; Max-Age=3600")))
		time.Sleep(time.Hour)
		require.Equal(t, stickiness.Kept, answer(p, get(c), "app-1", nil).Result, "the expiry is not checked")

		b := answer(p, get(c), "app-2", nil)
		require.Equal(t, stickiness.Freed, b.Result)
		require.Equal(t, []string{"AWSELB=; Path=/app; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"}, b.Header["Set-Cookie"])
	})
}

func TestAppCookie_S13_AppSetsItsCookieDuringADetour(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{})
	c := sent(answer(p, get(), "app-1", login()))
	tests := map[string]struct {
		line   string
		result stickiness.Result
		target string
	}{
		"another session lives where it was made": {"SID=def; Path=/", stickiness.Bound, "app-2"},
		"the same session is prolonged":           {"SID=abc; Path=/; Max-Age=60", stickiness.Renewed, "app-1"},
		"the same, in quotes":                     {`SID="abc"; Path=/; Max-Age=60`, stickiness.Renewed, "app-1"},
	}
	for name, tt := range tests {
		b := answer(p, get(c), "app-2", set(tt.line), detoured)
		require.Equal(t, tt.result, b.Result, name)
		_, attributes, _ := strings.Cut(tt.line, "; ")
		require.Equal(t, []string{tt.line, "AWSELB=*; " + attributes}, lines(b, "AWSELB"), name)
		require.Equal(t, []string{tt.target}, targets(p.Lookup(get(sent(b)), nil)), name)
	}
	b := answer(p, get(c), "app-2", login())
	require.Equal(t, []string{"app-2"}, targets(p.Lookup(get(sent(b)), nil)), "a failover is no detour")
}

func TestAppCookie_S14_LastLineRules(t *testing.T) {
	tests := map[string]struct {
		lines, want []string
	}{
		"two settings":           {[]string{"SID=a; Path=/a", "x=1", "SID=b; Path=/a", "y=1"}, []string{"AWSELB=*; Path=/a"}},
		"deletion, then setting": {[]string{"SID=; Max-Age=0; Path=/b", "SID=b; Path=/b"}, []string{"AWSELB=*; Path=/b"}},
		"setting, then deletion": {[]string{"SID=a; Path=/b", "SID=; Max-Age=0; Path=/b"}, []string{gone("Path=/b")}},
		"a dropped line is none": {[]string{"SID=a; Path=/a", "SID=b\x7f; Path=/a"}, []string{"AWSELB=*; Path=/a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := answer(newApp(t, stickiness.AppCookieOptions{}), get(), "app-1", set(tt.lines...))
			require.Equal(t, append(tt.lines, tt.want...), lines(b, "AWSELB"))
		})
	}
}

// gone is the line that deletes the balancer's cookie with these attributes.
func gone(attributes string) string {
	return "AWSELB=; " + attributes + "; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
}

// Browsers keep these; http.ParseSetCookie refuses each of them.
func TestAppCookie_S14_FoundAsBrowsersFindIt(t *testing.T) {
	for _, line := range []string{
		`SID=a"b; Path=/`,
		`SID=a,b c; Path=/`,
		`SID=ä; Path=/`,
		"\tSID\t=\tv; Path=/",
		`SID=a\b; Path=/`,
		`SID="; Path=/`,
	} {
		b := answer(newApp(t, stickiness.AppCookieOptions{}), get(), "app-1", set(line))
		require.Equal(t, []string{line, "AWSELB=*; Path=/"}, lines(b, "AWSELB"))
	}
	p, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "my session[id]"})
	require.NoError(t, err)
	b := answer(p, get(), "app-1", set("my session[id]=1; Path=/"))
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, []string{"app-1"}, targets(p.Lookup(get(sent(b)), nil)))
}

func TestAppCookie_C7_OldKeyIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older, newer := cookie.NewKey(), cookie.NewKey()
		before := newApp(t, stickiness.AppCookieOptions{Keys: [][]byte{older}})
		after := newApp(t, stickiness.AppCookieOptions{Keys: [][]byte{newer, older}})
		c := sent(answer(before, get(), "app-1", set("SID=abc; Path=/app; Max-Age=3600")))
		plainSession := sent(answer(before, get(), "app-1", set("SID=abc")))

		time.Sleep(1000 * time.Second)
		b := answer(after, get(c), "app-1", nil)
		require.Equal(t, stickiness.Renewed, b.Result)
		require.Equal(t, []string{"AWSELB=*; Path=/app; Max-Age=2600"}, lines(b, "AWSELB"))
		require.Equal(t, stickiness.Kept, answer(after, get("SID=abc; "+sent(b)), "app-1", nil).Result)

		b = answer(after, get(plainSession), "app-1", nil)
		require.Equal(t, []string{"AWSELB=*"}, lines(b, "AWSELB"))

		time.Sleep(time.Hour)
		require.Equal(t, stickiness.Kept, answer(after, get(c), "app-1", nil).Result, "nothing is left to write")
	})
}

func TestAppCookie_FormerCodec(t *testing.T) {
	sealed, err := cookie.NewSealed(cookie.SealedOptions{Scope: "old scope"})
	require.NoError(t, err)
	p := newApp(t, stickiness.AppCookieOptions{Former: []cookie.Codec{sealed, plain{}}})

	b := answer(p, get("SID=abc; AWSELB=app-1"), "app-1", nil)
	require.Equal(t, "app-1", b.From.Target)
	require.Equal(t, stickiness.Kept, b.Result, "its Path is not known")
	require.Equal(t, stickiness.Renewed, answer(p, get("SID=abc; AWSELB=app-1"), "app-1", login()).Result)

	value, err := sealed.Encode(&cookie.Ticket{Target: "app-1", Carried: []cookie.Attribute{{Name: "Path", Value: "/"}}})
	require.NoError(t, err)
	b = answer(p, get("SID=abc; AWSELB="+value), "app-1", nil)
	require.Equal(t, stickiness.Renewed, b.Result)
	require.Equal(t, []string{"AWSELB=*; Path=/"}, lines(b, "AWSELB"))
}

// forgetful is a codec that does not authenticate: it returns attributes that a client may have
// invented.
type forgetful struct{ carried []cookie.Attribute }

func (forgetful) Encode(t *cookie.Ticket) (string, error) { return t.Target, nil }
func (c forgetful) Decode(value string) (cookie.Ticket, error) {
	return cookie.Ticket{Target: value, Carried: c.carried}, nil
}

func TestAppCookie_S13_CarriedAttributesArePrintedSafely(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{Codec: forgetful{[]cookie.Attribute{
		{Name: "Path", Value: "/a\r\nX-Injected: 1"},
		{Name: "Domain", Value: "example.com; HttpOnly"},
		{Name: "Set-Cookie", Value: "x"},
		{Name: "path\r\n", Value: "/"},
		{Name: "Comment", Value: "fine"},
	}}})
	b := answer(p, get("SID=abc; AWSELB=a"), "b", nil)
	require.Equal(t, []string{"AWSELB=b; Comment=fine"}, b.Header["Set-Cookie"])
}

func TestAppCookie_UnencodableTargetWritesNothing(t *testing.T) {
	b := answer(newApp(t, stickiness.AppCookieOptions{Codec: plain{}}), get(), "unencodable", login())
	require.Equal(t, stickiness.Kept, b.Result)
	require.Equal(t, login(), b.Header)
}

func TestNewAppCookie_Refuses(t *testing.T) {
	tests := map[string]struct {
		app  string
		o    stickiness.AppCookieOptions
		want string
	}{
		"no name":            {"", stickiness.AppCookieOptions{}, `invalid name "" of the application's cookie`},
		"name with equals":   {"a=b", stickiness.AppCookieOptions{}, `invalid name "a=b" of the application's cookie`},
		"name with space":    {" a", stickiness.AppCookieOptions{}, `invalid name " a" of the application's cookie`},
		"name with newline":  {"a\n", stickiness.AppCookieOptions{}, `invalid name "a\n" of the application's cookie`},
		"own name":           {"SID", stickiness.AppCookieOptions{Name: "a b"}, `invalid cookie name "a b"`},
		"C4 prefixed":        {"SID", stickiness.AppCookieOptions{Name: "__Host-lb"}, `the Name "__Host-lb" requires attributes, which the application chooses: cookie: browsers refuse it: a name with __Host- needs Secure`},
		"C4 prefixed, other": {"SID", stickiness.AppCookieOptions{Name: "__secure-lb"}, `the Name "__secure-lb" requires attributes, which the application chooses: cookie: browsers refuse it: a name with __Secure- needs Secure`},
		"same name":          {"AWSELB", stickiness.AppCookieOptions{}, "the Name is also that of the application's cookie"},
		"PathSpelling":       {"SID", stickiness.AppCookieOptions{PathSpelling: 7}, "unknown PathSpelling 7"},
		"Keys and Codec":     {"SID", stickiness.AppCookieOptions{Codec: plain{}, Keys: [][]byte{cookie.NewKey()}}, "both Keys and a Codec, which has its own keys"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.o.Cookie = tt.app
			_, err := stickiness.NewAppCookie(tt.o)
			require.EqualError(t, err, "stickiness: AppCookie: "+tt.want)
		})
	}
	_, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "__Host-SID"})
	require.NoError(t, err, "the application's own cookie may have a prefix")
}

// A ticket contains the directory for which a cookie without a Path was set. So a failover below
// that directory overwrites the cookie, and does not make a second one.
func TestAppCookie_S13_FailoverBelowTheDirectory(t *testing.T) {
	p := newApp(t, stickiness.AppCookieOptions{PathSpelling: stickiness.SpellEncoded})
	c := sent(answer(p, at("/my_app/login"), "app-1", set("SID=abc; Path=; HttpOnly")))
	for target, want := range map[string]string{
		"/my_app/x":       "AWSELB=*; Path=; HttpOnly",
		"/my_app/admin/x": "AWSELB=*; HttpOnly; Path=/my_app",
	} {
		moved := c
		for _, server := range []string{"app-2", "app-3"} { // and once more
			r := at(target)
			r.Header.Set("Cookie", "SID=abc; "+moved)
			b := answer(p, r, server, nil)
			require.Equal(t, []string{want}, lines(b, "AWSELB"))
			moved = sent(b)
		}
	}
	r := at("/my_app/admin/x")
	r.Header.Set("Cookie", c)
	b := answer(p, r, "app-2", set("SID=; Max-Age=0"))
	require.Equal(t, []string{"SID=; Max-Age=0", "AWSELB=*; HttpOnly; Path=/my_app", strings.Replace(gone(""), "; ", "", 1)}, lines(b, "AWSELB"), "the cookie of /my_app/admin ended")
	b = answer(p, r, "app-2", set("SID=; Path=/my_app; Max-Age=0"))
	require.Equal(t, stickiness.Freed, b.Result)
}

// The target that answers now may have another clock than the target that wrote the Expires.
func TestAppCookie_S13_FailoverBetweenClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newApp(t, stickiness.AppCookieOptions{})
		now := time.Now()
		h := set("SID=abc; Path=/; Expires=" + date(now.Add(-time.Hour)))
		h.Set("Date", date(now.Add(-2*time.Hour))) // so it lasts an hour
		c := sent(answer(p, get(), "app-1", h))
		for name, tt := range map[string]struct {
			date, expires time.Time
		}{
			"no clock":       {time.Time{}, now.Add(time.Hour)},
			"a right clock":  {now, now.Add(time.Hour)},
			"a second late":  {now.Add(-2*time.Hour - time.Second), now.Add(-time.Hour)},
			"the same clock": {now.Add(-2 * time.Hour), now.Add(-time.Hour)},
		} {
			h := http.Header{}
			if !tt.date.IsZero() {
				h.Set("Date", date(tt.date))
			}
			b := answer(p, get("SID=abc", c), "app-2", h)
			require.Equal(t, []string{"AWSELB=*; Path=/; Expires=" + date(tt.expires)}, lines(b, "AWSELB"), name)
		}
	})
}
