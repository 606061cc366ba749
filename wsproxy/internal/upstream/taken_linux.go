package upstream

import (
	"syscall"
	"unsafe"
)

// untaken reports whether the target's system has acknowledged no byte of the request, once the
// connection has reached its end of stream. The end of stream acknowledges everything that the
// target's system had when it sent it. So nobody has read any of the request. After a reset, which
// acknowledges nothing, the result would say nothing.
func (c *conn) untaken() bool {
	written := c.out.Load()
	if c.raw.conn == nil || written == 0 {
		return false
	}
	var waiting int32 // unacknowledged bytes
	var errno syscall.Errno
	err := c.raw.conn.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&waiting)))
	})
	return err == nil && errno == 0 && int64(waiting) == written
}
