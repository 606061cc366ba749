package cookie_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

func TestValues_S17(t *testing.T) {
	tests := map[string]struct {
		lines []string
		want  []string
	}{
		"no header":             {nil, nil},
		"empty line":            {[]string{"", " ; ;"}, nil},
		"one":                   {[]string{"lb=1"}, []string{"1"}},
		"among others":          {[]string{"a=b; lb=1; c=d"}, []string{"1"}},
		"several on a line":     {[]string{"lb=1; a=b; lb=2"}, []string{"1", "2"}},
		"several lines":         {[]string{"lb=1; a=b", "lb=2", "c=d"}, []string{"1", "2"}},
		"no spaces":             {[]string{"a=b;lb=1;c=d"}, []string{"1"}},
		"odd spaces":            {[]string{"\ta=b ;\t lb\t=  1 \t; c=d"}, []string{"1"}},
		"quotes are kept":       {[]string{`lb="1 2"; lb=""`}, []string{`"1 2"`, `""`}},
		"quotes hold nothing":   {[]string{`a="x; lb=1; y"`}, []string{"1"}},
		"commas do not divide":  {[]string{"a=b, lb=1; lb=2,3"}, []string{"2,3"}},
		"equals signs":          {[]string{"lb=1=2=="}, []string{"1=2=="}},
		"empty value":           {[]string{"lb="}, []string{""}},
		"blank value":           {[]string{"lb= ; lb=\t"}, []string{"", ""}},
		"names that begin so":   {[]string{"lb2=x; LB=x; l=x; xlb=x; lb.=x; lb=1"}, []string{"1"}},
		"a name without a sign": {[]string{"lb; lb=1"}, []string{"1"}},
		"name inside a value":   {[]string{"a=lb=1"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := http.Header{"Cookie": tt.lines}
			require.Equal(t, tt.want, slices.Collect(cookie.Values(h, "lb")))
		})
	}
	require.Equal(t, []string{"x", "y"}, slices.Collect(cookie.Values(http.Header{"Cookie": {"x; a=b; ; =y; ="}}, "")), "nameless ones")
	require.Empty(t, slices.Collect(cookie.Values(nil, "lb")))
	for v := range cookie.Values(http.Header{"Cookie": {"lb=1; lb=2", "lb=3"}}, "lb") {
		require.Equal(t, "1", v)
		break
	}
}

func TestValues_AllocatesNothing(t *testing.T) {
	h := twentyOthers()
	var seen int
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for v := range cookie.Values(h, "AWSELB") {
			seen += len(v)
		}
	}))
	require.NotZero(t, seen)
}

func TestRemove_S20(t *testing.T) {
	tests := map[string]struct {
		lines, want []string
	}{
		"no header":              {nil, nil},
		"others only":            {[]string{"a=b;  c=d; ", ""}, []string{"a=b;  c=d; ", ""}},
		"the only one":           {[]string{"lb=1"}, nil},
		"one of two names":       {[]string{"lb=1; lbCORS=1"}, nil},
		"first":                  {[]string{"lb=1; a=b; c=d"}, []string{"a=b; c=d"}},
		"middle":                 {[]string{"a=b; lb=1; c=d"}, []string{"a=b; c=d"}},
		"last":                   {[]string{"a=b; c=d; lb=1"}, []string{"a=b; c=d"}},
		"several":                {[]string{"lb=1; a=b; lb=2; lbCORS=3; c=d; lb=4"}, []string{"a=b; c=d"}},
		"over lines":             {[]string{"a=b; lb=1", "lb=2", "c=d", "lb=3; e=f"}, []string{"a=b", "c=d", "e=f"}},
		"only blanks left":       {[]string{"lb=1; ; ", "a=b"}, []string{"a=b"}},
		"others' odd spacing":    {[]string{"a = \"x y\" ;lb=1;\tc=d ;"}, []string{"a = \"x y\" ;\tc=d ;"}},
		"others' odd octets":     {[]string{"a=\xff,\\\"; lb=1; nameless; =x; b"}, []string{"a=\xff,\\\"; nameless; =x; b"}},
		"similar names":          {[]string{"lb2=1; LB=2; lb; lb=3; xlb=4; a=lb=5"}, []string{"lb2=1; LB=2; lb; xlb=4; a=lb=5"}},
		"space before the first": {[]string{" a=b; lb=1", "lb=2;\t c=d"}, []string{" a=b", "c=d"}},
		"own odd spacing":        {[]string{"a=b;\t lb\t =  1 ; c=d"}, []string{"a=b; c=d"}},
		"quoted, with semicolon": {[]string{`lb="1; a=b"`}, []string{`a=b"`}},
		"empty values":           {[]string{"lb=; a=; lbCORS=", "lb="}, []string{"a="}},
		"blank lines stay":       {[]string{"", "lb=1", " "}, []string{"", " "}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := http.Header{"X": {"lb=1"}}
			if tt.lines != nil {
				h["Cookie"] = tt.lines
			}
			before := slices.Clone(tt.lines)
			cookie.Remove(h, "lb", "lbCORS")
			require.Equal(t, tt.want, h["Cookie"])
			require.Equal(t, before, tt.lines, "the old slice may be shared")
			_, there := h["Cookie"]
			require.Equal(t, tt.want != nil, there)
			require.Equal(t, []string{"lb=1"}, h["X"])
		})
	}
}

// Remove does not change a slice of lines that another header shares, even if it has spare
// capacity.
func TestRemove_S20_SharedSlice(t *testing.T) {
	backing := []string{"a=b", "lb=1", "c=d", "spare"}
	inbound := http.Header{"Cookie": backing[:3]}
	out := http.Header{"Cookie": inbound["Cookie"]}
	cookie.Remove(out, "lb")
	require.Equal(t, []string{"a=b", "c=d"}, out["Cookie"])
	require.Equal(t, []string{"a=b", "lb=1", "c=d", "spare"}, backing)
	out["Cookie"][0] = "changed"
	_ = append(out["Cookie"], "appended")
	require.Equal(t, []string{"a=b", "lb=1", "c=d", "spare"}, backing)
}

// What is left of a line is a part of it where it can be, and a line that goes costs nothing.
func TestRemove_Allocations(t *testing.T) {
	for line, want := range map[string]float64{
		"lb=1": 0, "lb=1; a=2; b=3": 1, "a=2; b=3; lb=1": 1, "a=2; lb=1; b=3": 2,
	} {
		h := make(http.Header)
		lines := []string{line}
		require.Equal(t, want, testing.AllocsPerRun(100, func() {
			h["Cookie"] = lines
			cookie.Remove(h, "lb")
		}), line)
	}
}

func TestRemove_NothingToDo(t *testing.T) {
	h := http.Header{"Cookie": {"a=b", "", "c=d"}}
	lines := h["Cookie"]
	require.Zero(t, testing.AllocsPerRun(100, func() { cookie.Remove(h, "lb", "a=b", "") }))
	cookie.Remove(h)
	require.Same(t, &lines[0], &h["Cookie"][0])
	cookie.Remove(nil, "lb")
	cookie.Remove(http.Header{}, "lb")
}

// pairs splits Cookie lines in the plainest way.
func pairs(lines []string) (names, segments []string) {
	for _, line := range lines {
		for s := range strings.SplitSeq(line, ";") {
			name, _, found := strings.Cut(s, "=")
			if !found {
				name = ""
			}
			if trimmed := strings.Trim(s, " \t"); trimmed != "" && trimmed != "=" {
				names = append(names, strings.Trim(name, " \t"))
				segments = append(segments, strings.TrimLeft(s, " \t"))
			}
		}
	}
	return names, segments
}

func FuzzRemove(f *testing.F) {
	f.Add("lb=1; a=b", "c=d;lb=2 ; ", "lb")
	f.Add("nameless; lb ; =lb", "", "")
	f.Add(" lb = 1;;; a=\"lb=1;\"", "lb=1", "lb")
	f.Add(" = ; =\t;", "a", "")
	f.Fuzz(func(t *testing.T, line1, line2, name string) {
		lines := []string{line1, line2}
		h := http.Header{"Cookie": lines}
		names, segments := pairs(lines)
		removed := 0
		var values []string
		for value := range cookie.Values(h, name) {
			values = append(values, value)
		}
		cookie.Remove(h, name)
		var want []string
		for i, n := range names {
			if isBlank(segments[i]) {
				continue
			}
			if n == name {
				removed++
			} else {
				want = append(want, segments[i])
			}
		}
		_, left := pairs(h["Cookie"])
		left = slices.DeleteFunc(left, isBlank)
		require.Equal(t, want, left, "the others, octet for octet")
		require.Len(t, values, removed)
		require.Equal(t, []string{line1, line2}, lines)
		require.Empty(t, slices.Collect(cookie.Values(h, name)))
		if removed == 0 {
			require.Equal(t, lines, h["Cookie"])
		}
	})
}

// isBlank reports whether a segment is a "=" with blanks around it, which is no cookie.
func isBlank(segment string) bool {
	name, value, found := strings.Cut(segment, "=")
	return found && strings.Trim(name, " \t") == "" && strings.Trim(value, " \t") == ""
}

func twentyOthers() http.Header {
	var b strings.Builder
	for i := range 20 {
		if i == 10 {
			b.WriteString("AWSELB=" + strings.Repeat("v", 64) + "; ")
		}
		fmt.Fprintf(&b, "other%d=%s; ", i, strings.Repeat("x", 30))
	}
	return http.Header{"Cookie": {strings.TrimSuffix(b.String(), "; ")}}
}

func BenchmarkValues(b *testing.B) {
	for name, h := range map[string]http.Header{
		"none":    {},
		"ours":    {"Cookie": {"AWSELB=" + strings.Repeat("v", 64)}},
		"twenty":  twentyOthers(),
		"hostile": {"Cookie": {strings.Repeat("AWSELB ; =;", 800)}},
	} {
		b.Run("cookies="+name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				for v := range cookie.Values(h, "AWSELB") {
					n += len(v)
				}
			}
		})
	}
}

func BenchmarkRemove(b *testing.B) {
	for name, lines := range map[string][]string{
		"none":    {"a=b; c=d"},
		"ours":    {"AWSELB=" + strings.Repeat("v", 64)},
		"twenty":  twentyOthers()["Cookie"],
		"hostile": {strings.Repeat("AWSELB=;a;", 800)},
	} {
		b.Run("cookies="+name, func(b *testing.B) {
			b.ReportAllocs()
			h := http.Header{}
			for b.Loop() {
				h["Cookie"] = lines
				cookie.Remove(h, "AWSELB", "AWSELBCORS")
			}
		})
	}
}

func TestRemove_S17_AttributesOfRFC2109(t *testing.T) {
	const v = `$Version="1"; `
	tests := map[string]struct{ line, want string }{
		"last":                  {v + `SID="s1";$Path="/"; LB="x";$Path="/"`, v + `SID="s1";$Path="/"`},
		"first":                 {v + `LB="x";$Path="/"; SID="s1";$Path="/"`, v + `SID="s1";$Path="/"`},
		"between":               {v + `a=1; LB="x";$Path="/";$Domain=".b";$Port="80" ;b=2`, v + `a=1;b=2`},
		"alone":                 {v + `LB="x";$Path="/"`, ""},
		"two, alone":            {v + `LB="x";$Path="/";LB="y";$Path="/"; `, ""},
		"without attributes":    {v + `LB=x; SID=1;$Path="/"`, v + `SID=1;$Path="/"`},
		"case and spaces":       {` $VERSION = 1 ;LB=x; $path = "/" ; $PORT; b=2`, ` $VERSION = 1 ; b=2`},
		"a semicolon in a path": {v + `LB="x";$Path="/app;v=1"; SID="1";$Path="/app;v=1"`, v + `SID="1";$Path="/app;v=1"`},
		"an open quote":         {v + `LB=x;$Path="/app; b=2`, v + `b=2`},
		"other dollars":         {v + `LB=x;$Path="/"; $Other=1; b=2`, v + `$Other=1; b=2`},
		"lines in one":          {v + `LB=x;$Path="/"; $Version="1"; b=2;$Path="/"`, v + `$Version="1"; b=2;$Path="/"`},
		"no version":            {`LB=x;$Path="/"; b=2`, `$Path="/"; b=2`},
		"a later version":       {`b=2; $Version=1; LB=x; $Path="/"`, `b=2; $Version=1; $Path="/"`},
		"nothing to remove":     {v + `SID="1";$Path="/"`, v + `SID="1";$Path="/"`},
		"only in quotes":        {v + `a="1; LB=x"; b=2`, v + `a="1; LB=x"; b=2`},
	}
	for name, tt := range tests {
		h := http.Header{"Cookie": {tt.line}}
		cookie.Remove(h, "LB", "LB2")
		require.Equal(t, tt.want, h.Get("Cookie"), name)
	}
}

func TestValues_S17_AttributesOfRFC2109(t *testing.T) {
	line := `$Version="1"; SID="s;1";$Path="/"; bare; $Port; $Other=1; SID=2`
	for name, want := range map[string][]string{
		"SID": {`"s;1"`, "2"}, "$Path": nil, "$Version": nil, "": {"bare"}, "$Other": {"1"},
	} {
		require.Equal(t, want, slices.Collect(cookie.Values(http.Header{"Cookie": {line}}, name)), name)
	}
	plain := http.Header{"Cookie": {`SID=1; $Path="/"; $Version=1`}}
	require.Equal(t, []string{`"/"`}, slices.Collect(cookie.Values(plain, "$Path")), "somebody's cookie")
	var names []string
	for name, value := range cookie.Pairs(http.Header{"Cookie": {line, "a=b"}}) {
		names = append(names, name+"="+value)
	}
	require.Equal(t, []string{`SID="s;1"`, "=bare", "$Other=1", "SID=2", "a=b"}, names)
}
