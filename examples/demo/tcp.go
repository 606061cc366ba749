package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// A tcpFlag is a value of -tcp: an address and the IDs of the targets behind it.
type tcpFlag struct {
	addr string
	ids  []string
}

func (o *options) addTCP(value string) error {
	addr, list, ok := strings.Cut(value, "=")
	ids := strings.Split(list, ",")
	if _, _, err := net.SplitHostPort(addr); !ok || err != nil || slices.Contains(ids, "") {
		return errors.New("no ADDR=ID,ID... such as 127.0.0.1:6380=redis-1,redis-2")
	}
	o.tcp = append(o.tcp, tcpFlag{addr, ids})
	return nil
}

// checkTCP validates the targets of each -tcp.
func (o *options) checkTCP() error {
	targets := o.targets
	if len(targets) == 0 {
		for _, id := range embedded {
			targets = append(targets, balancer.Target{ID: id, URL: &url.URL{Scheme: "http"}})
		}
	}
	var behind [][]string
	for _, f := range o.tcp {
		if err := checkIDs(f.ids, targets); err != nil {
			return fmt.Errorf("invalid value %q for flag -tcp: %w", f, err)
		}
		behind = append(behind, f.ids)
	}
	return checkReached(targets, behind)
}

// checkIDs returns an error unless there is at least one ID and each is a target's.
func checkIDs(ids []string, targets []balancer.Target) error {
	for _, id := range ids {
		if !slices.ContainsFunc(targets, func(t balancer.Target) bool { return t.ID == id }) {
			return fmt.Errorf("no target has the ID %q", id)
		}
	}
	if len(ids) == 0 {
		return errors.New("there is no ID")
	}
	return nil
}

// checkReached returns an error if a target that does not speak HTTP is in no -tcp.
func checkReached(targets []balancer.Target, behind [][]string) error {
	for _, t := range targets {
		if !speaksHTTP(t) && !slices.ContainsFunc(behind, func(ids []string) bool { return slices.Contains(ids, t.ID) }) {
			return fmt.Errorf("target %q speaks no HTTP, and no -tcp names it", t.ID)
		}
	}
	return nil
}

// String returns the value as on the command line.
func (f tcpFlag) String() string { return f.addr + "=" + strings.Join(f.ids, ",") }

func speaksHTTP(t balancer.Target) bool { return t.URL.Scheme != "tcp" }

func speaksNoHTTP(t balancer.Target) bool { return !speaksHTTP(t) }

// A tcpFront balances the connections of one -tcp address. It has a pool of its own, with its own
// health and loads.
type tcpFront struct {
	net.Listener
	ids      []string // guarded by the settings' lock once the demo serves
	registry *health.Registry
	server   *stream.Server
}

// bindTCP listens on the addresses of -tcp.
func (d *demo) bindTCP(o *options) error {
	for _, f := range o.tcp {
		l, err := net.Listen("tcp", f.addr)
		if err != nil {
			return err
		}
		d.fronts = append(d.fronts, &tcpFront{Listener: o.acceptProxy(l, d.log), ids: f.ids})
	}
	return nil
}

// assemble makes the front's pool and server. The pool's checks are TCP connects, even with -check.
func (f *tcpFront) assemble(o *options, targets []balancer.Target, log *slog.Logger) error {
	pool, err := balancer.New(balancer.Config{Name: f.pool(), Targets: f.behind(targets), Picker: o.picker.make()})
	if err != nil {
		return err
	}
	f.registry = o.registry(pool, health.TCP{Dial: o.probe()}, log)
	f.server = &stream.Server{Pool: pool, SendProxy: o.sendProxy, Logger: log}
	return nil
}

// behind returns the targets of the front.
func (f *tcpFront) behind(targets []balancer.Target) []balancer.Target {
	return slices.DeleteFunc(slices.Clone(targets), func(t balancer.Target) bool { return !slices.Contains(f.ids, t.ID) })
}

// serve accepts connections until the front is closed.
func (f *tcpFront) serve() error { return f.server.Serve(f.Listener) }

// pool returns the name of the front's pool.
func (f *tcpFront) pool() string { return "tcp " + f.Addr().String() }
