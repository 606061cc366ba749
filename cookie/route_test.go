package cookie_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

func TestHAProxyPrefix_C8_WorkedValues(t *testing.T) {
	require.Equal(t, "s1~ABC123", cookie.AddHAProxyPrefix("s1", "ABC123"))
	for value, want := range map[string][2]string{
		"s1~ABC123": {"s1", "ABC123"},
		"s1~a~b":    {"s1", "a~b"},
		"bad~XYZ":   {"bad", "XYZ"},
		"~XYZ":      {"", "XYZ"},
		"ABC123":    {"ABC123", "ABC123"},
		"s1":        {"s1", "s1"},
		"s1~":       {"s1", ""},
		"":          {"", ""},
	} {
		server, rest := cookie.CutHAProxyPrefix(value)
		require.Equal(t, want, [2]string{server, rest}, value)
	}
}

func TestStripHAProxyPrefix_C8(t *testing.T) {
	tests := map[string]struct{ lines, want []string }{
		"no header":         {nil, nil},
		"nothing to strip":  {[]string{"a=b~c; ID=ABC", ""}, []string{"a=b~c; ID=ABC", ""}},
		"one":               {[]string{"ID=s1~ABC"}, []string{"ID=ABC"}},
		"others stay":       {[]string{"a=s1~b;  ID = \ts1~ABC ;ID2=s1~c; id=s1~d"}, []string{"a=s1~b;  ID = \tABC ;ID2=s1~c; id=s1~d"}},
		"several, lines":    {[]string{"ID=s1~A; ID=s2~B", "x=y", "ID=C; ID=~D"}, []string{"ID=A; ID=B", "x=y", "ID=C; ID=D"}},
		"first tilde":       {[]string{"ID=s1~a~b"}, []string{"ID=a~b"}},
		"nothing behind it": {[]string{"ID=s1~; a=b"}, []string{"ID=; a=b"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if tt.lines != nil {
				h["Cookie"] = tt.lines
			}
			before := slices.Clone(tt.lines)
			cookie.StripHAProxyPrefix(h, "ID")
			require.Equal(t, tt.want, h["Cookie"])
			require.Equal(t, before, tt.lines, "the old slice may be shared")
		})
	}
	h := http.Header{"Cookie": {"s1~=s1~b; =s1~c; s1~d"}}
	cookie.StripHAProxyPrefix(h, "s1~")
	require.Equal(t, []string{"s1~=b; =s1~c; s1~d"}, h["Cookie"], "a name that looks like a value")
	cookie.StripHAProxyPrefix(h, "")
	require.Equal(t, []string{"s1~=b; =c; d"}, h["Cookie"], "nameless ones")
	h = http.Header{"Cookie": {"~d"}}
	cookie.StripHAProxyPrefix(h, "")
	require.Equal(t, []string{"d"}, h["Cookie"], "nothing before the tilde")
	shared := http.Header{"Cookie": {"a=b"}}
	lines := shared["Cookie"]
	cookie.StripHAProxyPrefix(shared, "a")
	require.Same(t, &lines[0], &shared["Cookie"][0], "nothing to do: not touched")
}

func TestCutRoute_C8(t *testing.T) {
	for id, want := range map[string]struct {
		session, route string
		ok             bool
	}{
		"0123ABCD.jvm1":    {"0123ABCD", "jvm1", true},
		"0123.app1.e.com":  {"0123", "app1.e.com", true},
		".jvm1":            {"", "jvm1", true},
		"0123ABCD":         {"0123ABCD", "", false},
		"0123ABCD.":        {"0123ABCD", "", false},
		"":                 {"", "", false},
		"0123ABCD.jvm1!-1": {"0123ABCD", "jvm1!-1", true},
	} {
		session, route, ok := cookie.CutRoute(id)
		require.Equal(t, want.session, session, id)
		require.Equal(t, want.route, route, id)
		require.Equal(t, want.ok, ok, id)
	}
}

func TestPathParam_C8(t *testing.T) {
	for path, want := range map[string]struct {
		value string
		ok    bool
	}{
		"/app;jsessionid=0123.jvm1":        {"0123.jvm1", true},
		"/app;jsessionid=0123.jvm1/page":   {"0123.jvm1", true},
		"/app;v=1;jsessionid=A;x=2/page":   {"A", true},
		"/a;v=1/b;w=2/c;jsessionid=A":      {"A", true},
		";jsessionid=A":                    {"A", true},
		"/a;jsessionid=A;jsessionid=B":     {"A", true},
		"/a;jsessionid;jsessionid=B":       {"B", true},
		"/a;jsessionid=":                   {"", true},
		"/a;jsessionid=A=B":                {"A=B", true},
		"/a;jsessionid=A%3BB":              {"A%3BB", true},
		"/a;;;jsessionid=A":                {"A", true},
		"/a;x=;jsessionid=A":               {"A", true},
		"/a;JSESSIONID=A":                  {"", false},
		"/a;xjsessionid=A":                 {"", false},
		"/a;jsessionid2=A":                 {"", false},
		"/a/jsessionid=A":                  {"", false},
		"/a;x/jsessionid=A":                {"", false},
		"/a;x=/jsessionid=A;/jsessionid=B": {"", false},
		"/a":                               {"", false},
		"":                                 {"", false},
		";":                                {"", false},
	} {
		value, ok := cookie.PathParam(path, "jsessionid")
		require.Equal(t, want.ok, ok, path)
		require.Equal(t, want.value, value, path)
	}
}

func FuzzPathParam(f *testing.F) {
	f.Add("/app;jsessionid=0123.jvm1/page;v=2", "jsessionid")
	f.Add(";;=;a", "")
	f.Add("/a;x=/jsessionid=A", "jsessionid")
	f.Fuzz(func(t *testing.T, path, name string) {
		var want []string
		for segment := range strings.SplitSeq(path, "/") {
			for i, param := range strings.Split(segment, ";") {
				if n, v, ok := strings.Cut(param, "="); ok && i > 0 && n == name {
					want = append(want, v)
				}
			}
		}
		value, ok := cookie.PathParam(path, name)
		require.Equal(t, len(want) > 0, ok)
		if ok {
			require.Equal(t, want[0], value)
		}
	})
}

func FuzzStripHAProxyPrefix(f *testing.F) {
	f.Add("ID=s1~a~b; x=~y", "ID")
	f.Add(" ID \t= s1~ ;ID=~;ID", "ID")
	f.Add("s1~=s1~b; =s1~c; s1~d", "s1~")
	f.Add("a~; ~ ;~=~", "")
	f.Fuzz(func(t *testing.T, line, name string) {
		h := http.Header{"Cookie": {line}}
		var want []string
		for v := range cookie.Values(h, name) {
			_, rest := cookie.CutHAProxyPrefix(v)
			if rest = strings.Trim(rest, " \t"); name != "" || rest != "" {
				want = append(want, rest)
			}
		}
		cookie.StripHAProxyPrefix(h, name)
		require.Equal(t, want, slices.Collect(cookie.Values(h, name)))
		if name != "" {
			cookie.Remove(h, name)
			other := http.Header{"Cookie": {line}}
			cookie.Remove(other, name)
			require.Equal(t, other, h, "the others, octet for octet")
		}
	})
}

func BenchmarkPathParam(b *testing.B) {
	for name, path := range map[string]string{
		"none":    "/app/some/page",
		"ours":    "/app/some/page;jsessionid=0123456789ABCDEF.jvm1",
		"hostile": strings.Repeat(";", 8192),
	} {
		b.Run("path="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				cookie.PathParam(path, "jsessionid")
			}
		})
	}
}

func TestStripHAProxyPrefix_S17_Quotes(t *testing.T) {
	for line, want := range map[string]string{
		`$Version="1"; SID="s1~0123";$Path="/"; a=b`: `$Version="1"; SID="0123";$Path="/"; a=b`,
		`SID="s1~0123"; a="s1~b"`:                    `SID="0123"; a="s1~b"`,
		`SID="s1~"a b""`:                             `SID="a b"`,
		`SID=s1~"a b"`:                               `SID="a b"`,
		`SID="s1"; SID="~x"`:                         `SID="s1"; SID="x"`,
	} {
		h := http.Header{"Cookie": {line}}
		cookie.StripHAProxyPrefix(h, "SID")
		require.Equal(t, []string{want}, h["Cookie"], line)
	}
}
