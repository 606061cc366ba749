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

// A Conn is a connection of a [Listener]. It has the addresses in its header. Read, Write,
// ReadFrom, WriteTo, CloseWrite, RemoteAddr, LocalAddr and Header wait for the header.
//
// A missing, malformed or late header closes the connection. After that, calls that can fail return
// the error, and the addresses are those of the socket. Deadlines, including those for writing,
// also apply to the wait for the header. A deadline that passes before the header is complete ends
// the connection, as the listener's timeout does. Otherwise an address that was already returned
// might change later.
//
// Its methods may be called concurrently.
type Conn struct {
	raw      net.Conn
	listener *Listener

	once   sync.Once
	ready  atomic.Bool // header and err are final
	header *Header     // nil without one
	err    error

	mu          sync.Mutex
	waiting     bool        // a call waits for the header
	late        time.Time   // when the listener's timeout passes; zero means never
	read, write time.Time   // the user's deadlines
	rest        []byte      // bytes that were read beyond the header
	more        atomic.Bool // rest is not empty
}

// Header waits for the header and returns it. It returns nil without an error if the peer did not
// have to send a header. Do not modify the header.
func (c *Conn) Header() (*Header, error) {
	if !c.ready.Load() {
		c.once.Do(c.await)
	}
	return c.header, c.err
}

// await waits until header and err are final.
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

// buffers has memory for reading headers and the bytes after them.
var buffers = sync.Pool{New: func() any { return new([fixed + maxVersion2]byte) }}

// receive reads until the header is complete. It returns how many bytes it has read.
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

// begin sets the listener's timeout in addition to the user's deadlines.
func (c *Conn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if timeout := c.listener.timeout(); timeout > 0 {
		c.late = time.Now().Add(timeout)
	}
	c.waiting = true
	c.raw.SetReadDeadline(c.earliest())
}

// end sets the user's deadlines only.
func (c *Conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = false
	c.raw.SetReadDeadline(c.read)
}

// earliest returns when the wait for the header ends; zero means never.
func (c *Conn) earliest() time.Time {
	first := c.late
	for _, t := range []time.Time{c.read, c.write} {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// Read implements net.Conn. It first returns the bytes that came with the header.
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

// readRest reads from rest. Like a Read, it reads nothing after its deadline.
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

// Write implements net.Conn. It waits for the header even if the server speaks first: the
// connection is not used before its header is complete.
func (c *Conn) Write(p []byte) (int, error) {
	if _, err := c.Header(); err != nil {
		return 0, err
	}
	return c.raw.Write(p)
}

// ReadFrom implements io.ReaderFrom. It does not copy bytes that the connection below can move
// without copying.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if _, err := c.Header(); err != nil {
		return 0, err
	}
	return io.Copy(c.raw, r)
}

// WriteTo implements io.WriterTo. It does not copy bytes that the connection below can move without
// copying.
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

// Close implements net.Conn. It does not wait for the header. Calls that wait for the header
// return.
func (c *Conn) Close() error { return c.raw.Close() }

// CloseWrite sends the end of stream if the connection below can.
func (c *Conn) CloseWrite() error {
	if _, err := c.Header(); err != nil {
		return err
	}
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("proxyproto: close %T for writing: %w", c.raw, errors.ErrUnsupported)
}

// RemoteAddr implements net.Conn. It returns the header's source, or the socket's address if there
// is no header or the header has no source.
func (c *Conn) RemoteAddr() net.Addr {
	if h, _ := c.Header(); h != nil && h.Source != nil {
		return h.Source
	}
	return c.raw.RemoteAddr()
}

// LocalAddr implements net.Conn. It returns the header's destination, or the socket's address if
// there is no header or the header has no destination.
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

// Unwrap returns the connection below. It reports whether that connection may be used for reading
// and writing instead: the header has been read, and so have all bytes that came with it. It does
// not wait. Once it has reported true it always does. Deadlines of the Conn are in force there.
// The addresses of the connection below are those of the socket.
func (c *Conn) Unwrap() (net.Conn, bool) {
	if !c.ready.Load() || c.err != nil || c.more.Load() {
		return nil, false
	}
	if below, ok := c.raw.(*Conn); ok {
		return below.Unwrap()
	}
	return c.raw, true
}
