package wsproxy_test

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// views are what everybody around a proxy sees of a request: the headers, and the client's address.
type views struct {
	backend, picker, policy, key, rewrite, done http.Header
	told, recorded, asked                       netip.Addr
}

// Pick implements balancer.Picker.
func (v *views) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	v.picker, v.told = q.HTTP.Header.Clone(), q.Client
	return s.Members()[0]
}

// Whatever an untrusted client writes into forwarding headers, and whichever headers it names in Connection, nobody sees
// anything but what comes of a request without them.
func TestProxy_W7_ForgedHeadersChangeNothing(t *testing.T) {
	const forged = "203.0.113.66"
	attacks := map[string][]string{
		"X-Forwarded-For":            {"X-Forwarded-For: " + forged},
		"X-Forwarded-For, twice":     {"X-Forwarded-For: " + forged, "X-Forwarded-For: 127.0.0.1"},
		"X-Forwarded-For of a peer":  {"X-Forwarded-For: " + forged + ", 10.0.0.1"},
		"X-Forwarded-For, lower":     {"x-forwarded-for: " + forged},
		"X-Forwarded-Proto":          {"X-Forwarded-Proto: https"},
		"X-Forwarded-Host":           {"X-Forwarded-Host: forged.example"},
		"X-Forwarded-Port":           {"X-Forwarded-Port: 666"},
		"X-Forwarded-Prefix":         {"X-Forwarded-Prefix: /forged"},
		"X-Forwarded of any name":    {"X-Forwarded-Anything: " + forged},
		"Forwarded":                  {"Forwarded: for=" + forged + ";proto=https;host=forged.example"},
		"Forwarded, a quote open":    {`Forwarded: for=` + forged + `;x="`},
		"X-Real-IP":                  {"X-Real-IP: " + forged},
		"True-Client-IP and others":  {"True-Client-IP: " + forged, "CF-Connecting-IP: " + forged, "X-Client-IP: " + forged},
		"X-Original-URL and others":  {"X-Original-URL: /forged", "X-Rewrite-URL: /forged"},
		"underscores":                {"X_Forwarded_For: " + forged, "X-Forwarded_Proto: https", "X_Real_IP: " + forged},
		"Connection of ours":         {"Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-Port, Forwarded"},
		"Connection and the header":  {"Connection: X-Forwarded-For", "X-Forwarded-For: " + forged},
		"Connection, mixed case":     {"Connection: x-FORWARDED-for, X-REAL-ip", "X-Real-IP: " + forged},
		"Connection of what matters": {"Connection: Cookie, Authorization, Host, Origin, User-Agent"},
		"Connection twice":           {"Connection: keep-alive", "Connection: forwarded, cookie"},
		"Proxy-Connection":           {"Proxy-Connection: X-Forwarded-For, Cookie"},
		"all": {"X-Forwarded-For: " + forged, "Forwarded: for=" + forged, "X-Real-IP: " + forged,
			"Connection: X-Forwarded-For, Forwarded, X-Real-IP, Cookie"},
	}
	for _, mode := range []wsproxy.ForwardedMode{wsproxy.ForwardedAppend, wsproxy.ForwardedPreserve, wsproxy.ForwardedRemove} {
		var v views
		b := newBackend(t, "a", nil)
		pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{b.target()}, Picker: &v})
		require.NoError(t, err)
		p := &wsproxy.Proxy{
			Pool:      pool,
			Policy:    spy(func(r *http.Request) { v.policy = r.Header.Clone() }),
			Key:       func(r *http.Request) string { v.key = r.Header.Clone(); return "" },
			Rewrite:   func(pr *httputil.ProxyRequest) { v.rewrite = pr.In.Header.Clone() },
			Trusted:   tenNet,
			Forwarded: mode,
			RFC7239:   true,
		}
		done := make(chan struct{}, 1)
		p.Trace = &wsproxy.Trace{Done: func(r *http.Request, rec wsproxy.Record) {
			v.done, v.recorded = r.Header.Clone(), rec.Client
			done <- struct{}{}
		}}
		front := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			v.asked = p.ClientAddr(r)
			p.ServeHTTP(w, r)
		}))
		ask := func(lines ...string) views {
			v = views{}
			c := dial(t, front)
			defer c.Close()
			c.send(strings.Join(append([]string{"GET / HTTP/1.1", "Host: app.example", "Cookie: a=b", "Authorization: Basic Zm9v",
				"Origin: http://app.example", "User-Agent: test"}, lines...), "\r\n") + "\r\n\r\n")
			require.Equal(t, http.StatusOK, c.response().StatusCode)
			wait(t, done, "the end")
			v.backend = b.header().Clone()
			for _, h := range []http.Header{v.policy, v.picker, v.key, v.rewrite, v.done} {
				h.Del("Connection") // which is what the client says to us
				h.Del("Proxy-Connection")
			}
			return v
		}
		honest := ask()
		require.Equal(t, netip.MustParseAddr("127.0.0.1"), honest.told)
		require.Equal(t, honest.told, honest.recorded)
		require.Equal(t, honest.told, honest.asked)
		require.Equal(t, "a=b", honest.backend.Get("Cookie"))
		if mode == wsproxy.ForwardedAppend {
			require.Equal(t, "127.0.0.1", honest.backend.Get("X-Forwarded-For"))
		}
		for name, lines := range attacks {
			t.Run(name, func(t *testing.T) { require.Equal(t, honest, ask(lines...)) })
		}
	}
}
