package wsproxy

import (
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A Proxy passes requests on to the targets of a pool. Set its fields, then serve; they must not be
// changed after the first request. Pool is required, everything else has a default. A Proxy must
// not be copied.
//
// [Proxy.Validate] checks the fields before the first request. Where it returns an error,
// ServeHTTP, Shutdown and Close panic with that error's text. From the first request on, the pool's
// Update refuses tcp targets.
type Proxy struct {
	// Pool has the targets. Required: ServeHTTP panics without one. Several proxies may share a
	// pool.
	Pool *balancer.Pool

	// Policy binds sessions to targets. Nil means no stickiness: the pool's picker has every
	// request.
	Policy stickiness.Policy

	// Transport carries the requests. Nil means one with this package's defaults. Upgrades run over
	// a copy of an *http.Transport that does not offer HTTP/2 (a DialTLSContext of the caller's
	// must not either), and requests to h2c targets over a copy that speaks nothing else. Any other
	// RoundTripper is used as it is, with the scheme http for those targets: it must give a 101 a
	// Body that is an io.ReadWriteCloser and outlives the request's context.
	Transport http.RoundTripper

	// Upstream bounds the connections that the proxy makes itself. The zero value has its own
	// defaults. It needs a nil Transport: any other has limits of its own, and Validate refuses the
	// two together.
	Upstream Upstream

	// TransportDials says that Transport itself reaches targets by their Addr, ServerName and
	// Certificate, which it finds with [MemberOf]. Validate refuses it without a Transport.
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

	// BackendTLS configures TLS towards https targets. It needs a nil Transport: any other has a
	// configuration of its own, and Validate refuses the two together. Nil means TLS 1.2 or newer
	// and the system's roots. ServerName defaults to the target's host; a target's own ServerName
	// and Certificate come first. The proxy sets NextProtos itself.
	BackendTLS *tls.Config

	// Rewrite may change the outgoing request, after the proxy and the policy have. The target is
	// not known yet. It is called once for each request, not for each attempt. A URL, a header map
	// or a request that it puts in the place of what it was given may be shared: the proxy copies
	// it before it changes anything.
	//
	// pr.Out.Trailer has the names that the client announces and that may pass. Rewrite may delete
	// some, and add fields with values of its own: those are sent after a body, if there is one.
	Rewrite func(*httputil.ProxyRequest)

	// Target may change the request of one attempt, after its URL is joined to the member's. The
	// client's Host header is kept by default; set out.Host to m.URL().Host where a backend needs
	// its own name. What it puts in may be shared, as with Rewrite.
	Target func(out *http.Request, m *balancer.Member)

	// Key returns the key of a request, such as the tenant that it belongs to. Hash pickers choose
	// by it, and MaxPerKey counts by it. Nil, or an empty key, means the client's address. It is
	// called once for each request, and may look at the body with [PeekBody]. The proxy logs no
	// key, and gives it only to pickers.
	Key func(r *http.Request) string

	// MaxPerKey is how many requests of one key may be in flight: one client, or one tenant, cannot
	// take all places. An upgrade is such a request until the switch, and a tunnel after it; see
	// [TunnelLimits]. A request for one more is refused, with Retry-After and the class
	// [ClassKeyLimit], before it has a lease or waits in a queue. Zero or a negative value means no
	// bound.
	//
	// Where Key is nil or gives an empty key, a client is an IPv4 address or the /64 network of an
	// IPv6 one, after trust, as balancer.ClientNetwork has it, and all clients whose address is
	// unknown are one: those on a Unix socket without TrustUnix, for example. A key that a client
	// may choose as it likes bounds nobody: let Key give only what was authenticated, and an empty
	// key otherwise.
	MaxPerKey int

	// PerKeyStatus is the status of requests that MaxPerKey or TunnelLimits.MaxPerKey refuses: 503
	// or 429 (RFC 6585 section 4). Zero means 503. Validate refuses any other value.
	PerKeyStatus int

	// OnMiss decides when the target that a request is bound to, id, cannot serve. why is one of
	// balancer's errors, or an *[Error] when an attempt there has just failed. Nil means [Detour]
	// when the target is full and [Rebind] otherwise. It is asked at most once for each request. It
	// is not asked when the target serves but does not keep the session, see
	// balancer.Member.SetShare: that is always a [Rebind].
	OnMiss func(r *http.Request, id string, why error) Miss

	// Trusted are the peers whose forwarding headers are believed. None means nobody. The client's
	// address is read from X-Forwarded-For, and whether its connection is TLS from
	// X-Forwarded-Proto; what else they send is passed on. [Proxy.ClientAddr] tells what comes out.
	// IPv4 is the same in both notations; see proxyproto.Contains.
	Trusted []netip.Prefix

	// TrustUnix believes the forwarding headers of peers on Unix sockets too, such as an nginx in
	// front: they have no address that could be in Trusted, and none is added to X-Forwarded-For.
	// Whoever may connect to the socket is believed.
	TrustUnix bool

	// Forwarded says what becomes of the forwarding headers of a trusted peer. The zero value
	// appends to them.
	Forwarded ForwardedMode

	// RFC7239 has the Forwarded header read as well, and written when Forwarded is
	// [ForwardedAppend]. Where a trusted peer sends X-Forwarded-For too and the two lead to
	// different clients, neither is believed, and the client is the peer: turn it on only if the
	// peers write Forwarded, or drop what their clients send.
	RFC7239 bool

	// SendProxy begins each connection to a target with a PROXY header of this version, 1 or 2,
	// that tells the client's address as ClientAddr has it, with the port 0 where nobody knows it.
	// Version 2 also has what is known of the client's TLS, its server name and protocol, a
	// checksum, and the unique ID of a PROXY header that the client's connection had itself: with a
	// long server name that is more than the 107 bytes which nginx 1.22 takes. Zero sends none.
	//
	// A header belongs to one client: a connection then carries one request or one upgrade, over
	// HTTP/1.1 unless the target's scheme is h2c, and is kept for no other. Every target has to
	// expect the header, and from health checks too: the DialContext of a proxyproto.Dialer sends
	// it. Transport has to be nil, or an *http.Transport without Proxy and DialTLSContext;
	// ServeHTTP panics otherwise.
	SendProxy int

	// ProxyHeader may change the header that SendProxy writes, to set its UniqueID for example. It
	// is called once for each request; r is to be read only. A header that cannot be written fails
	// the request with [ClassRequest].
	ProxyHeader func(h *proxyproto.Header, r *http.Request)

	// Upgrades are the protocols that may be switched to, letter case aside. Nil means "websocket"
	// alone; an empty slice that is not nil means none. A request that names any other, or several,
	// goes on as a plain one.
	Upgrades []string

	// Retry says what happens after a failed attempt. The zero value tries up to three other
	// targets if the connection was never made.
	Retry Retry

	// ReadAhead is how many bytes of a request's body are read before the proxy asks Key, the
	// policy and the pool: a body that fits holds no place at a target, and none in a queue, while
	// it comes slowly. What was read ahead is kept and can be sent again, whatever Retry.Buffer is,
	// and [PeekBody] shows it to the functions of the proxy. Zero or a negative value reads nothing
	// ahead. See the package documentation about reading ahead.
	ReadAhead int

	// Tunnels limits upgraded connections. The zero value has its own defaults.
	Tunnels TunnelLimits

	// ErrorPage answers a request that failed: e.Status is meant for the client, Retry-After is set
	// where it is 503 or 429. Nil means the status and its text. No policy's cookie is on it.
	ErrorPage func(w http.ResponseWriter, r *http.Request, e *Error)

	// Trace is told of decisions and ends. Nil means nobody.
	Trace *Trace

	// Logger gets failed requests (Warn), clients' own aborts (Debug) and, once each, what the
	// policy has noticed (stickiness.Notices) and that of a thousand bindings none ever came back.
	// Nil means slog.Default().
	Logger *slog.Logger

	mu       sync.Mutex // held to prepare
	prepared atomic.Bool
	rt       runtime
	inflight atomic.Int64
	retries  atomic.Int64 // requests in flight that are past their first attempt
	tunnels  atomic.Int64 // upgraded connections, those that wait for their target included
}

// A Miss says what happens to a request whose bound target cannot serve it.
type Miss uint8

const (
	// Rebind serves the request elsewhere and binds the session there.
	Rebind Miss = iota
	// Detour serves the request elsewhere and leaves the session bound as it is.
	Detour
	// Fail answers 503 with Retry-After.
	Fail
)

// runtime is what a Proxy makes of its fields at the first request.
type runtime struct {
	transports *transports
	chooser    chooser
	informer   stickiness.Informer // the policy; nil when it is none
	upgrades   []string            // lower case
	trace      Trace
	log        *slog.Logger
	buffers    bufferPool
	walks      sync.Pool // of *walk
	quiet      *log.Logger
	busy       underway.Set
	pins       pins
	timers     sync.Pool // of *waitTimer

	requests underway.Shares // in flight, by key; not after a switch
	switched underway.Shares // upgraded connections, those that wait for their target included, by key

	warnedOfCookies atomic.Bool
	aheadPause      time.Duration // of a client whose body is read ahead, where that is limited
	uploadLimit     time.Duration // for a target to take something of a body; zero: none

	stopObserving func()
	closed        atomic.Bool // by Shutdown or Close
}

// setup prepares the proxy before its first request. It panics where Validate returns an error.
func (p *Proxy) setup() *runtime {
	if !p.prepared.Load() {
		p.prepare()
	}
	return &p.rt
}

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

// start makes the runtime of fields that are valid.
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
	p.rt.informer, _ = p.Policy.(stickiness.Informer)
	p.rt.upgrades = []string{"websocket"}
	if p.Upgrades != nil {
		p.rt.upgrades = nil
		for _, token := range p.Upgrades {
			p.rt.upgrades = append(p.rt.upgrades, strings.ToLower(token))
		}
	}
	if p.Trace != nil {
		p.rt.trace = *p.Trace
	}
	if p.rt.log = p.Logger; p.rt.log == nil {
		p.rt.log = slog.Default()
	}
	if name := p.Pool.Name(); name != "" {
		p.rt.log = p.rt.log.With("pool", name)
	}
	p.rt.chooser = chooser{pool: p.Pool, policy: p.Policy, onMiss: p.OnMiss, trace: &p.rt.trace}
	p.rt.chooser.editor, _ = p.Policy.(stickiness.Forwarder)
	p.rt.chooser.notices.log = p.rt.log
	p.rt.quiet = log.New(io.Discard, "", 0)
	farewell := p.Tunnels.farewell(tunnel.Moved, serviceRestart)
	p.rt.busy.Farewell, p.rt.busy.Rebalance = &farewell, p.Tunnels.Rebalance
	p.rt.stopObserving = p.Pool.Observe(observer{&p.rt.busy, &p.rt.pins, p.rt.transports})
}

// ServeHTTP implements http.Handler. Like httputil.ReverseProxy it panics with http.ErrAbortHandler
// when the response breaks off after its header was written, so that the client does not take it
// for complete; outside net/http's server it only tells so in its [Record].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k := p.newWalk(p.setup())
	k.peer = p.peerOf(r)
	k.in = k.peer.believe(r)
	if k.rt.trace.Done != nil || k.rt.trace.Switch != nil || k.rt.trace.Tunnel != nil {
		k.start = time.Now()
	}
	k.w.init(w, r, &k.upload)
	k.upload.init(k.in, &k.w, &k.rt.buffers)
	k.w.informer = k.rt.informer
	k.plan()
	p.inflight.Add(1)
	defer k.finish()
	k.serve()
	if k.stage == serving {
		k.stage = returned
	}
}

// bufferPool lends ReverseProxy its copy buffers.
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
