package clienttest_test

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/browsertest"
)

//go:embed testdata/page.html
var page []byte

// An arrival is how a request came to the front.
type arrival struct{ Path, Method, Proto, Protocol, Upgrade string }

// arrivals are noted by a handler around the proxy.
type arrivals struct {
	mu  sync.Mutex
	all []arrival
}

func (a *arrivals) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.all = append(a.all, arrival{r.URL.Path, r.Method, r.Proto, r.Header.Get(":protocol"), r.Header.Get("Upgrade")})
		a.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

func (a *arrivals) at(path string) (found []arrival) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range a.all {
		if one.Path == path {
			found = append(found, one)
		}
	}
	return found
}

// An ending is a closing as a page sees it.
type ending struct {
	Code   int
	Reason string
	Clean  bool // with close frames both ways
}

// browses has a page play its scenes through the proxy. page and socket are how their requests have
// to come.
func browses(t *testing.T, scheme, hop string, wantPage, wantSocket arrival) {
	t.Helper()
	tab := browsertest.Start(t)
	closed := make(chan closing, 10)
	sockets := echoing(websocket.CompressionContextTakeover, closed)
	s := newSite(t, scheme, serve(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			w.Write(page)
			return
		}
		sockets.ServeHTTP(w, r)
	})))
	var came arrivals
	front := serve(t, scheme, came.handler(s.proxy))

	ctx, cancel := context.WithTimeout(tab, 2*patience)
	defer cancel()
	scenes, err := json.Marshal(sizes)
	require.NoError(t, err)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(front.URL+"/")))
	evaluate(t, ctx, fmt.Sprintf(`play(%s).catch((error) => { results.Error = String(error) }), 1`, scenes))
	var seen struct {
		Hop, Protocol, Extensions, Hello, Error string

		Opened, Waiting            bool
		Wrong                      []int
		Answered, Closed, Farewell ending
	}
	look := func(expression string) {
		t.Helper()
		_, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience), chromedp.WithPollingInterval(20*time.Millisecond)))
		results := evaluate(t, tab, `JSON.stringify(results)`)
		require.NoError(t, err, "%s: %s", expression, results)
		require.NoError(t, json.Unmarshal([]byte(results), &seen))
	}
	look(`'Waiting' in results || 'Error' in results`)
	require.Empty(t, seen.Error)
	require.Equal(t, hop, seen.Hop)
	require.True(t, seen.Opened)
	require.Equal(t, "v2.echo", seen.Protocol)
	require.Contains(t, seen.Extensions, "permessage-deflate")
	require.Empty(t, seen.Wrong)
	require.Equal(t, ending{4001, "enough", true}, seen.Answered)
	require.Equal(t, "hello", seen.Hello)
	require.Equal(t, ending{4002, "not today", true}, seen.Closed)
	require.True(t, seen.Waiting)
	require.Equal(t, closing{4001, "enough"}, wait(t, closed, "the page's close frame"))
	require.Equal(t, []arrival{wantPage}, came.at("/"))
	require.Equal(t, []arrival{wantSocket, wantSocket}, came.at("/echo"))

	require.NoError(t, s.proxy.Shutdown(t.Context()))
	look(`'Farewell' in results`)
	require.Equal(t, ending{1001, "", true}, seen.Farewell)
	require.Equal(t, closing{Code: 1001}, wait(t, closed, "the close frame of the shutdown"))
	s.idle(t)
}

func evaluate(t *testing.T, ctx context.Context, expression string) string {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[any](expression))
	require.NoError(t, err, expression)
	return fmt.Sprint(v)
}

// TestBrowser_W2_Upgrade has Chromium open WebSockets over HTTP/1.1: over TLS too, although the
// page has come over HTTP/2, because the server does not offer extended CONNECT.
func TestBrowser_W2_Upgrade(t *testing.T) {
	t.Parallel()
	socket := arrival{"/echo", "GET", "HTTP/1.1", "", "websocket"}
	t.Run("http", func(t *testing.T) {
		browses(t, "http", "http/1.1", arrival{"/", "GET", "HTTP/1.1", "", ""}, socket)
	})
	t.Run("https", func(t *testing.T) {
		browses(t, "https", "h2", arrival{"/", "GET", "HTTP/2.0", "", ""}, socket)
	})
}

// TestBrowser_W2_ExtendedConnect has Chromium open WebSockets over the HTTP/2 connection of the
// page (RFC 8441).
func TestBrowser_W2_ExtendedConnect(t *testing.T) {
	t.Parallel()
	if !offersExtendedConnect(t) {
		return
	}
	browses(t, "https", "h2", arrival{"/", "GET", "HTTP/2.0", "", ""}, arrival{"/echo", "CONNECT", "HTTP/2.0", "websocket", ""})
}

// offersExtendedConnect reports whether net/http does, in this process. If not it runs the test
// that calls it in another one: what decides is the environment that a process starts with.
func offersExtendedConnect(t *testing.T) bool {
	t.Helper()
	const setting = "http2xconnect=1"
	if strings.Contains(os.Getenv("GODEBUG"), setting) {
		return true
	}
	program(t, "chromium", "chromium-browser", "google-chrome")
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG="+strings.TrimPrefix(os.Getenv("GODEBUG")+","+setting, ","))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name()+" ", "it has run")
	return false
}
