package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// The recipes of the README, one Example each. TestREADMECodeIsCompiled compares their lines.

func Example_discovery() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pool, err := balancer.New(balancer.Config{})
	registry := &health.Registry{Pool: pool}
	go registry.Run(ctx)
	var targets []balancer.Target
	targets, err = balancer.ParseTargets("app-1=http://10.0.0.1:3000 app-2=http://10.0.0.2:3000;weight=2")
	err = registry.Replace(targets, health.Drain{Grace: time.Minute})
	err = registry.Settled(ctx) // everything that was missing has drained and is gone
	fmt.Println(err, len(pool.Members()))
	// Output: <nil> 2
}

func Example_targetsFromDNS() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pool, err := balancer.New(balancer.Config{})
	registry := &health.Registry{Pool: pool}
	go registry.Run(ctx)
	source := &discovery.DNS{Name: "app.internal", Port: 8080} // port 0: SRV records
	source.Report = func(targets []balancer.Target) error {
		return registry.Replace(targets, health.Drain{Grace: time.Minute})
	}
	cancel() // this Example asks no server
	go source.Run(ctx)
	err = source.Ready(ctx) // the pool has its first targets
	fmt.Println(err)
	// Output: discovery: waiting for the first targets: context canceled
}

func Example_keyRotation() {
	key, next := cookie.NewKey(), cookie.NewKey()
	codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: [][]byte{key}}) // Codec in the options of a policy
	before, _ := codec.Encode(&cookie.Ticket{Target: "app-1"})
	err = codec.Store(key, next) // 1. all instances read what the new key seals
	err = codec.Store(next, key) // 2. all seal with the new key
	ticket, _ := codec.Decode(before)
	fmt.Println(ticket.Target, ticket.OldKey)
	err = codec.Store(next) // 3. when no session of the old key is left
	fmt.Println(err)
	_, err = codec.Decode(before)
	fmt.Println(err)
	// Output:
	// app-1 true
	// <nil>
	// cookie: sealed under an unknown key
}

func Example_wrap() {
	targets, err := balancer.ParseTargets("app-1=http://127.0.0.1:1")
	pool, err := balancer.New(balancer.Config{Targets: targets})
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	existing := &httputil.ReverseProxy{Transport: http.NewFileTransport(http.Dir("."))}
	existing.Rewrite = func(pr *httputil.ProxyRequest) {
		pr.SetURL(wsproxy.URLOf(pr.In.Context())) // the target of this session
		// ... the rest of your Rewrite
		fmt.Println(pr.Out.URL.Host)
	}
	existing.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		wsproxy.ReportError(r.Context(), err) // counts against the target, and binds no session to it
		w.WriteHeader(http.StatusBadGateway)
	}
	sticky := &wsproxy.Sticky{Pool: pool, Policy: policy}
	if false {
		err = http.ListenAndServe(":8080", sticky.Handler(existing))
	}
	sticky.Handler(existing).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	fmt.Println(err)
	// Output:
	// 127.0.0.1:1
	// <nil>
}

func Example_learnedSessions() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Mcp-Session-Id", "4f2c")
	}))
	defer backend.Close()
	targets, err := balancer.ParseTargets("app-1=" + backend.URL)
	pool, err := balancer.New(balancer.Config{Targets: targets})
	policy, err := stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Header: "Mcp-Session-Id"})
	lb := &wsproxy.Proxy{Pool: pool, Policy: policy}
	lb.Upstream = wsproxy.Upstream{HeaderTimeout: 10 * time.Minute, MaxAge: 5 * time.Minute}
	fmt.Println(err)

	lb.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/mcp", nil))
	r := httptest.NewRequest(http.MethodPost, "/mcp", nil)
	r.Header.Set("Mcp-Session-Id", "4f2c")
	fmt.Println(policy.Lookup(r, nil)[0].Target)
	// Output:
	// <nil>
	// app-1
}

func Example_behindAProxy() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	pool, _ := balancer.New(balancer.Config{})
	lb := &wsproxy.Proxy{Pool: pool}
	listener = &proxyproto.Listener{Listener: listener, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	server := &http.Server{Handler: lb, ConnContext: proxyproto.ConnContext}
	fmt.Println(lb.Validate(), server.Close(), listener.Close())
	// Output: <nil> <nil> <nil>
}

func Example_tcp() {
	targets, _ := balancer.ParseTargets("db-1=tcp://10.0.0.1:5432")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	listener.Close() // this Example serves nobody
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.SourceAddress{}})
	lb := &stream.Server{Pool: pool, SendProxy: 2}
	fmt.Println(err, lb.Validate())
	err = lb.Serve(listener)
	// Output: <nil> <nil>
}

func Example_policy() {
	var table cookie.InsecureTable // readable values, for this Example
	table.Store(map[string]string{"app-2": "two"})
	policy, _ := stickiness.NewLBCookie(stickiness.LBCookieOptions{Codec: &table})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	b := &stickiness.Binding{Request: r, Header: http.Header{}, Target: "app-2", Seen: policy.Lookup(r, nil)}
	policy.Bind(b) // some target answered a new client
	fmt.Println(b.Result, b.Header.Get("Set-Cookie"))
	// Output: bound AWSELB=two; Path=/
}
