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

// TunnelLimits are the limits of a Proxy's upgraded connections. Max and MaxPerKey limit their
// number. Rebalance limits how many of them are moved to another target. The other fields apply to
// each connection. [Sticky.Tunnels] says which of them apply to a Sticky.
type TunnelLimits struct {
	// Max is the largest number of upgraded connections that a Proxy has at a time, to all targets
	// together. Upgrades that still wait for their target's answer count, too. A further upgrade
	// gets 503 with Retry-After, and has the class [ClassLimit]. Zero or a negative value means no
	// limit except MaxTunnels of balancer.Target.
	Max int
	// MaxPerKey is the largest number of upgraded connections that one key has at a time, so that
	// one client cannot take all of them. Upgrades that still wait for their target's answer count,
	// too. Proxy.MaxPerKey says what a key is, and what a request above the limit gets. Zero or a
	// negative value means no limit.
	MaxPerKey int
	// Handshake is how long the target may take to answer an upgrade, and how long the client may
	// take to read that answer. Zero means 10 s. A negative value means no limit here. The
	// transport's own limit applies in every case.
	Handshake time.Duration
	// Idle is the time without a byte in either direction after which a connection is ended. Zero
	// or a negative value means never. TCP keep-alive probes find dead peers, but do not count as
	// bytes. A very slow reader may count as idle, too: a peer that reads less than a few megabytes
	// in this time although more waits for it.
	Idle time.Duration
	// Context returns a context that ends an upgraded connection. When it is done, both sides are
	// closed at once, without a close frame, as after Lifetime. Context is called once for each
	// switch, with the client's request, before the client gets the answer. Nil means no such
	// context, and so does a nil result. The request's own context does not end the connection
	// after the switch. Middleware often cancels that context when its handler returns, and the
	// proxy cannot tell this from a wish to end the connection.
	Context func(r *http.Request) context.Context
	// Lifetime is the time after the switch of protocols at which a connection is ended. Zero or a
	// negative value means never.
	Lifetime time.Duration
	// Jitter spreads lifetimes. Each lifetime is shortened at random by up to this many percent.
	// Zero means 10. A negative value means no jitter.
	Jitter int
	// Window is the time over which close frames are spread when a target is moving, and in
	// Shutdown. It keeps the clients from all coming back at once. Zero means 30 s. A negative
	// value sends all close frames at once.
	Window time.Duration
	// Rebalance limits how many connections per second, of all targets together, are asked to end
	// because their target no longer keeps their session. See balancer.Member.SetShare. Only
	// connections that were bound to the target when they began are asked. They get the same close
	// frame as when a target is moving. The frames are spread over 5 s or more, because the clients
	// come back immediately. A connection is not asked while no other target has room for it. Zero
	// or a negative value means that no connection is asked to end.
	Rebalance int
	// CloseCode and CloseReason are the content of these close frames (RFC 6455 section 7.4). A
	// zero code means 1012 (service restart) when a target is moving and 1001 (going away) in
	// Shutdown. A reason is cut to 123 octets.
	CloseCode   uint16
	CloseReason string
	// Linger is how long a connection may go on without progress after one side has ended. While
	// the other side does not read, the end may be hidden behind the bytes that wait for it; the
	// time then counts from when the end could be noticed. After a reset the limit is always 5 s
	// without progress for the bytes that the reset side has sent. Zero means 30 s. A negative
	// value means no limit, except after a reset.
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

// farewell returns how tunnels are asked to end. They are those of a target that is moving, or all
// those of a proxy that is shut down.
func (l *TunnelLimits) farewell(by tunnel.Reason, code uint16) tunnel.Farewell {
	f := tunnel.Farewell{Code: cmp.Or(l.CloseCode, code), Text: l.CloseReason, By: by, Window: l.Window}
	if f.Window == 0 {
		f.Window = defaultWindow
	}
	return f
}

// startTunnel gives the walk's lease to a new tunnel, which releases it at its end. The tunnel
// keeps nothing else of the request. If ended is not nil, it is called last.
func (k *walk) startTunnel(client, backend tunnel.Side, ended func(tunnel.End)) {
	tell := k.rt.tunnelTeller(k.in, k.record)
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

// tunnelTeller returns a function that reports the end of a tunnel to the hooks. The tunnel of the
// request r starts now. The result is nil when there is no hook.
func (c *core) tunnelTeller(r *http.Request, record func() Record) func(tunnel.End) {
	log, told := c.log, c.trace.Tunnel
	var ended func(TunnelRecord)
	if c.trace.Switch != nil {
		underway.Contain(log, "wsproxy: Trace.Switch", func() { ended = c.trace.Switch(r) })
	}
	if told == nil && ended == nil {
		return nil
	}
	now, opened := record(), time.Now()
	return func(end tunnel.End) {
		t := TunnelRecord{Record: now, Open: time.Since(opened), FromClient: end.FromClient,
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

// Shutdown refuses upgrades with 503 from now on, including those that wait for their target, and
// asks the upgraded connections to end. Both sides of a WebSocket get a close frame between two of
// their frames. The close frames are spread over [TunnelLimits].Window, but at most over half of
// the time that is left until ctx's deadline. A connection of another protocol is closed at its
// turn. Shutdown waits until all connections have ended, and returns nil. If ctx ends first,
// Shutdown closes the remaining connections, waits until they are closed, and returns ctx's error.
// [Proxy.Close] closes all of them at once.
//
// Plain requests go on. http.Server.Shutdown waits for them, and should be called after this
// method, because it does not know upgraded connections. A Proxy that was shut down cannot be used
// for upgrades again.
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

// letGo stops observing the pool, and closes the connections that are kept for later requests.
func (rt *runtime) letGo() {
	rt.stopObserving()
	rt.pins.close()
	rt.transports.closeIdle()
}

// Close is Shutdown without the time to end in an orderly way. It refuses upgrades with 503 from
// now on, and closes the upgraded connections at once, without a close frame. It waits until they
// are closed and the calls of Trace.Tunnel have returned, and returns nil. A [Proxy.Shutdown] that
// is under way returns then, too. Close also closes the connections to targets: the idle ones at
// once, and those in use when their requests are over.
//
// Plain requests go on, as after Shutdown. http.Server.Close ends them. Close may be called several
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

// A Shutdowner ends its upgraded connections in an orderly way, see [Proxy.Shutdown] and
// [Sticky.Shutdown].
type Shutdowner interface {
	Shutdown(ctx context.Context) error
}

// Shutdown calls the Shutdown methods of several proxies at the same time. Their windows run in
// parallel, and ctx limits all of them. It returns when the last method has returned. The errors
// are joined, see errors.Join.
func Shutdown(ctx context.Context, proxies ...Shutdowner) error {
	errs := make([]error, len(proxies))
	var running sync.WaitGroup
	for i, p := range proxies {
		running.Go(func() { errs[i] = p.Shutdown(ctx) })
	}
	running.Wait()
	return errors.Join(errs...)
}
