package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A vhost balances the requests of one frontend. A target that is dead in Redis is unhealthy. A
// target that this process finds dead is ejected, and then marked in Redis. The two are
// independent, so that a mark that was read is never written again.
type vhost struct {
	name     string // of the frontend
	registry *health.Registry
	proxy    *wsproxy.Proxy
	drain    health.Drain
	marks    chan<- mark
	log      *slog.Logger
	end      func() // stops the registry and waits for it

	users int       // requests being served; guarded by vhosts.mu
	used  time.Time // the last of them; guarded by vhosts.mu

	mu      sync.Mutex // held to apply a frontend
	list    []string
	broken  bool // the frontend had an error
	now     atomic.Pointer[backends]
	ejected map[string]time.Time // by target; used by Changed alone
}

// newTransport returns the transport that all vhosts share, so that the idle connections of
// thousands have one limit.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		MaxIdleConns:          1000,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true,
	}
}

// newVhost returns a vhost without backends.
func newVhost(name string, o *options, marks chan<- mark) (*vhost, error) {
	pool, err := balancer.New(balancer.Config{Name: poolName(name), Logger: o.log})
	if err != nil {
		return nil, err
	}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{
		Scope: o.prefix() + name, Period: o.sticky, Keys: o.keys, HttpOnly: true})
	if err != nil {
		return nil, err
	}
	v := &vhost{
		name: name,
		registry: &health.Registry{Pool: pool, Interval: -1, Logger: o.log, Passive: &health.Passive{
			Consecutive: 1, Ratio: -1, Ejection: o.deadTTL, MaxEjection: o.deadTTL, MaxShare: 1, Failed: isDeadly}},
		proxy: &wsproxy.Proxy{Pool: pool, Policy: policy, Transport: o.transport, ErrorPage: errorPage,
			Tunnels: wsproxy.TunnelLimits{Window: o.window}, Logger: o.log},
		drain:   health.Drain{Grace: o.grace, Limit: max(o.grace, 0) + o.window + time.Second},
		marks:   marks,
		log:     o.log,
		ejected: map[string]time.Time{},
	}
	if err := v.proxy.Validate(); err != nil {
		return nil, err
	}
	v.now.Store(parse(nil))
	unobserve := pool.Observe(v)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.registry.Run(ctx) }()
	v.end = func() {
		unobserve()
		cancel()
		if err := errors.Join(<-done, v.proxy.Close()); err != nil {
			o.log.Error("vhosts: closing", "frontend", name, "error", err)
		}
	}
	return v, nil
}

// isDeadly reports whether an outcome shows a dead backend, as in hipache: there is no answer, or
// its status is above 500. 503 is left out, because an outcome does not tell of a Retry-After.
func isDeadly(o balancer.Outcome) bool {
	return o.Class != balancer.OK || o.Status > 500 && o.Status != http.StatusServiceUnavailable
}

// apply makes the pool what the frontend says.
func (v *vhost) apply(f frontend) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.err != nil && !v.broken { // logged once
		v.log.Warn("vhosts: wrong type of key", "frontend", v.name, "error", f.err)
	}
	v.broken = f.err != nil
	if !slices.Equal(f.list, v.list) {
		b := parse(f.list)
		if len(b.broken) > 0 {
			v.log.Warn("vhosts: backends left out", "frontend", v.name, "number", len(b.broken), "first", b.broken[0])
		}
		if err := v.registry.Replace(b.targets, v.drain); err != nil {
			v.log.Error("vhosts: backends left as they are", "frontend", v.name, "error", err)
			return
		}
		v.list = f.list
		v.now.Store(b)
	}
	v.bury(v.now.Load().deadTargets(f.dead))
}

// revive makes all targets serve again that were dead in Redis.
func (v *vhost) revive() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bury(nil)
}

// bury takes the dead targets out of service, and the others back.
func (v *vhost) bury(dead map[string]bool) {
	for _, m := range v.registry.Pool.Members() {
		if dead[m.ID()] {
			m.SetHealth(balancer.Unhealthy)
		} else {
			m.SetHealth(balancer.HealthUnknown)
		}
	}
}

// Released implements [balancer.Observer]. The registry counts outcomes.
func (v *vhost) Released(*balancer.Member, balancer.Outcome) {}

// Changed implements [balancer.Observer]. After an ejection, it sends a mark to write to Redis.
func (v *vhost) Changed(m *balancer.Member, s balancer.State) {
	id := m.ID()
	if m.Removed() || s.EjectedUntil.IsZero() {
		delete(v.ejected, id)
		return
	}
	if v.ejected[id].Equal(s.EjectedUntil) {
		return
	}
	v.ejected[id] = s.EjectedUntil
	b := v.now.Load()
	indexes := b.indexes[id]
	if len(indexes) == 0 {
		return // it is not in the list any more
	}
	select {
	case v.marks <- mark{frontend: v.name, url: b.urls[indexes[0]], indexes: indexes, of: len(b.urls), until: s.EjectedUntil}:
	default:
		v.log.Warn("vhosts: too many dead backends at a time to mark all", "frontend", v.name, "backend", id)
	}
}

// isBusy reports whether the vhost has requests or tunnels.
func (v *vhost) isBusy() bool {
	has := func(m *balancer.Member) bool { return m.Load() > 0 }
	pool := v.registry.Pool
	return slices.ContainsFunc(pool.Members(), has) || slices.ContainsFunc(pool.Leaving(), has)
}

// retire drains all targets and ends the vhost, whose frontend is gone.
func (v *vhost) retire(ctx context.Context) {
	v.apply(frontend{})
	ctx, cancel := context.WithTimeout(ctx, v.drain.Limit)
	defer cancel()
	if err := v.registry.Settled(ctx); err != nil {
		v.log.Debug("vhosts: retiring", "frontend", v.name, "error", err)
	}
	v.end()
}
