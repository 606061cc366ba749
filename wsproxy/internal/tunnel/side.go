package tunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
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
		d, ok := s.conn.(interface{ SetDeadline(time.Time) error })
		if _, tcp := s.conn.(*net.TCPConn); ok && !tcp {
			defer pullDeadlines(d.SetDeadline)()
		}
		s.conn.Close()
	})
}

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
