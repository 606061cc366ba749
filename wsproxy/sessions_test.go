package wsproxy_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// key seals the cookies of these tests, so that they can be made and opened beside the proxy.
var key = bytes.Repeat([]byte("k"), 32)

func lbCookie(t testing.TB, o stickiness.LBCookieOptions) *stickiness.LBCookie {
	t.Helper()
	if o.Keys == nil {
		o.Keys = [][]byte{key}
	}
	policy, err := stickiness.NewLBCookie(o)
	require.NoError(t, err)
	return policy
}

// seal makes the value of a cookie.
func seal(t testing.TB, scope string, key []byte, ticket cookie.Ticket) string {
	t.Helper()
	codec, err := cookie.NewSealed(cookie.SealedOptions{Scope: scope, Keys: [][]byte{key}})
	require.NoError(t, err)
	if ticket.Issued.IsZero() {
		ticket.Issued = time.Now()
	}
	value, err := codec.Encode(&ticket)
	require.NoError(t, err)
	return value
}

// bound is a Cookie line that binds to a target.
func bound(t testing.TB, id string) string {
	t.Helper()
	return "Cookie: AWSELB=" + seal(t, "", key, cookie.Ticket{Target: id})
}

// open gives the ticket in a Set-Cookie line.
func open(t testing.TB, line string) cookie.Ticket {
	t.Helper()
	codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: [][]byte{key}})
	require.NoError(t, err)
	ticket, err := codec.Decode(valueOf(line))
	require.NoError(t, err, line)
	return ticket
}

// valueOf is the value in a Set-Cookie line.
func valueOf(line string) string {
	pair, _, _ := strings.Cut(line, ";")
	_, value, _ := strings.Cut(pair, "=")
	return value
}

// mask writes a V for the value in a Set-Cookie line, if it has one.
func mask(line string) string {
	if value := valueOf(line); value != "" {
		return strings.Replace(line, value, "V", 1)
	}
	return line
}

// lbLines are the Set-Cookie lines of the balancer's cookies.
func lbLines(h http.Header) []string {
	var found []string
	for _, line := range h["Set-Cookie"] {
		if strings.HasPrefix(line, "AWSELB") {
			found = append(found, line)
		}
	}
	return found
}

// requireBound checks that a reply binds once, to a target.
func requireBound(t testing.TB, r *reply, id string) {
	t.Helper()
	lines := lbLines(r.Header)
	require.Len(t, lines, 1)
	require.Equal(t, id, open(t, lines[0]).Target)
}

// pair is what most of these tests need: two backends, and a picker that points at the first.
type pair struct {
	a, b   *backend
	pool   *balancer.Pool
	picker *pointer
}

func newPair(t testing.TB, handler http.HandlerFunc) *pair {
	p := &pair{a: newBackend(t, "a", handler), b: newBackend(t, "b", handler)}
	p.pool, p.picker = newPool(t, p.a.target(), p.b.target())
	return p
}

// both runs a test with a plain and with a TLS front.
func both(t *testing.T, test func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool)) {
	t.Run("plain", func(t *testing.T) { test(t, serve, false) })
	t.Run("tls", func(t *testing.T) { test(t, serveTLS, true) })
}

func TestProxy_S1_CookieOnTheWire(t *testing.T) {
	tests := map[string]struct {
		options stickiness.LBCookieOptions
		want    string // V stands for the value
	}{
		"default": {stickiness.LBCookieOptions{}, "AWSELB=V; Path=/"},
		"every attribute": {
			stickiness.LBCookieOptions{Name: "sticky", Path: "/app", Domain: "example.com", HttpOnly: true, Secure: true,
				SameSite: http.SameSiteStrictMode, Partitioned: true},
			"sticky=V; Path=/app; Domain=example.com; HttpOnly; Secure; SameSite=Strict; Partitioned",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, nil)
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, tt.options)}))
			first := c.get("/app/", "Host: www.example.com").Header["Set-Cookie"]
			require.Len(t, first, 1)
			require.Equal(t, tt.want, mask(first[0]))
		})
	}
}

func TestProxy_S1_ValueTellsNothing(t *testing.T) {
	a := newBackend(t, "the-target", nil)
	pool, _ := newPool(t, a.target())
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})).withoutCookies()
	one, two := valueOf(lbLines(c.get("/").Header)[0]), valueOf(lbLines(c.get("/").Header)[0])
	require.NotEqual(t, one, two, "two clients of one target cannot be told to be so")
	raw, err := base64.RawURLEncoding.DecodeString(one)
	require.NoError(t, err)
	for _, secret := range []string{a.id, a.addr} {
		require.NotContains(t, one, secret)
		require.NotContains(t, string(raw), secret)
	}
}

func TestProxy_S2_S3_FirstRequestBindsTheOthersStay(t *testing.T) {
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool) {
		p := newPair(t, nil)
		srv := front(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{Period: time.Hour})})
		c := newClient(t, srv)
		p.picker.to("b")
		first := c.get("/")
		require.Equal(t, "b", first.backend())
		require.Equal(t, "b", open(t, lbLines(first.Header)[0]).Target)
		p.picker.to("a")
		for range 3 {
			next := c.get("/")
			require.Equal(t, "b", next.backend())
			require.Empty(t, next.Header["Set-Cookie"])
		}
		require.Equal(t, "a", newClient(t, srv).get("/").backend(), "another client goes where the picker says")
	})
}

func TestProxy_S3_ExpiryIsTheClientsUnlessEnforced(t *testing.T) {
	const period = time.Hour
	old := time.Now().Add(-2 * period)
	tests := map[string]struct {
		options stickiness.LBCookieOptions
		issued  time.Time
		who     string
		binds   bool
	}{
		"not checked":         {stickiness.LBCookieOptions{Period: period}, old, "b", false},
		"enforced":            {stickiness.LBCookieOptions{Period: period, Enforce: true}, old, "a", true},
		"enforced, young":     {stickiness.LBCookieOptions{Period: period, Enforce: true}, time.Now(), "b", false},
		"renewed":             {stickiness.LBCookieOptions{Period: period, Renew: true}, time.Now().Add(-period / 2), "b", true},
		"too young for renew": {stickiness.LBCookieOptions{Period: period, Renew: true}, time.Now(), "b", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, nil)
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, tt.options)})).withoutCookies()
			r := c.get("/", "Cookie: AWSELB="+seal(t, "", key, cookie.Ticket{Target: "b", Issued: tt.issued}))
			require.Equal(t, tt.who, r.backend())
			if !tt.binds {
				require.Empty(t, lbLines(r.Header))
				return
			}
			requireBound(t, r, tt.who)
			require.WithinDuration(t, time.Now(), open(t, lbLines(r.Header)[0]).Issued, time.Minute)
		})
	}
}

func TestProxy_S4_LifetimeIsComputedForEachResponse(t *testing.T) {
	tests := map[string]struct {
		period     time.Duration
		wantMaxAge string
	}{
		"browser session":       {0, ""},
		"seconds":               {time.Minute, "60"},
		"rounded up to seconds": {59*time.Second + time.Nanosecond, "60"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, _ := newPool(t, target("a", "http://a.test"))
				p := underTest(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{Period: tt.period}),
					Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
						return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
					})})
				for range 2 {
					w := httptest.NewRecorder()
					p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
					line, err := cookie.ParseSetCookie(lbLines(w.Header())[0])
					require.NoError(t, err)
					maxAge, hasMaxAge := line.Attribute("Max-Age")
					expires, hasExpires := line.Attribute("Expires")
					require.Equal(t, tt.wantMaxAge, maxAge)
					require.Equal(t, tt.wantMaxAge != "", hasMaxAge)
					require.Equal(t, hasMaxAge, hasExpires)
					if hasExpires {
						require.Equal(t, time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), expires)
					}
					time.Sleep(30 * time.Minute)
				}
			})
		})
	}
}

func TestProxy_S5_TwinForCrossOrigin(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	tests := map[string]struct {
		tls     bool
		mode    stickiness.CORSMode
		trusted []netip.Prefix
		sent    []string
		twin    bool
	}{
		"plain":                            {},
		"tls":                              {tls: true, twin: true},
		"plain, Sec-Fetch-Site cross-site": {sent: []string{"Sec-Fetch-Site: cross-site"}, twin: true},
		"plain, Sec-Fetch-Site same-site":  {sent: []string{"Sec-Fetch-Site: same-site"}, twin: true},
		"plain, Sec-Fetch-Site rules over Origin": {
			sent: []string{"Sec-Fetch-Site: same-origin", "Origin: http://elsewhere.example"}},
		"plain, other Origin":        {sent: []string{"Origin: http://elsewhere.example"}, twin: true},
		"plain, own Origin":          {sent: []string{"Origin: http://app.example", "Host: app.example"}},
		"plain, always":              {mode: stickiness.CORSAlways, twin: true},
		"tls, never":                 {tls: true, mode: stickiness.CORSNever},
		"tls at a trusted peer":      {trusted: trusted, sent: []string{"X-Forwarded-Proto: https"}, twin: true},
		"tls says an untrusted peer": {sent: []string{"X-Forwarded-Proto: https"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, nil)
			front := serve
			if tt.tls {
				front = serveTLS
			}
			policy := lbCookie(t, stickiness.LBCookieOptions{CORS: tt.mode})
			c := newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy, Trusted: tt.trusted}))
			lines := c.get("/", tt.sent...).Header["Set-Cookie"]
			if !tt.twin {
				require.Len(t, lines, 1)
				return
			}
			require.Len(t, lines, 2)
			value := valueOf(lines[0])
			require.Equal(t, "AWSELB="+value+"; Path=/", lines[0])
			require.Equal(t, "AWSELBCORS="+value+"; Path=/; Secure; SameSite=None", lines[1])
		})
	}
}

func TestProxy_S5_EitherCookieRoutes(t *testing.T) {
	a := "AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "a"})
	b := "AWSELB=" + seal(t, "", key, cookie.Ticket{Target: "b"})
	twin := func(line string) string { return strings.Replace(line, "AWSELB=", "AWSELBCORS=", 1) }
	const cross = "Sec-Fetch-Site: cross-site"
	tests := map[string]struct {
		sent []string
		want string
	}{
		"first alone":                        {[]string{"Cookie: " + b}, "b"},
		"twin alone":                         {[]string{"Cookie: " + twin(b)}, "b"},
		"twin alone, cross-origin":           {[]string{"Cookie: " + twin(b), cross}, "b"},
		"they differ":                        {[]string{"Cookie: " + twin(a) + "; " + b}, "b"},
		"they differ, cross-origin":          {[]string{"Cookie: " + a + "; " + twin(b), cross}, "b"},
		"first unusable":                     {[]string{"Cookie: AWSELB=x; " + twin(b)}, "b"},
		"twin unusable, cross-origin":        {[]string{"Cookie: " + b + "; AWSELBCORS=x", cross}, "b"},
		"neither, so the picker says":        {nil, "c"},
		"neither usable, so the picker says": {[]string{"Cookie: AWSELB=x; AWSELBCORS=x"}, "c"},
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, _ bool) {
		p := newPair(t, nil)
		third := newBackend(t, "c", nil)
		require.NoError(t, p.pool.Update(p.a.target(), p.b.target(), third.target()))
		p.picker.to("c")
		c := newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{})})).withoutCookies()
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, c.get("/", tt.sent...).backend()) })
		}
	})
}

func TestProxy_S6_SecureAndHttpOnlyAreTheCallers(t *testing.T) {
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool) {
		for _, set := range []bool{false, true} {
			p := newPair(t, nil)
			policy := lbCookie(t, stickiness.LBCookieOptions{Secure: set, HttpOnly: set})
			line := lbLines(newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: policy})).get("/").Header)[0]
			parsed, err := cookie.ParseSetCookie(line)
			require.NoError(t, err)
			for _, name := range []string{"Secure", "HttpOnly"} {
				_, ok := parsed.Attribute(name)
				require.Equal(t, set, ok, "%s in %s", name, line)
			}
		}
	})
}

// unable are the ways in which a bound target cannot serve.
var unable = map[string]struct {
	make func(t testing.TB, p *pair) // b unable
	undo func(t testing.TB, p *pair)
	why  error // that OnMiss is told; nil: an *Error of an attempt
}{
	"dead":      {func(_ testing.TB, p *pair) { p.b.stop() }, func(t testing.TB, p *pair) { p.b.start(t) }, nil},
	"unhealthy": {setHealth(balancer.Unhealthy), setHealth(balancer.Healthy), balancer.ErrDown},
	"down":      {setAdmin(balancer.Down), setAdmin(balancer.Ready), balancer.ErrDown},
	"moving":    {setAdmin(balancer.Moving), setAdmin(balancer.Ready), balancer.ErrMoving},
	"ejected": {
		func(t testing.TB, p *pair) { member(t, p.pool, "b").Eject(time.Now().Add(time.Hour)) },
		func(t testing.TB, p *pair) { member(t, p.pool, "b").Eject(time.Time{}) },
		balancer.ErrEjected,
	},
	"removed": {
		func(t testing.TB, p *pair) { require.NoError(t, p.pool.Update(p.a.target())) },
		func(t testing.TB, p *pair) { require.NoError(t, p.pool.Update(p.a.target(), p.b.target())) },
		balancer.ErrUnknown,
	},
}

func setHealth(h balancer.Health) func(testing.TB, *pair) {
	return func(t testing.TB, p *pair) { member(t, p.pool, "b").SetHealth(h) }
}

func setAdmin(a balancer.Admin) func(testing.TB, *pair) {
	return func(t testing.TB, p *pair) { member(t, p.pool, "b").SetAdmin(a) }
}

func TestProxy_S7_UnableTargetRebinds(t *testing.T) {
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool) {
		for name, way := range unable {
			t.Run(name, func(t *testing.T) {
				p := newPair(t, nil)
				c := newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{Period: time.Hour})}))
				p.picker.to("b")
				before := open(t, lbLines(c.get("/").Header)[0])
				require.Equal(t, "b", before.Target)

				way.make(t, p)
				moved := c.get("/")
				require.Equal(t, http.StatusOK, moved.StatusCode)
				require.Equal(t, "a", moved.backend())
				want := 1
				if tls {
					want = 2 // with the twin
				}
				lines := lbLines(moved.Header)
				require.Len(t, lines, want)
				after := open(t, lines[0])
				require.Equal(t, "a", after.Target)
				require.Contains(t, lines[0], "; Max-Age=3600;", "a fresh period")

				way.undo(t, p)
				back := c.get("/")
				require.Equal(t, "a", back.backend(), "the return of the old target changes nothing")
				require.Empty(t, back.Header["Set-Cookie"])
			})
		}
	})
}

// A connection that was never made takes no byte of the body with it: the request goes elsewhere
// whole, whatever its method.
func TestProxy_S7_DeadBoundTargetTakesNoBodyAway(t *testing.T) {
	bodies := map[string]func(string) io.Reader{
		"known length": func(s string) io.Reader { return strings.NewReader(s) },
		"chunked":      func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} },
	}
	both(t, func(t *testing.T, front func(testing.TB, http.Handler) *httptest.Server, tls bool) {
		for name, body := range bodies {
			t.Run(name, func(t *testing.T) {
				p := newPair(t, echo)
				c := newClient(t, front(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{CORS: stickiness.CORSNever})}))
				p.b.stop()
				content := strings.Repeat("all of it ", 20_000)
				r := c.do(http.MethodPost, "/", body(content), bound(t, "b"))
				require.Equal(t, http.StatusOK, r.StatusCode)
				require.Equal(t, "a", r.backend())
				require.True(t, content == r.body, "the body came whole")
				requireBound(t, r, "a")
			})
		}
	})
}

func TestProxy_S7_OnMiss(t *testing.T) {
	var asked struct {
		id  string
		why error
	}
	decide := func(m wsproxy.Miss) func(*http.Request, string, error) wsproxy.Miss {
		return func(_ *http.Request, id string, why error) wsproxy.Miss {
			asked.id, asked.why = id, why
			return m
		}
	}
	for name, way := range unable {
		checkWhy := func(t *testing.T) {
			require.Equal(t, "b", asked.id)
			if way.why != nil {
				require.ErrorIs(t, asked.why, way.why)
				return
			}
			failed, ok := errors.AsType[*wsproxy.Error](asked.why)
			require.True(t, ok)
			require.Equal(t, wsproxy.ClassDial, failed.Class)
			require.Equal(t, "b", failed.Target)
		}
		t.Run("detour, "+name, func(t *testing.T) {
			p := newPair(t, nil)
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}), OnMiss: decide(wsproxy.Detour)}))
			p.picker.to("b")
			require.Equal(t, "b", c.get("/").backend())
			p.picker.to("a")
			way.make(t, p)
			detour := c.get("/")
			require.Equal(t, http.StatusOK, detour.StatusCode)
			require.Equal(t, "a", detour.backend())
			require.Empty(t, lbLines(detour.Header), "the cookie is kept")
			checkWhy(t)
			way.undo(t, p)
			require.Equal(t, "b", c.get("/").backend(), "the user returns when the target does")
		})
		t.Run("fail, "+name, func(t *testing.T) {
			p := newPair(t, nil)
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}), OnMiss: decide(wsproxy.Fail)}))
			way.make(t, p)
			r := c.get("/", bound(t, "b"))
			require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
			require.Equal(t, "5", r.Header.Get("Retry-After"))
			require.Empty(t, r.Header["Set-Cookie"])
			require.Zero(t, p.a.asked.Load())
			checkWhy(t)
		})
	}
}

func TestProxy_S7_OnMissIsAskedOnlyOnAMiss(t *testing.T) {
	p := newPair(t, nil)
	c := newClient(t, serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
		OnMiss: func(*http.Request, string, error) wsproxy.Miss { panic("there is no miss") }}))
	require.Equal(t, "a", c.get("/").backend())
	require.Equal(t, "a", c.get("/").backend())
	require.Equal(t, "a", c.get("/", "Cookie: AWSELB=unusable").backend())
}
