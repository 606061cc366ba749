package wsproxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/health/wskey"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// protocolHeader is the name under which net/http has the :protocol of an extended CONNECT in a
// request's header (RFC 8441 section 4).
const protocolHeader = ":protocol"

// protocolsOf returns the :protocol of an extended CONNECT. It returns none for any other request.
// A server of HTTP/3 has it in Request.Proto (RFC 9220 section 3), as quic-go's does. That is not
// "HTTP/3.0" then: a protocol's name is a token.
func protocolsOf(r *http.Request) []string {
	switch {
	case r.Method != http.MethodConnect:
		return nil
	case r.ProtoMajor == 2:
		return r.Header[protocolHeader]
	case r.ProtoMajor == 3 && httpguts.ValidHeaderFieldName(r.Proto): // a token, as a field name is
		return []string{r.Proto}
	}
	return nil
}

// admitConnect is admit for a CONNECT. An extended CONNECT over HTTP/2 or HTTP/3 for a WebSocket
// goes on as the upgrade of HTTP/1.1 that it corresponds to (RFC 8441 section 5). Any other CONNECT
// is refused.
func (k *walk) admitConnect() (*http.Request, *Error) {
	r := k.in
	protocols := protocolsOf(r)
	if len(protocols) == 0 {
		k.upload.closing = true // in HTTP/1.x, what follows is tunnel data and no request
		allowed := "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
		k.w.Header().Set("Allow", allowed) // RFC 9110 section 15.5.6
		return refuse(http.StatusMethodNotAllowed, errConnect)
	}
	// The case of a protocol's name does not matter (RFC 9110 section 7.8).
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

// asUpgrade returns the upgrade of HTTP/1.1 that an extended CONNECT corresponds to. It has no
// body, because the client's bytes belong to the tunnel. The key is the proxy's: the client of an
// extended CONNECT sends none.
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

// checkAccept returns an error if the target's Sec-WebSocket-Accept does not answer the proxy's
// key. The accept for a client's own key is the client's to check.
func (k *walk) checkAccept(h http.Header) error {
	if got := h["Sec-Websocket-Accept"]; len(got) != 1 || strings.TrimSpace(got[0]) != wskey.Accept(k.upgrade.key) {
		return fmt.Errorf("the target's Sec-WebSocket-Accept %q does not answer the key", got)
	}
	return nil
}

// canStream reports whether the Unwrap chain has what a tunnel over a stream of HTTP/2 needs: a
// writer that can be flushed, and one with deadlines.
func canStream(w http.ResponseWriter) bool {
	reads := inChain[interface{ SetReadDeadline(time.Time) error }](w)
	writes := inChain[interface{ SetWriteDeadline(time.Time) error }](w)
	flushes := inChain[http.Flusher](w) || inChain[interface{ FlushError() error }](w)
	return reads && writes && flushes
}

// A bridge is a tunnel whose client is a stream of HTTP/2 or HTTP/3, which lives only as long as
// its handler.
type bridge struct {
	client  *streamConn
	backend io.Closer
	ended   chan tunnel.Reason
	http3   bool
}

// startBridge opens the client's stream, and starts the tunnel between it and the target's
// connection. ServeHTTP serves the bridge when it has left the calls that the request needed, so
// that an idle tunnel keeps neither their stack nor the walk.
func (k *walk) startBridge(res *http.Response, backend io.ReadWriteCloser) error {
	k.takeOver(res)
	if err := k.openStream(res.Header); err != nil {
		backend.Close()
		return k.newError(ClassClientGone, http.StatusOK, err)
	}
	client := newStreamConn(k.in.Context(), k.w.ResponseWriter, k.in.Body, &k.rt.buffers)
	b := &bridge{client, backend, make(chan tunnel.Reason, 1), k.in.ProtoMajor > 2}
	k.startTunnel(tunnel.Side{Conn: client}, k.targetSide(backend), func(end tunnel.End) { b.ended <- end.By })
	k.upgrade.bridge = b
	k.detach()
	return errSwitched
}

// serve writes to the client's stream, and returns when the tunnel has ended.
func (b *bridge) serve() {
	served := false
	defer func() {
		if !served { // a Write of middleware has panicked
			b.abandon()
		}
	}()
	b.client.serve(b.ended)
	served = true
	if b.http3 && b.client.aborted.Load() {
		panic(http.ErrAbortHandler) // a write deadline that has passed resets no stream of HTTP/3
	}
}

// abandon ends a tunnel whose handler is about to panic.
func (b *bridge) abandon() {
	b.client.Close()
	b.backend.Close()
	<-b.ended
}

// openStream answers the CONNECT with 200. The header has the fields of middleware and those of the
// target, except for the upgrade's own.
func (k *walk) openStream(from http.Header) error {
	stream := http.NewResponseController(k.w.ResponseWriter)
	stream.SetReadDeadline(time.Time{}) // the server may have set both deadlines for a plain request
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

// checkOpening returns an error for a 2xx that the target answers to an extended CONNECT instead of
// a 101. For the client, any 2xx would mean that the tunnel is open.
func (k *walk) checkOpening(res *http.Response) error {
	if k.upgrade.isExtended() && res.StatusCode < 300 {
		k.upgrade.decline(res.StatusCode)
		e := k.newError(ClassUpgrade, http.StatusBadGateway, fmt.Errorf("the target answers an upgrade with status %d", res.StatusCode))
		e.excuse = answered
		return e
	}
	return nil
}
