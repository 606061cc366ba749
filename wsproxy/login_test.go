package wsproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A stranger is a RoundTripper that the proxy knows nothing of, over http.Transport as most are.
type stranger struct{ http.RoundTripper }

// Whatever carries the requests: what Alice has logged in is not there for Bob.
func TestProxy_W14_ALoginIsNobodyElses(t *testing.T) {
	t.Parallel() // it waits
	accepting := func(s *httptest.Server) {
		s.Listener = &proxyproto.Listener{Listener: s.Listener, Trusted: loopbackNet, Timeout: patience}
	}
	own := func(t *testing.T) *http.Transport {
		tr := &http.Transport{TLSClientConfig: insecure(), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 10}
		t.Cleanup(tr.CloseIdleConnections)
		return tr
	}
	kinds := map[string]struct {
		proxy   func(t *testing.T) *wsproxy.Proxy
		backend []func(*httptest.Server)
	}{
		"ours": {func(*testing.T) *wsproxy.Proxy { return &wsproxy.Proxy{} }, nil},
		"ours over TLS": {func(*testing.T) *wsproxy.Proxy { return &wsproxy.Proxy{BackendTLS: insecure()} },
			[]func(*httptest.Server){overTLS}},
		"the caller's": {func(t *testing.T) *wsproxy.Proxy { return &wsproxy.Proxy{Transport: own(t)} }, nil},
		"the caller's over TLS": {func(t *testing.T) *wsproxy.Proxy { return &wsproxy.Proxy{Transport: own(t)} },
			[]func(*httptest.Server){overTLS}},
		"a stranger": {func(t *testing.T) *wsproxy.Proxy { return &wsproxy.Proxy{Transport: stranger{own(t)}} }, nil},
		"PROXY headers": {func(*testing.T) *wsproxy.Proxy { return &wsproxy.Proxy{SendProxy: 2} },
			[]func(*httptest.Server){accepting}},
		"a hook": {func(*testing.T) *wsproxy.Proxy {
			return &wsproxy.Proxy{Rewrite: func(pr *httputil.ProxyRequest) {}}
		}, nil},
	}
	for kind, tt := range kinds {
		for name, lines := range map[string][]string{
			"Negotiate":     {"Authorization: Negotiate alice"},
			"letter case":   {"authorization: nEGOTIATE alice"},
			"several lines": {"Authorization: Basic eA==", "Authorization: negotiate alice"},
			"a list":        {"Authorization: Basic eA==, Negotiate alice"},
			"with a body":   {"Authorization: Negotiate alice", "Content-Length: 0"},
			"an upgrade":    {"Authorization: Negotiate alice", "Connection: Upgrade", "Upgrade: nothing"},
			"hidden":        {"Authorization: Negotiate alice", "Connection: Authorization"},
		} {
			for _, pinned := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/pinned=%t", kind, name, pinned), func(t *testing.T) {
					b := newLoginBackend(t, "a", tt.backend...)
					p := tt.proxy(t)
					p.Pool, _ = newPool(t, b.target())
					srv := serve(t, p)
					if pinned {
						srv = serveLogins(t, p)
					}
					alice := newLoginClient(t, srv)
					require.Equal(t, anonymous, alice.ask("/"), "a pooled connection, if there is a pool")
					require.Equal(t, "hello alice", alice.ask("/", lines...))
					require.EqualValues(t, 1, b.major.Load())
					for range 3 {
						bob := newLoginClient(t, srv)
						require.Equal(t, anonymous, bob.ask("/"))
						require.Equal(t, anonymous, bob.ask("/"))
					}
					want := anonymous
					if pinned && kind != "a stranger" {
						want = "hello alice"
					}
					require.Equal(t, want, alice.ask("/"))
				})
			}
		}
	}
}

// What the request of an upgrade has logged in is nobody else's, whatever its answer.
func TestProxy_W14_UpgradesLogIn(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		for scheme, configure := range map[string][]func(*httptest.Server){"http": nil, "https": {overTLS}} {
			t.Run(fmt.Sprintf("%s/pinned=%t", scheme, pinned), func(t *testing.T) {
				b := newLoginBackend(t, "a", configure...)
				p := &wsproxy.Proxy{BackendTLS: insecure()}
				p.Pool, _ = newPool(t, b.target())
				srv := serve(t, p)
				if pinned {
					srv = serveLogins(t, p)
				}
				alice := newLoginClient(t, srv)
				alice.send(upgrade("Authorization: NTLM hello"))
				require.Equal(t, "challenge-1", alice.answer())
				alice.send(upgrade("Authorization: NTLM alice challenge-1"))
				if !pinned {
					require.Equal(t, anonymous, alice.answer())
					require.Equal(t, anonymous, newLoginClient(t, srv).ask("/"))
					return
				}
				res := alice.head()
				require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
				require.Equal(t, "alice", res.Header.Get("User"))
				alice.send("frame")
				alice.expect("frame")
				require.Equal(t, anonymous, newLoginClient(t, srv).ask("/"))
			})
		}
	}
}

// Two clients log in, step by step in turns.
func TestProxy_W14_ThreeSteps(t *testing.T) {
	for scheme, configure := range map[string][]func(*httptest.Server){"http": nil, "https": {overTLS}} {
		t.Run(scheme, func(t *testing.T) {
			for _, pinned := range []bool{false, true} {
				t.Run(fmt.Sprintf("pinned=%t", pinned), func(t *testing.T) {
					a, b := newLoginBackend(t, "a", configure...), newLoginBackend(t, "b", configure...)
					p := &wsproxy.Proxy{BackendTLS: insecure()}
					var pick *pointer
					p.Pool, pick = newPool(t, a.target(), b.target())
					srv := serve(t, p)
					if pinned {
						srv = serveLogins(t, p)
					}
					alice, bob := newLoginClient(t, srv), newLoginClient(t, srv)
					require.Equal(t, anonymous, alice.ask("/"))
					require.Equal(t, anonymous, bob.ask("/"))
					ofAlice, ofBob := alice.ask("/", "Authorization: NTLM hello"), bob.ask("/", "Authorization: NTLM hello")
					require.NotEqual(t, ofAlice, ofBob)
					pick.to("b") // of no account for connections that are pinned
					gotAlice := alice.ask("/", "Authorization: NTLM alice "+ofAlice)
					gotBob := bob.ask("/", "Authorization: NTLM bob "+ofBob)
					if !pinned {
						require.Equal(t, anonymous, gotAlice)
						require.Equal(t, anonymous, gotBob)
						return
					}
					require.Equal(t, "hello alice", gotAlice)
					require.Equal(t, "hello bob", gotBob)
					for range 3 {
						require.Equal(t, "hello alice", alice.ask("/"), "logged in is the connection")
						require.Equal(t, "hello bob", bob.ask("/", "Authorization: Basic eA=="), "another scheme later")
						require.Equal(t, anonymous, newLoginClient(t, srv).ask("/"))
					}
					// Another login on the same connection is the same client's.
					require.Equal(t, "hello carol", alice.ask("/", "Authorization: Negotiate carol"))
					require.Equal(t, "hello carol", alice.ask("/"))
					require.Equal(t, "hello bob", bob.ask("/"))
					require.NotEqual(t, alice.conn, bob.conn)
				})
			}
		})
	}
}

// login takes the client's connection through the three steps.
func (c *loginClient) login(user string) string {
	c.t.Helper()
	return c.ask("/", "Authorization: NTLM "+user+" "+c.ask("/", "Authorization: NTLM hello"))
}

// A pinned connection ends with its target's turn, with the proxy and with its client, and is not
// missed: the client logs in again.
func TestProxy_W14_WhatEndsAPinnedConnection(t *testing.T) {
	tests := map[string]struct {
		end  func(p *wsproxy.Proxy, alice *loginClient)
		next string // target of the next request; empty when the client is gone
	}{
		"target moving": {func(p *wsproxy.Proxy, alice *loginClient) {
			member(t, p.Pool, "a").SetAdmin(balancer.Moving)
		}, "b"},
		"target down": {func(p *wsproxy.Proxy, alice *loginClient) {
			member(t, p.Pool, "a").SetAdmin(balancer.Down)
		}, "b"},
		"target removed": {func(p *wsproxy.Proxy, alice *loginClient) {
			require.NoError(t, p.Pool.Update(member(t, p.Pool, "b").Target()))
		}, "b"},
		"another target of that name": {func(p *wsproxy.Proxy, alice *loginClient) {
			next := member(t, p.Pool, "b").Target()
			next.ID = "a"
			require.NoError(t, p.Pool.Update(next))
		}, "b"},
		"shutdown": {func(p *wsproxy.Proxy, alice *loginClient) {
			require.NoError(t, p.Shutdown(context.Background()))
		}, "a"},
		"client gone": {func(p *wsproxy.Proxy, alice *loginClient) { alice.Close() }, ""},
		"client reset": {func(p *wsproxy.Proxy, alice *loginClient) {
			alice.Conn.(*net.TCPConn).SetLinger(0)
			alice.Close()
		}, ""},
		"client closes with its last request": {func(p *wsproxy.Proxy, alice *loginClient) {
			require.Equal(t, "hello alice", alice.ask("/", "Connection: close"))
		}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait
			a, b := newLoginBackend(t, "a"), newLoginBackend(t, "b")
			p := &wsproxy.Proxy{}
			p.Pool, _ = newPool(t, a.target(), b.target())
			alice := newLoginClient(t, serveLogins(t, p))
			require.Equal(t, "hello alice", alice.login("alice"))
			require.Equal(t, 1, a.connections())
			tt.end(p, alice)
			require.True(t, leaktest.Polled(func() bool { return a.connections() == 0 }))
			if tt.next == "" {
				return
			}
			require.Equal(t, anonymous, alice.ask("/"))
			require.Equal(t, tt.next, alice.conn[:1])
			if name != "shutdown" {
				require.Equal(t, "hello alice", alice.login("alice"))
				require.Equal(t, "hello alice", alice.ask("/"))
			}
		})
	}
}

// A target that is draining keeps whom it has; one that is ejected or full does not, and neither
// does one that is gone.
func TestProxy_W14_APinnedConnectionDecidesTheTarget(t *testing.T) {
	ready := func() (a *loginBackend, p *wsproxy.Proxy, alice *loginClient) {
		a, b := newLoginBackend(t, "a"), newLoginBackend(t, "b")
		p = &wsproxy.Proxy{}
		full := a.target()
		full.MaxRequests = 1
		var pick *pointer
		p.Pool, pick = newPool(t, full, b.target())
		alice = newLoginClient(t, serveLogins(t, p))
		require.Equal(t, "hello alice", alice.login("alice"))
		pick.to("b")
		return a, p, alice
	}
	t.Run("draining", func(t *testing.T) {
		_, p, alice := ready()
		member(t, p.Pool, "a").SetAdmin(balancer.Draining)
		require.Equal(t, "hello alice", alice.ask("/"))
	})
	t.Run("ejected", func(t *testing.T) {
		a, p, alice := ready()
		member(t, p.Pool, "a").Eject(time.Now().Add(time.Hour))
		require.Equal(t, anonymous, alice.ask("/"))
		require.Equal(t, "b1", alice.conn)
		require.True(t, leaktest.Polled(func() bool { return a.connections() == 0 }))
	})
	t.Run("full", func(t *testing.T) {
		_, p, alice := ready()
		lease, err := p.Pool.AcquireBound(t.Context(), "a", &balancer.Request{})
		require.NoError(t, err, "an idle connection is no load")
		require.Equal(t, anonymous, alice.ask("/"))
		require.Equal(t, "b1", alice.conn)
		lease.Release(balancer.Outcome{})
	})
	t.Run("dead", func(t *testing.T) {
		a, _, alice := ready()
		a.CloseClientConnections()
		a.Close()
		require.Equal(t, anonymous, alice.ask("/"))
		require.Equal(t, "b1", alice.conn)
		require.Equal(t, "hello alice", alice.login("alice"))
		require.Equal(t, "hello alice", alice.ask("/"))
	})
	t.Run("closed by the target", func(t *testing.T) {
		a, _, alice := ready()
		require.Equal(t, "hello alice", alice.ask("/close"))
		require.Equal(t, anonymous, alice.ask("/"), "a new connection of hers")
		require.Equal(t, "a2", alice.conn)
		require.Equal(t, "hello alice", alice.login("alice"))
		a.CloseClientConnections() // stale when it is asked
		require.Equal(t, anonymous, alice.ask("/"))
		require.Equal(t, "a", alice.conn[:1])
		require.Equal(t, "hello alice", alice.ask("/", "Authorization: Negotiate alice"))
		require.Equal(t, "hello alice", alice.ask("/"))
	})
}

// The policy's cookie may name another target: it stays, and OnMiss is not asked.
func TestProxy_W14_APinnedConnectionBesideACookie(t *testing.T) {
	a, b := newLoginBackend(t, "a"), newLoginBackend(t, "b")
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(t, err)
	var asked []string
	p := &wsproxy.Proxy{Policy: policy, OnMiss: func(_ *http.Request, id string, _ error) wsproxy.Miss {
		asked = append(asked, id)
		return wsproxy.Fail
	}}
	var pick *pointer
	p.Pool, pick = newPool(t, b.target(), a.target())
	srv := serveLogins(t, p)
	cookieOf := func(lines ...string) string {
		c := dial(t, srv)
		c.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
		return "Cookie: " + c.response().Cookies()[0].String()
	}
	toB := cookieOf()
	pick.to("a")
	alice := newLoginClient(t, srv)
	require.Equal(t, "hello alice", alice.ask("/", "Authorization: Negotiate alice"))
	require.Equal(t, "a", alice.conn[:1])
	alice.send("GET / HTTP/1.1\r\nHost: app.example\r\n" + toB + "\r\n\r\n")
	r := alice.response()
	require.Equal(t, "hello alice", r.body)
	require.Empty(t, r.Cookies(), "the session stays bound to b")

	member(t, p.Pool, "a").SetAdmin(balancer.Moving)
	require.Equal(t, anonymous, alice.ask("/", toB))
	require.Equal(t, "b", alice.conn[:1])
	require.Empty(t, asked)
	member(t, p.Pool, "b").SetAdmin(balancer.Moving)
	alice.send("GET / HTTP/1.1\r\nHost: app.example\r\n" + toB + "\r\n\r\n")
	require.Equal(t, http.StatusServiceUnavailable, alice.response().StatusCode)
	require.Equal(t, []string{"b"}, asked)
}

// Requests that are sent ahead are answered in their order, each on the client's own connection.
func TestProxy_W14_Pipelined(t *testing.T) {
	a := newLoginBackend(t, "a")
	p := &wsproxy.Proxy{}
	p.Pool, _ = newPool(t, a.target())
	srv := serveLogins(t, p)
	alice, bob := newLoginClient(t, srv), newLoginClient(t, srv)
	const get, login = "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Negotiate %s\r\n\r\n"
	for c, user := range map[*loginClient]string{alice: "alice", bob: "bob"} {
		c.send(get + fmt.Sprintf(login, user) + get + get)
	}
	for c, user := range map[*loginClient]string{alice: "alice", bob: "bob"} {
		require.Equal(t, anonymous, c.answer())
		for range 3 {
			require.Equal(t, "hello "+user, c.answer())
		}
	}
}

// Nobody has a connection pinned whose own connection may carry the requests of others.
func TestProxy_W14_WhoIsNotPinned(t *testing.T) {
	tests := map[string]struct {
		trusted   []netip.Prefix
		lines     []string
		configure func(*http.Server)
		wrap      func(http.Handler) http.Handler
		unix      bool
	}{
		"a trusted peer":   {trusted: loopbackNet, lines: []string{"X-Forwarded-For: 203.0.113.7"}},
		"a silent one":     {trusted: loopbackNet},
		"an untrusted one": {lines: []string{"X-Forwarded-For: 203.0.113.7"}},
		"Forwarded":        {lines: []string{"Forwarded: for=203.0.113.7"}},
		"Via":              {lines: []string{"Via: 1.1 squid"}},
		"a last request":   {lines: []string{"Connection: close"}},
		"a middleware that names somebody else": {wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.RemoteAddr = "203.0.113.7:1"
				next.ServeHTTP(w, r)
			})
		}},
		"without ConnContext":                {configure: func(s *http.Server) { s.ConnContext = nil }},
		"with the ConnContext of proxyproto": {configure: func(s *http.Server) { s.ConnContext = proxyproto.ConnContext }},
		"over a Unix socket":                 {unix: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := newLoginBackend(t, "a")
			p := &wsproxy.Proxy{Trusted: tt.trusted}
			p.Pool, _ = newPool(t, a.target())
			var h http.Handler = quiet(p)
			if tt.wrap != nil {
				h = tt.wrap(h)
			}
			srv := httptest.NewUnstartedServer(h)
			if tt.unix {
				srv.Listener.Close()
				l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
				require.NoError(t, err)
				srv.Listener = l
			}
			srv.Config.ConnContext = wsproxy.ConnContext
			prepare(srv, tt.configure)
			srv.Start()
			cleanUp(t, srv, p)
			conn, err := net.Dial(srv.Listener.Addr().Network(), srv.Listener.Addr().String())
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
			alice := &loginClient{wire: &wire{conn, bufio.NewReader(conn), t}}
			require.Equal(t, "hello alice", alice.ask("/", append(tt.lines, "Authorization: Negotiate alice")...))
			require.True(t, leaktest.Polled(func() bool { return a.connections() == 0 }))
			if name != "a last request" {
				require.Equal(t, anonymous, alice.ask("/", tt.lines...))
			}
		})
	}
}

// One request that tells of somebody behind the peer is enough: the connection is not one client's.
func TestProxy_W14_AConnectionThatWasSharedOnce(t *testing.T) {
	for _, line := range []string{"Via: 1.1 squid", "X-Forwarded-For: 203.0.113.7", "Forwarded: for=_x", "X_Real_IP: 203.0.113.7"} {
		for _, when := range []string{"before", "after"} {
			t.Run(line+" "+when, func(t *testing.T) {
				a := newLoginBackend(t, "a")
				p, other := &wsproxy.Proxy{}, &wsproxy.Proxy{}
				p.Pool, _ = newPool(t, a.target())
				other.Pool, _ = newPool(t, a.target())
				mux := http.NewServeMux()
				mux.Handle("/", quiet(p))
				mux.Handle("/other", quiet(other))
				alice := newLoginClient(t, serveLogins(t, mux))
				t.Cleanup(func() { p.Shutdown(t.Context()); other.Shutdown(t.Context()) })
				if when == "after" {
					require.Equal(t, "hello alice", alice.ask("/", "Authorization: Negotiate alice"))
					require.Equal(t, "hello bob", alice.ask("/other", "Authorization: Negotiate bob"))
					require.Equal(t, "hello alice", alice.ask("/"))
					require.Equal(t, "hello bob", alice.ask("/other"))
				}
				require.Equal(t, anonymous, alice.ask("/", line))
				for range 2 {
					require.Equal(t, anonymous, alice.ask("/"))
					require.Equal(t, anonymous, alice.ask("/other"))
					require.Equal(t, "hello alice", alice.ask("/", "Authorization: Negotiate alice"), "served alone")
				}
			})
		}
	}
}

// Over HTTP/2 one connection may serve several people, such as those of another proxy.
func TestProxy_W14_NeverOverHTTP2(t *testing.T) {
	a := newLoginBackend(t, "a")
	p := &wsproxy.Proxy{}
	p.Pool, _ = newPool(t, a.target())
	srv := httptest.NewUnstartedServer(quiet(p))
	prepare(srv, func(s *http.Server) { s.ConnContext = wsproxy.ConnContext })
	srv.EnableHTTP2 = true
	srv.StartTLS()
	cleanUp(t, srv, p)
	c := newClient(t, srv)
	r := c.get("/", "Authorization: Negotiate alice")
	require.Equal(t, 2, r.ProtoMajor)
	require.Equal(t, "hello alice", r.body)
	require.Equal(t, http.StatusUnauthorized, c.get("/").StatusCode)
	require.True(t, leaktest.Polled(func() bool { return a.connections() == 0 }))
}

// A target of h2c gets such a request over HTTP/2, which knows no such login, on a connection of
// its own all the same.
func TestProxy_W14_H2C(t *testing.T) {
	a := newLoginBackend(t, "a", func(s *httptest.Server) {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	})
	p := &wsproxy.Proxy{}
	p.Pool, _ = newPool(t, target("a", "h2c"+strings.TrimPrefix(a.URL, "http")))
	alice := newLoginClient(t, serveLogins(t, p))
	require.Equal(t, anonymous, alice.ask("/"))
	require.Equal(t, "a1", alice.conn)
	require.Equal(t, anonymous, alice.ask("/", "Authorization: Negotiate alice"))
	require.Equal(t, "a2", alice.conn)
	require.Equal(t, anonymous, alice.ask("/"))
	require.Equal(t, "a1", alice.conn)
}

// With PROXY headers, the pinned connection has that of its client.
func TestProxy_W14_PinnedWithAProxyHeader(t *testing.T) {
	a := newLoginBackend(t, "a", func(s *httptest.Server) {
		s.Listener = &proxyproto.Listener{Listener: s.Listener, Trusted: loopbackNet, Timeout: patience}
	})
	p := &wsproxy.Proxy{SendProxy: 2}
	p.Pool, _ = newPool(t, a.target())
	srv := serveLogins(t, p)
	alice, bob := newLoginClient(t, srv), newLoginClient(t, srv)
	require.Equal(t, "hello alice", alice.login("alice"))
	require.Equal(t, "hello bob", bob.login("bob"))
	require.Equal(t, "hello alice", alice.ask("/"))
	require.Equal(t, "hello bob", bob.ask("/"))
	require.Equal(t, "a2", bob.conn)
	require.Equal(t, 2, a.connections())
}

// A connection that was offered a login is not kept for others, where it is ours to say.
func TestProxy_W14_OfferedConnections(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		lines  []string // of the answer
		kept   bool
	}{
		"NTLM":                {401, []string{"Www-Authenticate: NTLM"}, false},
		"Negotiate":           {401, []string{"Www-Authenticate: negotiate"}, false},
		"in a list":           {401, []string{`Www-Authenticate: Basic realm="x", Negotiate`}, false},
		"in a later line":     {401, []string{`Www-Authenticate: Basic realm="x"`, "Www-Authenticate: nTLM TlRM"}, false},
		"for a proxy":         {407, []string{"Proxy-Authenticate: Negotiate"}, false},
		"another":             {401, []string{`Www-Authenticate: Basic realm="NTLM"`}, true},
		"with another status": {200, []string{"Www-Authenticate: NTLM"}, true},
	} {
		for _, body := range []string{"", "sign in"} {
			t.Run(name+body, func(t *testing.T) {
				var mu sync.Mutex
				from := make(map[string]bool)
				b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					from[r.RemoteAddr] = true
					mu.Unlock()
					for _, line := range tt.lines {
						name, value, _ := strings.Cut(line, ": ")
						w.Header().Add(name, value)
					}
					w.WriteHeader(tt.status)
					io.WriteString(w, body)
				})
				p := &wsproxy.Proxy{}
				p.Pool, _ = newPool(t, b.target())
				c := newClient(t, serve(t, p))
				for range 3 {
					require.Equal(t, tt.status, c.get("/").StatusCode)
				}
				require.Equal(t, tt.kept, len(from) == 1, len(from))
			})
		}
	}
}

// An idle one ends after a minute; until then it is kept.
func TestProxy_W14_AnIdlePinnedConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newLoginBackend(t, "a", func(s *httptest.Server) {
			s.Listener.Close()
			s.Listener = newPipes()
		})
		front := newPipes()
		p := &wsproxy.Proxy{Logger: noLog, Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return a.Listener.(*pipes).dial(), nil },
		}}
		p.Pool, _ = newPool(t, target("a", "http://192.0.2.1"))
		srv := &http.Server{Handler: p, ConnContext: wsproxy.ConnContext}
		go srv.Serve(front)
		conn := front.dial()
		alice := &loginClient{wire: &wire{conn, bufio.NewReader(conn), t}}
		require.Equal(t, "hello alice", alice.login("alice"))
		for range 3 {
			time.Sleep(59 * time.Second)
			require.Equal(t, "hello alice", alice.ask("/"))
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, a.connections())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, 0, a.connections())
		require.Equal(t, anonymous, alice.ask("/"))
		require.NoError(t, p.Shutdown(t.Context()))
		srv.Close()
		p.Transport.(*http.Transport).CloseIdleConnections()
	})
}

// Pipes is a listener in a synctest bubble, for clients at 192.0.2.7.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) dial() net.Conn {
	far, near := net.Pipe()
	l.conns <- fromClient{near}
	return far
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)} }

type fromClient struct{ net.Conn }

func (fromClient) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 7} }

// Many clients log in, change their names, go away and come again, while targets come and go:
// nobody is ever greeted by another name, and nothing is left behind.
func TestProxy_W14_ManyClients(t *testing.T) {
	for scheme, configure := range map[string][]func(*httptest.Server){"http": nil, "https": {overTLS}} {
		t.Run(scheme, func(t *testing.T) {
			before := leaktest.Settled(t)
			t.Run("run", func(t *testing.T) {
				a, b := newLoginBackend(t, "a", configure...), newLoginBackend(t, "b", configure...)
				p := &wsproxy.Proxy{BackendTLS: insecure()}
				pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{a.target(), b.target()}})
				require.NoError(t, err)
				p.Pool = pool
				srv := serveLogins(t, p)
				var clients sync.WaitGroup
				for i := range 8 {
					clients.Go(func() { roam(t, srv, fmt.Sprint("user", i)) })
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					clients.Wait()
				}()
				states := []balancer.Admin{balancer.Moving, balancer.Ready}
				for i := 0; ; i++ {
					select {
					case <-done:
						return
					case <-time.After(5 * time.Millisecond):
						member(t, pool, []string{"a", "b"}[i/2%2]).SetAdmin(states[i%2])
					}
				}
			})
			leaktest.RequireNoMore(t, before)
		})
	}
}

// roam logs one user in on several connections, one after the other.
func roam(t *testing.T, srv *httptest.Server, user string) {
	for range 5 {
		c := newLoginClient(t, srv)
		for range 12 {
			var got string
			switch rand.N(4) {
			case 0:
				got = c.ask("/", "Authorization: Negotiate "+user)
			case 1:
				got = c.ask("/", "Authorization: NTLM hello")
			case 2:
				got = c.ask("/close")
			default:
				got = c.ask("/")
			}
			if got != anonymous && !strings.HasPrefix(got, "challenge-") {
				assert.Equal(t, "hello "+user, got)
			}
		}
		c.Close()
	}
}
