package wsproxy

import (
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A Proxy passes requests on to the targets of a pool. Its fields must not be changed after the
// first request. Pool is required, and every other field has a default. A Proxy must not be copied.
//
// Call [Proxy.Validate] to check the fields before the first request. If it returns an error,
// ServeHTTP, Shutdown and Close panic with that error's text. From the first request on, the pool's
// Update refuses targets of the scheme tcp and targets without a URL.
type Proxy struct {
	// Pool has the targets. Required: ServeHTTP panics without one. Several proxies may share a
	// pool.
	Pool *balancer.Pool

	// Policy binds sessions to targets. Nil means no stickiness: the pool's picker chooses for
	// every request.
	Policy stickiness.Policy

	// Transport carries the requests. Nil means one with this package's defaults.
	//
	// An *http.Transport is copied for upgrades and for h2c targets. The copy for upgrades offers
	// no HTTP/2, and a DialTLSContext of the caller's must not offer it either. The copy for h2c
	// targets speaks only HTTP/2.
	//
	// Any other RoundTripper is used as it is, with the scheme http for h2c targets. The Body of
	// its 101 must be an io.ReadWriteCloser that can be used after the request's context has ended.
	Transport http.RoundTripper

	// Upstream limits the connections that the proxy makes itself. The zero value means the
	// defaults that are named there. Validate refuses it together with a Transport, which has
	// limits of its own.
	Upstream Upstream

	// TransportDials says that Transport uses the Addr, ServerName and Certificate of targets
	// itself, with the help of [MemberOf]. Validate refuses it without a Transport.
	//
	// If it is false, an *http.Transport is copied for each target that has one of these fields.
	// The copy dials the Addr with the DialContext of Transport, and has a TLSClientConfig for the
	// target. Transport must then have no DialTLSContext if the target's scheme is https, and use
	// no proxy for the target. With any other RoundTripper, requests to such targets fail with
	// [ClassDial].
	//
	// If it is true, the copies of an *http.Transport are used without these changes, and any other
	// RoundTripper as it is. The latter must not share connections between targets, not even if
	// they have one URL.
	TransportDials bool

	// BackendTLS configures TLS towards https targets. Nil means TLS 1.2 or newer and the system's
	// roots. A target's own ServerName and Certificate have priority. Without any ServerName it is
	// the target's host. The proxy sets NextProtos itself. Validate refuses BackendTLS together
	// with a Transport, which has a configuration of its own.
	BackendTLS *tls.Config

	// Rewrite may change the outgoing request. It is called once for each request, after the policy
	// and the proxy have changed it, and before a target is chosen. Rewrite may replace the
	// request, its URL and its header map by ones that are used elsewhere, too: the proxy copies
	// them before it changes anything.
	//
	// pr.Out.Trailer has the names that the client announces and that may pass. Rewrite may delete
	// names, and add fields with values. These are sent after the body, if there is one.
	Rewrite func(*httputil.ProxyRequest)

	// Target may change the request of one attempt. It is called for each attempt, after the
	// request's URL is joined to the member's. The Host header is the client's by default. Set
	// out.Host to m.URL().Host if a target needs its own name. The values that Target sets may be
	// used elsewhere, too, as with Rewrite.
	Target func(out *http.Request, m *balancer.Member)

	// Key returns the key of a request, such as the tenant that it belongs to. Hash pickers choose
	// by the key, and MaxPerKey counts by it. Nil, or an empty key, means the client's address. Key
	// is called once for each request, and may look at the body with [PeekBody]. The proxy logs no
	// key, and gives it only to pickers.
	Key func(r *http.Request) string

	// MaxPerKey is how many requests of one key may be in flight. So one client, or one tenant,
	// cannot take all places. An upgrade counts until the switch. After it,
	// [TunnelLimits].MaxPerKey counts the tunnel. A request above the limit is refused before it
	// has a lease or waits in a queue, with Retry-After and the class [ClassKeyLimit]. Zero or a
	// negative value means no limit.
	//
	// Without a key, a client is its IPv4 address, or the /64 network of its IPv6 address, see
	// [balancer.ClientNetwork]. The address is that of [Proxy.ClientAddr]. All clients whose
	// address is unknown are one client, such as those on a Unix socket without TrustUnix. A key
	// that clients can choose freely limits nobody. So Key should return only what was
	// authenticated, and an empty key otherwise.
	MaxPerKey int

	// PerKeyStatus is the status of requests that MaxPerKey or TunnelLimits.MaxPerKey refuses. It
	// is 503 or 429 (RFC 6585 section 4). Zero means 503. Validate refuses any other value.
	PerKeyStatus int

	// OnMiss decides what happens when the target that a request is bound to cannot serve it. id is
	// that target's ID. why is one of balancer's errors, or an *[Error] if an attempt there has
	// just failed. Nil means [Detour] when the target is full and [Rebind] otherwise. OnMiss is
	// called at most once for each request. It is not called when the target serves but does not
	// keep the session, see [balancer.Member.SetShare]. That is always a [Rebind].
	OnMiss func(r *http.Request, id string, why error) Miss

	// Trusted has the addresses of the peers whose forwarding headers are believed. An empty list
	// means that no peer is believed. From a trusted peer, X-Forwarded-For has the client's
	// address, and X-Forwarded-Proto says whether the client's connection is TLS. The other
	// forwarding headers are only passed on. [Proxy.ClientAddr] returns the resulting address. An
	// IPv4 address is also matched in IPv6 notation, and the other way round, see
	// [proxyproto.Contains].
	Trusted []netip.Prefix

	// TrustUnix says that the forwarding headers of peers on Unix sockets are believed, too, such
	// as those of an nginx in front. These peers have no address that could be in Trusted or be
	// added to X-Forwarded-For. Everybody who may connect to the socket is believed.
	TrustUnix bool

	// Forwarded says what happens to the forwarding headers of a trusted peer. The zero value is
	// [ForwardedAppend].
	Forwarded ForwardedMode

	// RFC7239 also reads the Forwarded header, and writes it with [ForwardedAppend]. If a trusted
	// peer also sends X-Forwarded-For, and the two lead to different clients, neither is believed,
	// and the client is the peer. So set it only if the trusted peers write Forwarded, or drop the
	// one that their clients send.
	RFC7239 bool

	// SendProxy is the version, 1 or 2, of the PROXY header that each connection to a target begins
	// with. Zero sends none. The header has the client's address as ClientAddr returns it, and the
	// port 0 if the port is not known. Version 2 also has what is known of the client's TLS, its
	// server name and protocol, a checksum, and the unique ID of the PROXY header on the client's
	// own connection. With a long server name the header exceeds the 107 bytes that nginx 1.22
	// accepts.
	//
	// A header is about one client. So a connection then carries only one request or one upgrade,
	// over HTTP/1.1 unless the target's scheme is h2c. Every target has to expect the header, also
	// on connections of health checks, for which the DialContext of a [proxyproto.Dialer] sends it.
	// Transport has to be nil, or an *http.Transport without Proxy and DialTLSContext. Validate
	// refuses anything else.
	SendProxy int

	// ProxyHeader may change the header that SendProxy writes, for example to set its UniqueID. It
	// is called once for each request, and must not change r. A header that cannot be written fails
	// the request with [ClassRequest].
	ProxyHeader func(h *proxyproto.Header, r *http.Request)

	// Upgrades has the protocols that may be switched to. Their case does not matter. Nil means
	// only "websocket". An empty slice that is not nil means none. A request that names another
	// protocol, or several, goes on as a plain one.
	Upgrades []string

	// Retry says which failed attempts are made again. The zero value tries up to three other
	// targets if no connection was made.
	Retry Retry

	// ReadAhead is how many bytes of a request's body are read before the proxy calls Key, the
	// policy and the pool. A body that fits holds no place at a target or in a queue while it comes
	// slowly. The bytes that were read ahead can be sent again, whatever Retry.Buffer is, and
	// [PeekBody] returns them to the functions of the proxy. Zero or a negative value reads nothing
	// ahead. See the package documentation about reading ahead.
	ReadAhead int

	// Tunnels limits upgraded connections. The zero value means the defaults that are named there.
	Tunnels TunnelLimits

	// ErrorPage answers a request that failed, with the status e.Status. If that is 503 or 429, the
	// header Retry-After is set before. Nil means a page with the status and its text. A policy
	// never sets a cookie on an error page.
	ErrorPage func(w http.ResponseWriter, r *http.Request, e *Error)

	// Trace has functions that are called for decisions and completions. Nil means none.
	Trace *Trace

	// Logger gets failed requests (Warn), what clients did wrong or broke off (Debug), and panics
	// of bodies and hooks with their stacks (Error). Two kinds of records come only once: each
	// notice of the policy, see [stickiness.Notices], and a warning that none of the first thousand
	// bindings came back. Nil means slog.Default().
	Logger *slog.Logger

	mu       sync.Mutex // held by prepare
	prepared atomic.Bool
	rt       runtime
	inflight atomic.Int64
	retries  atomic.Int64 // requests that Retry.Budget counts
	tunnels  atomic.Int64 // upgraded connections, and upgrades that wait for their target
}

// A Miss says what happens to a request that its bound target cannot serve.
type Miss uint8

const (
	// Rebind serves the request elsewhere and binds the session there.
	Rebind Miss = iota
	// Detour serves the request elsewhere. The session stays bound as it is.
	Detour
	// Fail answers 503 with Retry-After.
	Fail
)

// runtime is the state that a Proxy derives from its fields at the first request.
type runtime struct {
	core
	transports *transports
	buffers    bufferPool
	walks      sync.Pool // of *walk
	quiet      *log.Logger
	pins       pins
	timers     sync.Pool // of *waitTimer

	warnedOfCookies atomic.Bool
	aheadPause      time.Duration // see readAheadPause
	uploadLimit     time.Duration // the time in which a target must take something of a body; zero means no limit

	stopObserving func()
	closed        atomic.Bool // by Shutdown or Close
}

// settings returns what the proxy has in common with a Sticky.
func (p *Proxy) settings() *settings {
	return &settings{
		of: "Proxy", pool: p.Pool, policy: p.Policy, onMiss: p.OnMiss, perKeyStatus: p.PerKeyStatus, trust: p.trust(),
		upgrades: p.Upgrades, tunnels: &p.Tunnels, page: p.ErrorPage, trace: p.Trace, logger: p.Logger,
	}
}

// setup returns the runtime, which it makes at the first call. It panics if Validate returns an
// error.
func (p *Proxy) setup() *runtime {
	if !p.prepared.Load() {
		p.prepare()
	}
	return &p.rt
}

// prepare makes the runtime, unless another goroutine has.
func (p *Proxy) prepare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.prepared.Load() {
		return
	}
	if err := p.Validate(); err != nil {
		panic(err.Error())
	}
	p.start()
	p.prepared.Store(true)
}

// start makes the runtime from valid fields.
func (p *Proxy) start() {
	if p.SendProxy != 0 {
		p.rt.transports = newGreeting(p)
	} else {
		p.rt.transports = newTransports(p)
	}
	p.rt.aheadPause = readAheadPause
	if p.Transport == nil {
		p.rt.uploadLimit = uploadTimeout
	}
	p.rt.core.init(p.settings())
	p.rt.quiet = log.New(io.Discard, "", 0)
	p.rt.stopObserving = p.Pool.Observe(observer{&p.rt.busy, &p.rt.pins, p.rt.transports})
}

// ServeHTTP implements [http.Handler]. It panics with [http.ErrAbortHandler] when the response
// breaks off after its header was written, as [httputil.ReverseProxy] does, so that the client does
// not take the response for complete. Outside of a server it does not panic, and only the [Record]
// tells of the break.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	growStack(false)
	if b := p.serve(w, r); b != nil {
		b.serve()
	}
}

// serve is ServeHTTP, but returns the bridge of a tunnel over HTTP/2 before it is served, if there
// is one.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) (b *bridge) {
	k := p.newWalk(p.setup())
	k.peer = p.trust().peerOf(r)
	k.in = k.peer.believe(r)
	if k.rt.trace.Done != nil || k.rt.trace.Switch != nil || k.rt.trace.Tunnel != nil {
		k.start = time.Now()
	}
	k.w.init(w, r, &k.upload)
	k.upload.init(r, &k.w, &k.rt.buffers)
	k.w.informer = k.rt.informer
	k.plan()
	p.inflight.Add(1)
	defer k.finish()
	k.serve()
	if k.stage == serving {
		k.stage = returned
	}
	b, k.upgrade.bridge = k.upgrade.bridge, nil
	return b
}

// A bufferPool has buffers for copying bodies.
type bufferPool struct{ sync.Pool }

const copyBufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[copyBufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, copyBufferSize)
}

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { p.Pool.Put((*[copyBufferSize]byte)(b)) }
