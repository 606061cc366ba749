package wsproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// admitUpgrade takes a place among the proxy's tunnels for a request that is otherwise fit to be an
// upgrade.
func (k *walk) admitUpgrade(r *http.Request, token string) (*http.Request, *Error) {
	if k.rt.busy.Closing() {
		return nil, &Error{Class: ClassShutdown, Status: http.StatusServiceUnavailable, Err: errShutdown}
	}
	k.placed = true
	if n := k.p.tunnels.Add(1); k.p.Tunnels.Max > 0 && n > int64(k.p.Tunnels.Max) {
		return nil, &Error{Class: ClassLimit, Status: http.StatusServiceUnavailable, Err: errTooManyTunnels}
	}
	k.upgrade = token
	return r, nil
}

func (k *walk) tellUpgrade(token string) {
	if k.rt.trace.Upgrade != nil {
		k.rt.trace.Upgrade(k.in, token)
	}
}

// switchProtocols takes over both connections and starts the tunnel. Whatever it returns is an
// error, because on nil ReverseProxy would hijack again: errSwitched when all went well. As long as
// the target's connection is in res.Body, ReverseProxy closes it.
func (k *walk) switchProtocols(res *http.Response) error {
	backend, err := k.checkSwitch(res)
	if err != nil {
		return &Error{Class: ClassUpgrade, Status: http.StatusBadGateway, Pool: k.pool(), Target: k.target, Attempt: k.attempts, Err: err}
	}
	handed := false
	defer func() {
		if !handed {
			backend.Close() // a hook has panicked, or the client's side failed
		}
	}()
	if !k.rt.busy.Hold() { // else Shutdown could be over before the tunnel is known
		return &Error{Class: ClassShutdown, Status: http.StatusServiceUnavailable, Pool: k.pool(), Target: k.target, Attempt: k.attempts,
			Err: errShutdown}
	}
	k.held = true
	defer k.release()
	removeHopByHop(res.Header)
	delete(res.Header, "Content-Length") // a 101 has no content (RFC 9110 section 8.6)
	if of := k.p.Tunnels.Context; of != nil {
		k.tunnelContext = of(k.in)
	}
	k.choice.bind(res.Header, res.StatusCode, k.peer.tls)
	if k.key != "" {
		handed = true
		return k.bridge(res, backend)
	}
	conn, rw, err := http.NewResponseController(&k.w).Hijack()
	if err != nil {
		k.w.Header().Set("Connection", "close")
		return &Error{Class: ClassRequest, Status: http.StatusNotImplemented, Pool: k.pool(), Target: k.target, Attempt: k.attempts,
			Err: fmt.Errorf("take over the client's connection: %w", err)}
	}
	k.switched = true
	res.Body = http.NoBody
	k.requests.Free() // before the client knows, which may ask for more then
	k.requests = nil
	if err := k.writeSwitch(conn, res); err != nil {
		conn.Close()
		return &Error{Class: ClassClientGone, Status: http.StatusSwitchingProtocols, Pool: k.pool(), Target: k.target,
			Attempt: k.attempts, Err: err}
	}
	k.w.status = http.StatusSwitchingProtocols
	handed = true
	k.startTunnel(underway.ClientSide(conn, early(rw.Reader)), k.targetSide(backend), nil)
	return errSwitched
}

// release ends the hold that makes Shutdown wait for the tunnel to start.
func (k *walk) release() {
	if k.held {
		k.held = false
		k.rt.busy.Release()
	}
}

// checkSwitch says what is wrong with a 101: RFC 9110 section 15.2.2 wants the protocol named in
// Upgrade.
func (k *walk) checkSwitch(res *http.Response) (io.ReadWriteCloser, error) {
	backend, ok := res.Body.(io.ReadWriteCloser)
	switch {
	case k.upgrade == "":
		return nil, errors.New("the target switched protocols unasked")
	case !httpguts.HeaderValuesContainsToken(res.Header["Connection"], "upgrade"):
		return nil, errors.New("the target's 101 has no Connection: upgrade")
	case upgradeToken(res.Header) != k.upgrade:
		return nil, fmt.Errorf("the target switched to %q instead of %q", res.Header["Upgrade"], k.upgrade)
	case !ok:
		return nil, errors.New("the transport gave a 101 whose body cannot be written to")
	case k.key != "":
		return backend, k.checkAccept(res.Header)
	}
	return backend, nil
}

// early is what the client sent before the 101: it sits in the server's reader.
func early(r *bufio.Reader) []byte {
	waiting, _ := r.Peek(r.Buffered())
	return slices.Clone(waiting)
}

// targetSide returns the target's end of a tunnel: the bare connection, where that can be had.
func (k *walk) targetSide(body io.ReadWriteCloser) tunnel.Side {
	if s, ok := body.(*upstream.Switched); ok {
		conn, early := s.Take()
		return tunnel.Side{Conn: conn, Early: early}
	}
	if conn := k.under.conn.Load(); conn != nil && *conn != nil {
		return tunnel.Side{Conn: tunnel.Body{ReadWriteCloser: body, Below: *conn}}
	}
	return tunnel.Side{Conn: body}
}

// writeSwitch sends the 101 with the fields of middleware and the remaining ones of the target.
func (k *walk) writeSwitch(conn net.Conn, res *http.Response) error {
	conn.SetDeadline(time.Now().Add(k.p.Tunnels.handshake()))
	k.w.restore()
	h := k.w.Header().Clone()
	for name, values := range res.Header {
		h[name] = append(h[name], values...)
	}
	spellWebSocket(h)
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{k.upgrade}
	out := bufio.NewWriter(conn)
	out.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(out)
	out.WriteString("\r\n")
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the 101: %w", err)
	}
	return conn.SetDeadline(time.Time{})
}

// spellWebSocket writes the names as RFC 6455 does: some clients insist on it. A name that is
// absent stays absent.
func spellWebSocket(h http.Header) {
	for _, name := range []string{"Accept", "Extensions", "Protocol", "Version"} {
		if values, ok := h["Sec-Websocket-"+name]; ok {
			delete(h, "Sec-Websocket-"+name)
			h["Sec-WebSocket-"+name] = values
		}
	}
}
