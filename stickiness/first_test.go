package stickiness_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

// spy is a policy that finds the configured targets, and keeps the bindings that Bind gets.
type spy struct {
	names  []stickiness.Candidate
	result stickiness.Result
	seen   []stickiness.Binding
	sent   [][]stickiness.Candidate
}

func (s *spy) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return append(found, s.names...)
}

func (s *spy) Bind(b *stickiness.Binding) {
	s.seen = append(s.seen, *b)
	b.Result = s.result
}

func (s *spy) Forward(_ *http.Request, seen []stickiness.Candidate) { s.sent = append(s.sent, seen) }

func TestFirst_EachPolicySeesItsOwn(t *testing.T) {
	x := &spy{names: []stickiness.Candidate{{Reason: stickiness.Forged}, {Target: "a", State: "x1"}}}
	y := &spy{}
	z := &spy{names: []stickiness.Candidate{{Target: "b", State: "z1"}, {Target: "c", State: "z2", Renew: true}}}
	p := stickiness.First(nil, x, stickiness.First(y, nil, z)) // nested: each policy gets its State back through both

	b := answer(p, get(), "c", set("SID=1"), overTLS)
	require.Equal(t, []string{"[forged]", "a", "b", "c"}, targets(b.Seen))

	require.Equal(t, x.names, x.seen[0].Seen)
	require.Equal(t, &x.names[1], x.seen[0].From, "its own, although another's target answered")
	require.Empty(t, y.seen[0].Seen)
	require.Nil(t, y.seen[0].From)
	require.Equal(t, z.names, z.seen[0].Seen)
	require.Equal(t, &z.names[1], z.seen[0].From, "whose target answered")
	require.Same(t, &z.seen[0].Seen[1], z.seen[0].From)
	for _, s := range []*spy{x, y, z} {
		require.Equal(t, "c", s.seen[0].Target)
		require.True(t, s.seen[0].TLS)
		require.Equal(t, b.Header, s.seen[0].Header)
		require.Equal(t, b.Request, s.seen[0].Request)
	}

	p.(stickiness.Forwarder).Forward(get(), b.Seen)
	require.Equal(t, [][]stickiness.Candidate{x.names}, x.sent)
	require.Equal(t, [][]stickiness.Candidate{nil}, y.sent)
	require.Equal(t, [][]stickiness.Candidate{z.names}, z.sent)
}

// silent finds nothing and removes nothing.
type silent struct{}

func (silent) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return found
}
func (silent) Bind(*stickiness.Binding) {}

func TestFirst_SilentPolicies(t *testing.T) {
	p := stickiness.First(silent{}, newLB(t, stickiness.LBCookieOptions{Codec: plain{}}), silent{})
	require.Equal(t, stickiness.Bound, answer(p, get(), "a", nil).Result)
	require.Equal(t, stickiness.Kept, answer(p, get("AWSELB=a"), "a", nil, func(b *stickiness.Binding) { b.Result = stickiness.Freed }).Result)
	out := get("AWSELB=a; b=c")
	p.(stickiness.Forwarder).Forward(out, nil)
	require.Equal(t, []string{"b=c"}, out.Header["Cookie"])
	stickiness.ReadOnly(silent{}).(stickiness.Forwarder).Forward(out, nil)
	require.Equal(t, []string{"b=c"}, out.Header["Cookie"])
}

func TestFirst_Result(t *testing.T) {
	const kept, bound, renewed, ignored = stickiness.Kept, stickiness.Bound, stickiness.Renewed, stickiness.Ignored
	for _, tt := range []struct{ results, want []stickiness.Result }{
		{nil, []stickiness.Result{kept}},
		{[]stickiness.Result{kept, kept}, []stickiness.Result{kept}},
		{[]stickiness.Result{kept, ignored, kept}, []stickiness.Result{ignored}},
		{[]stickiness.Result{ignored, renewed, bound}, []stickiness.Result{renewed}},
		{[]stickiness.Result{stickiness.Failed, kept, renewed}, []stickiness.Result{renewed}},
		{[]stickiness.Result{ignored, stickiness.Failed, kept}, []stickiness.Result{stickiness.Failed}},
		{[]stickiness.Result{bound, ignored, renewed}, []stickiness.Result{bound}},
	} {
		var policies []stickiness.Policy
		for _, r := range tt.results {
			policies = append(policies, &spy{result: r})
		}
		b := answer(stickiness.First(policies...), get(), "a", nil, func(b *stickiness.Binding) { b.Result = stickiness.Freed })
		require.Equal(t, tt.want[0], b.Result, "%v", tt.results)
	}
}

// A caller may use a binding again.
func TestPolicies_BindSetsTheResult(t *testing.T) {
	named, err := stickiness.NewNamed(stickiness.NamedOptions{From: []stickiness.Source{stickiness.FromHeader("X")}, InsecurePlain: true})
	require.NoError(t, err)
	route, err := stickiness.NewRoute(stickiness.RouteOptions{Cookie: "SID", Codec: plain{}})
	require.NoError(t, err)
	prefix, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: plain{}})
	require.NoError(t, err)
	lb := newLB(t, stickiness.LBCookieOptions{Codec: plain{}})
	for _, p := range []stickiness.Policy{
		lb, newApp(t, stickiness.AppCookieOptions{}), newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"}),
		named, route, prefix, stickiness.First(), stickiness.ReadOnly(lb),
	} {
		b := answer(p, get("AWSELB=a"), "a", nil, func(b *stickiness.Binding) { b.Result = stickiness.Freed })
		require.Equal(t, stickiness.Kept, b.Result, "%T", p)
	}
}

func TestFirst_CookiesTogether(t *testing.T) {
	p := stickiness.First(
		newApp(t, stickiness.AppCookieOptions{Name: "app"}),
		newLB(t, stickiness.LBCookieOptions{Name: "lb", CORS: stickiness.CORSNever}),
	)
	b := answer(p, get(), "a", nil)
	require.Equal(t, []string{"lb=*; Path=/"}, lines(b, "lb"))
	visitor := sent(b)

	b = answer(p, get(visitor), "a", login())
	require.Equal(t, stickiness.Bound, b.Result)
	require.Len(t, b.Header["Set-Cookie"], 2, "the second policy has its client bound already")
	member := visitor + "; " + sent(b)

	b = answer(p, get(member), "b", nil)
	require.Len(t, b.Header["Set-Cookie"], 2, "both move")
	require.Equal(t, []string{"b", "b"}, targets(p.Lookup(get("SID=1; "+sent(b)), nil)))

	out := get(member)
	p.(stickiness.Forwarder).Forward(out, nil)
	require.Equal(t, []string{"SID=abc"}, out.Header["Cookie"])
}

func TestFirst_Contract(t *testing.T) {
	p := stickiness.First(
		newApp(t, stickiness.AppCookieOptions{Name: "app"}),
		newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"}),
		stickiness.ReadOnly(newLB(t, stickiness.LBCookieOptions{})),
		newLB(t, stickiness.LBCookieOptions{Name: "lb"}),
	)
	var n atomic.Int64
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{
		Response: func() http.Header { return set(fmt.Sprintf("SID=%d; Path=/", n.Add(1))) },
	}))
}

func TestFirst_NoCookieAllocatesNothing(t *testing.T) {
	p := stickiness.First(newApp(t, stickiness.AppCookieOptions{}), newLB(t, stickiness.LBCookieOptions{Name: "lb"}))
	r, found := get(twenty()), make([]stickiness.Candidate, 0, 4)
	require.Zero(t, testing.AllocsPerRun(100, func() { found = p.Lookup(r, found[:0]) }))
}

// A client of the old policy stays on its target and gets the new cookie.
func TestReadOnly_Migration(t *testing.T) {
	var table cookie.InsecureTable
	require.NoError(t, table.Store(map[string]string{"app-1": "44fb3a27ed30ae5193ebd879ca2cf039", "app-2": "422db4e6da7b4bba46bd476612df0469"}))
	old := newLB(t, stickiness.LBCookieOptions{Name: "route", Codec: &table, CORS: stickiness.CORSNever})
	p := stickiness.First(newLB(t, stickiness.LBCookieOptions{}), stickiness.ReadOnly(old))

	b := answer(p, get("route=422db4e6da7b4bba46bd476612df0469"), "app-2", nil)
	require.Equal(t, "app-2", b.From.Target)
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, []string{"AWSELB=*; Path=/"}, lines(b, "AWSELB"))

	both := "route=422db4e6da7b4bba46bd476612df0469; " + sent(b)
	b = answer(p, get(both), "app-2", nil)
	require.Equal(t, stickiness.Kept, b.Result)
	require.Empty(t, b.Header)

	b = answer(p, get(both), "app-1", nil) // the old cookie is no longer updated, so the new one comes first
	require.Equal(t, []string{"app-1", "app-2"}, targets(p.Lookup(get("route=422db4e6da7b4bba46bd476612df0469; "+sent(b)), nil)))

	out := get(both)
	p.(stickiness.Forwarder).Forward(out, nil)
	require.Empty(t, out.Header)
}
