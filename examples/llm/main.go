// Command llm balances replicas of a language model behind OpenAI's API. A replica caches what it
// has computed for the beginning of a prompt. The next request of a conversation begins like the
// last one, and its first token comes much sooner where that is cached. So the balancer sends all
// requests of a conversation to one replica. It reads the conversation's beginning from the body
// and chooses the replica by its hash, without cookies or stored sessions. If that replica has more
// than its share of the load, is full, drains or is down, the next one in the hash's order serves.
//
//	go -C examples/llm run .
//
// This compares three pickers side by side, with simulated conversations and four simulated
// replicas for each. After about ten seconds it prints how much of the prompts was cached and how
// long the first token took. With -listen 127.0.0.1:8080 it serves your own client instead. Add
// -replicas "a=http://10.0.0.1:8000 b=..." to balance your own replicas.
//
// # In production
//
// Serve TLS and authenticate clients: who chooses the prompt chooses the replica. Set slots to the
// number of requests that a replica computes at a time, and limit to the longest prompt. The
// ReadTimeout is for receiving a request, and does not end long answers. If a body is compressed or
// has no messages, prompt or input, the hash of the client's address chooses. If a replica dies,
// its requests fail: they are not sent to another one, because they may have cost something.
// Responses that a client continues by previous_response_id have to be in a store that the replicas
// share.
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
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/commandline"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy"
)

const (
	limit = 4 << 20  // bytes of a request's body
	ahead = 64 << 10 // bytes that are read before a replica is chosen
	slots = 8        // requests that a replica computes at a time
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "llm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("llm", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", "", "address to serve at, such as 127.0.0.1:8080; empty compares pickers")
	replicas := flags.String("replicas", "", "replicas to balance, such as a=http://10.0.0.1:8000; empty starts four")
	if err := commandline.Parse(flags, args, stdout, "Usage of llm:\n"); err != nil {
		return err
	}
	if *listen == "" && *replicas != "" {
		return errors.New("-replicas needs -listen")
	}
	if *listen == "" {
		return compare(ctx, stdout, conversations, turns)
	}
	if *replicas == "" {
		targets, stop := startReplicas()
		defer stop()
		*replicas = targets
	}
	lb, err := newProxy(*replicas, &balancer.Rendezvous{MaxLoad: 1.25})
	if err != nil {
		return err
	}
	registry := &health.Registry{Pool: lb.Pool, Check: health.HTTP{Path: "/health"}}
	go registry.Run(ctx)
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "balancing %s at http://%s/v1\n", *replicas, listener.Addr())
	server := &http.Server{Handler: http.MaxBytesHandler(lb, limit), ReadTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() { listener.Close() })
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	grace, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return errors.Join(lb.Shutdown(grace), server.Shutdown(grace))
}

// newProxy returns the balancer. A hash picker chooses by the key of a conversation.
func newProxy(replicas string, picker balancer.Picker) (*wsproxy.Proxy, error) {
	targets, err := balancer.ParseTargets(replicas)
	for i := range targets {
		targets[i].MaxRequests = slots
	}
	pool, poolErr := balancer.New(balancer.Config{
		Targets:      targets,
		Picker:       picker,
		Queue:        1000, // while all replicas are full
		QueueTimeout: time.Minute,
	})
	if err := errors.Join(err, poolErr); err != nil {
		return nil, err
	}
	lb := &wsproxy.Proxy{Pool: pool, Key: conversation, ReadAhead: ahead}
	lb.Upstream.HeaderTimeout = 5 * time.Minute                        // a long prompt takes long
	lb.Retry = wsproxy.Retry{On: []int{http.StatusServiceUnavailable}} // a replica that says that it is full
	return lb, lb.Validate()
}
