package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// addRoute adds the pool of a server name. The text is the name and the pool's targets. A client
// keeps its target, so that a second connection that belongs to a first one comes to the same.
func addRoute(pools map[string]*balancer.Pool, text string) error {
	name, rest, _ := strings.Cut(text, " ")
	name = strings.ToLower(name)
	targets, err := balancer.ParseTargets(rest)
	if err == nil && (name == "" || len(targets) == 0 || pools[name] != nil) {
		err = errors.New("a route is a name that no other route has, a space, and at least one target")
	}
	if err != nil {
		return err
	}
	pools[name], err = balancer.New(balancer.Config{Name: name, Targets: targets, Picker: &balancer.SourceAddress{}})
	return err
}

// startEmbedded starts two servers, and adds a route to each. They end with ctx.
func startEmbedded(ctx context.Context, work *sync.WaitGroup, pools map[string]*balancer.Pool) error {
	for name, label := range map[string]string{"one.localhost": "", "two.localhost": ";label.proxy=yes"} {
		cert, err := selfsigned.New(name)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if err := addRoute(pools, name+" tcp://"+l.Addr().String()+label); err != nil {
			return err
		}
		if label != "" { // PROXY first, and TLS in it
			l = &proxyproto.Listener{Listener: l, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
		context.AfterFunc(ctx, func() { l.Close() })
		work.Go(func() { greet(l, name) })
	}
	return nil
}

// greet tells each client from where it comes.
func greet(l net.Listener, name string) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		clients.Go(func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(5 * time.Second))
			fmt.Fprintf(c, "this is %s, and you come from %s\n", name, c.RemoteAddr())
		})
	}
}
