package wsproxy

import (
	"fmt"
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/balancer"
)

// admit returns the request to send on, or an Error if it is refused. If the request goes on as a
// plain one, admit removes the headers that ask for a switch of protocols.
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

// refuse returns what admit returns for a request that cannot be proxied.
func refuse(status int, err error) (*http.Request, *Error) {
	return nil, &Error{Class: ClassRequest, Status: status, Err: err}
}

// checkRequest returns an error if the request cannot be sent on. http.Transport would refuse it as
// well, but that failure would be held against the target.
func checkRequest(r *http.Request) error {
	if !httpguts.ValidHeaderFieldName(r.Method) { // a method is a token, as a field name is
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

// withoutUpgrade returns a copy of the request without the headers that ask for a switch of
// protocols. ReverseProxy would forward them.
func withoutUpgrade(r *http.Request) *http.Request {
	plain := new(http.Request)
	*plain = *r
	plain.Header = r.Header.Clone()
	plain.Header.Del("Upgrade")
	plain.Header.Del("HTTP2-Settings")
	return plain
}

// enter makes the query to the pool, reads the body ahead, and counts the request for its key. It
// is the last step that may refuse the request before the policy and the pool are asked. With
// Proxy.Key the body is read first, because the key may depend on it. Otherwise the request is
// counted first, and counts while its body is read.
func (k *walk) enter() *Error {
	query := balancer.Request{HTTP: k.in, Client: k.peer.client.Addr(), Tunnel: k.upgrade.asked()}
	if k.p.Key != nil {
		if failure := k.readAhead(); failure != nil {
			return failure
		}
		query.Key = k.p.Key(k.in)
	}
	k.choice.begin(&k.rt.chooser, query)
	var failure *Error
	k.inFlight, failure = k.rt.count(&k.choice.query, keyLimit{k.p.MaxPerKey, k.p.Tunnels.MaxPerKey, k.p.PerKeyStatus}, &k.upgrade.place)
	if failure != nil || k.p.Key != nil {
		return failure
	}
	return k.readAhead()
}
