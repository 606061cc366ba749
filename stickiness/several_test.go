package stickiness_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
)

// A session fails over in the same second in which it began, and the client then has two cookies of
// the balancer. The cookie of the failover wins, in either order.
func TestAppCookie_S17_FailoverWinsInTheSameSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newApp(t, stickiness.AppCookieOptions{})
		login := set("SID=1; Domain=www.example.com; Path=/", "SID=2; Path=/")
		old := sent(answer(p, get(), "app-1", login))
		moved := answer(p, get(old), "app-2", nil)
		require.Equal(t, stickiness.Bound, moved.Result)
		for _, r := range []*http.Request{get(old, sent(moved)), get(sent(moved), old)} {
			require.Equal(t, "app-2", p.Lookup(r, nil)[0].Target)
		}
		again := answer(p, get(old, sent(moved)), "app-3", set("SID=3; Path=/"))
		require.Equal(t, "app-3", p.Lookup(get(old, sent(moved), sent(again)), nil)[0].Target)
	})
}

// If a request has several sessions, all of them move together with the one that binds it, because
// the client may send another one first with its next request. Sessions that the store does not
// know or that are bound to another target do not move.
func TestLearn_S14_FailoverMovesAll(t *testing.T) {
	p, err := stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Cookie: "SID"})
	require.NoError(t, err)
	answer(p, get(), "app-1", set("SID=1; Path=/", "SID=2; Path=/shop"))
	answer(p, get(), "app-3", set("SID=3; Path=/"))
	require.Equal(t, stickiness.Bound, answer(p, get("SID=1; SID=2; SID=3; SID=4"), "app-2", nil).Result)
	for id, want := range map[string][]string{"1": {"app-2"}, "2": {"app-2"}, "3": {"app-3"}, "4": {}} {
		require.Equal(t, want, targets(p.Lookup(get("SID="+id), nil)), id)
	}
}

// A server whose clock is wrong says so in its Date, and browsers read its Expires by that.
func TestAppCookie_S11_ExpiresByTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tt := range map[string]struct {
			expires, clock time.Duration
			want           stickiness.Result
		}{
			"right":           {10 * time.Minute, 0, stickiness.Bound},
			"behind":          {-50 * time.Minute, -time.Hour, stickiness.Bound},
			"ahead, deletion": {50 * time.Minute, time.Hour, stickiness.Freed},
		} {
			now := time.Now()
			h := set("SID=1; Path=/; Expires=" + date(now.Add(tt.expires)))
			h.Set("Date", date(now.Add(tt.clock)))
			require.Equal(t, tt.want, answer(newApp(t, stickiness.AppCookieOptions{}), get(), "app-1", h).Result, name)
		}
	})
}
