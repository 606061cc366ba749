// Command demo is a load balancer made of this module's packages. Without flags it starts three
// small backends of its own and balances them on http://127.0.0.1:8080 and, with a self-signed
// certificate, on https://127.0.0.1:8443: open either in a browser to see sticky sessions, failover
// and draining happen. With -target it balances your backends; -help lists the flags. With -tcp it
// balances any other TCP protocol as well.
//
// It prints a line on standard output for every listener once that accepts, and logs on standard
// error. An interrupt, SIGTERM or SIGHUP ends it in order: it accepts nothing more, closes the
// WebSockets and lets the requests in flight and the connections of -tcp end, for at most five
// seconds. A second one ends it at once. Under nohup, SIGHUP does nothing. When nobody reads its
// output or its log any more it goes on without. The exit code is 2 when the command line is wrong,
// and 1 when it cannot start for any other reason, such as an address that is in use, or fails
// later. The reason is on one line of standard error, and what does not start has accepted nothing.
//
// On the address of -admin, /settings changes the targets, the mode of stickiness and the keys
// while it serves, by a form or by JSON; see the README.
//
// # Security
//
// With its own backends, and only then, the balancer serves the page's buttons below /demo/: they
// stop, start and drain backends. They work for requests from this machine that are addressed to a
// loopback name, and never for a page of another origin. What -admin serves has no such limit to
// this machine: whoever reaches that address can take every target down, and send all requests to
// others of their own. It answers to loopback
// names, its own address and the names of -admin-host, so that no page from elsewhere can reach it
// under a name of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

func main() {
	signal.Ignore(syscall.SIGPIPE) // else the end of who reads the log would be the demo's
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop) // the second signal has its default effect
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program until ctx ends. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return exitUsage
	}
	d, err := open(o, slog.New(slog.NewTextHandler(stderr, nil)))
	if err == nil {
		err = d.serve(ctx, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return exitFailed
	}
	return exitOK
}
