// Command router is one server in front of three pools, chosen by path: an API with sticky
// sessions, WebSockets, and assets that any backend can serve. It speaks TLS and HTTP/2, gives each
// request an ID, and has Prometheus metrics and a status page for operators.
//
//	go -C examples/router run .
//
// Open https://127.0.0.1:8443 and accept the self-signed certificate. The page shows that the API
// keeps its backend while the assets change theirs, and echoes over a WebSocket. The program prints
// the password of the status page, unless the environment variable ROUTER_PASSWORD sets one. On an
// interrupt it ends the WebSockets first, with a close frame, and then the requests.
//
// For production, replace startBackends by your own targets and selfsigned by your certificate, and
// give the policy the same Keys on all instances. Serve /operators/ on another listener: here the
// pages of the backends have the same origin, so they could press the buttons of an operator who is
// logged in. Limit the login attempts: this program does not.
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/prometheus"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	listener, err := net.Listen("tcp", "127.0.0.1:8443")
	if err == nil {
		err = run(ctx, listener, os.Getenv("ROUTER_PASSWORD"), os.Stdout)
	}
	if err != nil {
		log.Fatal("router: ", err)
	}
}

func run(ctx context.Context, listener net.Listener, password string, stdout io.Writer) error {
	defer listener.Close()
	targets, stopBackends, backendsErr := startBackends()
	defer stopBackends()
	api, apiErr := balancer.New(balancer.Config{Name: "api", Targets: targets["api"]})
	sockets, socketsErr := balancer.New(balancer.Config{Name: "sockets", Targets: targets["sockets"]})
	assets, assetsErr := balancer.New(balancer.Config{Name: "assets", Targets: targets["assets"], Picker: &balancer.RoundRobin{}})
	policy, policyErr := stickiness.NewLBCookie(stickiness.LBCookieOptions{Path: "/api/", Secure: true, HttpOnly: true})
	cert, certErr := selfsigned.New("")
	if err := errors.Join(backendsErr, apiErr, socketsErr, assetsErr, policyErr, certErr); err != nil {
		return err
	}

	check := health.HTTP{Path: "/healthz"}
	registries := []*health.Registry{{Pool: api, Check: check}, {Pool: sockets, Check: check}, {Pool: assets, Check: check}}
	collector, err := prometheus.New(prometheus.Options{Registries: registries})
	if err != nil {
		return err
	}
	defer collector.Observe()()
	metrics := prom.NewRegistry()
	metrics.MustRegister(collector)
	mux := http.NewServeMux()
	var proxies []wsproxy.Shutdowner
	for pattern, proxy := range map[string]*wsproxy.Proxy{
		"/api/": {Pool: api, Policy: policy},
		"/ws/":  {Pool: sockets, Tunnels: wsproxy.TunnelLimits{Window: 2 * time.Second}}, // at shutdown
		"/":     {Pool: assets},
	} {
		proxy.Trace = wsproxy.MultiTrace(collector.Trace(proxy.Pool), wsproxy.LogAccess(nil, requestAttrs))
		if err := proxy.Validate(); err != nil {
			return err
		}
		mux.Handle(pattern, proxy)
		proxies = append(proxies, proxy)
	}
	if password == "" {
		password = rand.Text()
		fmt.Fprintf(stdout, "the password of operator is %s\n", password)
	}
	page := &health.Page{Registries: registries, Who: user}
	operators := http.NewServeMux()
	operators.Handle("/operators/status", page.Handler())
	operators.Handle("/operators/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.Handle("/operators/", basicAuth("operator", password, operators))

	ctx, cancel := context.WithCancel(ctx)
	var checks sync.WaitGroup
	defer checks.Wait()
	defer cancel()
	for _, registry := range registries {
		checks.Go(func() { registry.Run(ctx) })
	}
	server := &http.Server{Handler: requestID(mux), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ConnContext: wsproxy.ConnContext}
	fmt.Fprintf(stdout, "open https://%[1]s and, as operator, https://%[1]s/operators/status\n", listener.Addr())
	context.AfterFunc(ctx, func() { listener.Close() })
	if err := server.ServeTLS(listener, "", ""); ctx.Err() == nil {
		return errors.Join(err, server.Close())
	}
	grace, end := context.WithTimeout(context.Background(), 20*time.Second)
	defer end()
	return errors.Join(wsproxy.Shutdown(grace, proxies...), server.Shutdown(grace), server.Close()) // WebSockets first, then requests
}
