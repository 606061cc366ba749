package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/browsertest"
	"github.com/stickylb/stickylb/wsproxy"
)

// Chromium gets the page and the session's request over HTTP/3. Its WebSocket, which it opens over
// another protocol, reaches the same backend.
func TestChromium(t *testing.T) {
	over := make(chan int, 10) // the versions of HTTP that WebSockets come over
	s := startWith(t, func(lb *wsproxy.Proxy) {
		lb.Trace = &wsproxy.Trace{Upgrade: func(r *http.Request, _ string) { over <- r.ProtoMajor }}
	}, newBackend("app-1"), newBackend("app-2"))
	tab := browsertest.Start(t, chromedp.Flag("disable-quic", false), chromedp.Flag("enable-quic", true),
		chromedp.Flag("origin-to-force-quic-on", s.address), chromedp.Flag("ignore-certificate-errors-spki-list", fingerprint(s.certificate)))
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(s.url("/"))))
	_, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](`document.getElementById("websocket").textContent.trim()`, chromedp.WithPollingTimeout(patience)))
	require.NoError(t, err)
	text := func(id string) string {
		said, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.getElementById("`+id+`").textContent.trim()`))
		require.NoError(t, err)
		return said
	}
	protocol, request, websocket := text("protocol"), text("request"), text("websocket")
	require.Equal(t, "h3", protocol)
	require.True(t, strings.HasPrefix(request, "app-"), request)
	require.Equal(t, request+": hello", websocket)
	require.Less(t, <-over, 3, "the package's documentation says that Chromium opens none over HTTP/3")
}
