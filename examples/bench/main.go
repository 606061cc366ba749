// Command bench compares the library's demo balancer ([examples/demo], which it builds) with
// alternatives: a bare httputil.ReverseProxy, and HAProxy, nginx and Caddy if they are installed.
// It starts the programs and backends for them on loopback addresses. It measures the programs in
// turn, round after round, so that the machine's other load affects all of them alike. It prints a
// table of medians. The flag -help lists the flags.
//
// # What is compared
//
// Every program has cookie stickiness and checks three targets, if it can; the table describes each
// configuration. None writes an access log. Each may use all processors. The client checks the
// status, the octets and the session's target of every answer. If a program fails, it has no figure
// there, and the failure is printed below the table.
//
// CPU time is the user and system time of the proxy's processes in a closed loop, as the operating
// system counts it. It is the figure to compare: the client and the backends share the processors
// with the proxy, which lowers all rates.
//
// Latencies come from an open loop: requests are due at a fixed rate, even if earlier ones are
// late, and each is timed from the instant when it was due. Bulk counts the payload of both
// directions in GB of 10^9 octets. A KB is 1024 octets. TLS is 1.3 with X25519 for all programs.
//
// Memory is the growth of the resident set of freshly started processes with that number of open,
// silent WebSockets. The processes have served some requests and WebSockets before, so memory that
// they have already may take some of them. The row "fresh process" is without that: the growth from
// a quarter of the WebSockets to all, in a process that has served nothing else.
//
// Over HTTP/2, the client keeps one request under way on each of 64 connections, or eight on each
// of eight. It checks that the proxy agreed on HTTP/2, and, before it measures, that the eight
// requests reach the backend at the same time. Its flow-control windows are so large that no answer
// waits for them. WebSockets over HTTP/2 are extended CONNECTs (RFC 8441), so programs that do not
// offer these have no figure there. Go's server offers them if the environment has
// GODEBUG=http2xconnect=1.
//
// System calls are counted in loops of their own, since that takes time: by perf if it is installed
// and permitted, otherwise by strace, otherwise not at all. The table says which. The kernel itself
// counts how often a thread went to sleep.
//
// # Kinds of runs
//
// Without flags a run takes less than nine minutes. With -o it also writes the table in Markdown, a
// short one, a chart and all samples into a directory. With -grow it also measures 10 to 10,000
// connections and 3 to 3,000 targets, and takes up to half an hour. With -quick it takes some
// seconds, and its figures mean little.
//
// With -scale it also measures latencies while targets flap, 10,000 WebSockets and 10,000 idle
// clients at once, 1,000,000 learned sessions, pools of 100,000 targets, and what 64 goroutines on
// one pool cost each other. That takes up to six minutes more. If a process may not have enough
// descriptors, fewer WebSockets and clients are distributed over several processes of each program,
// and the table says so.
//
// To see what a change of the library does, build examples/demo before the change, and compare both
// in the rows that matter:
//
//	go build -o /tmp/before ./examples/demo
//	go run ./examples/bench -before /tmp/before -only stickylb -run 'HTTP/2' -rounds 10
//
// With -soak nothing is compared. The demo balancer runs for that time at half of its highest load,
// with requests, WebSocket echoes and new sessions. The bench prints its memory meanwhile, and the
// slope at the end.
//
// With -pickers no program is started. The library's pickers choose among 10,000 targets, first
// without changes and then with ten changes a second, and the duration of Acquire is printed. That
// works on every system.
//
// All other runs need Linux, for the CPU time and the memory of processes, and a Go toolchain in
// this module's directory. The bench leaves no process and no file behind, even if it is
// interrupted. The exit code is 2 if it cannot start. It is 1 if the bench, or one of the two
// programs that are always there, fails later.
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
	"path/filepath"
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
	exitRefused // the bench cannot start
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

// play runs this program in one of its other roles. It returns only with an error.
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

// run runs the bench until it is done or ctx ends. It returns the exit code.
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
	all := b.scenarios()
	if len(all) == 0 {
		return exitRefused, fmt.Errorf("no row has a name that matches -run %v", b.rows)
	}
	r, err := b.compare(ctx, all)
	if err != nil {
		return exitFailed, err
	}
	err = errors.Join(r.writeTable(stdout), b.writeFiles(r))
	if slices.ContainsFunc(r.Failures, isOurs) {
		code = exitFailed
	}
	return code, err
}

// isOurs reports whether a failure is that of a program that is always there.
func isOurs(failure string) bool {
	return strings.HasPrefix(failure, nameStickylb+",") || strings.HasPrefix(failure, nameReverseProxy+",")
}

// Names of the files of -o.
const (
	fileTable   = "table.md"  // for the documentation
	fileShort   = "short.md"  // for the README
	fileChart   = "chart.svg" // both
	fileSamples = "samples.json"
)

// writeFiles writes the files of -o.
func (b *bench) writeFiles(r *result) error {
	if b.out == "" {
		return nil
	}
	return errors.Join(
		writeFile(b.out, fileTable, r.writeMarkdown),
		writeFile(b.out, fileShort, r.writeShort),
		writeFile(b.out, fileChart, r.writeChart),
		writeFile(b.out, fileSamples, func(w io.Writer) error { return json.NewEncoder(w).Encode(r) }))
}

// checkDir returns an error if no file can be written into the directory, so that a long run does
// not end with that error. It does nothing if dir is empty.
func checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	f, err := os.CreateTemp(dir, "bench-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func writeFile(dir, name string, write func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
