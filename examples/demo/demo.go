package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

const (
	headerTimeout = 10 * time.Second // limit for receiving a request's header
	idleTimeout   = 2 * time.Minute  // limit between two requests of a connection
	grace         = 5 * time.Second  // limit for a shutdown
	firstRound    = 2 * time.Second  // limit for the first probes, before requests are served

	balancerName = "balancer" // of listeners
	adminName    = "admin"

	checkRise = 2
	checkFall = 2
)

// A demo is the balancer with all its parts.
type demo struct {
	log       *slog.Logger
	settings  *settings
	pool      *balancer.Pool // of the HTTP targets
	registry  *health.Registry
	proxy     *wsproxy.Proxy
	backends  []*backend // the embedded ones; empty with -target
	listeners []*listener
	fronts    []*tcpFront
}

// A listener is a bound address and the server that is to accept on it.
type listener struct {
	net.Listener
	name   string
	url    string
	note   string
	server *http.Server
}

// open binds all addresses, makes the balancer and starts the embedded backends. It accepts no
// connection; serve does.
func open(o *options, log *slog.Logger) (*demo, error) {
	d := &demo{log: log}
	if err := d.assemble(o); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *demo) assemble(o *options) (err error) {
	if err := d.listen(o); err != nil {
		return err
	}
	if d.settings, err = newSettings(d, o); err != nil {
		return err
	}
	targets := o.targets
	if len(targets) == 0 {
		if targets, err = d.startBackends(o); err != nil {
			return err
		}
	}
	d.settings.targets = targets
	for _, f := range d.fronts {
		if err := f.assemble(o, targets, d.log); err != nil {
			return err
		}
	}
	d.pool, err = balancer.New(balancer.Config{
		Name: "http", Targets: slices.DeleteFunc(slices.Clone(targets), speaksNoHTTP), Picker: o.picker.make()})
	if err != nil {
		return err
	}
	d.registry = o.registry(d.pool, o.check, d.log)
	d.proxy = &wsproxy.Proxy{Pool: d.pool, Policy: &d.settings.policy, Trusted: o.trusted,
		Forwarded: o.forwarded, SendProxy: o.sendProxy, Logger: d.log}
	for _, l := range d.listeners {
		l.server.Handler = d.handler(o, l)
	}
	return nil
}

// registry returns a registry for a pool.
func (o *options) registry(pool *balancer.Pool, check health.Check, log *slog.Logger) *health.Registry {
	return &health.Registry{Pool: pool, Check: check, Interval: o.interval, Rise: checkRise, Fall: checkFall, Logger: log}
}

// acceptProxy returns a listener that reads the PROXY headers of the peers that must send one.
func (o *options) acceptProxy(l net.Listener, log *slog.Logger) net.Listener {
	if len(o.proxies) == 0 {
		return l
	}
	return &proxyproto.Listener{Listener: l, Trusted: o.proxies, Logger: log}
}

// listen binds the addresses of the flags.
func (d *demo) listen(o *options) error {
	if err := d.bind(balancerName, o.listen, nil); err != nil {
		return err
	}
	if err := d.bindTLS(o); err != nil {
		return err
	}
	for _, l := range d.listeners {
		l.Listener = o.acceptProxy(l.Listener, d.log)
		l.server.ConnContext = wsproxy.ConnContext
	}
	if err := d.bindTCP(o); err != nil {
		return err
	}
	if err := d.bind(adminName, o.admin, nil); err != nil || o.admin == "" {
		return err
	}
	d.listeners[len(d.listeners)-1].note = " (settings at " + settingsPath + ")"
	return nil
}

func (d *demo) bindTLS(o *options) error {
	if o.listenTLS == "" {
		return nil
	}
	host, _, _ := net.SplitHostPort(o.listenTLS)
	cert, err := certificate(o.certFile, o.keyFile, host)
	if err != nil {
		return err
	}
	if err := d.bind(balancerName, o.listenTLS, &tls.Config{Certificates: []tls.Certificate{cert}}); err != nil {
		return err
	}
	if o.certFile == "" {
		d.listeners[len(d.listeners)-1].note = " (self-signed certificate: browsers ask before they go on)"
	}
	return nil
}

// bind listens on an address, with TLS if conf is not nil. It does nothing if the address is empty.
func (d *demo) bind(name, addr string, conf *tls.Config) error {
	if addr == "" {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	scheme := "http"
	if conf != nil {
		scheme = "https"
	}
	d.listeners = append(d.listeners, &listener{
		Listener: l,
		name:     name,
		url:      scheme + "://" + l.Addr().String(),
		server: &http.Server{
			TLSConfig:         conf,
			ReadHeaderTimeout: headerTimeout,
			IdleTimeout:       idleTimeout,
			ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
		},
	})
	return nil
}

// embedded are the IDs of the embedded backends.
var embedded = []string{"app-1", "app-2", "app-3"}

func (d *demo) startBackends(o *options) ([]balancer.Target, error) {
	var targets []balancer.Target
	for _, id := range embedded {
		b := &backend{id: id, sticky: &d.settings.mode, proxied: o.sendProxy > 0}
		if err := b.start(); err != nil {
			return nil, err
		}
		d.backends = append(d.backends, b)
		targets = append(targets, b.target())
	}
	return targets, nil
}

// handler returns the handler of a listener: the admin pages, or the proxy. With the embedded
// backends the proxy's handler also has the page's buttons.
func (d *demo) handler(o *options, l *listener) http.Handler {
	if l.name == adminName {
		return d.status(o)
	}
	if len(d.backends) == 0 {
		return d.proxy
	}
	c := &control{pool: d.pool, backends: d.backends, sticky: &d.settings.mode}
	mux := http.NewServeMux()
	mux.Handle("/demo/", d.logged(c.handler()))
	mux.Handle("/", d.proxy)
	return mux
}

// status returns the handler of the admin listener: the page of all pools, and the settings.
// Operators do not log in, so the page names them by their addresses.
func (d *demo) status(o *options) http.Handler {
	page := &health.Page{
		Registries: d.registries(), Hosts: o.adminHosts, Who: func(r *http.Request) string { return r.RemoteAddr },
	}
	mux := http.NewServeMux()
	mux.Handle("/", page.Handler())
	mux.Handle(settingsPath, page.Protect(d.settings))
	return mux
}

// registries returns the registries of all pools.
func (d *demo) registries() []*health.Registry {
	all := []*health.Registry{d.registry}
	for _, f := range d.fronts {
		all = append(all, f.registry)
	}
	return all
}

// serve accepts connections until stop ends or a listener fails. Then it closes everything.
func (d *demo) serve(stop context.Context, stdout io.Writer) error {
	ctx, cancel := context.WithCancelCause(stop)
	defer cancel(nil)
	var work sync.WaitGroup
	defer work.Wait()
	defer d.close()

	for _, r := range d.registries() {
		work.Go(func() {
			if err := r.Run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	d.awaitFirstRound(ctx)
	for _, l := range d.listeners {
		work.Go(func() {
			if err := l.serve(); ctx.Err() == nil {
				cancel(fmt.Errorf("%s %s: %w", l.name, l.Addr(), err))
			}
		})
	}
	for _, f := range d.fronts {
		work.Go(func() {
			if err := f.serve(); ctx.Err() == nil {
				cancel(fmt.Errorf("tcp %s: %w", f.Addr(), err))
			}
		})
	}
	d.announce(stdout)
	<-ctx.Done()
	d.shutdown()
	if stop.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// awaitFirstRound waits until every backend has been probed once, so that the first sessions are
// spread over all healthy backends. A backend that hangs delays it only for firstRound.
func (d *demo) awaitFirstRound(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstRound)
	defer cancel()
	for _, r := range d.registries() {
		r.Ready(ctx)
	}
}

func (l *listener) serve() error {
	if l.server.TLSConfig != nil {
		return l.server.ServeTLS(l, "", "")
	}
	return l.server.Serve(l)
}

// announce prints a line for every target and every listener. Clients can connect by then.
func (d *demo) announce(stdout io.Writer) {
	verb := "is"
	if len(d.backends) > 0 {
		verb = "accepts on"
	}
	for _, t := range d.settings.targets {
		fmt.Fprintln(stdout, "backend", t.ID, verb, t.URL)
	}
	for _, f := range d.fronts {
		fmt.Fprintf(stdout, "tcp accepts on tcp://%s for %s\n", f.Addr(), strings.Join(f.ids, ", "))
	}
	for _, l := range d.listeners {
		fmt.Fprintf(stdout, "%s accepts on %s%s\n", l.name, l.url, l.note)
	}
}

// shutdown closes the listeners, then the WebSockets, and then waits for the requests. It cuts what
// is left after the grace.
func (d *demo) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, l := range d.listeners {
		l.Close()
	}
	var ending sync.WaitGroup
	defer ending.Wait()
	for _, f := range d.fronts {
		ending.Go(func() { f.server.Shutdown(ctx) })
	}
	d.proxy.Shutdown(ctx)
	for _, l := range d.listeners {
		l.server.Shutdown(ctx)
	}
}

// close cuts all connections that are left.
func (d *demo) close() {
	for _, l := range d.listeners {
		l.server.Close()
		l.Close() // the server does not know it before it has served
	}
	for _, f := range d.fronts {
		f.Close() // the server does not know it before it has served
		if f.server != nil {
			f.server.Close()
		}
	}
	for _, b := range d.backends {
		b.stop()
	}
}
