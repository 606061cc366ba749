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
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/stickylb/stickylb/examples/elb/internal/sigv4"
	"github.com/stickylb/stickylb/health"
)

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

func main() {
	signal.Ignore(syscall.SIGPIPE) // otherwise it would end with the reader of its log
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal has its default effect
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs the program until ctx ends. It returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		fmt.Fprintln(stderr, "elb:", err)
		return exitUsage
	}
	e, err := open(o, slog.New(slog.NewTextHandler(stderr, nil)))
	if err == nil {
		e.announce(stdout)
		err = e.serve(ctx)
	}
	if err != nil {
		fmt.Fprintln(stderr, "elb:", err)
		return exitFailed
	}
	return exitOK
}

// An elb is the program with all its parts.
type elb struct {
	listener net.Listener
	server   *http.Server
	store    *store
	traffic  *traffic
	embedded []*embedded
}

// open starts everything except the API.
func open(o *options, log *slog.Logger) (*elb, error) {
	e := &elb{}
	if err := e.assemble(o, log); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *elb) assemble(o *options, log *slog.Logger) (err error) {
	e.traffic = &traffic{
		log: log, instances: o.instances, certificates: &certificates{dir: o.certificates},
		names: o.dnsName, host: o.listenHost, offset: o.offset,
	}
	e.store = &store{traffic: e.traffic, file: o.state}
	if e.listener, err = net.Listen("tcp", o.api); err != nil {
		return err
	}
	if o.instances == nil {
		if e.embedded, e.traffic.instances, err = startEmbedded(); err != nil {
			return err
		}
	}
	if err := e.store.open(); err != nil {
		return err
	}
	calls := &api{store: e.store, log: log, verifier: &sigv4.Verifier{AccessKeyID: o.key, Secret: o.secret, Service: service}}
	if o.other != nil {
		calls.other = passOn(o.other)
	}
	page := &console{store: e.store, key: o.key, secret: o.secret, log: log}
	e.server = &http.Server{
		Handler: protect(o.hosts, route(calls, page)), ReadHeaderTimeout: headerTimeout, ReadTimeout: callTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return nil
}

// dnsName returns the DNS name of a load balancer. Names below localhost are this machine for
// browsers, for curl and for resolvers that follow RFC 6761.
func (o *options) dnsName(name string) string {
	if a := net.ParseIP(o.listenHost); a == nil || a.IsLoopback() || a.IsUnspecified() {
		return name + ".elb.localhost"
	}
	return o.listenHost
}

// route sends calls to the API and everything else to the page.
func route(calls, page http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		isPage := r.URL.Path != "/" || reads && !r.URL.Query().Has("Action")
		if isPage {
			page.ServeHTTP(w, r)
			return
		}
		calls.ServeHTTP(w, r)
	})
}

// protect refuses what a browser sends for a page of another site, also if it is a GET that is a
// call, and what is for a host that is not this program's.
func protect(hosts []string, next http.Handler) http.Handler {
	var origin http.CrossOriginProtection
	return (&health.Page{Hosts: hosts}).Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("Action") {
			asPost := r.Clone(r.Context())
			asPost.Method = http.MethodPost
			if err := origin.Check(asPost); err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	}))
}

// announce prints where everything is and what to try first. Clients can connect by then.
func (e *elb) announce(stdout io.Writer) {
	for _, i := range e.embedded {
		fmt.Fprintf(stdout, "instance %s is http://%s\n", i.id, i.listener.Addr())
	}
	for _, b := range e.store.doc.Load().LoadBalancers {
		for _, f := range e.traffic.group(b.Name).all() {
			fmt.Fprintf(stdout, "load balancer %s accepts %s on %s\n", b.Name, f.conf.Protocol, f.listener.Addr())
		}
	}
	fmt.Fprintf(stdout, "elb accepts on http://%s (the console page is there, too); try:\n", e.listener.Addr())
	fmt.Fprintf(stdout, "AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any aws --region us-east-1 --endpoint-url http://%s elb describe-load-balancers\n", e.listener.Addr())
}

// serve answers calls until ctx ends or the listener fails. Then it closes everything.
func (e *elb) serve(ctx context.Context) error {
	defer e.close()
	failed := make(chan error, 1)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { failed <- e.server.Serve(e.listener) })
	select {
	case <-ctx.Done():
	case err := <-failed:
		return err
	}
	end, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	e.server.Shutdown(end)
	e.server.Close()
	return nil
}

func (e *elb) close() {
	if e.server != nil {
		e.server.Close()
	}
	if e.listener != nil {
		e.listener.Close()
	}
	e.traffic.close()
	e.store.close()
	for _, i := range e.embedded {
		i.stop()
	}
}
