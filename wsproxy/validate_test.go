package wsproxy_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// What cannot work is refused by Validate, before the server starts, and by a panic of the first
// request that says the same. Every later one panics too, until it can work.
func TestProxy_W12_ValidateRefusesWhatCannotServe(t *testing.T) {
	pool, _ := newPool(t, target("a", "http://a.invalid"))
	mixed, _ := newPool(t, target("a", "http://a.invalid"), target("db", "tcp://db.invalid:5432"))
	tests := map[string]struct {
		proxy *wsproxy.Proxy
		say   string
	}{
		"no pool":               {&wsproxy.Proxy{}, "Proxy has no Pool"},
		"nil policy":            {&wsproxy.Proxy{Pool: pool, Policy: (*stickiness.LBCookie)(nil)}, "Policy is a nil *stickiness.LBCookie"},
		"nil switch":            {&wsproxy.Proxy{Pool: pool, Policy: (*stickiness.Switch)(nil)}, "Policy is a nil *stickiness.Switch"},
		"nil transport":         {&wsproxy.Proxy{Pool: pool, Transport: (*http.Transport)(nil)}, "Transport is a nil *http.Transport"},
		"nil transport func":    {&wsproxy.Proxy{Pool: pool, Transport: roundTripper(nil)}, "Transport is a nil wsproxy_test.roundTripper"},
		"logger of nothing":     {&wsproxy.Proxy{Pool: pool, Logger: new(slog.Logger)}, "Logger has no handler"},
		"logger of a nil":       {&wsproxy.Proxy{Pool: pool, Logger: slog.New((*slog.TextHandler)(nil))}, "Logger has no handler"},
		"tcp target":            {&wsproxy.Proxy{Pool: mixed}, `target "db": a Proxy speaks HTTP, and tcp://db.invalid:5432 is for a stream.Server`},
		"version":               {&wsproxy.Proxy{Pool: pool, SendProxy: 3}, "SendProxy is not 0, 1 or 2"},
		"header and transport":  {&wsproxy.Proxy{Pool: pool, SendProxy: 1, Transport: roundTripper(http.DefaultTransport.RoundTrip)}, "SendProxy needs a Transport that is nil"},
		"bounds of a transport": {&wsproxy.Proxy{Pool: pool, Upstream: wsproxy.Upstream{MaxIdle: 1}, Transport: http.DefaultTransport}, "Upstream is set, but Transport has its own limits"},
		"TLS of a transport":    {&wsproxy.Proxy{Pool: pool, BackendTLS: &tls.Config{}, Transport: http.DefaultTransport}, "BackendTLS is set, but Transport has its own TLS configuration"},
		"dials of no transport": {&wsproxy.Proxy{Pool: pool, TransportDials: true}, "TransportDials is set without a Transport"},
		"status for a key":      {&wsproxy.Proxy{Pool: pool, PerKeyStatus: 500}, "PerKeyStatus is neither 503 nor 429"},
		"trusted prefix":        {&wsproxy.Proxy{Pool: pool, Trusted: make([]netip.Prefix, 1)}, "Trusted has an invalid prefix"},
		"forwarded mode":        {&wsproxy.Proxy{Pool: pool, Forwarded: wsproxy.ForwardedRemove + 1}, "Forwarded is no ForwardedMode"},
		"no protocol":           {&wsproxy.Proxy{Pool: pool, Upgrades: []string{"websocket", ""}}, `Upgrades has "", which is no protocol`},
		"a list of protocols":   {&wsproxy.Proxy{Pool: pool, Upgrades: []string{"websocket, chat"}}, `Upgrades has "websocket, chat", which is no protocol`},
		"no version":            {&wsproxy.Proxy{Pool: pool, Upgrades: []string{"chat/"}}, `Upgrades has "chat/", which is no protocol`},
		"interim status":        {&wsproxy.Proxy{Pool: pool, Retry: wsproxy.Retry{On: []int{503, 103}}}, "Retry.On has 103, which is no final status"},
		"close code below all":  {&wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{CloseCode: 999}}, "Tunnels.CloseCode 999 may not be sent"},
		"close code reserved":   {&wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{CloseCode: 1006}}, "Tunnels.CloseCode 1006 may not be sent"},
		"close code unassigned": {&wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{CloseCode: 2000}}, "Tunnels.CloseCode 2000 may not be sent"},
		"close code above all":  {&wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{CloseCode: 5000}}, "Tunnels.CloseCode 5000 may not be sent"},
		"close reason":          {&wsproxy.Proxy{Pool: pool, Tunnels: wsproxy.TunnelLimits{CloseReason: "\xff"}}, "Tunnels.CloseReason is not UTF-8"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.proxy.Validate()
			require.ErrorContains(t, err, "wsproxy: "+tt.say)
			for range 2 {
				require.PanicsWithValue(t, err.Error(), func() {
					tt.proxy.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://app.example/", nil))
				})
			}
		})
	}
}

func TestProxy_W12_ValidateTakesWhatCanServe(t *testing.T) {
	pool, _ := newPool(t, target("a", "http://a.invalid"), target("b", "wss://b.invalid"), target("c", "h2c://c.invalid"))
	for name, p := range map[string]*wsproxy.Proxy{
		"zero":        {Pool: pool},
		"no targets":  {Pool: must(balancer.New(balancer.Config{}))},
		"protocols":   {Pool: pool, Upgrades: []string{"WebSocket", "chat/2", "tls/1.0"}},
		"no upgrades": {Pool: pool, Upgrades: []string{}},
		"close codes": {Pool: pool, Tunnels: wsproxy.TunnelLimits{CloseCode: 4999, CloseReason: "déjà"}},
		"statuses":    {Pool: pool, Retry: wsproxy.Retry{On: []int{200, 503, 599}}},
		"first":       {Pool: pool, Policy: stickiness.First()},
	} {
		t.Run(name, func(t *testing.T) { require.NoError(t, p.Validate()) })
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// From the first request on, the pool takes no target that the proxy cannot use; once the proxy is
// shut down it may. A set that is refused changes nothing.
func TestProxy_W12_UpdateRefusesTCPTargets(t *testing.T) {
	http1, tcp := newBackend(t, "a", nil).target(), target("db", "tcp://db.invalid:5432")
	pool, _ := newPool(t, http1)
	p := &wsproxy.Proxy{Pool: pool}
	c := newClient(t, serve(t, p))

	require.NoError(t, pool.Update(http1, tcp), "nobody has asked for HTTP yet")
	require.Error(t, p.Validate())
	require.NoError(t, pool.Update(http1))
	require.Equal(t, "a", c.get("/").backend())

	require.EqualError(t, pool.Update(http1, tcp),
		`balancer: target 1 ("db"): a Proxy speaks HTTP, and tcp://db.invalid:5432 is for a stream.Server`)
	require.Len(t, pool.Members(), 1)
	require.Equal(t, "a", c.get("/").backend())

	require.NoError(t, p.Shutdown(context.Background()))
	require.NoError(t, pool.Update(http1, tcp))
}
