package wsproxy_test

import (
	"crypto"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// made reports what could not be made.
func made(_ any, err error) {
	if err != nil {
		fmt.Println(err)
	}
}

// The table of docs/migrating.md has its lines from here.
func Example_migration() {
	var table cookie.InsecureTable

	// nginx: sticky cookie srv expires=1h path=/;
	made(nil, table.Store(map[string]string{
		"app-1": cookie.InsecureNginxMD5("10.0.0.1:3000"),
	}))
	made(stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "srv", Period: time.Hour, Former: []cookie.Codec{&table}}))

	// nginx-sticky-module: sticky name=route hash=md5; and hmac=sha1 hmac_key=secret
	made(nil, table.Store(map[string]string{
		"app-1": cookie.InsecureNginxMD5(cookie.NginxSockaddr(netip.MustParseAddrPort("10.0.0.1:3000"))),
	}))
	made(stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "route", Former: []cookie.Codec{&table}}))
	made(cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: crypto.SHA1, Key: "secret"}))

	// nginx: sticky learn create=$upstream_cookie_SID lookup=$cookie_SID zone=s:1m timeout=10m;
	made(stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Cookie: "SID", TTL: 10 * time.Minute}))

	// nginx: ip_hash; HAProxy: balance source; Caddy: lb_policy client_ip_hash
	made(balancer.New(balancer.Config{Picker: &balancer.SourceAddress{}}))

	// nginx: hash $uri consistent; Caddy: lb_policy uri_hash
	made(balancer.New(balancer.Config{Picker: &balancer.Maglev{}}))
	_ = wsproxy.Proxy{Key: func(r *http.Request) string { return r.URL.Path }}

	// Caddy: lb_policy header X-Tenant
	made(balancer.New(balancer.Config{Picker: &balancer.Rendezvous{}}))
	_ = wsproxy.Proxy{Key: stickiness.FromHeader("X-Tenant")}

	// nginx: split_clients with 5%; Traefik: a canary service of weight 5
	made(balancer.New(balancer.Config{
		Picker: &balancer.Split{When: func(*balancer.Request) bool { return rand.IntN(100) < 5 }, Where: func(m *balancer.Member) bool { return m.Label("track") == "canary" }},
	}))

	// HAProxy: cookie SRV insert indirect nocache maxidle 30m maxlife 8h
	codec := &cookie.InsecureHAProxy{MaxIdle: 30 * time.Minute, MaxLife: 8 * time.Hour}
	made(nil, codec.Store(map[string]string{"app-1": "s1"}))
	made(stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "SRV", Codec: codec, CORS: stickiness.CORSNever}))

	// HAProxy: cookie SRV insert indirect nocache dynamic
	made(nil, codec.Store(map[string]string{
		"app-1": cookie.InsecureHAProxyDynamic("MYKEY", netip.MustParseAddrPort("10.0.0.1:3000")),
	}))

	// HAProxy: cookie JSESSIONID prefix
	made(stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "JSESSIONID", Codec: &table}))

	// HAProxy: mode tcp, balance source, send-proxy-v2
	pool, err := balancer.New(balancer.Config{Picker: &balancer.SourceAddress{}})
	made(&stream.Server{Pool: pool, SendProxy: 2}, err)

	// mod_jk, Tomcat: jvmRoute
	made(stickiness.NewRoute(stickiness.RouteOptions{Cookie: "JSESSIONID", PathParam: "jsessionid", Codec: &table}))

	// Traefik: sticky.cookie.name=lb, secure, httpOnly, sameSite=lax; Caddy: lb_policy cookie lb
	made(stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "lb", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}))

	// ALB: lb_cookie, one day; CLB: duration-based, one hour
	made(stickiness.NewLBCookie(stickiness.LBCookieOptions{Period: 24 * time.Hour, Renew: true, Enforce: true}))
	made(stickiness.NewLBCookie(stickiness.LBCookieOptions{Period: time.Hour}))

	// ALB: app_cookie; CLB: application-controlled
	made(stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "JSESSIONID"}))
	// Output:
}
