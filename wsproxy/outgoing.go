package wsproxy

import (
	"maps"
	"net/http"
	"net/http/httputil"
	"strings"
)

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
	k.choice.forward(pr.Out) // before Proxy.forward makes the header's map a large one
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
