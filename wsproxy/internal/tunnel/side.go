package tunnel

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// closePatience is how long a Close may take before its connection's deadlines are pulled.
const closePatience = time.Second

// side is one connection of a tunnel.
type side struct {
	conn   io.WriteCloser
	reader reader
	once   sync.Once

	readFailed, writeFailed Reason

	// Guarded by the tunnel's mu.
	closed     bool          // closed by us: reads fail because of that
	quiet      bool          // cannot be told of an end: closed when it has been silent
	quietSince time.Duration // when quiet was set
	reset      bool          // by the peer, as a write was told: a read sees a clean end then
	dead       bool          // a read saw a clean end that may be a reset; the write under way will tell
	abort      bool          // reset it instead of closing it: what the other side sent is not complete
}

// closeWrite passes end of stream on.
func (s *side) closeWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// close closes the connection, once; every caller returns when that is done.
//
// tls.Conn.Close writes a close_notify alert and waits up to five seconds for a peer that does
// not read, or for ever behind a key update that is stuck in a write. It sets a write deadline
// of its own when it begins, so one that is set before would not help: a timer sets a past one
// until Close is back. A *net.TCPConn needs no help.
func (s *side) close() {
	s.once.Do(func() {
		if s.abort {
			s.discard()
		}
		d, ok := s.conn.(interface{ SetDeadline(time.Time) error })
		if _, tcp := s.conn.(*net.TCPConn); ok && !tcp {
			defer pullDeadlines(d.SetDeadline)()
		}
		s.conn.Close()
	})
}

// abortOnClose makes close reset the connection, if it can be and close has not begun. The tunnel's
// mu is held.
func (s *side) abortOnClose() {
	if _, ok := below(s.conn).(interface{ SetLinger(sec int) error }); ok && !s.closed {
		s.abort = true
	}
}

// discard makes Close reset the connection. Below TLS it is reset here: a close_notify before that
// would be a clean end (RFC 8446 section 6.1). Connections that have no such option are closed as
// ever.
func (s *side) discard() {
	switch s.conn.(type) {
	case *tls.Conn, Body:
		if bare := below(s.conn); setLinger(bare) {
			bare.Close()
		}
	default:
		setLinger(s.conn)
	}
}

// setLinger has c's Close discard what was not sent, and reports whether c can do so.
func setLinger(c any) bool {
	l, ok := c.(interface{ SetLinger(sec int) error })
	return ok && l.SetLinger(0) == nil
}

// A Body is the body of a 101 from http.Transport, with the connection that it hides. Bytes go
// through the body, which may have read some together with the header. The connection below tells
// whether the peer has ended, and is the one to reset.
type Body struct {
	io.ReadWriteCloser
	Below net.Conn
}

// CloseWrite passes end of stream on if the body can.
func (b Body) CloseWrite() error {
	if c, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetDeadline sets the deadline of the connection.
func (b Body) SetDeadline(t time.Time) error { return b.Below.SetDeadline(t) }

func (b Body) peer() peerState { return peerOf(b.Below) }

// below returns the connection that carries TLS or a Body; any other one itself. A proxyproto.Conn
// says when the one below it can take its place.
func below(c io.Closer) io.Closer {
	if b, ok := c.(Body); ok {
		return below(b.Below)
	}
	secure, ok := c.(*tls.Conn)
	if !ok {
		return c
	}
	bare := secure.NetConn()
	if u, ok := bare.(interface{ Unwrap() (net.Conn, bool) }); ok {
		if inner, ok := u.Unwrap(); ok {
			return inner
		}
	}
	return bare
}

// drain waits until the peer's system has all that was written, as long as it takes something every
// second. Where the system cannot tell it does not wait.
func (s *side) drain() {
	conn := below(s.conn)
	before, since := unsent(conn), time.Now()
	for before > 0 && time.Since(since) < silence {
		time.Sleep(drainPause)
		if now := unsent(conn); now < before {
			before, since = now, time.Now()
		}
	}
}

// drainPause is how often drain looks.
const drainPause = 5 * time.Millisecond

// isReset reports whether err, of a write, says that the peer has reset the connection before it
// has sent its end of stream. After that it is EPIPE (Linux).
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// pullDeadlines sets a past deadline every closePatience until stop is called.
func pullDeadlines(set func(time.Time) error) (stop func()) {
	var stopped atomic.Bool
	var timer *time.Timer
	armed := make(chan struct{})
	timer = time.AfterFunc(closePatience, func() {
		<-armed
		if stopped.Load() {
			return
		}
		set(time.Unix(1, 0))
		timer.Reset(closePatience)
	})
	close(armed)
	return func() {
		stopped.Store(true)
		timer.Stop()
	}
}
