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

// closePatience is how long Close may take before deadlines in the past are set on the connection.
const closePatience = time.Second

// side is one connection of a tunnel.
type side struct {
	conn   io.WriteCloser
	reader reader
	once   sync.Once

	readFailed, writeFailed Reason

	// Guarded by the tunnel's mu.
	closed     bool          // the tunnel closes it: failed reads are no error
	quiet      bool          // the side cannot be told of an end, and is closed once it has been silent
	quietSince time.Duration // when quiet was set
	reset      bool          // a write reported a reset by the peer; a read sees a clean end then
	dead       bool          // a read saw a clean end that may be a reset; the write in progress will tell
	abort      bool          // close resets it, because what the other side sent is incomplete
}

// closeWrite sends the end of stream.
func (s *side) closeWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// close closes the connection once. Every call returns only after the connection is closed.
//
// tls.Conn.Close writes a close_notify alert. It waits up to five seconds for a peer that does not
// read, or forever behind a key update that blocks in a write. It sets its own write deadline when
// it begins, so an earlier one would not help. A timer therefore sets deadlines in the past until
// Close has returned. A *net.TCPConn does not need that.
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

// abortOnClose makes close reset the connection, if that is possible and close has not begun. The
// tunnel's mu is held.
func (s *side) abortOnClose() {
	if _, ok := below(s.conn).(interface{ SetLinger(sec int) error }); ok && !s.closed {
		s.abort = true
	}
}

// discard makes Close reset the connection. A socket below TLS is reset right here: a close_notify
// before the reset would be a clean end (RFC 8446 section 6.1). Connections without SetLinger are
// closed normally.
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

// setLinger makes c's Close discard unsent bytes. It reports whether c can do that.
func setLinger(c any) bool {
	l, ok := c.(interface{ SetLinger(sec int) error })
	return ok && l.SetLinger(0) == nil
}

// A Body is the body of a 101 from http.Transport together with the connection below it. Bytes go
// through the body, which may have read some of them together with the header. The connection below
// tells whether the peer has ended, and can be reset.
type Body struct {
	io.ReadWriteCloser
	Below net.Conn
}

// CloseWrite sends the end of stream if the body can.
func (b Body) CloseWrite() error {
	if c, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetDeadline sets the deadline of the connection.
func (b Body) SetDeadline(t time.Time) error { return b.Below.SetDeadline(t) }

func (b Body) peer() peerState { return peerOf(b.Below) }

// below returns the connection below TLS or a Body. It returns any other connection itself. A
// proxyproto.Conn says when the connection below may be used instead.
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

// drain waits until the peer's system has acknowledged all that was written, as long as it
// acknowledges something every second. If the system cannot tell, drain returns at once.
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

// drainPause is the pause between two looks of drain.
const drainPause = 5 * time.Millisecond

// isReset reports whether a write failed with err because the peer reset the connection before it
// sent an end of stream. After an end of stream the error is EPIPE (on Linux).
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// pullDeadlines sets a deadline in the past every closePatience, until the caller calls stop.
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
