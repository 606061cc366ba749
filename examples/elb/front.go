package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/elb/internal/classic"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
)

// A front is a listener that runs. Everything about it may change while it serves, except what the
// API cannot change either: its port, its protocols and its InstancePort.
type front struct {
	conf     classic.Listener
	listener net.Listener
	pool     *balancer.Pool
	registry *health.Registry // without probes: it drains instances that leave, and counts traffic
	stop     func()           // stops the registry
	log      *slog.Logger

	sticky stickiness.Switch
	tls    atomic.Pointer[tls.Config]
	now    *frontSettings // this and behind are guarded by the order of changes
	behind []instance

	registered atomic.Int64 // how many instances are behind it, without those that leave
	server     server
}

// A server serves the connections of a front.
type server interface {
	serve(l net.Listener)
	turn(s turnSettings, backend *tls.Config) // for requests or connections from now on
	shutdown(ctx context.Context)
}

// frontSettings are all settings of a front that may change. Each key says what the value next to
// it was made of; a value of a key that is in force already is nil.
type frontSettings struct {
	policyKey string
	policy    stickiness.Policy
	tlsKey    string
	tls       *tls.Config
	turn      turnSettings
	backend   *tls.Config
	crossZone bool
	drain     health.Drain
}

// turnSettings are what a proxy or a TCP server cannot change: a new one takes its turn instead,
// and the old one finishes what it has.
type turnSettings struct {
	idle        time.Duration
	sendProxy   int    // version of the PROXY header; zero: none
	backendKeys string // the public keys that instances may have; empty: all
}

// settings returns the settings of a listener, or why they are not possible.
func (t *traffic) settings(d *classic.Document, b *classic.LoadBalancer, l *classic.ListenerDescription) (*frontSettings, error) {
	now := &frontSettings{}
	if f := t.running(b, l.Listener); f != nil {
		now = f.now
	}
	backendPolicies := b.BackendPolicies(l.Listener.InstancePort)
	s := &frontSettings{crossZone: b.Attributes.CrossZoneLoadBalancing.Enabled, drain: drainOf(b.Attributes.ConnectionDraining)}
	s.turn.idle = time.Duration(b.Attributes.ConnectionSettings.IdleTimeout) * time.Second
	for _, p := range backendPolicies {
		if p.Value("ProxyProtocol") == "true" {
			s.turn.sendProxy = 1
		}
	}
	var err error
	if classic.Secure(l.Listener.InstanceProtocol) {
		if s.backend, s.turn.backendKeys, err = backendTLS(b, backendPolicies); err != nil {
			return nil, err
		}
	}
	if s.policyKey, s.policy, err = stickyPolicy(d, b, l, now.policyKey); err != nil {
		return nil, err
	}
	if classic.Secure(l.Listener.Protocol) {
		policies := b.ListenerPolicies(l)
		s.tlsKey = *l.Listener.SSLCertificateId
		for _, p := range policies {
			s.tlsKey += fmt.Sprint(" ", p.Type, p.Attributes)
		}
		if s.tlsKey != now.tlsKey {
			s.tls, err = t.certificates.frontTLS(l.Listener, policies)
		}
	}
	return s, err
}

// drainOf returns how instances leave. Bound sessions move at once, as in the service. Without
// connection draining, requests in flight are cut.
func drainOf(d *classic.ConnectionDraining) health.Drain {
	if !d.Enabled {
		return health.Drain{Grace: -1, Limit: 1}
	}
	return health.Drain{Grace: -1, Limit: time.Duration(*d.Timeout) * time.Second}
}

// stickyPolicy returns the policy of the listener, if it has another key than the one in force. The
// scope is the InstancePort, so a session is valid at all listeners of that port. Its cookie has
// the name of the service's cookie.
func stickyPolicy(d *classic.Document, b *classic.LoadBalancer, l *classic.ListenerDescription, inForce string) (string, stickiness.Policy, error) {
	const name = "AWSELB"
	scope := fmt.Sprint(l.Listener.InstancePort)
	for _, p := range b.ListenerPolicies(l) {
		key := fmt.Sprint(p.Type, p.Attributes)
		switch {
		case p.Type != classic.LBCookiePolicyType && p.Type != classic.AppCookiePolicyType:
			continue
		case key == inForce:
			return key, nil, nil
		case p.Type == classic.LBCookiePolicyType:
			policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{
				Name: name, Scope: scope, Keys: d.Keys, Period: time.Duration(p.Period()) * time.Second})
			return key, policy, err
		default:
			policy, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{
				Name: name, Scope: scope, Keys: d.Keys, Cookie: p.Value("CookieName"), ExactName: true})
			return key, policy, err
		}
	}
	return "", nil, nil
}

// newFront returns a front that has no settings yet.
func (t *traffic) newFront(g *group, b *classic.LoadBalancer, conf classic.Listener, l net.Listener) *front {
	f := &front{conf: conf, listener: l, now: &frontSettings{}, log: t.log, stop: func() {}}
	c := balancer.Config{Name: fmt.Sprintf("%s:%d", b.Name, conf.LoadBalancerPort), Logger: t.log}
	if !conf.HTTP() {
		c.Picker = &balancer.RoundRobin{}
	}
	pool, err := balancer.New(c)
	if err != nil {
		panic(err) // the names of load balancers are names of pools
	}
	f.pool = pool
	f.registry = &health.Registry{Pool: pool, Interval: -1, Passive: never, Logger: slog.New(slog.DiscardHandler)}
	pool.Observe(frontObserver{g})
	if conf.HTTP() {
		f.server = newHTTPServer(f)
	} else {
		f.server = newTCPServer(f)
	}
	return f
}

// is reports whether the front is that of a listener, whatever the certificate.
func (f *front) is(l classic.Listener) bool {
	l.SSLCertificateId = f.conf.SSLCertificateId
	return f.conf == l
}

// start accepts connections and runs the registry.
func (f *front) start() {
	f.stop = run(f.registry)
	go f.server.serve(f.listener) // until shutdown
}

// configure changes the settings. Nothing that is under way is cut, except at instances that leave.
func (f *front) configure(s *frontSettings, behind []instance) {
	scheme := schemes[f.conf.InstanceProtocol]
	if s.crossZone == f.now.crossZone && slices.Equal(behind, f.behind) {
		// A policy does not move the targets of a thousand instances.
	} else if err := f.registry.Replace(targets(behind, scheme, f.conf.InstancePort, s.crossZone), s.drain); err != nil {
		f.log.Error("the instances cannot be used", "listener", f.pool.Name(), "error", err) // parseInstance has checked them
	}
	if s.policyKey != f.now.policyKey {
		f.sticky.Store(s.policy)
	}
	if s.tls != nil {
		f.tls.Store(s.tls)
	}
	if s.turn != f.now.turn {
		f.server.turn(s.turn, s.backend)
	}
	f.now, f.behind = s, behind
	f.registered.Store(int64(len(behind)))
}

// clientTLS returns the configuration for clients, or nil for a listener without TLS. Each
// handshake uses the settings of its time.
func (f *front) clientTLS() *tls.Config {
	if !classic.Secure(f.conf.Protocol) {
		return nil
	}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.tls.Load(), nil }}
}

// grace is how long the connections of a deleted listener may finish.
const grace = 5 * time.Second

func (f *front) shutdown(ctx context.Context) {
	f.server.shutdown(ctx)
	f.stop()
}

// A share is the traffic of an instance at a front.
type share struct {
	requests, inFlight, tunnels int64
}

// traffic returns what each instance has got, by ID.
func (f *front) traffic() map[string]share {
	shares := make(map[string]share)
	for _, t := range f.registry.Status().Targets {
		shares[t.ID] = share{t.Traffic.Requests + t.Traffic.Tunnels, t.Load, t.Tunnels}
	}
	return shares
}

// A turnstile counts who uses a turn, so that it can be closed after the last one.
type turnstile struct {
	close func()

	mu    sync.Mutex
	users int
	over  bool // nobody new may come
}

// enter reports whether the turn is still on. If so, leave has to be called.
func (t *turnstile) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.users++
	return true
}

// stay adds a user to a turn that has one, even if it is over.
func (t *turnstile) stay() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users++
}

func (t *turnstile) leave() { t.count(-1, false) }

// end lets nobody in any more.
func (t *turnstile) end() { t.count(0, true) }

func (t *turnstile) count(change int, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users += change
	t.over = t.over || over
	if t.over && t.users == 0 {
		go t.close() // the last user may be a hook that close waits for
	}
}
