package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stickylb/stickylb/examples/internal/commandline"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := run(ctx, os.Args[1:], os.Stdout, log)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Error("vhosts", "error", err)
		os.Exit(1)
	}
}

// Options are what the flags say.
type options struct {
	listen, listenTLS, admin, redis string

	keys       [][]byte
	sticky     time.Duration
	interval   time.Duration // between two looks at Redis
	timeout    time.Duration // of a look
	deadTTL    time.Duration
	idle       time.Duration
	grace      time.Duration
	window     time.Duration // of close frames
	max        int
	maxMetrics int // virtual hosts with metrics
	lookups    int // of unknown hosts at a time
	debug      bool

	log       *slog.Logger
	transport *http.Transport
}

// prefix returns the prefix of the keys in Redis.
func (o *options) prefix() string {
	_, prefix, _ := strings.Cut(o.redis, "#")
	return prefix
}

func parseFlags(args []string, help io.Writer) (*options, error) {
	o := &options{maxMetrics: 500, lookups: 64}
	f := flag.NewFlagSet("vhosts", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` for HTTP")
	f.StringVar(&o.listenTLS, "listen-tls", "", "`address` for HTTPS, with certificates from Redis; none without")
	f.StringVar(&o.admin, "admin", "", "`address` of /metrics; none without")
	f.StringVar(&o.redis, "redis", "redis://127.0.0.1:6379", "`URL` of Redis; a fragment is the prefix of the keys")
	f.DurationVar(&o.sticky, "sticky", 0, "how long a session keeps its backend; 0: as long as the browser runs")
	f.DurationVar(&o.interval, "interval", 2*time.Second, "time between two looks at Redis")
	f.DurationVar(&o.timeout, "timeout", time.Second, "limit of a look at Redis")
	f.DurationVar(&o.deadTTL, "dead-ttl", 30*time.Second, "how long a dead backend gets no requests")
	f.DurationVar(&o.idle, "idle", 10*time.Minute, "time without a request after which a virtual host gives its memory back")
	f.DurationVar(&o.grace, "grace", 30*time.Second, "how long a removed backend keeps its sessions; negative: not at all")
	f.DurationVar(&o.window, "window", 10*time.Second, "time over which the WebSockets of a removed backend are closed")
	f.IntVar(&o.max, "max", 20_000, "virtual hosts in use at a time")
	f.BoolVar(&o.debug, "debug", false, "answer x-debug, with the names of backends, to everybody")
	f.Func("seal-key", "32-byte key of the sticky cookie in `hex`, shared by instances; repeatable, the first one seals; random without", func(text string) error {
		key, err := hex.DecodeString(text)
		if err != nil {
			return errors.New("not hexadecimal") // the text is secret
		}
		o.keys = append(o.keys, key)
		return nil
	})
	if err := commandline.Parse(f, args, help, "Virtual hosts from Redis.\n"); err != nil {
		return nil, err
	}
	if o.interval <= 0 || o.timeout <= 0 || o.deadTTL < time.Millisecond || o.max <= 0 {
		return nil, errors.New("-interval, -timeout, -dead-ttl and -max must be positive")
	}
	if len(o.keys) == 0 { // one for all virtual hosts, so that one that comes back knows its sessions
		o.keys = [][]byte{make([]byte, 32)}
		rand.Read(o.keys[0])
	}
	_, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Period: o.sticky, Keys: o.keys})
	return o, err
}

// run serves until ctx ends. It prints the addresses on which it accepts.
func run(ctx context.Context, args []string, stdout io.Writer, log *slog.Logger) error {
	o, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	o.log, o.transport = log, newTransport()
	defer o.transport.CloseIdleConnections()
	store, err := open(o.redis, o.deadTTL)
	if err != nil {
		return fmt.Errorf("connect to Redis: %w", err)
	}
	defer store.client.Close()
	t := newVhosts(o, store)
	certs := newCertificates(o, store)
	handler := &server{vhosts: t, debug: o.debug}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var servers []*http.Server
	serve := func(name, address string, h http.Handler, config *tls.Config) error {
		if address == "" {
			return nil
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		s := &http.Server{Handler: h, TLSConfig: config, ConnContext: wsproxy.ConnContext,
			ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
		servers = append(servers, s)
		fmt.Fprintf(stdout, "%s on %s\n", name, l.Addr())
		go func() {
			if config != nil {
				cancel(s.ServeTLS(l, "", ""))
			} else {
				cancel(s.Serve(l))
			}
		}()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(t.metrics, promhttp.HandlerOpts{}))
	err = errors.Join(
		serve("http", o.listen, handler, nil),
		serve("https", o.listenTLS, handler, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.get}),
		serve("admin", o.admin, mux, nil))
	if err == nil {
		t.run(ctx)
		if err = context.Cause(ctx); errors.Is(err, context.Canceled) {
			err = nil
		}
	}
	grace, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	failed := t.shutdown(grace) // WebSockets first, then requests
	for _, s := range servers {
		if err := s.Shutdown(grace); err != nil {
			failed = errors.Join(failed, err, s.Close()) // ends the requests that are left
		}
	}
	t.close()
	certs.hosts.tasks.Wait()
	return errors.Join(err, failed)
}
