// Command bench compares the library's demo balancer ([examples/demo], built for it) with what people would take
// instead: a bare httputil.ReverseProxy, and HAProxy, nginx and Caddy as far as they are installed. It starts the
// programs and a backend for them on loopback addresses, measures them in turns, round after round, so that what else
// the machine does falls on all of them, and prints a table of medians. -help lists the flags.
//
// # What is compared
//
// Every program keeps sessions sticky by a cookie and checks three targets, as far as it can; the table says how each
// is set up. None writes an access log. Each may use all processors. Every answer is checked: its status, its octets,
// and that the session's target gave it. A program that fails at something has no figure there, and the failure is printed
// below the table.
//
// CPU time is the operating system's account of the proxy's processes, user and system, over a closed loop: it is the
// figure to compare, since the client and the backend share the processors with the proxy and the rates fall with
// theirs. Latencies are of an open loop: requests come at a fixed rate whatever becomes of earlier ones, and each is
// timed from the instant at which it was due. Memory is the growth of the resident set of freshly started processes that
// have served before, with that many WebSockets open and at rest. TLS is 1.3 with X25519 for all. Bulk counts the payload
// of both directions, in GB of 10^9 octets; a KB is 1024 octets.
//
// # Kinds of runs
//
// Without flags a run takes under five minutes. With -grow it also goes through 10 to 10,000 connections and 3 to 3,000
// targets, and takes up to twenty. With -quick it takes some seconds, and its figures mean little. With -soak nothing is
// compared: stickylb has half of its highest load for that time, as requests, WebSocket echoes and new sessions, while
// its memory is printed, with the slope in the end. With -pickers no program is started either: the library's pickers
// choose among 10,000 targets while nothing changes and while the targets change ten times a second, side by side, and how
// long Acquire takes is printed. That works on every system.
//
// The rest needs Linux for these accounts, and a Go toolchain with this module around it. It leaves neither processes nor files
// behind, also when it is interrupted. The exit code is 2 when it cannot start, and 1 when it or one of the two programs
// that are always there fails later.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitRefused // it has not started
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		fmt.Fprintln(os.Stderr, "bench:", play(role, os.Args[1:], os.Stdout))
		os.Exit(exitFailed)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// play is this program in one of its other roles. It ends only by an error, or by a signal.
func play(role string, args []string, out io.Writer) error {
	switch {
	case role == roleBackend && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return runBackends(n, out)
	case role == roleReverseProxy && len(args) == 3:
		return runReverseProxy(args[0], args[1], args[2], out)
	}
	return fmt.Errorf("no role %q with arguments %q", role, args)
}

// run is the program until it is done or ctx ends. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	o, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err == nil && o.pickers {
		if err = o.comparePickers(ctx, pickerTargets, stdout); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return exitFailed
		}
		return exitOK
	}
	if err == nil {
		err = checkSystem()
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return exitRefused
	}
	b := &bench{options: o, began: time.Now(), log: stderr}
	code, err = b.run(ctx, stdout)
	if err = errors.Join(err, b.close()); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return max(code, exitFailed)
	}
	return code
}

func (b *bench) run(ctx context.Context, stdout io.Writer) (code int, err error) {
	if err := b.open(ctx); err != nil {
		return exitRefused, err
	}
	if b.soak > 0 {
		return exitOK, b.runSoak(ctx, stdout)
	}
	r, err := b.compare(ctx, b.scenarios())
	if err != nil {
		return exitFailed, err
	}
	err = errors.Join(
		r.writeTable(stdout, b.present),
		writeFile(b.svg, r.writeChart),
		writeFile(b.json, func(w io.Writer) error { return json.NewEncoder(w).Encode(r) }))
	if slices.ContainsFunc(r.Failures, isOurs) {
		code = exitFailed
	}
	return code, err
}

// isOurs reports whether a failure is of one of the programs that are always there.
func isOurs(failure string) bool {
	return strings.HasPrefix(failure, nameStickylb+",") || strings.HasPrefix(failure, nameReverseProxy+",")
}

// checkFile fails if a file cannot be written, before minutes of work are lost to that. An empty name is none.
func checkFile(name string) error {
	if name == "" {
		return nil
	}
	_, missing := os.Stat(name)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	f.Close()
	if missing != nil {
		return os.Remove(name)
	}
	return nil
}

// writeFile writes a file, unless its name is empty.
func writeFile(name string, write func(io.Writer) error) (err error) {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
