package peertest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/browsertest"
	"github.com/stickylb/stickylb/stickiness"
)

// A browser is one tab. Every host name that ends in ".example" is this machine to it. Cookies do
// not know ports, so that tests which shall not meet have host names of their own.
type browser struct{ ctx context.Context }

// TestBrowser has one browser for all, because starting it takes longer than all the rest.
func TestBrowser(t *testing.T) {
	b := startBrowser(t)
	for name, test := range map[string]func(*testing.T, browser){
		"DurationCookie":       testDurationCookie,
		"WebSocketFirst":       testWebSocketFirst,
		"Period":               testPeriod,
		"AppCookie":            testAppCookie,
		"AppCookieEncodedPath": testAppCookieEncodedPath,
		"CrossSite":            testCrossSite,
		"CrossSiteWithoutTwin": testCrossSiteWithoutTwin,
		"CrossSiteApp":         testCrossSiteApp,
		"SameSite":             testSameSite,
		"Partitioned":          testPartitioned,
		"Record":               testRecord,
		"SameCookies":          testSameCookies,
		"CorrectsClocks":       testCorrectsClocks,
	} {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

// startBrowser starts a browser with a profile of its own, whose one setting is that it allows
// third-party cookies: Debian's Chromium blocks them until its user says otherwise.
func startBrowser(t *testing.T) browser {
	t.Helper()
	dir := profile(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "Default"), 0o700))
	preferences := []byte(`{"profile": {"cookie_controls_mode": 0}}`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Default", "Preferences"), preferences, 0o600))
	ctx := browsertest.Start(t,
		chromedp.UserDataDir(dir),
		chromedp.Flag("host-resolver-rules", "MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	return browser{ctx}
}

// profile is a directory that the test removes at its end. Processes of the browser may outlive it
// for a moment, and still write there.
func profile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "peertest-profile")
	require.NoError(t, err)
	t.Cleanup(func() {
		until(t, "the profile is removed", func() bool { return os.RemoveAll(dir) == nil })
	})
	return dir
}

func run[T any](t *testing.T, b browser, a chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	require.NoError(t, err)
	return v
}

// open navigates to a page, as if its address had been typed, and returns what the backend tells.
func (b browser) open(t *testing.T, url string) (s seen) {
	t.Helper()
	run(t, b, chromedp.Navigate(url))
	require.NoError(t, json.Unmarshal([]byte(run(t, b, chromedp.Evaluate[string](`document.body.innerText`))), &s), url)
	return s
}

// script evaluates a promise in the page that is open, with the URL as url.
func (b browser) script(t *testing.T, promise, url string) seen {
	t.Helper()
	expression := fmt.Sprintf(`(url => new Promise((resolve, reject) => { %s }))(%q)`, promise, url)
	return run(t, b, chromedp.Evaluate[seen](expression, chromedp.EvalAwaitPromise))
}

// fetch asks with JavaScript, and with cookies.
func (b browser) fetch(t *testing.T, url string) seen {
	t.Helper()
	return b.script(t, `fetch(url, {credentials: "include"}).then(r => r.json()).then(resolve, reject)`, url)
}

// socket opens a WebSocket, and returns the ID that it is told.
func (b browser) socket(t *testing.T, url string) string {
	t.Helper()
	return b.script(t, `
		const socket = new WebSocket(url);
		socket.onmessage = e => resolve({ID: e.data});
		socket.onerror = () => reject("no WebSocket")`, strings.Replace(url, "http", "ws", 1)).ID
}

// frame puts an iframe into the page that is open.
func (b browser) frame(t *testing.T, url string) seen {
	t.Helper()
	return b.script(t, `
		addEventListener("message", e => resolve(e.data), {once: true});
		const frame = document.createElement("iframe");
		frame.src = url;
		document.body.append(frame)`, url+"/frame")
}

// cookies are those that the browser has stored for a host.
func (b browser) cookies(t *testing.T, host string) []*network.Cookie {
	t.Helper()
	all := run(t, b, func(ctx context.Context, target *chromedp.Target) ([]*network.Cookie, error) {
		res, err := cdp.Call(ctx, target, storage.GetCookies, storage.GetCookiesParams{})
		return res.Cookies, err
	})
	var own []*network.Cookie
	for _, c := range all {
		if c.Domain == host {
			own = append(own, c)
		}
	}
	return own
}

// blockThirdParties blocks third-party cookies until the test ends.
func (b browser) blockThirdParties(t *testing.T) {
	t.Helper()
	set := func(block bool) {
		controls := network.SetCookieControlsParams{EnableThirdPartyCookieRestriction: block}
		run(t, b, func(ctx context.Context, target *chromedp.Target) (cdp.Empty, error) {
			return cdp.Call(ctx, target, network.SetCookieControls, controls)
		})
	}
	set(true)
	t.Cleanup(func() { set(false) })
}

// named are the cookies of that name among them.
func named(all []*network.Cookie, name string) []*network.Cookie {
	var own []*network.Cookie
	for _, c := range all {
		if c.Name == name {
			own = append(own, c)
		}
	}
	return own
}

// names are those of the cookies that a backend has seen.
func (s seen) names() []string {
	var names []string
	for _, line := range s.Cookies {
		for pair := range strings.SplitSeq(line, "; ") {
			name, _, _ := strings.Cut(pair, "=")
			names = append(names, name)
		}
	}
	return names
}

// A site is a balancer in front of three backends, on a port for HTTP and on one for HTTPS.
// Backends see the balancer's cookie if its policy has KeepInRequest.
type site struct{ plain, tls string }

func newSite(t *testing.T, policy stickiness.Policy) site {
	t.Helper()
	var targets []balancer.Target
	for _, b := range newBackends(t, "app-1", "app-2", "app-3") {
		targets = append(targets, b.target())
	}
	proxy := newProxy(t, policy, targets...)
	plain := serve(t, listen(t, "127.0.0.1:0"), proxy)
	return site{port(plain), port(serveTLS(t, proxy))}
}

func newLBCookie(t *testing.T, o stickiness.LBCookieOptions) stickiness.Policy {
	t.Helper()
	o.KeepInRequest = true
	policy, err := stickiness.NewLBCookie(o)
	require.NoError(t, err)
	return policy
}

func newAppCookie(t *testing.T, o stickiness.AppCookieOptions) stickiness.Policy {
	t.Helper()
	o.KeepInRequest = true
	o.Cookie = "app"
	policy, err := stickiness.NewAppCookie(o)
	require.NoError(t, err)
	return policy
}

// other is a port for HTTPS behind which there is no balancer.
func other(t *testing.T) string {
	t.Helper()
	return port(serveTLS(t, newBackend(t, "other").server.Config.Handler))
}

func port(s *httptest.Server) string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

// cors are the headers that let a page of that origin read the answer to a request with cookies.
func cors(origin string) string {
	return answering("Access-Control-Allow-Origin: "+origin, "Access-Control-Allow-Credentials: true")
}
