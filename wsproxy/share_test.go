package wsproxy_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func setShare(t testing.TB, p *balancer.Pool, id string, part float64) {
	t.Helper()
	require.NoError(t, member(t, p, id).SetShare(part))
}

// A session beyond the share moves once, whatever OnMiss says of targets that cannot serve.
func TestProxy_S25_SessionsBeyondTheShareAreRebound(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	front := serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
		OnMiss: func(*http.Request, string, error) wsproxy.Miss {
			t.Error("OnMiss was asked")
			return wsproxy.Fail
		}})
	clients := make([]*client, 40)
	for i := range clients {
		clients[i] = newClient(t, front)
		require.Equal(t, "a", clients[i].get("/").backend())
	}
	setShare(t, p.pool, "a", 0.5)
	moved := 0
	for _, c := range clients {
		r := c.get("/")
		if r.backend() == "b" {
			moved++
			requireBound(t, r, "b")
		} else {
			require.Empty(t, lbLines(r.Header))
		}
		for range 2 {
			again := c.get("/")
			require.Equal(t, r.backend(), again.backend(), "and stays")
			require.Empty(t, lbLines(again.Header))
		}
	}
	require.InDelta(t, 20, moved, 17)
	setShare(t, p.pool, "a", 0)
	for _, c := range clients {
		require.Equal(t, "b", c.get("/").backend())
	}
}

func TestProxy_S25_TicketDecides(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})).withoutCookies()
	before := time.Now()
	setShare(t, p.pool, "b", 0)
	set := time.Now()
	for name, tt := range map[string]struct {
		tickets []cookie.Ticket
		want    string
		binds   bool
	}{
		"older":                                  {[]cookie.Ticket{{Target: "b", Session: 5, Issued: set.Add(-time.Hour)}}, "a", true},
		"in that second":                         {[]cookie.Ticket{{Target: "b", Session: 5, Issued: before}}, "a", true},
		"later":                                  {[]cookie.Ticket{{Target: "b", Session: 5, Issued: set.Add(2 * time.Second)}}, "b", false},
		"no session, so by the client's address": {[]cookie.Ticket{{Target: "b", Issued: set.Add(-time.Hour)}}, "a", true},
		"an older binding to another target": {[]cookie.Ticket{
			{Target: "b", Session: 5, Issued: set.Add(-time.Hour)}, {Target: "b", Session: 6, Issued: set.Add(-2 * time.Hour)},
		}, "a", true},
		"the first target is gone": {[]cookie.Ticket{
			{Target: "gone", Session: 5, Issued: set.Add(-time.Hour)}, {Target: "b", Session: 6, Issued: set.Add(-2 * time.Hour)},
		}, "a", true},
	} {
		var line strings.Builder
		line.WriteString("Cookie: x=y")
		for _, ticket := range tt.tickets {
			line.WriteString("; AWSELB=" + seal(t, "", key, ticket))
		}
		r := c.get("/", line.String())
		require.Equal(t, tt.want, r.backend(), name)
		require.Equal(t, tt.binds, len(lbLines(r.Header)) > 0, name)
	}
}

// Values without sessions or dates go by the client's address, on every instance alike.
func TestProxy_S25_UndatedSessionsGoByTheAddress(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	newFront := func() *client {
		policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "route", Codec: routes(t)})
		require.NoError(t, err)
		return newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy,
			Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})).withoutCookies()
	}
	one, other := newFront(), newFront()
	setShare(t, p.pool, "a", 0.5)
	moved := 0
	for i := range 60 {
		lines := []string{"Cookie: route=route-a", fmt.Sprintf("X-Forwarded-For: 192.0.2.%d", i)}
		at := one.get("/", lines...).backend()
		require.Equal(t, at, other.get("/", lines...).backend())
		require.Equal(t, at, one.get("/", lines...).backend())
		if at == "b" {
			moved++
			require.Equal(t, "b", one.get("/", "Cookie: route=route-b", lines[1]).backend(), "it stays there")
		}
	}
	require.InDelta(t, 30, moved, 20)
}

// A full target takes nobody's sessions: they stay where they are, without an error.
func TestProxy_S25_NoPlaceElsewhere(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	b := p.b.target()
	b.MaxRequests = 1
	require.NoError(t, p.pool.Update(p.a.target(), b))
	older := bound(t, "a")
	setShare(t, p.pool, "a", 0)
	lease, err := p.pool.AcquireBound(t.Context(), "b", &balancer.Request{})
	require.NoError(t, err)
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})).withoutCookies()
	r := c.get("/", older)
	require.Equal(t, "a", r.backend())
	require.Empty(t, lbLines(r.Header), "it is bound as before")
	lease.Release(balancer.Outcome{})
	requireBound(t, c.get("/", older), "b")
}

// A target that fails the request that came to it is not asked again, nor is the session lost.
func TestProxy_S18_S25_TheNextOneFails(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	older := bound(t, "a")
	setShare(t, p.pool, "a", 0)
	p.b.stop()
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})).withoutCookies()
	r := c.get("/", older)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "a", r.backend())
	require.Empty(t, lbLines(r.Header))
}

// The WebSocket of a session beyond the share is asked to close, and its client comes back to
// another target.
func TestProxy_S25_TunnelsAreAskedToClose(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{0, 1000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			d := newDuo(t, wsproxy.TunnelLimits{Rebalance: rate})
			d.proxy.Policy = lbCookie(t, stickiness.LBCookieOptions{})
			open := func(line string) *wire {
				c := dial(t, d.front)
				c.open(line)
				return c
			}
			older := bound(t, "a")
			a := open(older)
			b := open(bound(t, "b"))
			setShare(t, d.proxy.Pool, "a", 0)
			if rate > 0 {
				code, _ := readFrame(t, a).closing(t)
				require.EqualValues(t, 1012, code)
				a.agree("\x03\xf4")
				end := wait(t, d.ends, "the end")
				require.Equal(t, "a", end.Target)
				require.Equal(t, "moved", end.EndedBy)
				again := open(older)
				again.send(maskedFrame(0x81, "again"))
				require.Equal(t, "again", string(wait(t, d.frames["b"], "the frame").payload))
			}
			b.send(maskedFrame(0x81, "stays"))
			require.Equal(t, "stays", string(readFrame(t, b).payload))
			if rate == 0 {
				a.send(maskedFrame(0x81, "stays"))
				require.Equal(t, "stays", string(readFrame(t, a).payload))
			}
		})
	}
}
