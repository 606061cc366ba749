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

// The slice of another header that shares it, with room behind its end, stays as it is.
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
