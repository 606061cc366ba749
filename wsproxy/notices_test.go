package wsproxy_test

import (
	"bytes"
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
	policy, err := stickiness.NewAppCookie("SID", stickiness.AppCookieOptions{})
	require.NoError(t, err)
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "SID=1; Path=/"+r.URL.RawQuery)
	})
	var log bytes.Buffer
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy, Logger: slog.New(slog.NewTextHandler(&log, nil))})).withoutCookies()
	for range 3 {
		c.get("/?;")
		c.get("/")
	}
	require.Equal(t, 1, strings.Count(log.String(), "AcceptTrailingSemicolon"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "no Keys"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "level=INFO"), log.String())
}
