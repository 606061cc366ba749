package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/elb/internal/classic"
	"github.com/stickylb/stickylb/health"
)

// checks are the health checks of a load balancer. They have a pool of their own, because the check
// has another port than the listeners, and is the same for all of them.
type checks struct {
	log  *slog.Logger
	pool *balancer.Pool

	mu       sync.Mutex // guards what follows
	conf     classic.HealthCheck
	behind   []instance
	registry *health.Registry // nil before the first configure
	stop     func()
}

func newChecks(name string, log *slog.Logger) *checks {
	pool, err := balancer.New(balancer.Config{Name: name, Logger: log})
	if err != nil {
		panic(err) // the names of load balancers are names of pools
	}
	return &checks{log: log, pool: pool, stop: func() {}}
}

// anyPort stands for the port of the check, which may change while the instance stays the same.
const anyPort = 1

// configure checks these instances from now on. Those that were checked before keep their state: as
// in the service, only as many results as the thresholds say change it.
func (c *checks) configure(h classic.HealthCheck, behind []instance) error {
	var all []balancer.Target
	for _, i := range behind {
		all = append(all, i.target("tcp", anyPort))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.behind, behind) {
		if err := c.pool.Update(all...); err != nil {
			return err
		}
		c.behind = behind
	}
	if c.registry != nil && c.conf == h {
		return nil
	}
	c.stop()
	c.conf, c.registry = h, c.newRegistry(h)
	c.stop = run(c.registry)
	return nil
}

// schemes are the schemes of targets for the protocols of the API.
var schemes = map[string]string{"HTTP": "http", "HTTPS": "https", "TCP": "tcp", "SSL": "tcp"}

func (c *checks) newRegistry(h classic.HealthCheck) *health.Registry {
	protocol, port, path := h.Probe()
	anyone := &tls.Config{InsecureSkipVerify: true} // the service does not verify instances
	var check health.Check = health.TCP{}
	switch protocol {
	case "HTTP", "HTTPS":
		check = health.HTTP{Path: path, Statuses: []int{200}, TLS: anyone}
	case "SSL":
		check = health.TLS{Config: anyone}
	}
	at := func(ctx context.Context, t balancer.Target) error {
		host, asked := t.URL.Hostname(), t.URL.Port()
		if asked == strconv.Itoa(anyPort) {
			asked = strconv.Itoa(port)
		}
		t.URL = &url.URL{Scheme: schemes[protocol], Host: net.JoinHostPort(host, asked)}
		return check.Check(ctx, t)
	}
	return &health.Registry{
		Pool: c.pool, Logger: c.log, Passive: never, Check: health.Func(at),
		Interval: time.Duration(h.Interval) * time.Second, Timeout: time.Duration(h.Timeout) * time.Second,
		Rise: h.HealthyThreshold, Fall: h.UnhealthyThreshold,
	}
}

// never is for registries whose checks alone decide.
var never = &health.Passive{Consecutive: -1, Ratio: -1}

// run runs a registry until the returned function is called, which waits for its end.
func run(r *health.Registry) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := r.Run(ctx); err != nil {
			panic(err) // every field was checked when it was configured
		}
	})
	return func() {
		cancel()
		work.Wait()
	}
}

// health returns what the checks know about an instance. known is false if it is not checked.
func (c *checks) health(id string) (h balancer.Health, known bool) {
	m, known := c.pool.Member(id)
	if !known {
		return balancer.HealthUnknown, false
	}
	return m.State().Health, true
}

// status returns the status of the instances by ID.
func (c *checks) status() map[string]health.TargetStatus {
	c.mu.Lock()
	r := c.registry
	c.mu.Unlock()
	all := make(map[string]health.TargetStatus)
	if r == nil { // the load balancer is being created
		return all
	}
	for _, t := range r.Status().Targets {
		all[t.ID] = t
	}
	return all
}

func (c *checks) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
}
