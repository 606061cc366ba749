package wsproxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// An upgraded is a connection that a [Sticky]'s handler has taken over: a hijacked one, or the
// stream of an extended CONNECT. The handler moves its bytes. The connection holds the lease of its
// visit until it ends.
type upgraded struct {
	v      *visit
	member *balancer.Member
	place  place
	stream bool
	cut    func() // closes the connection; may block

	once    sync.Once
	ended   chan struct{}
	pending atomic.Int32                     // 1 until the end, and 1 while the function of OnLeave runs
	by      atomic.Uint32                    // the tunnel.Reason of the end; 0 until it is known
	tell    atomic.Pointer[func(tunnel.End)] // reports the end to the hooks; nil if nothing was switched

	fromClient, fromBackend atomic.Int64 // bytes
}

// join adds the connection to those that the Sticky knows.
func (u *upgraded) join() {
	v := u.v
	u.member, u.ended = v.member, make(chan struct{})
	u.place, v.place = v.place, place{}
	u.pending.Store(1)
	v.upgraded = u
	v.inFlight.Free()
	v.inFlight = nil
	var of underway.Session
	if v.choice.keepsSession() {
		of = underway.Session{ID: v.choice.session(v.choice.from), Issued: v.choice.from.Issued}
	}
	v.s.rt.busy.Join(of, u.member, u)
}

// switched tells the hooks that the protocol was switched.
func (u *upgraded) switched() {
	tell := u.v.s.rt.tunnelTeller(u.v.in, u.v.record)
	if tell == nil {
		return
	}
	if u.tell.Store(&tell); u.isOver() { // meanwhile
		u.tellEnd()
	}
}

// tellEnd reports the end to the hooks, if the switch was reported.
func (u *upgraded) tellEnd() {
	if tell := u.tell.Swap(nil); tell != nil {
		(*tell)(tunnel.End{By: tunnel.Reason(u.by.Load()), FromClient: u.fromClient.Load(), FromBackend: u.fromBackend.Load()})
	}
}

// CloseFrame implements tunnel.Asked. It asks the handler to end the connection, see OnLeave, or
// closes it.
func (u *upgraded) CloseFrame(f tunnel.Farewell, _ time.Time) {
	leave, first := u.v.ask()
	switch rt := &u.v.s.rt; {
	case !first:
	case leave == nil:
		u.Close(f.By)
	case u.stay():
		u.by.CompareAndSwap(0, uint32(f.By))
		go func() {
			defer u.leaveSet()
			underway.Contain(rt.log, "wsproxy: the function of OnLeave", func() { leave(f.Code) })
		}()
	}
}

// isOver reports whether the connection has ended.
func (u *upgraded) isOver() bool {
	select {
	case <-u.ended:
		return true
	default:
		return false
	}
}

// stay makes the Sticky wait for one more call of leaveSet. It returns false if the Sticky has
// forgotten the connection.
func (u *upgraded) stay() bool {
	for {
		n := u.pending.Load()
		if n == 0 {
			return false
		}
		if u.pending.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leaveSet is called at the end of the connection, and when the function of OnLeave has returned.
// After both, the Sticky forgets the connection. Shutdown waits for that.
func (u *upgraded) leaveSet() {
	if u.pending.Add(-1) == 0 {
		u.v.s.rt.busy.Leave(u.member, u)
	}
}

// Ended implements tunnel.Asked.
func (u *upgraded) Ended() <-chan struct{} { return u.ended }

// Close implements underway.Conn. It returns at once.
func (u *upgraded) Close(by tunnel.Reason) {
	u.by.CompareAndSwap(0, uint32(by))
	go func() {
		u.cut()
		u.end()
	}()
}

// end releases the lease when the connection is closed. Without another reason, the end counts as
// closed by the handler.
func (u *upgraded) end() {
	u.once.Do(func() {
		u.by.CompareAndSwap(0, uint32(tunnel.BackendClosed))
		close(u.ended)
		u.v.release(u.v.outcome())
		u.place.free()
		u.tellEnd()
		u.leaveSet()
	})
}

// ask notes that the connection is asked to end. It returns the function of OnLeave, and reports
// whether this is the first time.
func (v *visit) ask() (leave func(uint16), first bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first, v.asked = !v.asked, true
	return v.leave, first
}

// onLeave is OnLeave.
func (v *visit) onLeave(f func(code uint16)) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return false
	}
	v.leave = f
	return true
}

// isHijacked reports whether the handler has taken the connection from the server.
func (v *visit) isHijacked() bool { return v.upgraded != nil && !v.upgraded.stream }

// decide is called with the final status. A 2xx accepts an extended CONNECT. Any status but 101
// declines an upgrade of HTTP/1.1.
func (v *visit) decide(status int) {
	switch {
	case v.member == nil || v.protocol == "":
	case v.isExtended() && status/100 == 2:
		rc := http.NewResponseController(v.w.ResponseWriter)
		u := &upgraded{v: v, stream: true, cut: func() {
			v.severed.Store(true) // because middleware may hide the methods for deadlines
			rc.SetReadDeadline(time.Unix(1, 0))
			rc.SetWriteDeadline(time.Unix(1, 0))
		}}
		u.join()
		u.switched()
	case status != http.StatusSwitchingProtocols:
		v.place.free()
		v.place = place{}
	}
}

// hijack takes the connection from the server. The connection then holds the visit's lease.
func (v *visit) hijack() (net.Conn, *bufio.ReadWriter, error) {
	busy := &v.s.rt.busy
	if !busy.Hold() { // without Hold, Shutdown could return before the connection joins
		return nil, nil, v.refuseHijack(errShutdown)
	}
	defer busy.Release()
	conn, rw, err := http.NewResponseController(v.w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, v.refuseHijack(err)
	}
	c := &hijacked{Conn: conn, u: &upgraded{v: v}}
	c.u.cut = func() {
		conn.SetDeadline(time.Unix(1, 0))
		conn.Close()
	}
	if v.w.status != 0 {
		c.opened.Store(true)
	}
	c.u.join()
	if v.w.status == http.StatusSwitchingProtocols {
		c.u.switched()
	}
	var out net.Conn = c
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		out = &halfHijacked{c, half}
	}
	if rw.Writer.Buffered() > 0 {
		rw.Flush()
	}
	rw.Writer.Reset(out)
	c.u.fromClient.Add(int64(rw.Reader.Buffered()))
	readThrough(rw.Reader, out)
	return out, rw, nil
}

// refuseHijack returns err. It notes that the server has refused the hijack, so that failures which
// the handler reports later do not count against the target.
func (v *visit) refuseHijack(err error) error {
	if v.upgraded == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.unhijacked = true
	}
	return err
}

// readThrough makes r read from conn, after what it has buffered.
func readThrough(r *bufio.Reader, conn net.Conn) {
	n := r.Buffered()
	if n == 0 {
		r.Reset(conn)
		return
	}
	early, _ := r.Peek(n)
	r.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn))
	r.Peek(n) // buffers it again, since callers ask for Buffered
}

// A hijacked is a connection of HTTP/1 that the handler has taken over. The session is bound in the
// first final header that the handler writes, so the bytes are held back until it is complete.
type hijacked struct {
	net.Conn
	u      *upgraded
	opened atomic.Bool // bytes are no longer held back

	mu   sync.Mutex
	held []byte // what the handler has written of the header
}

// A halfHijacked is a hijacked that can send the end of stream.
type halfHijacked struct {
	*hijacked
	half interface{ CloseWrite() error }
}

// CloseWrite sends the end of stream.
func (c *halfHijacked) CloseWrite() error {
	c.open()
	return c.half.CloseWrite()
}

// Read implements io.Reader.
func (c *hijacked) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.u.fromClient.Add(int64(n))
	switch {
	case err == nil, upstream.IsTimeout(err): // the handler may go on after its deadline
	case err == io.EOF:
		c.u.by.CompareAndSwap(0, uint32(tunnel.ClientClosed))
	default:
		c.failed(err)
	}
	return n, err
}

// WriteTo implements io.WriterTo.
func (c *hijacked) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, c.Conn)
	c.u.fromClient.Add(n)
	if err == nil {
		c.u.by.CompareAndSwap(0, uint32(tunnel.ClientClosed))
	}
	return n, err
}

// Write implements io.Writer.
func (c *hijacked) Write(p []byte) (int, error) {
	if !c.opened.Load() {
		return c.writeHead(p)
	}
	n, err := c.write(p)
	c.u.fromBackend.Add(int64(n))
	return n, err
}

// write writes to the client, and does not count the bytes.
func (c *hijacked) write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.failed(err)
	}
	return n, err
}

// failed notes the failure of the client's connection, unless the handler has closed it.
func (c *hijacked) failed(err error) {
	if !errors.Is(err, net.ErrClosed) {
		c.u.v.noteClient(err)
	}
}

// ReadFrom implements io.ReaderFrom.
func (c *hijacked) ReadFrom(r io.Reader) (int64, error) {
	if !c.opened.Load() {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	n, err := io.Copy(c.Conn, r)
	c.u.fromBackend.Add(n)
	return n, err
}

// Close closes the connection, and releases the lease.
func (c *hijacked) Close() error {
	c.open()
	err := c.Conn.Close()
	c.u.end()
	return err
}

// maxHead limits the bytes of a header that are held back.
const maxHead = 64 << 10

// writeHead writes what the handler writes before its final header is complete.
func (c *hijacked) writeHead(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opened.Load() { // meanwhile
		n, err := c.write(p)
		c.u.fromBackend.Add(int64(n))
		return n, err
	}
	c.held = append(c.held, p...)
	for {
		end := headEnd(c.held)
		if end < 0 && len(c.held) <= maxHead && mayBeHead(c.held) {
			return len(p), nil
		}
		if end < 0 {
			return len(p), c.release()
		}
		status, bound := c.u.v.bindHead(c.held[:end])
		if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols { // the final header follows
			if _, err := c.write(c.held[:end]); err != nil {
				return 0, err
			}
			c.held = c.held[end:]
			continue
		}
		c.u.fromBackend.Add(int64(len(c.held) - end))
		c.held = append(bound, c.held[end:]...)
		err := c.release()
		if status == http.StatusSwitchingProtocols {
			c.u.switched()
		}
		return len(p), err
	}
}

// open writes the bytes that are held back. Later bytes are not held back.
func (c *hijacked) open() {
	if c.opened.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.opened.Load() {
		c.release()
	}
}

// release is open with c.mu held.
func (c *hijacked) release() error {
	held := c.held
	c.held = nil
	c.opened.Store(true)
	if len(held) == 0 {
		return nil
	}
	_, err := c.write(held)
	return err
}

// mayBeHead reports whether the bytes may be the beginning of the header of a response.
func mayBeHead(b []byte) bool {
	const prefix = "HTTP/1."
	return strings.HasPrefix(prefix, string(b[:min(len(b), len(prefix))]))
}

// headEnd returns the length of a header, or -1 if it is not complete.
func headEnd(b []byte) int {
	if !mayBeHead(b) {
		return -1
	}
	for i := 0; ; i++ {
		line := bytes.IndexByte(b[i:], '\n')
		if line < 0 {
			return -1
		}
		switch i += line; {
		case bytes.HasPrefix(b[i:], []byte("\n\n")):
			return i + 2
		case bytes.HasPrefix(b[i:], []byte("\n\r\n")):
			return i + 3
		}
	}
}

// bindHead binds the session in a header that the handler has written to the connection. It returns
// the status and the header to write. The header of a 1xx response other than 101 is not changed.
// If the header cannot be parsed, it is not changed, and the status is 0.
func (v *visit) bindHead(head []byte) (status int, bound []byte) {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(head)))
	line, _ := r.ReadLine()
	_, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	fields, failed := r.ReadMIMEHeader()
	if err != nil || failed != nil || status < 100 || status > 999 {
		return 0, head
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		return status, head
	}
	h := http.Header(fields)
	before := h.Clone()
	v.begin(h, status)
	return status, mergeHead(head, before, h)
}

// mergeHead returns the header with the changes from before to after. Other lines are not changed,
// because WebSocket clients may depend on the spelling of their names.
func mergeHead(head []byte, before, after http.Header) []byte {
	changed := make(http.Header)
	for name, values := range after {
		if !slices.Equal(values, before[name]) {
			changed[name] = values
		}
	}
	for name := range before {
		if len(after[name]) == 0 {
			changed[name] = nil
		}
	}
	if len(changed) == 0 {
		return slices.Clone(head)
	}
	var out bytes.Buffer
	drop := false
	for line := range bytes.Lines(head) {
		name, _, named := bytes.Cut(line, []byte(":"))
		switch {
		case line[0] == ' ' || line[0] == '\t': // belongs to the line before
		case len(bytes.TrimRight(line, "\r\n")) == 0:
			changed.Write(&out)
			drop = false
		default:
			_, drop = changed[http.CanonicalHeaderKey(string(name))]
			drop = drop && named && out.Len() > 0
		}
		if !drop {
			out.Write(line)
		}
	}
	return out.Bytes()
}
