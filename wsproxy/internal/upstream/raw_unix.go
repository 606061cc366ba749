//go:build unix

package upstream

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A rawConn makes system calls on a socket that do not wait, which a net.Conn cannot do.
// Connections of other types are used through their own methods only.
type rawConn struct {
	conn syscall.RawConn // nil if the connection is not a socket
	peek func(fd uintptr) bool
	read func(fd uintptr) bool
	ask  func(fd uintptr) bool

	out  []byte // the bytes that ask still has to write
	step askStep
	buf  []byte // for read and ask
	n    int
	err  error // of the last system call
}

// An askStep says how far ask has come.
type askStep uint8

const (
	askNothing askStep = iota
	askRefused         // unsolicited bytes, or an end, had arrived
	askWritten         // as much was written as the socket took at once
)

func (r *rawConn) open(nc net.Conn) {
	var conn syscall.RawConn
	var err error
	switch nc := nc.(type) {
	case *net.TCPConn:
		conn, err = nc.SyscallConn()
	case *net.UnixConn:
		conn, err = nc.SyscallConn()
	default:
		return
	}
	if err != nil {
		return
	}
	r.conn = conn
	r.peek = func(fd uintptr) bool {
		var b [1]byte
		_, r.err = receive(fd, b[:], syscall.MSG_PEEK)
		return true
	}
	r.read = func(fd uintptr) bool {
		r.n, r.err = receive(fd, r.buf, 0)
		return true
	}
	r.ask = func(fd uintptr) bool {
		if r.step == askWritten {
			r.read(fd)
			return r.err != syscall.EAGAIN
		}
		if r.peek(fd); r.err != syscall.EAGAIN {
			r.step = askRefused
			return true
		}
		n, _ := send(fd, r.out) // ignore the error: the next call returns it again
		r.out, r.step = r.out[max(n, 0):], askWritten
		return len(r.out) > 0
	}
}

// quiet reports whether an idle connection is open and silent. Unsolicited bytes from the target
// would be taken for the answer to the next request. Only a system call right before the request
// can tell. A notification that they have arrived may come later than the request is written, and
// the answer itself does not show which of its bytes came before.
func (c *conn) quiet(now time.Time) bool {
	if c.raw.conn == nil {
		return true
	}
	if !c.deadline.IsZero() && !c.deadline.After(now) { // otherwise the runtime does not call the function
		c.setDeadline(time.Time{})
	}
	err := c.raw.conn.Read(c.raw.peek)
	return err == nil && (c.raw.err == syscall.EAGAIN || c.raw.err == syscall.EINTR)
}

// tryRead reads without waiting. It reports waits if nothing has arrived yet.
func (c *conn) tryRead(p []byte) (n int, err error, waits bool) {
	r := &c.raw
	if r.conn == nil || len(p) == 0 {
		return 0, nil, true
	}
	r.buf = p
	err = r.conn.Read(r.read)
	r.buf = nil
	if err != nil || r.err == syscall.EAGAIN || r.err == syscall.EINTR {
		return 0, nil, true // the connection's own Read returns the error
	}
	n, err = c.wasRead()
	return n, err, false
}

// wasRead returns what Read of a net.Conn would return for the result of the system call.
func (c *conn) wasRead() (int, error) {
	switch r := &c.raw; {
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: c.nc.LocalAddr().Network(), Source: c.nc.LocalAddr(), Addr: c.nc.RemoteAddr(),
			Err: os.NewSyscallError("read", r.err)}
	case r.n == 0:
		return 0, io.EOF
	default:
		return r.n, nil
	}
}

// canAsk reports whether ask can be used.
func (c *conn) canAsk() bool { return c.raw.conn != nil }

// ask writes a request on a connection that was idle and reads the beginning of the answer. It
// waits for the socket once, beginning before the request is written. So it does not look for the
// answer too early, and it notices unsolicited bytes that arrive before the request.
func (c *conn) ask(request, p []byte) (int, error) {
	r := &c.raw
	r.out, r.step, r.buf = request, askNothing, p
	err := r.conn.Read(r.ask)
	rest := r.out
	r.out, r.buf = nil, nil
	if r.step == askRefused {
		return 0, errNotSilent
	}
	c.out.Store(int64(len(request) - len(rest)))
	if len(rest) > 0 {
		n, err := c.write(rest)
		if err != nil {
			return 0, &unsentError{err, len(request) - len(rest) + n}
		}
		c.expectHeader()
	} else if err == nil && r.err != syscall.EINTR {
		return c.wasRead()
	}
	return c.nc.Read(p)
}
