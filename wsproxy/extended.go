package wsproxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/health/wskey"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// protocolHeader is where net/http has the :protocol of an extended CONNECT (RFC 8441 section 4).
const protocolHeader = ":protocol"

// admitConnect decides about a CONNECT: an extended one over HTTP/2 for a WebSocket goes on as the
// upgrade of HTTP/1.1 that it stands for (RFC 8441 section 5), whatever else has that method is
// refused.
func (k *walk) admitConnect() (*http.Request, *Error) {
	r := k.in
	protocols := r.Header[protocolHeader]
	if r.ProtoMajor != 2 || len(protocols) == 0 {
		k.upload.closing = true // in HTTP/1.x, what follows is tunnel data and no request
		allowed := "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
		k.w.Header().Set("Allow", allowed) // RFC 9110 section 15.5.6
		return refuse(http.StatusMethodNotAllowed, errConnect)
	}
	// The names of protocols are told apart without their case (RFC 9110 section 7.8).
	if !strings.EqualFold(protocols[0], "websocket") || !slices.Contains(k.rt.upgrades, "websocket") {
		return refuse(http.StatusNotImplemented, fmt.Errorf("extended CONNECT for %q is not proxied", protocols[0]))
	}
	key := wskey.New()
	get := asUpgrade(k.in, key)
	if err := checkRequest(get); err != nil {
		return refuse(http.StatusBadRequest, err)
	}
	switch {
	case r.ContentLength > 0:
		return refuse(http.StatusBadRequest, errUpgradeBody)
	case !canStream(k.w.ResponseWriter):
		return refuse(http.StatusNotImplemented, errNotStreamable)
	}
	return k.admitUpgrade(get, "websocket", key)
}

// asUpgrade is the request that asks a backend of HTTP/1.1 for what the client asks for. The
// client's bytes are no body of it: they belong to the tunnel. It has sent no key, and has no use
// for the answer to one.
func asUpgrade(r *http.Request, key string) *http.Request {
	get := new(http.Request)
	*get = *r
	get.Method, get.Body, get.ContentLength, get.Trailer = http.MethodGet, http.NoBody, 0, nil
	get.Header = r.Header.Clone()
	for _, name := range []string{protocolHeader, "Content-Length", "Http2-Settings"} {
		delete(get.Header, name)
	}
	get.Header["Connection"], get.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	get.Header["Sec-Websocket-Key"] = []string{key}
	if len(get.Header["Sec-Websocket-Version"]) == 0 {
		get.Header["Sec-Websocket-Version"] = []string{"13"}
	}
	return get
}

// checkAccept says whether the target has understood the handshake. Over HTTP/1.1 that is for the
// client to check.
func (k *walk) checkAccept(h http.Header) error {
	if got := h["Sec-Websocket-Accept"]; len(got) != 1 || strings.TrimSpace(got[0]) != wskey.Accept(k.upgrade.key) {
		return fmt.Errorf("the target's Sec-WebSocket-Accept %q does not answer the key", got)
	}
	return nil
}

// canStream reports whether a writer in the Unwrap chain can be flushed, and one can be given up by
// its deadlines: what a tunnel over an HTTP/2 stream needs.
func canStream(w http.ResponseWriter) bool {
	reads := inChain[interface{ SetReadDeadline(time.Time) error }](w)
	writes := inChain[interface{ SetWriteDeadline(time.Time) error }](w)
	flushes := inChain[http.Flusher](w) || inChain[interface{ FlushError() error }](w)
	return reads && writes && flushes
}

// bridge opens the client's stream and runs the tunnel between it and the target's connection,
// until that has ended: a stream of HTTP/2 lives as long as its handler.
func (k *walk) bridge(res *http.Response, backend io.ReadWriteCloser) error {
	k.takeOver(res)
	if err := k.openStream(res.Header); err != nil {
		backend.Close()
		return k.newError(ClassClientGone, http.StatusOK, err)
	}
	client := newStreamConn(k.in.Context(), k.w.ResponseWriter, k.in.Body, &k.rt.buffers)
	ended := make(chan tunnel.End, 1)
	k.startTunnel(tunnel.Side{Conn: client}, k.targetSide(backend), func(end tunnel.End) { ended <- end })
	served := false
	defer func() {
		if !served { // a Write of middleware, or a hook, has panicked
			client.Close()
			backend.Close()
			<-ended
		}
	}()
	k.detach()
	client.serve(ended)
	served = true
	return errSwitched
}

// openStream answers the CONNECT with 200: what middleware has set and the target's own headers,
// without those of the upgrade.
func (k *walk) openStream(from http.Header) error {
	stream := http.NewResponseController(k.w.ResponseWriter)
	stream.SetReadDeadline(time.Time{}) // both may be the server's own for requests and responses
	stream.SetWriteDeadline(time.Now().Add(k.p.Tunnels.handshake()))
	k.w.restore()
	delete(from, "Sec-Websocket-Accept")
	h := k.w.Header()
	for name, values := range from {
		h[name] = append(h[name], values...)
	}
	k.w.WriteHeader(http.StatusOK)
	if err := stream.Flush(); err != nil {
		return fmt.Errorf("open the stream: %w", err)
	}
	return stream.SetWriteDeadline(time.Time{})
}

// checkOpening says what is wrong with a response to an extended CONNECT that is no 101: to the
// client, any 2xx would mean that the tunnel is open.
func (k *walk) checkOpening(res *http.Response) error {
	if k.upgrade.isExtended() && res.StatusCode < 300 {
		k.upgrade.decline(res.StatusCode)
		e := k.newError(ClassUpgrade, http.StatusBadGateway, fmt.Errorf("the target answers an upgrade with status %d", res.StatusCode))
		e.excuse = answered
		return e
	}
	return nil
}
