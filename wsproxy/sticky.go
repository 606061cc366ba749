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

// A Sticky keeps sessions with the targets of a pool, around a handler of the caller's: a reverse
// proxy that exists already, or shards inside of the process. It takes a request the way a [Proxy]
// does, and leaves the network to the handler, see [Sticky.Handler].
//
// Its fields must not be changed after the first request. Pool is required, and every other field
// has a default. A Sticky must not be copied. Call [Sticky.Validate] to check the fields before the
// first request. If it returns an error, Handler, Shutdown and Close panic with that error's text.
type Sticky struct {
	// Pool has the targets. They need no URL, if the handler knows them by their IDs.
	Pool *balancer.Pool

	// Policy binds sessions to targets. Nil means no stickiness: the pool's picker chooses for
	// every request. What the policy changes in a request, such as a cookie that it removes, is
	// changed in the request that the handler gets, and not in the inbound one.
	Policy stickiness.Policy

	// Key returns the key of a request, as [Proxy.Key] does. It must not read the body.
	Key func(r *http.Request) string

	// MaxPerKey and PerKeyStatus limit the requests of one key, as the fields of [Proxy] do.
	MaxPerKey    int
	PerKeyStatus int

	// OnMiss decides what happens when the target that a request is bound to cannot serve it, as
	// [Proxy.OnMiss] does. There are no retries, so why is always one of balancer's errors.
	OnMiss func(r *http.Request, id string, why error) Miss

	// Trusted, TrustUnix and RFC7239 say which peers are believed when they name their client, as
	// the fields of [Proxy] do. Policy, Key, OnMiss and the hooks see no forwarding header of any
	// other peer. The handler gets the forwarding headers as they came, because what it makes of
	// them is its own affair. It should ask [Sticky.ClientAddr] for the client.
	Trusted   []netip.Prefix
	TrustUnix bool
	RFC7239   bool

	// Upgrades has the protocols whose upgrades take a lease for a tunnel, see
	// [balancer.Target].MaxTunnels. Their case does not matter. Nil means only "websocket". An
	// upgrade to another protocol takes a lease for a request. It is passed on like any request:
	// the handler decides which upgrades it accepts.
	Upgrades []string

	// Tunnels limits upgraded connections. Max, MaxPerKey, Window, Rebalance and CloseCode apply.
	// Validate refuses the other fields: the handler moves the bytes, so their limits are its own.
	Tunnels TunnelLimits

	// ErrorPage answers a request that does not reach the handler, as [Proxy.ErrorPage] does. A
	// policy never sets a cookie on it.
	ErrorPage func(w http.ResponseWriter, r *http.Request, e *Error)

	// Trace has functions that are called for decisions and completions. Nil means none. A request
	// that reaches the handler is one attempt. Retry is never called.
	Trace *Trace

	// Logger gets what [Proxy.Logger] gets, except for what only a Proxy can see. Nil means
	// slog.Default().
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

// Handler returns a handler that gives each request a lease on a target, and then calls next. It
// may be called several times: all its handlers share the limits of s. It panics if next is nil or
// if Validate returns an error.
//
// # What next gets
//
// Next gets a copy of the request, whose context says which target was chosen: see [MemberOf] and
// [URLOf]. Next is called at most once for each request, and nothing is tried again on another
// target, because a body that next has read is gone. If no target can serve, next is not called,
// and the client gets an error page.
//
// # The cookie
//
// The policy binds the session when next writes the final header, by whatever method, and before
// net/http writes the header of a response for which next has written nothing. A 1xx has no part in
// it. When next panics before the header, nobody is bound, and neither when it has reported before
// that the target gave no answer.
//
// # The ResponseWriter
//
// The writer that next gets has an Unwrap method for [http.ResponseController], and is an
// io.ReaderFrom and an io.StringWriter. It is an [http.Flusher] or an [http.Hijacker] if one in the
// chain of the writer below is, and an [http.Pusher] if the writer below is. It never is the
// deprecated http.CloseNotifier. A middleware in next that replaces the writer by one without
// Unwrap loses what its own writer lacks, as it does without s, and nothing else.
//
// # The outcome
//
// When next returns, the pool learns the status, and how long next took to write the header. That
// counts as a complete answer of any status, see [balancer.Outcome]: next can tell more with
// [Report] and [ReportError]. When next panics, the answer of the target has broken off, also
// if the value is not [http.ErrAbortHandler]. The panic goes on. Nothing is held against the target
// if the client has gone away, could not be written to, or has sent a broken body before the header
// was written.
//
// # Upgraded connections
//
// A connection that next takes over with Hijack keeps its lease until next closes it. So close it
// on every path. That the client goes away ends next's reads, and does not end the lease. The
// policy binds the session in the header that next writes to the connection first, as
// httputil.ReverseProxy does, or in that of WriteHeader(101) before. A stream of an extended
// CONNECT (RFC 8441) that next answers with a 2xx keeps its lease until next returns or the stream
// is cut. Reads and writes of next fail then.
//
// When the target is moving, and in [Sticky.Shutdown], these connections are asked to end, see
// [OnLeave]. When the target is down they are closed. Requests that are no upgrades run to their
// end.
//
// The connection is not the server's *net.TCPConn or *tls.Conn, but has their methods Read, Write,
// Close and CloseWrite, and can be copied from and to without another buffer.
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

// Shutdown refuses upgrades with 503 from now on, and asks the upgraded connections to end, see
// [OnLeave]. That is spread over [TunnelLimits].Window, but at most over half of the time that is
// left until ctx's deadline. Shutdown waits until all have ended, and returns nil. If ctx ends
// first, Shutdown closes the remaining ones, waits for that, and returns ctx's error.
//
// Plain requests go on, see [Proxy.Shutdown]. A Sticky that was shut down cannot be used for
// upgrades again.
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

// Close is Shutdown without the time to end in an orderly way. It closes the upgraded connections
// at once, and returns nil. It may be called several times, concurrently, and before the first
// request.
func (s *Sticky) Close() error {
	rt := s.setup()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	rt.busy.Shutdown(ctx) // asks nobody
	rt.stopObserving()
	return nil
}

// URLOf returns a copy of the URL of the member that [MemberOf] returns. It returns nil if there is
// none, or if the target has no URL. It makes a ReverseProxy a balanced one:
//
//	Rewrite: func(pr *httputil.ProxyRequest) {
//		pr.SetURL(wsproxy.URLOf(pr.In.Context()))
//		...
//	}
//
// The Addr, ServerName and Certificate of a target are not in its URL. A transport that needs them
// can ask MemberOf.
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

// Report tells the pool how a request to its target has ended. ctx is the context of the request
// that the handler of a [Sticky] gets. Report replaces what the Sticky would report when the
// request is over. Fields of o that are zero get what the Sticky knows. A failure that is reported
// after the client has gone away, or after the body that it sent has failed, becomes
// [balancer.ClientGone].
//
// The last call counts. Report returns false, and does nothing, if the context is of no such
// request, or if the lease has been released: when the handler has returned, or when the upgraded
// connection has ended. It may be called by any goroutine.
func Report(ctx context.Context, o balancer.Outcome) bool {
	v, ok := ctx.Value(visitKey{}).(*visit)
	return ok && v.report(o)
}

// ReportError calls [Report] for the error of a request that was sent to the target, such as an
// http.Transport's. It is what a ReverseProxy's ErrorHandler calls:
//
//	ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
//		wsproxy.ReportError(r.Context(), err)
//		w.WriteHeader(http.StatusBadGateway)
//	}
//
// The error is judged as a [Proxy] judges it: a connection that could not be made is the target's
// own failure. A nil error reports nothing.
func ReportError(ctx context.Context, err error) bool {
	v, ok := ctx.Value(visitKey{}).(*visit)
	if !ok || err == nil {
		return false
	}
	e := &Error{Class: classify(ctx, err), Err: err}
	return v.report(balancer.Outcome{Class: v.judge(e), Err: err})
}

// OnLeave registers f, which asks the upgraded connection of a request to end. f is called once, on
// a goroutine of its own: when the target is moving, when the target no longer keeps the session
// (see [TunnelLimits].Rebalance), or in [Sticky.Shutdown]. code is the status code for the close
// frame of a WebSocket. f should write that frame, and need not wait for the end. The connection is
// closed when the target is down, or when the context of Shutdown ends. Shutdown waits for f, too.
//
// Call OnLeave before the connection is taken over. ctx is the context of the request that the
// handler of a [Sticky] gets. OnLeave returns false if it is not, or if the request is over. f is
// not called for a request that does not become an upgraded connection. The last call counts.
//
// Without OnLeave, the connection is closed when it is asked to end, as nobody else knows its
// protocol.
func OnLeave(ctx context.Context, f func(code uint16)) bool {
	v, ok := ctx.Value(visitKey{}).(*visit)
	return ok && v.onLeave(f)
}
