package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/wsproxy"
)

// The header and the cookie in which the application has the IDs of its sessions.
const (
	sessionCookie = "SID"
	sessionHeader = "Session-Id"
)

// runBalancer is the process of a balancer. Its arguments are its name, its address, that of Redis,
// and the targets, such as app-1=http://127.0.0.1:9001.
func runBalancer(ctx context.Context, args []string) error {
	name, addr, redis := args[0], args[1], args[2]
	client, err := dialRedis(ctx, redis)
	if err != nil {
		return err
	}
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Options{})
	if err != nil {
		return err
	}
	proxy, err := newProxy(store, args[3:]...)
	if err != nil {
		return err
	}
	defer proxy.Close()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Balancer", name)
		proxy.ServeHTTP(w, r)
	}))
}

// dialRedis connects to Redis. A balancer that starts while Redis is away waits for it.
func dialRedis(ctx context.Context, addr string) (rueidis.Client, error) {
	for {
		client, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress:       []string{addr},
			CacheSizeEachConn: 8 << 20,
			ConnWriteTimeout:  time.Second,
		})
		if err == nil {
			return client, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(retryPause):
		}
	}
}

// newProxy returns the proxy of a balancer. It binds clients by the application's own sessions,
// which it learns from responses and keeps in the store.
func newProxy(store stickiness.Store, targets ...string) (*wsproxy.Proxy, error) {
	learn, err := stickiness.NewLearn(stickiness.LearnOptions{
		Store:   store,
		Cookie:  sessionCookie,
		Header:  sessionHeader,
		Timeout: time.Second, // all processes share this machine, which may be busy
	})
	if err != nil {
		return nil, err
	}
	conf := balancer.Config{Picker: &balancer.RoundRobin{}}
	for _, target := range targets {
		id, address, _ := strings.Cut(target, "=")
		u, err := url.Parse(address)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", id, err)
		}
		conf.Targets = append(conf.Targets, balancer.Target{ID: id, URL: u})
	}
	pool, err := balancer.New(conf)
	if err != nil {
		return nil, err
	}
	p := &wsproxy.Proxy{Pool: pool, Policy: learn}
	return p, p.Validate()
}
