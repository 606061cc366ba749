// Package tunnel moves bytes between two connections that have left HTTP behind: a client
// that upgraded (a WebSocket, as a rule) and its backend, or the two ends of a forwarded
// TCP connection.
//
// It does not speak HTTP, picks no backend, dials nothing and logs nothing. It changes no
// byte; where it is told that the bytes are WebSocket frames it counts their headers, so
// that it can say goodbye between two frames.
//
// A [Tunnel] has two directions, and one timer for all of its limits. On Linux a side that is a
// *net.TCPConn is parked while it has nothing to say: it holds no goroutine and no buffer, and one
// goroutine for all tunnels of an [Engine] waits for them with epoll and passes small messages on.
// What is more than that gets a goroutine and a buffer of its own until it is silent again, and
// large payloads, or streams that are no frames, go from socket to socket through a pipe, with
// splice(2), without being copied. On other Unix systems a *net.TCPConn is waited for by a goroutine without a
// buffer. Any other connection is used through its own Read, Write, CloseWrite and Close, is never
// unwrapped, and is waited for by a goroutine with a small buffer, or with a large one in the
// middle of a stream.
//
// # The end of a tunnel
//
// End of stream on one side is passed on to the other with CloseWrite once every byte before
// it has been written; the other direction goes on ([Options.Linger] limits for how long).
// A side that has no CloseWrite, or whose CloseWrite fails, cannot be told that way. It keeps
// its say until it ends by itself or has been silent for one second, and is then closed.
//
// A side whose connection breaks has not ended: what it sent is incomplete, and must not look whole to
// the other side, which is reset. Before that it gets every byte that was read, as long as it takes some
// every second. TLS ends without its close_notify then. A side that has no SetLinger is closed as ever.
//
// A side that fails, reading or writing, does not cut the other direction: what it had sent
// before is still delivered, since a peer that answers and closes makes writes fail while its
// answer is in our receive buffer. Bytes that can no longer be delivered are read and dropped,
// because closing a TCP socket with unread bytes resets the connection and would destroy the
// bytes on the way out. When nothing but such dropping is left, it may take five seconds.
//
// The end of a side is noticed while the other one takes nothing, too: every second that a write
// may have been blocked for, its source is looked at. An end of stream that waits behind bytes which
// nobody takes makes Options.Linger run. After a reset those bytes have five seconds without progress.
// Where that cannot be seen (connections that are no sockets and tell nothing, and systems other than
// Linux, macOS and the BSDs), a tunnel in which a write makes no progress for five minutes is cut. A
// side that can tell of its reset alone has a method PeerReset() bool.
//
// The limits, [Tunnel.Close] and the end of a shutdown's context cut both connections at once.
//
// # Security
//
// Both sides' bytes are untrusted. Memory for a tunnel is bounded whatever they send: at most
// one buffer a direction, or one of its engine's 64 pipes with 256 KiB at most, besides the buffers
// of the sockets, which are the system's to bound; and a peer that does not read stops the other
// side's sending. The count of frame headers takes any bytes; wrong ones only spoil where a goodbye
// may be put.
package tunnel

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// A Side is one end of a tunnel.
//
// Conn's Close must make a Read and a Write that are under way return, as net.Conn's does, and
// must return itself. If Conn has a method CloseWrite() error, end of stream is passed to
// it by that method. Deadlines that were set on Conn may stay in force: clear them first. A Conn
// that has SetDeadline is helped out with it when its Close takes long (crypto/tls waits up to
// five seconds for a peer that does not read, to tell it of the end).
//
// A Conn that is a *net.TCPConn may be closed as soon as the tunnel starts, which goes on with
// another descriptor of the same socket.
//
// Early holds bytes that were read from Conn already; they go to the other side before all
// else. The tunnel keeps the slice until they are written: do not modify it.
type Side struct {
	Conn  io.ReadWriteCloser
	Early []byte
}

// Options are the limits of a tunnel and who learns of its end. The zero value has the default
// limits and tells nobody. A negative limit means none, as in wsproxy.TunnelLimits and
// stream.Limits.
type Options struct {
	// Idle ends the tunnel when no byte has moved in either direction for so long: traffic one
	// way keeps it alive. A byte has moved when it was read, and again when the write that it
	// is part of is done. A socket that was full takes more only when a good part of its send
	// buffer is free, so a reader that takes less than some megabytes in that time may count as
	// idle. Zero or negative: never.
	Idle time.Duration

	// Lifetime ends the tunnel so long after its start, busy or not. Zero or negative:
	// never.
	Lifetime time.Duration

	// Context, if not nil, ends the tunnel when it is done.
	Context context.Context

	// Linger ends the tunnel when no byte was delivered for so long since the first side's end of
	// stream or failure; so long after it, where a side cannot be told of the other one's end.
	// Zero: 30 s. Negative: the other side may go on for as long as it likes.
	Linger time.Duration

	// WebSocket says that from the first byte on both directions are WebSocket frames
	// (RFC 6455 section 5). It makes [Tunnel.CloseFrame] polite and [End]'s codes known.
	WebSocket bool

	// Done, if not nil, is called once, when both connections are closed and nothing of the
	// tunnel uses them any more. That can be before Start has returned. It runs on a goroutine
	// of the tunnel, which holds no lock. It may start tunnels. It must not wait for the tunnel's
	// own end, which waits for it.
	Done func(End)
}

// A Reason says what ended a tunnel.
type Reason uint8

// The reasons. What happened first rules, except that a limit or a caller that cuts what was
// left after a clean end of stream replaces it.
const (
	// ClientClosed and BackendClosed: that side sent end of stream first.
	ClientClosed Reason = iota + 1
	BackendClosed

	// ClientReadFailed and so on: reading from or writing to that side failed; End.Err says how.
	ClientReadFailed
	ClientWriteFailed
	BackendReadFailed
	BackendWriteFailed

	// Idle, Lifetime and Linger: that limit of Options passed.
	Idle
	Lifetime
	Linger

	// Closed, Moved and Shutdown are for callers: an end by choice, a target that gives its
	// tunnels up, the end of the proxy.
	Closed
	Moved
	Shutdown

	// ContextDone: the context of Options ended.
	ContextDone
)

var reasonNames = [...]string{
	ClientClosed:       "client closed",
	BackendClosed:      "backend closed",
	ClientReadFailed:   "client read failed",
	ClientWriteFailed:  "client write failed",
	BackendReadFailed:  "backend read failed",
	BackendWriteFailed: "backend write failed",
	Idle:               "idle",
	Lifetime:           "lifetime",
	Linger:             "linger",
	Closed:             "closed",
	Moved:              "moved",
	Shutdown:           "shutdown",
	ContextDone:        "context done",
}

// String returns a short name for logs.
func (r Reason) String() string {
	if int(r) < len(reasonNames) && reasonNames[r] != "" {
		return reasonNames[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// An End reports how a tunnel ended.
type End struct {
	// By is what ended it.
	By Reason

	// FromClient and FromBackend count the bytes of that side that were written to the other
	// one, early ones included. Bytes that were dropped and close frames of the tunnel's own
	// are not counted.
	FromClient, FromBackend int64

	// ClientCode and BackendCode are the status codes of the close frames that the sides sent:
	// 0 for none, 1005 for one without a code. Without Options.WebSocket they are 0.
	ClientCode, BackendCode uint16

	// Duration is the time from Start to the closing of both connections.
	Duration time.Duration

	// Err is the first error of a read or a write, with the side's name, whether or not it is
	// what ended the tunnel; nil if there was none. What a cut brought about is no error.
	Err error
}

// A Tunnel is a pair of connections with bytes moving between them. Engine.Start makes it.
// Its methods may be called at any time, from any goroutine; after its end they do nothing.
type Tunnel struct {
	engine    *Engine
	done      func(End)
	webSocket bool
	unheed    func() bool // ends the attention to the context; nil without one
	start     time.Time
	client    side
	backend   side
	up, down  direction   // from the client, from the backend
	watched   atomic.Bool // see watch

	mu       sync.Mutex
	running  int  // goroutines that use the connections, and parked directions
	cutting  bool // both connections are being closed
	ended    bool // no goroutine uses them any more
	by       Reason
	err      error
	limits   limits
	farewell *Farewell     // nil: nobody asked the sides to end
	finished chan struct{} // closed after Done; nil until somebody waits
}

func newTunnel(e *Engine, client, backend Side, o Options) *Tunnel {
	t := &Tunnel{engine: e, done: o.Done, webSocket: o.WebSocket, start: time.Now()}
	t.client = side{conn: client.Conn, readFailed: ClientReadFailed, writeFailed: ClientWriteFailed}
	t.backend = side{conn: backend.Conn, readFailed: BackendReadFailed, writeFailed: BackendWriteFailed}
	t.up = direction{t: t, src: &t.client, dst: &t.backend, back: &t.down, early: client.Early, brokenAt: -1}
	t.down = direction{t: t, src: &t.backend, dst: &t.client, back: &t.up, early: backend.Early, brokenAt: -1}
	t.limits = newLimits(o)
	return t
}

// Close cuts both connections and returns at once; Done reports later, as always. By is what
// [End] names unless something else had ended the tunnel before; 0 is Closed.
func (t *Tunnel) Close(by Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut(cmp.Or(by, Closed))
}

// now is the time since the tunnel's start.
func (t *Tunnel) now() time.Duration { return time.Since(t.start) }

// cut closes both connections, each on a goroutine of its own so that neither a slow Close nor
// a stuck peer holds up the other one or the caller. t.mu is held.
func (t *Tunnel) cut(by Reason) {
	if t.cutting || t.ended {
		return
	}
	t.cutting = true
	if t.by == 0 || t.by == ClientClosed || t.by == BackendClosed {
		t.by = by
	}
	t.closeSide(&t.client)
	t.closeSide(&t.backend)
}

// closeSide starts closing s. What its reader sees then is its end of stream, not a failure.
// t.mu is held.
func (t *Tunnel) closeSide(s *side) {
	s.closed = true
	t.running++
	go t.runClose(s)
}

func (t *Tunnel) runClose(s *side) {
	s.close()
	t.exit()
}

// note keeps the first reason and the first error. t.mu is held.
func (t *Tunnel) note(by Reason, err error) {
	if t.by == 0 {
		t.by = by
	}
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("tunnel: %v: %w", by, err)
	}
}

// react starts whatever the state now asks for: a close frame, an end of stream, a limit's
// timer. Every change of state ends here. t.mu is held.
func (t *Tunnel) react() {
	if t.cutting {
		return
	}
	t.up.react()
	t.down.react()
	t.checkLimits()
}

// exit ends one goroutine's use of the connections; the last one ends the tunnel.
func (t *Tunnel) exit() {
	t.mu.Lock()
	t.running--
	last := t.running == 0
	t.ended = last
	t.mu.Unlock()
	if last {
		t.finish()
	}
}

// finish runs once, when nobody uses the connections any more.
func (t *Tunnel) finish() {
	t.client.close()
	t.backend.close()
	t.mu.Lock()
	if t.unheed != nil {
		t.unheed()
	}
	t.limits.stop()
	end := End{
		By:          t.by,
		FromClient:  t.up.written,
		FromBackend: t.down.written,
		ClientCode:  t.up.frames.closeCode(),
		BackendCode: t.down.frames.closeCode(),
		Duration:    t.now(),
		Err:         t.err,
	}
	t.mu.Unlock()
	if t.done != nil {
		t.done(end)
	}
	close(t.end())
}

// Ended returns a channel that is closed after Done has returned.
func (t *Tunnel) Ended() <-chan struct{} { return t.end() }

func (t *Tunnel) end() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.finished == nil {
		t.finished = make(chan struct{})
	}
	return t.finished
}
