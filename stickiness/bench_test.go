package stickiness_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

// twenty is a Cookie line as a busy site has it.
func twenty() string {
	var pairs []string
	for i := range 20 {
		pairs = append(pairs, fmt.Sprintf("_preference%d=%s", i, strings.Repeat("x", 24)))
	}
	return strings.Join(pairs, "; ")
}

// bound returns a policy and the Cookie line of a client that it has bound to app-1.
func bound(t testing.TB, kind string) (stickiness.Policy, string) {
	var p stickiness.Policy
	if kind == "LBCookie" {
		p = newLB(t, stickiness.LBCookieOptions{})
	} else {
		p = newApp(t, stickiness.AppCookieOptions{})
	}
	return p, sent(answer(p, get(), "app-1", set("SID=0123456789abcdef; Path=/; HttpOnly"), overTLS))
}

func TestPolicies_LookupAllocatesNothing(t *testing.T) {
	for _, kind := range []string{"LBCookie", "AppCookie"} {
		p, _ := bound(t, kind)
		found := make([]stickiness.Candidate, 0, 16)
		for name, r := range map[string]*http.Request{
			"no cookie":     get(),
			"twenty others": get(twenty(), "SID=0123456789abcdef"),
		} {
			require.Zero(t, testing.AllocsPerRun(100, func() { found = p.Lookup(r, found[:0]) }), "%s, %s", kind, name)
		}
	}
}

func BenchmarkPolicyLookup(b *testing.B) {
	for _, kind := range []string{"LBCookie", "AppCookie"} {
		p, ours := bound(b, kind)
		hostile := strings.TrimSuffix(strings.Repeat("AWSELB="+strings.Repeat("A", 100)+"; ", 500), "; ")
		distinct := &strings.Builder{}
		for i := range 500 {
			fmt.Fprintf(distinct, "AWSELB=%s%03d; ", ours[len(ours)-90:], i)
		}
		for _, tt := range []struct {
			name    string
			cookies []string
		}{
			{"none", nil},
			{"ours", []string{ours}},
			{"others", []string{twenty()}},
			{"others+ours", []string{twenty(), ours}},
			{"hostile-same", []string{"SID=1", hostile}},
			{"hostile-distinct", []string{"SID=1", distinct.String()}},
		} {
			r := get(tt.cookies...)
			b.Run(kind+"/cookies="+tt.name, func(b *testing.B) {
				found := make([]stickiness.Candidate, 0, 16)
				b.ReportAllocs()
				for b.Loop() {
					found = p.Lookup(r, found[:0])
				}
			})
		}
	}
}

func BenchmarkPolicyBind(b *testing.B) {
	for _, kind := range []string{"LBCookie", "AppCookie"} {
		p, ours := bound(b, kind)
		for _, tt := range []struct {
			name, cookies string
			app           []string
		}{
			{"hit", ours, nil},
			{"miss", "", []string{"SID=0123456789abcdef; Path=/; HttpOnly"}},
		} {
			r := get(tt.cookies)
			seen := p.Lookup(r, nil)
			b.Run(kind+"/"+tt.name, func(b *testing.B) {
				h := http.Header{"Content-Type": {"text/html"}}
				b.ReportAllocs()
				for b.Loop() {
					delete(h, "Cache-Control")
					h["Set-Cookie"] = tt.app
					binding := stickiness.Binding{Request: r, Header: h, Target: "app-1", TLS: true, Seen: seen}
					if len(seen) > 0 {
						binding.From = &seen[0]
					}
					p.Bind(&binding)
				}
			})
		}
	}
}
