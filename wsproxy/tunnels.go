package wsproxy

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// TunnelLimits bound upgraded connections. They hold for each connection of a Proxy.
type TunnelLimits struct {
	// Handshake is how long the target may take to answer an upgrade, and the client to take that answer. Zero means
	// 10 s, a negative value no limit but the transport's.
	Handshake time.Duration
	// Idle ends a connection when no byte has passed in either direction for so long. Zero or a negative value means
	// never. Keep-alive probes of TCP find dead peers, but are not bytes.
	Idle time.Duration
	// Lifetime ends a connection so long after the switch. Zero or a negative value means never.
	Lifetime time.Duration
	// Jitter spreads lifetimes: each is shorter by up to so many percent. Zero means 10, a negative value none.
	Jitter int
	// Linger is how long a connection may go on in one direction after the other has ended. Zero means 30 s, a
	// negative value without limit.
	Linger time.Duration
}

const (
	defaultHandshake = 10 * time.Second
	defaultLinger    = 30 * time.Second
	defaultJitter    = 10 // percent
	unlimited        = time.Duration(1<<63 - 1)

	// earlyEnd is how soon after the switch the failure of a target's side counts against the target.
	earlyEnd = 5 * time.Second
)

func (l *TunnelLimits) handshake() time.Duration {
	switch {
	case l.Handshake == 0:
		return defaultHandshake
	case l.Handshake < 0:
		return unlimited
	default:
		return l.Handshake
	}
}

// options are the limits of one tunnel; there, zero means none.
func (l *TunnelLimits) options() tunnel.Options {
	o := tunnel.Options{Idle: max(l.Idle, 0), Lifetime: max(l.Lifetime, 0), Linger: max(l.Linger, 0)}
	if l.Linger == 0 {
		o.Linger = defaultLinger
	}
	jitter := l.Jitter
	if jitter == 0 {
		jitter = defaultJitter
	}
	if spread := o.Lifetime / 100 * time.Duration(min(max(jitter, 0), 100)); spread > 0 {
		o.Lifetime -= rand.N(spread)
	}
	return o
}

// tunnels are the upgraded connections of a Proxy. As the pool's observer it cuts those of a target that goes down.
type tunnels struct {
	engine        tunnel.Engine
	stopObserving func()
	stopping      atomic.Bool

	mu   sync.Mutex
	live map[*balancer.Member]map[*tunnel.Tunnel]struct{}
}

func (t *tunnels) closing() bool { return t.stopping.Load() }

// start runs a tunnel for m, and calls done when it has ended and is forgotten.
func (t *tunnels) start(m *balancer.Member, client, backend tunnel.Side, o tunnel.Options, done func(tunnel.End)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var tun *tunnel.Tunnel
	o.Done = func(end tunnel.End) {
		t.mu.Lock() // waits until tun is set
		t.forget(m, tun)
		t.mu.Unlock()
		done(end)
	}
	tun = t.engine.Start(client, backend, o)
	if tun == nil {
		return
	}
	if t.live == nil {
		t.live = make(map[*balancer.Member]map[*tunnel.Tunnel]struct{})
	}
	if t.live[m] == nil {
		t.live[m] = make(map[*tunnel.Tunnel]struct{})
	}
	t.live[m][tun] = struct{}{}
	if m.State().Admin == balancer.Down { // since the lease was taken
		tun.Close(tunnel.Moved)
	}
}

// forget drops a tunnel that has ended. t.mu is held.
func (t *tunnels) forget(m *balancer.Member, tun *tunnel.Tunnel) {
	delete(t.live[m], tun)
	if len(t.live[m]) == 0 {
		delete(t.live, m)
	}
}

// Released implements balancer.Observer.
func (t *tunnels) Released(*balancer.Member, balancer.Outcome) {}

// Changed implements balancer.Observer.
func (t *tunnels) Changed(m *balancer.Member, s balancer.State) {
	if s.Admin != balancer.Down {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for tun := range t.live[m] {
		tun.Close(tunnel.Moved)
	}
}

// startTunnel gives the walk's lease to a tunnel, which gives it back when it has ended. Nothing of the request is held
// meanwhile.
func (k *walk) startTunnel(client, backend tunnel.Side) {
	lease, latency, opened := k.lease, k.latency, time.Now()
	k.lease = balancer.Lease{}
	var record Record
	told := k.rt.trace.Tunnel
	if told != nil {
		record = k.record()
	}
	k.rt.tunnels.start(lease.Member(), client, backend, k.p.Tunnels.options(), func(end tunnel.End) {
		lease.Release(tunnelOutcome(end, latency))
		if told != nil {
			told(TunnelRecord{Record: record, Open: time.Since(opened), FromClient: end.FromClient,
				FromBackend: end.FromBackend, EndedBy: end.By.String(), EndErr: end.Err})
		}
	})
}

// tunnelOutcome is what a tunnel teaches about its target: that it failed when its side broke soon after the switch.
func tunnelOutcome(end tunnel.End, latency time.Duration) balancer.Outcome {
	o := balancer.Outcome{Status: http.StatusSwitchingProtocols, Latency: latency}
	broke := end.By == tunnel.BackendReadFailed || end.By == tunnel.BackendWriteFailed
	if broke && end.Duration < earlyEnd {
		o.Class, o.Err = balancer.TunnelEarly, end.Err
	}
	return o
}

// Shutdown refuses upgrades with 503 from now on, waits until every upgraded connection has ended, and returns nil.
// When ctx ends first it closes those that are left, waits until that is done, and returns ctx's error. Plain requests
// go on: they are http.Server.Shutdown's to wait for, after this one, since http.Server does not know upgraded
// connections. A Proxy that was shut down stays so.
func (p *Proxy) Shutdown(ctx context.Context) error {
	rt := p.setup()
	rt.tunnels.stopping.Store(true)
	err := rt.tunnels.engine.Shutdown(ctx)
	rt.tunnels.stopObserving()
	rt.transports.closeIdle()
	return err
}
