// Command mcp balances servers of the Model Context Protocol over Streamable HTTP. Revisions of the
// protocol up to 2025-11-25 have sessions: the server chooses an ID, both sides send it in the
// header Mcp-Session-Id, and only the server that began a session knows it. The balancer learns the
// IDs from responses, and sends each request of a session, the stream of a GET and the final DELETE
// to the session's server. Since revision 2026-07-28 there are no sessions: requests of these
// revisions go to any server, even with such a header, and the balancer remembers nothing of them.
//
//	go -C examples/mcp run .
//
// This starts three servers of the official SDK for Node.js, which it installs with npm, and plays
// sixty sessions with the SDK's client. Your own clients can use http://127.0.0.1:8080/mcp until
// you interrupt it. It needs node and npm. To balance your own servers, name them:
//
//	go -C examples/mcp run . -servers "a=http://10.0.0.1:3000 b=http://10.0.0.2:3000"
//
// The balancer keeps the IDs in its memory, and a restart loses them. With a Redis, as in
// -redis 127.0.0.1:6379, sessions go on after a restart: their servers still know them, and a
// client that was cut off resumes its streams with Last-Event-ID. Several balancers can share one
// Redis.
//
// # In production
//
// Serve TLS, check the health of the servers with a health.Registry, and authenticate clients: a
// session's ID is no proof of who sends it. Before a server ends, drain it (health.Registry.Drain).
// Clients of a lost session get a 404 from another server and begin a new one. When it ends, this
// program cuts off open requests. Call Proxy.Shutdown first if tools answer without a stream.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/commandline"
	"github.com/stickylb/stickylb/examples/internal/nodejs"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "mcp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("mcp", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", "127.0.0.1:8080", "address of the balancer")
	redis := flags.String("redis", "", "address of the Redis that remembers the sessions; empty means memory")
	servers := flags.String("servers", "", "MCP servers, such as a=http://10.0.0.1:3000; empty starts three")
	if err := commandline.Parse(flags, args, stdout, "Usage of mcp:\n"); err != nil {
		return err
	}
	store, closeStore, err := newStore(*redis)
	if err != nil {
		return err
	}
	defer closeStore()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	var sdk *nodejs.Folder // of servers that this program starts
	if *servers == "" {
		if sdk, *servers, err = startServers(ctx); err != nil {
			return err
		}
		defer sdk.Close()
	}
	lb, err := newProxy(store, *servers)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://%s/mcp", listener.Addr())
	fmt.Fprintf(stdout, "balancing %s at %s\n", *servers, url)
	if sdk != nil {
		var clients sync.WaitGroup
		defer clients.Wait()
		clients.Go(func() { play(ctx, sdk, url, stdout) })
	}
	server := &http.Server{Handler: lb, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	defer context.AfterFunc(ctx, func() { server.Close() })() // clients resume at the next balancer
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return lb.Close()
}

// newProxy returns the balancer. It learns the IDs of sessions from responses.
func newProxy(store stickiness.Store, servers string) (*wsproxy.Proxy, error) {
	learn, learnErr := stickiness.NewLearn(stickiness.LearnOptions{
		Store:   store,
		Header:  "Mcp-Session-Id",
		TTL:     time.Hour,       // since the last request: a GET may stream for long without another one
		Timeout: 5 * time.Second, // for the store: without its answer, a session may be lost
	})
	targets, targetsErr := balancer.ParseTargets(servers)
	pool, poolErr := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	if err := errors.Join(learnErr, targetsErr, poolErr); err != nil {
		return nil, err
	}
	lb := &wsproxy.Proxy{Pool: pool, Policy: sessions{learn}}
	lb.Upstream.HeaderTimeout = 10 * time.Minute // a tool may work for long before it answers
	return lb, lb.Validate()
}
