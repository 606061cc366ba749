// Command demo is a load balancer made of this module's packages. Without flags it starts three
// small backends and balances them on http://127.0.0.1:8080 and, with a self-signed certificate, on
// https://127.0.0.1:8443. Open either in a browser to try sticky sessions, failover and draining.
// With -target it balances your backends. With -tcp it balances any other TCP protocol. The flag
// -help lists the flags.
//
// It prints a line on standard output for every listener that accepts, and logs on standard error.
// If nobody reads its output or its log any more, it continues.
//
// An interrupt, SIGTERM or SIGHUP shuts it down: it closes the listeners and the WebSockets, and
// waits at most five seconds for requests in flight and connections of -tcp. A second signal ends
// it at once. Under nohup it ignores SIGHUP.
//
// The exit code is 2 if the command line is wrong. It is 1 if the demo cannot start for another
// reason, such as an address in use, or fails later. The reason is one line on standard error. A
// demo that cannot start has accepted no connection.
//
// # Your own backends
//
//	go run ./examples/demo -target app-1=http://10.0.0.1:3000 \
//		-target 'app-2=http://10.0.0.2:3000;weight=2' -sticky lb=1h -check /healthz -admin 127.0.0.1:9000
//	go run ./examples/demo -target redis-1=tcp://10.0.0.1:6379 -target redis-2=tcp://10.0.0.2:6379 \
//		-tcp 127.0.0.1:6379=redis-1,redis-2 -picker source -send-proxy v2
//
// -sticky takes lb, lb=1h, app=COOKIE, learn=COOKIE, learn-header=NAME, header=NAME and none.
// -seal-key may be repeated; the first key seals. -tls-cert and -tls-key are files. Where
// a protocol opens a second connection for the sake of the first, as PostgreSQL does to cancel a
// query, use -picker source: it chooses by the client's address.
//
// # Change while it serves
//
// On the address of -admin, /settings changes the targets, the mode of stickiness and the keys, by
// a form or by JSON, for one field or several. A change takes effect as a whole or not at all:
//
//	curl http://127.0.0.1:9000/settings
//	curl -H 'Content-Type: application/json' http://127.0.0.1:9000/settings -d '{
//		"targets": ["app-2=http://10.0.0.2:3000", "app-3=http://10.0.0.3:3000;backup"], "grace": "30s"}'
//	curl -H 'Content-Type: application/json' http://127.0.0.1:9000/settings -d '{"sticky": "app=JSESSIONID"}'
//	curl -H 'Content-Type: application/json' http://127.0.0.1:9000/settings -d '{"new_key": true}'
//
// The last change wins, unless it names a version with If-Match or in the field "version". Each
// change is logged with the address that it came from. Keys are never shown.
//
// # Security
//
// With its own backends, and only then, the balancer serves the page's buttons below /demo/. They
// stop, start and drain backends. They work only for requests from this machine to a loopback name,
// and never for a page of another origin.
//
// The address of -admin is not limited to this machine: everybody who can reach it can take every
// target down, and send all requests to other targets. It answers only to loopback names, its own
// address and the names of -admin-host. So a foreign page cannot reach it under its own name.
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
	signal.Ignore(syscall.SIGPIPE) // otherwise the demo would end with the reader of its log
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop) // the second signal has its default effect
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program until ctx ends. It returns the exit code.
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
