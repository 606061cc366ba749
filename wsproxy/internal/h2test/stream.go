package h2test

import (
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/net/http2"
)

// A Stream is the client's end of an extended CONNECT. It implements [net.Conn], with the addresses
// of its connection. The lock of the connection guards its fields.
type Stream struct {
	conn     *conn
	id       uint32
	window   int64 // bytes that may be sent
	stop     func() bool
	response *http.Response
	received []byte
	padding  int   // octets of padding whose window is not returned yet
	readErr  error // Read returns it after received
	writeErr error
	ended    bool // the client has ended its direction
	deadline *time.Timer
	late     bool
}

// end sets the errors of Read and Write, unless they have one already. Read returns its error after
// the received bytes.
func (s *Stream) end(read, write error) {
	if s.readErr == nil {
		s.readErr = read
	}
	if s.writeErr == nil {
		s.writeErr = write
	}
	if s.readErr != nil && s.ended {
		s.forget()
	}
}

// forget removes the stream from its connection, which may then open another one.
func (s *Stream) forget() {
	delete(s.conn.streams, s.id)
	if s.stop != nil {
		s.stop()
	}
}

// Await waits for the response's header.
func (s *Stream) Await() error {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for s.response == nil && s.readErr == nil {
		c.changed.Wait()
	}
	if s.response == nil {
		return s.readErr
	}
	return nil
}

// Response returns the response, whose body is the stream. It returns nil before the response's
// header has come.
func (s *Stream) Response() *http.Response {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.response
}

// Read implements [io.Reader]. After a reset by the server it returns an [http2.StreamError].
func (s *Stream) Read(p []byte) (int, error) {
	c := s.conn
	c.mu.Lock()
	for len(s.received) == 0 && s.readErr == nil && !s.late {
		c.changed.Wait()
	}
	if s.late {
		c.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, s.received)
	s.received = s.received[n:]
	var err error
	if n == 0 && len(p) > 0 {
		err = s.readErr
	}
	back := n + s.padding
	s.padding = 0
	if s.readErr != nil {
		back = 0 // nothing more comes
	}
	c.mu.Unlock()
	if back > 0 {
		c.write(func() error { return c.framer.WriteWindowUpdate(s.id, uint32(back)) })
	}
	return n, err
}

// Write implements [io.Writer]. It waits until the flow-control windows allow all of p.
func (s *Stream) Write(p []byte) (n int, err error) {
	for n < len(p) {
		size, err := s.reserve(len(p) - n)
		if err != nil {
			return n, err
		}
		err = s.conn.write(func() error { return s.conn.framer.WriteData(s.id, false, p[n:n+size]) })
		if err != nil {
			return n, err
		}
		n += size
	}
	return n, nil
}

// reserve takes up to size octets from the windows. It waits while a window is empty.
func (s *Stream) reserve(size int) (int, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch n := min(int64(size), int64(c.frame), s.window, c.window); {
		case s.late:
			return 0, os.ErrDeadlineExceeded
		case s.writeErr != nil:
			return 0, s.writeErr
		case s.ended:
			return 0, io.ErrClosedPipe
		case n > 0:
			s.window -= n
			c.window -= n
			return int(n), nil
		}
		c.changed.Wait()
	}
}

// CloseWrite ends the client's direction of the stream.
func (s *Stream) CloseWrite() error {
	c := s.conn
	c.mu.Lock()
	if s.ended || s.writeErr != nil {
		c.mu.Unlock()
		return nil
	}
	s.ended = true
	s.end(s.readErr, nil)
	c.changed.Broadcast()
	c.mu.Unlock()
	return c.write(func() error { return c.framer.WriteData(s.id, true, nil) })
}

// Close ends the client's direction of the stream, and drops what the server still sends, as the
// close of a socket does.
func (s *Stream) Close() error {
	s.stopDeadline()
	err := s.CloseWrite()
	go io.Copy(io.Discard, s)
	return err
}

// Reset ends the stream with RST_STREAM.
func (s *Stream) Reset() error {
	s.stopDeadline()
	c := s.conn
	c.mu.Lock()
	if c.streams[s.id] == nil { // the stream has ended
		c.mu.Unlock()
		return nil
	}
	s.received = nil
	s.end(net.ErrClosed, net.ErrClosed)
	s.forget()
	c.changed.Broadcast()
	c.mu.Unlock()
	return c.write(func() error { return c.framer.WriteRSTStream(s.id, http2.ErrCodeCancel) })
}

// NetConn returns a connection whose Close resets the stream, like the Close of a socket with
// SO_LINGER zero.
func (s *Stream) NetConn() net.Conn { return resetting{s} }

type resetting struct{ *Stream }

func (r resetting) Close() error { return r.Reset() }

// LocalAddr returns the address of the connection.
func (s *Stream) LocalAddr() net.Addr { return s.conn.under.LocalAddr() }

// RemoteAddr returns the address of the server.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.under.RemoteAddr() }

// SetDeadline makes reads and writes fail after that time. The zero time means never.
func (s *Stream) SetDeadline(at time.Time) error {
	s.stopDeadline()
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.late = false
	if !at.IsZero() {
		s.deadline = time.AfterFunc(time.Until(at), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			s.late = true
			c.changed.Broadcast()
		})
	}
	return nil
}

// SetReadDeadline is SetDeadline: the two directions have one deadline.
func (s *Stream) SetReadDeadline(at time.Time) error { return s.SetDeadline(at) }

// SetWriteDeadline is SetDeadline: the two directions have one deadline.
func (s *Stream) SetWriteDeadline(at time.Time) error { return s.SetDeadline(at) }

func (s *Stream) stopDeadline() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.deadline != nil {
		s.deadline.Stop()
	}
}
