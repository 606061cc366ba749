package cookie_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

type attrs = []cookie.Attribute

func TestParseSetCookie_C1_AsBrowsersDo(t *testing.T) {
	tests := map[string]struct {
		line string
		want cookie.SetCookie
	}{
		"plain":                      {"a=b", cookie.SetCookie{Name: "a", Value: "b"}},
		"empty value":                {"a=", cookie.SetCookie{Name: "a"}},
		"equals sign in the value":   {"a=b=c==", cookie.SetCookie{Name: "a", Value: "b=c=="}},
		"quotes are part of it":      {`a="b c"`, cookie.SetCookie{Name: "a", Value: `"b c"`}},
		"quotes do not hold a line":  {`a="b;c"`, cookie.SetCookie{Name: "a", Value: `"b`, Attributes: attrs{{Name: `c"`, Bare: true}}}},
		"odd characters":             {"a[1]=b,c\\d\xff{é}", cookie.SetCookie{Name: "a[1]", Value: "b,c\\d\xff{é}"}},
		"name with spaces":           {"a b=c d", cookie.SetCookie{Name: "a b", Value: "c d"}},
		"whitespace around":          {" \ta\t = \tb \t; Path\t= /x ", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Path", Value: "/x"}}}},
		"other spaces are kept":      {"a=\u00a0b\u00a0", cookie.SetCookie{Name: "a", Value: "\u00a0b\u00a0"}},
		"no equals sign":             {"b", cookie.SetCookie{Value: "b"}},
		"no name":                    {"=b", cookie.SetCookie{Value: "b"}},
		"bare attribute":             {"a=b; Secure", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Secure", Bare: true}}}},
		"attribute with no value":    {"a=b; Secure=", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Secure"}}}},
		"attribute value with =":     {"a=b;Path=/c=d", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Path", Value: "/c=d"}}}},
		"empty attributes":           {"a=b;;; ;\t;Secure;", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Secure", Bare: true}}}},
		"attribute without name":     {"a=b; =/x; Path=/", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Path", Value: "/"}}}},
		"duplicates in their order":  {"a=b; path=/1; PATH=/2", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "path", Value: "/1"}, {Name: "PATH", Value: "/2"}}}},
		"RFC 2965":                   {`a="1"; Version="1"; Port="80,8080"; Comment=c; CommentURL="http://x/"; Discard`, cookie.SetCookie{Name: "a", Value: `"1"`, Attributes: attrs{{Name: "Version", Value: `"1"`}, {Name: "Port", Value: `"80,8080"`}, {Name: "Comment", Value: "c"}, {Name: "CommentURL", Value: `"http://x/"`}, {Name: "Discard", Bare: true}}}},
		"unknown attribute":          {"a=b; Priority=High; x", cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Priority", Value: "High"}, {Name: "x", Bare: true}}}},
		"largest value":              {"a=" + strings.Repeat("x", 4095), cookie.SetCookie{Name: "a", Value: strings.Repeat("x", 4095)}},
		"whitespace does not count":  {"a=   " + strings.Repeat("x", 4095), cookie.SetCookie{Name: "a", Value: strings.Repeat("x", 4095)}},
		"attributes do not count":    {"a=" + strings.Repeat("x", 4095) + ";Path=/", cookie.SetCookie{Name: "a", Value: strings.Repeat("x", 4095), Attributes: attrs{{Name: "Path", Value: "/"}}}},
		"largest attribute":          {"a=b; c=" + strings.Repeat("x", 1024), cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "c", Value: strings.Repeat("x", 1024)}}}},
		"too large attribute is out": {"a=b; Path=/ok; Path=/" + strings.Repeat("x", 1024), cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Path", Value: "/ok"}}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := cookie.ParseSetCookie(tt.line)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestParseSetCookie_C5_Refuses(t *testing.T) {
	tests := map[string]struct {
		line string
		want error
	}{
		"nothing":                    {"", cookie.ErrMalformed},
		"blank":                      {" \t", cookie.ErrMalformed},
		"neither name nor value":     {" = ; Path=/", cookie.ErrMalformed},
		"attributes only":            {"; Path=/", cookie.ErrMalformed},
		"name and value too long":    {"ab=" + strings.Repeat("x", 4095), cookie.ErrTooLong},
		"name too long":              {strings.Repeat("x", 4097) + "=", cookie.ErrTooLong},
		"nameless value too long":    {strings.Repeat("x", 4097), cookie.ErrTooLong},
		"line too long by one":       {"a=b" + strings.Repeat(";c", 8191), cookie.ErrTooLong},
		"control character in value": {"a=b\x01c", cookie.ErrMalformed},
		"in a name":                  {"a\x1f=b", cookie.ErrMalformed},
		"in an attribute":            {"a=b; Path=/\r\n", cookie.ErrMalformed},
		"NUL at the end":             {"a=b\x00", cookie.ErrMalformed},
		"tab in a value":             {"a=b\tc", cookie.ErrMalformed},
		"tab in a name":              {"a\tb=c", cookie.ErrMalformed},
		"tab in an attribute":        {"a=b; Path=/x\ty", cookie.ErrMalformed},
		"tab in an attribute's name": {"a=b; Pa\tth=/x", cookie.ErrMalformed},
		"tab where none is looked":   {"a=b; x=" + strings.Repeat("x", 1024) + "\tx", cookie.ErrMalformed},
		"tab in no attribute":        {"a=b; =x\ty", cookie.ErrMalformed},
		"no name and an equals sign": {"=a=b", cookie.ErrMalformed},
		"behind blanks":              {" = \ta = b", cookie.ErrMalformed},
		"delete character":           {"a=b\x7f", cookie.ErrMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := cookie.ParseSetCookie(tt.line)
			require.ErrorIs(t, err, tt.want)
			require.Zero(t, got)
		})
	}
	_, err := cookie.ParseSetCookie("a=bb" + strings.Repeat(";c", 8190))
	require.NoError(t, err, "as long as may be")
}

func TestSetCookieString_C1_LosesNothing(t *testing.T) {
	tests := map[string]struct{ line, want string }{ // want "": as line
		"all attributes": {line: `a=b; path=/x; port="80"; domain=e.com; secure; httponly; discard; max-age=9; ` +
			`expires=Thu, 01 Jan 2026 00:00:00 GMT; version=1; comment=c; commenturl="u"; samesite=None; partitioned; other=1`},
		"spelling and order":       {line: "a=b; SECURE; pAtH=/; Path=/2; Secure="},
		"odd value":                {line: "a b=\"c d,é\xfe\\"},
		"nameless":                 {line: "=b; Path=/"},
		"nameless, no sign":        {line: "b; Path=/", want: "=b; Path=/"},
		"separators are made even": {line: " a = b;Path=/ ;;Secure;", want: "a=b; Path=/; Secure"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := cookie.ParseSetCookie(tt.line)
			require.NoError(t, err)
			if tt.want == "" {
				tt.want = tt.line
			}
			require.Equal(t, tt.want, c.String())
		})
	}
}

// Lines that net/http writes are parsed and printed without a change.
func TestSetCookieString_C1_KeepsNetHTTPLines(t *testing.T) {
	c := http.Cookie{
		Name: "a", Value: "b c", Path: "/x", Domain: "example.com", MaxAge: 5, Secure: true, HttpOnly: true,
		Expires: time.Unix(1e9, 0), SameSite: http.SameSiteNoneMode, Partitioned: true,
	}
	got, err := cookie.ParseSetCookie(c.String())
	require.NoError(t, err)
	require.Equal(t, c.String(), got.String())
}

func TestSetCookieString_NoInjection(t *testing.T) {
	tests := map[string]cookie.SetCookie{
		"nothing":                        {},
		"only attributes":                {Attributes: attrs{{Name: "Path", Value: "/"}}},
		"semicolon in the value":         {Name: "a", Value: "b; Domain=evil.example"},
		"semicolon in the name":          {Name: "a;b", Value: "c"},
		"equals sign in the name":        {Name: "a=b", Value: "c"},
		"name begins with a sign":        {Name: "=a", Value: "b"},
		"value begins with a semicolon":  {Name: "a", Value: "; Secure"},
		"line break in the value":        {Name: "a", Value: "b\r\nX: y"},
		"line feed in the name":          {Name: "a\n", Value: "b"},
		"NUL":                            {Name: "a", Value: "b\x00"},
		"delete character":               {Name: "a", Value: "b\x7f"},
		"tab in the value":               {Name: "a", Value: "b\tc"},
		"sign in a nameless value":       {Value: "a=b"},
		"semicolon in an attribute":      {Name: "a", Value: "b", Attributes: attrs{{Name: "Path", Value: "/; Secure"}}},
		"semicolon in attribute's name":  {Name: "a", Value: "b", Attributes: attrs{{Name: "Path=/; x", Value: "y"}}},
		"sign in a bare attribute":       {Name: "a", Value: "b", Attributes: attrs{{Name: "Domain=x", Bare: true}}},
		"line break in an attribute":     {Name: "a", Value: "b", Attributes: attrs{{Name: "Path", Value: "/\r\nX: y"}}},
		"line break in a bare attribute": {Name: "a", Value: "b", Attributes: attrs{{Name: "Secure\r\nX: y", Bare: true}}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, c.String())
		})
	}
	bare := cookie.SetCookie{Name: "a", Value: "b", Attributes: attrs{{Name: "Secure", Value: "x; y\n", Bare: true}}}
	require.Equal(t, "a=b; Secure", bare.String(), "the value of a bare attribute is not used")
}

func TestSetCookieAttribute_LastOneRules(t *testing.T) {
	c, err := cookie.ParseSetCookie("a=b; Path=/1; SeCuRe; PATH=/2; Discard; Max-Age=; AZ@[`az{=1")
	require.NoError(t, err)
	c.Attributes = append(c.Attributes, cookie.Attribute{Name: "HttpOnly", Value: "unused", Bare: true})
	tests := map[string]struct {
		want string
		ok   bool
	}{
		"path":         {"/2", true},
		"Secure":       {"", true},
		"max-age":      {"", true},
		"httponly":     {"", true},
		"az@[`AZ{":     {"1", true},
		"AZ`[`az{":     {"", false}, // "@" and "`" differ by the bit of case only
		"Domain":       {"", false},
		"":             {"", false},
		"di\u017fcard": {"", false}, // folds to "discard" in Unicode only
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := c.Attribute(name)
			require.Equal(t, tt.ok, ok)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestEncodePath_C2(t *testing.T) {
	require.Equal(t, "/my%5Fpath%5f/%5F", cookie.EncodePath("/my_path%5f/_"))
	require.Equal(t, "/a%20b;c?d", cookie.EncodePath("/a%20b;c?d"))
	require.Empty(t, cookie.EncodePath(""))
}

func FuzzParseSetCookie(f *testing.F) {
	for _, line := range []string{
		"a=b", "=b", "b", "=a=b", " a = b ;; Path=/; =x;", `a="b;c"`, "a=b\tc; Secure; Secure=; Max-Age=-1",
		`a="1"; Version="1"; Port="80,8080"; CommentURL="http://x/"; Discard`, "a=b;" + strings.Repeat("x", 1030),
		"a=b; c=" + strings.Repeat("x", 1030), "\u00a0=\u00a0", "a=b\x00", "", "; ;",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := cookie.ParseSetCookie(line)
		if err != nil {
			require.Zero(t, c)
			return
		}
		require.LessOrEqual(t, len(c.Name)+len(c.Value), cookie.MaxSize)
		printed := c.String()
		require.NotEmpty(t, printed)
		if len(printed) > 4*cookie.MaxSize {
			return // the spaces between the attributes made it longer than what is read
		}
		again, err := cookie.ParseSetCookie(printed)
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

// The line has exactly what the caller built.
func FuzzSetCookieString(f *testing.F) {
	f.Add("a", "b", "Path", "/", false)
	f.Add("", "a=b", "Secure", "", true)
	f.Add("a", "b; c", "Path=/", "/\r\n", true)
	f.Fuzz(func(t *testing.T, name, value, attr, attrValue string, bare bool) {
		c := cookie.SetCookie{Name: name, Value: value, Attributes: attrs{{Name: attr, Value: attrValue, Bare: bare}}}
		line := c.String()
		got, err := cookie.ParseSetCookie(line)
		if err != nil {
			return // empty, too long, or nothing but blanks
		}
		ws := func(s string) string { return strings.Trim(s, " \t") }
		require.Equal(t, ws(name), got.Name)
		require.Equal(t, ws(value), got.Value)
		if len(got.Attributes) == 0 {
			return // no client reads it as a cookie
		}
		want := cookie.Attribute{Name: ws(attr), Value: ws(attrValue), Bare: bare}
		if bare {
			want.Value = ""
		}
		require.Equal(t, attrs{want}, got.Attributes)
	})
}

func BenchmarkParseSetCookie(b *testing.B) {
	hostile := "a=" + strings.Repeat("b", 4095) + strings.Repeat(";c", (16384-4097)/2)
	for name, line := range map[string]string{
		"plain":   "JSESSIONID=0123456789abcdef; Path=/app; HttpOnly",
		"full":    "id=0123456789abcdef; Path=/; Domain=example.com; Expires=Thu, 01 Jan 2026 00:00:00 GMT; Max-Age=3600; Secure; HttpOnly; SameSite=None; Partitioned",
		"hostile": hostile,
	} {
		b.Run("line="+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if _, err := cookie.ParseSetCookie(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSetCookieString(b *testing.B) {
	for _, n := range []int{0, 3, 100} {
		c := cookie.SetCookie{Name: "AWSELB", Value: strings.Repeat("v", 64)}
		for i := range n {
			c.Attributes = append(c.Attributes, cookie.Attribute{Name: fmt.Sprint("attribute", i), Value: "value"})
		}
		b.Run(fmt.Sprintf("attributes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = c.String()
			}
		})
	}
}
