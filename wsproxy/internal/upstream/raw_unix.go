//go:build unix

package upstream

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A rawConn does to a socket what a net.Conn cannot: try, and not wait. Strangers' connections are left to their own
// methods, whatever they are made of.
type rawConn struct {
	conn syscall.RawConn // nil when there is no socket
	peek func(fd uintptr) bool
	read func(fd uintptr) bool

	buf []byte // for read
	n   int
	err error // of read or peek
}

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
		_, _, r.err = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	}
	r.read = func(fd uintptr) bool {
		r.n, r.err = syscall.Read(int(fd), r.buf)
		return true
	}
}

// quiet reports whether an idle connection is open, and silent as it has to be: a target that has spoken unasked would
// answer the next request with it.
func (c *conn) quiet(now time.Time) bool {
	if c.raw.conn == nil {
		return true
	}
	if !c.deadline.IsZero() && !c.deadline.After(now) { // else the socket is not even looked at
		c.setDeadline(time.Time{})
	}
	err := c.raw.conn.Read(c.raw.peek)
	return err == nil && (c.raw.err == syscall.EAGAIN || c.raw.err == syscall.EINTR)
}

// tryRead reads what is there. It reports waits if that is nothing yet.
func (c *conn) tryRead(p []byte) (n int, err error, waits bool) {
	r := &c.raw
	if r.conn == nil || len(p) == 0 {
		return 0, nil, true
	}
	r.buf = p
	err = r.conn.Read(r.read)
	r.buf = nil
	switch {
	case err != nil || r.err == syscall.EAGAIN || r.err == syscall.EINTR:
		return 0, nil, true // an error is for the connection's own Read to find
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: c.nc.LocalAddr().Network(), Source: c.nc.LocalAddr(), Addr: c.nc.RemoteAddr(),
			Err: os.NewSyscallError("read", r.err)}, false
	case r.n == 0:
		return 0, io.EOF, false
	}
	return r.n, nil, false
}
