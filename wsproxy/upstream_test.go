package wsproxy_test

import (
	"context"
	"crypto/tls"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// A service is one address with several pods behind it: each connection belongs to the pod that new
// ones go to when it is accepted.
type service struct {
	target balancer.Target
	tls    *tls.Config // that trusts it; nil without TLS
	addr   string
	srv    *httptest.Server
	pod    atomic.Pointer[string]
	closed chan string // pods of connections that have ended
}

type podKey struct{}

// serviceKinds are how targets speak.
var serviceKinds = []string{"http", "https", "h2", "h2c"}

// newService starts a service of that kind whose connections go to pod a. A nil handler answers
// with the pod.
func newService(t testing.TB, kind string, handler http.HandlerFunc) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return newServiceOn(t, l, kind, handler, nil)
}

// newServiceOn starts a service on a listener. configure, if not nil, may change the TLS of the
// server.
func newServiceOn(t testing.TB, l net.Listener, kind string, handler http.HandlerFunc, configure func(*tls.Config)) *service {
	t.Helper()
	s := &service{closed: make(chan string, 100)}
	s.to("a")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Pod", r.Context().Value(podKey{}).(string))
		if handler != nil {
			handler(w, r)
		}
	}))
	var pods sync.Map
	prepare(srv, func(conf *http.Server) {
		conf.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			pod := *s.pod.Load()
			pods.Store(c, pod)
			return context.WithValue(ctx, podKey{}, pod)
		}
		conf.ConnState = func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				pod, _ := pods.Load(c)
				s.closed <- pod.(string)
			}
		}
		conf.MaxHeaderBytes = 8 << 20
	})
	srv.Listener.Close()
	srv.Listener, s.srv = l, srv
	scheme := kind + "://"
	switch kind {
	case "h2":
		scheme, srv.EnableHTTP2 = "https://", true
	case "h2c":
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	if scheme == "https://" {
		srv.TLS = &tls.Config{}
		if configure != nil {
			configure(srv.TLS)
		}
		srv.StartTLS()
		s.tls = &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
		if l.Addr().Network() == "tcp" {
			s.tls.ServerName = "example.com"
		}
	} else {
		srv.Start()
	}
	t.Cleanup(s.stop)
	if s.addr = l.Addr().String(); l.Addr().Network() == "unix" {
		s.target = target("a", scheme+"app.internal")
		s.target.Addr, s.target.ServerName = "unix:"+s.addr, "example.com"
		if s.tls == nil {
			s.target.ServerName = ""
		}
	} else {
		s.target = target("a", scheme+s.addr)
	}
	return s
}

// stop ends the service and its connections.
func (s *service) stop() {
	s.srv.CloseClientConnections()
	s.srv.Close()
}

// to sends new connections to a pod.
func (s *service) to(pod string) { s.pod.Store(&pod) }

// ended waits for the end of a connection to the pod. A request that meets the end of the
// connection's age as it begins may take another one, so that there are two.
func (s *service) ended(t testing.TB, pod string) {
	t.Helper()
	for wait(t, s.closed, "the end of a connection to pod "+pod) != pod {
	}
}

// reaches sends new connections to a pod, and asks until one of them answers. There may be an older
// connection, whose age ends.
func (s *service) reaches(t testing.TB, c *client, pod string) {
	t.Helper()
	for s.to(pod); c.get("/").Header.Get("Pod") != pod; {
		wait(t, s.closed, "the end of an older connection")
	}
}

// front serves a proxy for the service with those limits.
func (s *service) front(t testing.TB, limits wsproxy.Upstream) (*client, *wsproxy.Proxy) {
	pool, _ := newPool(t, s.target)
	p := &wsproxy.Proxy{Pool: pool, BackendTLS: s.tls, Upstream: limits}
	return newClient(t, serve(t, p)), p
}

// inKinds runs a test with every kind of service.
func inKinds(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range serviceKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

// A connection gets no request after its age, nor is it kept until one comes: what is new behind an
// address gets its share. Without an age it is used for ever.
func TestProxy_W16_MaxAgeIdle(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		const age = 20 * time.Millisecond
		s := newService(t, kind, nil)
		c, _ := s.front(t, wsproxy.Upstream{MaxAge: age})
		for _, pod := range []string{"a", "b", "c"} {
			s.reaches(t, c, pod)
			s.ended(t, pod) // though nobody asks
		}
		s.reaches(t, c, "a")
		s.to("b")
		time.Sleep(age)
		require.Equal(t, "b", c.get("/").Header.Get("Pod"))
		s.ended(t, "a")

		young, _ := s.front(t, wsproxy.Upstream{MaxAge: time.Hour})
		ageless, _ := s.front(t, wsproxy.Upstream{})
		for _, c := range []*client{young, ageless} {
			s.reaches(t, c, "a")
			s.to("b")
			time.Sleep(age)
			require.Equal(t, "a", c.get("/").Header.Get("Pod"))
		}
	})
}

// A connection that reaches its age while requests run is not cut, gets no other, and is closed
// when they are over.
func TestProxy_W16_MaxAgeBusy(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		const age = 20 * time.Millisecond
		goOn := make(chan struct{})
		s := newService(t, kind, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/long" {
				return
			}
			io.WriteString(w, "begin ")
			http.NewResponseController(w).Flush()
			<-goOn
			io.WriteString(w, "end")
		})
		release := sync.OnceFunc(func() { close(goOn) })
		t.Cleanup(release)
		c, p := s.front(t, wsproxy.Upstream{MaxAge: age, Jitter: -1})
		res, err := c.Get(c.url + "/long")
		require.NoError(t, err)
		defer res.Body.Close()
		s.to("b")
		time.Sleep(age)
		for range 3 {
			require.Equal(t, "b", c.get("/").Header.Get("Pod"))
			s.ended(t, "b")
		}
		release()
		all, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "begin end", string(all))
		require.Equal(t, "a", res.Header.Get("Pod"))
		s.ended(t, "a")
		idleMember(t, p.Pool, "a")
	})
}

// The limits hold whatever the target speaks.
func TestProxy_W16_UpstreamHeaderTimeout(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		gone := make(chan struct{})
		s := newService(t, kind, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/never" {
				<-gone
			}
		})
		t.Cleanup(func() { close(gone) })
		c, _ := s.front(t, wsproxy.Upstream{HeaderTimeout: time.Millisecond})
		require.Equal(t, http.StatusGatewayTimeout, c.get("/never").StatusCode)
		require.Equal(t, http.StatusGatewayTimeout, c.do(http.MethodPost, "/never", strings.NewReader("x")).StatusCode)
	})
}

// An answer that takes longer to begin than a target may take nothing of an upload.
func TestProxy_W16_UpstreamLongAnswer(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		const limit = 500 * time.Millisecond
		for _, timeout := range []time.Duration{time.Hour, math.MaxInt64, -1, math.MinInt64} {
			t.Run(timeout.String(), func(t *testing.T) {
				t.Parallel() // they wait
				s := newService(t, kind, func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost {
						io.Copy(io.Discard, r.Body)
						time.Sleep(limit + limit/4)
					}
					io.WriteString(w, "an answer")
				})
				pool, _ := newPool(t, s.target)
				p := &wsproxy.Proxy{Pool: pool, BackendTLS: s.tls, Upstream: wsproxy.Upstream{HeaderTimeout: timeout}}
				wsproxy.LimitUploads(p, limit)
				c := newClient(t, serve(t, p))
				require.Equal(t, "an answer", c.get("/").body)
				require.Equal(t, "an answer", c.do(http.MethodPost, "/", strings.NewReader("a question")).body)
			})
		}
	})
}

func TestProxy_W16_UpstreamHeaderBytes(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		s := newService(t, kind, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", len(r.URL.Query().Get("n"))<<10))
		})
		c, _ := s.front(t, wsproxy.Upstream{MaxHeaderBytes: 16 << 10})
		require.Equal(t, http.StatusOK, c.get("/?n="+strings.Repeat("x", 10)).StatusCode)
		require.Equal(t, http.StatusBadGateway, c.get("/?n="+strings.Repeat("x", 20)).StatusCode)
		c, _ = s.front(t, wsproxy.Upstream{MaxHeaderBytes: -1})
		require.Equal(t, http.StatusOK, c.get("/?n="+strings.Repeat("x", 20)).StatusCode)
	})
}

func TestProxy_W16_UpstreamIdle(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		tests := map[string]struct {
			limits wsproxy.Upstream
			kept   bool
		}{
			"none kept":   {wsproxy.Upstream{MaxIdle: -1}, false},
			"short":       {wsproxy.Upstream{IdleTimeout: time.Millisecond}, false},
			"usual":       {wsproxy.Upstream{}, true},
			"no limit":    {wsproxy.Upstream{IdleTimeout: -1, MaxIdle: 1}, true},
			"no lifetime": {wsproxy.Upstream{MaxAge: -1}, true},
		}
		for name, tt := range tests {
			s := newService(t, kind, nil)
			c, _ := s.front(t, tt.limits)
			c.get("/")
			if !tt.kept {
				wait(t, s.closed, name)
				s.reaches(t, c, "b") // the request may have met the end of one connection, and taken another
				continue
			}
			s.to("b")
			require.Equal(t, "a", c.get("/").Header.Get("Pod"), name)
		}
	})
}

// The largest and the smallest values mean what large and negative ones do.
func TestProxy_W16_UpstreamExtremes(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		for _, d := range []time.Duration{math.MaxInt64, math.MinInt64} {
			for _, n := range []int{math.MaxInt, math.MinInt} {
				s := newService(t, kind, nil)
				c, _ := s.front(t, wsproxy.Upstream{DialTimeout: d, TLSTimeout: d, HeaderTimeout: d, IdleTimeout: d, MaxAge: d,
					MaxIdle: n, MaxHeaderBytes: n, Jitter: n})
				for range 3 {
					require.Equal(t, http.StatusOK, c.get("/").StatusCode)
					require.Equal(t, http.StatusOK, c.do(http.MethodPost, "/", strings.NewReader("x")).StatusCode)
				}
			}
		}
	})
}

// A target that does not answer the TLS handshake, and one that cannot be reached.
func TestProxy_W16_UpstreamConnectTimeouts(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	tests := map[string]struct {
		url    string
		limits wsproxy.Upstream
		class  wsproxy.Class
	}{
		"tls":        {"https://" + silent.Addr().String(), wsproxy.Upstream{TLSTimeout: time.Millisecond}, wsproxy.ClassTLS},
		"dial http":  {"http://" + silent.Addr().String(), wsproxy.Upstream{DialTimeout: 1}, wsproxy.ClassDial},
		"dial https": {"https://" + silent.Addr().String(), wsproxy.Upstream{DialTimeout: 1}, wsproxy.ClassDial},
		"dial h2c":   {"h2c://" + silent.Addr().String(), wsproxy.Upstream{DialTimeout: 1}, wsproxy.ClassDial},
	}
	for name, tt := range tests {
		pool, _ := newPool(t, target("a", tt.url))
		failures := make(chan *wsproxy.Error, 1)
		p := &wsproxy.Proxy{Pool: pool, Upstream: tt.limits, ErrorPage: func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
			failures <- e
			w.WriteHeader(e.Status)
		}}
		require.Equal(t, http.StatusGatewayTimeout, newClient(t, serve(t, p)).get("/").StatusCode, name)
		require.Equal(t, tt.class, wait(t, failures, name).Class, name)
	}
}

// A Transport has limits of its own.
func TestProxy_W16_UpstreamWithTransport(t *testing.T) {
	pool, _ := newPool(t, target("a", "http://a.example"))
	for _, rt := range []http.RoundTripper{&http.Transport{}, roundTripper(http.DefaultTransport.RoundTrip)} {
		p := &wsproxy.Proxy{Pool: pool, Transport: rt, Upstream: wsproxy.Upstream{MaxAge: time.Hour}}
		require.PanicsWithValue(t, "wsproxy: Upstream is set, but Transport has its own limits", func() {
			p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		})
	}
}

// A member that leaves its pool takes its connections along: at once, or when its last request is
// over.
func TestProxy_W16_RemovedMember(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		goOn := make(chan struct{})
		s := newService(t, kind, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				http.NewResponseController(w).Flush()
				<-goOn
			}
		})
		release := sync.OnceFunc(func() { close(goOn) })
		t.Cleanup(release)
		c, p := s.front(t, wsproxy.Upstream{IdleTimeout: -1})
		c.get("/")
		other := newBackend(t, "b", nil)
		require.NoError(t, p.Pool.Update(other.target()))
		wait(t, s.closed, "the idle connection's end")

		require.NoError(t, p.Pool.Update(s.target))
		res, err := c.Get(c.url + "/long")
		require.NoError(t, err)
		require.NoError(t, p.Pool.Update(other.target()))
		release()
		_, err = io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		wait(t, s.closed, "the busy connection's end")
		require.Equal(t, "b", c.get("/").backend())
	})
}

// A member that has left its pool just before a request enters its lane leaves nothing behind
// either, with transports of the proxy and of the caller.
func TestProxy_W16_RemovedMemberEnters(t *testing.T) {
	inKinds(t, func(t *testing.T, kind string) {
		for _, given := range []bool{false, true} {
			s := newService(t, kind, nil)
			pool, _ := newPool(t, s.target)
			p := &wsproxy.Proxy{Pool: pool, BackendTLS: s.tls, Target: func(*http.Request, *balancer.Member) {
				if err := pool.Update(target("b", "http://127.0.0.1:1")); err != nil {
					panic(err)
				}
			}}
			if given {
				transport := &http.Transport{TLSClientConfig: s.tls, ForceAttemptHTTP2: kind == "h2"}
				t.Cleanup(transport.CloseIdleConnections)
				p.Transport, p.BackendTLS = transport, nil
			}
			require.Equal(t, http.StatusOK, newClient(t, serve(t, p)).get("/").StatusCode)
			require.Zero(t, wsproxy.Lanes(p))
			if !given {
				s.ended(t, "a")
			}
		}
	})
}
