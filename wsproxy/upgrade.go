package wsproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// An upgrade is the part of a walk that is about a switch of protocols. It stays zero for a plain
// request.
type upgrade struct {
	protocol string // to switch to, lower case
	key      string // Sec-WebSocket-Key, which the proxy makes for an extended CONNECT; else empty
	place    place  // freed when the target declines; given to the tunnel when it starts

	held     *underway.Set   // its Shutdown waits until the tunnel is started; nil when it does not
	context  context.Context // ends the tunnel; nil when there is none
	declined int             // status of the target's answer that an extended CONNECT must not get
	switched bool            // the client's connection is taken from the server
	bridge   *bridge         // to be served; nil when there is none, and when ServeHTTP has taken it
}

// asked reports whether the request asks for a switch of protocols that is let through.
func (u *upgrade) asked() bool { return u.protocol != "" }

// isExtended reports whether the client has sent an extended CONNECT.
func (u *upgrade) isExtended() bool { return u.key != "" }

// freePlace gives the place back if the walk still has it.
func (u *upgrade) freePlace() { u.handOverPlace().free() }

// handOverPlace returns the place. It is the caller's to free from now on.
func (u *upgrade) handOverPlace() place {
	p := u.place
	u.place = place{}
	return p
}

// decline notes the status with which the target has declined to switch.
func (u *upgrade) decline(status int) { u.declined = status }

// holdShutdown makes Shutdown wait until release. It reports false when Shutdown has begun.
func (u *upgrade) holdShutdown(s *underway.Set) bool {
	if !s.Hold() {
		return false
	}
	u.held = s
	return true
}

// release ends what holdShutdown has begun.
func (u *upgrade) release() {
	if u.held != nil {
		u.held.Release()
		u.held = nil
	}
}

// admitUpgrade takes a place among the proxy's upgraded connections. It is called when all other
// checks of the upgrade have passed. r is the request to send, token the protocol. key is the key
// of an extended CONNECT, else empty.
func (k *walk) admitUpgrade(r *http.Request, token, key string) (*http.Request, *Error) {
	if k.rt.busy.Closing() {
		return nil, &Error{Class: ClassShutdown, Status: http.StatusServiceUnavailable, Err: errShutdown}
	}
	if !k.upgrade.place.take(&k.p.tunnels, k.p.Tunnels.Max) {
		return nil, &Error{Class: ClassLimit, Status: http.StatusServiceUnavailable, Err: errTooManyTunnels}
	}
	k.upgrade.protocol, k.upgrade.key = token, key
	return r, nil
}

// tellUpgrade calls Trace.Upgrade.
func (k *walk) tellUpgrade(token string) {
	if k.rt.trace.Upgrade != nil {
		k.rt.trace.Upgrade(k.in, token)
	}
}

// switchProtocols takes over both connections and starts the tunnel. It never returns nil, because
// ReverseProxy would then hijack the client's connection itself. It returns errSwitched when all
// went well. While the target's connection is in res.Body, ReverseProxy closes it after an error.
func (k *walk) switchProtocols(res *http.Response) error {
	backend, err := k.checkSwitch(res)
	if err != nil {
		return k.newError(ClassUpgrade, http.StatusBadGateway, err)
	}
	handed := false
	defer func() {
		if !handed {
			backend.Close() // a hook has panicked, or the client's side failed
		}
	}()
	if !k.upgrade.holdShutdown(&k.rt.busy) { // otherwise Shutdown could end before the tunnel starts
		return k.newError(ClassShutdown, http.StatusServiceUnavailable, errShutdown)
	}
	defer k.upgrade.release()
	removeHopByHop(res.Header)
	delete(res.Header, "Content-Length") // a 101 has no content (RFC 9110 section 8.6)
	if of := k.p.Tunnels.Context; of != nil {
		k.upgrade.context = of(k.in)
	}
	k.choice.bind(res.Header, res.StatusCode, k.peer.tls)
	if k.upgrade.isExtended() {
		handed = true
		return k.startBridge(res, backend)
	}
	conn, rw, err := http.NewResponseController(&k.w).Hijack()
	if err != nil {
		k.w.Header().Set("Connection", "close")
		return k.newError(ClassRequest, http.StatusNotImplemented, fmt.Errorf("take over the client's connection: %w", err))
	}
	k.takeOver(res)
	if err := k.writeSwitch(conn, res); err != nil {
		conn.Close()
		return k.newError(ClassClientGone, http.StatusSwitchingProtocols, err)
	}
	k.w.status = http.StatusSwitchingProtocols
	handed = true
	k.startTunnel(underway.ClientSide(conn, early(rw.Reader)), k.targetSide(backend), nil)
	return errSwitched
}

// takeOver notes that the walk takes the client's connection from the server. The target's
// connection must not be in res.Body then, because ReverseProxy closes that.
func (k *walk) takeOver(res *http.Response) {
	k.upgrade.switched = true
	res.Body = http.NoBody
	k.inFlight.Free() // before the client sees the switch, because it may send more requests then
	k.inFlight = nil
}

// checkSwitch returns the target's connection, or an error if the 101 is not valid. RFC 9110
// section 15.2.2 requires the protocol in Upgrade.
func (k *walk) checkSwitch(res *http.Response) (io.ReadWriteCloser, error) {
	backend, ok := res.Body.(io.ReadWriteCloser)
	switch {
	case !k.upgrade.asked():
		return nil, errors.New("the target switched protocols unasked")
	case !httpguts.HeaderValuesContainsToken(res.Header["Connection"], "upgrade"):
		return nil, errors.New("the target's 101 has no Connection: upgrade")
	case upgradeToken(res.Header) != k.upgrade.protocol:
		return nil, fmt.Errorf("the target switched to %q instead of %q", res.Header["Upgrade"], k.upgrade.protocol)
	case !ok:
		return nil, errors.New("the transport gave a 101 whose body cannot be written to")
	case k.upgrade.isExtended():
		return backend, k.checkAccept(res.Header)
	}
	return backend, nil
}

// early returns what the client has sent before the 101, which is in the server's reader.
func early(r *bufio.Reader) []byte {
	waiting, _ := r.Peek(r.Buffered())
	return slices.Clone(waiting)
}

// targetSide returns the target's end of a tunnel. It is the bare connection if the transport gives
// access to that.
func (k *walk) targetSide(body io.ReadWriteCloser) tunnel.Side {
	if s, ok := body.(*upstream.Switched); ok {
		conn, early := s.Take()
		return tunnel.Side{Conn: conn, Early: early}
	}
	if conn := k.last.under.conn.Load(); conn != nil && *conn != nil {
		return tunnel.Side{Conn: tunnel.Body{ReadWriteCloser: body, Below: *conn}}
	}
	return tunnel.Side{Conn: body}
}

// writeSwitch sends the 101 with the fields of middleware and the remaining ones of the target.
func (k *walk) writeSwitch(conn net.Conn, res *http.Response) error {
	conn.SetDeadline(time.Now().Add(k.p.Tunnels.handshake()))
	k.w.restore()
	h := maps.Clone(res.Header)
	for name, values := range k.w.Header() {
		h[name] = append(slices.Clip(values), h[name]...)
	}
	spellWebSocket(h)
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{k.upgrade.protocol}
	buffer := k.rt.buffers.Get()
	defer k.rt.buffers.Put(buffer)
	out := bytes.NewBuffer(buffer[:0])
	out.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(out)
	out.WriteString("\r\n")
	if _, err := conn.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write the 101: %w", err)
	}
	return conn.SetDeadline(time.Time{})
}

// spellWebSocket spells the names of the fields as RFC 6455 does, because some clients insist on
// it.
func spellWebSocket(h http.Header) {
	for _, name := range []string{"Accept", "Extensions", "Protocol", "Version"} {
		if values, ok := h["Sec-Websocket-"+name]; ok {
			delete(h, "Sec-Websocket-"+name)
			h["Sec-WebSocket-"+name] = values
		}
	}
}
