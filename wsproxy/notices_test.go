package wsproxy_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stretchr/testify/require"
)

// What costs sessions is told once, with the option's name where there is one.
func TestProxy_S12_NoticesOnce(t *testing.T) {
	policy, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID"})
	require.NoError(t, err)
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "SID=1; Path="+r.URL.Path)
	})
	var log bytes.Buffer
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy, Logger: slog.New(slog.NewTextHandler(&log, nil))})).withoutCookies()
	for range 3 {
		c.get("/;")
		c.get("/")
	}
	require.Equal(t, 1, strings.Count(log.String(), "AcceptTrailingSemicolon"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "no Keys"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "level=INFO"), log.String())
}

// Each thing that a policy notices is one line, however often and in which company it is.
func TestProxy_S12_EachNoticeOnce(t *testing.T) {
	policy := &noticing{}
	p := newPair(t, func(http.ResponseWriter, *http.Request) {})
	var log bytes.Buffer
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy, Logger: slog.New(slog.NewTextHandler(&log, nil))})).withoutCookies()
	levels := map[stickiness.Notices]string{
		stickiness.TrailingSemicolon: "WARN", stickiness.NoValue: "WARN", stickiness.ManyCookies: "WARN",
		stickiness.FutureValue: "WARN", stickiness.RandomKey: "INFO", stickiness.NotSecure: "INFO",
	}
	var all stickiness.Notices
	for one := range levels {
		all |= one
		for _, policy.notices = range []stickiness.Notices{one, all, one} {
			c.get("/")
		}
	}
	for one, level := range levels {
		require.Equal(t, 1, strings.Count(log.String(), fmt.Sprintf("level=%s msg=%q", level, one.String())), log.String())
	}
	require.Equal(t, len(levels), strings.Count(log.String(), "\n"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), " target="), "of the ID that is too long")
}

// A thousand bindings of which none comes back are one warning; one that came back is none.
func TestProxy_S17_ThousandBindingsThatNeverCameBack(t *testing.T) {
	for _, back := range []bool{false, true} {
		policy := &noticing{result: stickiness.Bound}
		p := newPair(t, func(http.ResponseWriter, *http.Request) {})
		var log bytes.Buffer
		proxy := &wsproxy.Proxy{Pool: p.pool, Policy: policy, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		c := newClient(t, serve(t, proxy)).withoutCookies()
		for range 999 {
			c.get("/")
		}
		require.Empty(t, log.String())
		if policy.found = nil; back {
			policy.found = []stickiness.Candidate{{Target: "any"}}
		}
		for range 1002 {
			c.get("/")
		}
		want := 1
		if back {
			want = 0
		}
		require.Equal(t, want, strings.Count(log.String(), "no session came back"), log.String())
		require.Equal(t, want, strings.Count(log.String(), "level=WARN"), log.String())
	}
}

// A noticing policy finds, says and notices what it is told to, between two requests.
type noticing struct {
	found   []stickiness.Candidate
	result  stickiness.Result
	notices stickiness.Notices
}

func (p *noticing) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return append(found, p.found...)
}

func (p *noticing) Bind(b *stickiness.Binding) { b.Result, b.Notices = p.result, p.notices }
