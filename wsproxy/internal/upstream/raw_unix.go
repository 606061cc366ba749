//go:build unix

package upstream

import (
	"syscall"
	"time"
)

// openRaw makes quiet possible. Where the connection is no socket, it is not.
func (c *conn) openRaw() {
	sc, ok := c.nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	c.raw = raw
	c.peek = func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.something = err != syscall.EAGAIN && err != syscall.EINTR
		return true
	}
}

// quiet reports whether an idle connection is open, and silent as it has to be: a target that has spoken unasked would
// answer the next request with it.
func (c *conn) quiet() bool {
	if c.raw == nil {
		return true
	}
	if !c.deadline.IsZero() && !c.deadline.After(time.Now()) { // else raw does not even look
		c.setDeadline(time.Time{})
	}
	c.something = true
	err := c.raw.Read(c.peek)
	return err == nil && !c.something
}
