package stickiness_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

// A request with sixty-three forged values and a good one is routed by the good one, in every
// position and spelling. Bind writes nothing.
func TestPolicies_S17_ForgedValuesAroundAGoodOne(t *testing.T) {
	for kind, p := range map[string]stickiness.Policy{"LBCookie": newLB(t, stickiness.LBCookieOptions{}), "AppCookie": newApp(t, stickiness.AppCookieOptions{})} {
		c := sent(answer(p, get(), "app-1", set("SID=abc; Path=/")))
		good := "AWSELB=" + c[strings.Index(c, "AWSELB=")+len("AWSELB="):]
		for position := range 64 {
			var pairs []string
			for i := range 63 {
				pairs = append(pairs, fmt.Sprintf("%s%d", good[:len(good)-2], 10+i))
			}
			pairs = slices.Insert(pairs, position, good)
			for _, lines := range [][]string{
				{"SID=abc; " + strings.Join(pairs, "; ")},
				append([]string{"SID=abc"}, pairs...),
				{`$Version="1"; SID="abc";$Path="/;AWSELB=x"; ` + strings.Join(pairs, `;$Path="/"; `)},
			} {
				b := answer(p, get(lines...), "app-1", nil)
				require.NotNil(t, b.From, "%s at %d", kind, position)
				require.Equal(t, "app-1", b.From.Target)
				require.Equal(t, stickiness.Kept, b.Result)
				require.Empty(t, b.Header)
			}
		}
	}
}

// In every spelling of the Cookie line, the backend gets all cookies except those of the balancer.
func TestPolicies_S20_NothingHidesBehindVersion(t *testing.T) {
	p := newLB(t, stickiness.LBCookieOptions{})
	for line, want := range map[string]string{
		`$Version=1; AWSELB="x"; $Path="/;a=1"; SID=1`: `$Version=1; SID=1`,
		`$Version="1;AWSELB=x"; SID=1`:                 `$Version="1;AWSELB=x"; SID=1`, // in quotes
		`SID=1; $Version=1; AWSELB=x; $Path=/`:         `SID=1; $Version=1; $Path=/`,   // not a line of RFC 2109
		`$version=1;AWSELB=x;SID=1`:                    `$version=1;SID=1`,
		`AWSELB="a;b"; SID=1`:                          `b"; SID=1`,
		`a=1; AWSELB; AWSELB =x; b=2`:                  `a=1; AWSELB; b=2`,
	} {
		out := get(line)
		p.Forward(out, nil)
		require.Equal(t, http.Header{"Cookie": {want}}, out.Header, line)
	}
}
