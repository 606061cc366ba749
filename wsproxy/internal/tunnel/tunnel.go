// Package tunnel moves bytes between two connections that no longer speak HTTP: a client that
// upgraded (usually to a WebSocket) and its backend, or the two ends of a forwarded TCP connection.
//
// It does not speak HTTP, picks no backend, dials nothing and logs nothing. It changes no byte. If
// the bytes are WebSocket frames, it follows their headers, so that it can send a close frame
// between two frames.
//
// A [Tunnel] has two directions and one timer for all of its limits. On Linux a *net.TCPConn is
// parked while nothing arrives: it holds no goroutine and no buffer. One goroutine for all tunnels
// of an [Engine] waits for the parked sockets with epoll and passes on small messages.
//
// A socket with more data gets a goroutine and a buffer of its own until it is silent again. Large
// payloads, and streams that are not frames, go from socket to socket through a pipe with
// splice(2), without being copied. On other Unix systems a goroutine without a buffer waits for a
// *net.TCPConn.
//
// Any other connection is used through its own Read, Write, CloseWrite and Close. It is never
// unwrapped. A goroutine waits for it with a small buffer, or with a large one in the middle of a
// stream.
//
// # The end of a tunnel
//
// When one side sends its end of stream, the tunnel writes every byte before it and then calls
// CloseWrite on the other side. The other direction goes on; [Options.Linger] limits for how long.
// A side without a CloseWrite, or whose CloseWrite fails, cannot be told. The tunnel still passes
// on what it sends. It closes that side when it ends or has been silent for one second.
//
// If a side's connection breaks, what it sent is incomplete, and must not look complete. So the
// tunnel resets the other side. Before that, the other side gets every byte that was read, as long
// as it takes some every second. Over TLS it gets no close_notify. A side without a SetLinger
// method is closed instead.
//
// A read or a write that fails on one side does not cut the other direction. Bytes that the side
// had sent before are still delivered: when a peer answers and closes, our writes fail while its
// answer is still in our receive buffer. Bytes that can no longer be delivered are read and
// dropped, because closing a TCP socket with unread bytes resets the connection and destroys the
// bytes on the way out. When nothing is left but bytes to drop, the tunnel lasts five seconds at
// most.
//
// The end of a side is noticed even while the other side takes nothing. While a write may be
// blocked, the tunnel looks every second at the side that sent the bytes. If its end of stream
// waits behind bytes that nobody takes, Options.Linger starts. After a reset those bytes get five
// seconds without progress.
//
// Some connections cannot be looked at: those that are not sockets and have no method PeerReset()
// bool, and all connections on systems other than Linux, macOS and the BSDs. There a tunnel is cut
// if a write makes no progress for five minutes.
//
// A limit that passes, [Tunnel.Close] and a context that ends cut both connections at once.
//
// # Security
//
// Neither side's bytes are trusted. The memory of a tunnel is bounded whatever they send: at most
// one buffer for each direction, or one of its engine's 64 pipes of at most 256 KiB. The buffers of
// the sockets are the system's to bound. A peer that does not read stops the other side from
// sending. Following the frame headers is safe with any bytes. Invalid frames only make the tunnel
// misjudge where a close frame may go.
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
// Conn's Close must return, and must make a Read and a Write in progress return, as net.Conn's
// does. If Conn has a method CloseWrite() error, the tunnel passes end of stream to it. Deadlines
// that are set on Conn stay in force, so clear them first. If Close takes long and Conn has
// SetDeadline, the tunnel sets deadlines in the past: crypto/tls may wait five seconds to send its
// close_notify to a peer that does not read.
//
// A *net.TCPConn may be closed as soon as the tunnel starts. The tunnel goes on with another
// descriptor of the same socket.
//
// Early holds bytes that were already read from Conn. They go to the other side first. The tunnel
// keeps the slice until they are written, so do not modify it.
type Side struct {
	Conn  io.ReadWriteCloser
	Early []byte
}

// Options are the limits of a tunnel and what to call at its end. The zero value has the default
// limits and calls nothing. A negative limit means none, as in wsproxy.TunnelLimits and
// stream.Limits.
type Options struct {
	// Idle is the time without a byte in either direction after which the tunnel is ended. Traffic
	// in one direction keeps it alive. A byte counts when it is read, and again when its write has
	// finished. A socket with a full send buffer accepts more only when a good part of the buffer
	// is free. So a reader that takes less than a few megabytes in this time may count as idle.
	// Zero or negative means never.
	Idle time.Duration

	// Lifetime is the time after its start at which the tunnel is ended, busy or not. Zero or
	// negative means never.
	Lifetime time.Duration

	// Context, if not nil, ends the tunnel when it is done.
	Context context.Context

	// Linger is the time without a delivered byte after which the tunnel is ended once one side has
	// ended or failed. If a side cannot be told of the other one's end, deliveries do not extend
	// it. Zero means 30 s. Negative means that the other side may go on as long as it likes.
	Linger time.Duration

	// WebSocket says that both directions are WebSocket frames from the first byte on (RFC 6455
	// section 5). [Tunnel.CloseFrame] and the codes of [End] need it.
	WebSocket bool

	// Done, if not nil, is called once, when both connections are closed and nothing of the
	// tunnel uses them any more. That can be before Start has returned. It runs on a goroutine
	// of the tunnel, which holds no lock. It may start tunnels. It must not wait for the tunnel's
	// own end, which waits for it.
	Done func(End)
}

// A Reason says what ended a tunnel.
type Reason uint8

// The reasons. The first one that occurs counts. There is one exception: a limit or a caller that
// cuts the tunnel replaces a clean end of stream.
const (
	// ClientClosed and BackendClosed: that side sent end of stream first.
	ClientClosed Reason = iota + 1
	BackendClosed

	// ClientReadFailed and so on: reading from that side or writing to it failed. End.Err has the
	// error.
	ClientReadFailed
	ClientWriteFailed
	BackendReadFailed
	BackendWriteFailed

	// Idle, Lifetime and Linger: this limit of Options has passed.
	Idle
	Lifetime
	Linger

	// Closed, Moved and Shutdown are for callers. Closed is an end by choice. Moved means that the
	// target gives up its tunnels. Shutdown is the end of the proxy.
	Closed
	Moved
	Shutdown

	// ContextDone: Options.Context is done.
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

	// FromClient and FromBackend count the bytes that came from that side and were written to the
	// other one, early bytes included. Dropped bytes and the tunnel's own close frames do not
	// count.
	FromClient, FromBackend int64

	// ClientCode and BackendCode are the status codes of the close frames that the sides sent: 0
	// without a close frame, 1005 for a close frame without a code. Without Options.WebSocket they
	// are 0.
	ClientCode, BackendCode uint16

	// Duration is the time from Start to the closing of both connections.
	Duration time.Duration

	// Err is the first error of a read or a write, with the name of the side. It need not be what
	// ended the tunnel. It is nil without an error. Errors that follow from a cut do not count.
	Err error
}

// A Tunnel is a pair of connections with bytes moving between them. [Engine.Start] returns one. Its
// methods may be called at any time, from any goroutine. After its end they do nothing.
type Tunnel struct {
	engine      *Engine
	done        func(End)
	webSocket   bool
	stopContext func() bool // stops waiting for Options.Context; nil without one
	start       time.Time
	client      side
	backend     side
	up, down    direction   // from the client, from the backend
	watched     atomic.Bool // a look at the sources of writes is due; see watch

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

// Close cuts both connections and returns at once. Done is called later, as always. [End] reports
// by as the reason, unless the tunnel already had one. Zero means Closed.
func (t *Tunnel) Close(by Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut(cmp.Or(by, Closed))
}

// now returns the time since the tunnel's start.
func (t *Tunnel) now() time.Duration { return time.Since(t.start) }

// cut closes both connections, each on its own goroutine, so that neither a slow Close nor a stuck
// peer delays the other side or the caller. t.mu is held.
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

// closeSide starts to close s. Its reader then takes the error for an end of stream, not for a
// failure. t.mu is held.
func (t *Tunnel) closeSide(s *side) {
	s.closed = true
	t.running++
	go t.runClose(s)
}

func (t *Tunnel) runClose(s *side) {
	s.close()
	t.exit()
}

// note stores the reason and the error unless there is one already. t.mu is held.
func (t *Tunnel) note(by Reason, err error) {
	if t.by == 0 {
		t.by = by
	}
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("tunnel: %v: %w", by, err)
	}
}

// react starts what the state now calls for: a close frame, an end of stream, a limit's timer.
// Whoever changes the state calls it last. t.mu is held.
func (t *Tunnel) react() {
	if t.cutting {
		return
	}
	t.up.react()
	t.down.react()
	t.checkLimits()
}

// exit is called when a goroutine stops using the connections. The last one ends the tunnel.
func (t *Tunnel) exit() {
	if t.leave() {
		t.finish()
	}
}

// leave is exit without finish. It reports whether the caller has to see to finish.
func (t *Tunnel) leave() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	t.ended = t.running == 0
	return t.ended
}

// finish ends the tunnel. It runs once, when no goroutine uses the connections any more.
func (t *Tunnel) finish() {
	t.client.close()
	t.backend.close()
	t.mu.Lock()
	if t.stopContext != nil {
		t.stopContext()
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
