package wsproxy

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A walk is one request on its way through a Proxy, in the order of the methods below and in
// attempt.go. ReverseProxy calls rewrite, then RoundTrip, then modifyResponse, and fail when one of
// them went wrong.
type walk struct {
	frame
	request
}

// A request is what of a walk begins with it, and ends.
type request struct {
	in    *http.Request // inbound, never edited
	w     responseWriter
	start time.Time // only if there is a trace to tell
	peer  peer

	admitted *http.Request // in place of which ReverseProxy is shown one without a header; nil when it is not
	shown    http.Request
	direct   bool        // the last attempt went over our own round tripper
	answered http.Header // that of the response, while ReverseProxy is not shown it
	named    []string    // by the response in Connection; nil when it was plain
	required []string    // in Upgrade, by a 426

	upgrade string // protocol to switch to, lower case; empty for a plain request
	key     string // Sec-WebSocket-Key of an extended CONNECT; empty for any other request
	relayed bool   // the peer is not trusted and tells of clients behind it
	pin     *pin   // the client's connection to the target; nil when it has none, or needs none
	seen    []stickiness.Candidate
	seenBuf [4]stickiness.Candidate
	missed  bool // OnMiss has decided
	miss    Miss

	query balancer.Request
	grant
	upload      requestBody
	peek        *peek        // nil when nothing of it is read ahead
	replaced    bool         // Rewrite has put another body in its place
	body        source       // what attempts read of it
	reader      *attemptBody // of body, for the next attempt; nil when there is none
	attempts    int
	retrying    bool          // counted in the budget
	declined    int           // status of the target's answer that an extended CONNECT may not get
	repeated    int           // attempts that were made again although the target may have seen them
	unconnected int           // attempts that were made again because there was no connection
	late        int           // of these, because it was not made in time
	dialing     time.Duration // that these took to dial
	sent        time.Time     // when the last attempt began
	latency     time.Duration
	target      string        // ID, of the last attempt
	h2c         bool          // the target's scheme
	spanned     Attempt       // the last one, as Trace.Attempt is told of it
	spanEnd     func(Attempt) // of Trace.Span, for the last attempt; nil when it is not to be called
	binding     stickiness.Binding

	pristine      url.URL   // of the request, without a target
	under         *exchange // the last attempt
	first         exchange  // the first one
	response      responseBody
	failure       *Error // that ended the walk
	switched      bool
	tunnelContext context.Context // ends the tunnel; nil when there is none
	placed        bool            // counted among the proxy's tunnels, until a tunnel takes that over
	requests      *underway.Share // of its key; nil when it is not counted there
	tunnels       *underway.Share // likewise
	left          bool            // counted and told as done
	held          bool            // Shutdown waits for release
	returned      bool            // ServeHTTP was not left by a panic
}

// A frame is what stays of a walk when it is used for another request.
type frame struct {
	p     *Proxy
	rt    *runtime
	proxy httputil.ReverseProxy

	header  fields // of the outgoing request, when there is admitted
	scratch upstream.Scratch
}

// newWalk takes a walk that is over, or makes one.
func (p *Proxy) newWalk(rt *runtime) *walk {
	if k, ok := rt.walks.Get().(*walk); ok {
		return k
	}
	k := &walk{frame: frame{p: p, rt: rt}}
	k.proxy = httputil.ReverseProxy{
		Rewrite:        k.rewrite,
		Transport:      k,
		ModifyResponse: k.modifyResponse,
		ErrorHandler:   k.fail,
		BufferPool:     &rt.buffers,
		ErrorLog:       rt.quiet,
	}
	return k
}

// recycle lets another request have the walk, if nobody can still know it: not a caller's
// RoundTripper, not a transport that sends a body, not a tunnel, and not who cuts what keeps its
// client waiting.
func (k *walk) recycle() {
	plain := k.attempts == 1 && k.upload.body == nil && k.body.body == nil && !k.first.noted && !k.switched
	if plain && k.returned && k.failure == nil && k.rt.transports.known {
		if k.direct {
			k.header = k.header.reuse()
			k.scratch.Reset()
		} else {
			k.header = fields{} // http.Transport may still look at them
		}
		k.request = request{}
		k.rt.walks.Put(k)
	}
}

// serve refuses what cannot be proxied, asks the policy, and hands over to ReverseProxy.
func (k *walk) serve() {
	r, failure := k.admit()
	if failure == nil {
		failure = k.enter()
	}
	if failure != nil {
		k.answer(k.in, failure)
		return
	}
	if k.upgrade != "" {
		k.tellUpgrade(k.upgrade)
	}
	if k.p.Policy != nil {
		k.seen = k.p.Policy.Lookup(k.in, k.seenBuf[:0])
		k.rt.notices.found(k.seen)
		if k.rt.trace.Lookup != nil {
			k.rt.trace.Lookup(k.in, k.seen)
		}
	}
	k.proxy.ServeHTTP(&k.w, k.show(r))
	k.w.repanic() // of a last Flush, after which nothing was read or written
}

// show returns the admitted request as ReverseProxy is to see it.
func (k *walk) show(r *http.Request) *http.Request {
	// Only where it pays: an http.Transport may look at the fields for too long, and Rewrite may
	// keep them.
	headless := k.rt.transports.own != nil && k.p.Rewrite == nil && isPlain(r.Header)
	if !headless && k.upload.body == nil {
		return r
	}
	k.shown = *r
	if headless {
		k.header.copyFrom(r.Header)
		k.admitted, k.shown.Header = r, nil
	}
	if k.upload.body != nil {
		k.shown.Body = &k.upload
	}
	return &k.shown
}

// rewrite makes the outgoing request, whoever the target will be.
func (k *walk) rewrite(pr *httputil.ProxyRequest) {
	if k.admitted != nil {
		pr.In, pr.Out.Header = k.admitted, k.header.lines
	}
	// As sent: ReverseProxy drops what it cannot parse. But in HTTP/1.1 a space, which HTTP/2
	// allows, ends the URL.
	pr.Out.URL.RawQuery = strings.ReplaceAll(pr.In.URL.RawQuery, " ", "%20")
	if len(pr.In.Header["Connection"]) > 0 {
		restoreProtected(pr)
	}
	if len(pr.Out.Trailer) > 0 {
		maps.DeleteFunc(pr.Out.Trailer, func(name string, _ []string) bool { return !mayTrail(name, pr.In.Header["Connection"]) })
	}
	if k.upgrade != "" {
		pr.Out.Header["Connection"], pr.Out.Header["Upgrade"] = []string{"Upgrade"}, []string{k.upgrade}
	}
	if k.rt.forwarder != nil { // before forward makes the header's map a large one
		k.rt.forwarder.Forward(pr.Out, k.seen)
	}
	k.warnOfCookies(pr.Out.Header["Cookie"])
	k.p.forward(pr, &k.peer)
	if k.p.Rewrite != nil {
		k.callRewrite(pr)
	}
	if k.p.SendProxy != 0 {
		k.p.greet(pr, &k.peer)
	}
}

// callRewrite calls Rewrite, and then copies what the caller has put in: others may use it at the
// same time, and it is changed later. Only ReverseProxy changes the header, by adding a User-Agent
// to one that has none.
func (k *walk) callRewrite(pr *httputil.ProxyRequest) {
	out, u, body := pr.Out, pr.Out.URL, pr.Out.Body
	k.p.Rewrite(pr)
	k.replaced = pr.Out.Body != body
	if pr.Out != out {
		c := *pr.Out
		pr.Out = &c
	}
	pr.Out.URL = copyIfReplaced(pr.Out.URL, u)
	if _, ok := pr.Out.Header["User-Agent"]; !ok {
		if pr.Out.Header = maps.Clone(pr.Out.Header); pr.Out.Header == nil {
			pr.Out.Header = make(http.Header)
		}
	}
}

// RoundTrip implements http.RoundTripper for ReverseProxy: one attempt after the other, until one
// is the answer.
func (k *walk) RoundTrip(out *http.Request) (*http.Response, error) {
	if out.Body != nil {
		k.body.body, k.body.limit, k.body.inbound, k.body.upload = out.Body, k.p.Retry.Buffer, k.in, &k.upload
		if k.peek != nil {
			k.body.limit = max(k.body.limit, k.p.ReadAhead)
			if !k.replaced { // else it has to go through what stands in its place
				k.body.kept = k.upload.handOverAhead()
			}
		}
		reader, _ := k.body.open() // nobody reads yet
		k.send(reader)
	}
	defer k.giveRetryBack()
	k.pin = k.heldPin()
	first, failure := k.acquire(out.Context(), nil)
	k.grant = first
	k.tellPick(first, failure)
	if failure != nil {
		return nil, failure
	}
	for {
		res, failure := k.attempt(out)
		k.tellAttempt(res, failure)
		if failure == nil && !k.p.Retry.on(res.StatusCode) {
			return k.win(res), nil
		}
		if !k.again(out, res, failure) {
			if failure != nil {
				return nil, failure
			}
			return k.win(res), nil
		}
	}
}

// send has the next attempt read that body.
func (k *walk) send(b *attemptBody) { k.reader, k.upload.sender = b, b }

// A grant is the permission to ask a member.
type grant struct {
	lease balancer.Lease
	from  *stickiness.Candidate // see stickiness.Binding
}

// acquire takes a lease: on the member of the client's pinned connection, else on the bound one if
// it may serve, else on the picker's choice if OnMiss allows. failed is the attempt before, if
// there was one.
func (k *walk) acquire(ctx context.Context, failed *Error) (grant, *Error) {
	if failed == nil {
		if g, ok := k.acquirePinned(ctx); ok {
			return g, nil
		}
	}
	g, err := k.acquireBound(ctx, failed)
	if err == nil && g.lease.Member() == nil {
		g.lease, err = k.p.Pool.Acquire(ctx, &k.query)
	}
	switch {
	case err == nil:
		return g, nil
	case ctx.Err() != nil:
		class := classify(ctx, err)
		return grant{}, &Error{Class: class, Status: statusOf(class, err), Err: err}
	default:
		return grant{}, &Error{Class: ClassNoTarget, Status: http.StatusServiceUnavailable, Err: err}
	}
}

func (k *walk) tellPick(g grant, failure *Error) {
	switch {
	case k.rt.trace.Pick == nil:
	case failure != nil:
		k.rt.trace.Pick(k.in, nil, failure.Err)
	default:
		k.rt.trace.Pick(k.in, g.lease.Member(), nil)
	}
}

// acquireBound tries the usable candidates in their order. No lease and no error: the picker shall
// choose.
func (k *walk) acquireBound(ctx context.Context, failed *Error) (grant, error) {
	var g grant
	var why error
	for i := range k.seen {
		c := &k.seen[i]
		if c.Reason != stickiness.Usable {
			continue
		}
		k.query.Session, k.query.Issued = k.session(c), c.Issued
		lease, err := k.p.Pool.AcquireBound(ctx, c.Target, &k.query)
		switch {
		case err == nil:
			return grant{lease, c}, nil
		case ctx.Err() != nil:
			return grant{}, err
		case errors.Is(err, balancer.ErrShare) && g.from == nil: // not to an older binding's target
			k.missed, k.miss = true, Rebind
			return grant{from: c}, nil
		case errors.Is(err, balancer.ErrExcluded) && failed != nil:
			err = failed
		}
		if g.from == nil {
			g.from, why = c, err
		}
	}
	if g.from != nil && !k.missed {
		k.missed, k.miss = true, k.p.onMiss(k.in, g.from.Target, why)
	}
	if g.from != nil && k.miss == Fail {
		return grant{}, fmt.Errorf("bound to %q: %w", g.from.Target, why)
	}
	return g, nil
}

// session returns what [balancer.Request] calls Session: that of the binding, or where its policy
// knows none, the client's network.
func (k *walk) session(c *stickiness.Candidate) uint64 {
	if c.Session != 0 || !k.peer.client.IsValid() {
		return c.Session
	}
	b := balancer.ClientNetwork(k.peer.client.Addr()).As16()
	h := binary.BigEndian.Uint64(b[:8])*31 + binary.BigEndian.Uint64(b[8:])
	return max(h, 1)
}

func (p *Proxy) onMiss(r *http.Request, id string, why error) Miss {
	switch {
	case p.OnMiss != nil:
		return p.OnMiss(r, id, why)
	case errors.Is(why, balancer.ErrFull):
		return Detour
	default:
		return Rebind
	}
}

// win is called with the response of the attempt that is the answer. ReverseProxy is shown its
// header only where it has something to decide there, and when nobody else can know the map.
func (k *walk) win(res *http.Response) *http.Response {
	if k.reader != nil {
		k.body.win(k.reader)
		k.upload.refuse()
	}
	if res.StatusCode == http.StatusUpgradeRequired {
		k.required = res.Header["Upgrade"]
	}
	if k.direct && isPlain(res.Header) {
		removeHopByHop(res.Header)
		k.answered, res.Header = res.Header, nil
	} else {
		k.named = res.Header["Connection"]
	}
	return res
}

// modifyResponse sees the response of the attempt that won.
func (k *walk) modifyResponse(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return k.switchProtocols(res)
	}
	k.leaveTunnels() // if the target has declined to switch, what follows is a plain response
	if err := k.checkOpening(res); err != nil {
		return err
	}
	h := res.Header
	if k.answered != nil {
		h = k.answered
	}
	k.bind(h, res.StatusCode)
	if k.required != nil && k.in.ProtoMajor == 1 && k.in.ProtoMinor > 0 { // RFC 9110 section 15.5.22
		h["Upgrade"], h["Connection"] = k.required, append(h["Connection"], "Upgrade")
	}
	suppressSniffing(k.w.Header(), h)
	if k.filterTrailer(res.Trailer); len(res.Trailer) > 0 && k.in.ProtoMajor == 1 && k.in.ProtoMinor > 0 && res.Body != http.NoBody {
		delete(h, "Content-Length") // leaves no room for trailers in HTTP/1.1
		res.ContentLength = -1
	}
	if k.answered != nil {
		move(h, k.w.Header())
	}
	k.w.whole = res.Body == http.NoBody || 0 <= res.ContentLength && res.ContentLength <= maxAtHand
	if res.Body != http.NoBody {
		k.response.init(res, k)
		res.Body = &k.response
	}
	return nil
}

// suppressSniffing keeps the server from guessing the Content-Type of a response that has none.
func suppressSniffing(out, target http.Header) {
	if _, told := out["Content-Type"]; !told && len(target["Content-Type"]) == 0 {
		out["Content-Type"] = nil
	}
}

// filterTrailer removes the fields of a response's trailer section that may not pass.
func (k *walk) filterTrailer(trailer http.Header) {
	if len(trailer) > 0 {
		maps.DeleteFunc(trailer, func(name string, _ []string) bool { return !mayTrail(name, k.named) })
	}
}

// bind lets the policy see the response's header, and write to it.
func (k *walk) bind(h http.Header, status int) {
	if k.p.Policy == nil {
		return
	}
	k.binding = stickiness.Binding{
		Request: k.in,
		Header:  h,
		Target:  k.target,
		TLS:     k.peer.tls,
		Status:  status,
		From:    k.from,
		Seen:    k.seen,
		Detour:  k.miss == Detour && k.from != nil && k.from.Target != k.target,
	}
	k.p.Policy.Bind(&k.binding)
	k.rt.notices.wrote(&k.binding)
	if k.rt.trace.Bind != nil {
		k.rt.trace.Bind(k.in, &k.binding)
	}
}

// fail is ReverseProxy's ErrorHandler.
func (k *walk) fail(_ http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, errSwitched) {
		return
	}
	failure, ok := errors.AsType[*Error](err)
	if !ok {
		failure = &Error{Class: ClassRequest, Status: http.StatusBadRequest, Err: err}
	}
	k.answer(k.in, failure)
}

// answer writes an error page, unless the connection has been taken over. Nothing was written
// before: ReverseProxy asks for an error only until it has a header to write.
func (k *walk) answer(r *http.Request, failure *Error) {
	k.failure = failure
	k.log("request failed", failure)
	if k.switched {
		return
	}
	k.w.restore()
	k.w.whole, k.upload.sender = true, nil // no target wants the request's body any more
	if failure.Status == http.StatusServiceUnavailable || failure.Status == http.StatusTooManyRequests {
		k.w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	page := k.p.ErrorPage
	if page == nil {
		page = plainErrorPage
	}
	page(&k.w, r, failure)
}

func (k *walk) log(message string, failure *Error) {
	level := slog.LevelWarn
	if failure.Class == ClassClientGone || failure.Class == ClassRequest {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.Any("error", failure),
		slog.String("method", k.in.Method), slog.String("host", k.in.Host), slog.String("path", k.in.URL.Path)}
	if p, ok := errors.AsType[*bodyPanic](failure.Err); ok {
		level, attrs = slog.LevelError, append(attrs, slog.String("stack", string(p.stack)))
	}
	k.rt.log.LogAttrs(k.in.Context(), level, message, attrs...)
}

// finish settles what is still held, however the walk ended.
func (k *walk) finish() {
	if k.left {
		return
	}
	if k.upload.body != nil || k.upload.closing {
		defer k.upload.finish(k.rt.busy.Closing) // whatever panics here; and nobody waits for it but the client
	}
	left := k.p.inflight.Add(-1)
	k.requests.Free()
	k.leaveTunnels()
	k.releasePin()
	if k.under != nil {
		k.under.end()
	}
	if k.body.body != nil {
		k.body.body.Close() // one that Rewrite has put there, too
	}
	if left == 0 && k.rt.closed.Load() {
		k.rt.transports.closeIdle()
	}
	brokeOff := k.failure == nil && (!k.returned || k.response.err != nil || k.w.err != nil)
	if brokeOff {
		k.failure = k.brokenOff()
	}
	k.lease.Release(k.outcome())
	if brokeOff {
		k.log("response broken off", k.failure)
	}
	defer k.tellDone() // whatever panics here
	k.endSpan(k.failure)
}

// leave settles a walk whose handler goes on for the tunnel alone: the rest of finish is for
// others.
func (k *walk) leave() {
	k.left = true
	k.p.inflight.Add(-1)
	k.under.end()
	defer k.tellDone() // whatever panics here
	k.endSpan(nil)
}

func (k *walk) tellDone() {
	if k.rt.trace.Done != nil {
		k.rt.trace.Done(k.in, k.record())
	}
	k.recycle()
}

// brokenOff tells whose fault it was that the response ended early.
func (k *walk) brokenOff() *Error {
	e := &Error{Target: k.target, Attempt: k.attempts, Status: k.w.status}
	switch {
	case k.response.err == errCut:
		e.Class, e.Err = ClassBody, errCut
	case k.in.Context().Err() != nil:
		e.Class, e.Err = ClassClientGone, context.Cause(k.in.Context())
	case k.upload.failure() != nil: // and the target waited for the rest
		e.Class, e.Err = classOfBody(k.upload.failure()), k.upload.failure()
	case k.response.err != nil:
		e.Class, e.Err = ClassBody, k.response.err
	case k.w.err != nil:
		e.Class, e.Err = ClassClientGone, k.w.err
	default:
		e.Class, e.Err = ClassRequest, errHook
	}
	if e.Err == errCut || e.Class == ClassBody && (k.response.heldUp >= heldUp || k.reader != nil && k.reader.waits()) {
		e.excuse = unrelated
	}
	// A target that refuses a request before it has all of it closes with the rest unread, which is
	// a reset.
	if refused, ok := errors.AsType[*upstream.Error](e.Err); ok && refused.Stage == upstream.StageWrite && e.Status >= 400 {
		e.excuse = answered
	}
	return e
}

// outcome is what the last attempt teaches about its member.
func (k *walk) outcome() balancer.Outcome {
	o := k.outcomeOf(k.failure)
	o.Status = cmp.Or(k.declined, k.w.status)
	return o
}

// outcomeOf is what an attempt that has ended so teaches; nil if it has not failed.
func (k *walk) outcomeOf(failure *Error) balancer.Outcome {
	o := balancer.Outcome{Latency: k.latency, Began: k.sent, Client: k.query.Client}
	if failure != nil {
		o.Class, o.Err = failure.outcome(k.upgrade != ""), failure
	}
	if o.Class == balancer.ClientGone || o.Class == balancer.Unjudged {
		o.Latency = 0
	}
	return o
}

func (k *walk) record() Record {
	rec := Record{
		Start:    k.start,
		Duration: time.Since(k.start),
		Method:   k.in.Method,
		Host:     k.in.Host,
		Path:     k.in.URL.Path,
		Client:   k.peer.client.Addr(),
		Target:   k.target,
		Attempts: k.attempts,
		Status:   k.w.status,
		Bytes:    k.w.bytes,
	}
	if k.switched {
		rec.Upgrade = k.upgrade
	}
	if k.failure != nil {
		rec.Err = k.failure
	}
	return rec
}
