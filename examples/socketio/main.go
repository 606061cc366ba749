// Command socketio balances three nodes with socket.io, SignalR and SockJS. A session begins with
// plain HTTP requests. It goes on by polling, as a stream beside POSTs, or as a WebSocket after an
// upgrade. Only the node that began a session knows it, so all its requests have to go there.
//
//	go -C examples/socketio run .
//
// It needs node and npm. It starts three nodes, has twenty clients connect by each transport, and
// prints how many could. Then it serves a page at http://127.0.0.1:8080 that shows which node
// answers your browser. With -no-stickiness you see what fails: another node answers a session of
// socket.io with 400 "Session ID unknown", and one of SignalR with 404.
//
// A cookie of the balancer binds sessions. Browsers send it. Of the Node.js clients, SignalR's
// sends it, and socket.io's does with withCredentials: true. SockJS's client keeps no cookies, but
// its paths contain the session. Where there is no cookie, a hash of that session chooses the node.
// Clients of socket.io that use only WebSockets need no stickiness. Nor do those of SignalR with
// skipNegotiation: true. SignalR's own server needs .NET, so the nodes have a small JavaScript
// server that speaks the documented protocol as far as this example needs it. The other two servers
// are the real ones.
//
// # In production
//
// Serve TLS and set Secure. Give all balancers the same Keys, and check the nodes' health.
// Stickiness does not carry messages between nodes: for that, use an adapter, such as socket.io's
// for Redis.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/commandline"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "socketio:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("socketio", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", "127.0.0.1:8080", "address of the balancer")
	count := flags.Int("clients", 20, "how many clients of each kind connect")
	unbound := flags.Bool("no-stickiness", false, "send each request to the next node, to see what fails")
	if err := commandline.Parse(flags, args, stdout, "Usage of socketio:\n"); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	folder, nodes, err := startNodes(ctx)
	if err != nil {
		return err
	}
	defer folder.Close()
	lb, err := newProxy(!*unbound, nodes...)
	if err != nil {
		return err
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	clients.Go(func() { play(ctx, folder, "http://"+listener.Addr().String(), *count, stdout) })
	server := &http.Server{Handler: lb, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	context.AfterFunc(ctx, func() { listener.Close() })
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(lb.Shutdown(grace), server.Close()) // WebSockets get close frames
}

// newProxy returns the balancer. If it is sticky, a cookie binds clients to nodes.
func newProxy(sticky bool, nodes ...string) (*wsproxy.Proxy, error) {
	targets, targetsErr := balancer.ParseTargets(nodes...)
	conf := balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}}
	if sticky {
		conf.Picker = &balancer.Rendezvous{}
	}
	pool, poolErr := balancer.New(conf)
	policy, policyErr := stickiness.NewLBCookie(stickiness.LBCookieOptions{HttpOnly: true})
	if err := errors.Join(targetsErr, poolErr, policyErr); err != nil {
		return nil, err
	}
	lb := &wsproxy.Proxy{Pool: pool}
	if sticky {
		lb.Policy, lb.Key = policy, key
	}
	return lb, lb.Validate()
}

// key returns what the hash picker chooses a node by if there is no cookie: the session of SockJS,
// as in /sockjs/SERVER/SESSION/xhr_send, or else chance.
func key(r *http.Request) string {
	if parts := strings.Split(r.URL.Path, "/"); len(parts) == 5 && parts[1] == "sockjs" {
		return parts[3]
	}
	return rand.Text()
}
