package clienttest_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"

	coder "github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// chiRouter is the program examples/router with chi: three pools by path, a status page for
// operators, and middleware that gives each request an ID and replaces the ResponseWriter. stop
// ends it, WebSockets first.
func chiRouter(t *testing.T, log *log.Logger, pools map[string]*balancer.Pool) (h http.Handler, stop func(context.Context) error) {
	t.Helper()
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Path: "/api/", Secure: true, HttpOnly: true})
	require.NoError(t, err)
	r := chi.NewRouter()
	r.Use(middleware.RequestID, middleware.Recoverer, middleware.Compress(5),
		middleware.RequestLogger(&middleware.DefaultLogFormatter{Logger: log, NoColor: true}))
	var proxies []wsproxy.Shutdowner
	mount := func(path string, p *wsproxy.Proxy) {
		p.Rewrite = passRequestID
		p.Logger = slog.New(slog.DiscardHandler)
		require.NoError(t, p.Validate())
		r.Handle(path+"*", p)
		proxies = append(proxies, p)
	}
	mount("/api/", &wsproxy.Proxy{Pool: pools["api"], Policy: policy})
	mount("/ws/", &wsproxy.Proxy{Pool: pools["sockets"], Tunnels: wsproxy.TunnelLimits{Window: -1}})
	mount("/", &wsproxy.Proxy{Pool: pools["assets"]})
	page := &health.Page{}
	for _, name := range []string{"api", "sockets", "assets"} {
		page.Registries = append(page.Registries, &health.Registry{Pool: pools[name]})
	}
	r.Route("/operators", func(r chi.Router) {
		r.Use(middleware.BasicAuth("operators", map[string]string{"operator": "correct horse"}))
		r.Handle("/status", page.Handler())
		r.HandleFunc("/*", http.NotFound) // or assets would get the operators' passwords
	})
	return r, func(ctx context.Context) error { return wsproxy.Shutdown(ctx, proxies...) }
}

// passRequestID passes chi's ID of the request on to the backend.
func passRequestID(pr *httputil.ProxyRequest) {
	pr.Out.Header.Set(middleware.RequestIDHeader, middleware.GetReqID(pr.In.Context()))
}

// Three pools behind one chi router, with its middleware around all of them: sessions of the API
// stick over HTTP/2, assets come in turn, WebSockets pass through the middleware's ResponseWriter
// and get a close frame at the end, and each backend gets the request's ID that is in chi's log.
func TestProxy_W1_RouterWithChi(t *testing.T) {
	t.Parallel()
	ids := make(chan string, 100)
	pools := map[string]*balancer.Pool{}
	for _, name := range []string{"api", "sockets", "assets"} {
		conf := balancer.Config{Name: name, Picker: &balancer.RoundRobin{}}
		for _, id := range []string{name + "-1", name + "-2"} {
			conf.Targets = append(conf.Targets, target(t, id, routedBackend(t, id, ids).URL))
		}
		pool, err := balancer.New(conf)
		require.NoError(t, err)
		pools[name] = pool
	}
	var logged lines
	h, stop := chiRouter(t, log.New(&logged, "", 0), pools)
	srv := serve(t, "https", h)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	c := srv.Client()
	c.Jar, c.Timeout = jar, patience

	seen := map[string]bool{}
	get := func(path string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		require.NoError(t, err)
		res, err := c.Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, 2, res.ProtoMajor)
		return res, string(body)
	}
	home := ""
	for range 5 {
		_, id := get("/api/orders")
		require.True(t, strings.HasPrefix(id, "api-") && (home == "" || home == id), id)
		home = id
	}
	count := map[string]int{}
	for range 6 {
		_, id := get("/logo.png")
		count[id]++
	}
	require.Equal(t, map[string]int{"assets-1": 3, "assets-2": 3}, count)
	for range 11 {
		id := wait(t, ids, "a request's ID")
		require.NotEmpty(t, id)
		require.False(t, seen[id], "an ID comes twice")
		seen[id] = true
	}
	for _, path := range []string{"/operators/status", "/operators/logo.png"} {
		res, _ := get(path)
		require.Equal(t, http.StatusUnauthorized, res.StatusCode)
	}
	require.Empty(t, ids, "a backend got an operator's request")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/operators/status", nil)
	require.NoError(t, err)
	r.SetBasicAuth("operator", "correct horse")
	res, err := c.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	var status health.PageStatus
	require.NoError(t, json.NewDecoder(res.Body).Decode(&status))
	require.Len(t, status.Pools, 3)

	conn, res, err := coder.Dial(t.Context(), "wss"+strings.TrimPrefix(srv.URL, "https")+"/ws/chat", &coder.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots(srv)}}}})
	require.NoError(t, err)
	defer conn.CloseNow()
	require.True(t, strings.HasPrefix(res.Header.Get("Backend"), "sockets-"))
	for range 3 {
		require.NoError(t, conn.Write(t.Context(), coder.MessageText, []byte("hello")))
		_, got, err := conn.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
	}
	seen[wait(t, ids, "the WebSocket's ID")] = true
	require.Len(t, seen, 12)
	ended := make(chan error, 1)
	go func() { ended <- stop(t.Context()) }()
	_, _, err = conn.Read(t.Context())
	require.Equal(t, coder.StatusGoingAway, coder.CloseStatus(err), "%v", err)
	require.NoError(t, wait(t, ended, "the end"))
	_, again := get("/api/orders")
	require.Equal(t, home, again, "requests go on")
	seen[wait(t, ids, "the last request's ID")] = true
	for id := range seen {
		until(t, "chi has logged "+id, func() bool { return logged.has(id) }) // perhaps after the client has its answer
	}
	for _, pool := range pools {
		for _, m := range pool.Members() {
			until(t, "nothing is held", func() bool { return m.Load() == 0 })
		}
	}
}

// Lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// routedBackend answers with its name and echoes WebSockets. It reports the ID of each request.
func routedBackend(t *testing.T, id string, ids chan<- string) *httptest.Server {
	t.Helper()
	up := gorilla.Upgrader{}
	return serve(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids <- r.Header.Get(middleware.RequestIDHeader)
		if !gorilla.IsWebSocketUpgrade(r) {
			io.WriteString(w, id)
			return
		}
		conn, err := up.Upgrade(w, r, http.Header{"Backend": {id}})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			conn.WriteMessage(kind, message)
		}
	}))
}
