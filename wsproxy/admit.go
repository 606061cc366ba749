package wsproxy

import (
	"fmt"
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/balancer"
)

// admit decides what the request is: refused, a switch of protocols, or plain. A plain one that
// asked for a switch goes on without the headers that asked.
func (k *walk) admit() (*http.Request, *Error) {
	r := k.in
	if r.Method == http.MethodConnect {
		return k.admitConnect()
	}
	if err := checkRequest(r); err != nil {
		return refuse(http.StatusBadRequest, err)
	}
	if len(r.Header["Upgrade"]) == 0 && len(r.Header["Http2-Settings"]) == 0 {
		return r, nil
	}
	token := upgradeToken(r.Header)
	if !r.ProtoAtLeast(1, 1) || r.ProtoMajor != 1 || !slices.Contains(k.rt.upgrades, token) {
		k.tellUpgrade("")
		return withoutUpgrade(r), nil
	}
	switch {
	case r.ContentLength != 0:
		return refuse(http.StatusBadRequest, errUpgradeBody)
	case !inChain[http.Hijacker](k.w.ResponseWriter):
		return refuse(http.StatusNotImplemented, errNotHijackable)
	}
	return k.admitUpgrade(r, token, "")
}

func refuse(status int, err error) (*http.Request, *Error) {
	return nil, &Error{Class: ClassRequest, Status: status, Err: err}
}

// checkRequest says why a request cannot be sent on. http.Transport would refuse it as well, and
// the target would get the blame.
func checkRequest(r *http.Request) error {
	if !httpguts.ValidHeaderFieldName(r.Method) { // a token too
		return fmt.Errorf("method %q", r.Method)
	}
	if r.ProtoMajor == 2 && len(r.Header[protocolHeader]) > 0 { // RFC 8441 section 4
		return errProtocol
	}
	if r.URL.Opaque != "" || r.URL.Path == "*" && r.Method != http.MethodOptions {
		return fmt.Errorf("request target %q", r.RequestURI)
	}
	if _, err := httpguts.PunycodeHostPort(r.Host); err != nil || !httpguts.ValidHostHeader(r.Host) {
		return fmt.Errorf("host %q", r.Host)
	}
	for name := range r.Trailer {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("trailer %q is announced", name)
		}
	}
	return nil
}

// withoutUpgrade is the request as one that never asked for a switch. Left in place, ReverseProxy
// would forward it.
func withoutUpgrade(r *http.Request) *http.Request {
	plain := new(http.Request)
	*plain = *r
	plain.Header = r.Header.Clone()
	plain.Header.Del("Upgrade")
	plain.Header.Del("HTTP2-Settings")
	return plain
}

// enter makes the query to the pool, reads the body ahead, and counts the request for its key. It
// is the last chance to refuse the request before the policy and the pool are asked. The key may
// depend on the body. Where it does not, the request counts while its body is read.
func (k *walk) enter() *Error {
	query := balancer.Request{HTTP: k.in, Client: k.peer.client.Addr(), Tunnel: k.upgrade.asked()}
	if k.p.Key != nil {
		if failure := k.readAhead(); failure != nil {
			return failure
		}
		query.Key = k.p.Key(k.in)
	}
	k.choice.begin(&k.rt.chooser, query)
	if failure := k.count(); failure != nil || k.p.Key != nil {
		return failure
	}
	return k.readAhead()
}
