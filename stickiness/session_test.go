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

// A session is the same session for as long as its cookie is written again.
func TestPolicies_S25_SessionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := [][]byte{cookie.NewKey(), cookie.NewKey()}
		lb := func(k ...[]byte) stickiness.Policy {
			return newLB(t, stickiness.LBCookieOptions{Period: time.Hour, Renew: true, Keys: k})
		}
		app := func(k ...[]byte) stickiness.Policy { return newApp(t, stickiness.AppCookieOptions{Keys: k}) }
		for name, newPolicy := range map[string]func(...[]byte) stickiness.Policy{"LBCookie": lb, "AppCookie": app} {
			p := newPolicy(keys[0])
			header := func() http.Header { return set("SID=1; Path=/") }
			find := func(p stickiness.Policy, c string) stickiness.Candidate {
				found := p.Lookup(get("SID=1; "+c), nil)
				require.Len(t, found, 1, name)
				return found[0]
			}
			c := sent(answer(p, get(), "a", header()))
			own := func(c string) string { return c[strings.Index(c, "AWSELB"):] }
			first := find(p, own(c))
			require.NotZero(t, first.Session, name)
			require.NotEqual(t, first.Session, find(p, own(sent(answer(p, get(), "a", header())))).Session, "another client")

			time.Sleep(20 * time.Minute)
			for what, b := range map[string]*stickiness.Binding{
				"written anew": answer(p, get("SID=1; "+own(c)), "a", header()),
				"failover":     answer(p, get("SID=1; "+own(c)), "b", nil),
			} {
				require.Equal(t, first.Session, find(p, own(sent(b))).Session, "%s, %s", name, what)
			}
			turned := newPolicy(keys[1], keys[0])
			b := answer(turned, get("SID=1; "+own(c)), "a", nil)
			require.Equal(t, stickiness.Renewed, b.Result, name)
			require.Equal(t, first.Session, find(newPolicy(keys[1]), own(sent(b))).Session, name)
		}
	})
}

// The application's session IDs are hashed alike everywhere.
func TestPolicies_S25_SessionOfTheApplication(t *testing.T) {
	route, err := stickiness.NewRoute(stickiness.RouteOptions{Cookie: "SID", PathParam: "sid", Codec: plain{}})
	require.NoError(t, err)
	prefix, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: plain{}})
	require.NoError(t, err)
	const hash = 0xe71fa2190541574b // FNV-1a of "abc"
	for name, tt := range map[string]struct {
		policy stickiness.Policy
		r      *http.Request
		want   []uint64
	}{
		"route":                 {route, get("SID=abc.a; SID=x.a; SID=abc.b"), []uint64{hash, hash}},
		"route in a parameter":  {route, at("/page;sid=abc.a"), []uint64{hash}},
		"prefix":                {prefix, get("SID=a~abc"), []uint64{hash}},
		"prefix and no session": {prefix, get("SID=a~; SID=b"), []uint64{0, 0}},
		"prefix of nobody":      {prefix, get("SID=!a~abc"), []uint64{0}},
		"no session in values":  {newLB(t, stickiness.LBCookieOptions{Codec: plain{}}), get("AWSELB=a"), []uint64{0}},
	} {
		var got []uint64
		for _, c := range tt.policy.Lookup(tt.r, nil) {
			got = append(got, c.Session)
		}
		require.Equal(t, tt.want, got, name)
	}

	var first stickiness.Candidate
	for range 2 { // instances
		learn := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"})
		answer(learn, get(), "a", set("SID=abc"))
		found := learn.Lookup(get("SID=abc"), nil)
		require.NotZero(t, found[0].Session)
		require.Zero(t, found[0].Issued)
		if first.Target != "" {
			require.Equal(t, first.Session, found[0].Session)
		}
		first = found[0]
	}
}
