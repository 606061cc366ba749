package wsproxy_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func TestProxy_S15_ScopesShareAHost(t *testing.T) {
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		one, two := newPair(t, nil), newPair(t, nil)
		mux := http.NewServeMux()
		never := stickiness.CORSNever
		mux.Handle("/one", underTest(t, &wsproxy.Proxy{Pool: one.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{Scope: "one", CORS: never})}))
		mux.Handle("/two", underTest(t, &wsproxy.Proxy{Pool: two.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{Scope: "two", CORS: never})}))
		c := newClient(t, front(t, mux))
		one.picker.to("b")
		line := c.get("/one").Header["Set-Cookie"][0]
		require.Regexp(t, `^AWSELB-[0-9a-f]{8}=`, line)
		two.picker.to("a")
		other := c.get("/two").Header["Set-Cookie"][0]
		require.Regexp(t, `^AWSELB-[0-9a-f]{8}=`, other)
		require.NotEqual(t, line[:len("AWSELB-00000000")], other[:len("AWSELB-00000000")])
		one.picker.to("a")
		two.picker.to("b")
		require.Equal(t, "b", c.get("/one").backend())
		require.Equal(t, "a", c.get("/two").backend())
	})
}

func TestProxy_S15_AnotherPortIsAnotherTarget(t *testing.T) {
	p := newPair(t, nil)
	a, b := p.a.target(), p.b.target()
	a.ID, b.ID = "", ""
	require.NoError(t, p.pool.Update(a, b))
	p.picker.to(p.b.addr)
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
	require.Equal(t, p.b.addr, open(t, lbLines(c.get("/").Header)[0]).Target)
	moved := newBackend(t, "moved", nil)
	elsewhere := moved.target()
	elsewhere.ID = ""
	require.NoError(t, p.pool.Update(a, elsewhere))
	p.picker.to(p.a.addr)
	r := c.get("/")
	require.Equal(t, "a", r.backend(), "stickiness is lost, nothing breaks")
	require.Equal(t, p.a.addr, open(t, lbLines(r.Header)[0]).Target)
}

func TestProxy_S16_UnusableCookiesAreReplaced(t *testing.T) {
	good := seal(t, "", key, cookie.Ticket{Target: "b"})
	flip := func(at int) string {
		v := []byte(good)
		if v[at]++; v[at] == '9'+1 || v[at] == 'Z'+1 || v[at] == 'z'+1 || v[at] == '_'+1 || v[at] == '-'+1 {
			v[at] = 'A'
		}
		return string(v)
	}
	tests := map[string]struct {
		value  string
		reason stickiness.Reason
		why    error // of the miss, where the cookie itself is usable
	}{
		"empty":             {"", stickiness.Malformed, nil},
		"not base64":        {"***", stickiness.Malformed, nil},
		"cut":               {good[:(len(good)-1)/4*4], stickiness.Forged, nil},
		"longer":            {good + "AAAA", stickiness.Forged, nil},
		"a line break":      {good + "%0A", stickiness.Malformed, nil},
		"an open quote":     {`"` + good, stickiness.Malformed, nil},
		"tampered":          {flip(len(good) / 2), stickiness.Forged, nil},
		"oversized":         {strings.Repeat("A", 20_000), stickiness.Malformed, nil},
		"unknown key":       {seal(t, "", bytes.Repeat([]byte("x"), 32), cookie.Ticket{Target: "b"}), stickiness.UnknownKey, nil},
		"other scope":       {seal(t, "elsewhere", key, cookie.Ticket{Target: "b"}), stickiness.OtherScope, nil},
		"expired":           {seal(t, "", key, cookie.Ticket{Target: "b", Issued: time.Now().Add(-2 * time.Hour)}), stickiness.Expired, nil},
		"unknown target":    {seal(t, "", key, cookie.Ticket{Target: "nobody"}), stickiness.Usable, balancer.ErrUnknown},
		"target is down":    {seal(t, "", key, cookie.Ticket{Target: "down"}), stickiness.Usable, balancer.ErrDown},
		"backend's address": {"http://127.0.0.1:1", stickiness.Malformed, nil},
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		p := newPair(t, nil)
		down := newBackend(t, "down", nil)
		require.NoError(t, p.pool.Update(p.a.target(), p.b.target(), down.target()))
		member(t, p.pool, "down").SetAdmin(balancer.Down)
		var seen []stickiness.Candidate
		var why error
		policy := lbCookie(t, stickiness.LBCookieOptions{Period: time.Hour, Enforce: true, CORS: stickiness.CORSNever})
		c := newClient(t, front(t, &wsproxy.Proxy{
			Pool:   p.pool,
			Policy: policy,
			OnMiss: func(_ *http.Request, _ string, err error) wsproxy.Miss { why = err; return wsproxy.Rebind },
			Trace: &wsproxy.Trace{Lookup: func(_ *http.Request, found []stickiness.Candidate) {
				seen = slices.Clone(found)
			}},
		})).withoutCookies()
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				why = nil
				r := c.get("/", "Cookie: AWSELB="+tt.value)
				require.Equal(t, http.StatusOK, r.StatusCode)
				require.Equal(t, "a", r.backend())
				requireBound(t, r, "a")
				require.Len(t, seen, 1)
				require.Equal(t, tt.reason.String(), seen[0].Reason.String())
				require.ErrorIs(t, why, tt.why)
			})
		}
	})
}

func TestProxy_S17_FirstUsableOfSixtyFourWins(t *testing.T) {
	a := "AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "a"})
	b := "AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "b"})
	gone := "AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "gone"})
	bad := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf("AWSELB=bad%d", i)
		}
		return strings.Join(all, "; ")
	}
	tests := map[string]struct {
		sent  []string
		want  string
		binds bool
	}{
		"one line":                  {[]string{b + "; " + a}, "b", false},
		"several lines":             {[]string{"x=1", b, a}, "b", false},
		"unusable ones before":      {[]string{"AWSELB=bad; y=1; " + b}, "b", false},
		"unusable ones, each apart": {[]string{"AWSELB=bad", "AWSELB=worse", b}, "b", false},
		"unknown target before":     {[]string{gone + "; " + b}, "b", false},
		"the 64th":                  {[]string{bad(63) + "; " + b}, "b", false},
		"the 64th, over lines":      {[]string{bad(40), "x=1; " + bad(63), b}, "b", false},
		"the 65th":                  {[]string{bad(64) + "; " + b}, "c", true},
		"the 65th, over lines":      {[]string{bad(40), bad(64), b}, "c", true},
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool) {
		p := newPair(t, nil)
		third := newBackend(t, "c", nil)
		require.NoError(t, p.pool.Update(p.a.target(), p.b.target(), third.target()))
		p.picker.to("c")
		policy := lbCookie(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
		c := newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy})).withoutCookies()
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				lines := make([]string, len(tt.sent))
				for i, line := range tt.sent {
					lines[i] = "Cookie: " + line
				}
				r := c.get("/", lines...)
				require.Equal(t, tt.want, r.backend())
				if tt.binds {
					requireBound(t, r, tt.want)
				} else {
					require.Empty(t, r.Header["Set-Cookie"])
				}
			})
		}
		require.Equal(t, tls, p.b.header() != nil && c.get("/").ProtoMajor == 2, "TLS here means HTTP/2, which splits Cookie lines")
	})
}

// refusing is a backend that answers 503 and leaves its mark on the response.
func refusing(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Failed", "yes")
	w.Header().Add("Set-Cookie", "failed=yes")
	w.WriteHeader(http.StatusServiceUnavailable)
}

func TestProxy_S18_NeverBackToTheTargetThatFailed(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{"dead": nil, "status": refusing} {
		t.Run(name, func(t *testing.T) {
			bad, spare, good := newBackend(t, "bad", handler), newBackend(t, "spare", handler), newBackend(t, "good", nil)
			if handler == nil {
				bad.stop()
				spare.stop()
			}
			pool, _ := newPool(t, bad.target(), spare.target(), good.target()) // the picker insists on bad
			var picked []string
			c := newClient(t, serve(t, &wsproxy.Proxy{
				Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
				Retry: wsproxy.Retry{Max: 5, On: []int{http.StatusServiceUnavailable}},
				Trace: &wsproxy.Trace{Pick: func(_ *http.Request, m *balancer.Member, _ error) { picked = append(picked, m.ID()) }},
			})).withoutCookies()
			for _, sent := range [][]string{nil, {bound(t, "bad")}} {
				picked = nil
				r := c.get("/", sent...)
				require.Equal(t, http.StatusOK, r.StatusCode)
				require.Equal(t, []string{"good"}, r.Header["Backend"])
				require.Equal(t, []string{"bad", "spare", "good"}, picked)
				require.NotContains(t, r.Header, "X-Failed")
				require.Len(t, r.Header["Set-Cookie"], 1)
				requireBound(t, r, "good")
			}
		})
	}
}

// A request whose every cookie names a target that fails is bound once, to the one that answers.
func TestProxy_S18_SecondCandidateAfterAFailedFirst(t *testing.T) {
	p := newPair(t, nil)
	third := newBackend(t, "c", nil)
	require.NoError(t, p.pool.Update(p.a.target(), p.b.target(), third.target()))
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})).withoutCookies()
	p.b.stop()
	r := c.get("/", bound(t, "b"), bound(t, "c"))
	require.Equal(t, "c", r.backend(), "its second cookie is as good as its first")
	require.LessOrEqual(t, len(lbLines(r.Header)), 1)
}

func TestProxy_S19_CookieSurvivesEarlyHints(t *testing.T) {
	hints := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</b.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</final>; rel=canonical")
		w.Header().Add("Set-Cookie", "of=backend")
	}
	middleware := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Strict-Transport-Security", "max-age=1")
			w.Header().Set("Link", "</own>; rel=help")
			w.Header().Add("Set-Cookie", "of=middleware")
			next.ServeHTTP(w, r)
		})
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprintf("middleware=%v", wrapped), func(t *testing.T) {
				p := newPair(t, hints)
				var h http.Handler = &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever})}
				if wrapped {
					h = middleware(h)
				}
				c := newClient(t, front(t, h))
				informed, r := c.informed("/")
				require.Len(t, informed, 2)
				require.Equal(t, []string{"</a.css>; rel=preload"}, informed[0]["Link"])
				require.Equal(t, []string{"</b.css>; rel=preload"}, informed[1]["Link"])
				for _, h := range informed {
					require.Empty(t, h["Set-Cookie"], "belongs to the final response")
					require.Empty(t, h["Strict-Transport-Security"])
				}
				requireBound(t, r, "a")
				cookies := []string{"of=backend"}
				links := []string{"</final>; rel=canonical"}
				if wrapped {
					cookies = []string{"of=middleware", "of=backend"}
					links = []string{"</own>; rel=help", "</final>; rel=canonical"}
					require.Equal(t, []string{"max-age=1"}, r.Header["Strict-Transport-Security"])
				}
				require.Equal(t, append(cookies, lbLines(r.Header)...), r.Header["Set-Cookie"])
				require.Equal(t, links, r.Header["Link"])
			})
		}
	})
}

func TestProxy_S19_CookieOnEveryFinalStatusOfTheBackend(t *testing.T) {
	var status atomic.Int64
	p := newPair(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		policy := lbCookie(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
		c := newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy})).withoutCookies()
		for _, code := range []int{200, 204, 206, 301, 302, 307, 400, 401, 403, 404, 405, 429, 500, 502, 503, 504} {
			status.Store(int64(code))
			r := c.get("/")
			require.Equal(t, code, r.StatusCode)
			requireBound(t, r, "a")
		}
		status.Store(http.StatusNotModified)
		bare := c.get("/").Header
		require.Empty(t, bare["Set-Cookie"])
		require.Empty(t, bare["Cache-Control"], "it would replace that of what is stored")
	})
}

func TestProxy_S19_NoCookieOnAnErrorPage(t *testing.T) {
	tests := map[string]struct {
		make func(p *pair)
		sent []string
		want int
	}{
		"no target":          {func(p *pair) { p.pool.Update() }, nil, http.StatusServiceUnavailable},
		"every target dead":  {func(p *pair) { p.a.stop(); p.b.stop() }, nil, http.StatusBadGateway},
		"bound, all dead":    {func(p *pair) { p.a.stop(); p.b.stop() }, []string{bound(t, "b")}, http.StatusBadGateway},
		"upgrade has a body": {nil, []string{"Connection: Upgrade", "Upgrade: websocket", "Content-Length: 1"}, http.StatusBadRequest},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, nil)
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
			if tt.make != nil {
				tt.make(p)
			}
			var r *reply
			if tt.want == http.StatusBadRequest {
				r = c.do(http.MethodGet, "/", strings.NewReader("x"), tt.sent[:2]...)
			} else {
				r = c.get("/", tt.sent...)
			}
			require.Equal(t, tt.want, r.StatusCode)
			require.Empty(t, r.Header["Set-Cookie"])
			require.Equal(t, tt.want == http.StatusServiceUnavailable, r.Header.Get("Retry-After") == "5")
		})
	}
}

func TestProxy_S20_BackendNeverSeesTheCookie(t *testing.T) {
	lb := "AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "a"})
	tests := map[string]struct {
		sent, want []string
	}{
		"alone":                   {[]string{lb}, nil},
		"with its twin":           {[]string{lb + "; AWSELBCORS=x"}, nil},
		"first":                   {[]string{lb + "; a=1; b=2"}, []string{"a=1; b=2"}},
		"last":                    {[]string{"a=1; b=2; " + lb}, []string{"a=1; b=2"}},
		"between, odd bytes":      {[]string{`a="x y";b=1,2\; ` + lb + `;  c=é; d`}, []string{`a="x y";b=1,2\;  c=é; d`}},
		"a line of its own":       {[]string{"a=1", lb, "b=2"}, []string{"a=1", "b=2"}},
		"unusable, several":       {[]string{"AWSELB=x; a=1; AWSELB=y"}, []string{"a=1"}},
		"names that are not ours": {[]string{"AWSELBX=1; awselb=2; XAWSELB=3"}, []string{"AWSELBX=1; awselb=2; XAWSELB=3"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, nil)
			for keep, want := range map[bool][]string{false: tt.want, true: tt.sent} {
				policy := lbCookie(t, stickiness.LBCookieOptions{KeepInRequest: keep})
				c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy})).withoutCookies()
				lines := make([]string, len(tt.sent))
				for i, line := range tt.sent {
					lines[i] = "Cookie: " + line
				}
				c.get("/", lines...)
				require.Equal(t, want, p.a.header()["Cookie"])
			}
		})
	}
}

func TestProxy_S21_NotForSharedCaches(t *testing.T) {
	var line atomic.Pointer[string]
	p := newPair(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", *line.Load())
		w.Header().Set("CDN-Cache-Control", "max-age=9")
		w.Header().Set("Surrogate-Control", "max-age=9")
	})
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})).withoutCookies()
	kept := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool,
		Policy: lbCookie(t, stickiness.LBCookieOptions{KeepCacheable: true})})).withoutCookies()
	tests := map[string][]string{ // what the backend sends: what must be in it, and nothing besides
		"public, max-age=60":           {"private", "max-age=60"},
		"s-maxage=60, max-age=5":       {"private", "max-age=5"},
		"proxy-revalidate":             {"private"},
		"no-store":                     {"no-store"},
		"private, max-age=1":           {"private", "max-age=1"},
		`private="x-a, x-b", public`:   {"private", `private="x-a`, `x-b"`},
		"no-cache":                     {"private", "no-cache"},
		"Public, S-MaxAge=3, no-cache": {"private", "no-cache"},
	}
	for sent, want := range tests {
		t.Run(sent, func(t *testing.T) {
			line.Store(&sent)
			r := c.get("/")
			requireBound(t, r, "a")
			require.ElementsMatch(t, want, strings.Split(strings.Join(r.Header["Cache-Control"], ", "), ", "))
			require.NotContains(t, r.Header, "Cdn-Cache-Control")
			require.NotContains(t, r.Header, "Surrogate-Control")

			untouched := c.get("/", bound(t, "a"))
			require.Empty(t, untouched.Header["Set-Cookie"])
			require.Equal(t, []string{sent}, untouched.Header["Cache-Control"], "no cookie, no change")
			require.Contains(t, untouched.Header, "Cdn-Cache-Control")

			require.Equal(t, []string{sent}, kept.get("/").Header["Cache-Control"])
		})
	}
}

func TestProxy_S22_WhoServesWhileATargetLeaves(t *testing.T) {
	tests := map[string]struct {
		make  func(t testing.TB, p *pair)
		bound string // where a session bound to b is served
	}{
		"draining": {setAdmin(balancer.Draining), "b"},
		"weight below zero": {func(t testing.TB, p *pair) {
			b := p.b.target()
			b.Weight = -1
			require.NoError(t, p.pool.Update(p.a.target(), b))
		}, "b"},
		"moving": {setAdmin(balancer.Moving), "a"},
		"down":   {setAdmin(balancer.Down), "a"},
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				p := newPair(t, nil)
				policy := lbCookie(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
				c := newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy})).withoutCookies()
				p.picker.to("b")
				require.Equal(t, "b", c.get("/").backend())
				tt.make(t, p)
				require.Equal(t, "a", c.get("/").backend(), "no new sessions")
				r := c.get("/", bound(t, "b"))
				require.Equal(t, tt.bound, r.backend())
				if tt.bound == "b" {
					require.Empty(t, r.Header["Set-Cookie"], "bound sessions stay")
				} else {
					requireBound(t, r, tt.bound)
				}
			})
		}
	})
}

func TestProxy_S22_DownIsNobodyEvenAlone(t *testing.T) {
	a := newBackend(t, "a", nil)
	pool, _ := newPool(t, a.target())
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})}))
	require.Equal(t, "a", c.get("/").backend())
	member(t, pool, "a").SetAdmin(balancer.Down)
	require.Equal(t, http.StatusServiceUnavailable, c.get("/").StatusCode)
	require.EqualValues(t, 1, a.asked.Load())
}
