package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
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

// checkTCP requires that every ID of -tcp is a target's, and that a target which speaks no HTTP is behind some -tcp.
func (o *options) checkTCP() error {
	ids := slices.Clone(embedded)
	if len(o.targets) > 0 {
		ids = nil
		for _, t := range o.targets {
			ids = append(ids, t.ID)
		}
	}
	behind := map[string]bool{}
	for _, f := range o.tcp {
		for _, id := range f.ids {
			if !slices.Contains(ids, id) {
				return fmt.Errorf("invalid value %q for flag -tcp: no target has the ID %q", f, id)
			}
			behind[id] = true
		}
	}
	for _, t := range o.targets {
		if !speaksHTTP(t) && !behind[t.ID] {
			return fmt.Errorf("target %q speaks no HTTP, and no -tcp names it", t.ID)
		}
	}
	return nil
}

// String returns the value as it was given.
func (f tcpFlag) String() string { return f.addr + "=" + strings.Join(f.ids, ",") }

func speaksHTTP(t balancer.Target) bool { return t.URL.Scheme != "tcp" }

func speaksNoHTTP(t balancer.Target) bool { return !speaksHTTP(t) }

// A tcpFront balances the connections of one -tcp address. It has a pool, and so health and loads, of its own.
type tcpFront struct {
	net.Listener
	ids      []string
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

// assemble gives the front its targets. They are checked with a TCP connect, whatever -check says.
func (f *tcpFront) assemble(o *options, targets []balancer.Target, log *slog.Logger) error {
	behind := slices.DeleteFunc(slices.Clone(targets), func(t balancer.Target) bool { return !slices.Contains(f.ids, t.ID) })
	pool, err := balancer.New(balancer.Config{Targets: behind, Picker: o.picker.make()})
	if err != nil {
		return err
	}
	f.registry = o.registry(pool, health.TCP{Dial: o.probe()}, log)
	f.server = &stream.Server{Pool: pool, SendProxy: o.sendProxy, Logger: log}
	return nil
}

// serve accepts until the front is closed.
func (f *tcpFront) serve() error { return f.server.Serve(f.Listener) }

// path is where the front's status is on the -admin address.
func (f *tcpFront) path() string { return "/tcp/" + f.Addr().String() }
