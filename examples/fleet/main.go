// Command fleet shows that sessions survive the end of any balancer. It starts three balancers,
// three backends and a Redis, each as a process of its own, and serves a page at
// http://127.0.0.1:8090. Two clients send requests all the time: a browser, which keeps a cookie,
// and a program, which sends a header and keeps no cookies. Each request goes to the next balancer.
// The page shows which balancer and which backend answered. Its buttons kill processes and start
// them again.
//
//	go -C examples/fleet run . -listen 127.0.0.1:8090
//
// If you kill a balancer, the sessions continue at the others. If you kill Redis, they continue
// too, because each balancer remembers the targets of the sessions that it has seen. If you kill a
// backend, its sessions are lost, because it kept them in its memory, and new ones begin at other
// backends.
//
// The program needs redis-server, which it starts. To use a Redis that runs already, give its
// address with -redis. The page has no button for that one.
//
// # Security
//
// The page is only for this machine: it listens on a loopback address, answers only requests whose
// Host is a loopback address or localhost, and refuses requests from other sites.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/examples/internal/commandline"
)

const headerTimeout = 10 * time.Second // limit for receiving a request's header

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

// run runs the program until ctx ends. The balancers and backends run this program too. Their first
// argument says which of them it is.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "backend":
			return runBackend(ctx, args[1:])
		case "balancer":
			return runBalancer(ctx, args[1:])
		}
	}
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", "127.0.0.1:8090", "loopback address of the page")
	redis := flags.String("redis", "", "address of a Redis to use instead of starting one")
	if err := commandline.Parse(flags, args, stdout, "Usage of fleet:\n"); err != nil {
		return err
	}
	if addr, err := netip.ParseAddrPort(*listen); err != nil || !addr.Addr().IsLoopback() {
		return fmt.Errorf("-listen %q is not a loopback address with a port", *listen)
	}
	f, err := newFleet(*redis)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.start(ctx); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "page at http://%s\n", l.Addr())
	return serve(ctx, l, f.handler())
}

// serve serves until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newFleet returns a fleet on free ports. Nothing runs yet.
func newFleet(redis string) (*fleet, error) {
	f := &fleet{visitors: map[string]*visitor{"browser": {}, "program": {header: true}}}
	if redis == "" {
		path, err := exec.LookPath("redis-server")
		if err != nil {
			return nil, errors.New("redis-server is not installed (Debian has it in the package redis-server): " +
				"install it, or give the address of a Redis, such as -redis 127.0.0.1:6379")
		}
		if f.dir, err = os.MkdirTemp("", "fleet"); err != nil {
			return nil, err
		}
		redis = f.add("redis", func(addr string) *exec.Cmd {
			host, port, _ := net.SplitHostPort(addr)
			return exec.Command(path, "--bind", host, "--port", port, "--dir", f.dir, "--appendonly", "yes")
		})
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var targets []string
	for i := range 3 {
		id := fmt.Sprintf("app-%d", i+1)
		addr := f.add(id, func(addr string) *exec.Cmd { return exec.Command(self, "backend", id, addr) })
		targets = append(targets, id+"=http://"+addr)
	}
	for i := range 3 {
		id := fmt.Sprintf("lb-%d", i+1)
		f.balancers = append(f.balancers, f.add(id, func(addr string) *exec.Cmd {
			return exec.Command(self, append([]string{"balancer", id, addr, redis}, targets...)...)
		}))
	}
	return f, f.err
}
