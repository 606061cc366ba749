package dashboardtest_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/prometheus"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

var quiet = slog.New(slog.DiscardHandler)

// A site has four pools with proxies in front of them, and serves their metrics.
//
//   - shop: HTTP with a policy and retries. Targets: app (well), busy (answers 503, which is
//     retried), dead-1 and dead-2 (refuse connections; their check does not notice, and one of them
//     may be ejected), sick (its check fails; alone in its zone), old (draining).
//   - narrow: HTTP; one target that takes one request at a time, and a queue.
//   - chat: WebSockets.
//   - mail: TCP.
type site struct {
	metrics            string // host:port
	shop, narrow, chat *httptest.Server
	mail               string // host:port
	entered, leave     chan struct{}
	narrowPool         *balancer.Pool
	kept               *websocket.Conn // a tunnel that stays open
	unbound            *http.Client
}

func newSite(t *testing.T) *site {
	s := &site{entered: make(chan struct{}), leave: make(chan struct{}), unbound: &http.Client{}}
	pool := func(c balancer.Config) *balancer.Pool {
		p, err := balancer.New(c)
		require.NoError(t, err)
		return p
	}
	answering := func(status int) *url.URL {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/reset" && status == http.StatusOK {
				time.Sleep(time.Millisecond)
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(status)
		}))
	}
	refusing := refused()
	shop := pool(balancer.Config{Name: "shop", Picker: &balancer.RoundRobin{}, Targets: []balancer.Target{
		{ID: "app", URL: answering(http.StatusOK), Zone: "east"},
		{ID: "busy", URL: answering(http.StatusServiceUnavailable), Zone: "east"},
		{ID: "dead-1", URL: refusing}, {ID: "dead-2", URL: refusing},
		{ID: "sick", URL: answering(http.StatusOK), Zone: "west"},
		{ID: "old", URL: answering(http.StatusOK), Zone: "east"},
	}})
	old, _ := shop.Member("old")
	old.SetAdmin(balancer.Draining)
	s.narrowPool = pool(balancer.Config{Name: "narrow", Queue: 10, QueueTimeout: time.Second, Targets: []balancer.Target{
		{ID: "one", MaxRequests: 1, URL: serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			s.entered <- struct{}{}
			<-s.leave
		}))},
	}})
	chat := pool(balancer.Config{Name: "chat", Targets: []balancer.Target{
		{ID: "room", URL: serve(t, websocket.Handler(func(c *websocket.Conn) { io.Copy(c, c) }))},
	}})
	mail := pool(balancer.Config{Name: "mail", Targets: []balancer.Target{{ID: "imap", Addr: echo(t), URL: &url.URL{Scheme: "tcp", Host: "imap.invalid:143"}}}})

	check := health.Func(func(_ context.Context, tg balancer.Target) error {
		if tg.ID == "sick" {
			return errors.New("sick")
		}
		return nil
	})
	var registries []*health.Registry
	for _, p := range []*balancer.Pool{shop, s.narrowPool, chat, mail} {
		// An ejection has to last as long as the test.
		r := &health.Registry{Pool: p, Check: check, Interval: 300 * time.Millisecond, Fall: 1, Logger: quiet,
			Passive: &health.Passive{MaxShare: 0.2, Ratio: -1, Ejection: time.Hour, MaxEjection: time.Hour}}
		registries = append(registries, r)
		run(t, r)
	}
	collector, err := prometheus.New(prometheus.Options{Registries: registries})
	require.NoError(t, err)
	t.Cleanup(collector.Observe())
	metrics := prom.NewPedanticRegistry()
	metrics.MustRegister(collector)
	s.metrics = serve(t, promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})).Host

	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(t, err)
	proxy := func(p *wsproxy.Proxy) *httptest.Server {
		p.Trace, p.Logger = collector.Trace(p.Pool), quiet
		srv := httptest.NewServer(p)
		t.Cleanup(func() { p.Close(); srv.Close() })
		return srv
	}
	s.shop = proxy(&wsproxy.Proxy{Pool: shop, Policy: policy, Retry: wsproxy.Retry{On: []int{http.StatusServiceUnavailable}}})
	s.narrow = proxy(&wsproxy.Proxy{Pool: s.narrowPool})
	s.chat = proxy(&wsproxy.Proxy{Pool: chat, Policy: policy})

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &stream.Server{Pool: mail, Trace: collector.StreamTrace(), Logger: quiet}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	s.mail = l.Addr().String()
	return s
}

func serve(t *testing.T, h http.Handler) *url.URL {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.Start()
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	return u
}

// refused returns a URL whose connections are refused: port 1 is nobody's here, and never given
// out.
func refused() *url.URL { return &url.URL{Scheme: "http", Host: "127.0.0.1:1"} }

// echo returns the address of a listener that sends back what comes.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

func run(t *testing.T, r *health.Registry) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	require.NoError(t, r.Ready(t.Context()))
}

// The counts of one round of traffic.
const (
	boundRequests   = 10 // to shop, after one that binds
	forgedRequests  = 3
	unboundRequests = 20
	resets          = 2
	served          = 2 // out of narrow's queue
	timeouts        = 1
	tunnels         = 3
	connections     = 4
)

// round makes one round of traffic. It returns when everything except one tunnel has ended.
func (s *site) round(t *testing.T) {
	t.Helper()
	get := func(u, cookie string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
		require.NoError(t, err)
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		res, err := s.unbound.Do(r)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res
	}
	for range unboundRequests {
		require.Equal(t, http.StatusOK, get(s.shop.URL, "").StatusCode, "what is retried ends well")
	}
	first := get(s.shop.URL, "")
	require.Len(t, first.Cookies(), 1)
	bound := first.Cookies()[0].Name + "=" + first.Cookies()[0].Value
	for range boundRequests {
		require.Equal(t, http.StatusOK, get(s.shop.URL, bound).StatusCode)
	}
	for range forgedRequests {
		get(s.shop.URL, first.Cookies()[0].Name+"=forged")
	}
	for range resets {
		require.Equal(t, http.StatusBadGateway, get(s.shop.URL+"/reset", bound).StatusCode)
	}
	s.queueUp(t, get)
	for range tunnels {
		c := s.open(t)
		require.NoError(t, c.Close())
	}
	if s.kept == nil {
		s.kept = s.open(t)
		t.Cleanup(func() { s.kept.Close() })
	}
	for range connections {
		c, err := net.Dial("tcp", s.mail)
		require.NoError(t, err)
		say(t, c)
		require.NoError(t, c.Close())
	}
}

// queueUp keeps the target of narrow busy while other requests wait. Some of them are served later,
// and some time out.
func (s *site) queueUp(t *testing.T, get func(u, cookie string) *http.Response) {
	var waiting sync.WaitGroup
	waiting.Go(func() { get(s.narrow.URL, "") })
	<-s.entered
	for range served {
		waiting.Go(func() { get(s.narrow.URL, "") })
	}
	require.Eventually(t, func() bool { return s.narrowPool.Waiting() == served }, patience, time.Millisecond)
	for range served {
		s.leave <- struct{}{}
		<-s.entered
	}
	for range timeouts {
		require.Equal(t, http.StatusServiceUnavailable, get(s.narrow.URL, "").StatusCode)
	}
	s.leave <- struct{}{}
	waiting.Wait()
}

func (s *site) open(t *testing.T) *websocket.Conn {
	t.Helper()
	c, err := websocket.Dial("ws"+s.chat.URL[len("http"):], "", "http://localhost")
	require.NoError(t, err)
	say(t, c)
	return c
}

// say sends a line and reads it again.
func say(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.WriteString(c, "hello")
	require.NoError(t, err)
	got := make([]byte, 5)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
}
