package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// TunnelLimits bound upgraded connections. Max and MaxPerKey bound their number, the others hold
// for each connection of a Proxy.
type TunnelLimits struct {
	// Max is how many upgraded connections a Proxy has at a time, whatever their targets; those
	// that wait for their target's answer count. A request for one more gets 503 with Retry-After,
	// and the class [ClassLimit]. Zero or a negative value means no bound but balancer.Target's
	// MaxTunnels.
	Max int
	// MaxPerKey is how many upgraded connections one key has at a time, those that wait for their
	// target's answer included: one client cannot take all. Whom a key stands for, and what a
	// request for one more gets, stands at Proxy.MaxPerKey. Zero or a negative value means no
	// bound.
	MaxPerKey int
	// Handshake is how long the target may take to answer an upgrade, and the client to take that
	// answer. Zero means 10 s, a negative value no limit but the transport's, which holds anyway.
	Handshake time.Duration
	// Idle ends a connection when no byte has passed in either direction for so long. Zero or a
	// negative value means never. Keep-alive probes of TCP find dead peers, but are not bytes. A
	// peer that takes less than some megabytes in that time, of more that waits for it, may count
	// as idle too.
	Idle time.Duration
	// Context returns a context that ends an upgraded connection. When it is done, both sides are
	// closed at once, without a close frame, as after Lifetime. Context is called once for each
	// switch, with the client's request, before the client gets the answer. Nil means no such
	// context, and so does a nil result. The request's own context does not end the connection
	// after the switch: a middleware's deferred cancel looks the same as a wish to end it.
	Context func(r *http.Request) context.Context
	// Lifetime ends a connection so long after the switch. Zero or a negative value means never.
	Lifetime time.Duration
	// Jitter spreads lifetimes: each is shorter by up to so many percent. Zero means 10, a negative
	// value none.
	Jitter int
	// Window is the time over which close frames are spread when a target is moving and in
	// Shutdown, so that clients do not all come back at once. Zero means 30 s, a negative value all
	// at once.
	Window time.Duration
	// Rebalance bounds how many connections per second, of all targets together, are asked to end
	// because their target does not keep their session, see balancer.Member.SetShare. Only
	// connections that were bound to the target when they began are asked. They get the close frame
	// that they get when a target is moving, spread over 5 s or more, because their clients come
	// back at once. None is asked while no other target has room for it. Zero or a negative value
	// means none: they stay until they end.
	Rebalance int
	// CloseCode and CloseReason are what those close frames say (RFC 6455 section 7.4). A zero code
	// means 1012 (service restart) when a target is moving and 1001 (going away) in Shutdown. A
	// reason is cut to 123 octets.
	CloseCode   uint16
	CloseReason string
	// Linger is how long a connection may go on without progress after one side has ended, or after
	// that could be noticed behind bytes which the other side does not take. A side that was reset
	// is not waited for: what it has sent has 5 s without progress. Zero means 30 s, a negative
	// value without limit, but for resets.
	Linger time.Duration
}

const (
	defaultHandshake = 10 * time.Second
	defaultWindow    = 30 * time.Second

	goingAway      = 1001 // RFC 6455 section 7.4.1
	serviceRestart = 1012 // IANA's registry of WebSocket close codes
)

func (l *TunnelLimits) handshake() time.Duration {
	return underway.Limit(l.Handshake, defaultHandshake)
}

// farewell is how a target's tunnels are asked to end, or those of a proxy that is shut down.
func (l *TunnelLimits) farewell(by tunnel.Reason, code uint16) tunnel.Farewell {
	f := tunnel.Farewell{Code: cmp.Or(l.CloseCode, code), Text: l.CloseReason, By: by, Window: l.Window}
	if f.Window == 0 {
		f.Window = defaultWindow
	}
	return f
}

// startTunnel gives the walk's lease to a tunnel, which gives it back when it has ended. Nothing of
// the request is held meanwhile. ended, if not nil, is told last.
func (k *walk) startTunnel(client, backend tunnel.Side, ended func(tunnel.End)) {
	tell := k.tunnelTeller()
	o := balancer.Outcome{Status: http.StatusSwitchingProtocols, Latency: k.last.latency, Began: k.last.sent, Client: k.choice.query.Client}
	var of underway.Session
	if k.choice.keepsSession() {
		of = underway.Session{ID: k.choice.session(k.choice.from), Issued: k.choice.from.Issued}
	}
	lease, place := k.choice.handOver(), k.upgrade.handOverPlace()
	l := k.p.Tunnels
	options := tunnel.Options{Idle: l.Idle, Lifetime: underway.Shorten(l.Lifetime, l.Jitter), Linger: l.Linger}
	options.WebSocket = k.upgrade.protocol == "websocket"
	options.Context = k.upgrade.context
	options.Done = func(end tunnel.End) {
		o.Class, o.Err = underway.Blame(end)
		lease.Release(o)
		place.free()
		if tell != nil {
			tell(end)
		}
		if ended != nil {
			ended(end)
		}
	}
	k.rt.busy.StartFor(of, lease.Member(), client, backend, options)
	k.upgrade.release()
}

// tunnelTeller returns a function that gives the hooks their account of a tunnel that starts now,
// or nil when there is no hook.
func (k *walk) tunnelTeller() func(tunnel.End) {
	log, told := k.rt.log, k.rt.trace.Tunnel
	var ended func(TunnelRecord)
	if k.rt.trace.Switch != nil {
		underway.Contain(log, "wsproxy: Trace.Switch", func() { ended = k.rt.trace.Switch(k.in) })
	}
	if told == nil && ended == nil {
		return nil
	}
	record, opened := k.record(), time.Now()
	return func(end tunnel.End) {
		t := TunnelRecord{Record: record, Open: time.Since(opened), FromClient: end.FromClient,
			FromBackend: end.FromBackend, ClientCode: end.ClientCode, BackendCode: end.BackendCode,
			EndedBy: end.By.String(), EndErr: end.Err}
		if ended != nil {
			underway.Contain(log, "wsproxy: the function of Trace.Switch", func() { ended(t) })
		}
		if told != nil {
			underway.Contain(log, "wsproxy: Trace.Tunnel", func() { told(t) })
		}
	}
}

// Shutdown refuses upgrades with 503 from now on, those that wait for their target included, and
// asks the upgraded connections to end: both sides of a WebSocket get a close frame between two of
// their frames, spread over the window of [TunnelLimits], at most over half of the time that is
// left until ctx's deadline; connections of other protocols are closed at their turn. It waits
// until all have ended and returns nil. When ctx ends first it closes those that are left, waits
// until that is done, and returns ctx's error. [Proxy.Close] asks nobody and does not wait.
//
// Plain requests go on: they are http.Server.Shutdown's to wait for, after this one, since
// http.Server does not know upgraded connections. A Proxy that was shut down stays so.
//
// For several proxies, see the function [Shutdown].
func (p *Proxy) Shutdown(ctx context.Context) error {
	rt := p.setup()
	rt.closed.Store(true)
	f := p.Tunnels.farewell(tunnel.Shutdown, goingAway)
	if deadline, ok := ctx.Deadline(); ok {
		f.Window = min(f.Window, time.Until(deadline)/2)
	}
	err := rt.busy.Drain(ctx, f)
	rt.letGo()
	return err
}

// letGo ends what is kept for later requests.
func (rt *runtime) letGo() {
	rt.stopObserving()
	rt.pins.close()
	rt.transports.closeIdle()
}

// Close is Shutdown without its patience: it refuses upgrades with 503 from now on, closes the
// upgraded connections at once and without a close frame, waits until that is done, Trace.Tunnel
// included, and returns nil. A [Proxy.Shutdown] that is under way returns then. It also closes the
// connections to targets that are kept for later requests, and those in use when their requests are
// over.
//
// Plain requests go on, as after Shutdown: http.Server.Close ends them. Close may be called several
// times, concurrently, and before the first request.
func (p *Proxy) Close() error {
	rt := p.setup()
	rt.closed.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	rt.busy.Shutdown(ctx) // asks nobody
	rt.letGo()
	return nil
}

// Shutdown shuts down several proxies at once, as [Proxy.Shutdown] does each: their windows run
// side by side, and one ctx bounds them all. It returns when the last one is done. The errors are
// joined, see errors.Join.
func Shutdown(ctx context.Context, proxies ...*Proxy) error {
	errs := make([]error, len(proxies))
	var running sync.WaitGroup
	for i, p := range proxies {
		running.Go(func() { errs[i] = p.Shutdown(ctx) })
	}
	running.Wait()
	return errors.Join(errs...)
}
