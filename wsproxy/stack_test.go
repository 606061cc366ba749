//go:build !race

package wsproxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A small sticky request and an upgrade need no more stack than the proxy asks for at their
// beginning. A stack that grows moves.
func TestProxy_GrowsTheStackOnce(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the collector shrinks stacks
	grows := func(t *testing.T, backend func(net.Conn, *bufio.Reader, *http.Request), upgrade bool) (*httptest.Server, chan bool) {
		p := &wsproxy.Proxy{Pool: benchPool(t, rawBackend(t, "a", backend)), Policy: lbCookie(t, stickiness.LBCookieOptions{})}
		grown := make(chan bool, 2)
		srv := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			wsproxy.GrowStack(upgrade)
			var local byte
			before := uintptr(unsafe.Pointer(&local))
			p.ServeHTTP(w, r)
			grown <- uintptr(unsafe.Pointer(&local)) != before
		}))
		t.Cleanup(func() { p.Close() })
		return srv, grown
	}
	t.Run("request", func(t *testing.T) {
		srv, grown := grows(t, benchBackend, false)
		c := newBenchClientHTTP2(t, srv)
		for range 2 {
			c.ask()
			c.await()
		}
		wait(t, grown, "the first request, which makes a connection to the target")
		require.False(t, wait(t, grown, "the second request"))
	})
	t.Run("upgrade", func(t *testing.T) {
		srv, grown := grows(t, visited, true)
		conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		conf.ServerName, conf.NextProtos = "example.com", nil
		conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), conf)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, strings.TrimSuffix(benchRequest(t), "\r\n")+visitUpgrade)
		require.NoError(t, err)
		require.False(t, wait(t, grown, "the upgrade"))
	})
}
