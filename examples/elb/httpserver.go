package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/wsproxy"
)

// Limits for clients.
const (
	headerTimeout = 10 * time.Second // for a request's header
	callTimeout   = 30 * time.Second // for a whole call of the API
)

// An httpServer serves a front for HTTP or HTTPS. Each of its turns is a proxy on the same pool and
// with the same stickiness.
type httpServer struct {
	front  *front
	server *http.Server
	now    atomic.Pointer[httpTurn]

	mu    sync.Mutex
	turns []*httpTurn // that are not closed
}

type httpTurn struct {
	turnstile
	proxy *wsproxy.Proxy
}

func newHTTPServer(f *front) *httpServer {
	s := &httpServer{front: f}
	s.server = &http.Server{
		Handler: s, TLSConfig: f.clientTLS(), ConnContext: wsproxy.ConnContext, ReadHeaderTimeout: headerTimeout,
		ErrorLog: slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
	}
	return s
}

// ServeHTTP passes a request to the proxy whose turn it is.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := s.now.Load()
	for !t.enter() {
		t = s.now.Load()
	}
	defer t.leave()
	t.proxy.ServeHTTP(w, r)
}

func (s *httpServer) turn(set turnSettings, backend *tls.Config) {
	t := &httpTurn{}
	t.proxy = &wsproxy.Proxy{
		Pool: s.front.pool, Policy: &s.front.sticky, BackendTLS: backend, SendProxy: set.sendProxy, Logger: s.front.log,
		Upstream: wsproxy.Upstream{HeaderTimeout: set.idle},
		Tunnels:  wsproxy.TunnelLimits{Idle: set.idle},
		Trace: &wsproxy.Trace{Switch: func(*http.Request) func(wsproxy.TunnelRecord) {
			t.stay()
			return func(wsproxy.TunnelRecord) { t.leave() }
		}},
	}
	t.close = func() {
		t.proxy.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.turns = slices.DeleteFunc(s.turns, func(o *httpTurn) bool { return o == t })
	}
	s.mu.Lock()
	s.turns = append(s.turns, t)
	s.mu.Unlock()
	if before := s.now.Swap(t); before != nil {
		before.end()
	} else {
		s.server.IdleTimeout = set.idle // nothing is served yet; http.Server cannot change it later
	}
}

func (s *httpServer) serve(l net.Listener) {
	if s.server.TLSConfig != nil {
		s.server.ServeTLS(l, "", "")
		return
	}
	s.server.Serve(l)
}

func (s *httpServer) shutdown(ctx context.Context) {
	s.mu.Lock()
	turns := slices.Clone(s.turns)
	s.mu.Unlock()
	var proxies []wsproxy.Shutdowner
	for _, t := range turns {
		proxies = append(proxies, t.proxy)
	}
	wsproxy.Shutdown(ctx, proxies...)
	s.server.Shutdown(ctx)
	s.server.Close()
	for _, t := range turns {
		t.proxy.Close()
	}
}
