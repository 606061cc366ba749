package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/commandline"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// Options are what the flags say.
type options struct {
	targets   int
	visitors  int
	blueGreen bool
	canary    int // percent; 0: no canary
	grace     time.Duration
	limit     time.Duration
	fault     string
}

func parse(args []string, help io.Writer) (o options, err error) {
	f := flag.NewFlagSet("rolling", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&o.targets, "targets", 4, "targets of each version")
	f.IntVar(&o.visitors, "visitors", 20, "clients with sessions, and as many with WebSockets")
	f.BoolVar(&o.blueGreen, "blue-green", false, "replace all targets at once instead of one after the other")
	f.IntVar(&o.canary, "canary", 0, "`percent` of the new sessions that one new target gets first; 0: none")
	f.DurationVar(&o.grace, "grace", time.Second, "how long sessions stay with an old target")
	f.DurationVar(&o.limit, "limit", 30*time.Second, "how long the update may take")
	f.StringVar(&o.fault, "fault", "", "what goes wrong: crash or wrong; nothing without")
	err = commandline.Parse(f, args, help, "Usage of rolling:\n")
	switch {
	case err != nil:
	case o.targets < 1 || o.targets > 100 || o.visitors < 1 || o.visitors > 1000:
		err = errors.New("-targets must be from 1 to 100, -visitors from 1 to 1000")
	case o.canary < 0 || o.canary > 100 || o.grace <= 0 || o.limit <= 0:
		err = errors.New("-canary must be from 0 to 100, and -grace and -limit positive")
	case o.fault != "" && o.fault != "crash" && o.fault != "wrong":
		err = fmt.Errorf("-fault %q is neither crash nor wrong", o.fault)
	case o.fault == "crash" && o.targets < 2:
		err = errors.New("-fault crash needs two -targets")
	}
	return o, err
}

// run runs the program. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		fmt.Fprintln(stderr, "rolling:", err)
		return exitUsage
	}
	f, err := newFleet(o)
	if err == nil {
		defer f.close()
		err = f.run(ctx, stdout, isTerminal(stdout))
	}
	if err != nil {
		fmt.Fprintln(stderr, "rolling:", err)
		return exitFailed
	}
	return exitOK
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// A fleet has the targets, the balancer and its clients.
type fleet struct {
	options
	began    time.Time
	registry *health.Registry
	proxy    *wsproxy.Proxy
	server   *http.Server // of the proxy
	clients  *traffic

	mu      sync.Mutex
	apps    map[string]*app // those that were not stopped, by ID
	started map[string]int  // by version
	lines   []string        // of the update, which were not printed yet
}

// newFleet starts the targets of the old version and the balancer.
func newFleet(o options) (*fleet, error) {
	f := &fleet{options: o, began: time.Now(), apps: map[string]*app{}, started: map[string]int{}}
	f.server = &http.Server{ReadHeaderTimeout: patience}
	if err := f.open(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) open() error {
	var targets []balancer.Target
	for range f.targets {
		t, err := f.start("v1")
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	pool, poolErr := balancer.New(balancer.Config{Targets: targets, Picker: newPicker(f.canary)})
	policy, policyErr := stickiness.NewLBCookie(stickiness.LBCookieOptions{HttpOnly: true})
	listener, listenErr := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(poolErr, policyErr, listenErr); err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler) // the clients say what went wrong
	f.registry = &health.Registry{Pool: pool, Check: health.HTTP{Path: "/healthz"}, Interval: 500 * time.Millisecond, Logger: quiet}
	f.proxy = &wsproxy.Proxy{Pool: pool, Policy: policy, Logger: quiet, Tunnels: wsproxy.TunnelLimits{Window: f.grace / 2}}
	f.server.Handler = f.proxy
	go f.server.Serve(listener) // until close
	f.clients = &traffic{addr: listener.Addr().String(), serves: f.serves, answers: map[string]int64{}}
	return f.proxy.Validate()
}

// close ends everything that newFleet has started.
func (f *fleet) close() {
	f.server.Close()
	if f.proxy != nil {
		f.proxy.Close()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.apps {
		a.stop()
	}
}

// run replaces the fleet while the clients work. It returns an error if something was lost.
func (f *fleet) run(ctx context.Context, stdout io.Writer, live bool) error {
	ctx, cancel := context.WithCancel(ctx)
	var checks, clients, shown sync.WaitGroup
	checks.Go(func() { f.registry.Run(ctx) })
	defer checks.Wait()
	defer cancel()
	if err := f.registry.Ready(ctx); err != nil {
		return err
	}
	work, stop := context.WithCancel(ctx)
	clients.Go(func() { f.clients.run(work, f.visitors) })
	over := make(chan struct{})
	shown.Go(func() { f.show(stdout, live, over) })

	f.say("%d targets of v1 serve", f.targets)
	limited, end := context.WithTimeoutCause(ctx, f.limit, fmt.Errorf("the update has not ended within %v", f.limit))
	defer end()
	for f.clients.sockets.Load() < int64(f.visitors) && limited.Err() == nil {
		sleep(limited, 10*time.Millisecond)
	}
	sleep(limited, f.grace)
	err := f.update(limited)
	if err == nil {
		sleep(ctx, f.grace) // v2 alone
		err = f.clients.meet(limited, f.list())
	}
	if err != nil && limited.Err() != nil {
		err = context.Cause(limited)
	}
	stop()
	clients.Wait()
	close(over)
	shown.Wait()
	return errors.Join(err, f.clients.err())
}

// sleep waits, for less if ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// start starts a target. With -fault crash, the last target of v1 crashes before the second one of
// v2 starts.
func (f *fleet) start(version string) (balancer.Target, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started[version]++
	n := f.started[version]
	if f.fault == "crash" && version == "v2" && n == 2 {
		f.crash(fmt.Sprintf("v1-%d", f.targets))
	}
	id := fmt.Sprintf("%s-%d", version, n)
	a, err := newApp(id, version == "v2" && f.fault == "wrong")
	if err != nil {
		return balancer.Target{}, err
	}
	f.apps[id] = a
	return balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: a.addr}, Labels: map[string]string{"version": version}}, nil
}

// list returns the targets in the pool, as they were configured.
func (f *fleet) list() []balancer.Target {
	var targets []balancer.Target
	for _, m := range f.registry.Pool.Members() {
		targets = append(targets, m.Target())
	}
	return targets
}

// stopRemoved stops the targets that are not in the pool any more.
func (f *fleet) stopRemoved() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, a := range f.apps {
		if _, ok := f.registry.Pool.Member(id); !ok {
			a.stop()
			delete(f.apps, id)
		}
	}
}

// crash stops a target that is still in the pool, with everything that is in flight there. The
// caller holds the lock.
func (f *fleet) crash(id string) {
	f.sayLocked("%s crashes", id)
	f.apps[id].stop()
	delete(f.apps, id)
}

// serves reports whether a target still serves the sessions that are bound to it. Once it does not,
// it never does again.
func (f *fleet) serves(id string) bool {
	f.mu.Lock()
	_, running := f.apps[id]
	f.mu.Unlock()
	m, ok := f.registry.Pool.Member(id)
	if !running || !ok {
		return false
	}
	state := m.State()
	return (state.Admin == balancer.Ready || state.Admin == balancer.Draining) &&
		state.Health != balancer.Unhealthy && state.EjectedUntil.IsZero()
}

// watch waits until a target has answered 100 requests. It returns an error if anything is lost
// before.
func (f *fleet) watch(ctx context.Context, id string) error {
	for {
		switch answers := f.clients.answersOf(id); {
		case ctx.Err() != nil:
			return ctx.Err()
		case f.clients.lost.Load() > 0:
			return fmt.Errorf("%d lost after %d answers", f.clients.lost.Load(), answers)
		case answers >= 100:
			f.say("the canary has answered %d requests", answers)
			return nil
		}
		sleep(ctx, 10*time.Millisecond)
	}
}

// say tells what the update does.
func (f *fleet) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sayLocked(format, args...)
}

func (f *fleet) sayLocked(format string, args ...any) {
	f.lines = append(f.lines, fmt.Sprintf("%5.1f s  %s", time.Since(f.began).Seconds(), fmt.Sprintf(format, args...)))
}
