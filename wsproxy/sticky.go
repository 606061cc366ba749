package wsproxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A Sticky keeps sessions with the targets of a pool for the caller's own handler: an existing
// reverse proxy, or shards inside the process. It chooses targets and binds sessions as a [Proxy]
// does. The handler does the rest, see [Sticky.Handler].
//
// Pool is required, and every other field has a default. Do not change the fields after the first
// call of Handler, Shutdown or Close, and do not copy a Sticky. Its methods are safe for concurrent
// use. Call [Sticky.Validate] to check the fields. If it returns an error, Handler, Shutdown and
// Close panic with that error's text.
type Sticky struct {
	// Pool has the targets. They need no URL if the handler finds them by their IDs.
	Pool *balancer.Pool

	// Policy binds sessions to targets. Nil means no stickiness: the pool's picker chooses for
	// every request. A policy may change a request, for example remove a cookie. The handler gets
	// the changed request, and the inbound request stays as it is.
	Policy stickiness.Policy

	// Key returns the key of a request, as [Proxy.Key] does. It must not read the body.
	Key func(r *http.Request) string

	// MaxPerKey and PerKeyStatus limit the requests of one key, as the fields of [Proxy] do.
	MaxPerKey    int
	PerKeyStatus int

	// OnMiss decides what happens when the target that a request is bound to cannot serve it, as
	// [Proxy.OnMiss] does. A Sticky does not retry, so why is always an error of package balancer.
	OnMiss func(r *http.Request, id string, why error) Miss

	// Trusted, TrustUnix and RFC7239 say whose forwarding headers are believed, as the fields of
	// [Proxy] do. Policy, Key, OnMiss and the hooks see no forwarding header of any other peer. The
	// handler gets all forwarding headers as they came, trusted or not, so a client can forge them.
	// It should call [Sticky.ClientAddr] to learn the client's address. A httputil.ReverseProxy
	// removes Forwarded and X-Forwarded-For, -Host and -Proto before it calls Rewrite, but not
	// before it calls Director.
	Trusted   []netip.Prefix
	TrustUnix bool
	RFC7239   bool

	// Upgrades lists the protocols whose upgrades count as tunnels, see
	// [balancer.Target].MaxTunnels. Their case does not matter. Nil means only "websocket". An
	// upgrade to another protocol counts as a request. In both cases the handler decides whether it
	// accepts the upgrade.
	Upgrades []string

	// Tunnels limits upgraded connections. Max, MaxPerKey, Window, Rebalance and CloseCode apply.
	// Validate refuses the other fields, because the handler moves the bytes.
	Tunnels TunnelLimits

	// ErrorPage answers a request that does not reach the handler, as [Proxy.ErrorPage] does. A
	// policy never sets a cookie on it.
	ErrorPage func(w http.ResponseWriter, r *http.Request, e *Error)

	// Trace has functions that are called for decisions and completions. Nil means none. A request
	// that reaches the handler is one attempt. Retry is never called.
	Trace *Trace

	// Logger receives failed requests, client aborts and panics of hooks, as [Proxy.Logger] does.
	// Nil means slog.Default().
	Logger *slog.Logger

	mu       sync.Mutex // held by prepare
	prepared atomic.Bool
	rt       stickyRuntime
	tunnels  atomic.Int64 // upgraded connections, and upgrades that the handler has not answered
}

// A stickyRuntime is the state that a Sticky derives from its fields at the first request.
type stickyRuntime struct {
	core
	stopObserving func()
}

// settings returns what the Sticky has in common with a Proxy.
func (s *Sticky) settings() *settings {
	return &settings{
		of: "Sticky", pool: s.Pool, policy: s.Policy, onMiss: s.OnMiss, perKeyStatus: s.PerKeyStatus, trust: s.trust(),
		upgrades: s.Upgrades, tunnels: &s.Tunnels, page: s.ErrorPage, trace: s.Trace, logger: s.Logger,
	}
}

// trust returns the peers whose forwarding headers are believed.
func (s *Sticky) trust() trust { return trust{s.Trusted, s.TrustUnix, s.RFC7239} }

// Validate returns an error if a field is not valid. It changes nothing.
func (s *Sticky) Validate() error {
	if err := s.settings().check(); err != nil {
		return err
	}
	return s.Tunnels.checkForSticky()
}

// ClientAddr returns the address of the client that sent r, as [Proxy.ClientAddr] does. The handler
// and handlers around it may call it.
func (s *Sticky) ClientAddr(r *http.Request) netip.Addr { return s.trust().peerOf(r).client.Addr() }

// setup returns the runtime, which it makes at the first call. It panics if Validate returns an
// error.
func (s *Sticky) setup() *stickyRuntime {
	if !s.prepared.Load() {
		s.prepare()
	}
	return &s.rt
}

// prepare makes the runtime, unless another goroutine has.
func (s *Sticky) prepare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prepared.Load() {
		return
	}
	if err := s.Validate(); err != nil {
		panic(err.Error())
	}
	s.rt.core.init(s.settings())
	s.rt.stopObserving = s.Pool.Observe(&s.rt.busy)
	s.prepared.Store(true)
}

// Handler returns a handler that takes a lease on a target for each request, and then calls next.
// It may be called several times: all handlers of s share its limits. It panics if next is nil or
// if Validate returns an error.
//
// # What next gets
//
// Next gets a copy of the request. Its context says which target was chosen, see [MemberOf] and
// [URLOf]. Next is called at most once for each request. A failed request is not tried on another
// target, because a body that next has read cannot be read again. If no target can serve, next is
// not called, and the client gets an error page.
//
// # The cookie
//
// The policy binds the session when next writes the final header, by any method. If next writes
// nothing, the policy binds when next returns. An informational response (100 to 103) binds
// nothing. The session is not bound if next panics before it writes the header, or if next has
// reported a failure of the target before that.
//
// # The ResponseWriter
//
// The writer that next gets has an Unwrap method for [http.ResponseController], and implements
// io.ReaderFrom and io.StringWriter. It implements [http.Flusher] or [http.Hijacker] if the
// server's writer, or one that wraps it, does, and [http.Pusher] if the outermost of them does. It
// never implements the deprecated http.CloseNotifier. Middleware in next may replace the writer by
// one without Unwrap. Only the methods that this writer lacks are lost, as without s.
//
// # The outcome
//
// When next returns, the pool learns the status, and how long next took to write the header. Any
// status counts as a complete answer, see [balancer.Outcome]. With [Report] and [ReportError], next
// can report a failure. When next panics, with [http.ErrAbortHandler] or any other value, the
// target's answer counts as broken off. The panic goes on. A request does not count against the
// target if its client has gone away or could not be written to, if the request's body failed
// before the header was written, or if Hijack has failed.
//
// # Upgraded connections
//
// A connection that next takes over with Hijack keeps its lease until next closes it, so next must
// close it on every path. If next panics after Hijack, the connection is closed, and the panic goes
// on. When the client goes away, next's reads end, but the lease does not. The policy binds the
// session in the first response header that next writes to the connection, as httputil.ReverseProxy
// does, or in the header of WriteHeader(101) if that came before Hijack. A stream of an extended
// CONNECT (RFC 8441) that next answers with a 2xx keeps its lease until next returns or the stream
// is cut. When it is cut, next's reads and writes fail.
//
// When the target is moving, and in [Sticky.Shutdown], these connections are asked to end, see
// [OnLeave]. When the target is down they are closed. Requests that are not upgrades run to their
// end.
//
// The connection is not the server's *net.TCPConn or *tls.Conn, but has their methods Read, Write,
// Close and CloseWrite. io.Copy from and to it needs no other buffer.
func (s *Sticky) Handler(next http.Handler) http.Handler {
	if next == nil {
		panic("wsproxy: Handler of a nil http.Handler")
	}
	s.setup()
	return &stickyHandler{s, next}
}

// A stickyHandler is a handler of [Sticky.Handler].
type stickyHandler struct {
	s    *Sticky
	next http.Handler
}

// ServeHTTP implements http.Handler.
func (h *stickyHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := h.s.newVisit(w, r)
	defer v.finish()
	v.serve(r, h.next)
	v.returned = true
}

// Shutdown refuses new upgrades with 503, and asks the upgraded connections to end, see [OnLeave].
// It spreads this over [TunnelLimits].Window, but at most over half of the time until ctx's
// deadline. Shutdown waits until all of them have ended, and returns nil. If ctx ends first,
// Shutdown closes the remaining connections, waits for that, and returns ctx's error.
//
// Plain requests go on, see [Proxy.Shutdown]. After Shutdown, a Sticky refuses all upgrades.
func (s *Sticky) Shutdown(ctx context.Context) error {
	rt := s.setup()
	f := s.Tunnels.farewell(tunnel.Shutdown, goingAway)
	if deadline, ok := ctx.Deadline(); ok {
		f.Window = min(f.Window, time.Until(deadline)/2)
	}
	err := rt.busy.Drain(ctx, f)
	rt.stopObserving()
	return err
}

// Close is Shutdown without waiting: it closes the upgraded connections at once, and returns nil.
// It may be called several times, concurrently, and before the first request.
func (s *Sticky) Close() error {
	rt := s.setup()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	rt.busy.Shutdown(ctx) // asks nobody
	rt.stopObserving()
	return nil
}

// URLOf returns a copy of the URL of the member that [MemberOf] returns. It returns nil if there is
// no member, or if the target has no URL. A ReverseProxy uses it in Rewrite:
//
//	Rewrite: func(pr *httputil.ProxyRequest) {
//		pr.SetURL(wsproxy.URLOf(pr.In.Context()))
//		...
//	}
//
// A target's Addr, ServerName and Certificate are not in its URL. A transport that needs them can
// call MemberOf.
func URLOf(ctx context.Context) *url.URL {
	m, ok := MemberOf(ctx)
	if !ok {
		return nil
	}
	u := m.URL()
	if u == (url.URL{}) {
		return nil
	}
	return &u
}

// Report sets the outcome of a request, which the pool learns when the request is over. ctx is the
// context of the request that the handler of a [Sticky] gets. Class, Err and Retried of o replace
// what the Sticky would report. Status, Latency, Began and Client do so if they are not zero. A
// failure that is reported after the client has gone away, or after the request's body has failed,
// becomes [balancer.ClientGone]. The last call counts. Report may be called by any goroutine. It
// returns false and does nothing if ctx is not the context of such a request, or if the lease has
// been released. That is when the handler has returned, or when the upgraded connection has ended.
func Report(ctx context.Context, o balancer.Outcome) bool {
	v, ok := ctx.Value(visitKey{}).(*visit)
	return ok && v.report(o)
}

// ReportError calls [Report] for an error of a request to the target, such as an error of an
// http.Transport. Call it in the ErrorHandler of a ReverseProxy:
//
//	ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
//		wsproxy.ReportError(r.Context(), err)
//		w.WriteHeader(http.StatusBadGateway)
//	}
//
// The error is classified as in a [Proxy]. For example, a connection that could not be made counts
// against the target. ReportError returns what Report does. If err is nil, it returns false and
// does nothing.
func ReportError(ctx context.Context, err error) bool {
	v, ok := ctx.Value(visitKey{}).(*visit)
	if !ok || err == nil {
		return false
	}
	e := &Error{Class: classify(ctx, err), Err: err}
	return v.report(balancer.Outcome{Class: v.judge(e), Err: err})
}

// OnLeave registers f, which is called when the upgraded connection of a request should end. That
// is when the target is moving, when the target no longer keeps the session (see
// [TunnelLimits].Rebalance), or in [Sticky.Shutdown]. f is called at most once, on a goroutine of
// its own. code is the status code for the close frame of a WebSocket. f should write that frame,
// and need not wait until the connection ends. The connection is closed when the target is down, or
// when the context of Shutdown ends. Shutdown also waits for f to return, so f must return soon
// after the connection has ended.
//
// ctx is the context of the request that the handler of a [Sticky] gets. OnLeave returns false for
// any other context, and if the request is over. Call it before Hijack. The last call counts. If
// the request does not become an upgraded connection, f is not called.
//
// Without OnLeave, the connection is closed when it should end, because only the handler knows its
// protocol.
func OnLeave(ctx context.Context, f func(code uint16)) bool {
	v, ok := ctx.Value(visitKey{}).(*visit)
	return ok && v.onLeave(f)
}
