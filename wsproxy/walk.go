package wsproxy

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

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

	choice      choice
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
	k.choice.lookup()
	k.proxy.ServeHTTP(&k.w, k.show(r))
	k.w.repanic() // of a last Flush, after which nothing was read or written
}
