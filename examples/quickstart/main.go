// Command quickstart balances the backends named on its command line, and keeps each session with
// one of them.
package main

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	if err := run(ctx, listener, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listener net.Listener, backends []string) error {
	targets, targetsErr := balancer.ParseTargets(backends...)
	pool, poolErr := balancer.New(balancer.Config{Targets: targets})
	policy, policyErr := stickiness.NewLBCookie(stickiness.LBCookieOptions{HttpOnly: true})
	if err := errors.Join(targetsErr, poolErr, policyErr); err != nil {
		return err
	}
	registry := &health.Registry{Pool: pool, Check: health.HTTP{Path: "/healthz"}}
	go registry.Run(ctx)

	lb := &wsproxy.Proxy{Pool: pool, Policy: policy}
	if err := lb.Validate(); err != nil {
		return err
	}
	server := &http.Server{Handler: lb}
	context.AfterFunc(ctx, func() { listener.Close() })
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	grace, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return errors.Join(lb.Shutdown(grace), server.Shutdown(grace)) // WebSockets first, then requests
}
