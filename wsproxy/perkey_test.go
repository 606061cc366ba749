package wsproxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
)

// byTenant is a Key.
func byTenant(r *http.Request) string { return r.Header.Get("Tenant") }

// A held is a transport whose requests with the path /hold wait until the test answers them.
type held struct {
	asked chan chan<- struct{} // by each that waits, with what lets it go
}

func newHeld() *held { return &held{make(chan chan<- struct{}, 100)} }

func (h *held) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/hold" {
		reply := make(chan struct{})
		h.asked <- reply
		<-reply
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// hold has a request wait at the target until release is called, which returns when it has left the
// proxy.
func (h *held) hold(t *testing.T, p *wsproxy.Proxy, r *http.Request) (release func()) {
	t.Helper()
	w, over := httptest.NewRecorder(), make(chan struct{})
	go func() {
		defer close(over)
		p.ServeHTTP(w, r)
	}()
	reply := wait(t, h.asked, "the request at the target")
	return func() {
		t.Helper()
		close(reply)
		wait(t, over, "the end of the request")
		require.Equal(t, http.StatusOK, w.Code)
	}
}

// asking is a request of that peer.
func asking(addr, path string, lines ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = addr
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// statusOf is what a request gets at once.
func statusOf(p *wsproxy.Proxy, r *http.Request) int {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Code
}

func TestProxy_B4_MaxPerKey(t *testing.T) {
	for _, status := range []int{0, http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			const secret = "token-of-a-tenant"
			var log logtest.Buffer
			logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			h, done := newHeld(), make(chan wsproxy.Record, 1)
			pool, err := balancer.New(balancer.Config{Queue: 10, Targets: []balancer.Target{
				{ID: "a", URL: target("a", "http://a.test").URL, MaxRequests: 2}}})
			require.NoError(t, err)
			seen := &outcomes{}
			defer pool.Observe(seen)()
			access := wsproxy.LogAccess(logger, nil)
			p := &wsproxy.Proxy{Pool: pool, Transport: h, Key: byTenant, MaxPerKey: 2, PerKeyStatus: status, Logger: logger,
				Trace: &wsproxy.Trace{
					Pick: func(_ *http.Request, m *balancer.Member, _ error) { require.NotNil(t, m) },
					Done: func(r *http.Request, rec wsproxy.Record) {
						access.Done(r, rec)
						if rec.Err != nil {
							done <- rec
						}
					},
				}}
			first := h.hold(t, p, asking("192.0.2.1:1", "/hold", "Tenant: "+secret))
			second := h.hold(t, p, asking("192.0.2.2:1", "/hold", "Tenant: "+secret))

			// The pool is full, and the queue would take it: it is refused before that.
			w := httptest.NewRecorder()
			p.ServeHTTP(w, asking("192.0.2.3:1", "/", "Tenant: "+secret))
			want := status
			if want == 0 {
				want = http.StatusServiceUnavailable
			}
			require.Equal(t, want, w.Code)
			require.Equal(t, "5", w.Header().Get("Retry-After"))
			rec := wait(t, done, "the record")
			require.Equal(t, want, rec.Status)
			require.Equal(t, netip.MustParseAddr("192.0.2.3"), rec.Client)
			require.Zero(t, rec.Attempts)
			failure, ok := errors.AsType[*wsproxy.Error](rec.Err)
			require.True(t, ok)
			require.Equal(t, wsproxy.ClassKeyLimit, failure.Class)
			require.Equal(t, "key limit", failure.Class.String())
			require.Empty(t, failure.Target)
			require.Empty(t, seen.classes(), "no lease was taken")
			require.Contains(t, log.String(), "key limit")

			first()
			require.Equal(t, http.StatusOK, statusOf(p, asking("192.0.2.3:1", "/", "Tenant: "+secret)), "a freed place")
			third := h.hold(t, p, asking("192.0.2.3:1", "/hold", "Tenant: "+secret))
			require.Equal(t, want, statusOf(p, asking("192.0.2.3:1", "/", "Tenant: "+secret)))
			second()
			require.Equal(t, http.StatusOK, statusOf(p, asking("192.0.2.3:1", "/", "Tenant: another")))
			third()
			require.NotContains(t, log.String(), secret)
		})
	}
}

// Who is one client: without a key, the client's address after trust.
func TestProxy_B5_MaxPerKeyByAddress(t *testing.T) {
	tests := map[string]struct {
		key           func(*http.Request) string
		first, second *http.Request
		refused       bool
	}{
		"one address, other ports": {nil, asking("192.0.2.1:1", "/hold"), asking("192.0.2.1:2", "/"), true},
		"another address":          {nil, asking("192.0.2.1:1", "/hold"), asking("192.0.2.2:1", "/"), false},
		"a mapped address":         {nil, asking("192.0.2.1:1", "/hold"), asking("[::ffff:192.0.2.1]:1", "/"), true},
		"one /64":                  {nil, asking("[2001:db8::1]:1", "/hold"), asking("[2001:db8::ffff:ffff]:1", "/"), true},
		"another /64":              {nil, asking("[2001:db8::1]:1", "/hold"), asking("[2001:db8:0:1::1]:1", "/"), false},
		"no address":               {nil, asking("@", "/hold"), asking("@", "/"), true},
		"an empty key":             {byTenant, asking("192.0.2.1:1", "/hold"), asking("192.0.2.1:2", "/"), true},
		"a key and none":           {byTenant, asking("192.0.2.1:1", "/hold", "Tenant: 192.0.2.1"), asking("192.0.2.1:2", "/"), false},
		"one key, two addresses":   {byTenant, asking("192.0.2.1:1", "/hold", "Tenant: t"), asking("192.0.2.2:2", "/", "Tenant: t"), true},
		"forwarded for two clients": {nil, asking("10.0.0.1:1", "/hold", "X-Forwarded-For: 192.0.2.1"),
			asking("10.0.0.1:1", "/", "X-Forwarded-For: 192.0.2.2"), false},
		"forwarded for one client": {nil, asking("10.0.0.1:1", "/hold", "X-Forwarded-For: 192.0.2.1"),
			asking("10.0.0.2:1", "/", "X-Forwarded-For: 192.0.2.1"), true},
		"not to be believed": {nil, asking("11.0.0.1:1", "/hold", "X-Forwarded-For: 192.0.2.1"),
			asking("11.0.0.1:1", "/", "X-Forwarded-For: 192.0.2.2"), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHeld()
			pool, _ := newPool(t, target("a", "http://a.test"))
			p := &wsproxy.Proxy{Pool: pool, Transport: h, Key: tt.key, MaxPerKey: 1, Logger: noLog,
				Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
			release := h.hold(t, p, tt.first)
			status := statusOf(p, tt.second)
			release()
			require.Equal(t, tt.refused, status == http.StatusServiceUnavailable)
			require.Equal(t, http.StatusOK, statusOf(p, tt.second))
		})
	}
}

// However a request ends, its place is free after it; and one that is made again counts once.
func TestProxy_B4_MaxPerKeyIsGivenBack(t *testing.T) {
	ways := map[string]func(p *wsproxy.Proxy){
		"Key panics":     func(p *wsproxy.Proxy) { p.Key = func(*http.Request) string { panic("a hook") } },
		"Rewrite panics": func(p *wsproxy.Proxy) { p.Rewrite = func(*httputil.ProxyRequest) { panic("a hook") } },
		"Target panics":  func(p *wsproxy.Proxy) { p.Target = func(*http.Request, *balancer.Member) { panic("a hook") } },
		"Pick panics": func(p *wsproxy.Proxy) {
			p.Trace = &wsproxy.Trace{Pick: func(*http.Request, *balancer.Member, error) { panic("a hook") }}
		},
		"Done panics": func(p *wsproxy.Proxy) {
			p.Trace = &wsproxy.Trace{Done: func(*http.Request, wsproxy.Record) { panic("a hook") }}
		},
		"Upgrade panics": func(p *wsproxy.Proxy) {
			p.Trace = &wsproxy.Trace{Upgrade: func(*http.Request, string) { panic("a hook") }}
		},
		"ErrorPage panics": func(p *wsproxy.Proxy) {
			p.Transport = &script{fail: map[string]error{"a": errBroken}}
			p.ErrorPage = func(http.ResponseWriter, *http.Request, *wsproxy.Error) { panic("a hook") }
		},
		"the target fails": func(p *wsproxy.Proxy) { p.Transport = &script{fail: map[string]error{"a": errBroken}} },
		"a retry":          func(p *wsproxy.Proxy) { p.Transport = &script{fail: map[string]error{"a": errRefused}} },
	}
	for name, change := range ways {
		t.Run(name, func(t *testing.T) {
			broken := atomic.Bool{}
			p := &wsproxy.Proxy{Pool: ordered(t, "a", "b"), MaxPerKey: 1, Logger: noLog, Transport: &script{},
				Tunnels: wsproxy.TunnelLimits{MaxPerKey: 1}}
			change(p)
			if p.Key != nil { // panics at first
				panics := p.Key
				p.Key = func(r *http.Request) string {
					if !broken.Swap(true) {
						return panics(r)
					}
					return ""
				}
			}
			srv := serve(t, p)
			last := 0
			for range 3 { // more than there are places
				c := dial(t, srv)
				if name == "Upgrade panics" {
					c.send(upgrade())
				} else {
					c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				}
				if res, err := http.ReadResponse(c.Reader, nil); err == nil {
					require.NotEqual(t, http.StatusServiceUnavailable, res.StatusCode)
					last = res.StatusCode
				}
				c.Close()
				for _, m := range p.Pool.Members() {
					idleMember(t, p.Pool, m.ID())
				}
			}
			switch name {
			case "Key panics", "a retry":
				require.Equal(t, http.StatusOK, last)
			case "the target fails":
				require.Equal(t, http.StatusBadGateway, last)
			}
		})
	}
}

func TestProxy_B4_PerKeyStatusIsChecked(t *testing.T) {
	pool, _ := newPool(t, target("a", "http://a.test"))
	for _, status := range []int{1, 200, 500, -1} {
		p := &wsproxy.Proxy{Pool: pool, PerKeyStatus: status}
		require.Panics(t, func() { statusOf(p, asking("192.0.2.1:1", "/")) })
	}
}

// A tunnel counts from its request on until both ends are closed; a client at its bound leaves the
// others their places.
func TestProxy_B4_MaxTunnelsPerKey(t *testing.T) {
	asked, answer := make(chan struct{}, 1), make(chan string)
	pool, picker := newPool(t, rawBackend(t, "a", echoing), rawBackend(t, "slow", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		asked <- struct{}{}
		io.WriteString(conn, <-answer)
		io.WriteString(conn, <-answer)
		io.Copy(conn, r)
	}))
	p, done, let, ends := perKeyFront(pool)
	srv := serve(t, p)
	open := func(tenant string) *wire {
		t.Helper()
		c := dial(t, srv)
		c.open("Tenant: " + tenant)
		require.NoError(t, wait(t, done, "the record").Err)
		wait(t, let, "Trace.Upgrade")
		return c
	}
	refused := func(tenant string) {
		t.Helper()
		c := dial(t, srv)
		c.send(upgrade("Tenant: " + tenant))
		res := c.response()
		require.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		require.Equal(t, "5", res.Header.Get("Retry-After"))
		failure, ok := errors.AsType[*wsproxy.Error](wait(t, done, "the record").Err)
		require.True(t, ok)
		require.Equal(t, wsproxy.ClassKeyLimit, failure.Class)
		require.Empty(t, let, "it is not let through")
	}
	first := open("one")
	picker.to("slow")
	waiting := dial(t, srv)
	waiting.send(upgrade("Tenant: one"))
	wait(t, asked, "the request at the target")
	wait(t, let, "Trace.Upgrade")
	picker.to("a")
	refused("one") // who waits for an answer counts
	refused("one")
	open("two")

	// A target that declines makes a plain response of it, which may take its time.
	answer <- "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nno"
	require.Equal(t, http.StatusOK, waiting.head().StatusCode)
	third := open("one")
	refused("one")
	answer <- "no"
	require.NoError(t, wait(t, done, "the record").Err)

	first.Conn.Close()
	wait(t, ends, "the end")
	open("one")
	refused("one")
	third.Conn.Close()
	wait(t, ends, "the end")
	open("one")
}

// perKeyFront is a proxy that gives each tenant two tunnels, and tells what it does.
func perKeyFront(pool *balancer.Pool) (*wsproxy.Proxy, chan wsproxy.Record, chan string, chan wsproxy.TunnelRecord) {
	done, let, ends := make(chan wsproxy.Record, 100), make(chan string, 100), make(chan wsproxy.TunnelRecord, 100)
	return &wsproxy.Proxy{
		Pool: pool, Key: byTenant, PerKeyStatus: http.StatusTooManyRequests,
		Tunnels: wsproxy.TunnelLimits{MaxPerKey: 2},
		Trace: &wsproxy.Trace{
			Upgrade: func(_ *http.Request, protocol string) { let <- protocol },
			Done:    func(_ *http.Request, r wsproxy.Record) { done <- r },
			Tunnel:  func(r wsproxy.TunnelRecord) { ends <- r },
		},
	}, done, let, ends
}

func TestProxy_B4_MaxTunnelsPerKeyOverHTTP2(t *testing.T) {
	if !inExtended(t) {
		return
	}
	pool, _ := newPool(t, rawBackend(t, "a", acceptingEcho))
	p, done, let, ends := perKeyFront(pool)
	p.MaxPerKey = 1 // the tunnels are no requests any more
	c := h2Front(t, p)
	open := func(tenant string) *h2Conn {
		t.Helper()
		conn := c.open(t, nil, "Tenant: "+tenant)
		require.NoError(t, wait(t, done, "the record").Err)
		wait(t, let, "Trace.Upgrade")
		return conn
	}
	refused := func(tenant string) {
		t.Helper()
		_, res, err := c.tryOpen(nil, "Tenant: "+tenant)
		require.NoError(t, err)
		require.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		require.Equal(t, "5", res.Header.Get("Retry-After"))
		failure, ok := errors.AsType[*wsproxy.Error](wait(t, done, "the record").Err)
		require.True(t, ok)
		require.Equal(t, wsproxy.ClassKeyLimit, failure.Class)
		require.Empty(t, let)
	}
	first := open("one")
	open("one")
	refused("one")
	refused("one")
	open("two")
	first.Reset()
	wait(t, ends, "the end")
	open("one")
	refused("one")
}

// An upgrade is a request in flight until its client knows of the switch, and none from then on.
func TestProxy_B4_UpgradeIsARequestUntilTheSwitch(t *testing.T) {
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		if req.Header.Get("Upgrade") == "" {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		asked <- struct{}{}
		<-answer
		echoing(conn, r, req)
	}))
	p := &wsproxy.Proxy{Pool: pool, MaxPerKey: 1}
	srv := serve(t, p)
	plain := func() int {
		t.Helper()
		c := dial(t, srv)
		c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		status := c.response().StatusCode
		c.expectEnd() // which follows the handler
		return status
	}
	for range 20 {
		c := dial(t, srv)
		c.send(upgrade())
		wait(t, asked, "the request at the target")
		require.Equal(t, http.StatusServiceUnavailable, plain())
		answer <- struct{}{}
		require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
		require.Equal(t, http.StatusOK, plain())
	}
}

// However many of its requests and upgrades come at a time, a tenant never has more of them at the
// targets than it may.
func TestProxy_B4_MaxPerKeyIsExact(t *testing.T) {
	const limit, tenants, clients, rounds = 3, 2, 24, 20
	var now, most, served [tenants]atomic.Int64
	enter := func(r *http.Request) func() {
		n := int(r.Header.Get("Tenant")[0] - '0')
		have := now[n].Add(1)
		for {
			top := most[n].Load()
			if have <= top || most[n].CompareAndSwap(top, have) {
				break
			}
		}
		served[n].Add(1)
		runtime.Gosched()
		return func() { now[n].Add(-1) }
	}
	pool, _ := newPool(t, rawBackend(t, "a", func(conn net.Conn, r *bufio.Reader, req *http.Request) {
		leave := enter(req)
		if req.Header.Get("Upgrade") == "" {
			leave() // before the client can know
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		io.WriteString(conn, switching())
		r.ReadByte() // the client says goodbye
		leave()
	}))
	p := &wsproxy.Proxy{Pool: pool, Key: byTenant, MaxPerKey: limit, Tunnels: wsproxy.TunnelLimits{MaxPerKey: limit}}
	srv := serve(t, p)
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() {
			tenant := fmt.Sprint("Tenant: ", i%tenants)
			for range rounds {
				conn, err := net.Dial("tcp", srv.Listener.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				r := bufio.NewReader(conn)
				if i%4 < 2 {
					io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n"+tenant+"\r\n\r\n")
				} else {
					io.WriteString(conn, upgrade(tenant))
				}
				if res, err := http.ReadResponse(r, nil); err != nil {
					t.Error(err)
				} else if res.StatusCode == http.StatusSwitchingProtocols {
					conn.Write([]byte("x"))
					io.Copy(io.Discard, r)
				}
				conn.Close()
			}
		})
	}
	running.Wait()
	idleMember(t, pool, "a")
	for n := range tenants {
		require.LessOrEqual(t, most[n].Load(), int64(2*limit), "requests and tunnels")
		require.Positive(t, served[n].Load())
	}
	for range limit { // nothing is counted any more
		c := dial(t, srv)
		c.open("Tenant: 0")
	}
}
