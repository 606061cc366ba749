package stickiness_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

// newLearn returns a policy and fails the test on an error.
func newLearn(t testing.TB, s stickiness.Store, o stickiness.LearnOptions) *stickiness.Learn {
	t.Helper()
	o.Store = s
	p, err := stickiness.NewLearn(o)
	require.NoError(t, err)
	return p
}

// mcp returns a request of a client without cookies.
func mcp(id string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/mcp", nil)
	if id != "" {
		r.Header.Set("Mcp-Session-Id", id)
	}
	return r
}

func TestLearn_HeaderOnlyClient(t *testing.T) {
	p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Header: "mcp-session-id"})
	begin := http.Header{"Mcp-Session-Id": {"s1"}}

	b := answer(p, mcp(""), "app-1", begin.Clone())
	require.Equal(t, stickiness.Bound, b.Result)
	require.Equal(t, begin, b.Header, "nothing is added")
	require.Equal(t, []string{"app-1"}, targets(p.Lookup(mcp("s1"), nil)))
	require.Empty(t, p.Lookup(mcp("s2"), nil))
	require.Empty(t, p.Lookup(mcp(""), nil))

	require.Equal(t, stickiness.Kept, answer(p, mcp("s1"), "app-1", begin.Clone()).Result, "each response may say the ID")
	require.Equal(t, stickiness.Kept, answer(p, mcp("s1"), "app-1", nil).Result)
	require.Equal(t, stickiness.Kept, answer(p, mcp("s2"), "app-2", nil).Result, "a made-up ID is not learnt")
	require.Empty(t, p.Lookup(mcp("s2"), nil))
	require.Equal(t, stickiness.Kept, answer(p, mcp(""), "app-1", set("=nameless")).Result, "no cookie is looked at")
}

func TestLearn_Cookie(t *testing.T) {
	p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{
		Cookie: "SID",
		From:   []stickiness.Source{stickiness.FromPathParam("sid"), stickiness.FromQuery("sid")},
	})
	set1 := func(line string) stickiness.Result { return answer(p, get(), "app-1", set(line)).Result }
	require.Equal(t, stickiness.Bound, set1("SID=a; Path=/"))
	require.Equal(t, stickiness.Bound, set1(`SID="q"`))
	require.Equal(t, stickiness.Bound, set1("SID=m; Max-Age=5"))
	require.Equal(t, stickiness.Kept, set1("SID=gone; Max-Age=0"))
	require.Equal(t, stickiness.Kept, set1("SIDE=other"))
	require.Equal(t, stickiness.Kept, set1("SID="))
	require.Equal(t, stickiness.Kept, set1(`SID=""`))
	require.Equal(t, stickiness.Kept, set1("SID=x\x01"))
	require.Equal(t, stickiness.Bound, answer(p, get(), "app-1", set("SID=first", "SID=last", "x=y")).Result)
	require.Equal(t, stickiness.Kept, answer(p, get(), "app-1", set("SID=undone", "SID=; Max-Age=0")).Result)

	for cookies, want := range map[string][]string{
		"SID=a":                                 {"app-1"},
		"x=y; SID=a":                            {"app-1"},
		"SID=q":                                 {"app-1"},
		`SID="q"`:                               {"app-1"},
		`SID="a"`:                               {"app-1"},
		"SID=m":                                 {"app-1"},
		"SID=last":                              {"app-1"},
		"SID=first":                             {},
		"SID=gone":                              {},
		"SID=undone":                            {},
		"SID=other":                             {},
		"sid=a":                                 {},
		"SID=nobody; SID=a":                     {"app-1"},
		strings.Repeat("SID=n; ", 80) + "SID=a": {"app-1"},
		nobodies(63) + "; SID=a":                {"app-1"},
		nobodies(64) + "; SID=a":                {},
	} {
		require.Equal(t, want, targets(p.Lookup(get(cookies), nil)), cookies)
	}
	for _, path := range []string{"/page;sid=a", "/page?sid=a"} {
		require.Equal(t, []string{"app-1"}, targets(p.Lookup(httptest.NewRequest(http.MethodGet, path, nil), nil)), path)
	}
}

func TestLearn_Moves(t *testing.T) {
	p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Header: "Mcp-Session-Id"})
	header := func(id string) http.Header { return http.Header{"Mcp-Session-Id": {id}} }
	where := func(id string) []string { return targets(p.Lookup(mcp(id), nil)) }
	answer(p, mcp(""), "app-1", header("s1"))

	require.Equal(t, stickiness.Kept, answer(p, mcp("s1"), "app-2", nil, detoured).Result)
	require.Equal(t, stickiness.Kept, answer(p, mcp("s1"), "app-2", header("s1"), detoured).Result, "the same session, served elsewhere")
	require.Equal(t, []string{"app-1"}, where("s1"))

	require.Equal(t, stickiness.Bound, answer(p, mcp("s1"), "app-2", header("s2"), detoured).Result, "a new session")
	require.Equal(t, []string{"app-1"}, where("s1"))
	require.Equal(t, []string{"app-2"}, where("s2"))

	require.Equal(t, stickiness.Bound, answer(p, mcp("s1"), "app-2", nil).Result, "a failover")
	require.Equal(t, []string{"app-2"}, where("s1"))
	require.Equal(t, stickiness.Bound, answer(p, mcp("s1"), "app-3", header("s1")).Result, "and one whose response says the ID")
	require.Equal(t, []string{"app-3"}, where("s1"))

	require.Equal(t, stickiness.Renewed, answer(p, mcp("s1"), "app-3", header("s3")).Result, "another ID, the same target")
	require.Equal(t, []string{"app-3"}, where("s3"))
	require.Equal(t, stickiness.Bound, answer(p, mcp("s1"), "app-1", header("s4")).Result)
	require.Equal(t, []string{"app-1"}, where("s1"), "the old ID moves with the session")
	require.Equal(t, []string{"app-1"}, where("s4"))
}

func TestLearn_CookieAndHeader(t *testing.T) {
	p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID", Header: "X-Session"})
	h := set("SID=c")
	h.Set("X-Session", "h")
	require.Equal(t, stickiness.Bound, answer(p, get(), "app-1", h).Result)
	require.Equal(t, []string{"app-1"}, targets(p.Lookup(get("SID=c"), nil)))
	r := get()
	r.Header.Set("X-Session", "h")
	require.Equal(t, []string{"app-1"}, targets(p.Lookup(r, nil)))
}

func TestLearn_TTL(t *testing.T) {
	for ttl, lasts := range map[time.Duration]time.Duration{0: 30 * time.Minute, time.Minute: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID", TTL: ttl})
			answer(p, get(), "app-1", set("SID=a"))
			for range 3 {
				time.Sleep(lasts - 1)
				require.Equal(t, []string{"app-1"}, targets(p.Lookup(get("SID=a"), nil)), "each request extends it")
			}
			time.Sleep(lasts)
			require.Empty(t, p.Lookup(get("SID=a"), nil))
		})
	}
}

func TestLearn_Adopt(t *testing.T) {
	var s stickiness.MemoryStore
	p := newLearn(t, &s, stickiness.LearnOptions{Cookie: "SID", Adopt: true})
	require.Equal(t, stickiness.Kept, answer(p, get(), "app-1", nil).Result)
	require.Equal(t, stickiness.Kept, answer(p, get("SID=a"), "app-1", nil, detoured).Result)
	require.Zero(t, s.Len())
	require.Equal(t, stickiness.Bound, answer(p, get("SID=a"), "app-1", nil).Result)
	require.Equal(t, []string{"app-1"}, targets(p.Lookup(get("SID=a"), nil)))
	require.Equal(t, stickiness.Kept, answer(p, get("SID=a"), "app-1", nil).Result)

	answer(p, get("SID=b"), "app-1", set("SID=c"))
	require.Empty(t, p.Lookup(get("SID=b"), nil), "the response has begun another session")

	failing := newLearn(t, &stubStore{err: errors.New("down")}, stickiness.LearnOptions{Cookie: "SID", Adopt: true})
	require.Equal(t, stickiness.Kept, answer(failing, get("SID=a"), "app-2", nil).Result, "it may well be bound")
}

// Two pools share a store; their sessions stay apart, and none of their IDs gets out.
func TestLearn_Scope(t *testing.T) {
	var s stubStore
	web := newLearn(t, &s, stickiness.LearnOptions{Cookie: "SID", Scope: "web"})
	api := newLearn(t, &s, stickiness.LearnOptions{Cookie: "SID", Scope: "api"})
	answer(web, get(), "web-1", set("SID=topsecret"))
	require.Equal(t, []string{"web-1"}, targets(web.Lookup(get("SID=topsecret"), nil)))
	require.Empty(t, api.Lookup(get("SID=topsecret"), nil))
	for key := range maps.Keys(s.sessions) {
		require.Regexp(t, `^[A-Za-z0-9_-]{22}$`, key)
	}
}

// stubStore is a store that fails, or that is slow by the clock of a bubble. If it is not slow, it
// answers at once, even if the context has already ended.
type stubStore struct {
	sessions map[string]string
	err      error
	wait     time.Duration
	calls    []string
}

func (s *stubStore) slowly(ctx context.Context, call string) error {
	s.calls = append(s.calls, call)
	if s.wait == 0 {
		return s.err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.wait):
		return s.err
	}
}

func (s *stubStore) Get(ctx context.Context, key string, _ time.Duration) (string, bool, error) {
	if err := s.slowly(ctx, "get"); err != nil {
		return "", false, err
	}
	target, ok := s.sessions[key]
	return target, ok, nil
}

func (s *stubStore) Put(ctx context.Context, key, target string, _ time.Duration) error {
	if err := s.slowly(ctx, "put"); err != nil {
		return err
	}
	if s.sessions == nil {
		s.sessions = map[string]string{}
	}
	s.sessions[key] = target
	return nil
}

func TestLearn_StoreFails(t *testing.T) {
	s := &stubStore{err: errors.New("down")}
	p := newLearn(t, s, stickiness.LearnOptions{Cookie: "SID"})
	require.Equal(t, []string{"[store failed]"}, targets(p.Lookup(get("SID=a; SID=b"), nil)))
	require.Equal(t, []string{"get"}, s.calls, "it is not asked again")
	b := answer(p, get("SID=a"), "app-1", set("SID=b"))
	require.Equal(t, stickiness.Failed, b.Result)
	require.Equal(t, set("SID=b"), b.Header)

	*s = stubStore{}
	require.Equal(t, stickiness.Bound, answer(p, get(), "", set("SID=b")).Result)
	require.Empty(t, p.Lookup(get("SID=b"), nil), "a session without a target is none")

	s.calls = nil
	require.Empty(t, p.Lookup(get("other=1"), nil))
	require.Equal(t, stickiness.Kept, answer(p, get(), "app-1", nil).Result)
	require.Empty(t, s.calls, "not asked without an ID")
}

func TestLearn_StoreIsLate(t *testing.T) {
	for timeout, waits := range map[time.Duration]time.Duration{0: 100 * time.Millisecond, time.Second: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := &stubStore{wait: time.Hour}
			p := newLearn(t, s, stickiness.LearnOptions{Cookie: "SID", Timeout: timeout})
			start := time.Now()
			require.Equal(t, []string{"[store failed]"}, targets(p.Lookup(get("SID=a; SID=b"), nil)))
			require.Equal(t, waits, time.Since(start), "once for all IDs")

			start = time.Now()
			require.Equal(t, stickiness.Failed, answer(p, get(), "app-1", set("SID=c")).Result)
			require.Equal(t, waits, time.Since(start))

			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			start = time.Now()
			require.Equal(t, []string{"[store failed]"}, targets(p.Lookup(get("SID=a").WithContext(ctx), nil)))
			require.Equal(t, time.Millisecond, time.Since(start), "the client went away")

			s.wait = waits / 2
			require.Equal(t, stickiness.Bound, answer(p, get(), "app-1", set("SID=c")).Result, "slow, but in time")
			require.Equal(t, []string{"app-1"}, targets(p.Lookup(get("SID=c"), nil)))
		})
	}
}

func TestLearn_LongIDs(t *testing.T) {
	var s stubStore
	p := newLearn(t, &s, stickiness.LearnOptions{Header: "X-Session"})
	for size, want := range map[int]stickiness.Result{4096: stickiness.Bound, 4097: stickiness.Kept} {
		b := answer(p, get(), "app-1", http.Header{"X-Session": {strings.Repeat("x", size)}})
		require.Equal(t, want, b.Result)
	}
	r := get()
	r.Header.Set("X-Session", strings.Repeat("x", 4097))
	s.calls = nil
	require.Empty(t, p.Lookup(r, nil))
	require.Empty(t, s.calls)
}

func TestLearn_Contract(t *testing.T) {
	p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID"})
	var n atomic.Int64
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{
		Response: func() http.Header { return set(fmt.Sprintf("SID=%d; Path=/", n.Add(1))) },
	}))

	p = newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Header: "Mcp-Session-Id"})
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{
		Response: func() http.Header { return http.Header{"Mcp-Session-Id": {fmt.Sprint(n.Add(1))}} },
		Carry: func(r *http.Request, response http.Header) {
			if id := response.Get("Mcp-Session-Id"); id != "" {
				r.Header.Set("Mcp-Session-Id", id)
			}
		},
	}))
}

func TestNewLearn_Refuses(t *testing.T) {
	source := stickiness.FromQuery("sid")
	for want, o := range map[string]stickiness.LearnOptions{
		"no Cookie and no Header to learn from":          {},
		`invalid Header "a b"`:                           {Header: "a b"},
		`invalid name "a=b" of the application's cookie`: {Cookie: "a=b"},
		"nil source in From":                             {Cookie: "SID", From: []stickiness.Source{nil}},
		"8 sources in From, want at most 7":              {Cookie: "SID", From: slices.Repeat([]stickiness.Source{source}, 8)},
		"negative TTL -1ns":                              {Cookie: "SID", TTL: -1},
		"negative Timeout -1ns":                          {Cookie: "SID", Timeout: -1},
	} {
		o.Store = &stickiness.MemoryStore{}
		_, err := stickiness.NewLearn(o)
		require.EqualError(t, err, "stickiness: Learn: "+want)
	}
	newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID", From: slices.Repeat([]stickiness.Source{source}, 7)})
	_, err := stickiness.NewLearn(stickiness.LearnOptions{Store: nil, Cookie: "SID"})
	require.EqualError(t, err, "stickiness: Learn: no Store")
}

func TestLearn_LookupWithoutASessionAllocatesNothing(t *testing.T) {
	p := newLearn(t, &stickiness.MemoryStore{}, stickiness.LearnOptions{Cookie: "SID", Header: "Mcp-Session-Id"})
	r, found := get(twenty()), make([]stickiness.Candidate, 0, 4)
	require.Zero(t, testing.AllocsPerRun(100, func() { found = p.Lookup(r, found[:0]) }))
}

func BenchmarkLearnLookup(b *testing.B) {
	for _, kind := range []string{"memory", "other"} {
		var s stickiness.Store = &stickiness.MemoryStore{}
		if kind == "other" {
			s = struct{ stickiness.Store }{s} // hides its type, so that Learn assumes that it may wait
		}
		p := newLearn(b, s, stickiness.LearnOptions{Cookie: "SID"})
		answer(p, get(), "app-1", set("SID=0123456789abcdef0123456789abcdef"))
		r, found := get("SID=0123456789abcdef0123456789abcdef"), make([]stickiness.Candidate, 0, 4)
		b.Run(fmt.Sprintf("store=%s", kind), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				found = p.Lookup(r, found[:0])
			}
		})
	}
}

// nobodies returns a Cookie line with the IDs of n sessions that were never begun.
func nobodies(n int) string {
	line, _ := numbered("SID", n)
	return line
}
