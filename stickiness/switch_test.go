package stickiness_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/internal/jar"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

var _ interface {
	stickiness.Policy
	stickiness.Forwarder
	stickiness.Informer
} = (*stickiness.Switch)(nil)

// switched returns a Switch whose policy is p.
func switched(p stickiness.Policy) *stickiness.Switch {
	s := &stickiness.Switch{}
	s.Store(p)
	return s
}

// A witness passes calls on to a policy, and keeps what Bind gets.
type witness struct {
	stickiness.Policy
	seen []stickiness.Candidate
	from *stickiness.Candidate
}

func (w *witness) Bind(b *stickiness.Binding) {
	w.seen, w.from = b.Seen, b.From
	w.Policy.Bind(b)
}

// kinds are policies that find sessions in different places, or in the same ones.
var kinds = map[string]func(t *testing.T) stickiness.Policy{
	"none":     func(*testing.T) stickiness.Policy { return nil },
	"LBCookie": func(t *testing.T) stickiness.Policy { return newLB(t, stickiness.LBCookieOptions{}) },
	"AppCookie": func(t *testing.T) stickiness.Policy {
		return newApp(t, stickiness.AppCookieOptions{})
	},
	"Learn": func(t *testing.T) stickiness.Policy {
		return newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"})
	},
	"PrefixCookie": func(t *testing.T) stickiness.Policy {
		p, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: plain{}})
		require.NoError(t, err)
		return p
	},
	"Preserve": func(t *testing.T) stickiness.Policy {
		return newLB(t, stickiness.LBCookieOptions{Name: "srv", Preserve: true, Codec: plain{}})
	},
}

// bestOf returns the target of the first usable candidate, "" without one.
func bestOf(found []stickiness.Candidate) string {
	for _, c := range found {
		if c.Reason == stickiness.Usable {
			return c.Target
		}
	}
	return ""
}

func TestSwitch_S24_AnyPolicyForAnyOther(t *testing.T) {
	for before, makeOld := range kinds {
		for after, makeNew := range kinds {
			for _, late := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s to %s/after Forward=%v", before, after, late), func(t *testing.T) {
					older, newer := makeOld(t), makeNew(t)
					sw := switched(older)
					var j jar.Jar
					j.Receive(get(), answer(sw, get(), "app-1", set("SID=one; Path=/")).Header)

					r := get(jar.Line(j.Send(get())))
					found := sw.Lookup(r, nil)
					if before != "none" {
						require.Equal(t, "app-1", bestOf(found))
					}
					out := get(jar.Line(j.Send(get())))
					if !late {
						sw.Store(newer)
					}
					sw.Forward(out, found)
					require.Equal(t, []string{"SID=one"}, out.Header["Cookie"], "what the backend gets")
					if late {
						sw.Store(newer)
					}

					b := &stickiness.Binding{Request: r, Header: set("SID=two; Path=/"), Target: "app-2", Seen: found}
					if len(found) > 0 {
						b.From = &found[0]
					}
					sw.Bind(b)
					require.Equal(t, found, b.Seen)
					if newer == nil {
						require.Equal(t, stickiness.Kept, b.Result)
						require.Equal(t, set("SID=two; Path=/"), b.Header)
						return
					}
					require.Equal(t, stickiness.Bound, b.Result)
					j.Receive(r, b.Header)
					next := get(jar.Line(j.Send(get())))
					require.Equal(t, "app-2", bestOf(sw.Lookup(next, nil)), "where the next request goes")
				})
			}
		}
	}
}

func TestSwitch_S24_NoStateOfAnother(t *testing.T) {
	lb := newLB(t, stickiness.LBCookieOptions{Codec: plain{}})
	app := newApp(t, stickiness.AppCookieOptions{Name: "app"})
	c := sent(answer(app, get(), "a", set("SID=1; Path=/")))
	states := map[string]struct {
		policy  stickiness.Policy
		request *http.Request
	}{
		"no state": {lb, get("AWSELB=a")},
		"state":    {app, get("SID=1; " + c)},
		"both":     {stickiness.First(app, lb), get("SID=1; AWSELB=a; " + c)},
		"nested":   {stickiness.First(switched(app), switched(lb)), get("SID=1; AWSELB=a; " + c)},
	}
	for name, tt := range states {
		t.Run(name, func(t *testing.T) {
			own := &witness{Policy: tt.policy}
			sw := switched(own)
			b := answer(sw, tt.request, "a", nil)
			require.Equal(t, stickiness.Kept, b.Result)
			require.NotEmpty(t, own.seen)
			require.Same(t, &own.seen[0], own.from, "its own come back")

			other := &witness{Policy: lb}
			b = answer(sw, tt.request, "a", nil, func(*stickiness.Binding) { sw.Store(other) })
			require.NotEmpty(t, b.Seen)
			require.NotNil(t, b.From)
			require.Equal(t, stickiness.Bound, b.Result, "as if the client were new")
			require.Nil(t, other.seen)
			require.Nil(t, other.from)

			other = &witness{Policy: tt.policy}
			answer(sw, tt.request, "a", nil, func(*stickiness.Binding) { sw.Store(&witness{Policy: lb}); sw.Store(other) })
			require.Nil(t, other.seen, "of a policy that came back")
		})
	}
}

// A Switch inside another Switch can be switched on its own.
func TestSwitch_S24_Nested(t *testing.T) {
	app := newApp(t, stickiness.AppCookieOptions{Name: "app"})
	lb := newLB(t, stickiness.LBCookieOptions{Codec: plain{}})
	r := get("AWSELB=a; SID=1; " + sent(answer(app, get(), "a", set("SID=1; Path=/"))))
	inside, beside := &witness{Policy: app}, &witness{Policy: lb}
	inner := switched(inside)
	outer := switched(switched(stickiness.First(inner, beside)))
	b := answer(outer, r, "a", nil)
	require.Len(t, inside.seen, 1)
	require.Len(t, beside.seen, 1)
	require.Equal(t, stickiness.Kept, b.Result)

	next := &witness{Policy: app}
	answer(outer, r, "a", nil, func(*stickiness.Binding) { inner.Store(next) })
	require.Nil(t, next.seen)
	require.Len(t, beside.seen, 1, "the others keep theirs")

	// One policy contains the same Switch twice.
	twice := &witness{Policy: lb}
	same := switched(twice)
	found := stickiness.First(same, same).Lookup(r, nil)
	require.Equal(t, []string{"a", "a"}, targets(found))
	answer(stickiness.First(same, same), r, "a", nil)
	require.Len(t, twice.seen, 1)
}

func TestSwitch_S20_BackendSeesNeitherCookie(t *testing.T) {
	one := newLB(t, stickiness.LBCookieOptions{Name: "one", Codec: plain{}})
	two := newApp(t, stickiness.AppCookieOptions{Name: "two", Codec: plain{}})
	prefix := kinds["PrefixCookie"](t)
	for name, tt := range map[string]struct {
		then, now  stickiness.Policy
		sent, want string
	}{
		"both were sent":          {one, two, "one=a; two=a; x=y", "x=y"},
		"nothing was found":       {one, two, "two=a; x=y", "x=y"},
		"there was no policy":     {nil, two, "two=a; one=a", "one=a"},
		"there is no policy":      {one, nil, "two=a; one=a", "two=a"},
		"in First and ReadOnly":   {prefix, stickiness.First(one, stickiness.ReadOnly(two)), "SID=a~1; one=a; two=b", "SID=1"},
		"in another Switch":       {prefix, switched(one), "SID=a~1; one=a; two=b", "SID=1; two=b"},
		"in an empty Switch":      {one, &stickiness.Switch{}, "one=a; two=b", "two=b"},
		"a prefix goes once":      {prefix, kinds["PrefixCookie"](t), "SID=a~b~1", "SID=b~1"},
		"then nothing to forward": {silentButFound{}, prefix, "SID=a~b~1", "SID=b~1"},
		"now nothing to forward":  {one, silent{}, "one=a; two=b", "two=b"},
	} {
		t.Run(name, func(t *testing.T) {
			sw := switched(tt.then)
			found := sw.Lookup(get(tt.sent), nil)
			sw.Store(tt.now)
			out := get(tt.sent)
			sw.Forward(out, found)
			require.Equal(t, []string{tt.want}, out.Header["Cookie"])
		})
	}
}

// silentButFound finds a candidate, and is not a Forwarder.
type silentButFound struct{ silent }

func (silentButFound) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return append(found, stickiness.Candidate{Target: "a"})
}

func TestSwitch_Inform(t *testing.T) {
	sw := switched(newLB(t, stickiness.LBCookieOptions{}))
	h := set("AWSELB=x", "SID=1")
	sw.Inform(h)
	require.Equal(t, set("SID=1"), h)
	for _, p := range []stickiness.Policy{nil, silent{}} {
		sw.Store(p)
		h = set("AWSELB=x")
		sw.Inform(h)
		require.Equal(t, set("AWSELB=x"), h)
	}
}

func TestSwitch_WithoutAPolicy(t *testing.T) {
	lb := newLB(t, stickiness.LBCookieOptions{})
	for name, p := range map[string]stickiness.Policy{
		"nil": nil, "nil LBCookie": (*stickiness.LBCookie)(nil), "nil Switch": (*stickiness.Switch)(nil), "nil of a stranger's": (*spy)(nil),
	} {
		sw := switched(lb)
		require.Same(t, lb, sw.Load(), name)
		sw.Store(p)
		require.Nil(t, sw.Load(), name)
		b := answer(sw, get("AWSELB=a"), "a", set("AWSELB=x"), func(b *stickiness.Binding) { b.Result = stickiness.Freed })
		require.Equal(t, stickiness.Kept, b.Result, name)
		require.Equal(t, set("AWSELB=x"), b.Header, name)
		require.Empty(t, b.Seen, name)
		out := get("AWSELB=a")
		sw.Forward(out, nil)
		require.Equal(t, []string{"AWSELB=a"}, out.Header["Cookie"], name)

		require.Equal(t, stickiness.Bound, answer(stickiness.First(p, lb), get(), "a", nil).Result, name)
		require.Equal(t, stickiness.Kept, answer(stickiness.ReadOnly(p), get(), "a", nil).Result, name)
	}
	require.Nil(t, (&stickiness.Switch{}).Load())
}

func TestSwitch_StorePanicsInACircle(t *testing.T) {
	lb := newLB(t, stickiness.LBCookieOptions{})
	sw, other := switched(lb), &stickiness.Switch{}
	other.Store(stickiness.First(lb, stickiness.ReadOnly(sw)))
	for name, p := range map[string]stickiness.Policy{
		"itself":            sw,
		"First":             stickiness.First(lb, sw),
		"ReadOnly":          stickiness.ReadOnly(stickiness.First(sw)),
		"through a further": other,
	} {
		require.Panics(t, func() { sw.Store(p) }, name)
		require.Same(t, lb, sw.Load(), name)
	}
	require.NotPanics(t, func() { other.Store(switched(stickiness.First(switched(nil), sw))) })

	// If two Switches are stored in each other at the same time, one call is refused.
	a, b := &stickiness.Switch{}, &stickiness.Switch{}
	var refused atomic.Int32
	var wg sync.WaitGroup
	for _, pair := range [][2]*stickiness.Switch{{a, b}, {b, a}} {
		wg.Go(func() {
			defer func() {
				if recover() != nil {
					refused.Add(1)
				}
			}()
			pair[0].Store(pair[1])
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, refused.Load())
	require.Empty(t, a.Lookup(get(), nil))
}

func TestSwitch_Contract(t *testing.T) {
	var n atomic.Int64
	session := stickinesstest.Session{Response: func() http.Header { return set(fmt.Sprintf("SID=%d; Path=/", n.Add(1))) }}
	for name, newPolicy := range kinds {
		p := newPolicy(t)
		if p == nil {
			continue
		}
		require.NoError(t, stickinesstest.TestPolicy(switched(p), session), name)
		require.NoError(t, stickinesstest.TestPolicy(switched(switched(p)), session), name)
	}
	p := stickiness.First(switched(newApp(t, stickiness.AppCookieOptions{Name: "app"})), stickiness.ReadOnly(switched(newLB(t, stickiness.LBCookieOptions{}))))
	require.NoError(t, stickinesstest.TestPolicy(switched(p), session))
}

// A detour leaves the session where the former policy has it.
func TestSwitch_S24_Detour(t *testing.T) {
	sw := switched(newLB(t, stickiness.LBCookieOptions{Codec: plain{}}))
	next := newLB(t, stickiness.LBCookieOptions{Name: "next", Codec: plain{}})
	b := answer(sw, get("AWSELB=a"), "b", nil, detoured, func(*stickiness.Binding) {
		sw.Store(stickiness.First(next, stickiness.ReadOnly(sw.Load())))
	})
	require.Equal(t, stickiness.Kept, b.Result)
	b = answer(sw, get("AWSELB=a"), "a", nil)
	require.Equal(t, "next=a", sent(b), "and then moves to the next policy")
}

func TestSwitch_NoticesPass(t *testing.T) {
	lb := newLB(t, stickiness.LBCookieOptions{})
	sw := switched(lb)
	require.Equal(t, stickiness.RandomKey, answer(sw, get(), "a", nil).Notices)
	sw.Store(newLB(t, stickiness.LBCookieOptions{Codec: plain{}}))
	b := answer(sw, get("AWSELB=a"), "a", nil, func(*stickiness.Binding) { sw.Store(lb) })
	require.Equal(t, stickiness.RandomKey, b.Notices)
}

func TestSwitch_AllocatesNothing(t *testing.T) {
	sw := switched(newLB(t, stickiness.LBCookieOptions{Codec: plain{}}))
	r := get("AWSELB=a")
	found := make([]stickiness.Candidate, 0, 4)
	b := &stickiness.Binding{Request: r, Header: http.Header{}, Target: "a"}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		found = sw.Lookup(r, found[:0])
		b.Seen, b.From = found, &found[0]
		sw.Bind(b)
	}))
}

// The policy changes at any time between the Lookup, Forward and Bind of a request.
func TestSwitch_S24_Concurrent(t *testing.T) {
	var policies []stickiness.Policy
	for _, newPolicy := range kinds {
		policies = append(policies, newPolicy(t))
	}
	policies = append(policies, stickiness.First(policies[1], stickiness.ReadOnly(policies[0])))
	var sw stickiness.Switch
	stop := make(chan struct{})
	var storing, serving sync.WaitGroup
	storing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				sw.Store(policies[i%len(policies)])
			}
		}
	})
	for client := range 4 {
		serving.Go(func() {
			var j jar.Jar
			for i := range 300 {
				r := get()
				if line := jar.Line(j.Send(r)); line != "" {
					r.Header.Set("Cookie", line)
				}
				found := sw.Lookup(r, nil)
				out := r.Clone(t.Context())
				sw.Forward(out, found)
				if id := fmt.Sprintf("SID=%d-", client); i > 0 && !strings.Contains(strings.Join(out.Header["Cookie"], ""), fmt.Sprintf("%d-", client)) {
					t.Errorf("no %s in %q", id, out.Header["Cookie"])
				}
				h := set(fmt.Sprintf("SID=%d-%d; Path=/", client, i))
				sw.Inform(h)
				h = set(fmt.Sprintf("SID=%d-%d; Path=/", client, i))
				sw.Bind(&stickiness.Binding{Request: r, Header: h, Target: "a", Seen: found})
				j.Receive(r, h)
			}
		})
	}
	serving.Wait()
	close(stop)
	storing.Wait()
}
