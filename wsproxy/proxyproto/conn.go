package proxyproto

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Conn is a connection of a [Listener]. It has the addresses that its header tells, and waits for that header where
// it is needed: in Read, Write, ReadFrom, WriteTo, CloseWrite, RemoteAddr, LocalAddr and Header.
//
// A header that is missing, malformed or late closes the connection: from then on the calls that can fail return that
// error, and the addresses are those of the socket. Deadlines hold while the header is waited for as well, those for
// writing too; one that passes before the header is complete ends the connection like the listener's own timeout,
// since an address that was told must not change later.
//
// Its methods may be called concurrently.
type Conn struct {
	raw      net.Conn
	listener *Listener

	once   sync.Once
	ready  atomic.Bool // header and err are settled
	header *Header     // nil without one
	err    error

	mu          sync.Mutex
	waiting     bool        // for the header
	late        time.Time   // when it is, by the listener's timeout; zero means never
	read, write time.Time   // deadlines of the user's
	rest        []byte      // read beyond the header
	more        atomic.Bool // there is a rest
}

// Header waits for the header. Without an error it is nil when the peer was not one that had to send a header. It is
// to be read only.
func (c *Conn) Header() (*Header, error) {
	if !c.ready.Load() {
		c.once.Do(c.await)
	}
	return c.header, c.err
}

// await settles what the connection is.
func (c *Conn) await() {
	defer c.ready.Store(true)
	peer := c.raw.RemoteAddr()
	if !c.listener.trusts(peer) {
		return
	}
	c.begin()
	n, err := c.receive()
	c.end()
	if err != nil {
		c.err = err
		c.raw.Close()
		c.listener.refuse(peer, err, n == 0 && errors.Is(err, io.EOF))
	}
}

// buffers hold headers while they are read, and what came with them.
var buffers = sync.Pool{New: func() any { return new([fixed + maxVersion2]byte) }}

// receive reads until the header is complete, and tells how many bytes there were.
func (c *Conn) receive() (n int, err error) {
	buffer := buffers.Get().(*[fixed + maxVersion2]byte)
	defer buffers.Put(buffer)
	for {
		more, readErr := c.raw.Read(buffer[n:])
		n += more
		header, length, err := Parse(buffer[:n])
		switch {
		case err == io.ErrUnexpectedEOF:
			if readErr != nil {
				return n, fmt.Errorf("%w after %d bytes: %w", ErrTruncated, n, readErr)
			}
		case err != nil:
			return n, err
		default:
			c.header = header
			if length < n {
				c.rest = slices.Clone(buffer[length:n])
				c.more.Store(true)
			}
			return n, nil
		}
	}
}

// begin puts the listener's timeout into force, beside the deadlines of the user's.
func (c *Conn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if timeout := c.listener.timeout(); timeout > 0 {
		c.late = time.Now().Add(timeout)
	}
	c.waiting = true
	c.raw.SetReadDeadline(c.earliest())
}

// end leaves the user's deadline alone in force.
func (c *Conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = false
	c.raw.SetReadDeadline(c.read)
}

// earliest is when the wait for the header ends; zero means never.
func (c *Conn) earliest() time.Time {
	first := c.late
	for _, t := range []time.Time{c.read, c.write} {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// Read implements net.Conn. What came with the header comes first.
func (c *Conn) Read(p []byte) (int, error) {
	if _, err := c.Header(); err != nil {
		return 0, err
	}
	if c.more.Load() && len(p) > 0 {
		if n := c.readRest(p); n > 0 {
			return n, nil
		}
	}
	return c.raw.Read(p)
}

// readRest is like a Read: one whose deadline has passed reads nothing.
func (c *Conn) readRest(p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.read.IsZero() && !time.Now().Before(c.read) {
		return 0
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
		c.more.Store(false)
	}
	return n
}

// Write implements net.Conn. A server that speaks first waits for the header too: nothing may happen on the connection
// before it is complete.
func (c *Conn) Write(p []byte) (int, error) {
	if _, err := c.Header(); err != nil {
		return 0, err
	}
	return c.raw.Write(p)
}

// ReadFrom implements io.ReaderFrom, so that bytes which the connection below need not copy are not copied here.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if _, err := c.Header(); err != nil {
		return 0, err
	}
	return io.Copy(c.raw, r)
}

// WriteTo implements io.WriterTo, so that bytes which the connection below need not copy are not copied here.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if _, err := c.Header(); err != nil {
		return 0, err
	}
	var written int64
	if c.more.Load() {
		c.mu.Lock()
		rest := c.rest
		c.rest = nil
		c.more.Store(false)
		c.mu.Unlock()
		n, err := w.Write(rest)
		if written = int64(n); err != nil {
			return written, err
		}
	}
	n, err := io.Copy(w, c.raw)
	return written + n, err
}

// Close implements net.Conn. It does not wait for the header, and ends the wait of others.
func (c *Conn) Close() error { return c.raw.Close() }

// CloseWrite passes the end of what is written on, if the connection below can.
func (c *Conn) CloseWrite() error {
	if _, err := c.Header(); err != nil {
		return err
	}
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("proxyproto: close %T for writing: %w", c.raw, errors.ErrUnsupported)
}

// RemoteAddr implements net.Conn: the header's source, or the socket's address when there is no header or it tells
// none.
func (c *Conn) RemoteAddr() net.Addr {
	if h, _ := c.Header(); h != nil && h.Source != nil {
		return h.Source
	}
	return c.raw.RemoteAddr()
}

// LocalAddr implements net.Conn: the header's destination, or the socket's address when there is no header or it
// tells none.
func (c *Conn) LocalAddr() net.Addr {
	if h, _ := c.Header(); h != nil && h.Destination != nil {
		return h.Destination
	}
	return c.raw.LocalAddr()
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	if c.waiting {
		t = c.earliest()
	}
	return c.raw.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	if c.waiting {
		c.raw.SetReadDeadline(c.earliest())
	}
	return c.raw.SetWriteDeadline(t)
}

// Unwrap returns the connection below, and reports whether it can take this one's place for reading and writing: that
// is when the header has been read and nothing that came with it is left. It does not wait. Once true it stays so.
// Deadlines that were set here are in force there. The addresses are those of the socket.
func (c *Conn) Unwrap() (net.Conn, bool) {
	if !c.ready.Load() || c.err != nil || c.more.Load() {
		return nil, false
	}
	if below, ok := c.raw.(*Conn); ok {
		return below.Unwrap()
	}
	return c.raw, true
}
