package wsproxy

import (
	"maps"
	"net/http"
	"net/http/httputil"
	"strings"
)

// outbound is the part of a walk that is about the request in ReverseProxy, which turns the
// admitted request into the outgoing one.
type outbound struct {
	admitted *http.Request // the real request, while ReverseProxy sees a copy without headers; else nil
	shown    http.Request  // the copy that ReverseProxy sees
	replaced bool          // Rewrite has replaced the request's body
}

// presentRequest returns the admitted request as ReverseProxy is to see it. ReverseProxy would
// clone its header. If the request has no header for ReverseProxy, the walk copies the header into
// memory that it keeps for the next request. It does so only if nobody keeps the copy: not with a
// transport of the caller's, and not with Rewrite.
func (k *walk) presentRequest(r *http.Request) *http.Request {
	headless := k.rt.transports.own != nil && k.p.Rewrite == nil && hasPlainConnection(r.Header)
	if !headless && k.upload.body == nil {
		return r
	}
	o := &k.outbound
	o.shown = *r
	if headless {
		k.header.copyFrom(r.Header)
		o.admitted, o.shown.Header = r, nil
	}
	if k.upload.body != nil {
		o.shown.Body = &k.upload
	}
	return &o.shown
}

// prepareRequest is ReverseProxy's Rewrite. It makes the outgoing request, which is the same for
// all targets.
func (k *walk) prepareRequest(pr *httputil.ProxyRequest) {
	if k.outbound.admitted != nil {
		pr.In, pr.Out.Header = k.outbound.admitted, k.header.lines
	}
	// ReverseProxy has dropped the parameters that it cannot parse. The query passes as it was
	// sent, except for a space, which HTTP/2 allows and which ends the URL in HTTP/1.1.
	pr.Out.URL.RawQuery = strings.ReplaceAll(pr.In.URL.RawQuery, " ", "%20")
	if len(pr.In.Header["Connection"]) > 0 {
		restoreProtected(pr)
	}
	if len(pr.Out.Trailer) > 0 {
		maps.DeleteFunc(pr.Out.Trailer, func(name string, _ []string) bool { return !mayTrail(name, pr.In.Header["Connection"]) })
	}
	if k.upgrade.asked() {
		pr.Out.Header["Connection"], pr.Out.Header["Upgrade"] = []string{"Upgrade"}, []string{k.upgrade.protocol}
	}
	k.choice.forward(pr.Out) // before Proxy.forward makes the header's map a large one
	k.warnOfCookies(pr.Out.Header["Cookie"])
	k.p.forward(pr, &k.peer, k.headerMemory())
	if k.p.Rewrite != nil {
		k.callRewrite(pr)
	}
	if k.p.SendProxy != 0 {
		k.p.greet(pr, &k.peer)
	}
}

// headerMemory returns the memory for what is added to the outgoing header. It is kept for the next
// request only if the header itself is.
func (k *walk) headerMemory() *fields {
	if k.outbound.admitted != nil {
		return &k.header
	}
	return &fields{}
}

// callRewrite calls Proxy.Rewrite. Rewrite may have replaced the request, its URL and its header by
// ones that the caller uses elsewhere at the same time. So callRewrite copies those that are
// changed later. The header is changed only if it has no User-Agent: ReverseProxy adds one then.
func (k *walk) callRewrite(pr *httputil.ProxyRequest) {
	out, u, body := pr.Out, pr.Out.URL, pr.Out.Body
	k.p.Rewrite(pr)
	k.outbound.replaced = pr.Out.Body != body
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
