package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// The README's short pieces of Go, which no other Example has.

func Example_policy() {
	policy, _ := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	b := &stickiness.Binding{Request: r, Header: http.Header{}, Target: "app-2", Seen: policy.Lookup(r, nil)}
	policy.Bind(b) // some target answered a new client
	fmt.Println(b.Result, b.Header.Get("Set-Cookie"))
}

func Example_endpoints() {
	u, _ := url.Parse("https://app.internal")
	var client tls.Certificate
	for _, target := range []any{
		balancer.Target{ID: "pod-7", URL: u, Addr: "10.0.3.7:8443", ServerName: "app.internal", Certificate: &client},
		balancer.Target{ID: "local", URL: u, Addr: "unix:/run/app.sock"},
	} {
		fmt.Println(target)
	}
}

func Example_clientAddress() {
	listener, _ := net.Listen("tcp", "127.0.0.1:8080")
	lb := &wsproxy.Proxy{}
	listener = &proxyproto.Listener{Listener: listener, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	server := &http.Server{Handler: lb, ConnContext: proxyproto.ConnContext}
	server.Serve(listener)
}

func Example_tcp() {
	var targets []balancer.Target
	listener, _ := net.Listen("tcp", "127.0.0.1:6379")
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.SourceAddress{}})
	fmt.Println(err)
	lb := &stream.Server{Pool: pool}
	err = lb.Serve(listener)
	fmt.Println(err)
}
