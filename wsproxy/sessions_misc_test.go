package wsproxy_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A full target is not gone: the session goes elsewhere meanwhile and comes back.
func TestProxy_B4_FullTargetIsADetour(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stay" {
			entered <- struct{}{}
			<-leave
		}
	})
	b := p.b.target()
	b.MaxRequests = 1
	require.NoError(t, p.pool.Update(p.a.target(), b))
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
	p.picker.to("b")
	require.Equal(t, "b", c.get("/").backend())
	done := make(chan *reply, 1)
	go func() { done <- c.get("/stay") }()
	wait(t, entered, "request at b")
	require.EqualValues(t, 1, member(t, p.pool, "b").Load())

	r := c.get("/")
	require.Equal(t, "a", r.backend())
	require.Empty(t, r.Header["Set-Cookie"], "the cookie is kept")
	close(leave)
	require.Equal(t, "b", wait(t, done, "the long request").backend())
	require.Equal(t, "b", c.get("/").backend())
}

func TestProxy_B4_FullTargetAndOnMiss(t *testing.T) {
	tests := map[wsproxy.Miss]struct {
		status int
		who    string
		binds  bool
	}{
		wsproxy.Rebind: {http.StatusOK, "a", true},
		wsproxy.Detour: {http.StatusOK, "a", false},
		wsproxy.Fail:   {http.StatusServiceUnavailable, "", false},
	}
	for miss, tt := range tests {
		p := newPair(t, nil)
		b := p.b.target()
		b.MaxRequests = 1
		require.NoError(t, p.pool.Update(p.a.target(), b))
		lease, err := p.pool.AcquireBound(t.Context(), "b", &balancer.Request{})
		require.NoError(t, err)
		var why error
		c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
			OnMiss: func(_ *http.Request, id string, err error) wsproxy.Miss { why = err; return miss }}))
		r := c.get("/", bound(t, "b"))
		require.Equal(t, tt.status, r.StatusCode)
		require.Equal(t, tt.who, r.backend())
		require.ErrorIs(t, why, balancer.ErrFull)
		require.Equal(t, tt.binds, len(lbLines(r.Header)) > 0)
		lease.Release(balancer.Outcome{})
	}
}

func TestProxy_S16_InstancesShareKeys(t *testing.T) {
	p := newPair(t, nil)
	other := bytes.Repeat([]byte("o"), 32)
	instance := func(keys ...[]byte) *client {
		policy := lbCookie(t, stickiness.LBCookieOptions{Keys: keys})
		return newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy})).withoutCookies()
	}
	one, two, stranger, rotated := instance(key), instance(key), instance(other), instance(other, key)
	p.picker.to("b")
	session := "Cookie: " + lbLines(one.get("/").Header)[0]
	session = session[:len(session)-len("; Path=/")]
	p.picker.to("a")

	same := two.get("/", session)
	require.Equal(t, "b", same.backend(), "an instance with the same key understands it")
	require.Empty(t, same.Header["Set-Cookie"])

	foreign := stranger.get("/", session)
	require.Equal(t, "a", foreign.backend(), "one with another key does not")
	require.Len(t, lbLines(foreign.Header), 1)

	fresh := rotated.get("/", session)
	require.Equal(t, "b", fresh.backend(), "a key that is no longer the first still opens")
	require.Empty(t, fresh.Header["Set-Cookie"], "and is left alone for ten minutes")
	session = "Cookie: AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "b", Issued: time.Now().Add(-10 * time.Minute)})
	renewed := rotated.get("/", session)
	require.Equal(t, "b", renewed.backend())
	require.Len(t, lbLines(renewed.Header), 1)
	again := stranger.get("/", "Cookie: AWSELB="+valueOf(lbLines(renewed.Header)[0]))
	require.Equal(t, "b", again.backend(), "and the value was sealed again under the first")
}

func TestProxy_S16_WithoutKeysInstancesAreStrangers(t *testing.T) {
	p := newPair(t, nil)
	instance := func() *client {
		policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
		require.NoError(t, err)
		return newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy})).withoutCookies()
	}
	one, two := instance(), instance()
	p.picker.to("b")
	session := "Cookie: AWSELB=" + valueOf(lbLines(one.get("/").Header)[0])
	p.picker.to("a")
	require.Equal(t, "b", one.get("/", session).backend())
	require.Equal(t, "a", two.get("/", session).backend())
}
